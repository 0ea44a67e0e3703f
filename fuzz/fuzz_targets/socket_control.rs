//! Any bytes are read as control messages, headers and addresses without a panic, and what is read says what they say.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mcr_socket::packet::{AuxData, LinkAddress, VNET_HEADER_BYTES, VnetHeader};
use mcr_socket::socket_addr;
use mcr_socket::udp::UdpControl;

fuzz_target!(|bytes: &[u8]| {
    let udp = UdpControl::parse(bytes);
    let says = |part: &[u8]| bytes.windows(part.len()).any(|window| window == part);
    match udp.destination {
        Some(std::net::IpAddr::V4(address)) => assert!(says(&address.octets())),
        Some(std::net::IpAddr::V6(address)) => assert!(says(&address.octets())),
        None => {}
    }
    assert!(udp.ifindex.is_none_or(|ifindex| ifindex != 0 && says(&ifindex.to_ne_bytes())));
    assert!(udp.segment_bytes.is_none_or(|segment| segment != 0 && says(&i32::from(segment).to_ne_bytes())));
    if let Some(aux) = AuxData::parse(bytes) {
        let fields = [aux.status, aux.frame_bytes, aux.captured_bytes].map(u32::to_ne_bytes).concat();
        assert!(says(&fields));
    }

    assert_eq!(AuxData::from_data(bytes).is_some(), bytes.len() >= 20);
    assert_eq!(VnetHeader::parse(bytes).is_some(), bytes.len() >= VNET_HEADER_BYTES);
    if let Some(header) = VnetHeader::parse(bytes) {
        let words = [header.hdr_len, header.gso_size, header.csum_start, header.csum_offset];
        assert_eq!(words.map(u16::to_ne_bytes).concat(), bytes[2..VNET_HEADER_BYTES]);
    }
    if let Some(address) = LinkAddress::parse(bytes) {
        assert_eq!(address.ifindex.to_ne_bytes(), bytes[4..8]);
        assert_eq!(address.protocol.to_be_bytes(), bytes[2..4]);
        assert!(address.address_bytes <= 8);
    }
    if let Some(address) = socket_addr(bytes) {
        assert_eq!(address.port().to_be_bytes(), bytes[2..4]);
        assert!(bytes.len() >= if address.is_ipv4() { 8 } else { 28 });
    }
});
