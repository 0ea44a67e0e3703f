//! The parser, case by case.

use mcr_parse::{EXTENSION_HEADERS_MAX, Link, Malformed, Reject, Tag, Tags, Verdict, parse};

use crate::frames::{PAYLOAD, UDP, authentication, ethernet, fragment, ipv4, ipv6, options, routing};
use crate::oracle::check_parse;

const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];

/// Parses, after etherparse agreed.
fn parsed(frame: &[u8], link: Link) -> Result<Verdict, Reject> {
    check_parse(frame, link);
    parse(frame, link)
}

fn parsed_ipv4(datagram: &[u8]) -> Result<Verdict, Reject> {
    let raw = parsed(datagram, Link::RawIp).map(|verdict| verdict.payload_bytes);
    let framed = parsed(&ethernet(&IPV4, datagram), Link::Ethernet);
    assert_eq!(raw, framed.map(|verdict| verdict.payload_bytes));
    framed
}

fn parsed_ipv6(datagram: &[u8]) -> Result<Verdict, Reject> {
    let raw = parsed(datagram, Link::RawIp).map(|verdict| verdict.payload_bytes);
    let framed = parsed(&ethernet(&IPV6, datagram), Link::Ethernet);
    assert_eq!(raw, framed.map(|verdict| verdict.payload_bytes));
    framed
}

fn malformed<T>(detail: Malformed) -> Result<T, Reject> {
    Err(Reject::Malformed(detail))
}

#[test]
fn a_plain_ipv4_frame_gives_every_field() {
    let frame = ethernet(&IPV4, &ipv4(17, &[], &UDP));
    let verdict = parsed(&frame, Link::Ethernet).unwrap();
    assert_eq!(verdict.source, "10.0.0.9:4000".parse().unwrap());
    assert_eq!(verdict.destination, "239.1.1.1:5000".parse().unwrap());
    assert_eq!((verdict.ip_offset, verdict.udp_offset, verdict.payload()), (14, 34, 42..46));
    assert_eq!(&frame[verdict.payload()], PAYLOAD);
    assert_eq!((verdict.hop_limit, verdict.traffic_class, verdict.dscp(), verdict.ecn()), (16, 0x89, 34, 1));
    assert_eq!((verdict.tags, verdict.udp_checksum, verdict.authenticated), (Tags::NONE, 0, false));
}

#[test]
fn a_plain_ipv6_frame_gives_every_field() {
    let frame = ethernet(&IPV6, &ipv6(17, &UDP));
    let verdict = parsed(&frame, Link::Ethernet).unwrap();
    assert_eq!(verdict.source, "[2001:db8::9]:4000".parse().unwrap());
    assert_eq!(verdict.destination, "[ff3e::1]:5000".parse().unwrap());
    assert_eq!((verdict.ip_offset, verdict.udp_offset, verdict.payload()), (14, 54, 62..66));
    assert_eq!((verdict.hop_limit, verdict.traffic_class, verdict.dscp(), verdict.ecn()), (16, 0x89, 34, 1));
}

#[test]
fn one_or_two_tags_of_any_type_are_passed_and_kept() {
    for tpid in [0x8100, 0x88a8, 0x9100_u16] {
        let [high, low] = tpid.to_be_bytes();
        let single = ethernet(&[high, low, 0xa0, 0x2a, 0x08, 0x00], &ipv4(17, &[], &UDP));
        let verdict = parsed(&single, Link::Ethernet).unwrap();
        assert_eq!(verdict.tags.as_slice(), [Tag { tpid, tci: 0xa02a }]);
        assert_eq!(verdict.ip_offset, 18);

        let double = ethernet(&[high, low, 0, 7, 0x81, 0x00, 0xa0, 0x2a, 0x86, 0xdd], &ipv6(17, &UDP));
        let verdict = parsed(&double, Link::Ethernet).unwrap();
        assert_eq!(verdict.tags.as_slice(), [Tag { tpid, tci: 7 }, Tag { tpid: 0x8100, tci: 0xa02a }]);
        assert_eq!(&double[verdict.payload()], PAYLOAD);
    }
}

#[test]
fn a_third_tag_is_not_passed() {
    let tags = [0x81, 0, 0, 1, 0x81, 0, 0, 2, 0x81, 0, 0, 3, 0x08, 0x00];
    assert_eq!(parsed(&ethernet(&tags, &ipv4(17, &[], &UDP)), Link::Ethernet), Err(Reject::NotUdp));
}

#[test]
fn other_ether_types_and_lengths_are_not_udp() {
    for between in [[0x08, 0x06], [0x88, 0xcc], [0x00, 0x26], [0x88, 0x63]] {
        assert_eq!(parse(&ethernet(&between, &[0; 60]), Link::Ethernet), Err(Reject::NotUdp));
    }
}

#[test]
fn padding_and_ip_options_do_not_reach_the_payload() {
    let mut frame = ethernet(&IPV4, &ipv4(17, &[1, 1, 1, 1, 7, 4, 4, 0], &UDP));
    frame.extend([0xee; 18]);
    let verdict = parsed(&frame, Link::Ethernet).unwrap();
    assert_eq!((verdict.udp_offset, &frame[verdict.payload()]), (14 + 28, PAYLOAD));
}

#[test]
fn bytes_between_the_udp_length_and_the_ip_length_are_ignored() {
    let surplus = [&UDP[..], &[0xee; 6]].concat();
    assert_eq!(parsed_ipv4(&ipv4(17, &[], &surplus)).unwrap().payload_bytes, 4);
    assert_eq!(parsed_ipv6(&ipv6(17, &surplus)).unwrap().payload_bytes, 4);
}

#[test]
fn an_empty_payload_is_a_datagram() {
    let empty = [0x0f, 0xa0, 0x13, 0x88, 0, 8, 0, 0];
    assert_eq!(parsed_ipv4(&ipv4(17, &[], &empty)).unwrap().payload(), 42..42);
    assert_eq!(parsed_ipv6(&ipv6(17, &empty)).unwrap().payload(), 62..62);
}

#[test]
fn a_udp_length_below_eight_or_past_the_end_is_malformed() {
    for udp_bytes in [0, 7, 13, 0xffff_u16] {
        let mut udp = UDP;
        udp[4..6].copy_from_slice(&udp_bytes.to_be_bytes());
        assert_eq!(parsed_ipv4(&ipv4(17, &[], &udp)), malformed(Malformed::UdpLength));
        assert_eq!(parsed_ipv6(&ipv6(17, &udp)), malformed(Malformed::UdpLength));
    }
}

#[test]
fn a_udp_length_may_not_borrow_from_the_padding() {
    let mut udp = UDP;
    udp[5] = 16;
    let mut datagram = ipv4(17, &[], &udp);
    datagram.extend([0; 20]);
    assert_eq!(parsed_ipv4(&datagram), malformed(Malformed::UdpLength));
}

#[test]
fn a_frame_cut_anywhere_is_never_a_datagram() {
    let content = [&options(17)[..], &UDP].concat();
    let tags = [0x88, 0xa8, 0, 7, 0x81, 0x00, 0, 8];
    let frames = [
        ethernet(&[&tags[..], &IPV4].concat(), &ipv4(17, &[1, 1, 1, 1], &UDP)),
        ethernet(&[&tags[..], &IPV6].concat(), &ipv6(60, &content)),
    ];
    for frame in frames {
        assert!(parsed(&frame, Link::Ethernet).is_ok());
        for bytes in 0..frame.len() {
            assert_eq!(parsed(&frame[..bytes], Link::Ethernet), malformed(Malformed::Truncated), "{bytes}");
        }
    }
}

#[test]
fn contradictions_in_an_ipv4_header_are_named() {
    let whole = ipv4(17, &[], &UDP);
    let with = |at: usize, value: u8| {
        let mut datagram = whole.clone();
        datagram[at] = value;
        parsed(&ethernet(&IPV4, &datagram), Link::Ethernet)
    };
    assert_eq!(with(0, 0x65), malformed(Malformed::IpVersion));
    assert_eq!(with(0, 0x44), malformed(Malformed::HeaderLength));
    assert_eq!(with(3, 19), malformed(Malformed::TotalLength));
    assert_eq!(with(3, 33), malformed(Malformed::Truncated));
    assert_eq!(with(0, 0x49), malformed(Malformed::TotalLength));
    assert_eq!(parsed(&[0x15; 40], Link::RawIp), malformed(Malformed::IpVersion));
}

#[test]
fn a_superframe_is_one_datagram_of_its_whole_length() {
    let payload = vec![5; 7000];
    let mut udp = vec![0x0f, 0xa0, 0x13, 0x88];
    udp.extend(7008_u16.to_be_bytes());
    udp.extend([0, 0]);
    udp.extend(payload);
    assert_eq!(parsed_ipv4(&ipv4(17, &[], &udp)).unwrap().payload_bytes, 7000);
}

#[test]
fn a_total_length_of_zero_is_malformed_if_udp_and_else_not_udp() {
    let mut datagram = ipv4(17, &[], &UDP);
    datagram[2..4].fill(0);
    assert_eq!(parse(&datagram, Link::RawIp), malformed(Malformed::TotalLength));
    datagram[9] = 6;
    assert_eq!(parse(&datagram, Link::RawIp), Err(Reject::NotUdp));
}

#[test]
fn a_first_fragment_is_a_fragment_though_it_has_ports() {
    let mut datagram = ipv4(17, &[], &UDP);
    datagram[6] = 0x20;
    assert_eq!(parsed_ipv4(&datagram), Err(Reject::Fragment));
}

#[test]
fn a_later_fragment_is_dropped_before_its_ports_are_read() {
    // Fewer bytes than a UDP header has: reading ports would call it malformed.
    let mut datagram = ipv4(17, &[], &[1, 2, 3]);
    datagram[7] = 185;
    assert_eq!(parsed_ipv4(&datagram), Err(Reject::Fragment));
    let datagram = ipv6(44, &[&fragment(17, 185, false)[..], &[1, 2, 3]].concat());
    assert_eq!(parsed_ipv6(&datagram), Err(Reject::Fragment));
}

#[test]
fn the_reserved_and_the_dont_fragment_bit_make_no_fragment() {
    let mut datagram = ipv4(17, &[], &UDP);
    datagram[6] = 0xc0;
    assert!(parsed_ipv4(&datagram).is_ok());
}

#[test]
fn a_fragment_of_another_protocol_is_not_udp() {
    let mut datagram = ipv4(6, &[], &[0; 20]);
    datagram[6] = 0x20;
    assert_eq!(parsed_ipv4(&datagram), Err(Reject::NotUdp));
    let datagram = ipv6(44, &[&fragment(6, 0, true)[..], &[0; 20]].concat());
    assert_eq!(parsed_ipv6(&datagram), Err(Reject::NotUdp));
}

#[test]
fn an_atomic_fragment_is_a_whole_datagram() {
    let verdict = parsed_ipv6(&ipv6(44, &[&fragment(17, 0, false)[..], &UDP].concat())).unwrap();
    assert_eq!(verdict.payload_bytes, 4);
    let first = ipv6(44, &[&fragment(17, 0, true)[..], &UDP].concat());
    assert_eq!(parsed_ipv6(&first), Err(Reject::Fragment));
    let before_options = ipv6(44, &[&fragment(60, 0, true)[..], &options(17), &UDP].concat());
    assert_eq!(parsed_ipv6(&before_options), Err(Reject::Fragment));
}

#[test]
fn every_extension_header_is_walked() {
    let chain = [
        &options(60)[..],
        &options(43),
        &routing(44, 0),
        &fragment(51, 0, false),
        &authentication(60),
        &options(17),
        &UDP,
    ]
    .concat();
    let verdict = parsed_ipv6(&ipv6(0, &chain)).unwrap();
    assert_eq!((verdict.udp_offset, verdict.payload_bytes), (14 + 40 + 5 * 8 + 24, 4));
    assert!(verdict.authenticated);
}

#[test]
fn an_authentication_header_is_walked_in_ipv4_too() {
    let verdict = parsed_ipv4(&ipv4(51, &[], &[&authentication(17)[..], &UDP].concat())).unwrap();
    assert_eq!((verdict.udp_offset, verdict.authenticated), (34 + 24, true));
    let tcp = ipv4(51, &[], &[&authentication(6)[..], &[0; 20]].concat());
    assert_eq!(parse(&tcp, Link::RawIp), Err(Reject::NotUdp));
    let mut short = authentication(17);
    short[1] = 0;
    let short = ipv4(51, &[], &[&short[..], &UDP].concat());
    assert_eq!(parsed_ipv4(&short), malformed(Malformed::ExtensionHeader));
}

#[test]
fn extension_headers_are_walked_up_to_a_bound() {
    let chain = |count: usize| {
        let mut content: Vec<u8> = (1..count).flat_map(|_| options(60)).collect();
        content.extend(options(17));
        content.extend(UDP);
        parsed_ipv6(&ipv6(60, &content))
    };
    assert!(chain(EXTENSION_HEADERS_MAX).is_ok());
    assert_eq!(chain(EXTENSION_HEADERS_MAX + 1), malformed(Malformed::ExtensionHeader));
    assert_eq!(chain(100), malformed(Malformed::ExtensionHeader));
    let mut beyond: Vec<u8> = (1..EXTENSION_HEADERS_MAX).flat_map(|_| options(60)).collect();
    beyond.extend(options(44));
    beyond.extend(fragment(17, 1, false));
    assert_eq!(parse(&ipv6(60, &beyond), Link::RawIp), malformed(Malformed::ExtensionHeader));
}

#[test]
fn misplaced_and_overlong_extension_headers_are_malformed() {
    let late_hop_by_hop = ipv6(60, &[&options(0)[..], &options(17), &UDP].concat());
    assert_eq!(parsed_ipv6(&late_hop_by_hop), malformed(Malformed::ExtensionHeader));
    let mut overlong = options(17);
    overlong[1] = 2;
    let overlong = ipv6(60, &[&overlong[..], &UDP].concat());
    assert_eq!(parsed_ipv6(&overlong), malformed(Malformed::ExtensionHeader));
}

#[test]
fn a_datagram_on_its_way_to_a_waypoint_is_refused() {
    let datagram = ipv6(43, &[&routing(17, 1)[..], &UDP].concat());
    assert_eq!(parsed_ipv6(&datagram), malformed(Malformed::SegmentsLeft));
}

#[test]
fn a_jumbogram_is_malformed() {
    let jumbo = [17, 0, 0xc2, 4, 0, 1, 0, 20];
    let mut datagram = ipv6(0, &[&jumbo[..], &UDP].concat());
    datagram[4..6].fill(0);
    assert_eq!(parsed_ipv6(&datagram), malformed(Malformed::ExtensionHeader));
    let mut datagram = ipv6(17, &UDP);
    datagram[4..6].fill(0);
    assert_eq!(parsed_ipv6(&datagram), malformed(Malformed::UdpLength));
}

#[test]
fn payloads_of_ip_other_than_udp_are_not_udp() {
    for protocol in [1, 2, 6, 50, 58, 59, 103, 132, 136] {
        assert_eq!(parse(&ipv4(protocol, &[], &UDP), Link::RawIp), Err(Reject::NotUdp));
        assert_eq!(parse(&ipv6(protocol, &UDP), Link::RawIp), Err(Reject::NotUdp));
        let behind_options = ipv6(60, &[&options(protocol)[..], &UDP].concat());
        assert_eq!(parse(&behind_options, Link::RawIp), Err(Reject::NotUdp));
    }
}

#[test]
fn a_reject_and_its_detail_fit_one_byte_and_say_what_is_wrong() {
    assert_eq!(size_of::<Reject>(), 1);
    assert_eq!(Reject::Fragment.to_string(), "fragment of a datagram");
    let reject = Reject::from(Malformed::UdpLength);
    assert_eq!(reject.to_string(), "malformed frame: UDP length below 8 or past the datagram's end");
}
