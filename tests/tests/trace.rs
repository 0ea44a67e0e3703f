//! Traces: what is shown of single datagrams is what was sent and what came of it, exactly; and a trace ends.
#![allow(clippy::unwrap_used)] // A test has no better answer to an error than to fail.

use std::{fs, process::Stdio};

use mcr_client::{Client, ClientError};
use mcr_e2e::{
    Bed, Macs, Wire, command, daemon, eventually, in_every_cell, in_frame_cells, in_worker_cells, law,
    programs::program,
    source,
    wire::{Parsed, parse_ip},
};
use mcr_proto::{
    message::{FaultKind, WorkerState},
    rpc::{TraceClock, TraceLink, TraceParams, TraceRecord, TraceRecords, TraceStarted, method},
    rule::Datapath,
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

const INPUT: &str = "239.1.1.1:5000@in0";
const TO: &str = "239.1.1.1:5000";
const OUTPUT: &str = "239.2.2.2:6000@out0";
const LISTEN: &str = "239.2.2.2:6000@dst0";
const ETHERNET_BYTES: usize = 14;

/// A trace and everything it has shown.
struct Trace {
    id: u64,
    records: Vec<TraceRecord>,
    last: TraceRecords,
}

impl Trace {
    fn start(client: &mut Client, params: Value) -> Self {
        let started: TraceStarted = client.call(method::TRACE_START, &params).unwrap();
        Self { id: started.id, records: Vec::new(), last: TraceRecords::default() }
    }

    fn get(&mut self, client: &mut Client) {
        let mut got: TraceRecords = client.call(method::TRACE_GET, &TraceParams { id: self.id }).unwrap();
        self.records.append(&mut got.records);
        self.last = got;
    }

    /// Waits until it has shown so many.
    #[track_caller]
    fn expect(&mut self, client: &mut Client, count: usize) -> &[TraceRecord] {
        eventually("the datagrams are shown", || {
            self.get(client);
            self.records.len() >= count
        });
        assert_eq!(self.records.len(), count);
        assert_eq!(self.last.missed, 0);
        &self.records
    }

    #[track_caller]
    fn wait_done(&mut self, client: &mut Client, reason: &str) {
        eventually("the trace is done", || {
            self.get(client);
            self.last.done
        });
        assert_eq!(self.last.reason.as_deref(), Some(reason));
    }
}

fn bytes_of(record: &TraceRecord) -> Vec<u8> {
    let pairs = record.frame.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// What an independent parser reads in a record's frame, checksums verified.
fn parsed(record: &TraceRecord) -> Parsed {
    let bytes = bytes_of(record);
    let ip = match record.link {
        TraceLink::Ethernet => &bytes[ETHERNET_BYTES..],
        TraceLink::Ip => &bytes,
    };
    parse_ip(ip).expect("UDP")
}

/// Each output's outcome and errno.
fn outcomes(record: &TraceRecord) -> Vec<(&str, &str, Option<&str>)> {
    record.outputs.iter().map(|one| (&*one.output, &*one.outcome, one.errno.as_deref())).collect()
}

in_every_cell! {
    fn a_record_is_the_datagram_to_the_byte_and_has_each_copy(cell) {
        let mut bed = Bed::new(cell, 2);
        // What a sender leaves to its device is missing in the frame, and in what is shown of it.
        bed.line.source.set_offload("src0", "tx-checksum-ip-generic", false).unwrap();
        let outputs = [OUTPUT, "10.3.0.2:6000,ttl=keep", "192.0.2.1:6000"];
        bed.add("rule", INPUT, &outputs);
        let (sink, second) = (bed.sink(0, LISTEN), bed.sink(1, "10.3.0.2:6000"));
        let source = bed.source(TO);
        source.ttl(33);
        source.traffic_class(0xb8);
        let mut trace = Trace::start(&mut bed.client, json!({"rule": "rule", "snap_bytes": 1920}));
        let payloads = source::assorted(1, false);
        source.send(&payloads);
        sink.expect(&payloads);
        second.expect(&payloads);
        let records = trace.expect(&mut bed.client, payloads.len());
        for (index, (record, payload)) in records.iter().zip(&payloads).enumerate() {
            assert_eq!(record.number, index as u64 + 1);
            // That of the kernel is behind the last.
            let worker = u16::from(cell.datapath == Datapath::Kernel);
            assert_eq!((&*record.interface, record.datapath, record.worker), ("in0", cell.datapath, worker));
            assert_eq!((record.ttl, record.dscp, record.bytes as usize), (Some(33), Some(46), payload.len()));
            assert_eq!((record.source, record.destination), (Some(source.address()), Some(TO.parse().unwrap())));
            assert_eq!((record.rule.as_ref().map(AsRef::as_ref), &record.drop), (Some("rule"), &None));
            let want = Parsed { from: source.address(), to: TO.parse().unwrap(), ttl: 33, traffic_class: 0xb8, payload: payload.clone() };
            assert!(parsed(record) == want, "record {index}: {record:?}");
            // The kernel path knows that there is no route, and does not try.
            let errno = (cell.datapath != Datapath::Kernel).then_some("ENETUNREACH");
            let came = [(outputs[0], "sent", None), (outputs[1], "sent", None), (outputs[2], "no_route", errno)];
            assert_eq!(outcomes(record), came, "record {index}");
            let kernel = cell.datapath != Datapath::Udp;
            assert_eq!(record.clock, if kernel { TraceClock::Kernel } else { TraceClock::Worker });
            assert!(record.outputs.iter().all(|output| output.time_ns.unwrap() >= record.time_ns), "{record:?}");
        }
        trace.get(&mut bed.client);
        assert!(!trace.last.done);
        let _: Value = bed.client.call(method::TRACE_STOP, &TraceParams { id: trace.id }).unwrap();
        trace.wait_done(&mut bed.client, "stopped");
        source.send(&payloads[..5]);
        sink.expect(&payloads[..5]);
        trace.get(&mut bed.client);
        assert_eq!(trace.records.len(), payloads.len(), "nothing is shown after the end");
        let stats = bed.at_rest();
        assert_eq!(law::rule(&stats, "rule").datagrams, 205);
        bed.daemon.stop();
    }

    fn datagrams_of_a_superframe_are_shown_one_by_one(cell) {
        let mut bed = Bed::new(cell, 1);
        bed.add("rule", INPUT, &[OUTPUT]);
        bed.add("rule6", "[ff15::1]:5000@in0", &["[ff15::2]:6000@out0"]);
        let sinks = [bed.sink(0, LISTEN), bed.sink(0, "[ff15::2]:6000@dst0")];
        let payloads = source::payloads(3, [[1400; 6].as_slice(), &[33]].concat());
        for (rule, to, sink) in [("rule", TO, &sinks[0]), ("rule6", "[ff15::1]:5000", &sinks[1])] {
            let source = bed.source(to);
            let mut trace = Trace::start(&mut bed.client, json!({"rule": rule, "snap_bytes": 1920}));
            source.send_superframe(&payloads);
            sink.expect(&payloads);
            for (index, record) in trace.expect(&mut bed.client, payloads.len()).iter().enumerate() {
                let superframe = record.superframe.expect("the kernel kept it whole");
                assert_eq!((usize::from(superframe.index), superframe.datagrams), (index, 7));
                let read = parsed(record);
                assert_eq!((read.from, read.to, read.ttl), (source.address(), to.parse().unwrap(), 16));
                assert!(read.payload == payloads[index], "another payload");
                assert_eq!(record.frame.len(), 2 * record.frame_bytes as usize);
                assert_eq!(record.outputs[0].outcome, "sent");
            }
        }
        bed.finish();
    }

    fn one_in_n_is_exact_and_a_count_ends_it(cell) {
        let mut bed = Bed::new(cell, 1);
        bed.line.source.set_offload("src0", "tx-checksum-ip-generic", false).unwrap();
        bed.add("rule", INPUT, &[OUTPUT]);
        bed.add("other", "239.1.1.2:5000@in0", &[OUTPUT]);
        let sink = bed.sink(0, LISTEN);
        let source = bed.source(TO);
        let mut sampled = Trace::start(&mut bed.client, json!({"rule": "rule", "sample": "1/10", "snap_bytes": 60}));
        let mut counted = Trace::start(&mut bed.client, json!({"rule": "rule", "count": 7, "snap_bytes": 1920}));
        let mut other = Trace::start(&mut bed.client, json!({"rule": "other"}));
        let payloads = source::payloads(4, [200; 205]);
        for some in payloads.chunks(50) {
            source.send(some);
            sink.expect(some);
        }
        source.send_to("239.1.1.2:5000", &payloads[..3]);
        sink.expect(&payloads[..3]);

        let records = sampled.expect(&mut bed.client, 21);
        for (record, payload) in records.iter().zip(payloads.iter().step_by(10)) {
            let bytes = bytes_of(record);
            assert_eq!((bytes.len(), record.bytes), (60, 200));
            let headers = if cell.datapath == Datapath::Udp { 28 } else { ETHERNET_BYTES + 28 };
            assert_eq!(bytes[headers..], payload[..60 - headers]);
        }
        sampled.get(&mut bed.client);
        assert_eq!((sampled.last.seen, sampled.last.done), (205, false));
        counted.wait_done(&mut bed.client, "complete");
        let shown: Vec<_> = counted.records.iter().map(|record| parsed(record).payload).collect();
        assert_eq!(shown, payloads[..7]);
        assert_eq!(counted.last.missed, 0);
        let shown = other.expect(&mut bed.client, 3);
        assert!(shown.iter().all(|record| record.frame.is_empty() && record.rule.as_ref().unwrap().as_ref() == "other"));
        bed.finish();
    }

    fn a_drop_that_keeps_a_datagram_from_its_rule_is_shown_to_it(cell) {
        let mut bed = Bed::new(cell, 1);
        bed.add("rule", INPUT, &["239.2.2.2:6000@out0,ttl=keep"]);
        let mut trace = Trace::start(&mut bed.client, json!({"rule": "rule"}));
        let source = bed.source(TO);
        source.ttl(1);
        source.send(&source::payloads(5, [100; 2]));
        for record in trace.expect(&mut bed.client, 2) {
            assert_eq!((record.drop.as_deref(), record.ttl, record.outputs.len()), (Some("hop_limit"), Some(1), 0));
            assert_eq!(record.rule.as_ref().map(AsRef::as_ref), Some("rule"));
        }
        bed.finish();
    }

    fn traces_end_with_their_client_their_rule_and_their_time(cell) {
        let mut bed = Bed::with_workers(cell, 1, 2);
        bed.add("rule", INPUT, &[OUTPUT]);
        let mut gone = bed.daemon.client();
        let all: Vec<_> = (0..8).map(|_| Trace::start(&mut gone, json!({"rule": "rule"})).id).collect();
        let start = json!({"rule": "rule", "seconds": 1});
        let refused = bed.client.call::<_, TraceStarted>(method::TRACE_START, &start);
        let Err(ClientError::Fault(fault)) = refused else { panic!("{refused:?}") };
        assert_eq!(fault.kind, FaultKind::Limit);
        drop(gone);
        let mut timed = None;
        eventually("the traces of a client that is gone have ended", || {
            timed = bed.client.call::<_, TraceStarted>(method::TRACE_START, &start).ok();
            timed.is_some()
        });
        let asked = bed.client.call::<_, TraceRecords>(method::TRACE_GET, &TraceParams { id: all[0] });
        let Err(ClientError::Fault(fault)) = asked else { panic!("{asked:?}") };
        assert_eq!(fault.kind, FaultKind::NotFound);
        let mut timed = Trace { id: timed.unwrap().id, records: Vec::new(), last: TraceRecords::default() };
        timed.wait_done(&mut bed.client, "its time is over");
        let mut removed = Trace::start(&mut bed.client, json!({"rule": "rule"}));
        bed.remove("rule");
        removed.wait_done(&mut bed.client, "its rule is gone");
        bed.add("rule", INPUT, &[OUTPUT]);
        let sink = bed.sink(0, LISTEN);
        let payloads = source::payloads(7, [10; 3]);
        bed.source(TO).send(&payloads);
        sink.expect(&payloads);
        removed.get(&mut bed.client);
        assert!(removed.records.is_empty(), "what another rule with the same place gets is not its");
        bed.finish();
    }

    fn what_comes_too_fast_is_missed_and_counted(cell) {
        let mut bed = Bed::new(cell, 1);
        bed.add("rule", INPUT, &[OUTPUT]);
        let sink = bed.sink(0, LISTEN);
        let source = bed.source(TO);
        let mut trace = Trace::start(&mut bed.client, json!({"rule": "rule"}));
        let payloads = source::payloads(8, [100; 500]);
        // Six times five hundred, and nobody reads meanwhile: more than there is room for.
        for _ in 0..6 {
            source.send(&payloads);
            sink.expect(&payloads);
        }
        bed.at_rest();
        eventually("all is shown or missed", || {
            trace.get(&mut bed.client);
            trace.records.len() as u64 + trace.last.missed == 3000
        });
        assert!((1..=2048).contains(&trace.records.len()), "{}", trace.records.len());
        assert_eq!((trace.last.seen, trace.records.last().unwrap().number), (3000, 3000));
        bed.finish();
    }

    fn a_user_sees_lines_and_wireshark_a_file(cell) {
        let mut bed = Bed::new(cell, 1);
        bed.add("rule", INPUT, &[OUTPUT]);
        let directory = tempfile::TempDir::with_prefix("mcr-e2e-").unwrap();
        let file = directory.path().join("trace.pcapng");
        let mut mcrctl = std::process::Command::new(program("mcrctl"));
        mcrctl.arg("--socket").arg(bed.daemon.socket()).args(["trace", "rule", "--count", "3", "--pcapng"]).arg(&file);
        let mut child = mcrctl.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (sink, source) = (bed.sink(0, LISTEN), bed.source(TO));
        let payloads = source::payloads(9, [20]);
        eventually("three were shown", || {
            source.send(&payloads);
            sink.expect(&payloads);
            child.try_wait().unwrap().is_some()
        });
        let ended = command::finish(child, "mcrctl");
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(ended.stderr.starts_with("mcrctl: complete: 3 of 3 datagrams shown\n"), "{ended:?}");
        let lines: Vec<_> = ended.stdout.lines().collect();
        assert_eq!(lines.len(), 6, "{ended:?}");
        for (index, lines) in lines.chunks(2).enumerate() {
            assert!(lines[0].starts_with(&format!("{} ", index + 1)), "{ended:?}");
            let want = format!("{} > {TO}  20 bytes, ttl 16, dscp 0, rule rule", source.address());
            assert!(lines[0].ends_with(&want), "{ended:?}");
            assert!(lines[1].starts_with(&format!("    {OUTPUT}  sent  +")), "{ended:?}");
        }
        // What it holds another's reader has checked (mcrctl's tests): here, that the datagrams are in it.
        let captured = fs::read(&file).unwrap();
        let found = captured.windows(20).filter(|window| *window == payloads[0]).count();
        assert_eq!((found, &captured[..4]), (3, &[0x0a, 0x0d, 0x0d, 0x0a][..]));
        bed.finish();
    }
}

in_worker_cells! {
    fn drops_of_a_rule_say_why(cell) {
        let mut bed = Bed::new(cell, 2);
        bed.add("kept", INPUT, &["239.2.2.2:6000@out0,ttl=keep"]);
        bed.add("capped", "239.1.1.2:5000@in0", &["239.2.2.3:6000@out0,rate=1pps", "10.3.0.2:6000,ttl=keep"]);
        let sink = bed.sink(0, "239.2.2.3:6000@dst0");
        let mut kept = Trace::start(&mut bed.client, json!({"rule": "kept"}));
        let mut capped = Trace::start(&mut bed.client, json!({"rule": "capped"}));
        let source = bed.source(TO);
        source.ttl(1);
        let payloads = source::payloads(5, [100; 5]);
        source.send(&payloads[..2]);
        source.send_to("239.1.1.2:5000", &payloads);
        sink.expect(&payloads[..1]);
        for record in kept.expect(&mut bed.client, 2) {
            assert_eq!((record.drop.as_deref(), record.ttl, record.outputs.len()), (Some("hop_limit"), Some(1), 0));
        }
        for (index, record) in capped.expect(&mut bed.client, 5).iter().enumerate() {
            let first = if index == 0 { "sent" } else { "rate" };
            let shown: Vec<_> = outcomes(record).iter().map(|(_, outcome, _)| (*outcome).to_owned()).collect();
            assert_eq!((shown, &record.drop), (vec![first.to_owned(), "hop_limit".to_owned()], &None));
        }
        bed.finish();
    }

    fn a_worker_that_is_killed_goes_on_with_the_trace_when_it_is_back(cell) {
        let mut bed = Bed::new(cell, 1);
        bed.line.source.set_offload("src0", "tx-checksum-ip-generic", false).unwrap();
        bed.add("rule", INPUT, &[OUTPUT]);
        let sink = bed.sink(0, LISTEN);
        let source = bed.source(TO);
        let payloads = source::payloads(6, [300; 40]);
        let mut trace = Trace::start(&mut bed.client, json!({"rule": "rule", "count": 40, "snap_bytes": 1920}));
        source.send(&payloads[..20]);
        sink.expect(&payloads[..20]);
        trace.expect(&mut bed.client, 20);
        let worker = bed.client.workers().unwrap().remove(0);
        daemon::signal(worker.pid.unwrap(), Signal::SIGKILL);
        eventually("the worker is back", || {
            let now = bed.client.workers().unwrap().remove(0);
            now.pid != worker.pid && now.state == WorkerState::Running
        });
        bed.wait_active("rule");
        source.send(&payloads[20..]);
        sink.expect(&payloads[20..]);
        trace.wait_done(&mut bed.client, "complete");
        let shown: Vec<_> = trace.records.iter().map(|record| parsed(record).payload).collect();
        assert!(shown == payloads, "{} shown", shown.len());
        assert_eq!(trace.last.missed, 0);
        bed.daemon.stop();
    }
}

in_frame_cells! {
    fn a_frame_is_shown_as_it_was_on_the_cable(cell) {
        let mut bed = Bed::new(cell, 1);
        bed.add("rule", INPUT, &[OUTPUT]);
        bed.add("rule6", "[ff15::1]:5000@in0", &["[ff15::2]:6000@out0"]);
        let macs = Macs::of((&bed.line.source, "src0"), (&bed.line.relay, "in0"));
        let wire = Wire::open(&bed.line.source, "src0", &[]);
        let payloads = source::payloads(10, [0, 1, 17, 18, 19, 1472]);
        for (rule, from, to) in [("rule", "10.1.0.9:4000", TO), ("rule6", "[fd00:1::9]:4000", "[ff15::1]:5000")] {
            let mut trace = Trace::start(&mut bed.client, json!({"rule": rule, "snap_bytes": 1920}));
            let payloads = payloads.iter().map(|payload| &payload[..payload.len().min(1452)]);
            let frames: Vec<_> = payloads.map(|payload| macs.frame(from, to, payload)).collect();
            frames.iter().for_each(|frame| wire.send(frame));
            let records = trace.expect(&mut bed.client, frames.len());
            for (record, frame) in records.iter().zip(&frames) {
                assert_eq!((record.link, record.frame_bytes as usize), (TraceLink::Ethernet, frame.len()));
                assert!(bytes_of(record) == *frame, "{record:?}");
            }
        }
        bed.finish();
    }

    fn what_no_rule_gets_is_shown_with_the_reason(cell) {
        let mut bed = Bed::new(cell, 1);
        bed.add("rule", "10.1.0.9>239.1.1.1:5000@in0", &[OUTPUT]);
        let macs = Macs::of((&bed.line.source, "src0"), (&bed.line.relay, "in0"));
        let wire = Wire::open(&bed.line.source, "src0", &[]);
        let mut trace = Trace::start(&mut bed.client, json!({"drops": "in0", "snap_bytes": 1920}));
        let good = macs.frame("10.1.0.9:4000", TO, b"good");
        let mut bad = good.clone();
        *bad.last_mut().unwrap() ^= 1;
        wire.send(&bad);
        wire.send(&good);
        wire.send(&bad);
        for record in trace.expect(&mut bed.client, 2) {
            assert_eq!((record.drop.as_deref(), &record.rule, &*record.interface), (Some("checksum"), &None, "in0"));
            assert!(bytes_of(record) == bad, "{record:?}");
        }
        let nowhere = bed.client.call::<_, TraceStarted>(method::TRACE_START, &json!({"drops": "out0"}));
        let Err(ClientError::Fault(fault)) = nowhere else { panic!("{nowhere:?}") };
        assert_eq!((fault.kind, fault.field.as_deref()), (FaultKind::NotFound, Some("drops")));
        bed.daemon.stop();
    }
}
