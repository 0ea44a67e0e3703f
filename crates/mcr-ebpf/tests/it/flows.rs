//! Who sends to which rule, and how much.

use mcr_lab::require;
use mcr_proto::{counters::FLOWS_MAX, plan::RuleSlot};

use crate::{
    frames::v4,
    rig::{IN, OUT, Rig},
};

fn from(host: u8, port: u16) -> String {
    format!("10.1.0.{host}:{port}")
}

fn flow(rig: &mut Rig, rule: u32, source: &str) -> (u64, u64) {
    rig.totals().flows.get(&(rule, source.parse().unwrap())).copied().unwrap_or_default()
}

#[test]
fn each_sender_is_counted_whether_it_sends_in_a_row_or_in_turn_with_others() {
    let Some(()) = require::netns() else { return };
    let mut rig = Rig::new(1);
    let [input, to] = rig.one_rule(false, 1);
    let other = rig.output(0, 7, to);
    rig.rule(2, "239.1.1.2:5000", vec![other]);
    let [a, b, c] = [from(1, 4000), from(1, 4001), from(2, 4000)];
    let send = |rig: &mut Rig, source: &str, to: &str, count: usize| {
        (0..count).for_each(|_| rig.send(&v4(source, to, 9, 0, b"seven b")));
    };
    send(&mut rig, &a, input, 5);
    rig.seen();
    assert_eq!(flow(&mut rig, 1, &a), (5, 35), "of a CPU that has not told it yet");
    for _ in 0..10 {
        send(&mut rig, &a, input, 1);
        send(&mut rig, &b, input, 1);
        send(&mut rig, &c, input, 3);
        send(&mut rig, &c, "239.1.1.2:5000", 2);
    }
    rig.seen();
    let want = [(1, &a, 15), (1, &b, 10), (1, &c, 30), (2, &c, 20), (2, &a, 0)];
    assert_eq!(want.map(|(rule, source, _)| flow(&mut rig, rule, source).0), want.map(|(.., count)| count));
    let totals = rig.totals();
    assert_eq!((totals.rules[&1].2, totals.rules[&2].2, totals.overflow[&1]), (3, 1, 0));
    // More outputs than a new path has room for: other maps, which go on.
    let many: Vec<_> = (1000..2030).map(|slot| rig.output(0, slot, to)).collect();
    rig.rule(3, "239.1.1.9:5000", many);
    send(&mut rig, &b, input, 4);
    rig.seen();
    assert_eq!([&a, &b, &c].map(|source| flow(&mut rig, 1, source).0), [15, 14, 30]);
    assert_eq!(rig.totals().rules[&1].2, 3, "no flow is new in another map");
    // A rule that is there again begins anew.
    rig.path.remove_rule(RuleSlot(1));
    rig.totals();
    rig.totals.flows.clear();
    let output = rig.output(0, 1, OUT);
    rig.rule(1, IN, vec![output]);
    send(&mut rig, &b, input, 2);
    rig.seen();
    assert_eq!([&a, &b].map(|source| flow(&mut rig, 1, source).0), [0, 2]);
}

#[test]
fn what_finds_no_place_in_the_table_is_counted_together() {
    let Some(()) = require::netns() else { return };
    let mut rig = Rig::new(1);
    rig.one_rule(false, 1);
    let mut hand = rig.injector();
    let frames = |host: u8, ports: std::ops::Range<u32>| {
        ports.map(move |port| v4(&from(host, port as u16), IN, 9, 0, b"x"))
    };
    hand.send_steadily(frames(1, 1..FLOWS_MAX as u32 + 1));
    rig.seen();
    // The mark is a flow, too, and came last.
    let places = rig.totals().rules[&1].2;
    assert_eq!((places, rig.totals().overflow[&1]), (FLOWS_MAX as u64, 0));
    hand.send_steadily(frames(2, 1..21).flat_map(|frame| [frame.clone(), frame]));
    rig.seen();
    let totals = rig.totals();
    assert_eq!((totals.rules[&1].2, totals.overflow[&1]), (FLOWS_MAX as u64, 40));
    let listed: u64 = totals.flows.iter().filter(|((rule, _), _)| *rule == 1).map(|(_, flow)| flow.0).sum();
    assert_eq!(listed + 40, totals.rules[&1].0);
}
