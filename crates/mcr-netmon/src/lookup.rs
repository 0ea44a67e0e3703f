//! Where would the kernel send this, and with which source address?
//!
//! An answer from the snapshot, for planning; the kernel decides for itself when something is sent. Limits: policy
//! rules, marks and types of service are not looked at, only the tables local and main in that order; of several
//! next hops the one on the lowest interface index is given; carrier is not looked at. For IPv6 multicast every
//! link has the same route, so name the interface instead of asking.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::snapshot::Snapshot;
use crate::types::{Address, Route, RouteKind, Table};

/// Where a destination leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RouteHit {
    /// The interface to send by.
    pub index: u32,
    /// The next hop; none if the destination is on the link itself.
    pub gateway: Option<IpAddr>,
    /// The source address that fits.
    pub source: Option<IpAddr>,
    /// What the route does; `Local` is this host itself.
    pub kind: RouteKind,
}

/// `RT_SCOPE_UNIVERSE`.
const SCOPE_GLOBAL: u8 = 0;

impl Snapshot {
    /// The route to a destination: the longest prefix, then the lowest metric. `None` if there is none, or if
    /// it refuses (blackhole, unreachable, prohibit).
    pub fn route_to(&self, destination: IpAddr) -> Option<RouteHit> {
        let mut tables = [Table::Local, Table::Main].into_iter();
        tables.find_map(|table| self.route_in(table, destination, None)).flatten()
    }

    /// The route to a destination for one who sends by a given interface (as with SO_BINDTODEVICE): the longest prefix among the
    /// routes by it. Without any, the destination is taken to be on its link.
    pub fn route_by(&self, destination: IpAddr, index: u32) -> Option<RouteHit> {
        let mut tables = [Table::Local, Table::Main].into_iter();
        let found = tables.find_map(|table| self.route_in(table, destination, Some(index))).flatten();
        found.or_else(|| {
            let source = self.source_towards(index, destination);
            self.link(index)?;
            Some(RouteHit { index, gateway: None, source, kind: RouteKind::Unicast })
        })
    }

    /// The source address for sending to `next_hop` by an interface: one whose network holds the next hop, then
    /// one not deprecated, not secondary, of global scope, then the lowest.
    pub fn source_towards(&self, index: u32, next_hop: IpAddr) -> Option<IpAddr> {
        let fits = |a: &Address| a.address.is_ipv4() == next_hop.is_ipv4() && !a.tentative;
        let covers = |a: &Address| {
            a.peer == Some(next_hop) || network_of(a.address, a.prefix) == network_of(next_hop, a.prefix)
        };
        let rank = |a: &&Address| (!covers(a), a.deprecated, a.secondary, a.scope != SCOPE_GLOBAL);
        self.addresses_of(index).filter(|a| fits(a)).min_by_key(rank).map(|a| a.address)
    }

    /// The IPv4 address to use as source on an interface.
    pub fn source_v4(&self, index: u32) -> Option<Ipv4Addr> {
        match self.source_towards(index, Ipv4Addr::UNSPECIFIED.into())? {
            IpAddr::V4(v4) => Some(v4),
            IpAddr::V6(_) => None,
        }
    }

    /// The IPv6 address to use as source on an interface; a global one before a link-local one.
    pub fn source_v6(&self, index: u32) -> Option<Ipv6Addr> {
        match self.source_towards(index, Ipv6Addr::UNSPECIFIED.into())? {
            IpAddr::V4(_) => None,
            IpAddr::V6(v6) => Some(v6),
        }
    }

    /// `None`: the next table decides. `Some(None)`: this table refuses.
    fn route_in(&self, table: Table, destination: IpAddr, by: Option<u32>) -> Option<Option<RouteHit>> {
        for prefix in self.prefixes(table, destination.is_ipv6()) {
            let first = first_route(network_of(destination, prefix), prefix, table);
            let same = |r: &&Route| {
                (r.destination, r.prefix, r.table) == (first.destination, first.prefix, first.table)
            };
            for route in self.routes_from(first).take_while(same).filter(|r| r.tos == 0) {
                if by.is_some() && route.index != by {
                    continue;
                }
                match route.kind {
                    RouteKind::Throw => return None,
                    RouteKind::Blackhole | RouteKind::Unreachable | RouteKind::Prohibit => return Some(None),
                    _ => {}
                }
                if let Some(hit) = self.hit(route, destination) {
                    return Some(Some(hit));
                }
            }
        }
        None
    }

    /// The route as a hit, unless its link is down or unknown.
    fn hit(&self, route: &Route, destination: IpAddr) -> Option<RouteHit> {
        let index = route.index?;
        if !self.link(index)?.up {
            return None;
        }
        let gateway = route.gateway;
        let next_hop = gateway.filter(|g| g.is_ipv4() == destination.is_ipv4()).unwrap_or(destination);
        // To itself a host speaks from the address it speaks to.
        let own = Some(destination).filter(|_| route.kind == RouteKind::Local);
        let source = route.source.or(own).or_else(|| self.source_towards(index, next_hop));
        Some(RouteHit { index, gateway, source, kind: route.kind })
    }
}

/// The first in order among the routes to a destination in a table.
fn first_route(destination: IpAddr, prefix: u8, table: Table) -> Route {
    let kind = RouteKind::Unicast;
    Route { destination, prefix, table, metric: 0, tos: 0, kind, index: None, gateway: None, source: None }
}

/// `address` with the bits beyond `prefix` zero; a prefix longer than the address leaves it as it is.
pub(crate) fn network_of(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let beyond = u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
            Ipv4Addr::from_bits(v4.to_bits() & !beyond).into()
        }
        IpAddr::V6(v6) => {
            let beyond = u128::MAX.checked_shr(prefix.into()).unwrap_or(0);
            Ipv6Addr::from_bits(v6.to_bits() & !beyond).into()
        }
    }
}
