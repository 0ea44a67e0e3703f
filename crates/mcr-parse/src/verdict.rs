//! What the parser says of a frame that holds one UDP datagram.

use core::net::SocketAddr;
use core::ops::Range;

use crate::ethernet::Tags;

/// Bytes of a UDP header.
pub(crate) const UDP_BYTES: usize = 8;

/// One UDP datagram and where it stands in its frame. All offsets count from the start of the frame.
///
/// Addresses of an IPv6 datagram have flow information and scope 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Verdict {
    /// Source address and port.
    pub source: SocketAddr,
    /// Destination address and port: the group, or this host.
    pub destination: SocketAddr,
    /// Where the IP header begins.
    pub ip_offset: usize,
    /// Where the UDP header begins.
    pub udp_offset: usize,
    /// Bytes of payload; 0 is legal.
    pub payload_bytes: usize,
    /// VLAN tags in the frame. A tag that the kernel moved into metadata is not among them.
    pub tags: Tags,
    /// The checksum field of the UDP header as it stands: 0 means "not used"; may be partial, which only the frame's
    /// metadata tells.
    pub udp_checksum: u16,
    /// IPv4 TTL or IPv6 hop limit.
    pub hop_limit: u8,
    /// IPv4 TOS byte or IPv6 traffic class: DSCP and ECN.
    pub traffic_class: u8,
    /// True if an authentication header (RFC 4302) covers addresses and ports, which then cannot be rewritten.
    pub authenticated: bool,
}

impl Verdict {
    /// Where the payload begins.
    #[inline]
    #[must_use]
    pub const fn payload_offset(&self) -> usize {
        self.udp_offset + UDP_BYTES
    }

    /// The payload's byte range in the frame.
    #[inline]
    #[must_use]
    pub const fn payload(&self) -> Range<usize> {
        self.payload_offset()..self.payload_offset() + self.payload_bytes
    }

    /// The UDP header and the payload as a byte range in the frame.
    #[inline]
    #[must_use]
    pub const fn udp(&self) -> Range<usize> {
        self.udp_offset..self.udp_offset + UDP_BYTES + self.payload_bytes
    }

    /// The differentiated services code point, 0 to 63.
    #[inline]
    #[must_use]
    pub const fn dscp(&self) -> u8 {
        self.traffic_class >> 2
    }

    /// The explicit congestion notification bits, 0 to 3.
    #[inline]
    #[must_use]
    pub const fn ecn(&self) -> u8 {
        self.traffic_class & 3
    }

    /// True for a datagram in IPv4, false for one in IPv6.
    #[inline]
    #[must_use]
    pub const fn is_ipv4(&self) -> bool {
        self.destination.is_ipv4()
    }
}
