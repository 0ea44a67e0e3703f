//! Configuration, switches, moves, events and the log of a daemon at work.
#![allow(clippy::unwrap_used)] // A test has no better answer to an error than to fail.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::Duration,
};

use mcr_client::{Client, ClientError};
use mcr_e2e::{
    Bed, Cell, Daemon, DaemonOptions, PATIENCE,
    daemon::signal,
    eventually, in_every_cell, in_packet_cells, law, source, traffic_lock,
    under_traffic::{LISTEN, TO},
};
use mcr_gen::{RecvReport, SendReport};
use mcr_lab::{Line, require};
use mcr_proto::{
    config::{parse, to_toml},
    message::{EventKind, EventWhat, Facility, FaultKind, LogLevel, RuleState},
    rpc::{ConfigLoad, Event, LogSet, Subscribe, rule_ref},
};
use nix::sys::signal::Signal;

/// A rule as a configuration file says it.
fn rule(cell: Cell, name: &str, input: &str, outputs: &[&str]) -> String {
    format!(
        "[[rule]]\nname = \"{name}\"\ninput = \"{input}\"\noutputs = {outputs:?}\ndatapath = \"{}\"\n\n",
        cell.datapath
    )
}

fn load(client: &mut Client, text: &str, replace: bool) -> (u32, u32, u32, u32) {
    let load = ConfigLoad { text: text.into(), file: Some("test.toml".into()), replace };
    let loaded = client.config_load(&load).unwrap_or_else(|error| panic!("{error}\n{text}"));
    (loaded.added, loaded.changed, loaded.removed, loaded.unchanged)
}

/// Sends 20,000 datagrams in two seconds and has `meanwhile` called until they are sent.
fn under_traffic(bed: &mut Bed, meanwhile: impl FnMut(&mut Bed)) -> (SendReport, RecvReport) {
    bed.under_traffic(20_000, 10_000, meanwhile)
}

fn assert_whole(sent: &SendReport, received: &RecvReport) {
    assert_eq!((sent.sent, received.received, received.lost), (20_000, 20_000, 0));
    assert_eq!((received.duplicates, received.reordered, received.corrupt, received.foreign), (0, 0, 0, 0));
}

in_every_cell! {
    fn an_untouched_rule_loses_nothing_while_configurations_are_loaded(cell) {
        let mut bed = Bed::with_workers(cell, 1, 2);
        let kept = rule(cell, "kept", "239.1.1.1:5000@in0", &["239.2.2.2:6000@out0"]);
        // Of its own group, of its own output, of its own input: all that an implementation could share.
        let others = rule(cell, "group", "239.1.1.1:5999@in0", &["239.2.2.2:6999@out0"])
            + &rule(cell, "other", "239.1.1.2:5000@in0", &["10.2.0.2:7000"])
            + &rule(cell, "ssm", "10.1.0.77>239.1.1.1:5000@in0", &["239.2.2.2:6998@out0,ttl=9"]);
        assert_eq!(load(&mut bed.client, &kept, true), (1, 0, 0, 0));
        let mut rounds = 0;
        let (sent, received) = under_traffic(&mut bed, |bed| {
            assert_eq!(load(&mut bed.client, &others, false), (3, 0, 0, 1));
            let changed = kept.clone() + &others.replace(":7000", ":7001");
            assert_eq!(load(&mut bed.client, &changed, true), (0, 1, 0, 3));
            assert_eq!(load(&mut bed.client, &kept, true), (0, 0, 3, 1));
            rounds += 1;
        });
        assert!(rounds >= 5, "{rounds} rounds of loads while it was sent");
        assert_whole(&sent, &received);
        let stats = bed.finish();
        assert_eq!(law::rule(&stats, "kept").datagrams, 20_000);
        let input = law::input(&stats, "in0");
        assert_eq!((input.matched, input.drops.len()), (20_000, 0), "{input:?}");
    }

    fn outputs_come_and_go_by_loads_and_those_that_stay_lose_nothing(cell) {
        let mut bed = Bed::with_workers(cell, 1, 2);
        let one = rule(cell, "rule", "239.1.1.1:5000@in0", &["239.2.2.2:6000@out0"]);
        let two = rule(cell, "rule", "239.1.1.1:5000@in0", &["10.2.0.2:7000", "239.2.2.2:6000@out0"]);
        load(&mut bed.client, &one, true);
        let id = bed.client.rules(None).unwrap()[0].id;
        let mut rounds = 0;
        let (sent, received) = under_traffic(&mut bed, |bed| {
            assert_eq!(load(&mut bed.client, &two, true), (0, 1, 0, 0));
            assert_eq!(load(&mut bed.client, &one, true), (0, 1, 0, 0));
            rounds += 1;
        });
        assert!(rounds >= 5, "{rounds} rounds of loads while it was sent");
        assert_whole(&sent, &received);
        assert_eq!(bed.client.rules(None).unwrap()[0].id, id, "it is the same rule");
        let stats = bed.finish();
        let input = law::input(&stats, "in0");
        assert_eq!((input.matched, input.drops.len()), (20_000, 0), "{input:?}");
    }

    fn a_rule_that_is_off_relays_nothing_and_goes_on_counting_when_it_is_on_again(cell) {
        let mut bed = Bed::new(cell, 1);
        bed.add("rule", "239.1.1.1:5000@in0", &["239.2.2.2:6000@out0"]);
        let (sink, source) = (bed.sink(0, LISTEN), bed.source(TO));
        let payloads = source::assorted(1, false);
        let name = rule_ref("rule").unwrap();
        source.send(&payloads);
        sink.expect(&payloads);
        let off = bed.client.rule_enable(&name, false).unwrap();
        assert_eq!((off.state, off.enabled), (RuleState::Disabled, false));
        source.send(&payloads);
        bed.at_rest();
        sink.expect_nothing_more();
        let workers = bed.client.workers().unwrap();
        assert!(workers.iter().all(|worker| worker.sockets == 0), "{workers:?}");
        let on = bed.client.rule_enable(&name, true).unwrap();
        assert_eq!((on.state, on.enabled, on.id), (RuleState::Active, true, off.id));
        source.send(&payloads);
        sink.expect(&payloads);
        let stats = bed.finish();
        assert_eq!(law::rule(&stats, "rule").datagrams, 400);
    }
}

in_packet_cells! {
    fn a_rule_moves_between_workers_under_traffic_and_what_was_taken_is_counted(cell) {
        let mut bed = Bed::with_workers(cell, 1, 2);
        bed.add("rule", "239.1.1.1:5000@in0", &["239.2.2.2:6000@out0"]);
        let name = rule_ref("rule").unwrap();
        let mut moves = 0;
        let (sent, received) = under_traffic(&mut bed, |bed| {
            let to = (moves % 2) as u16;
            assert_eq!(bed.client.rule_move(&name, to).unwrap().worker, to);
            moves += 1;
        });
        assert!(moves >= 20, "{moves} moves while it was sent");
        // Each worker sends from a port of its own, so the receiver takes each move for a new flow; sums tell what is lost.
        // What waits in the old worker's socket is relayed by it.
        assert!(received.received <= sent.sent, "{} of {} came: some twice", received.received, sent.sent);
        let lost = sent.sent - received.received;
        // What comes while the one filter is closed and the other not yet open: some microseconds a move.
        assert!(lost <= sent.sent / 50, "{lost} of {} lost in {moves} moves", sent.sent);
        assert_eq!((sent.sent, received.duplicates, received.corrupt), (20_000, 0, 0));
        let stats = bed.finish();
        let rule = law::rule(&stats, "rule");
        assert_eq!((rule.datagrams, rule.outputs[0].copies), (received.received, received.received));
        let input = law::input(&stats, "in0");
        assert_eq!(input.matched, received.received);
        assert!(input.drops.is_empty(), "{input:?}");
    }
}

/// A relay with this configuration file, and where the file is.
fn with_config(text: &str) -> Option<(Line, Daemon, PathBuf, traffic_lock::TrafficLock)> {
    require::netns()?;
    let lock = traffic_lock::take();
    let line = Line::new().unwrap();
    let options = DaemonOptions { workers: 2, config: Some(text.into()), ..DaemonOptions::default() };
    let daemon = Daemon::start(&line.relay, &options);
    let directory = daemon.socket().parent().and_then(|run| run.parent()).unwrap().to_owned();
    Some((line, daemon, directory.join("mcr.toml"), lock))
}

const TWO: &str = "# a comment\nothers_may_read = true\n[[rule]]\nname = \"a\"\ninput = \"239.1.1.1:5000@in0\"\n\
                   outputs = [\"10.2.0.2:6000\"]\n[[rule]]\nname = \"b\"\ninput = \"239.1.1.2:5000@in0\"\n\
                   outputs = [\"10.2.0.2:6001\"]\n\n[[class]]\nname = \"video\"\npriority = 1\n";

fn names(client: &mut Client) -> Vec<String> {
    client.rules(None).unwrap().iter().map(|rule| rule.name.to_string()).collect()
}

#[test]
fn a_configuration_with_an_error_is_refused_whole() {
    let Some((_line, daemon, file, _lock)) = with_config(TWO) else { return };
    let mut client = daemon.client();
    let before = client.config().unwrap();
    let good = "[[rule]]\nname = \"c\"\ninput = \"239.1.1.3:5000@in0\"\noutputs = [\"10.2.0.2:6000\"]\n";
    for bad in [
        "[[rule]]\nname = \"d\"\n",
        "[[rule]]\nname = \"c\"\ninput = \"239.1.1.4:1@in0\"\noutputs = [\"10.2.0.2:1\"]\n",
        "x = 1\n",
        "[[[",
    ] {
        let load = ConfigLoad { text: format!("{good}{bad}"), file: None, replace: true };
        match client.config_load(&load) {
            Err(ClientError::Fault(fault)) => {
                assert_eq!(fault.kind, FaultKind::Invalid);
                assert!(fault.message.starts_with("config:"), "{fault}");
            }
            other => panic!("{bad}: {other:?}"),
        }
        assert_eq!(client.config().unwrap(), before);
    }
    let path = file.with_file_name("bad.toml");
    fs::write(&path, format!("{good}x = 1\n")).unwrap();
    let path = path.to_str().unwrap();
    daemon.mcrctl(&["load", path]).says(2, &["bad.toml:5", "key `rule[0].x`"]);
    daemon.mcrctl(&["check", path]).says(2, &["bad.toml:5"]);
    assert_eq!(client.config().unwrap(), before);
    daemon.stop();
}

#[test]
fn what_is_saved_is_what_runs_and_a_reader_never_sees_half_a_file() {
    let Some((line, daemon, file, _lock)) = with_config(TWO) else { return };
    let mut client = daemon.client();
    fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
    let added = "[[rule]]\ninput = \"239.1.1.9:5000@in0\"\noutputs = [\"10.2.0.2:6000,ttl=keep,dscp=ef\"]\n";
    assert_eq!(load(&mut client, added, false), (1, 0, 0, 2));
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let reads = scope.spawn(|| {
            let mut reads = 0;
            while !done.load(Relaxed) {
                let config = parse(&fs::read_to_string(&file).unwrap(), "mcr.toml").unwrap();
                assert!((2..=3).contains(&config.rules.len()), "{}", config.rules.len());
                reads += 1;
            }
            reads
        });
        for _ in 0..20 {
            let saved = client.config_save().unwrap();
            assert_eq!((saved.path.as_str(), saved.rules), (file.to_str().unwrap(), 3));
        }
        done.store(true, Relaxed);
        assert!(reads.join().unwrap() > 0);
    });
    let shown = client.config().unwrap();
    let text = fs::read_to_string(&file).unwrap();
    assert_eq!(text, shown.toml);
    assert_eq!(text, to_toml(&parse(&text, "mcr.toml").unwrap()));
    assert!(
        shown.config.allow_read && shown.config.classes.len() == 1,
        "what is beside the rules is kept: {text}"
    );
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
    let left: Vec<_> =
        fs::read_dir(file.parent().unwrap()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "log, run and mcr.toml: {left:?}");
    daemon.stop();

    let options = DaemonOptions { workers: 1, config: Some(text), ..DaemonOptions::default() };
    let again = Daemon::start(&line.relay, &options);
    assert_eq!(again.client().config().unwrap().config, shown.config);
    again.stop();
}

#[test]
fn without_a_file_there_is_nothing_to_save_to_and_nothing_to_load_again() {
    let Some(()) = require::netns() else { return };
    let _lock = traffic_lock::take();
    let line = Line::new().unwrap();
    let daemon = Daemon::start(&line.relay, &DaemonOptions::default());
    daemon.mcrctl(&["save"]).says(1, &["--config"]);
    daemon.mcrctl(&["show", "--diff"]).says(1, &["--config"]);
    let mut client = daemon.client();
    load(&mut client, TWO, true);
    signal(daemon.pid(), Signal::SIGHUP);
    eventually("it is said", || daemon.log().contains("mcrd was started without --config"));
    assert_eq!(names(&mut client), ["a", "b"]);
    let printed = daemon.mcrctl(&["save", "--stdout"]);
    assert_eq!((printed.code, printed.stdout), (Some(0), client.config().unwrap().toml));
    daemon.stop();
}

#[test]
fn sighup_loads_the_file_again_and_an_error_in_it_changes_nothing() {
    let Some((_line, daemon, file, _lock)) = with_config(TWO) else { return };
    let mut client = daemon.client();
    let id = client.rules(None).unwrap()[0].id;
    let third = "[[rule]]\nname = \"c\"\ninput = \"239.1.1.3:5000@in0\"\noutputs = [\"10.2.0.2:6000\"]\n";
    fs::write(&file, TWO.replace("\"b\"", "\"b2\"") + third).unwrap();
    signal(daemon.pid(), Signal::SIGHUP);
    eventually("the new rules are there", || names(&mut client) == ["a", "b2", "c"]);
    assert_eq!(client.rules(None).unwrap()[0].id, id, "what stays is not touched");
    let before = client.config().unwrap();
    fs::write(&file, format!("{TWO}nonsense = 1\n")).unwrap();
    signal(daemon.pid(), Signal::SIGHUP);
    eventually("the error is said with its place", || {
        daemon.log().contains("mcr.toml:15: key `class[0].nonsense`") && daemon.log().contains("stays")
    });
    assert_eq!(client.config().unwrap(), before);
    fs::remove_file(&file).unwrap();
    signal(daemon.pid(), Signal::SIGHUP);
    eventually("the missing file is said", || daemon.log().contains("mcr.toml: cannot read it"));
    assert_eq!(client.config().unwrap(), before);
    // Control is started again, and what was asked meanwhile is done then.
    fs::write(&file, TWO).unwrap();
    signal(daemon.control().pid, Signal::SIGKILL);
    signal(daemon.pid(), Signal::SIGHUP);
    eventually("the file is loaded when control is back", || {
        Client::connect(daemon.socket(), mcr_client::Options::default())
            .and_then(|mut client| client.rules(None))
            .is_ok_and(|rules| rules.iter().map(|rule| rule.name.as_str()).eq(["a", "b"]))
    });
    daemon.stop();
}

#[test]
fn the_difference_between_file_and_running_rules_is_shown() {
    let Some((_line, daemon, _file, _lock)) = with_config(TWO) else { return };
    let mut client = daemon.client();
    let same = daemon.mcrctl(&["show", "--diff"]);
    assert_eq!((same.code, same.stdout.as_str()), (Some(0), ""));
    let new = "[[rule]]\nname = \"c\"\ninput = \"239.1.1.3:5000@in0\"\noutputs = [\"10.2.0.2:6000\"]\n";
    load(&mut client, new, false);
    load(&mut client, &TWO.replace(":6001\"", ":6001\", \"10.2.0.2:6002\""), false);
    client.rule_remove(&rule_ref("a").unwrap()).unwrap();
    let diff = daemon.mcrctl(&["show", "--diff"]).stdout;
    let want = [
        "- a: 239.1.1.1:5000@in0 -> 10.2.0.2:6000",
        "~ b: +10.2.0.2:6002",
        "+ c: 239.1.1.3:5000@in0 -> 10.2.0.2:6000",
    ];
    assert_eq!(diff.lines().collect::<Vec<_>>(), want);
    daemon.mcrctl(&["save"]);
    assert_eq!(daemon.mcrctl(&["show", "--diff"]).stdout, "");
    daemon.stop();
}

/// The next event that is of this kind and says this.
fn wait_for(watch: &mut Client, kind: EventKind, what: EventWhat) -> Event {
    let mut others = Vec::new();
    loop {
        match watch.next_event(Some(PATIENCE)).unwrap() {
            Some(event) if event.kind == kind && event.what == what => return event,
            Some(event) => others.push(event),
            None => panic!("no {kind} {what} came, but {others:#?}"),
        }
    }
}

#[test]
fn events_tell_what_happens_to_rules_interfaces_and_workers_and_why() {
    let Some((line, daemon, _file, _lock)) = with_config("") else { return };
    let (mut client, mut watch) = (daemon.client(), daemon.client());
    watch.subscribe(&Subscribe::default()).unwrap();
    let cell = Cell::PACKET_URING;
    let added = client.rule_add(&cell.rule("video", "239.1.1.1:5000@in0", &["10.2.0.2:6000"])).unwrap().rule;
    let event = wait_for(&mut watch, EventKind::Rule, EventWhat::Added);
    assert_eq!(
        (event.rule.unwrap().as_str(), event.id, event.worker),
        ("video", Some(added.id), Some(added.worker))
    );
    let active = wait_for(&mut watch, EventKind::Rule, EventWhat::Active);
    assert!(active.seq > event.seq && active.time_ns >= event.time_ns);

    line.relay.set_down("in0").unwrap();
    assert_eq!(wait_for(&mut watch, EventKind::Interface, EventWhat::Down).interface.as_deref(), Some("in0"));
    let paused = wait_for(&mut watch, EventKind::Rule, EventWhat::Paused);
    assert!(paused.reason.as_ref().unwrap().contains("in0"), "{paused:?}");
    line.relay.set_up("in0").unwrap();
    wait_for(&mut watch, EventKind::Interface, EventWhat::Up);
    wait_for(&mut watch, EventKind::Rule, EventWhat::Active);
    line.relay.add_address("in0", [10, 9, 9, 9].into(), 24).unwrap();
    // The kernel's own link-local address may come before it.
    let ours = |event: &Event| event.address == Some([10, 9, 9, 9].into());
    let mut address = wait_for(&mut watch, EventKind::Interface, EventWhat::AddressAdded);
    while !ours(&address) {
        address = wait_for(&mut watch, EventKind::Interface, EventWhat::AddressAdded);
    }
    assert_eq!(address.interface.as_deref(), Some("in0"));

    let other = 1 - added.worker;
    client.rule_move(&rule_ref("video").unwrap(), other).unwrap();
    assert_eq!(wait_for(&mut watch, EventKind::Rule, EventWhat::Moved).worker, Some(other));
    let workers = client.workers().unwrap();
    signal(workers[usize::from(other)].pid.unwrap(), Signal::SIGKILL);
    let died = wait_for(&mut watch, EventKind::Worker, EventWhat::Died);
    assert_eq!(died.worker, Some(other));
    assert!(died.reason.unwrap().contains("SIGKILL"));
    wait_for(&mut watch, EventKind::Worker, EventWhat::Started);
    wait_for(&mut watch, EventKind::Worker, EventWhat::Ready);

    client.rule_enable(&rule_ref("video").unwrap(), false).unwrap();
    wait_for(&mut watch, EventKind::Rule, EventWhat::Disabled);
    client.rule_remove(&rule_ref("video").unwrap()).unwrap();
    wait_for(&mut watch, EventKind::Rule, EventWhat::Removed);
    watch.ping().unwrap();
    daemon.stop();
}

#[test]
fn a_burst_of_events_is_told_in_full_and_in_order_to_who_reads() {
    let Some((_line, daemon, _file, _lock)) = with_config("") else { return };
    let (mut client, mut watch) = (daemon.client(), daemon.client());
    watch.subscribe(&Subscribe { kinds: Some(vec![EventKind::Rule]) }).unwrap();
    // Their interface is missing: each is added and unresolved.
    let text: String = (0..400)
        .map(|n| {
            rule(Cell::UDP_URING, &format!("r{n}"), &format!("239.1.1.1:{}@none0", n + 1), &["10.2.0.2:1"])
        })
        .collect();
    assert_eq!(load(&mut client, &text, true), (400, 0, 0, 0));
    let mut last = 0;
    for n in 0..800 {
        let event = watch.next_event(Some(PATIENCE)).unwrap().unwrap_or_else(|| panic!("{n} events came"));
        let want = if n % 2 == 0 { EventWhat::Added } else { EventWhat::Unresolved };
        assert_eq!((event.kind, event.what), (EventKind::Rule, want));
        assert_eq!(event.rule.unwrap().as_str(), format!("r{}", n / 2));
        assert!(event.seq > last);
        last = event.seq;
    }
    assert_eq!(watch.next_event(Some(Duration::from_millis(1))).unwrap(), None);
    daemon.stop();
}

#[test]
fn mcrctl_prints_events_as_lines_and_as_json() {
    let Some((_line, daemon, _file, _lock)) = with_config("") else { return };
    thread::scope(|scope| {
        let text = scope.spawn(|| daemon.mcrctl(&["events", "--kind", "rule", "--count", "1"]));
        let json = scope.spawn(|| daemon.mcrctl(&["--json", "events", "--kind", "rule", "--count", "1"]));
        // Until both have subscribed and seen one.
        let mut client = daemon.client();
        let rule = Cell::PACKET_URING.rule("video", "239.1.1.1:5000@in0", &["10.2.0.2:6000"]);
        while !(text.is_finished() && json.is_finished()) {
            client.rule_add(&rule).unwrap();
            client.rule_remove(&rule_ref("video").unwrap()).unwrap();
        }
        let (text, json) = (text.join().unwrap(), json.join().unwrap());
        assert_eq!((text.code, text.stdout.lines().count()), (Some(0), 1), "{text:?}");
        assert!(text.stdout.contains(" rule video "), "{text:?}");
        let event: Event = serde_json::from_str(&json.stdout).unwrap();
        assert_eq!(event.rule.unwrap().as_str(), "video");
    });
    daemon.stop();
}

#[test]
fn the_level_of_the_log_changes_while_the_daemon_runs_also_in_its_children() {
    let Some((_line, daemon, _file, _lock)) = with_config("") else { return };
    let mut client = daemon.client();
    // The harness starts it with `--log warn`.
    assert!(client.log_levels().unwrap().levels.values().all(|level| *level == LogLevel::Warn));
    let rule = Cell::PACKET_URING.rule("quiet", "239.1.1.1:5000@in0", &["10.2.0.2:6000"]);
    client.rule_add(&rule).unwrap();
    assert_eq!(daemon.log(), "");
    let set = |level, facility| LogSet { level, facility: Some(facility) };
    client.log_set(&set(LogLevel::Info, Facility::Rules)).unwrap();
    client.rule_remove(&rule_ref("quiet").unwrap()).unwrap();
    eventually("a rule's change is logged", || daemon.log().contains("rule removed"));
    assert!(!daemon.log().contains("client connected"));
    client.log_set(&set(LogLevel::Debug, Facility::Control)).unwrap();
    eventually("control's details are logged", || {
        drop(daemon.client());
        daemon.log().contains("client connected")
    });
    let shown = daemon.mcrctl(&["log-level"]);
    assert!(
        shown.stdout.contains("control    debug") && shown.stdout.contains("worker     warn"),
        "{shown:?}"
    );
    daemon.mcrctl(&["log-level", "error"]);
    assert!(client.log_levels().unwrap().levels.values().all(|level| *level == LogLevel::Error));
    daemon.mcrctl(&["log-level", "loud"]).says(2, &["loud", "debug"]);
    daemon.stop();
}
