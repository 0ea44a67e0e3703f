//! Snapshots as values: differences, mirrors, and lookups against a plain model.

// A test fails by panicking, and so do its steps.
#![allow(clippy::unwrap_used)]

use std::net::{IpAddr, Ipv4Addr};

use mcr_netmon::{
    Address, Change, Followup, Link, LinkKind, Neighbour, NeighbourState, Route, RouteKind, Snapshot, Table,
    Update,
};
use proptest::prelude::*;

fn link(index: u32, name: &str, up: bool) -> Link {
    Link {
        index,
        name: name.to_owned(),
        kind: LinkKind::Ethernet,
        driver: None,
        mac: None,
        mtu: 1500,
        up,
        running: up,
        multicast: true,
        point_to_point: false,
        master: None,
        parent: None,
    }
}

fn address(index: u32, text: &str, prefix: u8) -> Address {
    let address = text.parse().unwrap();
    Address {
        index,
        address,
        prefix,
        peer: None,
        scope: 0,
        secondary: false,
        deprecated: false,
        tentative: false,
    }
}

fn route(destination: &str, prefix: u8, index: u32) -> Route {
    Route {
        destination: destination.parse().unwrap(),
        prefix,
        table: Table::Main,
        metric: 0,
        tos: 0,
        kind: RouteKind::Unicast,
        index: Some(index),
        gateway: None,
        source: None,
    }
}

fn snapshot(updates: impl IntoIterator<Item = Update>) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for update in updates {
        let _ = snapshot.apply(update, &mut Vec::new());
    }
    snapshot
}

fn added(routes: &[Route]) -> Update {
    Update::Routes { routes: routes.to_vec(), replace: false }
}

/// Few values, so that objects meet.
fn any_route() -> impl Strategy<Value = Route> {
    let kind = prop_oneof![
        5 => Just(RouteKind::Unicast),
        1 => Just(RouteKind::Blackhole),
        1 => Just(RouteKind::Throw),
    ];
    (
        0..4u32,
        prop_oneof![Just(0u8), Just(8), Just(31), Just(32)],
        any::<bool>(),
        0..2u32,
        kind,
        0..4u32,
        any::<bool>(),
    )
        .prop_map(|(host, prefix, local, metric, kind, index, via)| {
            let beyond = u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
            Route {
                destination: Ipv4Addr::from_bits((0x0a00_0000 + host) & !beyond).into(),
                prefix,
                table: if local { Table::Local } else { Table::Main },
                metric,
                tos: 0,
                kind,
                index: Some(index).filter(|&index| index != 0),
                gateway: via.then_some(Ipv4Addr::new(10, 0, 0, 9).into()),
                source: None,
            }
        })
}

fn any_update() -> impl Strategy<Value = Update> {
    let routes = || proptest::collection::vec(any_route(), 0..3);
    let host = || (0..3u8).prop_map(|n| IpAddr::V4(Ipv4Addr::new(10, 0, 0, n)));
    prop_oneof![
        (1..4u32, "[ab]", any::<bool>()).prop_map(|(index, name, up)| Update::Link(link(index, &name, up))),
        (1..4u32).prop_map(|index| Update::LinkGone { index }),
        (1..4u32, 0..3u8, any::<bool>()).prop_map(|(index, host, deprecated)| {
            Update::Address(Address { deprecated, ..address(index, &format!("10.0.0.{host}"), 24) })
        }),
        (1..4u32, 0..3u8).prop_map(|(i, h)| Update::AddressGone(address(i, &format!("10.0.0.{h}"), 24))),
        (routes(), any::<bool>()).prop_map(|(routes, replace)| Update::Routes { routes, replace }),
        routes().prop_map(Update::RoutesGone),
        (1..4u32, host(), proptest::option::of(Just([2; 6]))).prop_map(|(index, address, mac)| {
            Update::Neighbour(Neighbour { index, address, mac, state: NeighbourState::Stale })
        }),
        (1..4u32, host()).prop_map(|(index, address)| Update::NeighbourGone { index, address }),
    ]
}

fn any_updates() -> impl Strategy<Value = Vec<Update>> {
    proptest::collection::vec(any_update(), 0..40)
}

/// The answer by looking at every route.
fn model_route_to(snapshot: &Snapshot, destination: Ipv4Addr) -> Option<(u32, Option<IpAddr>)> {
    let matches = |r: &&Route| match r.destination {
        IpAddr::V4(v4) => {
            r.prefix == 0 || (v4.to_bits() ^ destination.to_bits()).leading_zeros() >= u32::from(r.prefix)
        }
        IpAddr::V6(_) => false,
    };
    for table in [Table::Local, Table::Main] {
        let mut routes: Vec<&Route> =
            snapshot.routes().filter(|r| r.table == table).filter(matches).collect();
        routes.sort_by_key(|r| (32 - r.prefix, r.metric, r.kind, r.index, r.gateway));
        for route in routes {
            match route.kind {
                RouteKind::Throw => break,
                RouteKind::Blackhole => return None,
                _ => {}
            }
            if let Some(index) = route.index
                && snapshot.link(index).is_some_and(|link| link.up)
            {
                return Some((index, route.gateway));
            }
        }
    }
    None
}

proptest! {
    #[test]
    fn a_difference_replayed_on_the_old_gives_the_new(old in any_updates(), new in any_updates()) {
        let (mut old, new) = (snapshot(old), snapshot(new));
        let changes = old.diff(&new);
        prop_assert_eq!(changes.is_empty(), old == new);
        old.replay(&changes);
        prop_assert_eq!(old, new);
    }

    #[test]
    fn a_mirror_that_replays_the_changes_stays_equal(updates in any_updates()) {
        let (mut original, mut mirror) = (Snapshot::default(), Snapshot::default());
        for update in updates {
            let (before, mut changes) = (original.clone(), Vec::new());
            let _ = original.apply(update.clone(), &mut changes);
            prop_assert_eq!(changes.is_empty(), before == original);
            mirror.replay(&changes);
            prop_assert_eq!(&mirror, &original);
            // Hearing the same again changes nothing.
            let _ = original.apply(update, &mut changes);
            prop_assert_eq!(&mirror, &original);
        }
    }

    #[test]
    fn a_lookup_finds_what_looking_at_every_route_finds(updates in any_updates(), host in 0..5u32) {
        let snapshot = snapshot(updates);
        let destination = Ipv4Addr::from_bits(0x0a00_0000 + host);
        let hit = snapshot.route_to(destination.into());
        prop_assert_eq!(hit.map(|hit| (hit.index, hit.gateway)), model_route_to(&snapshot, destination));
    }
}

#[test]
fn a_replaced_route_takes_the_place_of_the_one_before() {
    let (old, new) = (route("10.9.0.0", 16, 1), route("10.9.0.0", 16, 2));
    let other_metric = Route { metric: 5, ..old };
    let mut snapshot = snapshot([added(&[old, other_metric])]);
    let mut changes = Vec::new();
    let followup = snapshot.apply(Update::Routes { routes: vec![new], replace: true }, &mut changes);
    assert_eq!(followup, Followup::None);
    assert_eq!(changes, [Change::RouteRemoved(old), Change::RouteAdded(new)]);
    assert_eq!(snapshot.routes().copied().collect::<Vec<_>>(), [new, other_metric]);
}

#[test]
fn replacing_one_of_several_like_routes_asks_for_a_dump() {
    let mut snapshot = snapshot([added(&[route("10.9.0.0", 16, 1), route("10.9.0.0", 16, 2)])]);
    let update = Update::Routes { routes: vec![route("10.9.0.0", 16, 3)], replace: true };
    assert_eq!(snapshot.apply(update, &mut Vec::new()), Followup::DumpRoutes);
}

#[test]
fn what_makes_the_kernel_drop_ipv4_routes_unannounced_asks_for_a_dump() {
    let mut snapshot = snapshot([
        Update::Link(link(1, "a", true)),
        Update::Address(address(1, "10.0.0.1", 24)),
        Update::Address(address(1, "fd00::1", 64)),
    ]);
    let mut followup = |update| snapshot.apply(update, &mut Vec::new());
    assert_eq!(followup(Update::AddressGone(address(1, "fd00::1", 64))), Followup::None);
    assert_eq!(followup(Update::AddressGone(address(1, "10.0.0.1", 24))), Followup::DumpRoutes);
    assert_eq!(followup(Update::Link(link(1, "b", true))), Followup::None);
    assert_eq!(followup(Update::Link(link(1, "b", false))), Followup::DumpRoutes);
    assert_eq!(followup(Update::LinkGone { index: 1 }), Followup::DumpRoutes);
    assert_eq!(followup(Update::NextHops), Followup::DumpRoutes);
}

#[test]
fn the_source_address_shares_the_network_of_the_next_hop_and_is_usable() {
    let mut tentative = address(1, "10.3.0.1", 24);
    tentative.tentative = true;
    let mut link_local = address(1, "fe80::1", 64);
    link_local.scope = 253;
    let snapshot = snapshot([
        Update::Link(link(1, "a", true)),
        Update::Address(address(1, "10.1.0.1", 24)),
        Update::Address(address(1, "10.2.0.1", 24)),
        Update::Address(tentative),
        Update::Address(link_local),
        Update::Address(address(1, "fd00::1", 64)),
        Update::Address(address(2, "10.4.0.1", 24)),
    ]);
    let towards = |text: &str| snapshot.source_towards(1, text.parse().unwrap()).map(|a| a.to_string());
    assert_eq!(towards("10.2.0.9").as_deref(), Some("10.2.0.1"));
    assert_eq!(towards("10.3.0.9").as_deref(), Some("10.1.0.1"));
    assert_eq!(towards("fe80::9").as_deref(), Some("fe80::1"));
    assert_eq!(towards("2001:db8::9").as_deref(), Some("fd00::1"));
    assert_eq!(snapshot.source_v4(2), Some(Ipv4Addr::new(10, 4, 0, 1)));
    assert_eq!(snapshot.source_v6(1), Some("fd00::1".parse().unwrap()));
    assert_eq!(snapshot.source_v6(2), None);
    assert_eq!(snapshot.addresses_of(1).count(), 5);
}

#[test]
fn neighbours_beyond_the_bound_are_left_out_and_counted() {
    let neighbour = |n: usize| {
        let address = IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(n).unwrap()));
        Update::Neighbour(Neighbour { index: 1, address, mac: None, state: NeighbourState::Incomplete })
    };
    let mut snapshot = snapshot((0..mcr_netmon::NEIGHBOURS_MAX).map(neighbour));
    let mut changes = Vec::new();
    let _ = snapshot.apply(neighbour(mcr_netmon::NEIGHBOURS_MAX), &mut changes);
    let _ = snapshot.apply(neighbour(0), &mut changes);
    assert_eq!((snapshot.neighbours().count(), snapshot.left_out()), (mcr_netmon::NEIGHBOURS_MAX, 1));
    assert_eq!(changes, []);
}
