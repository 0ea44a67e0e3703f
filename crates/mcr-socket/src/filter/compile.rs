//! From what is wanted to a program. Pure.
//!
//! The shape of a program: is the frame ours at all (packet type, VLAN tag); which protocol; then, for an exact one, X
//! gets the destination port, or [`ANY_PORT`] where user space is to have the last word, and a binary search over the
//! destination address ends in the ports of that address. Addresses that want the same ports share the code for them.

use super::assemble::{Assembler, Label};
use super::{Codepoints, FilterLink, Precision, Wanted};
use libc::{
    BPF_ABS, BPF_ADD, BPF_ALU, BPF_AND, BPF_B, BPF_H, BPF_IMM, BPF_IND, BPF_JEQ, BPF_JGE, BPF_JGT, BPF_JSET,
    BPF_K, BPF_LD, BPF_LDX, BPF_LEN, BPF_LSH, BPF_MISC, BPF_MSH, BPF_RSH, BPF_TAX, BPF_TXA, BPF_W, BPF_X,
    sock_filter,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

/// An address as the filter compares it: one word, or four.
type Words = Vec<u32>;
/// The sources of one port; `None` is any.
type Sources = Option<BTreeSet<Words>>;
/// What one address wants.
type Ports = BTreeMap<u16, Sources>;

/// In X: no port was read, any will do. Above every port.
const ANY_PORT: u32 = 0x1_0000;

const LOAD_BYTE: u32 = BPF_LD | BPF_B | BPF_ABS;
const LOAD_HALF: u32 = BPF_LD | BPF_H | BPF_ABS;
const LOAD_WORD: u32 = BPF_LD | BPF_W | BPF_ABS;
const LOAD_HALF_AT_X: u32 = BPF_LD | BPF_H | BPF_IND;
const LOAD_LENGTH: u32 = BPF_LD | BPF_W | BPF_LEN;
const LOAD_X: u32 = BPF_LDX | BPF_W | BPF_IMM;
/// X = 4 * (byte & 15): the length of an IPv4 header.
const LOAD_X_IHL: u32 = BPF_LDX | BPF_B | BPF_MSH;
const AND: u32 = BPF_ALU | BPF_AND | BPF_K;
const SHIFT_RIGHT: u32 = BPF_ALU | BPF_RSH | BPF_K;
const SHIFT_LEFT_BY_X: u32 = BPF_ALU | BPF_LSH | BPF_X;
const LOAD_A: u32 = BPF_LD | BPF_IMM;
const ADD: u32 = BPF_ALU | BPF_ADD | BPF_K;
const X_IS_A: u32 = BPF_MISC | BPF_TAX;
const A_IS_X: u32 = BPF_MISC | BPF_TXA;
const UDP: u32 = libc::IPPROTO_UDP as u32;

/// The IPv6 extension headers (IANA registry): what follows them may be UDP, and only user space walks them.
pub(super) const EXTENSION_HEADERS: [u32; 8] = [0, 43, 44, 51, 60, 135, 139, 140];

/// What is wanted, sorted by family and address.
pub(super) struct Targets {
    v4: BTreeMap<Words, Ports>,
    v6: BTreeMap<Words, Ports>,
}

impl Targets {
    pub(super) fn new(wanted: &[Wanted]) -> Self {
        let mut targets = Self { v4: BTreeMap::new(), v6: BTreeMap::new() };
        for one in wanted {
            let addresses = if one.destination.is_ipv4() { &mut targets.v4 } else { &mut targets.v6 };
            if one.source.is_some_and(|source| source.is_ipv4() != one.destination.is_ipv4()) {
                continue;
            }
            let ports = addresses.entry(words(one.destination)).or_default();
            let sources = ports.entry(one.port).or_insert_with(|| Some(BTreeSet::new()));
            match (one.source, sources.as_mut()) {
                (Some(source), Some(set)) => _ = set.insert(words(source)),
                _ => *sources = None,
            }
        }
        targets
    }
}

fn words(address: IpAddr) -> Words {
    match address {
        IpAddr::V4(v4) => vec![v4.to_bits()],
        IpAddr::V6(v6) => (0..4).rev().map(|word| (v6.to_bits() >> (32 * word)) as u32).collect(),
    }
}

pub(super) fn drop_all() -> Vec<sock_filter> {
    Assembler::default().finish(Label::Drop)
}

pub(super) fn program(
    targets: &Targets,
    link: FilterLink,
    precision: Precision,
    marked_as: Codepoints,
) -> Vec<sock_filter> {
    let mut asm = Assembler::default();
    let l3 = match link {
        FilterLink::Ethernet => 14,
        FilterLink::RawIp => 0,
    };
    let v6 = if targets.v6.is_empty() { Label::Drop } else { ipv6(&mut asm, &targets.v6, l3, precision) };
    let v4 = if targets.v4.is_empty() { Label::Drop } else { ipv4(&mut asm, &targets.v4, l3, precision) };
    // The six bits behind the version and the IPv4 header's length, or behind the version alone.
    let v4 = marked(&mut asm, marked_as, &[(LOAD_BYTE, l3 + 1), (SHIFT_RIGHT, 2)], v4);
    let v6 = marked(&mut asm, marked_as, &[(LOAD_HALF, l3), (SHIFT_RIGHT, 6), (AND, 0x3f)], v6);
    if (v4, v6) == (Label::Drop, Label::Drop) {
        return asm.finish(Label::Drop);
    }
    let protocol = match link {
        FilterLink::Ethernet => {
            let v6 = asm.branch(BPF_JEQ, libc::ETH_P_IPV6 as u32, v6, Label::Drop);
            let v4 = asm.branch(BPF_JEQ, libc::ETH_P_IP as u32, v4, v6);
            asm.step(LOAD_HALF, 12, v4)
        }
        FilterLink::RawIp => {
            let v6 = asm.branch(BPF_JEQ, 0x60, v6, Label::Drop);
            let v4 = asm.branch(BPF_JEQ, 0x40, v4, v6);
            asm.steps(&[(LOAD_BYTE, 0), (AND, 0xf0)], v4)
        }
    };
    let entry = for_us(&mut asm, protocol);
    asm.finish(entry)
}

/// Refuses what bears a codepoint that is not in the set; `load` gets it into A.
fn marked(asm: &mut Assembler, set: Codepoints, load: &[(u32, u32)], next: Label) -> Label {
    if set == Codepoints::ALL || next == Label::Drop {
        return next;
    }
    // A bit of a word: 1, shifted by the codepoint's lower five bits.
    let bit = [(AND, 31), (X_IS_A, 0), (LOAD_A, 1), (SHIFT_LEFT_BY_X, 0)];
    let mut word = |bits: u32| {
        let found = asm.branch(BPF_JSET, bits, next, Label::Drop);
        asm.steps(&bit, found)
    };
    let low = word(set.bits() as u32);
    let high = word((set.bits() >> 32) as u32);
    let half = asm.branch(BPF_JGE, 32, high, low);
    asm.steps(load, half)
}

/// Refuses what is for another host, what this host sends, and what belongs to a VLAN's own interface.
fn for_us(asm: &mut Assembler, next: Label) -> Label {
    let metadata = |field: libc::c_int| (libc::SKF_AD_OFF + field) as u32;
    // VLAN id 0 is a priority tag (802.1Q, 9.6): such a frame belongs to the interface itself.
    let id = asm.branch(BPF_JEQ, 0, next, Label::Drop);
    let id = asm.steps(&[(LOAD_WORD, metadata(libc::SKF_AD_VLAN_TAG)), (AND, 0xfff)], id);
    let tagged = asm.branch(BPF_JEQ, 0, next, id);
    let tagged = asm.step(LOAD_WORD, metadata(libc::SKF_AD_VLAN_TAG_PRESENT), tagged);
    let outgoing = asm.branch(BPF_JEQ, u32::from(libc::PACKET_OUTGOING), Label::Drop, tagged);
    let other = asm.branch(BPF_JEQ, u32::from(libc::PACKET_OTHERHOST), Label::Drop, outgoing);
    asm.step(LOAD_WORD, metadata(libc::SKF_AD_PKTTYPE), other)
}

fn ipv4(asm: &mut Assembler, targets: &BTreeMap<Words, Ports>, l3: u32, precision: Precision) -> Label {
    let header = match destination(asm, targets, l3 + 16, l3 + 12, precision) {
        Destination::Known(found) => found,
        Destination::NeedsPort { port, any_port } => {
            let port = asm.steps(&[(LOAD_X_IHL, l3), (LOAD_HALF_AT_X, l3 + 2), (X_IS_A, 0)], port);
            // The UDP header must lie within the frame.
            let whole = asm.branch(BPF_JGE | BPF_X, 0, port, any_port);
            let whole = asm
                .steps(&[(LOAD_X_IHL, l3), (A_IS_X, 0), (ADD, l3 + 8), (X_IS_A, 0), (LOAD_LENGTH, 0)], whole);
            // More fragments, or an offset: later fragments have no ports, the first has too little behind them.
            let fragment = asm.branch(BPF_JSET, 0x3fff, any_port, whole);
            let fragment = asm.step(LOAD_HALF, l3 + 6, fragment);
            // Version 4 and a header of at least five words.
            let version = asm.branch(BPF_JGT, 0x4f, any_port, fragment);
            let version = asm.branch(BPF_JGE, 0x45, version, any_port);
            asm.step(LOAD_BYTE, l3, version)
        }
    };
    let udp = asm.branch(BPF_JEQ, UDP, header, Label::Drop);
    asm.step(LOAD_BYTE, l3 + 9, udp)
}

fn ipv6(asm: &mut Assembler, targets: &BTreeMap<Words, Ports>, l3: u32, precision: Precision) -> Label {
    let (header, extension) = match destination(asm, targets, l3 + 24, l3 + 8, precision) {
        Destination::Known(found) => (found, found),
        Destination::NeedsPort { port, any_port } => {
            let port = asm.steps(&[(LOAD_HALF, l3 + 42), (X_IS_A, 0)], port);
            let whole = asm.branch(BPF_JGE, l3 + 48, port, any_port);
            let whole = asm.step(LOAD_LENGTH, 0, whole);
            let version = asm.branch(BPF_JEQ, 0x60, whole, any_port);
            (asm.steps(&[(LOAD_BYTE, l3), (AND, 0xf0)], version), any_port)
        }
    };
    let other = EXTENSION_HEADERS
        .iter()
        .rev()
        .fold(Label::Drop, |other, &number| asm.branch(BPF_JEQ, number, extension, other));
    let udp = asm.branch(BPF_JEQ, UDP, header, other);
    asm.step(LOAD_BYTE, l3 + 6, udp)
}

/// The part that looks for the destination.
enum Destination {
    /// It needs nothing prepared.
    Known(Label),
    /// It wants the destination port in X; enter at `any_port` where there is none to be had.
    NeedsPort { port: Label, any_port: Label },
}

fn destination(
    asm: &mut Assembler,
    targets: &BTreeMap<Words, Ports>,
    at: u32,
    source_at: u32,
    precision: Precision,
) -> Destination {
    match precision {
        Precision::AnyUdp => Destination::Known(Label::Accept),
        Precision::Addresses => {
            let addresses: Vec<_> = targets.keys().map(|words| (words.as_slice(), ())).collect();
            Destination::Known(address(asm, &addresses, at, &mut |_, ()| Label::Accept))
        }
        Precision::Exact => {
            let addresses: Vec<_> = targets.iter().map(|(words, ports)| (words.as_slice(), ports)).collect();
            let mut shared = HashMap::new();
            let port = address(asm, &addresses, at, &mut |asm, &ports| {
                *shared.entry(ports).or_insert_with(|| self::ports(asm, ports, source_at))
            });
            Destination::NeedsPort { port, any_port: asm.step(LOAD_X, ANY_PORT, port) }
        }
    }
}

/// Looks for X among the ports, then for the source if only some are wanted.
fn ports(asm: &mut Assembler, ports: &Ports, source_at: u32) -> Label {
    let found: Vec<_> = ports.iter().map(|(port, sources)| (u32::from(*port), sources)).collect();
    let search = search(asm, &found, &mut |asm, sources| match sources {
        None => Label::Accept,
        Some(sources) => {
            let sources: Vec<_> = sources.iter().map(|words| (words.as_slice(), ())).collect();
            address(asm, &sources, source_at, &mut |_, ()| Label::Accept)
        }
    });
    let any = asm.branch(BPF_JSET, ANY_PORT, Label::Accept, search);
    asm.step(A_IS_X, 0, any)
}

/// What comes after a value was found. Called just before the code that leads there is written, so that it lies close
/// by.
type Then<'a, T> = dyn FnMut(&mut Assembler, &T) -> Label + 'a;

/// Compares an address word by word; `found` is sorted and its addresses are of one length.
fn address<T: Copy>(asm: &mut Assembler, found: &[(&[u32], T)], at: u32, then: &mut Then<'_, T>) -> Label {
    let values: Vec<_> = found.chunk_by(|a, b| a.0[0] == b.0[0]).map(|same| (same[0].0[0], same)).collect();
    let search = search(asm, &values, &mut |asm, same| match same {
        [([_], last)] => then(asm, last),
        _ => {
            let rest: Vec<_> = same.iter().map(|&(words, value)| (&words[1..], value)).collect();
            address(asm, &rest, at + 4, then)
        }
    });
    asm.step(LOAD_WORD, at, search)
}

/// Looks for A among sorted values by halving them.
fn search<T>(asm: &mut Assembler, values: &[(u32, T)], then: &mut Then<'_, T>) -> Label {
    match values {
        [] => Label::Drop,
        [(value, found)] => {
            let found = then(asm, found);
            asm.branch(BPF_JEQ, *value, found, Label::Drop)
        }
        _ => {
            let (low, high) = values.split_at(values.len() / 2);
            let pivot = high[0].0;
            let high = search(asm, high, then);
            let low = search(asm, low, then);
            asm.branch(BPF_JGE, pivot, high, low)
        }
    }
}
