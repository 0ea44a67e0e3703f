//! What a `packet` rule takes and nothing else on the relay's host wants is kept from its IP stack; whatever is wanted there is not.
#![allow(clippy::unwrap_used)] // A test has no better answer to an error than to fail.

use std::time::{Duration, Instant};

use mcr_e2e::{
    Bed, Cell, Sink, Source,
    daemon::{self, DaemonOptions},
    eventually,
    held::host_counter,
    law,
    source::payloads,
    traffic_lock,
};
use mcr_lab::{Namespace, macvlan, require};
use mcr_proto::rule::Datapath;
use nix::sys::signal::Signal;

const INPUT: &str = "239.1.1.1:5000@in0";
const TO: &str = "239.1.1.1:5000";
const OUTPUT: &str = "239.2.2.2:6000@out0";
const LISTEN: &str = "239.2.2.2:6000@dst0";
/// Looked for twice a second; the rest is for a machine that is busy with other things.
const SEEN_WITHIN: Duration = Duration::from_secs(5);

fn programs(net: &Namespace, ifname: &str) -> usize {
    net.enter(|| mcr_ebpf::programs_at(ifname)).unwrap()
}

fn swallowed(bed: &mut Bed, rule: usize) -> bool {
    bed.client.rules(None).unwrap()[rule].swallowed
}

fn wait_swallowed(bed: &mut Bed) {
    eventually("the rule's datagrams are swallowed", || swallowed(bed, 0));
}

/// Datagrams to groups that came as far as UDP in the relay and had no socket there.
fn in_vain(bed: &Bed) -> u64 {
    host_counter(&bed.line.relay, "Udp", "IgnoredMulti")
}

#[test]
fn the_stack_sees_nothing_of_what_is_relayed_and_all_of_it_if_that_is_asked_for() {
    let Some(()) = require::netns() else { return };
    let _lock = traffic_lock::take();
    let sent = payloads(1, [700; 500]);
    for cell in [Cell::PACKET_URING, Cell::PACKET_SYSCALLS] {
        let mut bed = Bed::new(cell, 1);
        let sink = bed.sink(0, LISTEN);
        bed.add("rule", INPUT, &[OUTPUT]);
        wait_swallowed(&mut bed);
        let shown = bed.daemon.mcrctl(&["show", "rule"]);
        assert!(shown.stdout.contains("\nstack     kept from it"), "{shown:?}");
        let before = in_vain(&bed);
        bed.source(TO).send(&sent);
        sink.expect(&sent);
        let stats = bed.at_rest();
        assert_eq!(law::rule(&stats, "rule").datagrams, 500);
        assert_eq!(in_vain(&bed), before);
        bed.remove("rule");
        eventually("the program is gone with the rule", || programs(&bed.line.relay, "in0") == 0);
        bed.finish();
    }
    let options = DaemonOptions { arguments: vec!["--no-swallow".into()], ..Cell::PACKET_URING.daemon(1) };
    let mut bed = Bed::with_daemon(Cell::PACKET_URING, 1, &options);
    let sink = bed.sink(0, LISTEN);
    bed.add("rule", INPUT, &[OUTPUT]);
    let before = in_vain(&bed);
    bed.source(TO).send(&sent);
    sink.expect(&sent);
    bed.at_rest();
    assert_eq!((in_vain(&bed) - before, programs(&bed.line.relay, "in0")), (500, 0));
    bed.finish();
}

#[test]
fn who_listened_before_misses_nothing_and_who_joins_later_gets_the_next_half_a_second_late() {
    let Some(()) = require::netns() else { return };
    let _lock = traffic_lock::take();
    let mut bed = Bed::new(Cell::PACKET_URING, 1);
    let (sink, source) = (bed.sink(0, LISTEN), bed.source(TO));
    let before = Sink::open(&bed.line.relay, INPUT);
    // Another group, so that there was a look before the listener was there.
    bed.add("other", "239.1.1.2:5000@in0", &["239.2.2.3:6000@out0"]);
    wait_swallowed(&mut bed);
    let late = Sink::open(&bed.line.relay, "239.1.1.3:5000@in0");
    bed.add("late", "239.1.1.3:5000@in0", &["239.2.2.4:6000@out0"]);
    bed.add("rule", INPUT, &[OUTPUT]);
    let to_late = bed.source("239.1.1.3:5000");
    let began = Instant::now();
    let mut sent = Vec::new();
    // Over several looks.
    while began.elapsed() < Duration::from_millis(1600) {
        let some = payloads(sent.len() as u64, [300; 20]);
        source.send(&some);
        to_late.send(&some);
        sink.expect(&some);
        sent.extend(some);
    }
    before.expect(&sent);
    late.expect(&sent);
    assert!(!swallowed(&mut bed, 1) && !swallowed(&mut bed, 2));
    drop(before);
    eventually("nobody listens any more", || swallowed(&mut bed, 2));

    let joined = Sink::open(&bed.line.relay, INPUT);
    let began = Instant::now();
    let mut number = 1_000_000;
    let heard = loop {
        number += 1;
        let one = payloads(number, [300]);
        source.send(&one);
        sink.expect(&one);
        if let Some(first) = joined.drain().first() {
            break first.payload == one[0];
        }
        assert!(began.elapsed() < SEEN_WITHIN, "the listener was not seen");
    };
    assert!(heard, "the first it gets is the last that was sent");
    let rest = payloads(7, [300; 200]);
    source.send(&rest);
    sink.expect(&rest);
    joined.expect(&rest);
    joined.expect_nothing_more();
    bed.finish();
}

#[test]
fn rules_on_other_data_paths_get_the_same_datagrams_at_once() {
    let Some(()) = require::netns() else { return };
    let _lock = traffic_lock::take();
    for (other, input) in
        [(Datapath::Udp, INPUT), (Datapath::Kernel, INPUT), (Datapath::Kernel, "10.1.0.1>239.1.1.1:5000@in0")]
    {
        let mut bed = Bed::new(Cell::PACKET_URING, 2);
        let (sink, beside, source) =
            (bed.sink(0, LISTEN), bed.sink(1, "239.2.2.3:6001@dst1"), bed.source(TO));
        bed.add("rule", INPUT, &[OUTPUT]);
        wait_swallowed(&mut bed);
        let sent = payloads(1, [200; 100]);
        let cell = Cell { datapath: other, io: "uring" };
        let added = bed.client.rule_add(&cell.rule("beside", input, &["239.2.2.3:6001@out1"])).unwrap().rule;
        assert_eq!(added.datapath, Some(other), "{added:?}");
        source.send(&sent);
        sink.expect(&sent);
        beside.expect(&sent);
        assert!(!swallowed(&mut bed, 0));
        bed.remove("beside");
        wait_swallowed(&mut bed);
        source.send(&sent);
        sink.expect(&sent);
        let stats = bed.at_rest();
        assert_eq!(law::rule(&stats, "rule").datagrams, 200);
        bed.finish();
    }
}

#[test]
fn a_listener_on_a_macvlan_elsewhere_and_a_bridge_over_the_input_get_theirs() {
    let Some(()) = require::netns() else { return };
    let _lock = traffic_lock::take();
    let mut bed = Bed::new(Cell::PACKET_URING, 1);
    let (sink, source) = (bed.sink(0, LISTEN), bed.source(TO));
    bed.add("rule", INPUT, &[OUTPUT]);
    wait_swallowed(&mut bed);
    let elsewhere = Namespace::new().unwrap();
    macvlan((&bed.line.relay, "in0"), (&elsewhere, "mv0")).unwrap();
    elsewhere.set_up("mv0").unwrap();
    elsewhere.add_address("mv0", "10.1.0.9".parse().unwrap(), 24).unwrap();
    assert!(swallowed(&mut bed, 0), "nobody listens there yet");
    let there = Sink::open(&elsewhere, "239.1.1.1:5000@mv0");
    eventually("the listener is noticed", || !swallowed(&mut bed, 0));
    let sent = payloads(1, [200; 100]);
    source.send(&sent);
    sink.expect(&sent);
    there.expect(&sent);
    drop(there);
    wait_swallowed(&mut bed);
    elsewhere.delete_link("mv0").unwrap();
    // With the stack off the interface the bridge's ports get the frames; the rule goes on.
    bed.line.relay.bridge("br0").unwrap();
    bed.line.relay.set_master("in0", Some("br0")).unwrap();
    eventually("the bridge is noticed", || !swallowed(&mut bed, 0));
    bed.line.relay.set_master("in0", None).unwrap();
    wait_swallowed(&mut bed);
    bed.finish();
}

#[test]
fn a_killed_daemon_leaves_nothing_that_swallows() {
    let Some(()) = require::netns() else { return };
    let _lock = traffic_lock::take();
    let mut bed = Bed::new(Cell::PACKET_URING, 1);
    let listener = Sink::open(&bed.line.relay, "239.1.1.9:5000@in0");
    bed.add("rule", INPUT, &[OUTPUT]);
    wait_swallowed(&mut bed);
    assert_eq!(programs(&bed.line.relay, "in0"), 1);
    daemon::signal(bed.daemon.pid(), Signal::SIGKILL);
    eventually("the program is gone", || programs(&bed.line.relay, "in0") == 0);
    let source = Source::open(&bed.line.source, "10.1.0.1:0", "239.1.1.9:5000");
    let sent = payloads(1, [100; 10]);
    source.send(&sent);
    listener.expect(&sent);
}
