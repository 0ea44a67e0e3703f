//! Gaps between a rule's arrivals, and how much the time between them varies.

use std::time::{Duration, Instant};

use mcr_lab::{require, wait_until};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

use crate::{
    frames::v4,
    rig::{DEADLINE, IN, Rig},
};

/// What the kernel's coarse clock ticks in at most (CONFIG_HZ of 100), at both ends of a time.
const TICKS: Duration = Duration::from_millis(20);

/// The cores that this thread may run on.
fn cores() -> Vec<usize> {
    let all = sched_getaffinity(Pid::from_raw(0)).unwrap();
    (0..CpuSet::count()).filter(|core| all.is_set(*core).unwrap()).collect()
}

/// A frame that is sent on a core arrives there.
fn run_on(core: usize) {
    let mut one = CpuSet::new();
    one.set(core).unwrap();
    sched_setaffinity(Pid::from_raw(0), &one).unwrap();
}

/// Puts in a datagram of rule 1 and waits until it is through; it came at some time between the two.
fn arrive(rig: &mut Rig) -> (Instant, Instant) {
    let before = Instant::now();
    rig.send(&v4("10.1.0.1:4000", IN, 9, 0, b"x"));
    rig.seen();
    (before, Instant::now())
}

fn let_pass(time: Duration) {
    let start = Instant::now();
    wait_until(DEADLINE, "time passes", || start.elapsed() >= time).unwrap();
}

/// How long it was from one arrival to the next, at least and at most.
fn between(pair: &[(Instant, Instant)]) -> (Duration, Duration) {
    (pair[1].0.saturating_duration_since(pair[0].1), pair[1].1.duration_since(pair[0].0))
}

#[test]
fn the_longest_gap_is_that_of_all_cores_together() {
    let Some(()) = require::netns() else { return };
    let mut rig = Rig::new(1);
    rig.one_rule(false, 1);
    let (cores, mut arrivals) = (cores(), Vec::new());
    let other = *cores.last().unwrap();
    run_on(cores[0]);
    arrivals.push(arrive(&mut rig));
    assert_eq!(rig.totals().times[&1].gap_max_ns, None, "there was one only");
    run_on(other);
    for _ in 0..10 {
        let_pass(Duration::from_millis(50));
        arrivals.push(arrive(&mut rig));
    }
    let_pass(Duration::from_millis(200));
    // The core that saw the first one has seen none since.
    run_on(cores[0]);
    arrivals.push(arrive(&mut rig));
    let gaps: Vec<_> = arrivals.windows(2).map(between).collect();
    let (least, most) =
        (gaps.iter().map(|gap| gap.0).max().unwrap(), gaps.iter().map(|gap| gap.1).max().unwrap());
    let gap = Duration::from_nanos(rig.totals().times[&1].gap_max_ns.unwrap());
    assert!(least <= gap + TICKS && gap <= most + TICKS, "{gap:?} in {least:?}..{most:?}");
    let all = arrivals.last().unwrap().0.duration_since(arrivals[0].1);
    assert!(cores.len() == 1 || gap < all, "it was cut by others: {gap:?} of {all:?}");
    // A rule that is there again has no gap before its first datagram.
    let output = rig.output(0, 1, crate::rig::OUT);
    rig.path.remove_rule(mcr_proto::plan::RuleSlot(1));
    rig.totals();
    rig.rule(1, IN, vec![output]);
    arrive(&mut rig);
    let times = rig.totals().times[&1];
    assert_eq!((times.gap_max_ns, times.jitter_ns), (None, None));
}

#[test]
fn jitter_is_that_of_three_arrivals_in_a_row() {
    let Some(()) = require::netns() else { return };
    let mut rig = Rig::new(1);
    rig.one_rule(false, 1);
    run_on(cores()[0]);
    let mut arrivals = vec![arrive(&mut rig)];
    assert_eq!(rig.totals().times[&1].jitter_ns, None, "a sample is not complete");
    for pause in [400, 0] {
        let_pass(Duration::from_millis(pause));
        arrivals.push(arrive(&mut rig));
    }
    let [one, two] = [between(&arrivals[..2]), between(&arrivals[1..])];
    // How far two times are apart, of which each is known to lie between two others.
    let least = [one.0.saturating_sub(two.1), two.0.saturating_sub(one.1)].into_iter().max().unwrap();
    let most = one.1.abs_diff(two.0).max(two.1.abs_diff(one.0));
    // RFC 3550, section 6.4.1.
    let [least, most] = [least, most].map(|apart| apart.as_nanos() as f64 / 16.0);
    let first = rig.totals().times[&1].jitter_ns.unwrap();
    assert!((least - 2.0..=most + 2.0).contains(&(first as f64)), "{first} in {least}..{most}");
    // How many are passed over before the next sample is drawn by lot.
    wait_until(DEADLINE, "another sample is complete", || {
        arrive(&mut rig);
        rig.totals().times[&1].jitter_ns != Some(first)
    })
    .unwrap();
}
