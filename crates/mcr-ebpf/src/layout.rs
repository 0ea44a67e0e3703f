//! What lies in the maps: `bpf/relay.h` in Rust. Addresses and ports are in network order.

use std::{
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
};

/// `struct key`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(C)]
pub(crate) struct Key {
    pub(crate) ifindex: u32,
    pub(crate) port: u16,
    pub(crate) ipv6: u8,
    pub(crate) sourced: u8,
    pub(crate) address: [u32; 4],
    pub(crate) source: [u32; 4],
}

impl Key {
    pub(crate) fn new(ifindex: u32, destination: SocketAddr, source: Option<IpAddr>) -> Self {
        Self {
            ifindex,
            port: destination.port().to_be(),
            ipv6: destination.is_ipv6().into(),
            sourced: source.is_some().into(),
            address: words(destination.ip()),
            source: source.map(words).unwrap_or_default(),
        }
    }

    /// The keys that a destination may have, in their order: that of any source, and those of sources.
    pub(crate) fn all_of(ifindex: u32, destination: SocketAddr) -> [RangeInclusive<Self>; 2] {
        let any = Self::new(ifindex, destination, None);
        let sourced = Self { sourced: 1, ..any };
        [any..=any, sourced..=Self { source: [u32::MAX; 4], ..sourced }]
    }

    /// The key of `addresses`: no port, no source.
    pub(crate) fn of_address(ifindex: u32, address: IpAddr) -> Self {
        Self::new(ifindex, SocketAddr::new(address, 0), None)
    }
}

/// An address in four words, as it stands in a packet; of an IPv4 address the first.
pub(crate) fn words(address: IpAddr) -> [u32; 4] {
    match address {
        IpAddr::V4(v4) => [u32::from_ne_bytes(v4.octets()), 0, 0, 0],
        IpAddr::V6(v6) => {
            let octets = v6.octets();
            std::array::from_fn(|word| {
                let at = word * 4;
                u32::from_ne_bytes([octets[at], octets[at + 1], octets[at + 2], octets[at + 3]])
            })
        }
    }
}

/// The address that [`words`] makes such words of.
pub(crate) fn address(words: [u32; 4], ipv6: bool) -> IpAddr {
    if !ipv6 {
        return words[0].to_ne_bytes().into();
    }
    let mut octets = [0; 16];
    octets.chunks_exact_mut(4).zip(words).for_each(|(to, word)| to.copy_from_slice(&word.to_ne_bytes()));
    octets.into()
}

/// `struct route`: the place of a block and its generation, in one word.
pub(crate) fn route(base: u32, generation: u32) -> u64 {
    u64::from(base) << 32 | u64::from(generation)
}

/// `struct head`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(crate) struct Head {
    pub(crate) generation: u32,
    pub(crate) count: u32,
    pub(crate) ifindex: u32,
    pub(crate) address: [u32; 4],
    pub(crate) port: u16,
    pub(crate) flags: u8,
    pub(crate) traces: u8,
    pub(crate) input: u32,
    pub(crate) then: u32,
    pub(crate) then_ns: u64,
    pub(crate) unused: [u32; 6],
}

pub(crate) mod head {
    pub(crate) const LOCAL: u8 = 1;
    pub(crate) const SOURCED: u8 = 2;
    pub(crate) const EMPTY: u8 = 4;
    pub(crate) const ALL_KEEP: u8 = 8;
}

/// `struct output`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct OutputEntry {
    pub(crate) ifindex: u32,
    pub(crate) counter: u32,
    pub(crate) rule: u32,
    pub(crate) mtu: u32,
    pub(crate) flags: u8,
    pub(crate) drop: u8,
    pub(crate) hop_limit: u8,
    pub(crate) traffic_class: u8,
    pub(crate) source_port: u16,
    pub(crate) port: u16,
    /// Destination, then source.
    pub(crate) macs: [[u8; 6]; 2],
    pub(crate) source: [u32; 4],
    pub(crate) address: [u32; 4],
    pub(crate) traces: u8,
    pub(crate) unused: [u8; 3],
}

pub(crate) mod output {
    pub(crate) const FIRST: u8 = 1;
    pub(crate) const KEEP_HOP_LIMIT: u8 = 2;
    pub(crate) const KEEP_DSCP: u8 = 4;
    pub(crate) const KEEP_SOURCE: u8 = 8;
}

/// `union entry`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) union Entry {
    head: Head,
    output: OutputEntry,
}

const _: () = assert!(size_of::<Key>() == 40 && size_of::<Entry>() == 72);
const _: () = assert!(size_of::<TraceEntry>() == 40 && size_of::<RuleCounts>() == 96);
const _: () = assert!(size_of::<FlowKey>() == 24 && size_of::<FlowCounts>() == 32);
const _: () = assert!(size_of::<Arrivals>() == 16 && size_of::<Timing>() == 32);
const _: () = assert!(size_of::<Head>() == 72 && size_of::<OutputEntry>() == 72);

impl From<Head> for Entry {
    fn from(head: Head) -> Self {
        Self { head }
    }
}

impl From<OutputEntry> for Entry {
    fn from(output: OutputEntry) -> Self {
        Self { output }
    }
}

/// `struct input_counts`; the drops in the order of `enum input_drop`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct InputCounts {
    pub(crate) frames: u64,
    pub(crate) datagrams: u64,
    pub(crate) bytes: u64,
    pub(crate) matched: u64,
    pub(crate) drops: [u64; 5],
}

/// `struct rule_counts`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct RuleCounts {
    pub(crate) changes: u32,
    pub(crate) last_port: u32,
    pub(crate) datagrams: u64,
    pub(crate) bytes: u64,
    pub(crate) first_ns: u64,
    pub(crate) last_ns: u64,
    pub(crate) last_source: [u32; 4],
    pub(crate) flows: u64,
    pub(crate) told_datagrams: u64,
    pub(crate) told_bytes: u64,
    pub(crate) overflow: u64,
    pub(crate) sample_at: u32,
    pub(crate) changes_begun: u32,
}

/// `struct arrivals`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Arrivals {
    pub(crate) last_ns: u64,
    pub(crate) gap_max_ns: u64,
}

/// `struct timing`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Timing {
    pub(crate) last_ns: u64,
    pub(crate) interval_ns: u64,
    pub(crate) jitter_16: u64,
    pub(crate) samples: u32,
    pub(crate) step: u32,
}

/// `struct output_counts`; the drops in the order of `enum output_drop`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct OutputCounts {
    pub(crate) copies: u64,
    pub(crate) bytes: u64,
    pub(crate) drops: [u64; 6],
    pub(crate) errno_and_count: u64,
}

/// `struct flow`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub(crate) struct FlowKey {
    pub(crate) rule: u32,
    pub(crate) port: u32,
    pub(crate) source: [u32; 4],
}

impl FlowKey {
    /// Who sends.
    pub(crate) fn source(&self, ipv6: bool) -> SocketAddr {
        SocketAddr::new(address(self.source, ipv6), u16::from_be(self.port as u16))
    }
}

/// `struct flow_counts`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct FlowCounts {
    pub(crate) datagrams: u64,
    pub(crate) bytes: u64,
    pub(crate) first_ns: u64,
    pub(crate) last_ns: u64,
}

/// `struct trace`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(crate) struct TraceEntry {
    pub(crate) seen: u64,
    pub(crate) recorded: u64,
    pub(crate) missed: u64,
    pub(crate) recorded_max: u64,
    pub(crate) one_in: u32,
    pub(crate) snap_bytes: u32,
}

macro_rules! pod {
    ($($type:ty),+) => {
        $(
            // SAFETY: `repr(C)` of integers without padding (the sizes are asserted here and in relay.h), so every byte of it is
            // initialised and every bit pattern is a value.
            unsafe impl aya::Pod for $type {}
        )+
    };
}
pod!(Key, Head, OutputEntry, Entry, InputCounts, RuleCounts, OutputCounts, FlowKey, FlowCounts, TraceEntry);
pod!(Arrivals, Timing);
