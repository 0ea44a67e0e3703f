//! Frames, built and read by etherparse.

use std::net::SocketAddr;

use etherparse::{
    EtherType, Ethernet2Header, IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, NetSlice, SlicedPacket,
    TransportSlice, UdpHeader,
};

use crate::rig::{Seen, mac_of};

pub(crate) const SOURCE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

/// What a test wants to be in a frame, or finds there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fields {
    pub(crate) macs: [[u8; 6]; 2],
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
    pub(crate) hop_limit: u8,
    pub(crate) traffic_class: u8,
    pub(crate) payload: Vec<u8>,
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// An IPv4 frame to a group with right checksums. `class` is the whole byte.
pub(crate) fn v4(source: &str, destination: &str, hop_limit: u8, class: u8, payload: &[u8]) -> Vec<u8> {
    let fields = Fields {
        macs: [mac_of(address(destination).ip()), SOURCE_MAC],
        source: address(source),
        destination: address(destination),
        hop_limit,
        traffic_class: class,
        payload: payload.to_vec(),
    };
    build(&fields)
}

/// As [`v4`], of either family.
pub(crate) fn build(fields: &Fields) -> Vec<u8> {
    let Fields { macs, source, destination, hop_limit, traffic_class, payload } = fields;
    let mut frame = Vec::new();
    let ether_type = if source.is_ipv4() { EtherType::IPV4 } else { EtherType::IPV6 };
    let ethernet = Ethernet2Header { destination: macs[0], source: macs[1], ether_type };
    ethernet.write(&mut frame).expect("room");
    let (from, to) = (source.port(), destination.port());
    match (source, destination) {
        (SocketAddr::V4(source), SocketAddr::V4(destination)) => {
            let mut ip = Ipv4Header::new(
                (8 + payload.len()) as u16,
                *hop_limit,
                IpNumber::UDP,
                source.ip().octets(),
                destination.ip().octets(),
            )
            .expect("short");
            ip.dscp = (traffic_class >> 2).try_into().expect("6 bits");
            ip.ecn = (traffic_class & 3).try_into().expect("2 bits");
            ip.identification = 0x1234;
            ip.dont_fragment = false;
            ip.header_checksum = ip.calc_header_checksum();
            let udp = UdpHeader::with_ipv4_checksum(from, to, &ip, payload).expect("short");
            ip.write(&mut frame).expect("room");
            udp.write(&mut frame).expect("room");
        }
        (SocketAddr::V6(source), SocketAddr::V6(destination)) => {
            let ip = Ipv6Header {
                traffic_class: *traffic_class,
                flow_label: Ipv6FlowLabel::try_new(0xabcde).expect("20 bits"),
                payload_length: (8 + payload.len()) as u16,
                next_header: IpNumber::UDP,
                hop_limit: *hop_limit,
                source: source.ip().octets(),
                destination: destination.ip().octets(),
            };
            let udp = UdpHeader::with_ipv6_checksum(from, to, &ip, payload).expect("short");
            ip.write(&mut frame).expect("room");
            udp.write(&mut frame).expect("room");
        }
        _ => panic!("one family"),
    }
    frame.extend(payload);
    frame
}

/// Reads a frame that came out, and holds both checksums to be right: whole, or partial where the kernel says so.
pub(crate) fn read(seen: &Seen) -> Fields {
    let sliced = SlicedPacket::from_ethernet(&seen.frame).expect("a frame");
    let Some(etherparse::LinkSlice::Ethernet2(ethernet)) = &sliced.link else { panic!("no Ethernet") };
    let Some(TransportSlice::Udp(udp)) = &sliced.transport else { panic!("no UDP") };
    let macs = [ethernet.destination(), ethernet.source()];
    let payload = udp.payload().to_vec();
    let (source, destination, hop_limit, traffic_class, checksum) = match &sliced.net {
        Some(NetSlice::Ipv4(ip)) => {
            let header = ip.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum(), "the IPv4 header checksum");
            let whole = udp.to_header().calc_checksum_ipv4(&header, &payload).expect("short");
            (
                SocketAddr::from((header.source, udp.source_port())),
                SocketAddr::from((header.destination, udp.destination_port())),
                header.time_to_live,
                header.dscp.value() << 2 | header.ecn.value(),
                whole,
            )
        }
        Some(NetSlice::Ipv6(ip)) => {
            let header = ip.header().to_header();
            let whole = udp.to_header().calc_checksum_ipv6(&header, &payload).expect("short");
            (
                SocketAddr::from((header.source, udp.source_port())),
                SocketAddr::from((header.destination, udp.destination_port())),
                header.hop_limit,
                header.traffic_class,
                whole,
            )
        }
        _ => panic!("no IP"),
    };
    if seen.is_partial() {
        assert_eq!(udp.checksum(), pseudo_sum(source, destination, udp.length()), "the partial UDP checksum");
    } else if udp.checksum() != 0 || source.is_ipv6() {
        assert_eq!(udp.checksum(), checksum, "the UDP checksum");
    }
    Fields { macs, source, destination, hop_limit, traffic_class, payload }
}

/// The sum of the pseudo-header, not complemented: what a partial checksum is.
pub(crate) fn pseudo_sum(source: SocketAddr, destination: SocketAddr, udp_bytes: u16) -> u16 {
    let octets = |address: SocketAddr| match address {
        SocketAddr::V4(v4) => v4.ip().octets().to_vec(),
        SocketAddr::V6(v6) => v6.ip().octets().to_vec(),
    };
    let bytes = [octets(source), octets(destination), udp_bytes.to_be_bytes().to_vec(), vec![0, 17]].concat();
    let mut sum: u32 = bytes.chunks(2).map(|two| u32::from(u16::from_be_bytes([two[0], two[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}
