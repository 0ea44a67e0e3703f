//! Which flows were seen: a fixed table of hashes, so that counting a stranger's flows costs no memory.

use std::{hash::BuildHasher, net::SocketAddr};

use hashbrown::DefaultHashBuilder;
use mcr_proto::plan::RuleSlot;

/// Places in the table, all rules of a worker together; counting stops at three quarters.
const PLACES: usize = 1 << 16;
const FLOWS_MAX: usize = PLACES / 4 * 3;

#[derive(Debug, Clone, Copy, Default)]
struct Place {
    /// Hash of rule and source; 0 is an empty place.
    hash: u64,
    rule: u32,
}

#[derive(Debug)]
pub(super) struct Flows {
    places: Vec<Place>,
    used: usize,
    hasher: DefaultHashBuilder,
}

impl Flows {
    pub(super) fn new() -> Self {
        Self { places: vec![Place::default(); PLACES], used: 0, hasher: DefaultHashBuilder::default() }
    }

    /// True if this rule had not seen this source. Always false once the table is full.
    pub(super) fn insert(&mut self, rule: RuleSlot, source: SocketAddr) -> bool {
        let hash = self.hasher.hash_one((rule, source)).max(1);
        self.insert_hash(Place { hash, rule: rule.0 })
    }

    fn insert_hash(&mut self, new: Place) -> bool {
        let mut index = new.hash as usize % PLACES;
        // Ends: at least a quarter of the places is empty.
        while self.places[index].hash != 0 {
            if self.places[index].hash == new.hash {
                return false;
            }
            index = (index + 1) % PLACES;
        }
        if self.used == FLOWS_MAX {
            return false;
        }
        self.places[index] = new;
        self.used += 1;
        true
    }

    /// Forgets a rule's flows.
    pub(super) fn forget(&mut self, rule: RuleSlot) {
        if !self.places.iter().any(|place| place.hash != 0 && place.rule == rule.0) {
            return;
        }
        let places = std::mem::replace(&mut self.places, vec![Place::default(); PLACES]);
        self.used = 0;
        for place in places.into_iter().filter(|place| place.hash != 0 && place.rule != rule.0) {
            self.insert_hash(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
