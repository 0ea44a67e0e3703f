//! From a frame's first byte to where its UDP payload lies, with the length of each layer checked before any of it is read.
//!
//! This is the one parser of the reflector; the kernel filter of [`crate::filter`] is held to it by a property test.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::outcome::Reason;

/// An Ethernet address.
pub type Mac = [u8; 6];

pub(crate) const ETHERNET_BYTES: usize = 14;
pub(crate) const TAG_BYTES: usize = 4;
pub(crate) const TAGS_MAX: usize = 2;
pub(crate) const UDP_BYTES: usize = 8;
pub(crate) const IPV4: u16 = 0x0800;
pub(crate) const IPV6: u16 = 0x86dd;
pub(crate) const OAM: u16 = 0x8902;
/// Customer, service and old service tags (IEEE 802.1Q, and what came before 802.1ad).
pub(crate) const TPIDS: [u16; 3] = [0x8100, 0x88a8, 0x9100];
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
const HOP_BY_HOP: u8 = 0;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;
/// RFC 8200 recommends at most four headers of options; more are no test traffic.
const EXTENSION_HEADERS_MAX: usize = 4;

/// How the parser was told to read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reading {
    pub(crate) tpid_9100: bool,
    pub(crate) first_fragments: bool,
    pub(crate) extension_headers: bool,
}

/// A frame's Ethernet header and tags.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Link {
    /// Where the EtherType's payload begins.
    pub(crate) payload: usize,
    /// VLAN id of the outer tag, or 0.
    pub(crate) vlan: u16,
    pub(crate) ether_type: u16,
}

/// A frame's IP header, and what it says of the bytes behind.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ip {
    pub(crate) offset: usize,
    pub(crate) is_ipv4: bool,
    /// Where the transport header begins, and what it is.
    pub(crate) transport: usize,
    pub(crate) protocol: u8,
    /// Where the datagram ends.
    pub(crate) end: usize,
    /// It is the first part of a larger datagram.
    pub(crate) first_fragment: bool,
}

/// A frame's UDP header.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Udp {
    pub(crate) offset: usize,
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
    /// Where the payload ends, as far as it is in this frame.
    pub(crate) end: usize,
}

impl Udp {
    pub(crate) fn payload(&self) -> std::ops::Range<usize> {
        self.offset + UDP_BYTES..self.end
    }
}

#[inline(always)]
pub(crate) fn u16_at(frame: &[u8], at: usize) -> Option<u16> {
    frame.get(at..)?.first_chunk().map(|two| u16::from_be_bytes(*two))
}

#[inline(always)]
pub(crate) fn array_at<const N: usize>(frame: &[u8], at: usize) -> Option<[u8; N]> {
    frame.get(at..)?.first_chunk().copied()
}

/// Destination and source.
#[inline(always)]
pub(crate) fn macs(frame: &[u8]) -> Option<(Mac, Mac)> {
    Some((array_at(frame, 0)?, array_at(frame, 6)?))
}

#[inline]
pub(crate) fn link(frame: &[u8], reading: Reading) -> Result<Link, Reason> {
    let mut ether_type = u16_at(frame, ETHERNET_BYTES - 2).ok_or(Reason::Short)?;
    let is_tag = |ether_type| TPIDS[..if reading.tpid_9100 { 3 } else { 2 }].contains(&ether_type);
    let (mut payload, mut tags, mut vlan) = (ETHERNET_BYTES, 0, 0);
    while is_tag(ether_type) {
        if tags == TAGS_MAX {
            return Err(Reason::VlanDepth);
        }
        let tci = u16_at(frame, payload).ok_or(Reason::Short)?;
        ether_type = u16_at(frame, payload + 2).ok_or(Reason::Short)?;
        if tags == 0 {
            vlan = tci & 0x0fff;
        }
        tags += 1;
        payload += TAG_BYTES;
    }
    Ok(Link { payload, vlan, ether_type })
}

#[inline]
pub(crate) fn ip(frame: &[u8], link: &Link, reading: Reading) -> Result<Ip, Reason> {
    match link.ether_type {
        IPV4 => ipv4(frame, link.payload, reading),
        IPV6 => ipv6(frame, link.payload, reading),
        _ => Err(Reason::EtherType),
    }
}

#[inline]
fn ipv4(frame: &[u8], offset: usize, reading: Reading) -> Result<Ip, Reason> {
    let header: [u8; 20] = array_at(frame, offset).ok_or(Reason::Short)?;
    let header_bytes = usize::from(header[0] & 15) * 4;
    if header[0] >> 4 != 4 || header_bytes < 20 {
        return Err(Reason::IpHeader);
    }
    if frame.len() - offset < header_bytes {
        return Err(Reason::Short);
    }
    let total_bytes = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if total_bytes < header_bytes || total_bytes > frame.len() - offset {
        return Err(Reason::LengthField);
    }
    let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff;
    // More fragments, at offset 0: the first of several.
    let first_fragment = fragment == 0x2000;
    if fragment != 0 && !(first_fragment && reading.first_fragments) {
        return Err(Reason::Fragment);
    }
    let (transport, end) = (offset + header_bytes, offset + total_bytes);
    Ok(Ip { offset, is_ipv4: true, transport, protocol: header[9], end, first_fragment })
}

#[inline]
fn ipv6(frame: &[u8], offset: usize, reading: Reading) -> Result<Ip, Reason> {
    let header: [u8; 40] = array_at(frame, offset).ok_or(Reason::Short)?;
    if header[0] >> 4 != 6 {
        return Err(Reason::IpHeader);
    }
    let payload_bytes = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let (mut transport, mut protocol) = (offset + 40, header[6]);
    if payload_bytes > frame.len() - transport {
        return Err(Reason::LengthField);
    }
    let end = transport + payload_bytes;
    for _ in 0..EXTENSION_HEADERS_MAX {
        if !(reading.extension_headers && matches!(protocol, HOP_BY_HOP | DESTINATION_OPTIONS)) {
            break;
        }
        let [next, words] = array_at(&frame[..end], transport).ok_or(Reason::LengthField)?;
        protocol = next;
        transport += (usize::from(words) + 1) * 8;
        if transport > end {
            return Err(Reason::LengthField);
        }
    }
    if protocol == FRAGMENT {
        return Err(Reason::Fragment);
    }
    Ok(Ip { offset, is_ipv4: false, transport, protocol, end, first_fragment: false })
}

#[inline]
pub(crate) fn udp(frame: &[u8], ip: &Ip) -> Result<Udp, Reason> {
    if ip.protocol != UDP {
        return Err(Reason::Protocol);
    }
    let header: [u8; UDP_BYTES] = array_at(&frame[..ip.end], ip.transport).ok_or(Reason::LengthField)?;
    let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    let (bytes, room) = (usize::from(word(4)), ip.end - ip.transport);
    // Of a first fragment the rest of the datagram is elsewhere.
    if bytes < UDP_BYTES || (bytes > room && !ip.first_fragment) {
        return Err(Reason::LengthField);
    }
    let end = ip.transport + bytes.min(room);
    Ok(Udp { offset: ip.transport, source_port: word(0), destination_port: word(2), end })
}

impl Ip {
    #[inline]
    pub(crate) fn addresses(&self, frame: &[u8]) -> Option<(IpAddr, IpAddr)> {
        let at = self.offset;
        if self.is_ipv4 {
            let v4 = |at| Some(IpAddr::V4(Ipv4Addr::from(array_at::<4>(frame, at)?)));
            Some((v4(at + 12)?, v4(at + 16)?))
        } else {
            let v6 = |at| Some(IpAddr::V6(Ipv6Addr::from(array_at::<16>(frame, at)?)));
            Some((v6(at + 8)?, v6(at + 24)?))
        }
    }

    pub(crate) fn hop_limit(&self, frame: &[u8]) -> u8 {
        frame.get(self.offset + if self.is_ipv4 { 8 } else { 7 }).copied().unwrap_or(u8::MAX)
    }

    pub(crate) fn traffic_class(&self, frame: &[u8]) -> u8 {
        let first = u16_at(frame, self.offset).unwrap_or(0);
        if self.is_ipv4 { first as u8 } else { (first >> 4) as u8 }
    }
}

/// Whether nobody in particular has this address.
#[inline]
pub(crate) fn is_group(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_multicast() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_multicast(),
    }
}
