//! The tracker against hand-made datagrams, and against a model that forgets nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;

fn sender(port: u16) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port)
}

fn datagram(flow: u32, sequence: u64) -> Vec<u8> {
    let mut payload = vec![0; 100];
    payload::write(&mut payload, &Header { run: 1, flow, sequence, sent_ns: 1_000 });
    payload
}

fn record(tracker: &mut Tracker, flow: u32, sequence: u64) -> Outcome {
    tracker.record(sender(1), &datagram(flow, sequence), 3_000)
}

#[test]
fn each_kind_of_datagram_lands_in_its_own_count() {
    let mut tracker = Tracker::new();
    assert_eq!(record(&mut tracker, 0, 1), Outcome::Received);
    assert_eq!(record(&mut tracker, 0, 4), Outcome::Received);
    assert_eq!(record(&mut tracker, 0, 2), Outcome::Reordered);
    assert_eq!(record(&mut tracker, 0, 2), Outcome::Duplicate);
    assert_eq!(record(&mut tracker, 0, 4), Outcome::Duplicate);
    assert_eq!(tracker.record(sender(1), b"something else", 0), Outcome::Foreign);
    let mut filler_damaged = datagram(0, 3);
    filler_damaged[99] ^= 1;
    assert_eq!(tracker.record(sender(1), &filler_damaged, 0), Outcome::Corrupt);
    let mut header_damaged = datagram(0, 3);
    header_damaged[9] ^= 1;
    assert_eq!(tracker.record(sender(1), &header_damaged, 0), Outcome::Corrupt);

    let totals = tracker.totals();
    let want = Totals {
        received: 3,
        lost: 2,
        duplicates: 2,
        reordered: 1,
        corrupt: 2,
        foreign: 1,
        bytes: 300,
        ..Totals::default()
    };
    assert_eq!(totals, want);
    let flows = tracker.flows();
    assert_eq!(flows.len(), 1);
    assert_eq!((flows[0].received, flows[0].lost, flows[0].corrupt), (3, 2, 1));
}

#[test]
fn loss_at_the_start_counts() {
    let mut tracker = Tracker::new();
    record(&mut tracker, 0, 10);
    assert_eq!(tracker.totals().lost, 10);
}

#[test]
fn a_datagram_behind_the_window_is_late_and_stays_lost() {
    let mut tracker = Tracker::new();
    record(&mut tracker, 0, 65_536);
    assert_eq!(record(&mut tracker, 0, 0), Outcome::Late);
    assert_eq!(record(&mut tracker, 0, 1), Outcome::Reordered);
    let totals = tracker.totals();
    assert_eq!((totals.received, totals.lost, totals.late), (2, 65_535, 1));
}

#[test]
fn flows_of_one_index_are_told_apart_by_sender_and_run() {
    let mut tracker = Tracker::new();
    let first = datagram(0, 0);
    let mut other_run = first.clone();
    payload::write(&mut other_run, &Header { run: 2, flow: 0, sequence: 0, sent_ns: 0 });
    assert_eq!(tracker.record(sender(1), &first, 0), Outcome::Received);
    assert_eq!(tracker.record(sender(2), &first, 0), Outcome::Received);
    assert_eq!(tracker.record(sender(1), &other_run, 0), Outcome::Received);
    assert_eq!(tracker.flows().len(), 3);
}

#[test]
fn flows_beyond_the_cap_are_counted_as_a_whole() {
    let mut tracker = Tracker::new();
    for flow in 0..FLOWS_TRACKED_MAX as u32 {
        assert_eq!(record(&mut tracker, flow, 0), Outcome::Received);
    }
    assert_eq!(record(&mut tracker, u32::MAX, 0), Outcome::Untracked);
    assert_eq!(record(&mut tracker, 5, 1), Outcome::Received);
    assert_eq!(tracker.totals().untracked, 1);
}

#[test]
fn delay_is_measured_once_for_each_datagram() {
    let mut tracker = Tracker::new();
    record(&mut tracker, 0, 0);
    tracker.record(sender(1), &datagram(0, 0), 9_000);
    let latency = tracker.latency_us().expect("one was received");
    assert_eq!((latency.min, latency.max), (2.0, 2.0));
}

#[test]
fn a_clock_that_runs_behind_gives_no_negative_delay() {
    let mut tracker = Tracker::new();
    tracker.record(sender(1), &datagram(0, 0), 0);
    assert_eq!(tracker.latency_us().expect("one was received").max, 0.0);
}

#[test]
fn a_sequence_without_successor_is_damage() {
    assert_eq!(record(&mut Tracker::new(), 0, u64::MAX), Outcome::Corrupt);
}

/// One step of a network that does everything to traffic but keep it for more than a window.
#[derive(Debug, Clone, Copy)]
enum Step {
    Intact { flow: u32, sequence: u64 },
    DamagedFiller { flow: u32, sequence: u64 },
    Foreign,
}

fn step() -> impl Strategy<Value = Step> {
    let place = (0u32..3, 0u64..200);
    prop_oneof![
        8 => place.clone().prop_map(|(flow, sequence)| Step::Intact { flow, sequence }),
        1 => place.prop_map(|(flow, sequence)| Step::DamagedFiller { flow, sequence }),
        1 => Just(Step::Foreign),
    ]
}

proptest! {
    #[test]
    fn the_books_agree_with_a_model_that_forgets_nothing(steps in prop::collection::vec(step(), 0..500)) {
        let mut tracker = Tracker::new();
        let mut seen: BTreeMap<u32, BTreeSet<u64>> = BTreeMap::new();
        let mut want = Totals::default();
        for step in &steps {
            match *step {
                Step::Intact { flow, sequence } => {
                    let seen = seen.entry(flow).or_default();
                    let behind = seen.last().is_some_and(|highest| *highest > sequence);
                    if seen.insert(sequence) {
                        want.received += 1;
                        want.reordered += u64::from(behind);
                    } else {
                        want.duplicates += 1;
                    }
                    record(&mut tracker, flow, sequence);
                }
                Step::DamagedFiller { flow, sequence } => {
                    want.corrupt += 1;
                    let mut payload = datagram(flow, sequence);
                    payload[50] ^= 0x80;
                    tracker.record(sender(1), &payload, 0);
                }
                Step::Foreign => {
                    want.foreign += 1;
                    tracker.record(sender(1), &[1, 2, 3], 0);
                }
            }
        }
        want.bytes = want.received * 100;
        want.lost = seen.values().map(|seen| seen.last().map_or(0, |highest| highest + 1) - seen.len() as u64).sum();
        let got = tracker.totals();
        prop_assert_eq!(got, want);
        let all = got.received + got.duplicates + got.late + got.corrupt + got.foreign + got.untracked;
        prop_assert_eq!(all, steps.len() as u64, "each datagram is in exactly one count");
        let flows = tracker.flows();
        prop_assert_eq!(flows.iter().map(|flow| flow.received).sum::<u64>(), got.received);
        prop_assert_eq!(flows.iter().map(|flow| flow.lost).sum::<u64>(), got.lost);
    }
}
