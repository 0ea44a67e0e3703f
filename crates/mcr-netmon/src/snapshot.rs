//! The state of a network namespace at one moment, and what can change in it.
//!
//! Invariant: `lengths` counts, for each table and family, the routes of each prefix length, so that a lookup
//! probes only lengths that exist. Only `insert_route` and `remove_route` touch `routes`.

use std::collections::{BTreeMap, BTreeSet, btree_map};
use std::net::IpAddr;

use crate::types::{Address, Link, Neighbour, Route, Table};

/// Links that a snapshot holds at most.
pub const LINKS_MAX: usize = 65_536;
/// Addresses that a snapshot holds at most.
pub const ADDRESSES_MAX: usize = 262_144;
/// Routes that a snapshot holds at most: about a full Internet table.
pub const ROUTES_MAX: usize = 1_048_576;
/// Neighbours that a snapshot holds at most.
pub const NEIGHBOURS_MAX: usize = 65_536;

/// The links, addresses, routes and neighbours of a network namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    pub(crate) links: BTreeMap<u32, Link>,
    pub(crate) addresses: BTreeMap<AddressKey, Address>,
    routes: BTreeSet<Route>,
    lengths: BTreeMap<(Table, bool, u8), usize>,
    pub(crate) neighbours: BTreeMap<(u32, IpAddr), Neighbour>,
    pub(crate) left_out: u64,
}

/// (index, address, prefix, peer).
pub(crate) type AddressKey = (u32, IpAddr, u8, Option<IpAddr>);

/// One difference between two moments.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// A link appeared.
    LinkAdded(Link),
    /// A link is no longer as it was: name, hardware address, up, running...
    LinkChanged {
        /// As it was.
        old: Link,
        /// As it is.
        new: Link,
    },
    /// A link is gone.
    LinkRemoved(Link),
    /// An address appeared.
    AddressAdded(Address),
    /// An address is no longer as it was: tentative, deprecated...
    AddressChanged {
        /// As it was.
        old: Address,
        /// As it is.
        new: Address,
    },
    /// An address is gone.
    AddressRemoved(Address),
    /// A route appeared.
    RouteAdded(Route),
    /// A route is gone.
    RouteRemoved(Route),
    /// A neighbour appeared, or has another hardware address or state.
    NeighbourChanged {
        /// As it was, if it was there.
        old: Option<Neighbour>,
        /// As it is.
        new: Neighbour,
    },
    /// A neighbour is gone.
    NeighbourRemoved(Neighbour),
}

impl Snapshot {
    /// All links, by index.
    pub fn links(&self) -> impl Iterator<Item = &Link> {
        self.links.values()
    }

    /// The link with this index.
    pub fn link(&self, index: u32) -> Option<&Link> {
        self.links.get(&index)
    }

    /// The link with this name.
    pub fn link_by_name(&self, name: &str) -> Option<&Link> {
        self.links.values().find(|link| link.name == name)
    }

    /// All addresses, by interface, then family, then address.
    pub fn addresses(&self) -> impl Iterator<Item = &Address> {
        self.addresses.values()
    }

    /// The addresses of one interface.
    pub fn addresses_of(&self, index: u32) -> impl Iterator<Item = &Address> {
        self.addresses.range((index, LOWEST, 0, None)..).map(|(_, a)| a).take_while(move |a| a.index == index)
    }

    /// All routes of the main and local tables, by destination.
    pub fn routes(&self) -> impl Iterator<Item = &Route> {
        self.routes.iter()
    }

    /// All neighbours, by interface, then address.
    pub fn neighbours(&self) -> impl Iterator<Item = &Neighbour> {
        self.neighbours.values()
    }

    /// What the neighbour cache says of an address.
    pub fn neighbour(&self, index: u32, address: IpAddr) -> Option<&Neighbour> {
        self.neighbours.get(&(index, address))
    }

    /// How many objects were left out since the last full dump because the snapshot was full.
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    /// The neighbours of one interface.
    pub(crate) fn neighbours_of(&self, index: u32) -> impl Iterator<Item = &Neighbour> {
        let from = self.neighbours.range((index, LOWEST)..);
        from.map(|(_, n)| n).take_while(move |n| n.index == index)
    }

    /// The routes from `first` on, in order.
    pub(crate) fn routes_from(&self, first: Route) -> impl Iterator<Item = &Route> {
        self.routes.range(first..)
    }

    /// The prefix lengths in use in a table for a family, longest first.
    pub(crate) fn prefixes(&self, table: Table, v6: bool) -> impl Iterator<Item = u8> {
        self.lengths.range((table, v6, 0)..=(table, v6, u8::MAX)).rev().map(|(&(_, _, prefix), _)| prefix)
    }

    pub(crate) fn has_route(&self, route: &Route) -> bool {
        self.routes.contains(route)
    }

    pub(crate) fn routes_count(&self) -> usize {
        self.routes.len()
    }

    /// Adds a route; true if it was not there.
    pub(crate) fn insert_route(&mut self, route: Route) -> bool {
        let added = self.routes.insert(route);
        if added {
            *self.lengths.entry(length_key(&route)).or_default() += 1;
        }
        added
    }

    /// Removes a route; true if it was there.
    pub(crate) fn remove_route(&mut self, route: &Route) -> bool {
        let removed = self.routes.remove(route);
        if removed && let btree_map::Entry::Occupied(mut count) = self.lengths.entry(length_key(route)) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        removed
    }
}

/// The first address in order.
const LOWEST: IpAddr = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);

fn length_key(route: &Route) -> (Table, bool, u8) {
    (route.table, route.destination.is_ipv6(), route.prefix)
}

pub(crate) fn address_key(address: &Address) -> AddressKey {
    (address.index, address.address, address.prefix, address.peer)
}
