//! The program against a model that reads a packet the way its specification says, and no other.

use super::interpret::{Packet, run};
use super::{Codepoints, Filter, FilterLink, INSTRUCTIONS_MAX, Precision, Wanted, compile};
use proptest::prelude::*;
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether an exact filter shall let a packet through.
pub(super) fn model(wanted: &[Wanted], marked: Codepoints, link: FilterLink, packet: &Packet) -> bool {
    if matches!(packet.packet_type, 3 | 4) || packet.vlan_tci.is_some_and(|tci| tci & 0xfff != 0) {
        return false;
    }
    let (protocol, ip) = match link {
        FilterLink::Ethernet if packet.bytes.len() >= 14 => {
            (u16::from_be_bytes([packet.bytes[12], packet.bytes[13]]), &packet.bytes[14..])
        }
        FilterLink::RawIp if !packet.bytes.is_empty() => match packet.bytes[0] >> 4 {
            4 => (0x0800, &packet.bytes[..]),
            6 => (0x86dd, &packet.bytes[..]),
            _ => return false,
        },
        _ => return false,
    };
    match protocol {
        0x0800 if ip.len() >= 20 => marked.contains(ip[1] >> 2) && model_v4(wanted, ip),
        0x86dd if ip.len() >= 40 => marked.contains((ip[0] & 15) << 2 | ip[1] >> 6) && model_v6(wanted, ip),
        _ => false,
    }
}

fn model_v4(wanted: &[Wanted], ip: &[u8]) -> bool {
    let address = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&ip[at..at + 4]).unwrap());
    if ip[9] != 17 {
        return false;
    }
    let header = usize::from(ip[0] & 15) * 4;
    let fragment = u16::from_be_bytes([ip[6], ip[7]]) & 0x3fff != 0;
    let odd = ip[0] >> 4 != 4 || header < 20 || ip.len() < header + 8;
    let port = (!odd && !fragment).then(|| u16::from_be_bytes([ip[header + 2], ip[header + 3]]));
    is_wanted(wanted, address(12), address(16), port)
}

fn model_v6(wanted: &[Wanted], ip: &[u8]) -> bool {
    let address = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&ip[at..at + 16]).unwrap());
    let port = match ip[6] {
        17 if ip[0] >> 4 == 6 && ip.len() >= 48 => Some(u16::from_be_bytes([ip[42], ip[43]])),
        17 | 0 | 43 | 44 | 51 | 60 | 135 | 139 | 140 => None,
        _ => return false,
    };
    is_wanted(wanted, address(8), address(24), port)
}

/// Without a port, any port and any source of that address.
fn is_wanted(wanted: &[Wanted], source: IpAddr, destination: IpAddr, port: Option<u16>) -> bool {
    wanted.iter().any(|one| {
        let sane = one.source.is_none_or(|source| source.is_ipv4() == one.destination.is_ipv4());
        let ports = port.is_none_or(|port| one.port == port && one.source.is_none_or(|only| only == source));
        sane && one.destination == destination && ports
    })
}

/// Few addresses and ports, so that packets meet what is wanted often.
fn v4() -> impl Strategy<Value = IpAddr> {
    (0u32..12).prop_map(|low| Ipv4Addr::from_bits(0xef00_0000 + low * 0x0012_3401).into())
}

fn v6() -> impl Strategy<Value = IpAddr> {
    // Differing in each of the four words.
    (0u128..16).prop_map(|n| {
        let bits = (n & 1) << 100 | (n >> 1 & 1) << 70 | (n >> 2 & 1) << 40 | n >> 3;
        Ipv6Addr::from_bits(0xff3e << 112 | bits).into()
    })
}

pub(super) fn wanted() -> impl Strategy<Value = Wanted> {
    let of = |address: BoxedStrategy<IpAddr>, other: BoxedStrategy<IpAddr>| {
        let source = prop_oneof![
            5 => Just(None),
            5 => address.clone().prop_map(Some),
            1 => other.prop_map(Some)
        ];
        (address, 0u16..6, source).prop_map(|(destination, port, source)| Wanted {
            destination,
            port,
            source,
        })
    };
    prop_oneof![of(v4().boxed(), v6().boxed()), of(v6().boxed(), v4().boxed())]
}

fn packet_v4() -> impl Strategy<Value = Vec<u8>> {
    let first = prop_oneof![8 => Just(0x45u8), 2 => 0x46u8..=0x4f, 1 => any::<u8>()];
    let fragment = prop_oneof![6 => Just(0u16), 1 => Just(0x4000), 1 => Just(0x2000), 1 => any::<u16>()];
    let protocol = prop_oneof![8 => Just(17u8), 1 => any::<u8>()];
    (first, any::<u8>(), fragment, protocol, v4(), v4(), 0u16..6, 0usize..90).prop_map(
        |(first, class, fragment, protocol, source, destination, port, length)| {
            let mut ip = vec![0; 20];
            ip[..2].copy_from_slice(&[first, class]);
            ip[6..8].copy_from_slice(&fragment.to_be_bytes());
            ip[9] = protocol;
            let (IpAddr::V4(source), IpAddr::V4(destination)) = (source, destination) else { unreachable!() };
            ip[12..16].copy_from_slice(&source.octets());
            ip[16..20].copy_from_slice(&destination.octets());
            ip.resize((usize::from(first & 15) * 4).max(20), 1);
            ip.extend([0, 9]);
            ip.extend(port.to_be_bytes());
            ip.resize(90, 0);
            ip.truncate(length.max(18));
            ip
        },
    )
}

fn packet_v6() -> impl Strategy<Value = Vec<u8>> {
    let first = prop_oneof![8 => 0x60u8..=0x6f, 1 => any::<u8>()];
    let next =
        prop_oneof![8 => Just(17u8), 2 => prop::sample::select(vec![0u8, 43, 44, 60]), 1 => any::<u8>()];
    (first, any::<u8>(), next, v6(), v6(), 0u16..6, 38usize..70).prop_map(
        |(first, class, next, source, destination, port, length)| {
            let mut ip = vec![0; 40];
            ip[..2].copy_from_slice(&[first, class]);
            ip[6] = next;
            let (IpAddr::V6(source), IpAddr::V6(destination)) = (source, destination) else { unreachable!() };
            ip[8..24].copy_from_slice(&source.octets());
            ip[24..40].copy_from_slice(&destination.octets());
            ip.extend([0, 9]);
            ip.extend(port.to_be_bytes());
            ip.resize(70, 0);
            ip.truncate(length);
            ip
        },
    )
}

pub(super) fn packet(link: FilterLink) -> impl Strategy<Value = Packet> {
    let ip = prop_oneof![
        (Just(0x0800u16), packet_v4().boxed()),
        (Just(0x86ddu16), packet_v6().boxed()),
        (any::<u16>(), prop::collection::vec(any::<u8>(), 0..60).boxed()),
    ];
    let kind = prop_oneof![6 => 0u32..3, 1 => 3u32..8];
    let tag = prop_oneof![
        6 => Just(None),
        1 => Just(Some(0xe000u16)),
        1 => any::<u16>().prop_map(Some)
    ];
    (ip, kind, tag).prop_map(move |((protocol, ip), packet_type, vlan_tci)| {
        let mut bytes = match link {
            FilterLink::Ethernet => [&[2; 12][..], &protocol.to_be_bytes()].concat(),
            FilterLink::RawIp => Vec::new(),
        };
        bytes.extend(ip);
        Packet { bytes, packet_type, vlan_tci }
    })
}

/// All codepoints, none, or any set of them.
pub(super) fn codepoints() -> impl Strategy<Value = Codepoints> {
    let some = prop::collection::vec(0u8..64, 0..64).prop_map(Codepoints::from_iter);
    prop_oneof![1 => Just(Codepoints::ALL), 1 => some.clone(), 1 => some.prop_map(Codepoints::others)]
}

fn exact(wanted: &[Wanted], link: FilterLink, marked: Codepoints) -> Vec<libc::sock_filter> {
    compile::program(&compile::Targets::new(wanted), link, Precision::Exact, marked)
}

/// What `bpf_check_classic` of the kernel refuses.
fn assert_loadable(program: &[libc::sock_filter]) {
    assert!(!program.is_empty() && program.len() <= INSTRUCTIONS_MAX);
    for (at, insn) in program.iter().enumerate() {
        let left = program.len() - at - 1;
        match u32::from(insn.code) & 7 {
            5 if insn.code == 0x05 => assert!((insn.k as usize) < left),
            5 => assert!(usize::from(insn.jt) < left && usize::from(insn.jf) < left),
            6 => {}
            _ => assert!(left > 0, "runs off the end"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn an_exact_filter_lets_through_what_the_model_does_and_nothing_else(
        wanted in prop::collection::vec(wanted(), 0..12),
        marked in codepoints(),
        frames in prop::collection::vec(packet(FilterLink::Ethernet), 40),
        bare in prop::collection::vec(packet(FilterLink::RawIp), 20),
    ) {
        for (link, packets) in [(FilterLink::Ethernet, frames), (FilterLink::RawIp, bare)] {
            let program = exact(&wanted, link, marked);
            assert_loadable(&program);
            for packet in &packets {
                let passed = run(&program, packet);
                prop_assert!(passed == 0 || passed == u32::MAX);
                prop_assert_eq!(passed != 0, model(&wanted, marked, link, packet), "{:?} {:?} {:?}", marked, link, packet);
            }
        }
    }

    #[test]
    fn a_coarser_filter_refuses_nothing_that_a_finer_one_lets_through(
        wanted in prop::collection::vec(wanted(), 0..12),
        marked in codepoints(),
        packets in prop::collection::vec(packet(FilterLink::Ethernet), 40),
    ) {
        let targets = compile::Targets::new(&wanted);
        let [exact, addresses, any] = [Precision::Exact, Precision::Addresses, Precision::AnyUdp]
            .map(|precision| compile::program(&targets, FilterLink::Ethernet, precision, marked));
        for packet in &packets {
            let [exact, addresses, any] = [&exact, &addresses, &any].map(|program| run(program, packet));
            prop_assert!(exact <= addresses && addresses <= any, "{:?}", packet);
            let Some(class) = packet.bytes.get(14..16) else { continue };
            let class = u16::from_be_bytes([class[0], class[1]]);
            let dscp = if packet.bytes[12] == 8 { class >> 2 } else { class >> 6 } as u8 & 63;
            prop_assert!(any == 0 || marked.contains(dscp), "{:?}", packet);
        }
    }

    #[test]
    fn a_large_filter_finds_each_of_its_addresses(seed in any::<u32>(), count in 300usize..900, ports in 1u16..4) {
        let random = |n: usize| (n as u32).wrapping_mul(0x9e37_79b9).wrapping_add(seed);
        let wanted: Vec<_> = (0..count)
            .map(|n| Wanted {
                destination: Ipv4Addr::from_bits(0xe000_0000 | random(n) >> 4).into(),
                port: random(n + 1) as u16 % ports,
                source: None,
            })
            .collect();
        let program = exact(&wanted, FilterLink::Ethernet, Codepoints::ALL);
        let there: HashSet<_> = wanted.iter().map(|one| one.destination).collect();
        for one in &wanted {
            for (step, port) in [(0, one.port), (0, ports), (1, one.port)] {
                let IpAddr::V4(destination) = one.destination else { unreachable!() };
                let destination = Ipv4Addr::from_bits(destination.to_bits() + step);
                let packet = udp_v4(destination, port);
                prop_assert_eq!(run(&program, &packet) != 0, model(&wanted, Codepoints::ALL, FilterLink::Ethernet, &packet));
                // And it is refused for its address, not for some other reason.
                let mut fragment = packet;
                fragment.bytes[14 + 6] = 0x20;
                prop_assert_eq!(run(&program, &fragment) != 0, there.contains(&destination.into()));
            }
        }
    }
}

fn udp_v4(destination: Ipv4Addr, port: u16) -> Packet {
    let mut bytes = [&[2; 12][..], &[8, 0, 0x45], &[0; 8], &[17, 0, 0, 10, 0, 0, 1]].concat();
    bytes.extend(destination.octets());
    bytes.extend([0, 9]);
    bytes.extend(port.to_be_bytes());
    bytes.extend([0; 4]);
    Packet { bytes, ..Packet::default() }
}

fn groups(count: u32, port: impl Fn(u32) -> u16) -> Vec<Wanted> {
    let group = |n: u32| Ipv4Addr::from_bits(0xef00_0000 + n * 3).into();
    (0..count).map(|n| Wanted { destination: group(n), port: port(n), source: None }).collect()
}

#[test]
fn seven_hundred_groups_with_ports_of_their_own_fit_exactly() {
    let filter = Filter::compile(&groups(700, |n| n as u16), FilterLink::Ethernet);
    assert_eq!(filter.precision(), Precision::Exact, "{} instructions", filter.instructions());
}

#[test]
fn groups_that_share_a_port_share_its_code() {
    let filter = Filter::compile(&groups(1800, |_| 5000), FilterLink::Ethernet);
    assert_eq!(filter.precision(), Precision::Exact, "{} instructions", filter.instructions());
}

#[test]
fn a_filter_too_long_falls_back_to_addresses_and_then_to_any_udp() {
    let addresses = Filter::compile(&groups(1800, |n| n as u16), FilterLink::Ethernet);
    assert_eq!(addresses.precision(), Precision::Addresses);
    let any = Filter::compile(&groups(5000, |n| n as u16), FilterLink::Ethernet);
    assert_eq!(any.precision(), Precision::AnyUdp);
    let foreign = udp_v4(Ipv4Addr::new(10, 0, 0, 2), 9);
    assert_eq!(run(&addresses.programs[0].1, &foreign), 0);
    assert_ne!(run(&any.programs[0].1, &foreign), 0);
    let wanted = udp_v4(Ipv4Addr::new(239, 0, 0, 3), 9);
    assert_ne!(run(&addresses.programs[0].1, &wanted), 0);
    let mut six = foreign;
    six.bytes[12..14].copy_from_slice(&[0x86, 0xdd]);
    assert_eq!(run(&any.programs[0].1, &six), 0, "no IPv6 was wanted");
}

#[test]
fn the_search_is_logarithmic() {
    // Foreign traffic must cost little: count the steps of a miss among many groups.
    let program = exact(&groups(700, |n| n as u16), FilterLink::Ethernet, Codepoints::ALL);
    let longest_path = {
        let mut steps = vec![0usize; program.len()];
        for at in (0..program.len()).rev() {
            let insn = program[at];
            let next = |by: usize| steps[at + 1 + by];
            steps[at] = 1 + match insn.code {
                0x05 => next(insn.k as usize),
                code if code & 7 == 5 => next(insn.jt.into()).max(next(insn.jf.into())),
                code if code & 7 == 6 => 0,
                _ => next(0),
            };
        }
        steps[0]
    };
    assert!(longest_path < 60, "{longest_path} instructions for one packet");
}

#[test]
fn nothing_wanted_drops_everything() {
    let filter = Filter::compile(&[], FilterLink::Ethernet);
    assert_eq!((filter.precision(), filter.instructions()), (Precision::Exact, 1));
    assert_eq!(Filter::drop_all().instructions(), 1);
    assert_eq!(run(&filter.programs[0].1, &udp_v4(Ipv4Addr::new(239, 0, 0, 3), 9)), 0);
}

#[test]
fn a_source_of_the_other_family_wants_nothing() {
    let odd = Wanted {
        destination: "239.1.1.1".parse().unwrap(),
        port: 5,
        source: Some("2001:db8::1".parse().unwrap()),
    };
    assert_eq!(Filter::compile(&[odd], FilterLink::Ethernet).instructions(), 1);
}
