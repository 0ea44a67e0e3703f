//! Bytes of a netlink datagram to updates: a pure function, total on any bytes.
//!
//! It reads what a snapshot needs and passes over the rest. Messages about other things are no updates: bridge
//! ports and forwarding entries (AF_BRIDGE uses the same message types), multicast forwarding entries, cached
//! routes, source-specific routes, proxies, groups as neighbours, and tables other than main and local. Numbers of message types,
//! attributes and flags are from linux/rtnetlink.h, if_link.h, if_addr.h and neighbour.h.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::lookup::network_of;
use crate::types::{Address, Link, LinkKind, Neighbour, NeighbourState, Route, RouteKind, Table};
use crate::wire::{
    Malformed, RawMessage, address, attributes, index, next_message, number, string, u8_at, u16_at, u32_at,
};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSG_OVERRUN: u16 = 4;
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;
const RTM_NEWNEXTHOP: u16 = 104;
const RTM_DELNEXTHOP: u16 = 105;

const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_REPLACE: u16 = 0x100;

const AF_UNSPEC: u8 = 0;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// What one message says.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Update {
    /// A link exists and is like this.
    Link(Link),
    /// A link is gone.
    LinkGone {
        /// Its index.
        index: u32,
    },
    /// An address exists and is like this.
    Address(Address),
    /// An address is gone.
    AddressGone(Address),
    /// A route, with all its next hops, was added.
    Routes {
        /// One for each next hop.
        routes: Vec<Route>,
        /// It took the place of what had the same destination, table, metric and type of service.
        replace: bool,
    },
    /// A route, or some of its next hops, are gone.
    RoutesGone(Vec<Route>),
    /// A neighbour exists and is like this.
    Neighbour(Neighbour),
    /// A neighbour is gone.
    NeighbourGone {
        /// Its interface.
        index: u32,
        /// Its address.
        address: IpAddr,
    },
    /// A nexthop object changed: routes that use it may have gone.
    NextHops,
    /// The end of an answer.
    Done,
    /// The answer to a request: 0 for success, or an errno.
    Error {
        /// A positive errno, or 0.
        errno: i32,
    },
    /// The kernel lost messages.
    Overrun,
}

/// An update with what its message's header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The request it answers.
    pub sequence: u32,
    /// A dump that changed while it was read: it may be inconsistent (NLM_F_DUMP_INTR).
    pub interrupted: bool,
    /// What it says.
    pub update: Update,
}

/// What a datagram holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parsed {
    /// The messages that say something, in order.
    pub messages: Vec<Message>,
    /// How many messages were not as the kernel would have sent them.
    pub malformed: u64,
}

/// Reads one datagram of a NETLINK_ROUTE socket.
pub fn parse_datagram(bytes: &[u8]) -> Parsed {
    let mut parsed = Parsed::default();
    let mut rest = bytes;
    while let Some(message) = next_message(&mut rest) {
        match message.and_then(|raw| Ok((raw, read(&raw)?))) {
            Ok((raw, Some(update))) => parsed.messages.push(Message {
                sequence: raw.sequence,
                interrupted: raw.flags & NLM_F_DUMP_INTR != 0,
                update,
            }),
            Ok((_, None)) => {}
            Err(Malformed) => parsed.malformed += 1,
        }
    }
    parsed
}

fn read(raw: &RawMessage<'_>) -> Result<Option<Update>, Malformed> {
    let payload = raw.payload;
    Ok(match raw.kind {
        NLMSG_ERROR => Some(Update::Error { errno: errno(payload).ok_or(Malformed)? }),
        NLMSG_DONE => match errno(payload).unwrap_or(0) {
            0 => Some(Update::Done),
            errno => Some(Update::Error { errno }),
        },
        NLMSG_OVERRUN => Some(Update::Overrun),
        RTM_NEWLINK => link(payload)?.map(Update::Link),
        RTM_DELLINK => link(payload)?.map(|link| Update::LinkGone { index: link.index }),
        RTM_NEWADDR => ifaddr(payload)?.map(Update::Address),
        RTM_DELADDR => ifaddr(payload)?.map(Update::AddressGone),
        RTM_NEWROUTE => {
            let replace = raw.flags & NLM_F_REPLACE != 0;
            routes(payload)?.map(|routes| Update::Routes { routes, replace })
        }
        RTM_DELROUTE => routes(payload)?.map(Update::RoutesGone),
        RTM_NEWNEIGH => neighbour(payload)?.map(Update::Neighbour),
        RTM_DELNEIGH => {
            neighbour(payload)?.map(|n| Update::NeighbourGone { index: n.index, address: n.address })
        }
        RTM_NEWNEXTHOP | RTM_DELNEXTHOP => Some(Update::NextHops),
        _ => None,
    })
}

/// The kernel sends errno negated.
fn errno(payload: &[u8]) -> Option<i32> {
    Some(u32_at(payload, 0)?.cast_signed().saturating_neg().max(0))
}

/// `struct ifinfomsg` and its attributes.
fn link(payload: &[u8]) -> Result<Option<Link>, Malformed> {
    const HEADER_BYTES: usize = 16;
    const IFF_UP: u32 = 0x1;
    const IFF_POINTOPOINT: u32 = 0x10;
    const IFF_RUNNING: u32 = 0x40;
    const IFF_MULTICAST: u32 = 0x1000;
    let body = payload.get(HEADER_BYTES..).ok_or(Malformed)?;
    // A bridge announces its ports by the same type: its "gone" means that a port left the bridge.
    if payload[0] != AF_UNSPEC {
        return Ok(None);
    }
    let flags = u32_at(payload, 8).ok_or(Malformed)?;
    let mut link = Link {
        index: index(&payload[4..8])?.ok_or(Malformed)?,
        name: String::new(),
        kind: LinkKind::from(u16_at(payload, 2).ok_or(Malformed)?),
        driver: None,
        mac: None,
        mtu: 0,
        up: flags & IFF_UP != 0,
        running: flags & IFF_RUNNING != 0,
        multicast: flags & IFF_MULTICAST != 0,
        point_to_point: flags & IFF_POINTOPOINT != 0,
        master: None,
        parent: None,
    };
    read_link_attributes(body, &mut link)?;
    Ok(Some(link))
}

fn read_link_attributes(body: &[u8], link: &mut Link) -> Result<(), Malformed> {
    const IFLA_ADDRESS: u16 = 1;
    const IFLA_IFNAME: u16 = 3;
    const IFLA_MTU: u16 = 4;
    const IFLA_LINK: u16 = 5;
    const IFLA_MASTER: u16 = 10;
    const IFLA_LINKINFO: u16 = 18;
    const IFLA_LINK_NETNSID: u16 = 37;
    const IFLA_INFO_KIND: u16 = 1;
    let mut elsewhere = false;
    for attribute in attributes(body) {
        let (kind, value) = attribute?;
        match kind {
            IFLA_ADDRESS => link.mac = value.try_into().ok(),
            IFLA_IFNAME => link.name = string(value),
            IFLA_MTU => link.mtu = number(value)?,
            IFLA_LINK => link.parent = index(value)?,
            IFLA_MASTER => link.master = index(value)?,
            IFLA_LINK_NETNSID => elsewhere = true,
            IFLA_LINKINFO => {
                for info in attributes(value) {
                    let (kind, value) = info?;
                    if kind == IFLA_INFO_KIND {
                        link.driver = Some(string(value));
                    }
                }
            }
            _ => {}
        }
    }
    // In another namespace the index means another link; and a link without a parent names itself.
    if elsewhere || link.parent == Some(link.index) {
        link.parent = None;
    }
    Ok(())
}

/// `struct ifaddrmsg` and its attributes.
fn ifaddr(payload: &[u8]) -> Result<Option<Address>, Malformed> {
    const HEADER_BYTES: usize = 8;
    const IFA_ADDRESS: u16 = 1;
    const IFA_LOCAL: u16 = 2;
    const IFA_FLAGS: u16 = 8;
    const IFA_F_SECONDARY: u32 = 0x1;
    const IFA_F_OPTIMISTIC: u32 = 0x4;
    const IFA_F_DADFAILED: u32 = 0x8;
    const IFA_F_DEPRECATED: u32 = 0x20;
    const IFA_F_TENTATIVE: u32 = 0x40;
    let body = payload.get(HEADER_BYTES..).ok_or(Malformed)?;
    let Some(bits) = address_bits(payload[0]) else { return Ok(None) };
    let (mut far, mut own, mut flags) = (None, None, u32::from(payload[2]));
    for attribute in attributes(body) {
        let (kind, value) = attribute?;
        match kind {
            IFA_ADDRESS => far = Some(address_of(bits, value)?),
            IFA_LOCAL => own = Some(address_of(bits, value)?),
            IFA_FLAGS => flags = number(value)?,
            _ => {}
        }
    }
    // IPv4 always sends both, IPv6 sends IFA_LOCAL only for point-to-point addresses.
    let address = own.or(far).ok_or(Malformed)?;
    let tentative = flags & (IFA_F_TENTATIVE | IFA_F_OPTIMISTIC) == IFA_F_TENTATIVE;
    Ok(Some(Address {
        index: index(&payload[4..8])?.ok_or(Malformed)?,
        address,
        prefix: prefix(bits, payload[1])?,
        peer: far.filter(|&far| far != address),
        scope: payload[3],
        secondary: flags & IFA_F_SECONDARY != 0,
        deprecated: flags & IFA_F_DEPRECATED != 0,
        tentative: tentative || flags & IFA_F_DADFAILED != 0,
    }))
}

/// A next hop, as single attributes or as one of RTA_MULTIPATH.
#[derive(Clone, Copy, Default)]
struct Hop {
    index: Option<u32>,
    gateway: Option<IpAddr>,
    dead: bool,
}

/// `struct rtmsg` and its attributes: one route for each living next hop.
fn routes(payload: &[u8]) -> Result<Option<Vec<Route>>, Malformed> {
    const HEADER_BYTES: usize = 12;
    const RTA_DST: u16 = 1;
    const RTA_OIF: u16 = 4;
    const RTA_GATEWAY: u16 = 5;
    const RTA_PRIORITY: u16 = 6;
    const RTA_PREFSRC: u16 = 7;
    const RTA_MULTIPATH: u16 = 9;
    const RTA_TABLE: u16 = 15;
    const RTA_VIA: u16 = 18;
    const RTM_F_CLONED: u32 = 0x200;
    const RTNH_F_DEAD: u32 = 1;
    let body = payload.get(HEADER_BYTES..).ok_or(Malformed)?;
    let flags = u32_at(payload, 8).ok_or(Malformed)?;
    let Some(bits) = address_bits(payload[0]) else { return Ok(None) };
    let source_prefix = payload[2];
    if source_prefix != 0 || flags & RTM_F_CLONED != 0 {
        return Ok(None);
    }
    let mut destination =
        if bits == 32 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let (mut table, mut metric, mut source) = (u32::from(payload[4]), 0, None);
    let (mut single, mut several) = (Hop { dead: flags & RTNH_F_DEAD != 0, ..Hop::default() }, None);
    for attribute in attributes(body) {
        let (kind, value) = attribute?;
        match kind {
            RTA_DST => destination = address_of(bits, value)?,
            RTA_OIF => single.index = index(value)?,
            RTA_GATEWAY => single.gateway = Some(address_of(bits, value)?),
            RTA_VIA => single.gateway = via(value)?,
            RTA_PRIORITY => metric = number(value)?,
            RTA_PREFSRC => source = Some(address_of(bits, value)?),
            RTA_MULTIPATH => several = Some(multipath(bits, value)?),
            RTA_TABLE => table = number(value)?,
            _ => {}
        }
    }
    let table = match table {
        254 => Table::Main,
        255 => Table::Local,
        _ => return Ok(None),
    };
    let prefix = prefix(bits, payload[1])?;
    let destination = network_of(destination, prefix);
    let (tos, kind) = (payload[3], RouteKind::from(payload[7]));
    let route = |hop: Hop| {
        let (index, gateway) = (hop.index, hop.gateway);
        Route { destination, prefix, table, metric, tos, kind, index, gateway, source }
    };
    let hops = several.unwrap_or_else(|| vec![single]);
    Ok(Some(hops.into_iter().filter(|hop| !hop.dead).map(route).collect()))
}

/// RTA_MULTIPATH: a row of `struct rtnexthop`, each with attributes.
fn multipath(bits: u8, value: &[u8]) -> Result<Vec<Hop>, Malformed> {
    const HEADER_BYTES: usize = 8;
    const RTA_GATEWAY: u16 = 5;
    const RTA_VIA: u16 = 18;
    const RTNH_F_DEAD: u8 = 1;
    let mut hops = Vec::new();
    let mut rest = value;
    while !rest.is_empty() {
        let length = usize::from(u16_at(rest, 0).ok_or(Malformed)?);
        let body = rest.get(HEADER_BYTES..length).ok_or(Malformed)?;
        let dead = rest[2] & RTNH_F_DEAD != 0;
        let mut hop = Hop { index: index(&rest[4..8])?, gateway: None, dead };
        for attribute in attributes(body) {
            let (kind, value) = attribute?;
            match kind {
                RTA_GATEWAY => hop.gateway = Some(address_of(bits, value)?),
                RTA_VIA => hop.gateway = via(value)?,
                _ => {}
            }
        }
        hops.push(hop);
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(hops)
}

/// `struct rtvia`: a next hop of any family.
fn via(value: &[u8]) -> Result<Option<IpAddr>, Malformed> {
    let family = u16_at(value, 0).ok_or(Malformed)?;
    let bytes = &value[2..];
    match u8::try_from(family).ok().and_then(address_bits) {
        Some(bits) => address_of(bits, bytes).map(Some),
        None => Ok(None),
    }
}

/// `struct ndmsg` and its attributes.
fn neighbour(payload: &[u8]) -> Result<Option<Neighbour>, Malformed> {
    const HEADER_BYTES: usize = 12;
    const NDA_DST: u16 = 1;
    const NDA_LLADDR: u16 = 2;
    const NTF_PROXY: u8 = 0x8;
    let body = payload.get(HEADER_BYTES..).ok_or(Malformed)?;
    let Some(bits) = address_bits(payload[0]) else { return Ok(None) };
    if u8_at(payload, 10).ok_or(Malformed)? & NTF_PROXY != 0 {
        return Ok(None);
    }
    let (mut far, mut mac) = (None, None);
    for attribute in attributes(body) {
        let (kind, value) = attribute?;
        match kind {
            NDA_DST => far = Some(address_of(bits, value)?),
            NDA_LLADDR => mac = value.try_into().ok(),
            _ => {}
        }
    }
    let address = far.ok_or(Malformed)?;
    // The hardware address of a group follows from the group, and the kernel does not announce these entries.
    if address.is_multicast() {
        return Ok(None);
    }
    Ok(Some(Neighbour {
        index: index(&payload[4..8])?.ok_or(Malformed)?,
        address,
        mac,
        state: NeighbourState::from(u16_at(payload, 8).ok_or(Malformed)?),
    }))
}

/// Bits of an address of `family`; `None` for families that are passed over.
fn address_bits(family: u8) -> Option<u8> {
    match family {
        AF_INET => Some(32),
        AF_INET6 => Some(128),
        _ => None,
    }
}

fn address_of(bits: u8, value: &[u8]) -> Result<IpAddr, Malformed> {
    let found = address(value)?;
    if found.is_ipv4() == (bits == 32) { Ok(found) } else { Err(Malformed) }
}

fn prefix(bits: u8, prefix: u8) -> Result<u8, Malformed> {
    if prefix <= bits { Ok(prefix) } else { Err(Malformed) }
}
