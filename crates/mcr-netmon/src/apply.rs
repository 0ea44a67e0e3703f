//! Updates to changes: what the kernel announced, applied to a snapshot.

use crate::message::Update;
use crate::snapshot::{ADDRESSES_MAX, Change, LINKS_MAX, NEIGHBOURS_MAX, ROUTES_MAX, Snapshot, address_key};
use crate::types::{Address, Link, Neighbour, Route, RouteKind};

/// Whether the snapshot needs more than the update said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "the kernel may have dropped routes without saying so"]
pub enum Followup {
    /// Nothing.
    None,
    /// Routes may have changed without being announced; they must be dumped again.
    DumpRoutes,
}

impl Snapshot {
    /// Applies one update and appends what changed; nothing if the update said what was known.
    pub fn apply(&mut self, update: Update, changes: &mut Vec<Change>) -> Followup {
        match update {
            Update::Link(link) => return self.set_link(link, changes),
            Update::LinkGone { index } => return self.drop_link(index, changes),
            Update::Address(address) => self.set_address(address, changes),
            Update::AddressGone(address) => return self.drop_address(&address, changes),
            Update::Routes { routes, replace } => return self.add_routes(&routes, replace, changes),
            Update::RoutesGone(routes) => {
                let gone = routes.iter().filter(|route| self.remove_route(route));
                changes.extend(gone.copied().map(Change::RouteRemoved));
            }
            Update::Neighbour(neighbour) => self.set_neighbour(neighbour, changes),
            Update::NeighbourGone { index, address } => {
                changes.extend(self.neighbours.remove(&(index, address)).map(Change::NeighbourRemoved));
            }
            Update::NextHops => return Followup::DumpRoutes,
            Update::Done | Update::Error { .. } | Update::Overrun => {}
        }
        Followup::None
    }

    fn set_link(&mut self, new: Link, changes: &mut Vec<Change>) -> Followup {
        let known = self.links.get(&new.index);
        if known == Some(&new) {
            return Followup::None;
        }
        if known.is_none() && self.links.len() >= LINKS_MAX {
            self.left_out += 1;
            return Followup::None;
        }
        let now_up = new.up;
        match self.links.insert(new.index, new.clone()) {
            None => changes.push(Change::LinkAdded(new)),
            Some(old) => {
                let went_down = old.up && !now_up;
                changes.push(Change::LinkChanged { old, new });
                if went_down {
                    return Followup::DumpRoutes;
                }
            }
        }
        Followup::None
    }

    /// With a link go its addresses and neighbours; the kernel says so too, but not always before.
    fn drop_link(&mut self, index: u32, changes: &mut Vec<Change>) -> Followup {
        let neighbours: Vec<_> = self.neighbours_of(index).map(|n| (n.index, n.address)).collect();
        for key in neighbours {
            changes.extend(self.neighbours.remove(&key).map(Change::NeighbourRemoved));
        }
        let addresses: Vec<_> = self.addresses_of(index).map(address_key).collect();
        for key in addresses {
            changes.extend(self.addresses.remove(&key).map(Change::AddressRemoved));
        }
        changes.extend(self.links.remove(&index).map(Change::LinkRemoved));
        Followup::DumpRoutes
    }

    fn set_address(&mut self, new: Address, changes: &mut Vec<Change>) {
        let key = address_key(&new);
        if !self.addresses.contains_key(&key) && self.addresses.len() >= ADDRESSES_MAX {
            self.left_out += 1;
            return;
        }
        match self.addresses.insert(key, new) {
            None => changes.push(Change::AddressAdded(new)),
            Some(old) if old != new => changes.push(Change::AddressChanged { old, new }),
            Some(_) => {}
        }
    }

    fn drop_address(&mut self, address: &Address, changes: &mut Vec<Change>) -> Followup {
        changes.extend(self.addresses.remove(&address_key(address)).map(Change::AddressRemoved));
        if address.address.is_ipv4() { Followup::DumpRoutes } else { Followup::None }
    }

    fn add_routes(&mut self, routes: &[Route], replace: bool, changes: &mut Vec<Change>) -> Followup {
        let mut followup = Followup::None;
        if let (true, Some(first)) = (replace, routes.first()) {
            let same: Vec<Route> = self.alternatives(first).copied().collect();
            // The kernel replaced one of them, and does not say which.
            if same.len() > 1 {
                followup = Followup::DumpRoutes;
            }
            for route in same.iter().filter(|route| !routes.contains(route)) {
                self.remove_route(route);
                changes.push(Change::RouteRemoved(*route));
            }
        }
        for &route in routes {
            if self.routes_count() >= ROUTES_MAX && !self.has_route(&route) {
                self.left_out += 1;
            } else if self.insert_route(route) {
                changes.push(Change::RouteAdded(route));
            }
        }
        followup
    }

    /// The routes that compete with `route`: same destination, table, metric and type of service.
    fn alternatives(&self, route: &Route) -> impl Iterator<Item = &Route> {
        let key = |r: &Route| (r.destination, r.prefix, r.table, r.metric, r.tos);
        let (first, wanted) = (lowest_like(route), key(route));
        self.routes_from(first).take_while(move |r| key(r) == wanted)
    }

    fn set_neighbour(&mut self, new: Neighbour, changes: &mut Vec<Change>) {
        let key = (new.index, new.address);
        if !self.neighbours.contains_key(&key) && self.neighbours.len() >= NEIGHBOURS_MAX {
            self.left_out += 1;
            return;
        }
        let old = self.neighbours.insert(key, new);
        if old != Some(new) {
            changes.push(Change::NeighbourChanged { old, new });
        }
    }
}

/// The first in order among the routes that compete with `route`.
fn lowest_like(route: &Route) -> Route {
    Route { kind: RouteKind::Unicast, index: None, gateway: None, source: None, ..*route }
}
