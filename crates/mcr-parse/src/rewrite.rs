//! Changes header fields of a parsed frame in place and keeps its checksums right incrementally: the payload is not
//! read.
//!
//! Invariants: a frame is changed wholly or, on an error, not at all; a checksum that was wrong stays wrong, so that
//! damage done before the relay is still seen after it.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::bytes::{Header, array_at, array_at_mut};
use crate::checksum::{Sum, update, update_folded};
use crate::parse::{IPV4_BYTES, IPV6_BYTES};
use crate::verdict::{UDP_BYTES, Verdict};

/// New values of header fields; `None` keeps what is there.
///
/// ```
/// let changes = mcr_parse::Changes { hop_limit: Some(16), dscp: Some(34), ..Default::default() };
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Changes {
    /// Source address, of the frame's family.
    pub source_address: Option<IpAddr>,
    /// Source port.
    pub source_port: Option<u16>,
    /// Destination address, of the frame's family.
    pub destination_address: Option<IpAddr>,
    /// Destination port.
    pub destination_port: Option<u16>,
    /// IPv4 TTL or IPv6 hop limit.
    pub hop_limit: Option<u8>,
    /// Differentiated services code point, 0 to 63. The ECN bits stay.
    pub dscp: Option<u8>,
}

/// What the checksum field of a UDP header holds, or is to hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum UdpChecksum {
    /// The checksum over everything, or 0 for none.
    #[default]
    Complete,
    /// The folded sum of the pseudo-header alone, not complemented, for hardware or the kernel to complete
    /// (`VIRTIO_NET_HDR_F_NEEDS_CSUM`, `CHECKSUM_PARTIAL`).
    Partial,
}

/// Why a frame was left as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RewriteError {
    /// A new address is of the other family.
    Family,
    /// A DSCP above 63.
    Dscp,
    /// An authentication header covers the addresses and ports that were to change (RFC 4302, section 3.3.3.1).
    Authenticated,
    /// The frame has no such header where the verdict, made from another frame, puts it.
    Frame,
}

impl fmt::Display for RewriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RewriteError::Family => "new address is of another family than the frame",
            RewriteError::Dscp => "DSCP above 63",
            RewriteError::Authenticated => "addresses and ports are covered by an authentication header",
            RewriteError::Frame => "frame does not have the headers to be rewritten",
        })
    }
}

impl core::error::Error for RewriteError {}

/// Rewrites the headers of the frame that `verdict` was made from.
///
/// Old values are taken from the frame, and offsets do not change, so one verdict serves any number of rewrites of
/// the same frame; its addresses are those of before. A complete UDP checksum of 0 ("not used") stays 0, one that
/// comes to 0 is written as 0xffff (RFC 768). A superframe is rewritten like a frame.
///
/// # Errors
/// The frame is unchanged then.
#[inline]
pub fn rewrite(
    frame: &mut [u8],
    verdict: &Verdict,
    changes: &Changes,
    udp_checksum: UdpChecksum,
) -> Result<(), RewriteError> {
    if changes.dscp.is_some_and(|dscp| dscp > 63) {
        return Err(RewriteError::Dscp);
    }
    if verdict.authenticated && changes.touch_flow() {
        return Err(RewriteError::Authenticated);
    }
    let mut udp: [u8; UDP_BYTES] = *array_at(frame, verdict.udp_offset).ok_or(RewriteError::Frame)?;
    let addresses = if verdict.is_ipv4() {
        rewrite_ipv4(frame, verdict.ip_offset, changes)?
    } else {
        rewrite_ipv6(frame, verdict.ip_offset, changes)?
    };
    rewrite_udp(&mut udp, changes, addresses, udp_checksum);
    // The bytes were there when they were read, and nothing moved since.
    *array_at_mut(frame, verdict.udp_offset).ok_or(RewriteError::Frame)? = udp;
    Ok(())
}

impl Changes {
    #[inline]
    const fn touch_flow(&self) -> bool {
        self.source_address.is_some()
            || self.source_port.is_some()
            || self.destination_address.is_some()
            || self.destination_port.is_some()
    }
}

/// The sums of the words that went and of those that came.
#[derive(Clone, Copy, Default)]
struct Delta {
    removed: Sum,
    added: Sum,
}

impl Delta {
    #[inline]
    fn new(removed: impl Into<Sum>, added: impl Into<Sum>) -> Delta {
        Delta { removed: removed.into(), added: added.into() }
    }

    #[inline]
    fn plus(self, other: Delta) -> Delta {
        Delta { removed: self.removed + other.removed, added: self.added + other.added }
    }
}

/// Rewrites an IPv4 header and its checksum; returns what changed in the pseudo-header.
#[inline]
fn rewrite_ipv4(frame: &mut [u8], ip_offset: usize, changes: &Changes) -> Result<Delta, RewriteError> {
    let header: &mut [u8; IPV4_BYTES] = array_at_mut(frame, ip_offset).ok_or(RewriteError::Frame)?;
    if header[0] >> 4 != 4 {
        return Err(RewriteError::Frame);
    }
    let old_source = Ipv4Addr::from(header.copy_at::<12, 4>());
    let old_destination = Ipv4Addr::from(header.copy_at::<16, 4>());
    let source = ipv4_or(changes.source_address, old_source)?;
    let destination = ipv4_or(changes.destination_address, old_destination)?;
    let addresses = Delta::new(old_source, source).plus(Delta::new(old_destination, destination));

    let old_first = header.u16_at::<0>();
    let old_hop = header.u16_at::<8>();
    header[1] = changes.dscp.map_or(header[1], |dscp| dscp << 2 | header[1] & 3);
    header[8] = changes.hop_limit.unwrap_or(header[8]);
    header[12..16].copy_from_slice(&source.octets());
    header[16..20].copy_from_slice(&destination.octets());

    let first = Delta::new(old_first, header.u16_at::<0>());
    let hop = Delta::new(old_hop, header.u16_at::<8>());
    let delta = addresses.plus(first).plus(hop);
    let checksum = update(header.u16_at::<10>(), delta.removed, delta.added);
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
    Ok(addresses)
}

/// Rewrites an IPv6 header, which has no checksum; returns what changed in the pseudo-header.
#[inline]
fn rewrite_ipv6(frame: &mut [u8], ip_offset: usize, changes: &Changes) -> Result<Delta, RewriteError> {
    let header: &mut [u8; IPV6_BYTES] = array_at_mut(frame, ip_offset).ok_or(RewriteError::Frame)?;
    if header[0] >> 4 != 6 {
        return Err(RewriteError::Frame);
    }
    let old_source = Ipv6Addr::from(header.copy_at::<8, 16>());
    let old_destination = Ipv6Addr::from(header.copy_at::<24, 16>());
    let source = ipv6_or(changes.source_address, old_source)?;
    let destination = ipv6_or(changes.destination_address, old_destination)?;

    if let Some(dscp) = changes.dscp {
        // Version, traffic class and flow label share the first words; the DSCP has the middle six bits of the first
        // one.
        let first = header.u16_at::<0>() & !0x0fc0 | u16::from(dscp) << 6;
        header[0..2].copy_from_slice(&first.to_be_bytes());
    }
    header[7] = changes.hop_limit.unwrap_or(header[7]);
    header[8..24].copy_from_slice(&source.octets());
    header[24..40].copy_from_slice(&destination.octets());
    Ok(Delta::new(old_source, source).plus(Delta::new(old_destination, destination)))
}

/// Rewrites ports and checksum of a UDP header whose pseudo-header changed by `addresses`.
#[inline]
fn rewrite_udp(udp: &mut [u8; UDP_BYTES], changes: &Changes, addresses: Delta, state: UdpChecksum) {
    let (old_source, old_destination) = (udp.u16_at::<0>(), udp.u16_at::<2>());
    let source = changes.source_port.unwrap_or(old_source);
    let destination = changes.destination_port.unwrap_or(old_destination);
    udp[0..2].copy_from_slice(&source.to_be_bytes());
    udp[2..4].copy_from_slice(&destination.to_be_bytes());

    let field = udp.u16_at::<6>();
    let checksum = match state {
        // The stage that completes it sums the ports; only the pseudo-header is in the field.
        UdpChecksum::Partial => update_folded(field, addresses.removed, addresses.added),
        UdpChecksum::Complete if field == 0 => 0,
        UdpChecksum::Complete => {
            let ports = Delta::new(old_source, source).plus(Delta::new(old_destination, destination));
            let delta = addresses.plus(ports);
            nonzero(update(field, delta.removed, delta.added))
        }
    };
    udp[6..8].copy_from_slice(&checksum.to_be_bytes());
}

/// A UDP checksum of 0 is sent as 0xffff, its other form, because 0 means "not used" (RFC 768).
#[inline]
pub(crate) const fn nonzero(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}

#[inline]
fn ipv4_or(new: Option<IpAddr>, old: Ipv4Addr) -> Result<Ipv4Addr, RewriteError> {
    match new {
        None => Ok(old),
        Some(IpAddr::V4(address)) => Ok(address),
        Some(IpAddr::V6(_)) => Err(RewriteError::Family),
    }
}

#[inline]
fn ipv6_or(new: Option<IpAddr>, old: Ipv6Addr) -> Result<Ipv6Addr, RewriteError> {
    match new {
        None => Ok(old),
        Some(IpAddr::V6(address)) => Ok(address),
        Some(IpAddr::V4(_)) => Err(RewriteError::Family),
    }
}
