//! Frames of all kinds from a seed: what hosts send, what they might, and what nobody should.
//!
//! A frame begins as a valid datagram with random fields; up to two changes are made to it, each of a kind that a parser could
//! get wrong. The same seed gives the same frames.

use std::net::SocketAddr;

use etherparse::{IpHeaders, Ipv6RawExtHeader, Ipv6RoutingExtensions, ip_number};
use mcr_socket::packet::VNET_HEADER_BYTES;

use crate::wire::Macs;

const ETHERNET_BYTES: usize = 14;
// linux/virtio_net.h
const NEEDS_CSUM: u8 = 1;
const GSO_UDP_L4: u8 = 5;
const CHECKSUM_OFFSET: u16 = 6;
/// No superframe here is larger.
const SUPERFRAME_BYTES_MAX: usize = 40_000;

/// Numbers that look random: xorshift64* (Vigna, An experimental exploration of Marsaglia's xorshift generators, 2014).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        // Never 0, which it would not leave.
        Self((seed ^ 0x9e37_79b9_7f4a_7c15).max(1))
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    /// One below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        (self.number() % end.max(1) as u64) as usize
    }

    /// One of these.
    pub fn one_of<T: Copy>(&mut self, these: &[T]) -> T {
        these[self.below(these.len())]
    }

    /// True once in so many times.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.number() as u8).collect()
    }
}

/// A frame to be sent.
#[derive(Debug, Clone)]
pub struct Stimulus {
    /// What the kernel is told of it.
    pub vnet_header: [u8; VNET_HEADER_BYTES],
    /// From the Ethernet header on.
    pub bytes: Vec<u8>,
    /// What was done to it, for a person.
    pub what: String,
}

/// Where frames come from and go to.
#[derive(Debug)]
pub struct Places<'a> {
    /// Hardware addresses.
    pub macs: Macs,
    /// Sources, of both families.
    pub from: &'a [&'a str],
    /// Destinations, of both families.
    pub to: &'a [&'a str],
}

/// A frame under construction.
struct Draft {
    bytes: Vec<u8>,
    vnet: [u8; VNET_HEADER_BYTES],
    ipv6: bool,
    udp: usize,
    /// How much of it is left out at the end, once all else is done; none of the headers' places is out of bounds before.
    cut_bytes: usize,
    what: String,
}

/// The next frame.
pub fn frame(random: &mut Random, places: &Places<'_>) -> Stimulus {
    let mut draft = valid(random, places);
    let changes = random.one_of(&[0, 0, 1, 1, 1, 1, 2]);
    for _ in 0..changes {
        let change = random.one_of(CHANGES);
        change(random, &mut draft);
    }
    if draft.vnet[0] & NEEDS_CSUM != 0 {
        // Whatever was changed: a stack that leaves a checksum to the device has put the sum of what it sends there.
        draft.set_pseudo_sum();
    }
    let Draft { mut bytes, vnet, what, cut_bytes, .. } = draft;
    bytes.truncate(bytes.len() - cut_bytes);
    Stimulus { vnet_header: vnet, bytes, what }
}

fn valid(random: &mut Random, places: &Places<'_>) -> Draft {
    let to = random.one_of(places.to);
    let to_address: SocketAddr = to.parse().expect("an address and a port");
    let family: Vec<_> =
        places.from.iter().filter(|from| from.starts_with('[') == to_address.is_ipv6()).collect();
    let from = **random.one_of(&family.iter().collect::<Vec<_>>());
    let superframe = random.once_in(8);
    let largest = if to_address.is_ipv6() { 1452 } else { 1472 };
    let segment = 1 + random.below(largest);
    let payload_bytes = match superframe {
        true => segment + 1 + random.below((segment * 63).min(SUPERFRAME_BYTES_MAX)),
        false => random.one_of(&[0, 1, 2, 3, 17, 18, 19, 100, 1316, 1400, largest - 1, largest, segment]),
    };
    let payload = random.bytes(payload_bytes);
    let ttl = random.one_of(&[0, 1, 2, 16, 64, 255]);
    let class = random.number() as u8;
    let flow_label = random.number() as u32 & 0xf_ffff;
    let (id, dont_fragment) = (random.number() as u16, random.once_in(2));
    let extended = random.once_in(6);
    let options = random.one_of::<&[u8]>(&[&[148, 4, 0, 0], &[1; 4], &[1; 40], &[0; 8], &[1, 1, 1, 0]]);
    let kinds = random.below(8);
    let bytes = places.macs.frame_with(from, to, &payload, |headers| match headers {
        IpHeaders::Ipv4(ip, _) => {
            (ip.time_to_live, ip.identification, ip.dont_fragment) = (ttl, id, dont_fragment);
            ip.dscp = (class >> 2).try_into().expect("six bits");
            ip.ecn = (class & 3).try_into().expect("two bits");
            if extended {
                ip.options = options.try_into().expect("whole words");
            }
        }
        IpHeaders::Ipv6(ip, extensions) => {
            (ip.hop_limit, ip.traffic_class) = (ttl, class);
            ip.flow_label = flow_label.try_into().expect("twenty bits");
            // PadN of six bytes (RFC 8200, 4.2), and a routing header that is used up.
            let padding =
                || Ipv6RawExtHeader::new_raw(ip_number::UDP, &[1, 4, 0, 0, 0, 0]).expect("eight bytes");
            if extended && kinds & 1 != 0 {
                extensions.hop_by_hop_options = Some(padding());
            }
            if extended && kinds & 2 != 0 {
                extensions.destination_options = Some(padding());
            }
            if extended && kinds & 4 != 0 && !to_address.ip().is_multicast() {
                let routing = Ipv6RawExtHeader::new_raw(ip_number::UDP, &[0; 6]).expect("eight bytes");
                extensions.routing = Some(Ipv6RoutingExtensions { routing, final_destination_options: None });
            }
        }
    });
    let udp = bytes.len() - payload_bytes - 8;
    let what = format!("{from} > {to}, {payload_bytes} bytes, ttl {ttl}, class {class:#x}");
    let mut draft =
        Draft { bytes, vnet: [0; VNET_HEADER_BYTES], ipv6: to_address.is_ipv6(), udp, cut_bytes: 0, what };
    if superframe {
        partial(random, &mut draft);
        draft.vnet[1] = GSO_UDP_L4;
        draft.vnet[2..4].copy_from_slice(&(udp as u16 + 8).to_ne_bytes());
        draft.vnet[4..6].copy_from_slice(&(segment as u16).to_ne_bytes());
        draft.note(&format!("superframe of {segment}"));
    }
    draft
}

impl Draft {
    fn note(&mut self, what: &str) {
        self.what = format!("{}; {what}", self.what);
    }

    fn u16(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.bytes[at], self.bytes[at + 1]])
    }

    fn set_u16(&mut self, at: usize, value: u16) {
        if let Some(bytes) = self.bytes.get_mut(at..at + 2) {
            bytes.copy_from_slice(&value.to_be_bytes());
        }
    }

    /// Where the length of the IP packet stands.
    fn length_at(&self) -> usize {
        ETHERNET_BYTES + if self.ipv6 { 4 } else { 2 }
    }

    /// Has what was inserted or taken out at `at` belong to the packet.
    fn moved(&mut self, bytes: i32) {
        let length = i32::from(self.u16(self.length_at())) + bytes;
        self.set_u16(self.length_at(), length as u16);
        self.udp = (self.udp as i32 + bytes) as usize;
        if self.vnet[0] & NEEDS_CSUM != 0 {
            self.vnet[6..8].copy_from_slice(&(self.udp as u16).to_ne_bytes());
            self.vnet[2..4].copy_from_slice(&(self.udp as u16 + 8).to_ne_bytes());
        }
    }

    /// Puts the pseudo-header's sum where the UDP checksum belongs.
    fn set_pseudo_sum(&mut self) {
        if self.bytes.len() < self.udp + 8 {
            return;
        }
        let addresses = if self.ipv6 { 22..54 } else { 26..34 };
        let pseudo = [&self.bytes[addresses], &[0, 17], &self.bytes[self.udp + 4..self.udp + 6]].concat();
        self.set_u16(self.udp + 6, sum(&pseudo));
    }

    /// Sets the checksum of an IPv4 header right, as long as its length says.
    fn fix_header(&mut self) {
        let bytes = usize::from(self.bytes[ETHERNET_BYTES] & 15) * 4;
        if self.ipv6 || bytes < 20 || self.bytes.len() < ETHERNET_BYTES + bytes {
            return;
        }
        self.set_u16(ETHERNET_BYTES + 10, 0);
        let sum = sum(&self.bytes[ETHERNET_BYTES..ETHERNET_BYTES + bytes]);
        self.set_u16(ETHERNET_BYTES + 10, !sum);
    }
}

/// The folded sum of 16-bit words (RFC 1071).
fn sum(bytes: &[u8]) -> u16 {
    let words =
        bytes.chunks(2).map(|word| u32::from(word[0]) << 8 | word.get(1).map_or(0, |low| u32::from(*low)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

type Change = fn(&mut Random, &mut Draft);

const CHANGES: &[Change] = &[
    partial,
    partial,
    no_checksum,
    wrong_checksum,
    wrong_header_checksum,
    damaged_payload,
    padded,
    padded,
    cut,
    ip_length,
    udp_length,
    udp_length,
    version,
    header_length,
    fragment,
    fragment,
    tagged,
    other_protocol,
    other_port,
    flipped,
    flipped,
    not_for_us,
    authentication,
    fragment_header,
    many_extensions,
];

/// The UDP checksum is left to the device, with the pseudo-header's sum in its place, as a host's stack leaves it.
fn partial(_: &mut Random, draft: &mut Draft) {
    if draft.bytes.len() < draft.udp + 8 || draft.vnet[0] & NEEDS_CSUM != 0 {
        return;
    }
    draft.vnet[0] |= NEEDS_CSUM;
    draft.vnet[6..8].copy_from_slice(&(draft.udp as u16).to_ne_bytes());
    draft.vnet[8..10].copy_from_slice(&CHECKSUM_OFFSET.to_ne_bytes());
    draft.note("partial checksum");
}

fn no_checksum(_: &mut Random, draft: &mut Draft) {
    if draft.vnet[0] == 0 {
        draft.set_u16(draft.udp + 6, 0);
        draft.note("no checksum");
    }
}

fn wrong_checksum(random: &mut Random, draft: &mut Draft) {
    if draft.vnet[0] == 0 && draft.bytes.len() >= draft.udp + 8 {
        // Not 0, which is none, nor the other form of what it was.
        let wrong = draft.u16(draft.udp + 6).wrapping_add(1 + random.below(1000) as u16).max(1);
        draft.set_u16(draft.udp + 6, wrong);
        draft.note("wrong UDP checksum");
    }
}

fn wrong_header_checksum(random: &mut Random, draft: &mut Draft) {
    if !draft.ipv6 {
        let wrong = draft.u16(ETHERNET_BYTES + 10).wrapping_add(1 + random.below(1000) as u16);
        draft.set_u16(ETHERNET_BYTES + 10, wrong);
        draft.note("wrong header checksum");
    }
}

fn damaged_payload(random: &mut Random, draft: &mut Draft) {
    if draft.bytes.len() > draft.udp + 8 {
        let at = draft.udp + 8 + random.below(draft.bytes.len() - draft.udp - 8);
        draft.bytes[at] ^= 1 << random.below(8);
        draft.note("damaged payload");
    }
}

/// Bytes behind the packet, as Ethernet adds them to short frames.
fn padded(random: &mut Random, draft: &mut Draft) {
    if draft.vnet[1] == 0 {
        let count = 1 + random.below(60);
        let padding = random.bytes(count);
        draft.bytes.extend(padding);
        draft.note("padded");
    }
}

fn cut(random: &mut Random, draft: &mut Draft) {
    draft.cut_bytes = 1 + random.below(draft.bytes.len() - ETHERNET_BYTES);
    draft.note(&format!("cut by {}", draft.cut_bytes));
}

fn ip_length(random: &mut Random, draft: &mut Draft) {
    let by = random.one_of(&[-1000, -20, -9, -8, -1, 1, 8, 1000_i32]);
    let length = i32::from(draft.u16(draft.length_at())) + by;
    draft.set_u16(draft.length_at(), length as u16);
    draft.fix_header();
    draft.note(&format!("IP length {by:+}"));
}

fn udp_length(random: &mut Random, draft: &mut Draft) {
    if draft.bytes.len() >= draft.udp + 8 {
        let length = draft.u16(draft.udp + 4);
        let by = [length.wrapping_sub(1), length.wrapping_add(1), length / 2, 0, 7, 8, 9, 0xffff];
        let to = random.one_of(&by);
        draft.set_u16(draft.udp + 4, to);
        draft.note(&format!("UDP length {to}"));
    }
}

fn version(random: &mut Random, draft: &mut Draft) {
    draft.bytes[ETHERNET_BYTES] = draft.bytes[ETHERNET_BYTES] & 15 | (random.below(16) as u8) << 4;
    draft.fix_header();
    draft.note("another version");
}

fn header_length(random: &mut Random, draft: &mut Draft) {
    if !draft.ipv6 {
        draft.bytes[ETHERNET_BYTES] = 0x40 | random.below(16) as u8;
        draft.fix_header();
        draft.note("another header length");
    }
}

fn fragment(random: &mut Random, draft: &mut Draft) {
    if !draft.ipv6 && draft.vnet[1] == 0 {
        let field = random.one_of(&[0x2000, 0x2001, 0x0001, 0x1fff, 0x8000]);
        draft.set_u16(ETHERNET_BYTES + 6, field);
        draft.fix_header();
        draft.note(&format!("fragment field {field:#x}"));
    }
}

/// A tag behind the Ethernet addresses.
fn tagged(random: &mut Random, draft: &mut Draft) {
    if draft.vnet == [0; VNET_HEADER_BYTES] {
        let id = random.one_of(&[0, 0, 1, 100, 4094]);
        let protocol = random.one_of(&[[0x81, 0x00], [0x81, 0x00], [0x88, 0xa8]]);
        let tag = [protocol, ((random.below(8) as u16) << 13 | id).to_be_bytes()].concat();
        draft.bytes.splice(12..12, tag);
        draft.note(&format!("tag {protocol:x?} {id}"));
    }
}

fn other_protocol(random: &mut Random, draft: &mut Draft) {
    let at = ETHERNET_BYTES + if draft.ipv6 { 6 } else { 9 };
    draft.bytes[at] = random.one_of(&[0, 1, 6, 17, 43, 44, 51, 58, 59, 60, 132, 255]);
    draft.fix_header();
    draft.note(&format!("protocol {}", draft.bytes[at]));
}

fn other_port(_: &mut Random, draft: &mut Draft) {
    if draft.bytes.len() >= draft.udp + 8 && draft.vnet[0] == 0 {
        let port = draft.u16(draft.udp + 2) ^ 1;
        draft.set_u16(draft.udp + 2, port);
        draft.note("another port");
    }
}

fn flipped(random: &mut Random, draft: &mut Draft) {
    let headers = draft.bytes.len().min(draft.udp + 8);
    let at = 12 + random.below(headers.saturating_sub(12));
    if at < draft.bytes.len() {
        draft.bytes[at] ^= 1 << random.below(8);
        draft.note(&format!("flipped at {at}"));
    }
}

/// Sent to another host on the same cable.
fn not_for_us(_: &mut Random, draft: &mut Draft) {
    draft.bytes[..6].copy_from_slice(&[2, 0, 0, 0, 0, 0x77]);
    draft.note("another host's");
}

/// An authentication header before UDP (RFC 4302).
fn authentication(random: &mut Random, draft: &mut Draft) {
    let protocol_at = ETHERNET_BYTES + if draft.ipv6 { 6 } else { 9 };
    if draft.bytes[protocol_at] != 17 || draft.vnet[1] != 0 || draft.bytes.len() < draft.udp {
        return;
    }
    // Its length is in words less 2; IPv6 wants whole eights.
    let words = if draft.ipv6 { 6 } else { 3 + random.below(4) };
    let mut header = vec![0; words * 4];
    (header[0], header[1]) = (17, random.one_of(&[words as u8 - 2, words as u8 - 2, 0, 255]));
    draft.bytes[protocol_at] = 51;
    insert(draft, &header);
    draft.note("authentication header");
}

/// A fragment header of IPv6: whole (RFC 6946), or not.
fn fragment_header(random: &mut Random, draft: &mut Draft) {
    if draft.ipv6
        && draft.bytes[ETHERNET_BYTES + 6] == 17
        && draft.vnet[1] == 0
        && draft.bytes.len() >= draft.udp
    {
        let field: u16 = random.one_of(&[0, 0, 0, 1, 8, 9, 0x6, 0xfff8]);
        let [high, low] = field.to_be_bytes();
        draft.bytes[ETHERNET_BYTES + 6] = 44;
        insert(draft, &[17, 0, high, low, 1, 2, 3, 4]);
        draft.note(&format!("fragment header {field:#x}"));
    }
}

/// A row of extension headers, some of which may not be there, or not so often.
fn many_extensions(random: &mut Random, draft: &mut Draft) {
    if !draft.ipv6
        || draft.bytes[ETHERNET_BYTES + 6] != 17
        || draft.vnet[1] != 0
        || draft.bytes.len() < draft.udp
    {
        return;
    }
    let count = 1 + random.below(10);
    let kinds: Vec<u8> = (0..count).map(|_| random.one_of(&[60, 60, 60, 0, 43, 59, 135])).collect();
    let mut headers = Vec::new();
    for index in 0..count {
        let next = kinds.get(index + 1).copied().unwrap_or(17);
        // Routing headers: type 0, with segments left now and then.
        let left = if kinds[index] == 43 && random.once_in(3) { 1 } else { 0 };
        let padding = if kinds[index] == 43 { [0, left, 0, 0, 0, 0] } else { [1, 4, 0, 0, 0, 0] };
        headers.extend([next, 0].iter().chain(&padding));
    }
    draft.bytes[ETHERNET_BYTES + 6] = kinds[0];
    insert(draft, &headers);
    draft.note(&format!("extension headers {kinds:?}"));
}

/// Puts headers before UDP.
fn insert(draft: &mut Draft, headers: &[u8]) {
    draft.bytes.splice(draft.udp..draft.udp, headers.iter().copied());
    draft.moved(headers.len() as i32);
    draft.fix_header();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_seed_gives_frames_with_an_ethernet_header() {
        let macs = Macs { from: [2, 0, 0, 0, 0, 1], to: [2, 0, 0, 0, 0, 2] };
        let places =
            Places { macs, from: &["10.1.0.1:1", "[fd00::1]:1"], to: &["239.1.1.1:2", "[ff15::1]:2"] };
        for seed in 0..100 {
            let mut random = Random::new(seed);
            for _ in 0..500 {
                let Stimulus { bytes, what, .. } = frame(&mut random, &places);
                assert!(bytes.len() >= ETHERNET_BYTES, "seed {seed}: {what}");
            }
        }
    }

    #[test]
    fn a_seed_gives_the_same_frames_and_another_others() {
        let macs = Macs { from: [2, 0, 0, 0, 0, 1], to: [2, 0, 0, 0, 0, 2] };
        let places =
            Places { macs, from: &["10.1.0.1:1", "[fd00::1]:1"], to: &["239.1.1.1:2", "[ff15::1]:2"] };
        let frames = |seed| {
            let mut random = Random::new(seed);
            (0..500).map(|_| frame(&mut random, &places).bytes).collect::<Vec<_>>()
        };
        assert_eq!(frames(1), frames(1));
        assert_ne!(frames(1), frames(2));
    }
}
