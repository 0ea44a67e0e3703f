//! What a network change costs the planner: reading and applying announcements, and looking routes up.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use mcr_netmon::{Link, LinkKind, Route, RouteKind, Snapshot, Table, Update, parse_datagram};
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};

const LINKS: u32 = 10_000;
const ROUTES: u32 = 100_000;

fn link(index: u32, up: bool) -> Link {
    Link {
        index,
        name: format!("veth{index}"),
        kind: LinkKind::Ethernet,
        driver: Some("veth".to_owned()),
        mac: Some([2, 0, 0, 0, 0, 1]),
        mtu: 1500,
        up,
        running: up,
        multicast: true,
        point_to_point: false,
        master: None,
        parent: None,
    }
}

/// An announcement of a link, as the kernel would send it, without the attributes that are passed over.
fn datagram(index: u32) -> Vec<u8> {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.link_layer_type = LinkLayerType::Ether;
    message.header.flags = LinkFlags::Up | LinkFlags::Running;
    message.attributes = vec![
        LinkAttribute::IfName(format!("veth{index}")),
        LinkAttribute::Mtu(1500),
        LinkAttribute::Address(vec![2, 0, 0, 0, 0, 1]),
    ];
    let payload = NetlinkPayload::from(RouteNetlinkMessage::NewLink(message));
    let mut message = NetlinkMessage::new(Default::default(), payload);
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

fn links(c: &mut Criterion) {
    let datagrams: Vec<Vec<u8>> = (1..=LINKS).map(datagram).collect();
    let mut known = Snapshot::default();
    for index in 1..=LINKS {
        let _ = known.apply(Update::Link(link(index, false)), &mut Vec::new());
    }
    let mut group = c.benchmark_group("links");
    group.throughput(Throughput::Elements(LINKS.into()));
    group.bench_function("parse", |b| {
        b.iter(|| {
            datagrams.iter().map(|bytes| parse_datagram(black_box(bytes)).messages.len()).sum::<usize>()
        });
    });
    group.bench_function("apply", |b| {
        let updates =
            || (known.clone(), (1..=LINKS).map(|i| Update::Link(link(i, true))).collect::<Vec<_>>());
        let apply = |(mut snapshot, updates): (Snapshot, Vec<Update>)| {
            let mut changes = Vec::new();
            for update in updates {
                let _ = snapshot.apply(update, &mut changes);
            }
            (snapshot, changes)
        };
        b.iter_batched(updates, apply, BatchSize::LargeInput);
    });
    group.finish();
}

fn routes(c: &mut Criterion) {
    let mut snapshot = Snapshot::default();
    let _ = snapshot.apply(Update::Link(link(1, true)), &mut Vec::new());
    let routes = (0..ROUTES)
        .map(|n| Route {
            destination: IpAddr::V4(Ipv4Addr::from_bits(0x0b00_0000 + (n << 8))),
            prefix: 24,
            table: Table::Main,
            metric: 0,
            tos: 0,
            kind: RouteKind::Unicast,
            index: Some(1),
            gateway: Some(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1))),
            source: None,
        })
        .collect();
    let _ = snapshot.apply(Update::Routes { routes, replace: false }, &mut Vec::new());
    c.bench_function("route_to", |b| {
        b.iter(|| snapshot.route_to(black_box(IpAddr::V4(Ipv4Addr::new(11, 100, 7, 9)))));
    });
}

criterion_group!(benches, links, routes);
criterion_main!(benches);
