//! Configurations, events and log lines, between clients and a supervisor that speaks the real protocol.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    sync::mpsc,
    time::{Duration, Instant},
};

use mcr_proto::{
    message::{
        Event, EventKind, EventWhat, Facility, Fault, FaultKind, FromControl, LoadReport, LoadStep, LogLevel,
        LogLevels, Reply, Request, Settings, ToControl,
    },
    plan::WorkerIndex,
    rule::RuleSpec,
};
use serde_json::{Value, json};

use super::{
    bare::Bare,
    stage::{PATIENCE, Stage, Talk, holding, receive, rule, send},
};
use crate::limits::Limits;

const RULE: &str = "[[rule]]\nname = \"a\"\ninput = \"239.1.1.1:5000@eth0\"\noutputs = [\"10.0.0.1:1\"]\n";

fn report() -> LoadReport {
    LoadReport { added: 1, changed: 2, removed: 3, unchanged: 4, notes: vec!["workers: later".into()] }
}

/// A supervisor that takes loads and tells which steps came.
fn loading(fail_at: Option<usize>) -> (Stage, mpsc::Receiver<LoadStep>) {
    let (asked, steps) = mpsc::channel();
    let mut count = 0;
    let stage = Stage::new(Limits::default(), move |request| {
        let Request::Load { step, .. } = request else { panic!("another request") };
        let commits = step == LoadStep::Commit;
        asked.send(step).expect("the test listens");
        count += 1;
        if fail_at == Some(count) {
            return Some(Err(Fault::new(FaultKind::Limit, "no room")));
        }
        Some(Ok(if commits { Reply::Loaded(report()) } else { Reply::Done }))
    });
    (stage, steps)
}

fn rules_of(steps: &[LoadStep]) -> Vec<RuleSpec> {
    let parts = steps.iter().filter_map(|step| match step {
        LoadStep::Part { rules } => Some(rules.clone()),
        _ => None,
    });
    parts.flatten().collect()
}

#[test]
fn a_configuration_is_handed_on_in_parts_that_can_be_sent_and_committed_once() {
    let (stage, steps) = loading(None);
    let rule = |n| {
        RULE.replace("\"a\"", &format!("\"rule-number-{n}\"")).replace("1:1\"", &format!("1:{}\"", n + 1))
    };
    let many: String = (0..5000).map(rule).collect();
    let loaded = stage
        .client()
        .call("config.load", json!({"text": "workers = 3\n".to_owned() + &many, "replace": true}));
    assert_eq!(loaded["result"]["added"], 1, "{loaded}");
    assert_eq!(loaded["result"]["warnings"], json!(["workers: later"]));
    let steps: Vec<_> = steps.try_iter().collect();
    let settings = Settings { workers: Some(3), ..Settings::default() };
    assert_eq!(steps[0], LoadStep::Begin { replace: true, settings });
    assert_eq!(steps.last(), Some(&LoadStep::Commit));
    assert!(steps.len() > 4, "5,000 rules are more than one message takes");
    let rules = rules_of(&steps);
    assert_eq!(rules.len(), 5000);
    assert!(
        rules
            .iter()
            .enumerate()
            .all(|(n, rule)| rule.name.as_ref().unwrap().as_str() == format!("rule-number-{n}"))
    );
    stage.stop();
}

#[test]
fn a_text_that_came_in_parts_is_loaded_whole_and_one_that_is_too_long_is_forgotten() {
    let (asked, steps) = mpsc::channel();
    let limits = Limits { config_bytes_max: RULE.len(), ..Limits::default() };
    let stage = Stage::new(limits, move |request| {
        let Request::Load { step, .. } = request else { panic!("another request") };
        let reply = if step == LoadStep::Commit { Reply::Loaded(report()) } else { Reply::Done };
        asked.send(step).expect("the test listens");
        Some(Ok(reply))
    });
    let mut client = stage.client();
    let (first, rest) = RULE.split_at(20);
    let (second, third) = rest.split_at(30);
    assert_eq!(client.call("config.part", json!({"text": first}))["result"], json!({"bytes": 20}));
    assert_eq!(client.call("config.part", json!({"text": second}))["result"], json!({"bytes": 50}));
    assert_eq!(client.call("config.load", json!({"text": third}))["result"]["added"], 1);
    assert_eq!(rules_of(&steps.try_iter().collect::<Vec<_>>()).len(), 1);

    // What was loaded is not loaded again, and another connection has its own.
    assert_eq!(client.call("config.part", json!({"text": "#"}))["result"], json!({"bytes": 1}));
    assert_eq!(stage.client().call("config.load", json!({"text": RULE}))["result"]["added"], 1);
    let error = client.call("config.part", json!({"text": RULE}))["error"].take();
    assert_eq!((&error["data"]["kind"], &error["data"]["field"]), (&json!("limit"), &json!("text")));
    assert_eq!(client.call("config.part", json!({"text": RULE}))["result"], json!({"bytes": RULE.len()}));
    stage.stop();
}

#[test]
fn a_configuration_with_an_error_never_reaches_the_supervisor() {
    let stage = Stage::new(Limits::default(), |request| panic!("asked {request:?}"));
    let mut client = stage.client();
    let text = RULE.to_owned()
        + "\n[[rule]]\nname = \"b\"\ninput = \"239.1.1.1@eth0\"\noutputs = [\"10.0.0.1:1\"]\n";
    for method in ["config.load", "config.check"] {
        let error = client.call(method, json!({"text": text, "file": "my\nfile.toml"}))["error"].take();
        assert_eq!(
            (&error["data"]["kind"], &error["data"]["field"]),
            (&json!("invalid"), &json!("rule[1].input"))
        );
        let message = error["message"].as_str().unwrap();
        assert!(message.starts_with("my\\nfile.toml:8: key `rule[1].input`:"), "{message}");
    }
    let checked = client.call("config.check", json!({"text": RULE}));
    assert_eq!(checked["result"], json!({"rules": 1, "outputs": 1, "warnings": []}));
    stage.stop();
}

#[test]
fn a_load_that_is_refused_half_way_is_taken_back() {
    let (stage, steps) = loading(Some(2));
    let error = stage.client().call("config.load", json!({"text": RULE}))["error"].take();
    assert_eq!((&error["data"]["kind"], &error["message"]), (&json!("limit"), &json!("no room")));
    let steps: Vec<_> = steps.try_iter().collect();
    assert!(
        matches!(steps[..], [LoadStep::Begin { .. }, LoadStep::Part { .. }, LoadStep::Abort]),
        "{steps:?}"
    );
    stage.stop();
}

#[test]
fn the_running_configuration_is_shown_as_rules_and_as_a_file() {
    let mut answer = holding(vec![rule(1), rule(2), rule(3)], Vec::new(), 2);
    let stage = Stage::new(Limits::default(), move |request| match request {
        Request::SettingsGet => {
            let settings = Settings { workers: Some(2), ..Settings::default() };
            Some(Ok(Reply::Settings { settings, path: Some("/etc/mcr/mcr.toml".into()) }))
        }
        Request::ConfigSave => Some(Ok(Reply::Saved { path: "/etc/mcr/mcr.toml".into(), rules: 3 })),
        other => answer(other),
    });
    let mut client = stage.client();
    let shown = client.call("config.get", json!({}))["result"].take();
    assert_eq!((&shown["path"], &shown["config"]["workers"]), (&json!("/etc/mcr/mcr.toml"), &json!(2)));
    assert_eq!(shown["config"]["rule"].as_array().map(Vec::len), Some(3));
    let read = mcr_proto::config::parse(shown["toml"].as_str().unwrap(), "shown").unwrap();
    assert_eq!(read.rules.iter().map(|rule| rule.outputs.len()).collect::<Vec<_>>(), [2, 2, 2]);
    let saved = client.call("config.save", json!({}));
    assert_eq!(saved["result"], json!({"path": "/etc/mcr/mcr.toml", "rules": 3}));
    stage.stop();
}

#[test]
fn levels_of_the_log_are_asked_for_and_set() {
    let mut levels = LogLevels::all(LogLevel::Info);
    let stage = Stage::new(Limits::default(), move |request| {
        if let Request::LogSet { level, facility } = request {
            levels.set(facility, level);
        }
        Some(Ok(Reply::Log(levels)))
    });
    let mut client = stage.client();
    let set = client.call("log.set", json!({"level": "debug", "facility": "rules"}))["result"].take();
    assert_eq!((&set["levels"]["rules"], &set["levels"]["worker"]), (&json!("debug"), &json!("info")));
    assert_eq!(client.call("log.get", json!({}))["result"], set);
    assert_eq!(set["levels"].as_object().map(serde_json::Map::len), Some(Facility::ALL.len()));
    stage.stop();
}

fn event(seq: u64, kind: EventKind) -> Event {
    let worker = (kind == EventKind::Worker).then_some(WorkerIndex(0));
    Event { seq, time_ns: seq, worker, ..Event::new(kind, EventWhat::Ready) }
}

fn publish(stage: &Stage, events: Vec<Event>) {
    send(&stage.channel, &ToControl::Events { events });
}

/// The numbers of the next events.
fn seqs(client: &mut Talk, count: usize) -> Vec<u64> {
    let next = |_| {
        let line = client.response().expect("an event");
        assert_eq!(line["method"], "event", "{line}");
        line["params"]["seq"].as_u64().expect("a number")
    };
    (0..count).map(next).collect()
}

#[test]
fn subscribers_get_the_events_they_asked_for_and_can_go_on_asking() {
    let stage = Stage::new(Limits::default(), |_| Some(Ok(Reply::Done)));
    let (mut all, mut workers) = (stage.client(), stage.client());
    let subscribed = all.call("event.subscribe", json!({}));
    assert_eq!(subscribed["result"], json!({"kinds": ["rule", "interface", "worker"]}));
    workers.call("event.subscribe", json!({"kinds": ["worker"]}));
    publish(
        &stage,
        vec![event(1, EventKind::Rule), event(2, EventKind::Worker), event(3, EventKind::Interface)],
    );
    publish(&stage, vec![Event::missed(9, 9, 6), event(10, EventKind::Worker)]);
    assert_eq!(seqs(&mut all, 5), [1, 2, 3, 9, 10]);
    assert_eq!(seqs(&mut workers, 3), [2, 9, 10], "what was missed concerns everybody");
    assert_eq!(all.call("ping", json!({}))["result"]["pong"], true);
    publish(&stage, vec![event(11, EventKind::Rule)]);
    assert_eq!(seqs(&mut all, 1), [11]);
    stage.stop();
}

#[test]
fn a_subscriber_that_does_not_read_misses_events_is_told_how_many_and_delays_nobody() {
    let stage = Stage::new(Limits { events_max: 8, ..Limits::default() }, |_| Some(Ok(Reply::Done)));
    let (mut slow, mut quick) = (stage.client(), stage.client());
    slow.call("event.subscribe", json!({}));
    quick.call("event.subscribe", json!({}));
    const COUNT: u64 = 4000;
    // More than the kernel buffers for a socket.
    let reason = Some("x".repeat(500));
    for seq in 1..=COUNT {
        publish(&stage, vec![Event { reason: reason.clone(), ..event(seq, EventKind::Rule) }]);
        assert_eq!(seqs(&mut quick, 1), [seq]);
    }
    let (mut got, mut missed) = (0, 0);
    while got + missed < COUNT {
        let line = slow.response().expect("an event");
        match line["params"]["count"].as_u64() {
            Some(count) => missed += count,
            None => got += 1,
        }
    }
    assert_eq!(got + missed, COUNT);
    assert!(missed > 0, "all of it was buffered");
    stage.stop();
}

#[test]
fn a_file_that_is_loaded_again_replaces_what_runs() {
    let bare = Bare::new();
    bare.reload(RULE);
    let mut steps = Vec::new();
    while steps.last() != Some(&LoadStep::Commit) {
        let Some(FromControl::Request { seq, request: Request::Load { step, .. } }) = receive(&bare.channel)
        else {
            panic!("something else came");
        };
        let reply = if step == LoadStep::Commit { Reply::Loaded(report()) } else { Reply::Done };
        send(&bare.channel, &ToControl::Reply { seq, reply: Ok(reply) });
        steps.push(step);
    }
    assert!(matches!(steps[0], LoadStep::Begin { replace: true, .. }));
    assert_eq!(rules_of(&steps).len(), 1);
    assert_eq!(bare.log(), (LogLevel::Warn, "mcr.toml: workers: later".into()));
    assert_eq!(bare.log(), (LogLevel::Info, "mcr.toml: loaded again".into()));
    bare.stop();
}

#[test]
fn a_file_with_an_error_is_said_in_the_log_with_its_place_and_changes_nothing() {
    let bare = Bare::new();
    for (text, says) in
        [(RULE.replace("input", "imput"), "mcr.toml:3: key `rule[0].imput`"), ("\u{0}".into(), "mcr.toml:1")]
    {
        bare.reload(&text);
        let (level, text) = bare.log();
        assert_eq!(level, LogLevel::Error);
        assert!(text.starts_with(says) && text.ends_with("the running configuration stays"), "{text}");
    }
    send(&bare.channel, &ToControl::Ping);
    let mut answer = receive(&bare.channel);
    while answer == Some(FromControl::Reloaded) {
        answer = receive(&bare.channel);
    }
    assert_eq!(answer, Some(FromControl::Pong), "nothing else was asked");
    bare.stop();
}

#[test]
fn lines_of_the_log_reach_the_supervisor_at_the_level_it_asks_for() {
    let bare = Bare::new();
    let path = bare.directory.path().join("s");
    // At info a client is nothing to speak of. Its answer says that it has been taken, before the level changes.
    let mut first = UnixStream::connect(&path).unwrap();
    first.set_read_timeout(Some(PATIENCE)).unwrap();
    first.write_all(b"not a request\n").unwrap();
    assert_eq!(first.read(&mut [0]).unwrap(), 1);
    send(&bare.channel, &ToControl::LogLevel(LogLevel::Debug));
    send(&bare.channel, &ToControl::Ping);
    assert_eq!(receive(&bare.channel), Some(FromControl::Pong), "the level has been set");
    drop(UnixStream::connect(&path).unwrap());
    let (level, text) = bare.log();
    assert_eq!(level, LogLevel::Debug);
    assert!(text.starts_with("client connected uid="), "{text}");
    // Not before: at debug its end is a line, too.
    drop(first);
    bare.stop();
}

#[test]
fn a_subscription_is_gone_with_its_client() {
    let stage = Stage::new(Limits { clients_max: 1, ..Limits::default() }, |_| Some(Ok(Reply::Done)));
    let mut client = stage.client();
    client.call("event.subscribe", json!({}));
    drop(client);
    let until = Instant::now() + PATIENCE;
    loop {
        publish(&stage, vec![event(1, EventKind::Rule)]);
        let mut next = stage.connect();
        let _ = next
            .try_send("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"hello\",\"params\":{\"protocol\":1}}\n");
        let answer: Option<Value> = next.response();
        if answer.is_some_and(|answer| answer["result"].is_object()) {
            break;
        }
        assert!(Instant::now() < until, "the place is not free");
        std::thread::park_timeout(Duration::from_millis(1));
    }
    stage.stop();
}
