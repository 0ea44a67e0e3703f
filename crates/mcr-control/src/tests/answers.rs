//! What clients are told: rules, pages, counters, rates, faults.

use std::{
    os::fd::AsFd,
    os::unix::net::UnixListener,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc,
    },
    time::Duration,
};

use mcr_fdpass::{Channel, Tag};
use mcr_proto::{
    codec,
    counters::{InputDrop, OutputDrop},
    message::{
        Fault, FaultKind, FromControl, InterfaceView, IoChoice, Reply, Request, ToControl, WorkerState,
        WorkerView, tag,
    },
    plan::{Generation, InputSlot, OutputSlot, RuleSlot, WorkerIndex},
    rule::Datapath,
};
use serde_json::{Value, json};

use super::{
    bare::Bare,
    stage::{PATIENCE, Stage, holding, input, receive, rule, send},
};
use crate::{ControlError, limits::Limits, run};

#[test]
fn a_rule_is_added_shown_and_removed_by_typed_requests() {
    let (asked, requests) = mpsc::channel();
    let mut answer = holding(vec![rule(1)], Vec::new(), 10);
    let stage = Stage::new(Limits::default(), move |request| {
        asked.send(request.clone()).expect("the test listens");
        answer(request)
    });
    let mut client = stage.client();
    let spec = json!({"name": "video", "input": "239.1.1.1:5000@eth0", "outputs": ["10.0.0.9:7,ttl=64"]});
    let added = client.call("rule.add", spec);
    assert_eq!(added["result"]["created"], true);
    assert_eq!(added["result"]["outputs"], json!(["10.0.0.9:7"]), "canonical form");
    let Request::RuleAdd(spec) = requests.recv().unwrap() else { panic!("another request") };
    assert_eq!(spec.name.unwrap().as_str(), "video");
    let shown = client.call("rule.list", json!({"rule": "r1"}));
    assert_eq!(shown["result"]["rules"][0]["datapath"], "udp");
    assert_eq!(
        shown["result"]["rules"][0]["output_states"],
        json!([{"state": "active"}, {"state": "active"}])
    );
    assert_eq!(client.call("rule.remove", json!({"rule": "r1"}))["result"], json!({}));
    stage.stop();
}

#[test]
fn an_invalid_rule_never_reaches_the_supervisor() {
    let stage = Stage::new(Limits::default(), |request| panic!("asked {request:?}"));
    let mut client = stage.client();
    let looping = json!({"input": "239.1.1.1:5000@eth0", "outputs": ["239.1.1.1:5000@eth0"]});
    let refused = client.call("rule.add", looping);
    assert_eq!(refused["error"]["code"], -32602);
    assert_eq!(refused["error"]["data"], json!({"kind": "invalid", "field": "outputs[0]"}));
    stage.stop();
}

#[test]
fn a_fault_of_the_supervisor_arrives_with_its_kind_and_field() {
    let stage = Stage::new(Limits::default(), holding(Vec::new(), Vec::new(), 10));
    let mut client = stage.client();
    for method in ["rule.list", "stats.get"] {
        let response = client.call(method, json!({"rule": "nobody"}));
        assert_eq!(response["error"]["data"], json!({"kind": "not_found", "field": "rule"}));
        assert_eq!(response["error"]["message"], "no rule nobody");
    }
    stage.stop();
}

#[test]
fn pages_are_collected_into_one_list() {
    let rules: Vec<_> = (1..=1000).map(rule).collect();
    let stage = Stage::new(Limits::default(), holding(rules, Vec::new(), 7));
    let mut client = stage.client();
    let list = client.call("rule.list", json!({}));
    let ids: Vec<_> =
        list["result"]["rules"].as_array().unwrap().iter().map(|rule| rule["id"].as_u64().unwrap()).collect();
    assert_eq!(ids, (1..=1000).collect::<Vec<_>>());
    stage.stop();
}

#[test]
fn pages_that_never_end_are_a_fault_not_a_loop() {
    let stage =
        Stage::new(Limits::default(), |_| Some(Ok(Reply::Rules { rules: vec![rule(1)], more: true })));
    let response = stage.client().call("rule.list", json!({}));
    assert_eq!(response["error"]["data"]["kind"], "internal");
    stage.stop();
}

#[test]
fn a_response_over_its_cap_is_an_error_that_says_what_to_do() {
    let limits = Limits { response_bytes_max: 1000, ..Limits::default() };
    let stage = Stage::new(limits, holding((1..=10).map(rule).collect(), Vec::new(), 10));
    let mut client = stage.client();
    assert_eq!(client.call("rule.list", json!({}))["error"]["data"]["kind"], "limit");
    assert!(client.call("rule.list", json!({"rule": "r3"}))["result"].is_object());
    stage.stop();
}

#[test]
fn workers_and_interfaces_are_shown_as_they_are() {
    let worker = WorkerView {
        index: WorkerIndex(1),
        pid: None,
        state: WorkerState::Backoff,
        core: Some(3),
        io: Some(IoChoice::Uring),
        restarts: 4,
        rules: 5,
        sockets: 6,
        desired: Generation(8),
        applied: Generation(7),
    };
    let interface = InterfaceView {
        index: 2,
        name: "eth0".into(),
        up: true,
        running: false,
        multicast: true,
        mtu: 1500,
        mac: Some([2, 0, 0, 0xab, 0, 1]),
        addresses: vec!["10.0.0.1".parse().unwrap()],
        kind: None,
        rules: 1,
    };
    let stage = Stage::new(Limits::default(), move |request| {
        Some(Ok(match request {
            Request::WorkerList => Reply::Workers(vec![worker.clone()]),
            _ => Reply::Interfaces { interfaces: vec![interface.clone()], more: false },
        }))
    });
    let mut client = stage.client();
    let workers = client.call("worker.list", json!({}));
    assert_eq!(
        workers["result"]["workers"],
        json!([{
            "index": 1, "pid": null, "state": "backoff", "core": 3, "io": "uring", "restarts": 4, "rules": 5, "sockets": 6,
            "desired_generation": 8, "applied_generation": 7,
        }])
    );
    let interfaces = client.call("interface.list", Value::Null);
    assert_eq!(interfaces["result"]["interfaces"][0]["mac"], "02:00:00:ab:00:01");
    stage.stop();
}

#[test]
fn what_the_kernel_path_does_not_tell_is_null_and_no_zero() {
    let stage = Stage::new(quick(), holding(vec![rule(1)], Vec::new(), 1));
    let counters = stage.segments[1].rule(RuleSlot(1));
    counters.told(7, 70, 1_000_000_000, 2_000_000_000);
    let stats = stage.client().call("stats.get", json!({}))["result"].take();
    let rule = &stats["rules"][0];
    assert_eq!([&rule["datagrams"], &rule["last_seen_ns"]], [&json!(7), &json!(2_000_000_000_u64)]);
    assert_eq!([&rule["gap_max_ns"], &rule["jitter_ns"], &rule["latency"]], [&Value::Null; 3]);
    assert!(rule["idle_ns"].as_u64().unwrap() > 0 && rule["mean_pps"].as_f64().unwrap() > 0.0, "{rule}");
    stage.stop();
}

#[test]
fn stats_are_sums_over_the_workers_and_name_every_reason() {
    let inputs = vec![input(0, 0, "eth0", Datapath::Udp), input(5, 1, "eth0", Datapath::Packet)];
    let stage = Stage::new(quick(), holding(vec![rule(1), rule(2)], inputs, 1));
    for (worker, segment) in (1u64..).zip(stage.segments.iter()) {
        segment.rule(RuleSlot(2)).flows.add(1);
        segment.latency(RuleSlot(2)).add(10_000 * worker, 10 * worker);
        let output = segment.output(OutputSlot(5));
        output.copies.add(7 * worker);
        output.drops[OutputDrop::SendError as usize].add(3);
        output.send_errors.add(101, 2);
        output.send_errors.add(1, 1);
    }
    for (worker, now_ns) in [(0, [1_000, 6_000, 8_000]), (1, [500, 2_500, 9_000])] {
        let rule = stage.segments[worker].rule(RuleSlot(2));
        now_ns.into_iter().for_each(|now_ns| rule.arrived(5, 500, now_ns));
    }
    let taken = stage.segments[1].input(InputSlot(5));
    taken.frames.add(4);
    taken.datagrams.add(20);
    taken.matched.add(19);
    taken.drops[InputDrop::NoRule as usize].add(1);
    taken.drops[InputDrop::KernelRing as usize].add(6);

    let stats = stage.client().call("stats.get", json!({}))["result"].take();
    assert!(stats["time_ns"].as_u64().unwrap() > 1_600_000_000_000_000_000);
    let [one, two] = &stats["rules"].as_array().unwrap()[..] else { panic!("two rules") };
    assert_eq!((&one["datagrams"], &one["last_seen_ns"]), (&json!(0), &Value::Null));
    assert_eq!((&two["id"], &two["name"], &two["state"]), (&json!(2), &json!("r2"), &json!("active")));
    assert_eq!(
        [&two["datagrams"], &two["bytes"], &two["last_seen_ns"], &two["flows"]],
        [&json!(30), &json!(3000), &json!(9_000), &json!(2)]
    );
    assert_eq!([&one["gap_max_ns"], &one["jitter_ns"], &one["idle_ns"], &one["latency"]], [&Value::Null; 4]);
    // The jitter is that of the worker that saw the rule last: one change of 4,500 ns.
    assert_eq!([&two["gap_max_ns"], &two["jitter_ns"]], [&json!(6_500), &json!(4_500 / 16)]);
    assert_eq!(two["idle_ns"].as_u64().unwrap() + 9_000, stats["time_ns"].as_u64().unwrap());
    let mean_pps = 30.0 * 1e9 / (stats["time_ns"].as_f64().unwrap() - 500.0);
    assert!((two["mean_pps"].as_f64().unwrap() / mean_pps - 1.0).abs() < 1e-9, "{two}");
    assert!((two["mean_bps"].as_f64().unwrap() / (mean_pps * 800.0) - 1.0).abs() < 1e-9, "{two}");
    let latency = json!({"datagrams": 30, "mean_ns": 16_666, "p50_ns": 20_480, "p90_ns": 20_480, "p99_ns": 20_480, "p999_ns": 20_480});
    assert_eq!(two["latency"], latency);
    let output = &two["outputs"][1];
    assert_eq!((&output["output"], &output["copies"]), (&json!("10.0.0.3:6000"), &json!(21)));
    let drops = output["drops"].as_object().unwrap();
    assert_eq!(drops.len(), OutputDrop::COUNT);
    assert_eq!(
        drops.iter().filter(|(_, count)| **count != 0).collect::<Vec<_>>(),
        [(&"send_error".into(), &json!(6))]
    );
    assert_eq!(output["send_errors"], json!({"ENETUNREACH": 4, "EPERM": 2}));
    let input = &stats["inputs"][1];
    assert_eq!(
        [&input["worker"], &input["interface"], &input["datapath"], &input["open"]],
        [&json!(1), &json!("eth0"), &json!("packet"), &json!(true)]
    );
    assert_eq!(
        [&input["frames"], &input["datagrams"], &input["matched"]],
        [&json!(4), &json!(26), &json!(19)]
    );
    let drops = input["drops"].as_object().unwrap();
    assert_eq!(drops.len(), InputDrop::COUNT);
    let sum: u64 = drops.values().map(|count| count.as_u64().unwrap()).sum();
    assert_eq!(26, 19 + sum, "the law");
    stage.stop();
}

#[test]
fn stats_of_one_rule_have_the_input_it_comes_from_and_no_other() {
    let inputs = vec![
        input(0, 0, "eth0", Datapath::Packet),
        input(1, 0, "eth0", Datapath::Udp),
        input(2, 0, "eth1", Datapath::Udp),
        input(3, 1, "eth0", Datapath::Udp),
    ];
    let stage = Stage::new(quick(), holding(vec![rule(1), rule(2)], inputs, 10));
    stage.segments[0].input(InputSlot(1)).datagrams.add(9);
    let stats = stage.client().call("stats.get", json!({"rule": 2}))["result"].take();
    assert_eq!(stats["rules"].as_array().unwrap().len(), 1);
    assert_eq!(stats["inputs"].as_array().unwrap().len(), 1);
    assert_eq!(stats["inputs"][0]["datagrams"], 9);
    stage.stop();
}

#[test]
fn slots_out_of_range_are_a_fault_and_not_the_end_of_the_process() {
    let mut beyond = rule(1);
    beyond.slot = RuleSlot(u32::MAX);
    let stage = Stage::new(quick(), holding(vec![beyond], Vec::new(), 10));
    let mut client = stage.client();
    assert_eq!(client.call("stats.get", json!({}))["error"]["data"]["kind"], "internal");
    assert!(client.call("ping", json!({}))["result"].is_object());
    stage.stop();
}

#[test]
fn rates_are_there_at_the_first_question_and_go_to_zero_when_traffic_stops() {
    let limits = Limits {
        rate_period: Duration::from_millis(20),
        first_rate_period: Duration::from_millis(20),
        ..Limits::default()
    };
    let stage = Stage::new(limits, holding(vec![rule(1)], Vec::new(), 10));
    let flowing = Arc::new(AtomicBool::new(true));
    let source = std::thread::spawn({
        let (flowing, segments) = (Arc::clone(&flowing), Arc::clone(&stage.segments));
        move || {
            while flowing.load(Relaxed) {
                segments[0].rule(RuleSlot(1)).datagrams.add(1);
                segments[0].output(OutputSlot(2)).copies.add(1);
                std::thread::park_timeout(Duration::from_micros(100));
            }
        }
    });
    let mut client = stage.client();
    let rule = client.call("stats.get", json!({}))["result"]["rules"][0].take();
    assert!(rule["rate_pps"].as_f64().unwrap() > 0.0, "{rule}");
    assert!(rule["outputs"][0]["rate_pps"].as_f64().unwrap() > 0.0, "{rule}");
    assert_eq!(rule["outputs"][1]["rate_pps"], 0.0);
    flowing.store(false, Relaxed);
    source.join().unwrap();
    let deadline = std::time::Instant::now() + PATIENCE;
    while client.call("stats.get", json!({}))["result"]["rules"][0]["rate_pps"] != 0.0 {
        assert!(std::time::Instant::now() < deadline, "the rate stays");
    }
    stage.stop();
}

#[test]
fn a_supervisor_that_does_not_answer_is_busy_and_its_late_reply_harms_nobody() {
    let limits = Limits { reply: Duration::from_millis(50), ..Limits::default() };
    let held = Arc::new(Mutex::new(Vec::new()));
    let stage = Stage::new(limits, {
        let held = Arc::clone(&held);
        move |request| match request {
            Request::Ping => Some(Ok(Reply::Done)),
            other => {
                held.lock().unwrap().push(other);
                None
            }
        }
    });
    let mut client = stage.client();
    assert_eq!(client.call("worker.list", json!({}))["error"]["data"]["kind"], "busy");
    assert_eq!(held.lock().unwrap().len(), 1);
    // The first request of the connection was number 1; nobody waits for it any more.
    send(&stage.channel, &ToControl::Reply { seq: 1, reply: Ok(Reply::Workers(Vec::new())) });
    assert_eq!(client.call("ping", json!({}))["result"], json!({"pong": true}));
    stage.stop();
}

#[test]
fn requests_beyond_those_under_way_wait_for_their_turn() {
    let (asked, requests) = mpsc::channel();
    let stage = Stage::new(Limits { requests_max: 1, ..Limits::default() }, move |request| {
        asked.send(request).expect("the test listens");
        None
    });
    let mut clients: Vec<_> = (0..8).map(|_| stage.client()).collect();
    for client in &mut clients {
        client.send("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}\n");
    }
    for seq in 1..=8 {
        requests.recv_timeout(PATIENCE).expect("the next in turn");
        assert!(requests.try_recv().is_err(), "two under way");
        send(&stage.channel, &ToControl::Reply { seq, reply: Ok(Reply::Done) });
    }
    for client in &mut clients {
        assert_eq!(client.response().unwrap()["result"]["pong"], true);
    }
    stage.stop();
}

#[test]
fn a_request_that_does_not_get_its_turn_in_time_is_busy() {
    let limits = Limits { requests_max: 1, reply: Duration::from_millis(50), ..Limits::default() };
    let stage = Stage::new(limits, |_| None);
    let mut clients: Vec<_> = (0..8).map(|_| stage.client()).collect();
    for client in &mut clients {
        client.send("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}\n");
    }
    for client in &mut clients {
        assert_eq!(client.response().unwrap()["error"]["data"]["kind"], "busy");
    }
    stage.stop();
}

#[test]
fn a_supervisor_that_asks_whether_control_lives_is_answered() {
    let bare = Bare::new();
    send(&bare.channel, &ToControl::Ping);
    assert_eq!(receive(&bare.channel), Some(FromControl::Pong));
    bare.stop();
}

#[test]
fn the_process_ends_with_its_channel() {
    let (ours, theirs) = Channel::pair().unwrap();
    let control = std::thread::spawn(move || run(theirs.into()));
    drop(ours);
    control.join().unwrap().expect("nothing to start is no error");
}

#[test]
fn a_start_without_all_its_descriptors_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(directory.path().join("s")).unwrap();
    let start = ToControl::Start {
        segments: 1,
        owner_uid: 0,
        group_gid: None,
        others_may_read: false,
        http: None,
        ids: None,
    };
    let reply = ToControl::Reply { seq: 1, reply: Err(Fault::new(FaultKind::Busy, "")) };
    let outcome = |message: &ToControl, fds: &[(Tag, std::os::fd::BorrowedFd<'_>)]| {
        let (ours, theirs) = Channel::pair().unwrap();
        ours.send(&codec::encode(message).unwrap(), fds).unwrap();
        run(theirs.into()).expect_err("refused")
    };
    let listening = (Tag(tag::LISTENER), listener.as_fd());
    assert!(matches!(outcome(&start, &[]), ControlError::Missing { what } if what == "a listener"));
    assert!(
        matches!(outcome(&start, &[listening]), ControlError::Missing { what } if what.contains("worker 0"))
    );
    let not_counters = (Tag(tag::COUNTERS), listener.as_fd());
    assert!(matches!(outcome(&start, &[listening, not_counters]), ControlError::Counters { worker: 0, .. }));
    assert!(matches!(outcome(&reply, &[]), ControlError::NotStarted));
}

fn quick() -> Limits {
    Limits { first_rate_period: Duration::from_millis(1), ..Limits::default() }
}
