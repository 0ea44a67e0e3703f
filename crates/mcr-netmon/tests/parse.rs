//! Parsing against an oracle: netlink-packet-route builds what the kernel would send.

// A test fails by panicking, and so do its steps.
#![allow(clippy::unwrap_used)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use mcr_netmon::{
    Address, Link, LinkKind, Neighbour, NeighbourState, Route, RouteKind, Table, Update, parse_datagram,
};
use netlink_packet_core::{NLM_F_DUMP_INTR, NLM_F_REPLACE, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{
    InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, Stats64,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteNextHop, RouteNextHopFlags, RouteType,
    RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use proptest::prelude::*;

fn bytes_with_flags(message: RouteNetlinkMessage, flags: u16) -> Vec<u8> {
    let mut message = NetlinkMessage::new(Default::default(), NetlinkPayload::from(message));
    message.header.flags = flags;
    message.header.sequence_number = 7;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

fn bytes(message: RouteNetlinkMessage) -> Vec<u8> {
    bytes_with_flags(message, 0)
}

/// The one update that `message` holds, if any.
fn parse(message: RouteNetlinkMessage) -> Option<Update> {
    let parsed = parse_datagram(&bytes(message));
    assert_eq!(parsed.malformed, 0);
    assert!(parsed.messages.len() <= 1);
    parsed.messages.into_iter().next().map(|m| m.update)
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn route_address(address: IpAddr) -> RouteAddress {
    match address {
        IpAddr::V4(v4) => RouteAddress::Inet(v4),
        IpAddr::V6(v6) => RouteAddress::Inet6(v6),
    }
}

fn any_mac() -> impl Strategy<Value = Option<[u8; 6]>> {
    proptest::option::of(any::<[u8; 6]>())
}

/// Two addresses of the same family.
fn address_pair() -> impl Strategy<Value = (IpAddr, IpAddr)> {
    prop_oneof![
        any::<[Ipv4Addr; 2]>().prop_map(|[a, b]| (a.into(), b.into())),
        any::<[Ipv6Addr; 2]>().prop_map(|[a, b]| (a.into(), b.into())),
    ]
}

prop_compose! {
    fn any_link()(
        index in 2..1000u32,
        name in "[a-z0-9]{1,15}",
        hardware in prop_oneof![Just(1u16), Just(772), Just(65534), Just(512), Just(280)],
        driver in proptest::option::of(prop_oneof![Just("veth"), Just("vlan"), Just("tun"), Just("new-kind")]),
        mac in any_mac(),
        mtu in 0..70_000u32,
        flags in any::<[bool; 4]>(),
        master in proptest::option::of(2..1000u32),
        parent in proptest::option::of(1000..2000u32),
    ) -> (Link, u16) {
        let kind = match hardware {
            1 => LinkKind::Ethernet,
            772 => LinkKind::Loopback,
            280 => LinkKind::Other(280),
            _ => LinkKind::RawIp,
        };
        let [up, running, multicast, point_to_point] = flags;
        let driver = driver.map(str::to_owned);
        (Link { index, name, kind, driver, mac, mtu, up, running, multicast, point_to_point, master, parent }, hardware)
    }
}

fn link_message(link: &Link, hardware: u16) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = link.index;
    message.header.link_layer_type = LinkLayerType::from(hardware);
    for (set, flag) in [
        (link.up, LinkFlags::Up),
        (link.running, LinkFlags::Running),
        (link.multicast, LinkFlags::Multicast),
        (link.point_to_point, LinkFlags::Pointopoint),
    ] {
        message.header.flags.set(flag, set);
    }
    let attributes = &mut message.attributes;
    attributes.push(LinkAttribute::IfName(link.name.clone()));
    attributes.push(LinkAttribute::Stats64(Stats64::default()));
    attributes.push(LinkAttribute::Mtu(link.mtu));
    attributes.extend(link.mac.map(|mac| LinkAttribute::Address(mac.to_vec())));
    attributes.extend(link.master.map(LinkAttribute::Controller));
    attributes.extend(link.parent.map(LinkAttribute::Link));
    attributes.extend(link.driver.as_deref().map(|driver| {
        let kind = match driver {
            "veth" => InfoKind::Veth,
            "vlan" => InfoKind::Vlan,
            "tun" => InfoKind::Tun,
            other => InfoKind::Other(other.to_owned()),
        };
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind)])
    }));
    message
}

fn network(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(_) if prefix == 0 => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits() >> (32 - prefix) << (32 - prefix)).into(),
        IpAddr::V6(_) if prefix == 0 => Ipv6Addr::UNSPECIFIED.into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() >> (128 - prefix) << (128 - prefix)).into(),
    }
}

proptest! {
    #[test]
    fn a_link_is_read_as_the_oracle_wrote_it((link, hardware) in any_link()) {
        let message = link_message(&link, hardware);
        prop_assert_eq!(parse(RouteNetlinkMessage::DelLink(message.clone())), Some(Update::LinkGone { index: link.index }));
        prop_assert_eq!(parse(RouteNetlinkMessage::NewLink(message)), Some(Update::Link(link)));
    }

    #[test]
    fn an_address_is_read_as_the_oracle_wrote_it(
        (own, far) in address_pair(), index in 1..99u32, scope: u8, bits in 0..32u8, flags in any::<[bool; 3]>(),
    ) {
        let [secondary, deprecated, tentative] = flags;
        let peer = Some(far).filter(|&far| far != own);
        let address = Address { index, address: own, prefix: bits, peer, scope, secondary, deprecated, tentative };
        let mut message = AddressMessage::default();
        message.header.family = family(own);
        message.header.index = index;
        message.header.prefix_len = bits;
        message.header.scope = scope.into();
        let mut wire = AddressFlags::Permanent;
        wire.set(AddressFlags::Secondary, secondary);
        wire.set(AddressFlags::Deprecated, deprecated);
        wire.set(AddressFlags::Tentative, tentative);
        message.attributes = vec![AddressAttribute::Address(far), AddressAttribute::Local(own), AddressAttribute::Flags(wire)];
        prop_assert_eq!(parse(RouteNetlinkMessage::NewAddress(message.clone())), Some(Update::Address(address)));
        prop_assert_eq!(parse(RouteNetlinkMessage::DelAddress(message)), Some(Update::AddressGone(address)));
    }

    #[test]
    fn a_route_is_read_as_the_oracle_wrote_it(
        (destination, gateway) in address_pair(),
        prefix in 0..=32u8,
        metric: u32,
        local: bool,
        kind in 1..=9u8,
        hops in proptest::collection::vec((1..99u32, any::<bool>()), 0..4),
    ) {
        let table = if local { Table::Local } else { Table::Main };
        let route = |index, gateway| Route {
            destination: network(destination, prefix), prefix, table, metric, tos: 0, kind: RouteKind::from(kind),
            index, gateway, source: Some(destination),
        };
        let mut message = RouteMessage::default();
        message.header.address_family = family(destination);
        message.header.destination_prefix_length = prefix;
        message.header.table = if local { 255 } else { 254 };
        message.header.kind = RouteType::from(kind);
        message.attributes = vec![
            RouteAttribute::Destination(route_address(destination)),
            RouteAttribute::PrefSource(route_address(destination)),
            RouteAttribute::Priority(metric),
        ];
        let expected = match hops.as_slice() {
            [] => vec![route(None, None)],
            [(index, via)] => {
                message.attributes.push(RouteAttribute::Oif(*index));
                message.attributes.extend(via.then_some(RouteAttribute::Gateway(route_address(gateway))));
                vec![route(Some(*index), via.then_some(gateway))]
            }
            several => {
                let hops = several.iter().map(|&(index, alive)| {
                    let mut hop = RouteNextHop::default();
                    hop.interface_index = index;
                    hop.flags = if alive { RouteNextHopFlags::empty() } else { RouteNextHopFlags::Dead };
                    hop.attributes = vec![RouteAttribute::Gateway(route_address(gateway))];
                    hop
                });
                message.attributes.push(RouteAttribute::MultiPath(hops.collect()));
                several.iter().filter(|hop| hop.1).map(|hop| route(Some(hop.0), Some(gateway))).collect()
            }
        };
        prop_assert_eq!(parse(RouteNetlinkMessage::DelRoute(message.clone())), Some(Update::RoutesGone(expected.clone())));
        let replaced = parse_datagram(&bytes_with_flags(RouteNetlinkMessage::NewRoute(message), NLM_F_REPLACE));
        prop_assert_eq!(&replaced.messages[0].update, &Update::Routes { routes: expected, replace: true });
    }

    #[test]
    fn a_neighbour_is_read_as_the_oracle_wrote_it(
        (address, _) in address_pair(), index in 1..99u32, mac in any_mac(), bit in 0..8u16,
    ) {
        let state = NeighbourState::from(1 << bit);
        let mut message = NeighbourMessage::default();
        message.header.family = family(address);
        message.header.ifindex = index;
        message.header.state = (1 << bit).into();
        message.attributes = vec![NeighbourAttribute::Destination(match address {
            IpAddr::V4(v4) => NeighbourAddress::Inet(v4),
            IpAddr::V6(v6) => NeighbourAddress::Inet6(v6),
        })];
        message.attributes.extend(mac.map(|mac| NeighbourAttribute::LinkLayerAddress(mac.to_vec())));
        prop_assume!(!address.is_multicast());
        let neighbour = Neighbour { index, address, mac, state };
        prop_assert_eq!(parse(RouteNetlinkMessage::NewNeighbour(message.clone())), Some(Update::Neighbour(neighbour)));
        prop_assert_eq!(parse(RouteNetlinkMessage::DelNeighbour(message.clone())), Some(Update::NeighbourGone { index, address }));
        message.header.flags = NeighbourFlags::Proxy;
        prop_assert_eq!(parse(RouteNetlinkMessage::NewNeighbour(message)), None);
    }

    #[test]
    fn a_datagram_cut_anywhere_gives_the_messages_before_the_cut(
        links in proptest::collection::vec(any_link(), 1..5), cut: proptest::sample::Index,
    ) {
        let messages: Vec<_> = links.iter().map(|(l, h)| bytes(RouteNetlinkMessage::NewLink(link_message(l, *h)))).collect();
        let datagram = messages.concat();
        let cut = cut.index(datagram.len());
        let mut end = 0;
        let whole = messages.iter().take_while(|m| { end += m.len(); end <= cut }).count();
        let parsed = parse_datagram(&datagram[..cut]);
        let expected: Vec<_> = links[..whole].iter().map(|(link, _)| Update::Link(link.clone())).collect();
        prop_assert_eq!(parsed.messages.into_iter().map(|m| m.update).collect::<Vec<_>>(), expected);
        let clean = messages[..whole].iter().map(Vec::len).sum::<usize>() == cut;
        prop_assert_eq!(parsed.malformed, u64::from(!clean));
    }

    #[test]
    fn a_damaged_datagram_is_read_to_its_end(
        (link, hardware) in any_link(), damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let mut datagram = bytes(RouteNetlinkMessage::NewLink(link_message(&link, hardware)));
        for (at, byte) in damage {
            let at = at.index(datagram.len());
            datagram[at] = byte;
        }
        let parsed = parse_datagram(&datagram);
        prop_assert!(parsed.messages.len() as u64 + parsed.malformed <= datagram.len() as u64 / 16 + 1);
    }
}

#[test]
fn a_bridge_port_that_leaves_is_not_a_link_that_is_gone() {
    let mut message = LinkMessage::default();
    message.header.interface_family = AddressFamily::Bridge;
    message.header.index = 5;
    assert_eq!(parse(RouteNetlinkMessage::DelLink(message)), None);
}

#[test]
fn a_parent_in_another_namespace_is_no_parent() {
    let mut message = LinkMessage::default();
    message.header.index = 5;
    message.attributes = vec![LinkAttribute::Link(9), LinkAttribute::LinkNetNsId(0)];
    let Some(Update::Link(link)) = parse(RouteNetlinkMessage::NewLink(message)) else { panic!("no link") };
    assert_eq!(link.parent, None);
}

#[test]
fn routes_of_other_tables_and_cached_routes_are_passed_over() {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.table = 253;
    assert_eq!(parse(RouteNetlinkMessage::NewRoute(message.clone())), None);
    message.header.table = 252;
    message.attributes = vec![RouteAttribute::Table(1000)];
    assert_eq!(parse(RouteNetlinkMessage::NewRoute(message.clone())), None);
    message.attributes = vec![RouteAttribute::Table(254)];
    assert!(parse(RouteNetlinkMessage::NewRoute(message.clone())).is_some());
    message.header.flags = RouteFlags::Cloned;
    assert_eq!(parse(RouteNetlinkMessage::NewRoute(message)), None);
}

#[test]
fn an_ipv4_route_may_have_an_ipv6_next_hop() {
    let gateway: Ipv6Addr = "fe80::1".parse().unwrap();
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.table = 254;
    message.attributes = vec![RouteAttribute::Oif(3), RouteAttribute::Via(RouteVia::Inet6(gateway))];
    let Some(Update::Routes { routes, .. }) = parse(RouteNetlinkMessage::NewRoute(message)) else {
        panic!("no route")
    };
    assert_eq!((routes[0].index, routes[0].gateway), (Some(3), Some(gateway.into())));
}

#[test]
fn the_end_of_a_dump_its_errors_and_its_interruption_are_seen() {
    let control = |kind: u16, flags: u16, payload: &[u8]| {
        let mut bytes = Vec::new();
        bytes.extend((16 + payload.len() as u32).to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(7u32.to_ne_bytes());
        bytes.extend(0u32.to_ne_bytes());
        bytes.extend(payload);
        parse_datagram(&bytes)
    };
    let only = |parsed: mcr_netmon::Parsed| parsed.messages.into_iter().next().unwrap();
    let done = only(control(3, NLM_F_DUMP_INTR, &0i32.to_ne_bytes()));
    assert_eq!((done.update, done.sequence, done.interrupted), (Update::Done, 7, true));
    assert_eq!(only(control(3, 0, &[])).update, Update::Done);
    assert_eq!(only(control(3, 0, &(-12i32).to_ne_bytes())).update, Update::Error { errno: 12 });
    assert_eq!(only(control(2, 0, &(-1i32).to_ne_bytes())).update, Update::Error { errno: 1 });
    assert_eq!(only(control(2, 0, &i32::MIN.to_ne_bytes())).update, Update::Error { errno: i32::MAX });
    assert_eq!(only(control(4, 0, &[])).update, Update::Overrun);
    assert_eq!(control(2, 0, &[0]).malformed, 1);
    assert_eq!(control(1, 0, &[]), mcr_netmon::Parsed::default());
}
