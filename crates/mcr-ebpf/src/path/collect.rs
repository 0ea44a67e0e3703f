//! What the programs have counted since the last time: summed over CPUs, compared with what was told, and told.

use mcr_proto::plan::RuleSlot;

use super::KernelPath;
use crate::{
    counts::{Counts, Delta},
    flows::Reading,
    grace::Ticket,
    layout::RuleCounts,
    object,
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
        let rules = counters.rules.take_ended(ended);
        let outputs = counters.outputs.take_ended(ended);
        read(&object.inputs, &mut counters.inputs, |new, told, owner| each(new.since(told, owner)));
        let mut flows = Reading::of(object.flow_rows());
        read_rules(&object.rules, &mut counters.rules, &mut flows, |new, told, owner| {
            each(new.since(told, owner));
        });
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
    map: &object::PerCpu<RuleCounts>,
    pool: &mut Pool<RuleSlot, RuleCounts>,
    flows: &mut Reading,
    mut changed: impl FnMut(RuleCounts, RuleCounts, RuleSlot),
) {
    /// A CPU that changes its flow just now is looked at again.
    const TRIES: usize = 4;
    let is_whole = |counts: &RuleCounts| counts.changes == counts.changes_begun;
    for (place, owner, told) in pool.places() {
        let mut values = map.get(&place, 0);
        for _ in 1..TRIES {
            if values.as_ref().is_ok_and(|values| values.iter().all(is_whole)) {
                break;
            }
            values = map.get(&place, 0);
        }
        let Ok(values) = values else { continue };
        let mut new = values.iter().fold(RuleCounts::default(), |sum, value| sum.sum(*value));
        let untold = values.iter().filter(|value| is_whole(value)).map(|value| flows.add(place, value));
        new.overflow += untold.sum::<u64>();
        if new != *told {
            changed(new, *told, owner);
            *told = RuleCounts { overflow: new.overflow.max(told.overflow), ..new };
        }
    }
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
