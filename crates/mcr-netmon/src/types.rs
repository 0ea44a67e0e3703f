//! The objects: links, addresses, routes, neighbours. Plain data, ordered so that they can be kept sorted.

use std::net::IpAddr;

/// What frames on a link look like, from its hardware type (`ARPHRD_*`, linux/if_arp.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum LinkKind {
    /// Frames begin with an Ethernet header: NICs, veth, bridges, VLANs, tap.
    Ethernet,
    /// Frames begin with the IP header: tun, WireGuard, ppp, IP tunnels.
    RawIp,
    /// The loopback device; its frames have an Ethernet header of zeroes.
    Loopback,
    /// Something else, by its number.
    Other(u16),
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Interface index, unique in the namespace while the interface lives.
    pub index: u32,
    /// Name; may change while the interface lives.
    pub name: String,
    /// What its frames look like.
    pub kind: LinkKind,
    /// The kernel's name for the type of a virtual interface: "veth", "vlan", "bridge", "tun"...
    pub driver: Option<String>,
    /// Hardware address, if it has six bytes.
    pub mac: Option<[u8; 6]>,
    /// Largest IP packet, in bytes.
    pub mtu: u32,
    /// Administratively up (IFF_UP).
    pub up: bool,
    /// Able to carry frames (IFF_RUNNING): up, with carrier, not dormant.
    pub running: bool,
    /// Able to carry multicast (IFF_MULTICAST).
    pub multicast: bool,
    /// One peer only (IFF_POINTOPOINT).
    pub point_to_point: bool,
    /// The bridge, bond or VRF it is a port of.
    pub master: Option<u32>,
    /// The interface under a VLAN, macvlan or tunnel, if it is in the same namespace.
    pub parent: Option<u32>,
}

/// An address of an interface. Its identity is (index, address, prefix, peer).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// The interface.
    pub index: u32,
    /// The interface's own address.
    pub address: IpAddr,
    /// Prefix length, in bits.
    pub prefix: u8,
    /// The other end's address, on point-to-point addresses.
    pub peer: Option<IpAddr>,
    /// `RT_SCOPE_*`: 0 is global, 253 link-local, 254 host.
    pub scope: u8,
    /// IPv4: not the first of its network. IPv6: a temporary address.
    pub secondary: bool,
    /// Still valid, but new flows should use another (RFC 4862).
    pub deprecated: bool,
    /// Not usable: duplicate detection is going on or found a duplicate.
    pub tentative: bool,
}

/// The two routing tables that are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Table {
    /// Table 255: own addresses, broadcasts, IPv6 multicast; looked up first.
    Local,
    /// Table 254.
    Main,
}

/// What a route does (`RTN_*`, rtnetlink(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum RouteKind {
    /// To a gateway or a directly connected host.
    Unicast,
    /// To this host itself.
    Local,
    /// To all hosts of a network.
    Broadcast,
    /// To any of several hosts.
    Anycast,
    /// To a group.
    Multicast,
    /// Dropped in silence.
    Blackhole,
    /// Refused: host unreachable.
    Unreachable,
    /// Refused: administratively prohibited.
    Prohibit,
    /// Not in this table; the next one decides.
    Throw,
    /// Something else, by its number.
    Other(u8),
}

/// A route with one next hop; a multipath route is as many of these as it has next hops. The whole is its identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Route {
    /// Destination network, bits beyond the prefix zero.
    pub destination: IpAddr,
    /// Prefix length, in bits; 0 is the default route.
    pub prefix: u8,
    /// Its table.
    pub table: Table,
    /// Priority among routes to the same destination; the lowest wins.
    pub metric: u32,
    /// Type of service; only routes with 0 are looked up.
    pub tos: u8,
    /// What it does.
    pub kind: RouteKind,
    /// The interface it leads out by.
    pub index: Option<u32>,
    /// The next hop; may be IPv6 for an IPv4 route (RFC 5549).
    pub gateway: Option<IpAddr>,
    /// The source address that the kernel would choose.
    pub source: Option<IpAddr>,
}

/// The kernel's trust in a neighbour (`NUD_*`, linux/neighbour.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum NeighbourState {
    /// Nothing known yet.
    None,
    /// Being asked for, no answer yet.
    Incomplete,
    /// Confirmed recently.
    Reachable,
    /// Not confirmed for a while; still used.
    Stale,
    /// Used while stale, will be asked soon.
    Delay,
    /// Being asked again.
    Probe,
    /// Did not answer.
    Failed,
    /// Needs no resolution: groups, broadcasts, point-to-point links.
    NoArp,
    /// Set by hand.
    Permanent,
    /// Something else, by its number.
    Other(u16),
}

impl NeighbourState {
    /// Whether the kernel sends to a neighbour in this state (NUD_VALID).
    pub fn is_valid(self) -> bool {
        matches!(
            self,
            Self::Reachable | Self::Stale | Self::Delay | Self::Probe | Self::NoArp | Self::Permanent
        )
    }
}

/// An entry of the ARP or neighbour discovery cache, as the kernel last announced it. Its identity is
/// (index, address).
///
/// The kernel announces when an entry becomes usable or unusable and when its hardware address changes, but not that
/// it began to resolve, nor each step between `Reachable` and `Probe`: ask [`NeighbourState::is_valid`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbour {
    /// The interface it is reached by.
    pub index: u32,
    /// Its address.
    pub address: IpAddr,
    /// Its hardware address, if known and of six bytes.
    pub mac: Option<[u8; 6]>,
    /// How far that is to be trusted.
    pub state: NeighbourState,
}

impl From<u16> for LinkKind {
    fn from(hardware: u16) -> Self {
        match hardware {
            1 => Self::Ethernet,
            772 => Self::Loopback,
            // PPP, RAWIP, TUNNEL, TUNNEL6, SIT, IPGRE, IP6GRE, NONE.
            512 | 519 | 768 | 769 | 776 | 778 | 823 | 65534 => Self::RawIp,
            other => Self::Other(other),
        }
    }
}

impl From<u8> for RouteKind {
    fn from(kind: u8) -> Self {
        match kind {
            1 => Self::Unicast,
            2 => Self::Local,
            3 => Self::Broadcast,
            4 => Self::Anycast,
            5 => Self::Multicast,
            6 => Self::Blackhole,
            7 => Self::Unreachable,
            8 => Self::Prohibit,
            9 => Self::Throw,
            other => Self::Other(other),
        }
    }
}

impl From<u16> for NeighbourState {
    fn from(state: u16) -> Self {
        match state {
            0x00 => Self::None,
            0x01 => Self::Incomplete,
            0x02 => Self::Reachable,
            0x04 => Self::Stale,
            0x08 => Self::Delay,
            0x10 => Self::Probe,
            0x20 => Self::Failed,
            0x40 => Self::NoArp,
            0x80 => Self::Permanent,
            other => Self::Other(other),
        }
    }
}
