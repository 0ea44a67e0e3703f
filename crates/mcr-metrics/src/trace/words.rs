//! A traced datagram as words of shared memory, and back.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use mcr_proto::{
    counters::InputDrop,
    plan::{InputSlot, RuleSlot},
};

use super::{FrameKind, SNAP_BYTES_MAX, TracedDatagram};

pub(super) const HEAD_WORDS: usize = 15;
/// No reason, no rule.
pub(super) const NONE: u32 = u32::MAX;

pub(super) fn pair(high: u32, low: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

pub(super) fn parts(word: u64) -> (u32, u32) {
    ((word >> 32) as u32, word as u32)
}

/// The reason of this number, which may be none; nothing if there is no such number.
pub(super) fn reason<T: Copy>(number: u32, all: &[T]) -> Option<Option<T>> {
    if number == NONE { Some(None) } else { all.get(number as usize).copied().map(Some) }
}

/// The words of the first `bytes` of the pieces put together; no piece but the last need be of whole words.
pub(super) fn words_of(pieces: &[&[u8]], bytes: usize) -> impl Iterator<Item = u64> {
    let mut all = pieces.iter().flat_map(|piece| piece.iter().copied()).take(bytes);
    (0..bytes.div_ceil(8)).map(move |_| {
        let mut word = [0; 8];
        word.iter_mut().zip(all.by_ref()).for_each(|(to, from)| *to = from);
        u64::from_ne_bytes(word)
    })
}

const KERNEL_TIME: u64 = 1;
const ETHERNET: u64 = 2;
const IPV4: u64 = 4;
const IPV6: u64 = 8;

pub(super) fn encode(datagram: &TracedDatagram, captured: u16) -> [u64; HEAD_WORDS] {
    let mut flags = 0;
    flags |= if datagram.is_kernel_time { KERNEL_TIME } else { 0 };
    flags |= if datagram.frame == FrameKind::Ethernet { ETHERNET } else { 0 };
    let mut addresses = [0; 4];
    let mut ports = 0;
    if let Some((source, destination)) = datagram.addresses {
        flags |= if destination.is_ipv4() { IPV4 } else { IPV6 };
        let [from, to] = [source, destination].map(|address| match address.ip() {
            IpAddr::V4(address) => u128::from(address.to_bits()),
            IpAddr::V6(address) => address.to_bits(),
        });
        addresses = [(from >> 64) as u64, from as u64, (to >> 64) as u64, to as u64];
        ports = pair(source.port().into(), destination.port().into());
    }
    [
        datagram.trace,
        datagram.number,
        pair(datagram.life, datagram.input.0),
        datagram.time_ns,
        flags | u64::from(datagram.hop_limit) << 8 | u64::from(datagram.traffic_class) << 16,
        pair(datagram.bytes, datagram.frame_bytes),
        pair(datagram.index.into(), datagram.datagrams.into()),
        pair(datagram.rule.map_or(NONE, |rule| rule.0), datagram.drop.map_or(NONE, |drop| drop as u32)),
        pair(datagram.outputs, captured.into()),
        ports,
        addresses[0],
        addresses[1],
        addresses[2],
        addresses[3],
        0,
    ]
}

/// A datagram and how many bytes of its frame there are; none if these are no words of [`encode`].
pub(super) fn decode(words: &[u64; HEAD_WORDS]) -> Option<(TracedDatagram, usize)> {
    let [
        trace,
        number,
        place,
        time_ns,
        flags,
        sizes,
        superframe,
        rule,
        outputs,
        ports,
        from0,
        from1,
        to0,
        to1,
        _,
    ] = *words;
    let ((life, input), (bytes, frame_bytes)) = (parts(place), parts(sizes));
    let ((index, datagrams), (rule, drop)) = (parts(superframe), parts(rule));
    let (outputs, captured) = parts(outputs);
    let (source_port, destination_port) = parts(ports);
    let address = |high: u64, low: u64, port: u32| {
        let bits = u128::from(high) << 64 | u128::from(low);
        let ip = match flags & (IPV4 | IPV6) {
            IPV4 => IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(bits).ok()?)),
            _ => IpAddr::V6(Ipv6Addr::from_bits(bits)),
        };
        Some(SocketAddr::new(ip, u16::try_from(port).ok()?))
    };
    let addresses = match flags & (IPV4 | IPV6) {
        0 => None,
        _ => Some((address(from0, from1, source_port)?, address(to0, to1, destination_port)?)),
    };
    let datagram = TracedDatagram {
        trace,
        number,
        life,
        input: InputSlot(input),
        rule: (rule != NONE).then_some(RuleSlot(rule)),
        time_ns,
        is_kernel_time: flags & KERNEL_TIME != 0,
        addresses,
        hop_limit: (flags >> 8) as u8,
        traffic_class: (flags >> 16) as u8,
        bytes,
        index: u16::try_from(index).ok()?,
        datagrams: u16::try_from(datagrams).ok()?,
        drop: reason(drop, InputDrop::ALL)?,
        outputs,
        frame: if flags & ETHERNET != 0 { FrameKind::Ethernet } else { FrameKind::Ip },
        frame_bytes,
    };
    Some((datagram, (captured as usize).min(SNAP_BYTES_MAX)))
}
