//! Where copies go: many, by many devices, not at all; and changes under traffic.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicBool, Ordering},
};

use mcr_lab::require;
use mcr_proto::{counters::OutputDrop, plan::RuleSlot};

use mcr_ebpf::{Output, Way};
use nix::libc::EINVAL;

use crate::{
    frames::{read, v4},
    rig::Rig,
};

const IN: &str = "239.1.1.1:5000";
const FROM: &str = "10.1.0.1:4000";

fn ports(rig: &Rig, first_slot: u32, ports: std::ops::Range<u16>) -> Vec<Output> {
    let output = |(slot, port)| rig.output(0, slot, &format!("239.2.2.2:{port}"));
    (first_slot..).zip(ports).map(output).collect()
}

#[test]
fn one_to_a_thousand_outputs_get_one_copy_each() {
    let Some(()) = require::netns() else { return };
    let mut rig = Rig::new(1);
    let to: Vec<String> = (6000..7000).map(|port| format!("239.2.2.2:{port}")).collect();
    rig.watch(&to.iter().map(String::as_str).collect::<Vec<_>>());
    for count in [1_u16, 2, 10, 1000] {
        let outputs = ports(&rig, 1, 6000..6000 + count);
        rig.rule(1, IN, outputs);
        for _ in 0..3 {
            rig.send(&v4(FROM, IN, 9, 0, b"fan-out"));
        }
        let mut copies = BTreeMap::new();
        for seen in rig.seen_at_first() {
            *copies.entry(read(&seen).destination.port()).or_insert(0) += 1;
        }
        assert_eq!(copies, (6000..6000 + count).map(|port| (port, 3)).collect());
    }
    let totals = rig.totals();
    assert_eq!(totals.rules[&1], (12, 84, 1));
    assert_eq!(totals.copies.values().map(|(copies, _)| copies).sum::<u64>(), 3 * (1 + 2 + 10 + 1000));
    assert_eq!(totals.copies[&1], (12, 84));
    assert_eq!(totals.copies[&1000], (3, 21));
}

#[test]
fn rules_of_one_input_each_get_every_datagram_by_their_own_devices() {
    let Some(()) = require::netns() else { return };
    let mut rig = Rig::new(3);
    rig.watch(&["239.2.2.2:6000"]);
    for (slot, devices) in [(1, vec![0]), (2, vec![1, 0]), (3, vec![2, 2])] {
        let slots = (slot * 10..).zip(devices);
        let outputs = slots.map(|(output, device)| rig.output(device, output, "239.2.2.2:6000")).collect();
        rig.rule(slot, IN, outputs);
    }
    rig.send(&v4(FROM, IN, 9, 0, b"all"));
    let counts: Vec<_> = rig.seen().iter().map(Vec::len).collect();
    assert_eq!(counts, [2, 1, 2]);
    let totals = rig.totals();
    assert_eq!(totals.matched, 1);
    assert_eq!(totals.rules.values().map(|rule| rule.0).collect::<Vec<_>>(), [1, 1, 1]);
    assert_eq!(totals.copies.values().map(|copies| copies.0).collect::<Vec<_>>(), [1, 1, 1, 1, 1]);
}

#[test]
fn what_an_output_cannot_send_is_counted_there_by_its_reason() {
    let Some(()) = require::netns() else { return };
    let mut rig = Rig::new(2);
    rig.watch(&["239.2.2.2:6000"]);
    let mut outputs: Vec<_> = (1..=6).map(|slot| rig.output(0, slot, "239.2.2.2:6000")).collect();
    outputs[0].way = Way::Nowhere(OutputDrop::NoNeighbour);
    outputs[1].way = Way::Nowhere(OutputDrop::NoRoute);
    if let Way::Device { mtu, .. } = &mut outputs[2].way {
        *mtu = 100;
    }
    // A device that is not there, and last one that works.
    if let Way::Device { ifindex, .. } = &mut outputs[3].way {
        *ifindex = 4_000_000;
    }
    outputs[4].way = rig.way(1, rig.sink_mac(1));
    rig.rule(1, IN, outputs);
    rig.send(&v4(FROM, IN, 9, 0, &[b'x'; 72]));
    rig.send(&v4(FROM, IN, 9, 0, &[b'x'; 73]));
    let counts: Vec<_> = rig.seen().iter().map(Vec::len).collect();
    assert_eq!(counts, [3, 2]);
    let totals = rig.totals();
    let mut drops = totals.output_drops.clone();
    drops.sort_unstable();
    let expected = [
        (1, OutputDrop::NoNeighbour, 2),
        (2, OutputDrop::NoRoute, 2),
        (3, OutputDrop::TooBig, 1),
        (4, OutputDrop::SendError, 2),
    ];
    assert_eq!(drops, expected);
    assert_eq!(totals.errnos, [EINVAL]);
    let copies: Vec<_> = totals.copies.iter().map(|(slot, (copies, _))| (*slot, *copies)).collect();
    assert_eq!(copies, [(1, 0), (2, 0), (3, 1), (4, 0), (5, 2), (6, 2)]);
}

#[test]
fn the_last_output_ends_the_frame_even_where_it_cannot_send() {
    let Some(()) = require::netns() else { return };
    let mut rig = Rig::new(1);
    rig.watch(&["239.2.2.2:6000"]);
    let mut outputs: Vec<_> = (1..=2).map(|slot| rig.output(0, slot, "239.2.2.2:6000")).collect();
    outputs[1].way = Way::Nowhere(OutputDrop::NoNeighbour);
    rig.rule(1, IN, outputs);
    rig.send(&v4(FROM, IN, 9, 0, b"last"));
    assert_eq!(rig.seen_at_first().len(), 1);
    let totals = rig.totals();
    assert_eq!((totals.copies[&1].0, &totals.output_drops[..]), (1, &[(2, OutputDrop::NoNeighbour, 1)][..]));
}

#[test]
fn every_datagram_finds_the_outputs_of_before_or_of_after_a_change_never_a_part() {
    let Some(()) = require::netns() else { return };
    let mut rig = Rig::new(1);
    let to: Vec<String> = (6000..6100).map(|port| format!("239.2.2.2:{port}")).collect();
    rig.watch(&to.iter().map(String::as_str).collect::<Vec<_>>());
    let few = ports(&rig, 1, 6000..6003);
    let many = ports(&rig, 10, 6010..6031);
    rig.rule(1, IN, few.clone());
    let (few_ports, many_ports): (BTreeSet<u16>, BTreeSet<u16>) =
        ((6000..6003).collect(), (6010..6031).collect());
    let mut injector = rig.injector();
    let sent = 10_000_u32;
    std::thread::scope(|scope| {
        let sender = scope.spawn(move || {
            injector.send_steadily((0..sent).map(|number| v4(FROM, IN, 9, 0, &number.to_be_bytes())));
        });
        while !sender.is_finished() {
            rig.rule(1, IN, many.clone());
            rig.rule(1, IN, few.clone());
        }
    });
    let mut copies: BTreeMap<Vec<u8>, BTreeSet<u16>> = BTreeMap::new();
    let mut count = 0_u64;
    for seen in rig.seen_at_first() {
        let fields = read(&seen);
        assert!(copies.entry(fields.payload).or_default().insert(fields.destination.port()), "a copy twice");
        count += 1;
    }
    assert_eq!(copies.len(), sent as usize, "every datagram was taken");
    let (with_few, with_many): (Vec<_>, Vec<_>) = copies.values().partition(|ports| **ports == few_ports);
    assert!(with_many.iter().all(|ports| **ports == many_ports), "half-written outputs were seen");
    assert!(!with_few.is_empty() && !with_many.is_empty(), "{} {}", with_few.len(), with_many.len());
    let totals = rig.totals();
    assert_eq!(totals.matched, u64::from(sent));
    assert_eq!(totals.rules[&1].0, u64::from(sent));
    assert_eq!(totals.copies.values().map(|(copies, _)| copies).sum::<u64>(), count);
}

#[test]
fn more_rules_than_the_first_maps_hold_move_into_larger_ones_without_a_loss() {
    let Some(()) = require::netns() else { return };
    let mut rig = Rig::new(1);
    rig.watch(&["239.2.2.2:6000"]);
    let output = rig.output(0, 1, "239.2.2.2:6000");
    rig.rule(1, IN, vec![output.clone()]);
    let stop = AtomicBool::new(false);
    let mut injector = rig.injector();
    let sent = std::thread::scope(|scope| {
        let stop = &stop;
        let sender = scope.spawn(move || {
            let mut sent = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                injector.send(&v4(FROM, IN, 9, 0, b"steady"));
                sent += 1;
                std::thread::yield_now();
            }
            sent
        });
        // The maps begin with 256 rules and 1,024 outputs.
        for rule in 2..900_u32 {
            let mut outputs: Vec<_> = (0..4)
                .map(|index| Output { slot: mcr_proto::plan::OutputSlot(rule * 4 + index), ..output.clone() })
                .collect();
            outputs.iter_mut().for_each(|output| output.way = Way::Nowhere(OutputDrop::NoNeighbour));
            let input = format!("239.3.{}.{}:5000", rule / 250, rule % 250 + 1);
            rig.rule(rule, &input, outputs);
        }
        stop.store(true, Ordering::Relaxed);
        sender.join().expect("the sender ends")
    });
    rig.send(&v4(FROM, "239.3.3.100:5000", 9, 0, b"last rule"));
    assert_eq!(rig.seen_at_first().len() as u64, sent);
    let totals = rig.totals();
    assert_eq!(totals.rules[&1], (sent, sent * 6, 1), "no count is lost, no flow counted again");
    assert_eq!(totals.copies[&1].0, sent);
    assert_eq!(totals.rules[&849], (1, 9, 1));
    for rule in 1..900 {
        rig.path.remove_rule(RuleSlot(rule));
    }
    rig.send(&v4(FROM, IN, 9, 0, b"nobody"));
    assert_eq!(rig.seen_at_first().len(), 0);
    assert_eq!(rig.totals().rules[&1].0, sent);
}

#[test]
fn what_a_removed_rule_counted_is_still_told() {
    let Some(()) = require::netns() else { return };
    let mut rig = Rig::new(1);
    rig.watch(&["239.2.2.2:6000"]);
    for round in 1..=3 {
        let output = rig.output(0, 1, "239.2.2.2:6000");
        rig.rule(1, IN, vec![output]);
        rig.send(&v4(FROM, IN, 9, 0, b"counted"));
        assert_eq!(rig.seen_at_first().len(), 1);
        rig.path.remove_rule(RuleSlot(1));
        let totals = rig.totals();
        // A rule that was away knows no flow of before.
        assert_eq!((totals.rules[&1], totals.copies[&1].0), ((round, round * 7, round), round));
    }
}

#[test]
fn a_successor_takes_over_without_a_datagram_for_both_or_neither() {
    let Some(()) = require::netns() else { return };
    let mut rig = Rig::new(1);
    rig.watch(&["239.2.2.2:6000"]);
    let output = rig.output(0, 1, "239.2.2.2:6000");
    rig.rule(1, IN, vec![output.clone()]);
    let mut injector = rig.injector();
    let sent = 10_000_u64;
    std::thread::scope(|scope| {
        let sender = scope.spawn(move || {
            injector.send_steadily((0..sent).map(|_| v4(FROM, IN, 9, 0, b"steady")));
        });
        for rule in 2.. {
            let output = Output { slot: mcr_proto::plan::OutputSlot(rule), ..output.clone() };
            let rule_of = rig.rule_of(IN, vec![output]);
            rig.path.succeed(RuleSlot(rule - 1), RuleSlot(rule), rule_of).unwrap();
            if sender.is_finished() {
                break;
            }
        }
    });
    assert_eq!(rig.seen_at_first().len() as u64, sent);
    let totals = rig.totals();
    assert_eq!(totals.matched, sent);
    assert_eq!(totals.rules.values().map(|rule| rule.0).sum::<u64>(), sent);
    assert!(totals.rules.values().filter(|rule| rule.0 > 0).count() > 2, "{:?}", totals.rules);
    assert!(rig.path.is_settled());
}
