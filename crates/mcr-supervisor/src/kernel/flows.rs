//! Where the flows of the kernel data path are counted: their rows in the segment, given as they come, taken back with their rule.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
};

use mcr_metrics::Segment;
use mcr_proto::{
    counters::FLOWS_MAX,
    plan::{FlowSlot, RuleSlot},
};

/// The rows of all rules.
#[derive(Debug, Default)]
pub(super) struct Rows {
    of: BTreeMap<RuleSlot, HashMap<SocketAddr, FlowSlot>>,
    free: Vec<FlowSlot>,
    next: u32,
}

impl Rows {
    /// Counts datagrams and bytes of a flow of a rule, of which the first and the last came then, in nanoseconds since 1970.
    pub(super) fn count(
        &mut self,
        counters: &Segment,
        rule: RuleSlot,
        source: SocketAddr,
        [datagrams, bytes]: [u64; 2],
        [first_ns, last_ns]: [u64; 2],
    ) {
        let Self { of, free, next } = self;
        let rows = of.entry(rule).or_default();
        let known = rows.get(&source).copied().or_else(|| {
            let row = free.pop().or_else(|| {
                // The program's table has as many places; more are not told of but in passing.
                let row = ((*next as usize) < FLOWS_MAX).then_some(FlowSlot(*next))?;
                *next += 1;
                Some(row)
            })?;
            rows.insert(source, row);
            counters.begin_flow(row, rule, source, first_ns);
            Some(row)
        });
        match known {
            Some(row) => counters.flow(row).arrived(datagrams, bytes, last_ns),
            None => counters.flow_overflowed(rule, datagrams),
        }
    }

    /// Takes the rows of a rule back.
    pub(super) fn end(&mut self, counters: &Segment, rule: RuleSlot) {
        for row in self.of.remove(&rule).into_iter().flat_map(HashMap::into_values) {
            counters.flow(row).end();
            self.free.push(row);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_keeps_its_row_and_a_rule_that_goes_gives_its_rows_back() {
        let (counters, mut rows) = (Segment::create().expect("memory"), Rows::default());
        let source = |port: u16| SocketAddr::from(([10, 0, 0, 1], port));
        let listed = |rule: u32| {
            let flows = counters.flows_of(RuleSlot(rule));
            let mut flows: Vec<_> =
                flows.map(|(slot, sum)| (slot.0, sum.source.port(), sum.datagrams)).collect();
            flows.sort_unstable();
            flows
        };
        for (rule, port, datagrams) in [(1, 1, 2), (2, 1, 3), (1, 2, 4), (1, 1, 5)] {
            rows.count(&counters, RuleSlot(rule), source(port), [datagrams, 10], [5, 7]);
        }
        assert_eq!((listed(1), listed(2)), (vec![(0, 1, 7), (2, 2, 4)], vec![(1, 1, 3)]));
        rows.end(&counters, RuleSlot(1));
        assert_eq!((listed(1), listed(2)), (vec![], vec![(1, 1, 3)]));
        rows.count(&counters, RuleSlot(3), source(9), [1, 1], [8, 8]);
        let [(row, 9, 1)] = listed(3)[..] else { panic!("{:?}", listed(3)) };
        assert!(row == 0 || row == 2, "{row} is given again");
    }
}
