//! Addresses, routes and neighbours.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::error::LabError;
use crate::namespace::Namespace;

/// The table of local and multicast routes (RT_TABLE_LOCAL).
const TABLE_LOCAL: u8 = 255;
/// The kernel gives each link a route to ff00::/8 of metric 256 (IP6_RT_PRIO_ADDRCONF); a smaller one wins.
const MULTICAST_METRIC: u32 = 128;

impl Namespace {
    /// Adds an address. An IPv6 address is usable at once: duplicate detection is left out.
    pub fn add_address(&self, ifname: &str, address: IpAddr, prefix: u8) -> Result<(), LabError> {
        let message = self.address_message(ifname, address, prefix)?;
        let what = || format!("add address {address}/{prefix} to {ifname}");
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        self.request(what, flags, &RouteNetlinkMessage::NewAddress(message)).map(drop)
    }

    /// Removes an address.
    pub fn delete_address(&self, ifname: &str, address: IpAddr, prefix: u8) -> Result<(), LabError> {
        let message = self.address_message(ifname, address, prefix)?;
        let what = || format!("delete address {address}/{prefix} of {ifname}");
        self.request(what, 0, &RouteNetlinkMessage::DelAddress(message)).map(drop)
    }

    /// Adds a route to the main table. `dest` is (network, prefix length), `None` the default route, of the
    /// family of `via`, or of IPv4 without one.
    pub fn add_route(
        &self,
        dest: Option<(IpAddr, u8)>,
        via: Option<IpAddr>,
        ifname: &str,
    ) -> Result<(), LabError> {
        let message = self.route_message(dest, via, ifname)?;
        let what = || format!("add route to {} by {ifname}", route_name(dest));
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        self.request(what, flags, &RouteNetlinkMessage::NewRoute(message)).map(drop)
    }

    /// Removes a route that [`Namespace::add_route`] added.
    pub fn delete_route(
        &self,
        dest: Option<(IpAddr, u8)>,
        via: Option<IpAddr>,
        ifname: &str,
    ) -> Result<(), LabError> {
        let message = self.route_message(dest, via, ifname)?;
        let what = || format!("delete route to {} by {ifname}", route_name(dest));
        self.request(what, 0, &RouteNetlinkMessage::DelRoute(message)).map(drop)
    }

    /// Sends multicast of both families out by `ifname` where a program does not choose the interface.
    pub fn add_multicast_route(&self, ifname: &str) -> Result<(), LabError> {
        self.add_route(Some((Ipv4Addr::new(224, 0, 0, 0).into(), 4)), None, ifname)?;
        let group = Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0);
        let mut message = self.route_message(Some((group.into(), 8)), None, ifname)?;
        // IPv6 looks multicast up in the local table, where every link already has such a route.
        message.header.table = TABLE_LOCAL;
        message.header.kind = RouteType::Multicast;
        message.attributes.push(RouteAttribute::Priority(MULTICAST_METRIC));
        let what = || format!("add route to ff00::/8 by {ifname}");
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        self.request(what, flags, &RouteNetlinkMessage::NewRoute(message)).map(drop)
    }

    /// Adds or replaces a permanent neighbour, so that nothing waits for ARP or neighbour discovery.
    pub fn add_neighbour(&self, ifname: &str, address: IpAddr, mac: [u8; 6]) -> Result<(), LabError> {
        let mut message = self.neighbour_message(ifname, address)?;
        message.header.state = NeighbourState::Permanent;
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
        let what = || format!("add neighbour {address} to {ifname}");
        let flags = NLM_F_CREATE | NLM_F_REPLACE;
        self.request(what, flags, &RouteNetlinkMessage::NewNeighbour(message)).map(drop)
    }

    /// Removes a neighbour.
    pub fn delete_neighbour(&self, ifname: &str, address: IpAddr) -> Result<(), LabError> {
        let message = self.neighbour_message(ifname, address)?;
        let what = || format!("delete neighbour {address} of {ifname}");
        self.request(what, 0, &RouteNetlinkMessage::DelNeighbour(message)).map(drop)
    }

    fn address_message(&self, ifname: &str, address: IpAddr, prefix: u8) -> Result<AddressMessage, LabError> {
        let mut message = AddressMessage::default();
        message.header.family = family(address);
        message.header.prefix_len = prefix;
        message.header.index = self.link_index(ifname)?;
        message.attributes.push(AddressAttribute::Local(address));
        message.attributes.push(AddressAttribute::Address(address));
        if address.is_ipv6() {
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        Ok(message)
    }

    fn route_message(
        &self,
        dest: Option<(IpAddr, u8)>,
        via: Option<IpAddr>,
        ifname: &str,
    ) -> Result<RouteMessage, LabError> {
        let mut message = RouteMessage::default();
        let sample = dest.map(|(network, _)| network).or(via);
        message.header.address_family = sample.map_or(AddressFamily::Inet, family);
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::Static;
        message.header.kind = RouteType::Unicast;
        let on_link = via.is_none() && message.header.address_family == AddressFamily::Inet;
        message.header.scope = if on_link { RouteScope::Link } else { RouteScope::Universe };
        if let Some((network, prefix)) = dest {
            message.header.destination_prefix_length = prefix;
            message.attributes.push(RouteAttribute::Destination(route_address(network)));
        }
        if let Some(via) = via {
            message.attributes.push(RouteAttribute::Gateway(route_address(via)));
        }
        message.attributes.push(RouteAttribute::Oif(self.link_index(ifname)?));
        Ok(message)
    }

    fn neighbour_message(&self, ifname: &str, address: IpAddr) -> Result<NeighbourMessage, LabError> {
        let mut message = NeighbourMessage::default();
        message.header.family = family(address);
        message.header.ifindex = self.link_index(ifname)?;
        message.header.kind = RouteType::Unicast;
        let destination = match address {
            IpAddr::V4(v4) => NeighbourAddress::Inet(v4),
            IpAddr::V6(v6) => NeighbourAddress::Inet6(v6),
        };
        message.attributes.push(NeighbourAttribute::Destination(destination));
        Ok(message)
    }
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn route_address(address: IpAddr) -> RouteAddress {
    match address {
        IpAddr::V4(v4) => RouteAddress::Inet(v4),
        IpAddr::V6(v6) => RouteAddress::Inet6(v6),
    }
}

fn route_name(dest: Option<(IpAddr, u8)>) -> String {
    dest.map_or_else(|| "everywhere".to_owned(), |(network, prefix)| format!("{network}/{prefix}"))
}
