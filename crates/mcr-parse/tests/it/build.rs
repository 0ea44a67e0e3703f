//! The builder, byte for byte against etherparse's.

use std::net::{SocketAddrV4, SocketAddrV6};

use etherparse::{IpHeaders, Ipv6FlowLabel, PacketBuilder};
use mcr_parse::build::{self, BuildError, ETHER_TYPE_IPV4, ETHER_TYPE_IPV6, Ipv4Udp, Ipv6Udp};
use mcr_parse::checksum::Parts;
use mcr_parse::{Link, Tag, Tags, UdpChecksum, parse, udp_checksum_is_valid};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::oracle::naive_sum;

const MAC_TO: [u8; 6] = [1, 0, 0x5e, 1, 1, 1];
const MAC_FROM: [u8; 6] = [2, 0, 0, 0, 0, 1];

fn ipv4_fields() -> impl Strategy<Value = Ipv4Udp> {
    (any::<[[u8; 4]; 2]>(), any::<[u16; 3]>(), any::<[u8; 2]>(), any::<bool>()).prop_map(
        |([from, to], [from_port, to_port, identification], [hop_limit, traffic_class], dont_fragment)| {
            Ipv4Udp {
                source: SocketAddrV4::new(from.into(), from_port),
                destination: SocketAddrV4::new(to.into(), to_port),
                hop_limit,
                traffic_class,
                identification,
                dont_fragment,
            }
        },
    )
}

fn ipv6_fields() -> impl Strategy<Value = Ipv6Udp> {
    (any::<[[u8; 16]; 2]>(), any::<[u16; 2]>(), any::<[u8; 2]>(), 0..1_u32 << 20).prop_map(
        |([from, to], [from_port, to_port], [hop_limit, traffic_class], flow_label)| Ipv6Udp {
            source: SocketAddrV6::new(from.into(), from_port, 0, 0),
            destination: SocketAddrV6::new(to.into(), to_port, 0, 0),
            hop_limit,
            traffic_class,
            flow_label,
        },
    )
}

fn etherparse_ipv4(fields: &Ipv4Udp, payload: &[u8]) -> Vec<u8> {
    let mut header = etherparse::Ipv4Header {
        dscp: (fields.traffic_class >> 2).try_into().unwrap(),
        ecn: (fields.traffic_class & 3).try_into().unwrap(),
        identification: fields.identification,
        dont_fragment: fields.dont_fragment,
        time_to_live: fields.hop_limit,
        source: fields.source.ip().octets(),
        destination: fields.destination.ip().octets(),
        ..Default::default()
    };
    header.protocol = etherparse::IpNumber::UDP;
    finish(
        IpHeaders::Ipv4(header, Default::default()),
        fields.source.port(),
        fields.destination.port(),
        payload,
    )
}

fn etherparse_ipv6(fields: &Ipv6Udp, payload: &[u8]) -> Vec<u8> {
    let header = etherparse::Ipv6Header {
        traffic_class: fields.traffic_class,
        flow_label: Ipv6FlowLabel::try_new(fields.flow_label).unwrap(),
        payload_length: 0,
        next_header: etherparse::IpNumber::UDP,
        hop_limit: fields.hop_limit,
        source: fields.source.ip().octets(),
        destination: fields.destination.ip().octets(),
    };
    finish(
        IpHeaders::Ipv6(header, Default::default()),
        fields.source.port(),
        fields.destination.port(),
        payload,
    )
}

fn finish(ip: IpHeaders, source_port: u16, destination_port: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(MAC_FROM, MAC_TO).ip(ip).udp(source_port, destination_port);
    builder.write(&mut frame, payload).unwrap();
    frame
}

/// Ethernet, the headers that `ip_udp` writes, and the payload.
fn ours(ether_type: u16, payload: &[u8], ip_udp: impl Fn(&mut [u8]) -> Result<usize, BuildError>) -> Vec<u8> {
    let mut frame = vec![0xee; 128];
    let mut at = build::ethernet(&mut frame, MAC_TO, MAC_FROM, &Tags::NONE, ether_type).unwrap();
    at += ip_udp(&mut frame[at..]).unwrap();
    frame.truncate(at);
    frame.extend(payload);
    frame
}

proptest! {
    #[test]
    fn ipv4_headers_are_those_etherparse_builds(fields in ipv4_fields(), parts in vec(vec(any::<u8>(), 0..50), 0..5)) {
        let slices: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        let payload = slices.concat();
        let frame = ours(ETHER_TYPE_IPV4, &payload, |buf| {
            build::ipv4_udp(buf, &fields, Parts::of(&slices), UdpChecksum::Complete)
        });
        prop_assert_eq!(frame, etherparse_ipv4(&fields, &payload));
    }

    #[test]
    fn ipv6_headers_are_those_etherparse_builds(fields in ipv6_fields(), parts in vec(vec(any::<u8>(), 0..50), 0..5)) {
        let slices: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        let payload = slices.concat();
        let frame = ours(ETHER_TYPE_IPV6, &payload, |buf| {
            build::ipv6_udp(buf, &fields, Parts::of(&slices), UdpChecksum::Complete)
        });
        prop_assert_eq!(frame, etherparse_ipv6(&fields, &payload));
    }

    #[test]
    fn a_partial_checksum_is_the_sum_of_the_pseudo_header(v4 in ipv4_fields(), v6 in ipv6_fields(), bytes in 0..1500_usize) {
        let payload = vec![9; bytes];
        let [high, low] = (bytes as u16 + 8).to_be_bytes();
        let frame = ours(ETHER_TYPE_IPV4, &payload, |buf| {
            build::ipv4_udp(buf, &v4, Parts::of(&[&payload]), UdpChecksum::Partial)
        });
        let sum = naive_sum(&[&frame[26..34], &[0, 17, high, low]]);
        prop_assert_eq!(parse(&frame, Link::Ethernet).unwrap().udp_checksum, sum);
        let frame = ours(ETHER_TYPE_IPV6, &payload, |buf| {
            build::ipv6_udp(buf, &v6, Parts::of(&[&payload]), UdpChecksum::Partial)
        });
        let sum = naive_sum(&[&frame[22..54], &[0, 17, high, low]]);
        prop_assert_eq!(parse(&frame, Link::Ethernet).unwrap().udp_checksum, sum);
    }
}

fn any_ipv4() -> Ipv4Udp {
    Ipv4Udp::new("10.0.0.9:4000".parse().unwrap(), "239.1.1.1:5000".parse().unwrap())
}

fn any_ipv6() -> Ipv6Udp {
    Ipv6Udp::new("[2001:db8::9]:4000".parse().unwrap(), "[ff3e::1]:5000".parse().unwrap())
}

#[test]
fn a_checksum_that_comes_to_zero_is_built_as_ffff() {
    let plain = ours(ETHER_TYPE_IPV4, &[], |buf| {
        build::ipv4_udp(buf, &any_ipv4(), Parts::default(), UdpChecksum::Complete)
    });
    // The checksum of the empty datagram as the payload of one two bytes longer, less what the two lengths add.
    let checksum = parse(&plain, Link::Ethernet).unwrap().udp_checksum - 4;
    let payload = checksum.to_be_bytes();
    let frame = ours(ETHER_TYPE_IPV4, &payload, |buf| {
        build::ipv4_udp(buf, &any_ipv4(), Parts::of(&[&payload]), UdpChecksum::Complete)
    });
    let verdict = parse(&frame, Link::Ethernet).unwrap();
    assert_eq!(verdict.udp_checksum, 0xffff);
    assert!(udp_checksum_is_valid(&frame, &verdict));
}

#[test]
fn the_longest_payload_is_built_and_one_byte_more_is_refused() {
    let mut buf = [0; 48];
    let payload = vec![0; 65_528];
    let parts = |bytes: usize| Parts::of(&[&payload[..bytes]]);
    let ipv4 = |buf: &mut [u8], bytes| build::ipv4_udp(buf, &any_ipv4(), parts(bytes), UdpChecksum::Complete);
    let ipv6 = |buf: &mut [u8], bytes| build::ipv6_udp(buf, &any_ipv6(), parts(bytes), UdpChecksum::Complete);
    assert_eq!(ipv4(&mut buf, 65_507), Ok(28));
    assert_eq!(ipv4(&mut buf, 65_508), Err(BuildError::Payload { bytes: 65_508, bytes_max: 65_507 }));
    assert_eq!(ipv6(&mut buf, 65_527), Ok(48));
    assert_eq!(ipv6(&mut buf, 65_528), Err(BuildError::Payload { bytes: 65_528, bytes_max: 65_527 }));
}

#[test]
fn a_short_buffer_is_refused_and_left_alone() {
    let mut buf = [0xee; 48];
    let ipv4 = build::ipv4_udp(&mut buf[..27], &any_ipv4(), Parts::default(), UdpChecksum::Complete);
    assert_eq!(ipv4, Err(BuildError::Buffer { need: 28, have: 27 }));
    let ipv6 = build::ipv6_udp(&mut buf[..47], &any_ipv6(), Parts::default(), UdpChecksum::Complete);
    assert_eq!(ipv6, Err(BuildError::Buffer { need: 48, have: 47 }));
    let ethernet = build::ethernet(&mut buf[..13], MAC_TO, MAC_FROM, &Tags::NONE, ETHER_TYPE_IPV4);
    assert_eq!(ethernet, Err(BuildError::Buffer { need: 14, have: 13 }));
    assert_eq!(buf, [0xee; 48]);
}

#[test]
fn tags_are_built_as_they_are_parsed() {
    let tags = Tags::new(&[Tag { tpid: 0x88a8, tci: 7 }, Tag { tpid: 0x8100, tci: 0xa02a }]).unwrap();
    let mut frame = [0; 50];
    let at = build::ethernet(&mut frame, MAC_TO, MAC_FROM, &tags, ETHER_TYPE_IPV4).unwrap();
    assert_eq!(at, 22);
    build::ipv4_udp(&mut frame[at..], &any_ipv4(), Parts::default(), UdpChecksum::Complete).unwrap();
    assert_eq!(parse(&frame, Link::Ethernet).unwrap().tags, tags);
}
