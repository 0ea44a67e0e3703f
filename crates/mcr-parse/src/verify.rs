//! Whether the checksums of a parsed frame are right. Not to be asked of a frame whose metadata says that its
//! checksum is partial, nor of a superframe: neither carries the checksum that its datagrams will leave with.

use crate::checksum::{Sum, sum};
use crate::parse::PROTOCOL_UDP;
use crate::verdict::{UDP_BYTES, Verdict};

/// True if the UDP checksum of the frame that `verdict` was made from is right, or 0 ("not used") in IPv4.
///
/// 0 in IPv6 is wrong (RFC 8200, section 8.1); a receiver that allows it for tunnels (RFC 6935) looks at
/// [`Verdict::udp_checksum`] first. A frame shorter than the verdict's ranges is not valid.
#[inline]
#[must_use]
pub fn udp_checksum_is_valid(frame: &[u8], verdict: &Verdict) -> bool {
    if verdict.udp_checksum == 0 {
        return verdict.is_ipv4();
    }
    let Some(udp) = frame.get(verdict.udp()) else { return false };
    let addresses = Sum::from(verdict.source.ip()) + Sum::from(verdict.destination.ip());
    let rest = udp_pseudo_rest((UDP_BYTES + verdict.payload_bytes) as u16);
    (addresses + rest + sum(udp)).fold() == 0xffff
}

/// True if the header checksum of the IPv4 frame that `verdict` was made from is right. IPv6 has none: always true.
#[inline]
#[must_use]
pub fn ipv4_header_checksum_is_valid(frame: &[u8], verdict: &Verdict) -> bool {
    if !verdict.is_ipv4() {
        return true;
    }
    let Some(first) = frame.get(verdict.ip_offset) else { return false };
    let header_bytes = usize::from(first & 0x0f) * 4;
    let header = frame.get(verdict.ip_offset..verdict.ip_offset + header_bytes);
    header.is_some_and(|header| sum(header).fold() == 0xffff)
}

/// The sum of a pseudo-header (RFC 768; RFC 8200, section 8.1) but its addresses: protocol and UDP length.
#[inline]
pub(crate) fn udp_pseudo_rest(udp_bytes: u16) -> Sum {
    Sum::from(u16::from(PROTOCOL_UDP)) + Sum::from(udp_bytes)
}
