//! Traces, with the test as the workers whose memory is read.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use mcr_metrics::trace::{
    FrameKind, TRACED_COPIES, TRACED_DATAGRAMS, Trace, TraceProgress, TracedCopy, TracedDatagram,
};
use mcr_proto::{
    counters::OutputDrop,
    message::{Reply, Request, Tracing},
    plan::{InputSlot, OutputSlot, RuleSlot, WorkerIndex},
    rule::Datapath,
};
use serde_json::{Value, json};

use super::stage::{PATIENCE, Stage, Talk, holding, input, rule};
use crate::limits::Limits;

const ID: u64 = 5;
const PLACE: usize = 2;
const RULE: u32 = 1;

/// A supervisor whose worker 0 traces rule `r1` as trace [`ID`], and how often a trace was stopped.
fn stage(limits: Limits) -> (Stage, Arc<AtomicU64>) {
    let stops = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&stops);
    let mut others = holding(vec![rule(RULE)], vec![input(4, 0, "eth0", Datapath::Packet)], 10);
    let stage = Stage::new(limits, move |request| match request {
        Request::TraceStart(_) => {
            let workers = vec![WorkerIndex(0)];
            let rule = Some(Box::new(rule(RULE)));
            Some(Ok(Reply::Tracing(Tracing { id: ID, place: PLACE as u8, workers, rule })))
        }
        Request::TraceStop { id } => {
            assert_eq!(id, ID);
            counted.fetch_add(1, SeqCst);
            Some(Ok(Reply::Done))
        }
        other => others(other),
    });
    let trace = stage.segments[0].trace();
    trace.begin_life();
    show(trace, TraceProgress { id: ID, ..TraceProgress::default() });
    (stage, stops)
}

fn show(trace: &Trace, progress: TraceProgress) {
    trace.places()[PLACE].set(progress);
}

fn progress(recorded: u64, settled: u64) -> TraceProgress {
    TraceProgress { id: ID, seen: recorded, recorded, omitted: 0, settled, ended: false }
}

fn record(trace: &Trace, number: u64) {
    let datagram = TracedDatagram {
        trace: ID,
        number,
        life: 1,
        input: InputSlot(4),
        rule: Some(RuleSlot(RULE)),
        time_ns: 1000 + number,
        is_kernel_time: true,
        addresses: Some((([10, 0, 0, 9], 4000).into(), ([239, 1, 1, 1], 5000).into())),
        hop_limit: 7,
        traffic_class: 0xb8,
        bytes: 3,
        index: 0,
        datagrams: 1,
        drop: None,
        outputs: 2,
        frame: FrameKind::Ethernet,
        frame_bytes: 45,
    };
    trace.record_datagram(&datagram, &[&[0xab], &[1, 2]]);
}

fn copy(trace: &Trace, number: u64, output: u32, drop: Option<OutputDrop>, errno: i32) {
    let output = OutputSlot(2 * RULE + output);
    trace.record_copy(&TracedCopy { trace: ID, number, output, drop, errno, time_ns: 2000 });
}

fn started(stage: &Stage, params: Value) -> Talk {
    let mut talk = stage.client();
    let started = talk.call("trace.start", params);
    assert_eq!(started["result"]["id"], ID, "{started}");
    assert_eq!(started["result"]["rule"], "r1");
    talk
}

fn get(talk: &mut Talk) -> Value {
    let got = talk.call("trace.get", json!({"id": ID}));
    assert!(got["result"].is_object(), "{got}");
    got["result"].clone()
}

#[test]
fn a_datagram_is_told_when_it_is_settled_and_with_every_copy() {
    let (stage, stops) = stage(Limits::default());
    let mut talk = started(&stage, json!({"rule": "r1"}));
    let trace = stage.segments[0].trace();
    record(trace, 1);
    copy(trace, 1, 1, Some(OutputDrop::SendError), 1);
    show(trace, progress(1, 0));
    assert_eq!(get(&mut talk)["records"], json!([]));
    copy(trace, 1, 0, None, 0);
    show(trace, progress(1, 1));
    let got = get(&mut talk);
    let want = json!([{
        "number": 1, "time_ns": 1001, "clock": "kernel", "worker": 0, "interface": "eth0", "datapath": "packet",
        "source": "10.0.0.9:4000", "destination": "239.1.1.1:5000", "ttl": 7, "dscp": 46, "bytes": 3, "rule": "r1",
        "outputs": [
            {"output": "10.0.0.2:6000", "outcome": "sent", "time_ns": 2000},
            {"output": "10.0.0.3:6000", "outcome": "send_error", "errno": "EPERM", "time_ns": 2000},
        ],
        "link": "ethernet", "frame_bytes": 45, "frame": "ab0102",
    }]);
    assert_eq!(got["records"], want);
    assert_eq!((&got["seen"], &got["missed"], &got["done"]), (&json!(1), &json!(0), &json!(false)));
    assert_eq!(talk.call("trace.stop", json!({"id": ID}))["result"], json!({}));
    assert_eq!(stops.load(SeqCst), 1);
    show(trace, TraceProgress { ended: true, ..progress(1, 1) });
    let got = get(&mut talk);
    assert_eq!((&got["done"], &got["reason"]), (&json!(true), &json!("stopped")));
    stage.stop();
}

#[test]
fn copies_of_a_dead_worker_are_lost_and_overwritten_ones_unknown() {
    let (stage, _) = stage(Limits::default());
    let mut talk = started(&stage, json!({"rule": "r1"}));
    let trace = stage.segments[0].trace();
    record(trace, 1);
    copy(trace, 1, 0, None, 0);
    trace.begin_life();
    show(trace, progress(1, 1));
    let outcomes = |got: &Value| {
        let outputs = got["records"][0]["outputs"].as_array().unwrap().clone();
        outputs.iter().map(|output| output["outcome"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(outcomes(&get(&mut talk)), ["sent", "worker_lost"]);
    stage.stop();

    let (stage, _) = self::stage(Limits::default());
    let mut talk = started(&stage, json!({"rule": "r1"}));
    let trace = stage.segments[0].trace();
    record(trace, 1);
    copy(trace, 1, 0, None, 0);
    copy(trace, 1, 1, None, 0);
    // Of other traces.
    for _ in 1..TRACED_COPIES {
        let output = OutputSlot(9);
        trace.record_copy(&TracedCopy { trace: 9, number: 1, output, drop: None, errno: 0, time_ns: 1 });
    }
    show(trace, progress(1, 1));
    assert_eq!(outcomes(&get(&mut talk)), ["sent", "unknown"]);
    stage.stop();
}

#[test]
fn what_was_overwritten_is_counted_and_a_count_is_kept() {
    let (stage, stops) = stage(Limits::default());
    let count = TRACED_DATAGRAMS as u64 + 10;
    let mut talk = started(&stage, json!({"rule": "r1", "count": count}));
    let trace = stage.segments[0].trace();
    (1..=count).for_each(|number| record(trace, number));
    show(trace, TraceProgress { omitted: 3, seen: count + 3, ended: true, ..progress(count, count) });
    let (mut records, mut last) = (Vec::new(), Value::Null);
    while last["done"] != true {
        last = get(&mut talk);
        records.extend(last["records"].as_array().unwrap().clone());
    }
    let numbers: Vec<_> = records.iter().map(|record| record["number"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (11..=count).collect::<Vec<_>>());
    assert_eq!(
        (&last["missed"], &last["seen"], &last["reason"]),
        (&json!(13), &json!(count + 3), &json!("complete"))
    );
    assert_eq!(stops.load(SeqCst), 1);
    stage.stop();
}

#[test]
fn a_trace_that_nobody_asks_for_ends_and_is_forgotten_and_one_whose_client_left_at_once() {
    let (stage, stops) = stage(Limits { trace_idle: Duration::from_millis(50), ..Limits::default() });
    let mut talk = started(&stage, json!({"rule": "r1"}));
    let since = Instant::now();
    let mut other = stage.client();
    while stops.load(SeqCst) == 0 {
        assert!(since.elapsed() < PATIENCE);
        other.call("ping", json!({}));
    }
    // As long again, and it is forgotten.
    while other.call("worker.list", json!({}))["result"].is_object()
        && since.elapsed() < Duration::from_millis(300)
    {}
    let got = talk.call("trace.get", json!({"id": ID}));
    assert_eq!(
        (&got["error"]["data"]["kind"], &got["error"]["data"]["field"]),
        (&json!("not_found"), &json!("id"))
    );
    stage.stop();

    let (stage, stops) = self::stage(Limits::default());
    drop(started(&stage, json!({"rule": "r1"})));
    let mut other = stage.client();
    let since = Instant::now();
    while stops.load(SeqCst) == 0 {
        assert!(since.elapsed() < PATIENCE);
        other.call("ping", json!({}));
    }
    stage.stop();
}

#[test]
fn parameters_that_do_not_fit_are_named() {
    let (stage, _) = stage(Limits::default());
    let mut talk = stage.client();
    for (params, field) in [
        (json!({}), "rule"),
        (json!({"rule": "r1", "sample": "1/0"}), "sample"),
        (json!({"rule": "r1", "count": 0}), "count"),
        (json!({"rule": "r1", "snap_bytes": 5000}), "snap_bytes"),
        (json!({"drops": "a name far too long"}), "drops"),
    ] {
        let refused = talk.call("trace.start", params);
        assert_eq!(
            (&refused["error"]["code"], &refused["error"]["data"]["field"]),
            (&json!(-32602), &json!(field)),
            "{refused}"
        );
    }
    stage.stop();
}
