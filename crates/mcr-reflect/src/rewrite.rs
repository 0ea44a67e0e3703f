//! Exchanges addresses in place. Nothing else changes, and no checksum has to: the internet checksum is a sum, in which two
//! fields may trade places.

use crate::headers::{Ip, Mac, UDP_BYTES};
use mcr_parse::checksum::{Sum, sum};

/// Exchanges the MAC addresses.
#[inline]
pub(crate) fn swap_macs(frame: &mut [u8]) {
    let (destination, source) = frame[..12].split_at_mut(6);
    destination.swap_with_slice(source);
}

/// Answers to the source, from our own address, whoever was asked.
#[inline]
pub(crate) fn answer_from(frame: &mut [u8], mac: Mac) {
    frame.copy_within(6..12, 0);
    frame[6..12].copy_from_slice(&mac);
}

/// Exchanges the IP addresses.
#[inline]
pub(crate) fn swap_addresses(frame: &mut [u8], ip: &Ip) {
    if ip.is_ipv4 {
        let (source, destination) = frame[ip.offset + 12..ip.offset + 20].split_at_mut(4);
        source.swap_with_slice(destination);
    } else {
        let (source, destination) = frame[ip.offset + 8..ip.offset + 40].split_at_mut(16);
        source.swap_with_slice(destination);
    }
}

/// Exchanges the ports of the UDP or TCP header there.
#[inline]
pub(crate) fn swap_ports(frame: &mut [u8], transport: usize) {
    let (source, destination) = frame[transport..transport + 4].split_at_mut(2);
    source.swap_with_slice(destination);
}

/// Whether the checksum is the bare sum of the pseudo header, which is what a sender leaves that counts on a device to complete it,
/// and is wrong as it is. Of damaged frames one in 65,536 looks so, too.
pub(crate) fn looks_partial(frame: &[u8], ip: &Ip, field: usize) -> bool {
    let (start, end) = (ip.transport, ip.end);
    let at = start + field;
    if at + 2 > end || ip.first_fragment {
        return false;
    }
    // The checksum is the complement of a sum; what is left there is the sum.
    let bare = !pseudo_header(frame, ip, end - start).checksum();
    if frame[at..at + 2] != bare.to_be_bytes() {
        return false;
    }
    (pseudo_header(frame, ip, end - start) + sum(&frame[start..end])).checksum() != 0
}

/// Puts the whole checksum where the sender left the sum of the pseudo header alone.
///
/// `field` is where the checksum is in the transport header; a header that ends before it is left alone.
pub(crate) fn complete_checksum(frame: &mut [u8], ip: &Ip, field: usize) {
    let (start, end) = (ip.transport, ip.end);
    let at = start + field;
    if at + 2 > end || ip.first_fragment {
        return;
    }
    frame[at..at + 2].fill(0);
    let checksum = transport_checksum(frame, ip, start..end);
    frame[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
}

/// The checksum of these bytes under the pseudo header of `ip` (RFC 768; RFC 8200, section 8.1), with 0 said as 0xffff.
pub(crate) fn transport_checksum(frame: &[u8], ip: &Ip, bytes: std::ops::Range<usize>) -> u16 {
    match (pseudo_header(frame, ip, bytes.len()) + sum(&frame[bytes])).checksum() {
        0 => 0xffff,
        checksum => checksum,
    }
}

#[inline]
fn pseudo_header(frame: &[u8], ip: &Ip, bytes: usize) -> Sum {
    let addresses = if ip.is_ipv4 { ip.offset + 12..ip.offset + 20 } else { ip.offset + 8..ip.offset + 40 };
    sum(&frame[addresses]) + Sum::from(u16::from(ip.protocol)) + Sum::from(bytes as u32)
}

/// Makes the IP and UDP headers right for a reply of this length whose payload was written anew, and returns where it ends.
///
/// Hop limit 255 and identification 0, as STAMP and TWAMP want it; DSCP and ECN as given.
pub(crate) fn finish_udp(frame: &mut [u8], ip: &Ip, payload_bytes: usize, traffic_class: u8) -> usize {
    let udp_bytes = UDP_BYTES + payload_bytes;
    let end = ip.transport + udp_bytes;
    let udp_length = (udp_bytes as u16).to_be_bytes();
    if ip.is_ipv4 {
        let header = &mut frame[ip.offset..ip.transport];
        header[1] = traffic_class;
        let total_bytes = (header.len() + udp_bytes) as u16;
        header[2..4].copy_from_slice(&total_bytes.to_be_bytes());
        header[4..6].fill(0);
        header[8] = 255;
        header[10..12].fill(0);
        let checksum = sum(header).checksum();
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
    } else {
        let header = &mut frame[ip.offset..ip.transport];
        header[0] = 0x60 | traffic_class >> 4;
        header[1] = traffic_class << 4 | header[1] & 0x0f;
        let payload_bytes = (header.len() - 40 + udp_bytes) as u16;
        header[4..6].copy_from_slice(&payload_bytes.to_be_bytes());
        header[7] = 255;
    }
    let at = ip.transport;
    frame[at + 4..at + 6].copy_from_slice(&udp_length);
    frame[at + 6..at + 8].fill(0);
    let checksum = transport_checksum(frame, &Ip { end, ..*ip }, at..end);
    frame[at + 6..at + 8].copy_from_slice(&checksum.to_be_bytes());
    end
}
