//! Frames made by hand, one byte string at a time, for cases no builder would make.

/// Destination MAC, source MAC.
pub(crate) const MACS: [u8; 12] = [1, 0, 0x5e, 1, 1, 1, 2, 0, 0, 0, 0, 1];
/// 4000 to 5000, 4 bytes of payload, no checksum.
pub(crate) const UDP: [u8; 12] = [0x0f, 0xa0, 0x13, 0x88, 0, 12, 0, 0, b'd', b'a', b't', b'a'];
pub(crate) const PAYLOAD: &[u8] = b"data";

/// An Ethernet frame: `between` is all from the first EtherType to the last.
pub(crate) fn ethernet(between: &[u8], datagram: &[u8]) -> Vec<u8> {
    [&MACS, between, datagram].concat()
}

/// An IPv4 datagram from 10.0.0.9 to 239.1.1.1, TTL 16, DSCP 34, ECN 1, with `options` (a multiple of 4 bytes).
pub(crate) fn ipv4(protocol: u8, options: &[u8], content: &[u8]) -> Vec<u8> {
    let header_bytes = 20 + options.len();
    let total = (header_bytes + content.len()) as u16;
    let mut header = vec![0x40 | (header_bytes / 4) as u8, 0x89];
    header.extend(total.to_be_bytes());
    header.extend([0, 7, 0x40, 0, 16, protocol, 0, 0, 10, 0, 0, 9, 239, 1, 1, 1]);
    [&header, options, content].concat()
}

/// An IPv6 datagram from 2001:db8::9 to ff3e::1, hop limit 16, DSCP 34, ECN 1, flow label 0x12345.
pub(crate) fn ipv6(next_header: u8, content: &[u8]) -> Vec<u8> {
    let mut header = vec![0x68, 0x91, 0x23, 0x45];
    header.extend((content.len() as u16).to_be_bytes());
    header.extend([next_header, 16]);
    header.extend([0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]);
    header.extend([0xff, 0x3e, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    [&header, content].concat()
}

/// An extension header of 8 bytes: hop-by-hop or destination options holding one PadN.
pub(crate) fn options(next_header: u8) -> [u8; 8] {
    [next_header, 0, 1, 4, 0, 0, 0, 0]
}

/// A routing header of 8 bytes without addresses.
pub(crate) fn routing(next_header: u8, segments_left: u8) -> [u8; 8] {
    [next_header, 0, 4, segments_left, 0, 0, 0, 0]
}

/// A fragment header with its offset in 8-byte units.
pub(crate) fn fragment(next_header: u8, offset: u16, more: bool) -> [u8; 8] {
    let [high, low] = (offset << 3 | u16::from(more)).to_be_bytes();
    [next_header, 0, high, low, 0, 0, 0, 1]
}

/// An authentication header of 24 bytes.
pub(crate) fn authentication(next_header: u8) -> [u8; 24] {
    let mut header = [0xab; 24];
    header[..4].copy_from_slice(&[next_header, 4, 0, 0]);
    header
}
