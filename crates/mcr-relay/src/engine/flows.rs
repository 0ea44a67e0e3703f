//! Which flows were seen, and where each is counted: a fixed table of hashes, so that counting a stranger's flows costs no memory. A
//! flow's place in the table is its place among the counters.
//!
//! A flow is in two chains: that of its bucket, to be found by, and that of its rule, to be forgotten by. Forgetting a rule so
//! looks at its own flows and no others.

use std::{hash::BuildHasher, net::SocketAddr};

use hashbrown::DefaultHashBuilder;
use mcr_proto::{
    counters::FLOWS_MAX,
    plan::{FlowSlot, RuleSlot},
};

const BUCKETS: usize = 1 << 16;
const _: () = assert!(FLOWS_MAX <= BUCKETS / 4 * 3, "buckets hold less than one flow on average");
/// No flow.
const NONE: u32 = u32::MAX;

#[derive(Debug, Clone, Copy)]
struct Flow {
    /// Hash of rule and source.
    hash: u64,
    next_in_bucket: u32,
    next_of_rule: u32,
}

#[derive(Debug)]
pub(super) struct Flows {
    /// The first flow of each bucket.
    buckets: Vec<u32>,
    /// The first flow of each rule, by its slot.
    rules: Vec<u32>,
    /// Grows to [`FLOWS_MAX`], which is its capacity from the beginning.
    flows: Vec<Flow>,
    /// The first of those that were forgotten, chained as if of one rule.
    free: u32,
    hasher: DefaultHashBuilder,
    #[cfg(test)]
    pub(super) looked_at: usize,
}

impl Flows {
    pub(super) fn new() -> Self {
        Self {
            buckets: vec![NONE; BUCKETS],
            rules: Vec::new(),
            flows: Vec::with_capacity(FLOWS_MAX),
            free: NONE,
            hasher: DefaultHashBuilder::default(),
            #[cfg(test)]
            looked_at: 0,
        }
    }

    /// Makes room for a rule, so that counting its first flow need not.
    pub(super) fn expect(&mut self, rule: RuleSlot) {
        let index = rule.0 as usize;
        if self.rules.len() <= index {
            self.rules.resize(index + 1, NONE);
        }
    }

    /// Where a rule's flow from this source is counted, and whether it is new there; none if the table is full.
    pub(super) fn place_of(&mut self, rule: RuleSlot, source: SocketAddr) -> Option<(FlowSlot, bool)> {
        let hash = self.hasher.hash_one((rule, source));
        let bucket = hash as usize % BUCKETS;
        let mut at = self.buckets[bucket];
        while let Some(flow) = self.flows.get(at as usize) {
            if flow.hash == hash {
                return Some((FlowSlot(at), false));
            }
            at = flow.next_in_bucket;
        }
        let place = self.place()?;
        self.expect(rule);
        let first = &mut self.rules[rule.0 as usize];
        self.flows[place as usize] =
            Flow { hash, next_in_bucket: self.buckets[bucket], next_of_rule: *first };
        *first = place;
        self.buckets[bucket] = place;
        Some((FlowSlot(place), true))
    }

    /// The places of a rule's flows.
    pub(super) fn of(&self, rule: RuleSlot) -> impl Iterator<Item = FlowSlot> + '_ {
        let first = self.rules.get(rule.0 as usize).copied();
        let next = |at: &u32| self.flows.get(*at as usize).map(|flow| flow.next_of_rule);
        let places = std::iter::successors(first, next);
        places.take_while(|at| *at != NONE).map(FlowSlot)
    }

    /// A place for a new flow, if there is one.
    fn place(&mut self) -> Option<u32> {
        if let Some(flow) = self.flows.get(self.free as usize) {
            return Some(std::mem::replace(&mut self.free, flow.next_of_rule));
        }
        (self.flows.len() < FLOWS_MAX).then(|| {
            self.flows.push(Flow { hash: 0, next_in_bucket: NONE, next_of_rule: NONE });
            (self.flows.len() - 1) as u32
        })
    }

    /// Forgets a rule's flows.
    pub(super) fn forget(&mut self, rule: RuleSlot) {
        let Some(first) = self.rules.get_mut(rule.0 as usize) else { return };
        let mut at = std::mem::replace(first, NONE);
        while let Some(&Flow { hash, next_of_rule, .. }) = self.flows.get(at as usize) {
            self.unchain(hash as usize % BUCKETS, at);
            self.flows[at as usize].next_of_rule = std::mem::replace(&mut self.free, at);
            at = next_of_rule;
        }
    }

    /// Takes a flow out of its bucket.
    fn unchain(&mut self, bucket: usize, flow: u32) {
        let next = self.flows[flow as usize].next_in_bucket;
        let mut before = None;
        let mut at = self.buckets[bucket];
        while at != flow {
            before = Some(at as usize);
            at = self.flows[at as usize].next_in_bucket;
            #[cfg(test)]
            {
                self.looked_at += 1;
            }
        }
        match before {
            None => self.buckets[bucket] = next,
            Some(before) => self.flows[before].next_in_bucket = next,
        }
        #[cfg(test)]
        {
            self.looked_at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Flows {
        /// Whether the flow is new and has a place.
        fn insert(&mut self, rule: RuleSlot, source: SocketAddr) -> bool {
            self.place_of(rule, source).is_some_and(|(_, new)| new)
        }
    }

    #[test]
    fn a_flow_keeps_its_place_until_its_rule_is_forgotten() {
        let mut flows = Flows::new();
        let source = |port: u16| SocketAddr::from(([10, 0, 0, 1], port));
        let places: Vec<_> = (0..10).map(|port| flows.place_of(RuleSlot(1), source(port))).collect();
        let other = flows.place_of(RuleSlot(2), source(0));
        let again: Vec<_> = (0..10).map(|port| flows.place_of(RuleSlot(1), source(port))).collect();
        assert!(places.iter().zip(&again).all(|(one, two)| one.unwrap().0 == two.unwrap().0));
        let mut of: Vec<_> = flows.of(RuleSlot(1)).collect();
        of.sort_unstable();
        assert_eq!(of, places.iter().map(|place| place.unwrap().0).collect::<Vec<_>>());
        flows.forget(RuleSlot(1));
        assert_eq!((flows.of(RuleSlot(1)).count(), flows.of(RuleSlot(9)).count()), (0, 0));
        assert_eq!(flows.place_of(RuleSlot(2), source(0)), other.map(|(place, _)| (place, false)));
    }

    #[test]
    fn a_flow_is_new_once_for_each_rule() {
        let mut flows = Flows::new();
        let source = "10.0.0.1:4000".parse().expect("address");
        assert!(flows.insert(RuleSlot(1), source));
        assert!(!flows.insert(RuleSlot(1), source));
        assert!(flows.insert(RuleSlot(2), source));
        flows.forget(RuleSlot(1));
        assert!(!flows.insert(RuleSlot(2), source));
        assert!(flows.insert(RuleSlot(1), source));
    }

    #[test]
    fn a_full_table_counts_no_further_and_still_ends() {
        let mut flows = Flows::new();
        let mut new = 0;
        for port in 1..=u16::MAX {
            new += usize::from(flows.insert(RuleSlot(1), ([10, 0, 0, 1], port).into()));
        }
        assert_eq!(new, FLOWS_MAX);
        assert!(!flows.insert(RuleSlot(1), ([10, 0, 0, 2], 1).into()));
    }

    #[test]
    fn forgetting_a_rule_looks_at_its_own_flows_only() {
        let mut flows = Flows::new();
        let source = |port: u16| SocketAddr::from(([10, 0, 0, 1], port));
        for rule in 0..10_000 {
            assert!((1..=4).all(|port| flows.insert(RuleSlot(rule), source(port))));
        }
        flows.forget(RuleSlot(5000));
        // Four flows, and what lies before them in their buckets: each holds less than one, on average.
        assert!(flows.looked_at <= 40, "{}", flows.looked_at);
        flows.forget(RuleSlot(70_000));
        assert!((1..=4).all(|port| !flows.insert(RuleSlot(4999), source(port))));
        assert!(
            (1..=4).all(|port| flows.insert(RuleSlot(5000), source(port))),
            "their places are free again"
        );
        assert_eq!(flows.flows.len(), 40_000);
    }
}
