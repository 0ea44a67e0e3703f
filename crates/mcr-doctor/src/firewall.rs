//! The packet filter (nf_tables; iptables-nft is kept there too): what it does with a packet, as far as that can be told.
//!
//! What cannot be told (an expression that is not known here, a match of old iptables, a mark) may match or not; then a packet is
//! not said to be dropped. So what is found here is so, and what is not found may be. Rules of iptables-legacy are not seen.

mod evaluate;
mod read;

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
};

pub(crate) use read::read;

/// (family, table, chain or set).
type Place = (u8, String, String);

/// `NFPROTO_*` of linux/netfilter.h.
pub(crate) const INET: u8 = 1;
pub(crate) const IPV4: u8 = 2;
pub(crate) const NETDEV: u8 = 5;
pub(crate) const IPV6: u8 = 10;

/// Everything of the packet filter that a verdict can come from.
#[derive(Debug, Default)]
pub(crate) struct Firewall {
    chains: BTreeMap<Place, Chain>,
    sets: HashMap<Place, Vec<Element>>,
}

#[derive(Debug, Default)]
struct Chain {
    /// None for one that is only jumped to.
    hook: Option<Hook>,
    /// What becomes of a packet at the end of it.
    drops_by_policy: bool,
    rules: Vec<Vec<Expression>>,
}

#[derive(Debug, PartialEq, Eq)]
struct Hook {
    number: u32,
    priority: i32,
    device: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Element {
    key: Vec<u8>,
    /// The end of a range, where the kernel gives it with the key.
    key_end: Option<Vec<u8>>,
    /// Its key is the first behind a range.
    ends_interval: bool,
    /// Matches what no other element does.
    catches_all: bool,
    verdict: Option<Verdict>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    Accept,
    Drop,
    Continue,
    Return,
    Jump(String),
    Goto(String),
    /// Something else, such as handing it to a program.
    Other,
}

/// Registers are counted in bytes from the first.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Expression {
    Payload {
        to: usize,
        base: u32,
        offset: usize,
        bytes: usize,
    },
    Meta {
        to: usize,
        key: u32,
    },
    Conntrack {
        to: usize,
        key: u32,
    },
    Compare {
        from: usize,
        how: u32,
        data: Vec<u8>,
    },
    Range {
        from: usize,
        outside: bool,
        low: Vec<u8>,
        high: Vec<u8>,
    },
    Bitwise {
        from: usize,
        to: usize,
        mask: Vec<u8>,
        xor: Vec<u8>,
    },
    Lookup {
        from: usize,
        set: String,
        inverted: bool,
        is_map: bool,
    },
    Load {
        to: usize,
        data: Vec<u8>,
    },
    Verdict(Verdict),
    /// Counts, logs and the like: neither matches nor decides.
    Passive,
    Unknown,
}

/// Where a packet is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// From an interface to a socket of this host.
    In,
    /// From a socket of this host to an interface.
    Out,
}

/// A packet, as far as rules look at it. What is not known is none.
#[derive(Debug, Clone)]
pub(crate) struct Packet {
    pub(crate) way: Way,
    /// IPPROTO_*.
    pub(crate) protocol: u8,
    pub(crate) source: Option<IpAddr>,
    pub(crate) destination: IpAddr,
    pub(crate) source_port: Option<u16>,
    /// Also the type of an ICMPv6 message, in its first byte.
    pub(crate) destination_port: Option<u16>,
    pub(crate) message_type: Option<u8>,
    pub(crate) interface: Option<(u32, String)>,
}

impl Packet {
    pub(crate) fn datagram(way: Way, source: Option<SocketAddr>, destination: SocketAddr) -> Self {
        const UDP: u8 = 17;
        Self {
            way,
            protocol: UDP,
            source: source.map(|source| source.ip()),
            destination: destination.ip(),
            source_port: source.map(|source| source.port()).filter(|port| *port != 0),
            destination_port: Some(destination.port()),
            message_type: None,
            interface: None,
        }
    }

    pub(crate) fn at(mut self, index: u32, name: &str) -> Self {
        self.interface = Some((index, name.to_owned()));
        self
    }
}

/// What drops a packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dropper {
    pub(crate) family: u8,
    pub(crate) table: String,
    pub(crate) chain: String,
    /// Its policy, rather than a rule of it.
    pub(crate) by_policy: bool,
}

impl Dropper {
    /// The chain as `nft` names it.
    pub(crate) fn place(&self) -> String {
        let family = match self.family {
            INET => "inet",
            IPV4 => "ip",
            NETDEV => "netdev",
            IPV6 => "ip6",
            _ => "bridge",
        };
        format!("{family} {} {}", self.table, self.chain)
    }
}
