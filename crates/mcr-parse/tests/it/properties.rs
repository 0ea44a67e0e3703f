//! Properties over frames that etherparse builds, frames it built and chance changed, and bytes of chance alone.

use std::net::{IpAddr, SocketAddr};

use etherparse::{
    DoubleVlanHeader, EtherType, IpAuthHeader, IpFragOffset, IpHeaders, IpNumber, Ipv4Extensions, Ipv4Header,
    Ipv6Extensions, Ipv6FlowLabel, Ipv6FragmentHeader, Ipv6Header, Ipv6RawExtHeader, Ipv6RoutingExtensions,
    PacketBuilder, SingleVlanHeader, VlanHeader,
};
use mcr_parse::checksum::{self, Parts, Sum};
use mcr_parse::{
    Changes, Link, Tag, Tags, UdpChecksum, ipv4_header_checksum_is_valid, parse, udp_checksum_is_valid,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::Index;

use crate::oracle::{check_parse, check_rewrite, naive_sum};

/// A whole UDP datagram that etherparse builds.
#[derive(Clone, Debug)]
struct Spec {
    tags: Vec<u16>,
    raw: bool,
    ip: IpHeaders,
    ports: [u16; 2],
    payload: Vec<u8>,
    padding: usize,
}

impl Spec {
    fn link(&self) -> Link {
        if self.raw { Link::RawIp } else { Link::Ethernet }
    }

    fn frame(&self) -> Vec<u8> {
        let [source, destination] = self.ports;
        let step = if self.raw {
            PacketBuilder::ip(self.ip.clone())
        } else {
            let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [1, 0, 0x5e, 1, 1, 1]);
            match self.tags[..] {
                [] => ethernet.ip(self.ip.clone()),
                [tag] => ethernet.vlan(VlanHeader::Single(vlan(tag))).ip(self.ip.clone()),
                [outer, inner, ..] => {
                    let double = DoubleVlanHeader { outer: vlan(outer), inner: vlan(inner) };
                    ethernet.vlan(VlanHeader::Double(double)).ip(self.ip.clone())
                }
            }
        };
        let mut frame = Vec::new();
        step.udp(source, destination).write(&mut frame, &self.payload).unwrap();
        frame.extend(vec![0xee; self.padding]);
        frame
    }

    fn tags(&self) -> Tags {
        let tag = |tpid, tci: &u16| Tag { tpid, tci: *tci };
        match &self.tags[..] {
            _ if self.raw => Tags::NONE,
            [] => Tags::NONE,
            [only] => Tags::new(&[tag(0x8100, only)]).unwrap(),
            [outer, inner, ..] => Tags::new(&[tag(0x88a8, outer), tag(0x8100, inner)]).unwrap(),
        }
    }

    /// Source, destination, hop limit, traffic class, whether it is authenticated, bytes of IP headers.
    fn ip_fields(&self) -> ([IpAddr; 2], u8, u8, bool, usize) {
        match &self.ip {
            IpHeaders::Ipv4(header, extensions) => (
                [header.source.into(), header.destination.into()],
                header.time_to_live,
                header.dscp.value() << 2 | header.ecn.value(),
                extensions.auth.is_some(),
                header.header_len() + extensions.header_len(),
            ),
            IpHeaders::Ipv6(header, extensions) => (
                [header.source.into(), header.destination.into()],
                header.hop_limit,
                header.traffic_class,
                extensions.auth.is_some(),
                Ipv6Header::LEN + extensions.header_len(),
            ),
        }
    }
}

fn vlan(tci: u16) -> SingleVlanHeader {
    SingleVlanHeader {
        pcp: ((tci >> 13) as u8).try_into().unwrap(),
        drop_eligible_indicator: tci & 0x1000 != 0,
        vlan_id: (tci & 0x0fff).try_into().unwrap(),
        ether_type: EtherType(0),
    }
}

fn auth() -> impl Strategy<Value = Option<IpAuthHeader>> {
    // An ICV of an odd number of words keeps the whole header a multiple of 8 bytes, as IPv6 wants it.
    option::weighted(0.2, (any::<[u32; 2]>(), 0..4_usize)).prop_map(|auth| {
        auth.map(|([spi, sequence], words)| {
            IpAuthHeader::new(IpNumber(0), spi, sequence, &vec![7; 4 * (2 * words + 1)]).unwrap()
        })
    })
}

fn ipv4() -> impl Strategy<Value = IpHeaders> {
    let fields = (any::<[[u8; 4]; 2]>(), any::<[u8; 2]>(), any::<u16>(), any::<bool>());
    (fields, 0..=10_usize, auth()).prop_map(|(fields, option_words, auth)| {
        let ([source, destination], [time_to_live, class], identification, dont_fragment) = fields;
        let header = Ipv4Header {
            dscp: (class >> 2).try_into().unwrap(),
            ecn: (class & 3).try_into().unwrap(),
            identification,
            dont_fragment,
            time_to_live,
            source,
            destination,
            options: vec![1; 4 * option_words][..].try_into().unwrap(),
            ..Default::default()
        };
        IpHeaders::Ipv4(header, Ipv4Extensions { auth })
    })
}

fn extension() -> impl Strategy<Value = Ipv6RawExtHeader> {
    (0..4_usize).prop_map(|units| {
        // Segments left, the second byte, is 0.
        Ipv6RawExtHeader::new_raw(IpNumber(0), &vec![0; 6 + 8 * units]).unwrap()
    })
}

fn ipv6() -> impl Strategy<Value = IpHeaders> {
    let rare = |header| option::weighted(0.25, header);
    let extensions =
        (rare(extension()), rare(extension()), rare(extension()), rare(extension()), any::<u8>(), auth());
    let fields = (any::<[[u8; 16]; 2]>(), any::<[u8; 2]>(), 0..1_u32 << 20);
    (fields, extensions).prop_map(|(fields, extensions)| {
        let ([source, destination], [hop_limit, traffic_class], flow_label) = fields;
        let (hop_by_hop_options, destination_options, routing, last, atomic, auth) = extensions;
        let header = Ipv6Header {
            traffic_class,
            flow_label: Ipv6FlowLabel::try_new(flow_label).unwrap(),
            payload_length: 0,
            next_header: IpNumber(0),
            hop_limit,
            source,
            destination,
        };
        let fragment = (atomic % 4 == 0).then_some(Ipv6FragmentHeader {
            next_header: IpNumber(0),
            fragment_offset: IpFragOffset::ZERO,
            more_fragments: false,
            identification: 1,
        });
        let routing =
            routing.map(|routing| Ipv6RoutingExtensions { routing, final_destination_options: last });
        let extensions = Ipv6Extensions { hop_by_hop_options, destination_options, routing, fragment, auth };
        IpHeaders::Ipv6(header, extensions)
    })
}

fn spec() -> impl Strategy<Value = Spec> {
    let payload = prop_oneof![vec(any::<u8>(), 0..80), vec(any::<u8>(), 1300..1500)];
    (
        vec(any::<u16>(), 0..3),
        any::<bool>(),
        prop_oneof![ipv4(), ipv6()],
        any::<[u16; 2]>(),
        payload,
        0..30_usize,
    )
        .prop_map(|(tags, raw, ip, ports, payload, padding)| Spec {
            tags,
            raw,
            ip,
            ports,
            payload,
            padding,
        })
}

/// Changes of one byte each, more of them in the headers than behind.
fn mutate(frame: &mut Vec<u8>, mutations: &[(Index, u8, bool)], cut: Option<Index>) {
    for (index, value, in_headers) in mutations {
        let reach = if *in_headers { frame.len().min(70) } else { frame.len() };
        frame[index.index(reach)] = *value;
    }
    if let Some(cut) = cut {
        frame.truncate(cut.index(frame.len()));
    }
}

/// Bytes that headers are made of come more often than others.
fn byte() -> impl Strategy<Value = u8> {
    prop_oneof![
        any::<u8>(),
        proptest::sample::select(vec![
            0, 1, 4, 6, 8, 17, 20, 43, 44, 51, 60, 0x45, 0x46, 0x60, 0x81, 0x88, 0x86, 0xdd
        ])
    ]
}

fn any_changes() -> impl Strategy<Value = Changes> {
    let address = || {
        option::of(prop_oneof![
            any::<[u8; 4]>().prop_map(IpAddr::from),
            any::<[u8; 16]>().prop_map(IpAddr::from)
        ])
    };
    (
        address(),
        any::<Option<u16>>(),
        address(),
        any::<Option<u16>>(),
        any::<Option<u8>>(),
        option::of(0..66_u8),
    )
        .prop_map(
            |(source_address, source_port, destination_address, destination_port, hop_limit, dscp)| Changes {
                source_address,
                source_port,
                destination_address,
                destination_port,
                hop_limit,
                dscp,
            },
        )
}

/// Changes whose addresses are of the frame's family.
fn fitting(mut changes: Changes, is_ipv4: bool) -> Changes {
    for address in [&mut changes.source_address, &mut changes.destination_address] {
        *address = address.map(|address| match (address, is_ipv4) {
            (IpAddr::V6(address), true) => {
                let [a, b, c, d, ..] = address.octets();
                IpAddr::from([a, b, c, d])
            }
            (IpAddr::V4(address), false) => IpAddr::V6(address.to_ipv6_mapped()),
            _ => address,
        });
    }
    changes
}

fn state() -> impl Strategy<Value = UdpChecksum> {
    prop_oneof![Just(UdpChecksum::Complete), Just(UdpChecksum::Partial)]
}

/// 2,000 cases each, or as many more as `PROPTEST_CASES` says.
fn config() -> ProptestConfig {
    let config = ProptestConfig::default();
    ProptestConfig { cases: config.cases.max(2000), ..config }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn every_field_of_a_built_frame_is_in_the_verdict(spec in spec()) {
        let frame = spec.frame();
        check_parse(&frame, spec.link());
        let verdict = parse(&frame, spec.link()).unwrap();
        let ([source, destination], hop_limit, traffic_class, authenticated, ip_bytes) = spec.ip_fields();
        prop_assert_eq!(verdict.source, SocketAddr::new(source, spec.ports[0]));
        prop_assert_eq!(verdict.destination, SocketAddr::new(destination, spec.ports[1]));
        prop_assert_eq!(&frame[verdict.payload()], &spec.payload[..]);
        prop_assert_eq!(verdict.udp_offset, verdict.ip_offset + ip_bytes);
        prop_assert_eq!((verdict.hop_limit, verdict.traffic_class), (hop_limit, traffic_class));
        prop_assert_eq!((verdict.tags, verdict.authenticated), (spec.tags(), authenticated));
        prop_assert!(udp_checksum_is_valid(&frame, &verdict));
        prop_assert!(ipv4_header_checksum_is_valid(&frame, &verdict));
    }

    #[test]
    fn two_parsers_agree_on_mutated_frames(
        spec in spec(),
        mutations in vec((any::<Index>(), byte(), any::<bool>()), 1..6),
        cut in option::weighted(0.2, any::<Index>()),
    ) {
        let mut frame = spec.frame();
        mutate(&mut frame, &mutations, cut);
        check_parse(&frame, spec.link());
    }

    #[test]
    fn two_parsers_agree_on_bytes_of_chance(bytes in vec(byte(), 0..120)) {
        check_parse(&bytes, Link::Ethernet);
        check_parse(&bytes, Link::RawIp);
    }

    #[test]
    fn a_rewritten_frame_has_the_checksums_that_summing_from_scratch_gives(
        spec in spec(),
        changes in any_changes(),
        state in state(),
        unused in any::<bool>(),
    ) {
        let mut frame = spec.frame();
        let verdict = parse(&frame, spec.link()).unwrap();
        check_rewrite(&frame, spec.link(), &changes, state);
        let changes = fitting(changes, verdict.is_ipv4());
        if unused {
            frame[verdict.udp_offset + 6..verdict.udp_offset + 8].fill(0);
        }
        check_rewrite(&frame, spec.link(), &changes, state);
    }

    #[test]
    fn a_rewrite_hides_no_damage_and_does_none(
        spec in spec(),
        mutations in vec((any::<Index>(), byte(), any::<bool>()), 1..4),
        changes in any_changes(),
        state in state(),
    ) {
        let mut frame = spec.frame();
        mutate(&mut frame, &mutations, None);
        let is_ipv4 = parse(&frame, spec.link()).is_ok_and(|verdict| verdict.is_ipv4());
        check_rewrite(&frame, spec.link(), &fitting(changes, is_ipv4), state);
    }

    #[test]
    fn a_sum_is_the_sum_of_its_words(bytes in vec(any::<u8>(), 0..300)) {
        prop_assert_eq!(checksum::sum(&bytes).fold(), naive_sum(&[&bytes]));
    }

    #[test]
    fn parts_of_any_length_sum_like_the_whole(parts in vec(vec(any::<u8>(), 0..70), 0..6)) {
        let slices: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        let whole = slices.concat();
        prop_assert_eq!(Parts::of(&slices).sum().fold(), naive_sum(&[&whole]));
        prop_assert_eq!(Parts::of(&slices).bytes(), whole.len());
    }

    #[test]
    fn an_update_gives_what_a_new_sum_gives(mut words in vec(any::<u16>(), 1..20), index in any::<Index>(), word in any::<u16>()) {
        let bytes = |words: &[u16]| words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<u8>>();
        let before = checksum::sum(&bytes(&words));
        let place = index.index(words.len());
        let removed = words[place];
        words[place] = word;
        let after = checksum::sum(&bytes(&words));
        let updated = checksum::update(before.checksum(), Sum::from(removed), Sum::from(word));
        // All words zero is the one case in which the two forms of zero differ (RFC 1624, section 3).
        prop_assume!(after.fold() != 0 && before.fold() != 0);
        prop_assert_eq!(updated, after.checksum());
        let folded = checksum::update_folded(before.fold(), Sum::from(removed), Sum::from(word));
        prop_assert_eq!(folded, after.fold());
    }
}
