//! Frame bytes to a verdict or the reason for none. Reads each header once, in order, and nothing of the payload; no
//! checksum is judged here, because only the frame's metadata says whether one is there.
//!
//! Invariants: no input makes it panic; a verdict's ranges lie inside the frame; ports are read only of whole
//! datagrams.

use core::fmt;
use core::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use crate::bytes::{Header, array_at};
use crate::ethernet::{ETHER_TYPE_IPV4, ETHER_TYPE_IPV6, Tags, ethernet_payload};
use crate::verdict::{UDP_BYTES, Verdict};

pub(crate) const IPV4_BYTES: usize = 20;
pub(crate) const IPV6_BYTES: usize = 40;
pub(crate) const PROTOCOL_UDP: u8 = 17;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;

/// Extension headers that are walked before the frame is called malformed. RFC 8200, section 4.1, knows seven kinds
/// and lets one of them come twice.
pub const EXTENSION_HEADERS_MAX: usize = 8;

/// What a frame begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Link {
    /// An Ethernet header.
    Ethernet,
    /// The IP header: interfaces without a link layer, such as tun.
    RawIp,
}

/// Why a frame yields no datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reject {
    /// The headers contradict themselves or the frame's length.
    Malformed(Malformed),
    /// Another protocol: a payload of IP other than UDP, an EtherType other than IP, a third VLAN tag. What follows
    /// was not looked at.
    NotUdp,
    /// A part of a larger datagram, the first or a later one.
    Fragment,
}

/// What is wrong with a malformed frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum Malformed {
    /// The frame ends inside a header, or before the end its IP header gives.
    Truncated,
    /// The IP version is neither 4 nor 6, or not the one the EtherType promised.
    IpVersion,
    /// An IPv4 header length below 20 bytes.
    HeaderLength,
    /// An IPv4 total length below the header length.
    TotalLength,
    /// An extension header that runs past the datagram's end, stands where it must not, or is one too many.
    ExtensionHeader,
    /// A routing header with segments left: the destination is a waypoint, and the checksum covers another address.
    SegmentsLeft,
    /// A UDP length below 8, or past the end of the IP datagram. So is that of an IPv6 jumbogram (RFC 2675), which
    /// is 0.
    UdpLength,
}

// The detail costs nothing: it hides in the discriminant.
const _: () = assert!(size_of::<Reject>() == 1);

impl From<Malformed> for Reject {
    #[inline]
    fn from(detail: Malformed) -> Reject {
        Reject::Malformed(detail)
    }
}

impl fmt::Display for Reject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reject::Malformed(detail) => write!(f, "malformed frame: {detail}"),
            Reject::NotUdp => f.write_str("not UDP"),
            Reject::Fragment => f.write_str("fragment of a datagram"),
        }
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Malformed::Truncated => "it ends before its headers say",
            Malformed::IpVersion => "unexpected IP version",
            Malformed::HeaderLength => "IPv4 header length below 20 bytes",
            Malformed::TotalLength => "IPv4 total length below the header length",
            Malformed::ExtensionHeader => "misplaced, overlong or surplus extension header",
            Malformed::SegmentsLeft => "routing header with segments left",
            Malformed::UdpLength => "UDP length below 8 or past the datagram's end",
        })
    }
}

impl core::error::Error for Reject {}
impl core::error::Error for Malformed {}

/// Parses one frame down to its UDP payload.
///
/// Bytes after the IP datagram (Ethernet padding) and bytes between the end of the UDP length and that of the IP
/// datagram (RFC 9868 options) are ignored. A superframe is parsed as the one large datagram that its headers
/// describe; the metadata that comes with it tells the sizes of the datagrams in its payload.
///
/// # Errors
/// The reason for which the frame is not one whole UDP datagram.
#[inline]
pub fn parse(frame: &[u8], link: Link) -> Result<Verdict, Reject> {
    match link {
        Link::Ethernet => {
            let (ether_type, offset, tags) = ethernet_payload(frame)?;
            match ether_type {
                ETHER_TYPE_IPV4 => parse_ipv4(frame, offset, tags),
                ETHER_TYPE_IPV6 => parse_ipv6(frame, offset, tags),
                _ => Err(Reject::NotUdp),
            }
        }
        Link::RawIp => match frame.first().ok_or(Malformed::Truncated)? >> 4 {
            4 => parse_ipv4(frame, 0, Tags::NONE),
            6 => parse_ipv6(frame, 0, Tags::NONE),
            _ => Err(Malformed::IpVersion.into()),
        },
    }
}

#[inline]
fn parse_ipv4(frame: &[u8], ip_offset: usize, tags: Tags) -> Result<Verdict, Reject> {
    let header: &[u8; IPV4_BYTES] = array_at(frame, ip_offset).ok_or(Malformed::Truncated)?;
    let header_bytes = usize::from(header[0] & 0x0f) * 4;
    if header[0] >> 4 != 4 {
        return Err(Malformed::IpVersion.into());
    }
    if header_bytes < IPV4_BYTES {
        return Err(Malformed::HeaderLength.into());
    }
    let protocol = header[9];
    if protocol != PROTOCOL_UDP && protocol != AUTHENTICATION {
        return Err(Reject::NotUdp);
    }
    let total_bytes = usize::from(header.u16_at::<2>());
    if total_bytes < header_bytes {
        return Err(Malformed::TotalLength.into());
    }
    let end = ip_offset + total_bytes;
    let datagram = frame.get(..end).ok_or(Malformed::Truncated)?;
    // More fragments, or an offset: whichever part this is, it is not whole.
    if header.u16_at::<6>() & 0x3fff != 0 {
        return Err(Reject::Fragment);
    }
    let mut udp_offset = ip_offset + header_bytes;
    let authenticated = protocol == AUTHENTICATION;
    if authenticated {
        let (next, after) = authentication_header(datagram, udp_offset)?;
        if next != PROTOCOL_UDP {
            return Err(Reject::NotUdp);
        }
        udp_offset = after;
    }
    let udp = udp_header(datagram, udp_offset)?;
    let address = |octets: [u8; 4], port| SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::from(octets), port));
    Ok(Verdict {
        source: address(header.copy_at::<12, 4>(), udp.source_port),
        destination: address(header.copy_at::<16, 4>(), udp.destination_port),
        ip_offset,
        udp_offset,
        payload_bytes: udp.payload_bytes,
        tags,
        udp_checksum: udp.checksum,
        hop_limit: header[8],
        traffic_class: header[1],
        authenticated,
    })
}

#[inline]
fn parse_ipv6(frame: &[u8], ip_offset: usize, tags: Tags) -> Result<Verdict, Reject> {
    let header: &[u8; IPV6_BYTES] = array_at(frame, ip_offset).ok_or(Malformed::Truncated)?;
    if header[0] >> 4 != 6 {
        return Err(Malformed::IpVersion.into());
    }
    let end = ip_offset + IPV6_BYTES + usize::from(header.u16_at::<4>());
    let mut chain = Chain { udp_offset: ip_offset + IPV6_BYTES, authenticated: false };
    let datagram = match header[6] {
        PROTOCOL_UDP => frame.get(..end).ok_or(Malformed::Truncated)?,
        next if is_extension(next) => {
            let datagram = frame.get(..end).ok_or(Malformed::Truncated)?;
            chain = walk_extensions(datagram, next, chain.udp_offset)?;
            datagram
        }
        _ => return Err(Reject::NotUdp),
    };
    let udp = udp_header(datagram, chain.udp_offset)?;
    let address =
        |octets: [u8; 16], port| SocketAddr::V6(SocketAddrV6::new(Ipv6Addr::from(octets), port, 0, 0));
    Ok(Verdict {
        source: address(header.copy_at::<8, 16>(), udp.source_port),
        destination: address(header.copy_at::<24, 16>(), udp.destination_port),
        ip_offset,
        udp_offset: chain.udp_offset,
        payload_bytes: udp.payload_bytes,
        tags,
        udp_checksum: udp.checksum,
        hop_limit: header[7],
        traffic_class: (header.u16_at::<0>() >> 4) as u8,
        authenticated: chain.authenticated,
    })
}

/// What a walk over extension headers came to.
struct Chain {
    udp_offset: usize,
    authenticated: bool,
}

#[inline]
const fn is_extension(next: u8) -> bool {
    matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION_OPTIONS)
}

/// Walks the extension headers of an IPv6 datagram to its UDP header. `datagram` is the frame up to the datagram's
/// end, `next` the type of the header at `offset`.
#[cold]
fn walk_extensions(datagram: &[u8], mut next: u8, mut offset: usize) -> Result<Chain, Reject> {
    let mut authenticated = false;
    for walked in 0..=EXTENSION_HEADERS_MAX {
        if next == PROTOCOL_UDP {
            return Ok(Chain { udp_offset: offset, authenticated });
        }
        if !is_extension(next) {
            return Err(Reject::NotUdp);
        }
        // RFC 8200, section 4.1: hop-by-hop options stand first or nowhere.
        if walked == EXTENSION_HEADERS_MAX || (next == HOP_BY_HOP && walked > 0) {
            break;
        }
        let header: &[u8; 8] = array_at(datagram, offset).ok_or(Malformed::ExtensionHeader)?;
        let kind = next;
        (next, offset) = match kind {
            FRAGMENT => (header[0], offset + 8),
            AUTHENTICATION => authentication_header(datagram, offset)?,
            _ => (header[0], offset + (usize::from(header[1]) + 1) * 8),
        };
        if offset > datagram.len() {
            break;
        }
        match kind {
            // An atomic fragment (RFC 6946) has neither an offset nor a successor: it is whole. Of any other, what
            // follows this header may be payload, so only its declared type is looked at.
            FRAGMENT if header.u16_at::<2>() & 0xfff9 != 0 => {
                let may_be_udp = next == PROTOCOL_UDP || is_extension(next);
                return Err(if may_be_udp { Reject::Fragment } else { Reject::NotUdp });
            }
            ROUTING if header[3] != 0 => return Err(Malformed::SegmentsLeft.into()),
            AUTHENTICATION => authenticated = true,
            _ => {}
        }
    }
    Err(Malformed::ExtensionHeader.into())
}

/// The type of what follows the authentication header at `offset`, and where that begins.
#[cold]
fn authentication_header(datagram: &[u8], offset: usize) -> Result<(u8, usize), Reject> {
    let header: &[u8; 12] = array_at(datagram, offset).ok_or(Malformed::ExtensionHeader)?;
    // RFC 4302, section 2.2: the length in 4-byte words, minus 2; three words stand before the ICV.
    let after = offset + (usize::from(header[1]) + 2) * 4;
    if header[1] == 0 || after > datagram.len() {
        return Err(Malformed::ExtensionHeader.into());
    }
    Ok((header[0], after))
}

/// The fields of a UDP header whose length has been checked.
struct Udp {
    source_port: u16,
    destination_port: u16,
    payload_bytes: usize,
    checksum: u16,
}

/// Reads the UDP header at `offset`; `datagram` is the frame up to the IP datagram's end.
#[inline]
fn udp_header(datagram: &[u8], offset: usize) -> Result<Udp, Reject> {
    let header: &[u8; UDP_BYTES] = array_at(datagram, offset).ok_or(Malformed::UdpLength)?;
    let udp_bytes = usize::from(header.u16_at::<4>());
    if udp_bytes < UDP_BYTES || udp_bytes > datagram.len() - offset {
        return Err(Malformed::UdpLength.into());
    }
    Ok(Udp {
        source_port: header.u16_at::<0>(),
        destination_port: header.u16_at::<2>(),
        payload_bytes: udp_bytes - UDP_BYTES,
        checksum: header.u16_at::<6>(),
    })
}
