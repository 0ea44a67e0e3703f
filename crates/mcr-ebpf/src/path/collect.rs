//! What the programs have counted since the last time: summed over CPUs, compared with what was told, and told.

use mcr_proto::plan::RuleSlot;

use super::KernelPath;
use crate::{
    counts::{Counts, Delta, Times},
    flows::Reading,
    grace::Ticket,
    layout::{Arrivals, RuleCounts, Timing},
    object::{self, Object},
    pool::Pool,
};

impl KernelPath {
    /// Tells what was counted since the last time, leaving out what did not count.
    pub fn collect(&mut self, mut each: impl FnMut(Delta)) {
        self.carried.drain(..).for_each(&mut each);
        let Self { grace, object, counters, flows: told_flows, rules: known, .. } = self;
        // Asked before anything is read: what has ended counts no more.
        let passed = grace.passed();
        let ended = |ticket: Ticket| ticket <= passed;
        let inputs = counters.inputs.take_ended(ended);
        let mut rules = counters.rules.take_ended(ended);
        let outputs = counters.outputs.take_ended(ended);
        read(&object.inputs, &mut counters.inputs, |new, told, owner| each(new.since(told, owner)));
        let mut flows = Reading::of(object.flow_rows());
        read_rules(object, &mut counters.rules, &mut flows, &mut each);
        told_flows.tell(flows, |key, row| {
            // Of a rule that is gone there is nothing to be listed.
            let rule = counters.rules.owner(key.rule).filter(|_| counters.rules.is_current(key.rule));
            if let Some((slot, rule)) = rule.and_then(|slot| Some((slot, known.get(&slot)?))) {
                each(Delta::Flow {
                    slot,
                    source: key.source(rule.destination.is_ipv6()),
                    datagrams: row.datagrams,
                    bytes: row.bytes,
                    first_seen_ns: row.first_ns,
                    last_seen_ns: row.last_ns,
                });
            }
        });
        read(&object.outputs, &mut counters.outputs, |new, told, owner| each(new.since(told, owner)));
        if !rules.is_empty() {
            object.forget_flows(&rules);
            told_flows.forget(&rules.iter().copied().collect());
        }
        give(&mut object.inputs, &mut counters.inputs, inputs);
        rules.retain(|place| forget_times(object, *place).is_ok());
        give(&mut object.rules, &mut counters.rules, rules);
        give(&mut object.outputs, &mut counters.outputs, outputs);
    }
}

/// Reads every place in use and tells those that have changed.
fn read<O: Copy + Eq + std::hash::Hash, C: Counts + aya::Pod>(
    map: &object::PerCpu<C>,
    pool: &mut Pool<O, C>,
    mut changed: impl FnMut(C, C, O),
) {
    for (place, owner, told) in pool.places() {
        // A place that exists can be read; if not, it is told the next time.
        let Ok(values) = map.get(&place, 0) else { continue };
        let new = values.iter().fold(C::default(), |sum, value| sum.sum(*value));
        if new != *told {
            changed(new, *told, owner);
            *told = new;
        }
    }
}

/// As [`read`], for rules: what CPUs have not told their flows yet goes there.
fn read_rules(
    object: &Object,
    pool: &mut Pool<RuleSlot, RuleCounts>,
    flows: &mut Reading,
    each: &mut impl FnMut(Delta),
) {
    /// A CPU that changes its flow just now is looked at again.
    const TRIES: usize = 4;
    let is_whole = |counts: &RuleCounts| counts.changes == counts.changes_begun;
    for (place, owner, told) in pool.places() {
        let mut values = object.rules.get(&place, 0);
        for _ in 1..TRIES {
            if values.as_ref().is_ok_and(|values| values.iter().all(is_whole)) {
                break;
            }
            values = object.rules.get(&place, 0);
        }
        let Ok(values) = values else { continue };
        let mut new = values.iter().fold(RuleCounts::default(), |sum, value| sum.sum(*value));
        let untold = values.iter().filter(|value| is_whole(value)).map(|value| flows.add(place, value));
        new.overflow += untold.sum::<u64>();
        if new != *told {
            // Whoever saw the last one: where a rule's datagrams go to several CPUs, each sees another part of them.
            let last = (0..values.len()).max_by_key(|cpu| values[*cpu].last_ns);
            each(new.since(*told, owner, times(object, place, last)));
            *told = RuleCounts { overflow: new.overflow.max(told.overflow), ..new };
        }
    }
}

/// The times of a rule, its jitter as this CPU sees it.
fn times(object: &Object, place: u32, cpu: Option<usize>) -> Times {
    let gap_max_ns = object.arrivals.get(&place, 0).ok().map(|seen| seen.gap_max_ns);
    let timings = object.timings.get(&place, 0).ok();
    let timing = timings.as_ref().zip(cpu).and_then(|(timings, cpu)| timings.get(cpu));
    Times {
        gap_max_ns: gap_max_ns.filter(|gap_ns| *gap_ns != 0),
        jitter_ns: timing.filter(|timing| timing.samples != 0).map(|timing| timing.jitter_16 >> 4),
    }
}

fn forget_times(object: &mut Object, place: u32) -> std::io::Result<()> {
    object.arrivals.set(place, Arrivals::default(), 0).map_err(std::io::Error::other)?;
    object::clear::<Timing>(&mut object.timings, place)
}

/// Clears places that count no more, and makes them free.
fn give<O: Copy + Eq + std::hash::Hash, C: Counts + aya::Pod>(
    map: &mut object::PerCpu<C>,
    pool: &mut Pool<O, C>,
    ended: Vec<u32>,
) {
    for place in ended {
        if object::clear(map, place).is_ok() {
            pool.give(place);
        }
    }
}
