//! The difference between two snapshots as changes, and changes applied again.
//!
//! Law: `a.replay(a.diff(b))` makes `a` equal to `b`.

use std::collections::BTreeMap;

use crate::snapshot::{Change, Snapshot, address_key};
use crate::types::Route;

impl Snapshot {
    /// What must change in `self` to make it `newer`: first what is gone, from neighbours to links, then what is
    /// new or different, from links to neighbours.
    pub fn diff(&self, newer: &Snapshot) -> Vec<Change> {
        let mut changes = Vec::new();
        changes.extend(gone(&self.neighbours, &newer.neighbours).copied().map(Change::NeighbourRemoved));
        changes.extend(self.routes().filter(|r| !newer.has_route(r)).copied().map(Change::RouteRemoved));
        changes.extend(gone(&self.addresses, &newer.addresses).copied().map(Change::AddressRemoved));
        changes.extend(gone(&self.links, &newer.links).cloned().map(Change::LinkRemoved));
        changes.extend(different(&self.links, &newer.links).map(|(old, new)| {
            match (old.cloned(), new.clone()) {
                (None, new) => Change::LinkAdded(new),
                (Some(old), new) => Change::LinkChanged { old, new },
            }
        }));
        changes.extend(different(&self.addresses, &newer.addresses).map(|(old, &new)| match old {
            None => Change::AddressAdded(new),
            Some(&old) => Change::AddressChanged { old, new },
        }));
        changes.extend(newer.routes().filter(|r| !self.has_route(r)).copied().map(Change::RouteAdded));
        let neighbours = different(&self.neighbours, &newer.neighbours);
        changes.extend(neighbours.map(|(old, &new)| Change::NeighbourChanged { old: old.copied(), new }));
        changes
    }

    /// Applies changes that another snapshot reported: a mirror stays equal to its original.
    pub fn replay<'a>(&mut self, changes: impl IntoIterator<Item = &'a Change>) {
        for change in changes {
            match change {
                Change::LinkAdded(new) | Change::LinkChanged { new, .. } => {
                    self.links.insert(new.index, new.clone());
                }
                Change::LinkRemoved(old) => drop(self.links.remove(&old.index)),
                Change::AddressAdded(new) | Change::AddressChanged { new, .. } => {
                    self.addresses.insert(address_key(new), *new);
                }
                Change::AddressRemoved(old) => drop(self.addresses.remove(&address_key(old))),
                Change::RouteAdded(route) => drop(self.insert_route(*route)),
                Change::RouteRemoved(route) => drop(self.remove_route(route)),
                Change::NeighbourChanged { new, .. } => {
                    self.neighbours.insert((new.index, new.address), *new);
                }
                Change::NeighbourRemoved(old) => drop(self.neighbours.remove(&(old.index, old.address))),
            }
        }
    }

    /// Makes the IPv4 routes those of `newer`, and appends what changed.
    pub(crate) fn take_v4_routes(&mut self, newer: &Snapshot, changes: &mut Vec<Change>) {
        let v4 = |route: &&Route| route.destination.is_ipv4();
        let old: Vec<Route> = self.routes().filter(v4).filter(|r| !newer.has_route(r)).copied().collect();
        let new: Vec<Route> = newer.routes().filter(v4).filter(|r| !self.has_route(r)).copied().collect();
        let first = changes.len();
        changes.extend(old.into_iter().map(Change::RouteRemoved));
        changes.extend(new.into_iter().map(Change::RouteAdded));
        self.replay(&changes[first..]);
    }
}

/// The values whose keys are no longer there.
fn gone<'a, K: Ord, V>(old: &'a BTreeMap<K, V>, new: &'a BTreeMap<K, V>) -> impl Iterator<Item = &'a V> {
    old.iter().filter(|(key, _)| !new.contains_key(key)).map(|(_, value)| value)
}

/// The values that are new or different, each with what was there.
fn different<'a, K: Ord, V: PartialEq>(
    old: &'a BTreeMap<K, V>,
    new: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = (Option<&'a V>, &'a V)> {
    new.iter().map(|(key, value)| (old.get(key), value)).filter(|(old, new)| *old != Some(new))
}
