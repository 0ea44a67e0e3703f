//! Gaps, jitter and latency of rules are those of what was sent, and of where it waited.
#![allow(clippy::unwrap_used)] // A test has no better answer to an error than to fail.

use std::time::{Duration, Instant};

use mcr_e2e::{Bed, Cell, DaemonOptions, eventually, http, in_worker_cells, law, source, traffic_lock};
use mcr_lab::{require, wait_until};
use mcr_proto::{
    message::WorkerState,
    rpc::{RuleStats, method, rule_ref},
    rule::Datapath,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

const PAUSE: Duration = Duration::from_millis(300);

/// Lets this much time pass.
fn let_pass(time: Duration) {
    let start = Instant::now();
    wait_until(2 * time + Duration::from_secs(10), "time passes", || start.elapsed() >= time).unwrap();
}

/// The only rule, once all of these are timed: a worker does that at the end of its turn.
fn timed(bed: &mut Bed, datagrams: u64) -> RuleStats {
    let mut rule = None;
    eventually("all are timed", || {
        let stats = bed.at_rest();
        let found = law::rule(&stats, "rule").clone();
        let timed = found.latency.as_ref().map_or(0, |latency| latency.datagrams);
        assert!(timed <= datagrams, "more than there were: {found:?}");
        rule = Some(found);
        timed == datagrams
    });
    rule.unwrap()
}

in_worker_cells! {
    fn a_gap_is_as_long_as_nothing_came(cell) {
        let mut bed = Bed::new(cell, 1);
        bed.add("rule", "239.1.1.1:5000@in0", &["239.2.2.2:6000@out0"]);
        let stats = bed.at_rest();
        let rule = law::rule(&stats, "rule");
        assert_eq!((rule.idle_ns, rule.gap_max_ns, rule.jitter_ns, &rule.latency), (None, None, None, &None));
        let sink = bed.sink(0, "239.2.2.2:6000@dst0");
        let source = bed.source("239.1.1.1:5000");
        let begin = Instant::now();
        for round in 0..2 {
            let payloads = source::payloads(round, [300; 20]);
            source.send(&payloads);
            sink.expect(&payloads);
            let_pass(PAUSE);
        }
        let rule = timed(&mut bed, 40);
        let (gap, all) = (Duration::from_nanos(rule.gap_max_ns.unwrap()), begin.elapsed());
        assert!(PAUSE <= gap && gap <= all, "{gap:?} of {all:?}");
        assert!(Duration::from_nanos(rule.idle_ns.unwrap()) >= PAUSE, "{rule:?}");
        // One interval of so much among 39 shorter ones: it is at least what one change leaves after 20 more, and at most two changes.
        let jitter = rule.jitter_ns.unwrap() as f64;
        let (least, most) = (PAUSE.as_nanos() as f64 / 16.0 * (15.0_f64 / 16.0).powi(20), all.as_nanos() as f64 / 8.0);
        assert!((least..=most).contains(&jitter), "{jitter} in {least}..{most}");
        assert!(rule.mean_pps <= 40.0 / PAUSE.as_secs_f64() && rule.mean_pps > 0.0, "{rule:?}");
        let latency = rule.latency.unwrap();
        assert!(latency.p50_ns >= 1024 && latency.p50_ns <= latency.p90_ns && latency.p99_ns <= latency.p999_ns);
        assert!(latency.p50_ns < PAUSE.as_nanos() as u64, "{latency:?}");
        bed.finish();
    }

    fn a_pause_of_the_rule_is_no_gap(cell) {
        let mut bed = Bed::new(cell, 1);
        bed.add("rule", "239.1.1.1:5000@in0", &["239.2.2.2:6000@out0"]);
        let sink = bed.sink(0, "239.2.2.2:6000@dst0");
        let source = bed.source("239.1.1.1:5000");
        let rule = rule_ref("rule").unwrap();
        let mut gaps = Vec::new();
        for round in 0..2 {
            let payloads = source::payloads(round, [300; 20]);
            source.send(&payloads);
            sink.expect(&payloads);
            gaps.push(timed(&mut bed, 20 * (round + 1)).gap_max_ns.unwrap());
            let params = mcr_proto::rpc::RuleParams { rule: rule.clone() };
            let _: serde_json::Value = bed.client.call(method::RULE_DISABLE, &params).unwrap();
            let_pass(Duration::from_secs(2));
            let _: serde_json::Value = bed.client.call(method::RULE_ENABLE, &params).unwrap();
            bed.wait_active("rule");
        }
        assert!(gaps.iter().all(|gap| *gap < 2_000_000_000), "{gaps:?}");
        bed.finish();
    }

    fn what_waits_for_the_worker_is_late_where_the_kernel_says_when_it_came(cell) {
        let mut bed = Bed::new(cell, 1);
        bed.add("rule", "239.1.1.1:5000@in0", &["239.2.2.2:6000@out0"]);
        let sink = bed.sink(0, "239.2.2.2:6000@dst0");
        let workers = bed.client.workers().unwrap();
        assert_eq!(workers[0].state, WorkerState::Running);
        let worker = Pid::from_raw(workers[0].pid.unwrap() as i32);
        let payloads = source::payloads(1, [300; 20]);
        let source = bed.source("239.1.1.1:5000");
        kill(worker, Signal::SIGSTOP).unwrap();
        source.send(&payloads);
        let_pass(PAUSE);
        kill(worker, Signal::SIGCONT).unwrap();
        sink.expect(&payloads);
        let latency = timed(&mut bed, 20).latency.unwrap();
        if cell.datapath == Datapath::Packet {
            assert!(latency.mean_ns >= PAUSE.as_nanos() as u64 * 9 / 10, "{latency:?}");
            assert!(latency.p50_ns >= PAUSE.as_nanos() as u64 * 9 / 10, "{latency:?}");
        } else {
            assert!(latency.mean_ns > 0, "{latency:?}");
        }
        bed.finish();
    }
}

/// What the kernel path's clock ticks in, at most (CONFIG_HZ of 100), at both ends of a gap.
const TICKS: Duration = Duration::from_millis(20);

#[test]
fn the_kernel_path_tells_gaps_and_jitter_and_nothing_of_what_it_does_not_know() {
    let Some(()) = require::netns() else { return };
    let _lock = traffic_lock::take();
    let arguments = ["--http", http::ADDRESS].map(str::to_owned).to_vec();
    let options = DaemonOptions { arguments, ..Cell::KERNEL.daemon(1) };
    let mut bed = Bed::with_daemon(Cell::KERNEL, 1, &options);
    bed.add("rule", "239.1.1.1:5000@in0", &["239.2.2.2:6000@out0"]);
    let sink = bed.sink(0, "239.2.2.2:6000@dst0");
    let source = bed.source("239.1.1.1:5000");
    let stats = bed.at_rest();
    let rule = law::rule(&stats, "rule");
    assert_eq!((rule.idle_ns, rule.gap_max_ns, rule.jitter_ns, &rule.latency), (None, None, None, &None));
    let begin = Instant::now();
    for round in 0..2 {
        let payloads = source::payloads(round, [300; 20]);
        source.send(&payloads);
        sink.expect(&payloads);
        let_pass(PAUSE);
    }
    let (stats, all) = (bed.at_rest(), begin.elapsed());
    let rule = law::rule(&stats, "rule");
    assert_eq!((rule.datagrams, &rule.latency), (40, &None));
    let gap = Duration::from_nanos(rule.gap_max_ns.unwrap());
    assert!(PAUSE <= gap + TICKS && gap <= all + TICKS, "{gap:?} of {all:?}");
    // How much of it samples have seen is a matter of luck; no change was longer than all of the time.
    let jitter = Duration::from_nanos(rule.jitter_ns.unwrap());
    assert!(jitter <= all, "{jitter:?} of {all:?}");
    assert!(Duration::from_nanos(rule.idle_ns.unwrap()) >= PAUSE, "{rule:?}");
    // Counted from the first datagram, not from when it was told of; no less than a second, else.
    assert!(rule.mean_pps > 0.0 && rule.mean_pps <= 40.0, "{rule:?}");
    let mut metrics = String::new();
    eventually("the metrics have all", || {
        metrics = http::get(&bed.line.relay, "/metrics").body;
        metrics.contains("mcr_rule_datagrams_total{rule=\"rule\"} 40")
    });
    let has = |name: &str| metrics.contains(&format!("{name}{{rule=\"rule\"}}"));
    assert!(
        has("mcr_rule_first_datagram_timestamp_seconds") && has("mcr_rule_last_datagram_timestamp_seconds")
    );
    assert!(has("mcr_rule_gap_max_seconds") && has("mcr_rule_jitter_seconds"), "{metrics}");
    assert!(!has("mcr_rule_latency_seconds_count"), "{metrics}");
    bed.finish();
}
