//! Writes headers into a caller's buffer: Ethernet, IPv4 with UDP, IPv6 with UDP. The payload is not copied; its sum
//! comes in as [`Parts`], so that one payload is summed once for any number of headers and can be sent from where it
//! lies.

use core::fmt;
use core::net::{SocketAddrV4, SocketAddrV6};

use crate::UdpChecksum;
use crate::checksum::{Parts, Sum, sum};
use crate::ethernet::{ETHERNET_BYTES, TAG_BYTES, Tags};
use crate::parse::{IPV4_BYTES, IPV6_BYTES, PROTOCOL_UDP};
use crate::rewrite::nonzero;
use crate::verdict::UDP_BYTES;
use crate::verify::udp_pseudo_rest;

/// Bytes that [`ipv4_udp`] writes.
pub const IPV4_UDP_BYTES: usize = IPV4_BYTES + UDP_BYTES;
/// Bytes that [`ipv6_udp`] writes.
pub const IPV6_UDP_BYTES: usize = IPV6_BYTES + UDP_BYTES;

pub use crate::ethernet::{ETHER_TYPE_IPV4, ETHER_TYPE_IPV6};

/// Fields of an IPv4 and UDP header. Lengths and checksums are made; there are no options.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ipv4Udp {
    /// Source address and port.
    pub source: SocketAddrV4,
    /// Destination address and port.
    pub destination: SocketAddrV4,
    /// TTL.
    pub hop_limit: u8,
    /// The TOS byte: DSCP and ECN.
    pub traffic_class: u8,
    /// Identification, which tells fragments apart.
    pub identification: u16,
    /// Forbids fragmentation on the way.
    pub dont_fragment: bool,
}

impl Ipv4Udp {
    /// TTL 64, TOS 0, identification 0, fragmentation forbidden (RFC 6864: any identification will do then).
    #[must_use]
    pub const fn new(source: SocketAddrV4, destination: SocketAddrV4) -> Ipv4Udp {
        Ipv4Udp {
            source,
            destination,
            hop_limit: 64,
            traffic_class: 0,
            identification: 0,
            dont_fragment: true,
        }
    }
}

/// Fields of an IPv6 and UDP header. Lengths and the checksum are made; there are no extension headers. Flow
/// information and scope of the addresses are not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ipv6Udp {
    /// Source address and port.
    pub source: SocketAddrV6,
    /// Destination address and port.
    pub destination: SocketAddrV6,
    /// Hop limit.
    pub hop_limit: u8,
    /// Traffic class: DSCP and ECN.
    pub traffic_class: u8,
    /// Flow label; its low 20 bits are used.
    pub flow_label: u32,
}

impl Ipv6Udp {
    /// Hop limit 64, traffic class and flow label 0.
    #[must_use]
    pub const fn new(source: SocketAddrV6, destination: SocketAddrV6) -> Ipv6Udp {
        Ipv6Udp { source, destination, hop_limit: 64, traffic_class: 0, flow_label: 0 }
    }
}

/// Why headers were not written. The buffer is unchanged then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BuildError {
    /// The buffer is too short for the headers.
    Buffer {
        /// Bytes needed.
        need: usize,
        /// Bytes there.
        have: usize,
    },
    /// The payload does not fit the 16-bit length fields.
    Payload {
        /// Its length.
        bytes: usize,
        /// The longest that fits.
        bytes_max: usize,
    },
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BuildError::Buffer { need, have } => {
                write!(f, "headers take {need} bytes, the buffer has {have}")
            }
            BuildError::Payload { bytes, bytes_max } => {
                write!(f, "payload of {bytes} bytes, at most {bytes_max} fit")
            }
        }
    }
}

impl core::error::Error for BuildError {}

/// Writes an Ethernet header with its tags and returns its length.
///
/// # Errors
/// [`BuildError::Buffer`].
pub fn ethernet(
    buf: &mut [u8],
    destination: [u8; 6],
    source: [u8; 6],
    tags: &Tags,
    ether_type: u16,
) -> Result<usize, BuildError> {
    let need = ETHERNET_BYTES + TAG_BYTES * tags.len();
    let header = room(buf, need)?;
    header[..6].copy_from_slice(&destination);
    header[6..12].copy_from_slice(&source);
    for (to, tag) in header[12..].chunks_exact_mut(TAG_BYTES).zip(tags.as_slice()) {
        to[..2].copy_from_slice(&tag.tpid.to_be_bytes());
        to[2..].copy_from_slice(&tag.tci.to_be_bytes());
    }
    header[need - 2..].copy_from_slice(&ether_type.to_be_bytes());
    Ok(need)
}

/// Writes an IPv4 header and a UDP header for a payload that follows, and returns their length, [`IPV4_UDP_BYTES`].
///
/// # Errors
/// [`BuildError`]; a payload has at most 65,507 bytes.
#[inline]
pub fn ipv4_udp(
    buf: &mut [u8],
    fields: &Ipv4Udp,
    payload: Parts,
    udp_checksum: UdpChecksum,
) -> Result<usize, BuildError> {
    let udp_bytes = udp_length(payload, usize::from(u16::MAX) - IPV4_UDP_BYTES)?;
    let buf = room(buf, IPV4_UDP_BYTES)?;
    let (header, udp) = buf.split_at_mut(IPV4_BYTES);
    header[0] = 0x45;
    header[1] = fields.traffic_class;
    header[2..4].copy_from_slice(&(udp_bytes + IPV4_BYTES as u16).to_be_bytes());
    header[4..6].copy_from_slice(&fields.identification.to_be_bytes());
    header[6..8].copy_from_slice(&(u16::from(fields.dont_fragment) << 14).to_be_bytes());
    header[8] = fields.hop_limit;
    header[9] = PROTOCOL_UDP;
    header[10..12].fill(0);
    header[12..16].copy_from_slice(&fields.source.ip().octets());
    header[16..20].copy_from_slice(&fields.destination.ip().octets());
    let checksum = sum(header).checksum();
    header[10..12].copy_from_slice(&checksum.to_be_bytes());

    let addresses = Sum::from(*fields.source.ip()) + Sum::from(*fields.destination.ip());
    write_udp(
        udp,
        fields.source.port(),
        fields.destination.port(),
        udp_bytes,
        addresses,
        payload,
        udp_checksum,
    );
    Ok(IPV4_UDP_BYTES)
}

/// Writes an IPv6 header and a UDP header for a payload that follows, and returns their length, [`IPV6_UDP_BYTES`].
///
/// # Errors
/// [`BuildError`]; a payload has at most 65,527 bytes.
#[inline]
pub fn ipv6_udp(
    buf: &mut [u8],
    fields: &Ipv6Udp,
    payload: Parts,
    udp_checksum: UdpChecksum,
) -> Result<usize, BuildError> {
    let udp_bytes = udp_length(payload, usize::from(u16::MAX) - UDP_BYTES)?;
    let buf = room(buf, IPV6_UDP_BYTES)?;
    let (header, udp) = buf.split_at_mut(IPV6_BYTES);
    let first = 6 << 28 | u32::from(fields.traffic_class) << 20 | fields.flow_label & 0x000f_ffff;
    header[0..4].copy_from_slice(&first.to_be_bytes());
    header[4..6].copy_from_slice(&udp_bytes.to_be_bytes());
    header[6] = PROTOCOL_UDP;
    header[7] = fields.hop_limit;
    header[8..24].copy_from_slice(&fields.source.ip().octets());
    header[24..40].copy_from_slice(&fields.destination.ip().octets());

    let addresses = Sum::from(*fields.source.ip()) + Sum::from(*fields.destination.ip());
    write_udp(
        udp,
        fields.source.port(),
        fields.destination.port(),
        udp_bytes,
        addresses,
        payload,
        udp_checksum,
    );
    Ok(IPV6_UDP_BYTES)
}

/// Writes a UDP header of `udp_bytes` total length into the 8 bytes of `udp`.
#[inline]
fn write_udp(
    udp: &mut [u8],
    source_port: u16,
    destination_port: u16,
    udp_bytes: u16,
    addresses: Sum,
    payload: Parts,
    udp_checksum: UdpChecksum,
) {
    let pseudo = addresses + udp_pseudo_rest(udp_bytes);
    let checksum = match udp_checksum {
        UdpChecksum::Partial => pseudo.fold(),
        UdpChecksum::Complete => {
            let header = Sum::from(source_port) + Sum::from(destination_port) + Sum::from(udp_bytes);
            nonzero((pseudo + header + payload.sum()).checksum())
        }
    };
    for (to, word) in udp.chunks_exact_mut(2).zip([source_port, destination_port, udp_bytes, checksum]) {
        to.copy_from_slice(&word.to_be_bytes());
    }
}

/// The first `need` bytes of `buf`.
#[inline]
fn room(buf: &mut [u8], need: usize) -> Result<&mut [u8], BuildError> {
    let have = buf.len();
    buf.get_mut(..need).ok_or(BuildError::Buffer { need, have })
}

/// The UDP length of `payload`, which fits 16 bits because `bytes_max` and a header do.
#[inline]
fn udp_length(payload: Parts, bytes_max: usize) -> Result<u16, BuildError> {
    let bytes = payload.bytes();
    if bytes > bytes_max {
        Err(BuildError::Payload { bytes, bytes_max })
    } else {
        Ok((bytes + UDP_BYTES) as u16)
    }
}
