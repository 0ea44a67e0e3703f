//! Who sends to which rule: the rows of the program's table, and what its CPUs have counted since they told the table.
//!
//! A CPU tells a flow's row when another flow comes; so what a row lacks is in the counters of the rule, at the CPUs that saw the flow
//! last. Rows are read before those, so that a datagram that moves from one to the other meanwhile is missed until the next time, and
//! never counted twice.

use std::collections::{HashMap, HashSet};

use crate::layout::{FlowCounts, FlowKey, RuleCounts};

/// What the flows had counted when they were last told of.
#[derive(Debug, Default)]
pub(crate) struct Flows {
    told: HashMap<FlowKey, FlowCounts>,
    /// What tables that are no more had counted.
    before: HashMap<FlowKey, FlowCounts>,
}

/// Rows as they are read, on the way to what is to be told.
#[derive(Debug, Default)]
pub(crate) struct Reading(HashMap<FlowKey, FlowCounts>);

impl Reading {
    /// Takes the rows of the table, before any CPU's counters.
    pub(crate) fn of(rows: Vec<(FlowKey, FlowCounts)>) -> Self {
        Self(rows.into_iter().collect())
    }

    /// Takes what one CPU has not told yet of the flow that it saw last at a rule. Gives how many datagrams of it have no row.
    pub(crate) fn add(&mut self, rule: u32, counts: &RuleCounts) -> u64 {
        let datagrams = counts.datagrams.saturating_sub(counts.told_datagrams);
        let Some(port) = counts.last_port.checked_sub(1).filter(|_| datagrams > 0) else { return 0 };
        let Some(row) = self.0.get_mut(&FlowKey { rule, port, source: counts.last_source }) else {
            return datagrams;
        };
        row.datagrams += datagrams;
        row.bytes += counts.bytes.saturating_sub(counts.told_bytes);
        row.last_ns = row.last_ns.max(counts.last_ns);
        0
    }
}

impl Flows {
    /// Tells what is new of each flow: its key, datagrams and bytes since the last time, and when its first and last datagrams came.
    pub(crate) fn tell(&mut self, read: Reading, mut each: impl FnMut(FlowKey, FlowCounts)) {
        for (key, row) in read.0 {
            let before = self.before.get(&key).copied().unwrap_or_default();
            let now = FlowCounts {
                datagrams: before.datagrams + row.datagrams,
                bytes: before.bytes + row.bytes,
                first_ns: if before.datagrams > 0 { before.first_ns } else { row.first_ns },
                last_ns: before.last_ns.max(row.last_ns),
            };
            let told = self.told.entry(key).or_default();
            // Less, where something was on its way from a CPU to the row.
            if now.datagrams > told.datagrams {
                let (datagrams, bytes) =
                    (now.datagrams - told.datagrams, now.bytes.saturating_sub(told.bytes));
                *told = FlowCounts { bytes: now.bytes.max(told.bytes), ..now };
                each(key, FlowCounts { datagrams, bytes, ..now });
            }
        }
    }

    /// Forgets the flows of rules, by their places.
    pub(crate) fn forget(&mut self, rules: &HashSet<u32>) {
        self.told.retain(|key, _| !rules.contains(&key.rule));
        self.before.retain(|key, _| !rules.contains(&key.rule));
    }

    /// The table is another from now on, which begins at zero; all of the old one was told.
    pub(crate) fn begin_anew(&mut self) {
        self.before = self.told.clone();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(rule: u32, port: u32) -> FlowKey {
        FlowKey { rule, port, source: [9, 0, 0, 0] }
    }

    fn row(datagrams: u64) -> FlowCounts {
        FlowCounts { datagrams, bytes: 10 * datagrams, first_ns: 5, last_ns: 5 + datagrams }
    }

    /// A CPU that has told of two of its datagrams, and saw this flow last.
    fn cpu(datagrams: u64, port: u32) -> RuleCounts {
        RuleCounts {
            datagrams,
            bytes: 10 * datagrams,
            last_ns: 50,
            last_source: [9, 0, 0, 0],
            last_port: port + 1,
            told_datagrams: 2,
            told_bytes: 20,
            ..RuleCounts::default()
        }
    }

    fn told(flows: &mut Flows, read: Reading) -> Vec<(u32, u64, u64, u64)> {
        let mut all = Vec::new();
        flows.tell(read, |key, row| all.push((key.port, row.datagrams, row.bytes, row.last_ns)));
        all.sort_unstable();
        all
    }

    #[test]
    fn a_flow_has_what_its_row_says_and_what_cpus_have_not_told_it_yet() {
        let mut flows = Flows::default();
        let mut read = Reading::of(vec![(key(1, 0), row(2)), (key(1, 7), row(3)), (key(2, 7), row(1))]);
        assert_eq!((read.add(1, &cpu(6, 0)), read.add(1, &cpu(2, 7)), read.add(2, &cpu(3, 7))), (0, 0, 0));
        assert_eq!(read.add(1, &cpu(5, 8)), 3, "no row");
        assert_eq!(read.add(3, &RuleCounts { datagrams: 9, ..RuleCounts::default() }), 0, "no flow");
        assert_eq!(told(&mut flows, read), [(0, 6, 60, 50), (7, 2, 20, 50), (7, 3, 30, 8)]);
        // On its way from a CPU to the row: nothing goes back, and nothing is told twice.
        assert_eq!(told(&mut flows, Reading::of(vec![(key(1, 0), row(2))])), []);
        assert_eq!(told(&mut flows, Reading::of(vec![(key(1, 0), row(7))])), [(0, 1, 10, 12)]);
    }

    #[test]
    fn another_table_goes_on_from_what_was_told_and_what_is_forgotten_begins_anew() {
        let mut flows = Flows::default();
        assert_eq!(told(&mut flows, Reading::of(vec![(key(1, 0), row(4)), (key(2, 0), row(4))])).len(), 2);
        flows.begin_anew();
        assert_eq!(told(&mut flows, Reading::of(vec![(key(1, 0), row(1))])), [(0, 1, 10, 9)]);
        flows.forget(&HashSet::from([1]));
        assert_eq!(told(&mut flows, Reading::of(vec![(key(1, 0), row(1))])), [(0, 1, 10, 6)]);
        assert_eq!(told(&mut flows, Reading::of(vec![(key(2, 0), row(1))])), [(0, 1, 10, 9)]);
    }
}
