//! The cases: what a worker does for each frame, each datagram, each copy, and what control does for each line.

use std::{hint::black_box, net::SocketAddr};

use mcr_bufpool::{Class, HugePages, LocalPool, PoolConfig, SharedPool};
use mcr_parse::{
    Changes, Link, Tags, UdpChecksum,
    build::{self, ETHER_TYPE_IPV4, ETHER_TYPE_IPV6, Ipv4Udp, Ipv6Udp},
    checksum::{Parts, sum},
    parse, rewrite,
};
use mcr_proto::endpoint::{Input, Output};

use crate::batch;

/// A name, and what runs the function so many times.
type Case = (&'static str, fn(u32));

pub(crate) const CASES: &[Case] = &[
    ("parse-ipv4", |times| parsing(times, "10.0.0.9:4000", "239.1.1.1:5000")),
    ("parse-ipv6", |times| parsing(times, "[2001:db8::9]:4000", "[ff3e::1]:5000")),
    ("rewrite-ipv4", rewriting),
    ("checksum-1400", checksum),
    ("batch-64-uncounted", |times| batch::relay(times, 1, false)),
    ("batch-64", |times| batch::relay(times, 1, true)),
    ("batch-64-of-8-flows", |times| batch::relay(times, 8, true)),
    ("pool-local", pool_local),
    ("pool-shared", pool_shared),
    ("endpoint-input", |times| endpoint::<Input>(times, "10.0.0.9>232.1.1.1:5000@eth0")),
    ("endpoint-output", |times| endpoint::<Output>(times, "239.2.2.2:6000@eth1,ttl=16,dscp=af41,rate=10M")),
];

const PAYLOAD_BYTES: usize = 1400;

pub(crate) fn frame(source: &str, destination: &str) -> Vec<u8> {
    let payload = [0x5a; PAYLOAD_BYTES];
    let parts = Parts::from(&payload[..]);
    let mut ip = [0; 64];
    let (source, destination) = (source.parse().expect("source"), destination.parse().expect("destination"));
    let (ether_type, ip_bytes) = match (source, destination) {
        (SocketAddr::V4(source), SocketAddr::V4(destination)) => {
            let fields = Ipv4Udp::new(source, destination);
            (ETHER_TYPE_IPV4, build::ipv4_udp(&mut ip, &fields, parts, UdpChecksum::Complete))
        }
        (SocketAddr::V6(source), SocketAddr::V6(destination)) => {
            let fields = Ipv6Udp::new(source, destination);
            (ETHER_TYPE_IPV6, build::ipv6_udp(&mut ip, &fields, parts, UdpChecksum::Complete))
        }
        _ => panic!("both addresses are of one family"),
    };
    let mut frame = vec![0; 64];
    let tags = Tags::new(&[]).expect("no tags");
    let bytes = build::ethernet(&mut frame, [1; 6], [2; 6], &tags, ether_type).expect("fits");
    frame.truncate(bytes);
    frame.extend(&ip[..ip_bytes.expect("fits")]);
    frame.extend(payload);
    frame
}

fn parsing(times: u32, source: &str, destination: &str) {
    let frame = frame(source, destination);
    for _ in 0..times {
        black_box(parse(black_box(&frame), Link::Ethernet)).expect("a plain frame");
    }
}

fn rewriting(times: u32) {
    let mut frame = frame("10.0.0.9:4000", "239.1.1.1:5000");
    let verdict = parse(&frame, Link::Ethernet).expect("a plain frame");
    let changes = Changes {
        destination_address: Some([239, 2, 2, 2].into()),
        destination_port: Some(6000),
        hop_limit: Some(16),
        dscp: Some(34),
        ..Changes::default()
    };
    for _ in 0..times {
        rewrite(black_box(&mut frame), black_box(&verdict), black_box(&changes), UdpChecksum::Complete)
            .expect("one family");
    }
}

fn checksum(times: u32) {
    let payload = [0x5a; PAYLOAD_BYTES];
    for _ in 0..times {
        black_box(sum(black_box(&payload)).fold());
    }
}

fn pool_config() -> PoolConfig {
    let classes = vec![Class { buffer_bytes: 2048, buffers: 64 }];
    PoolConfig { classes, huge_pages: HugePages::Never, colour: true }
}

fn pool_local(times: u32) {
    let mut pool = LocalPool::new(&pool_config()).expect("a mapping");
    for _ in 0..times {
        let buffer = pool.take(black_box(1400)).expect("nothing else is out");
        pool.give(black_box(buffer));
    }
}

fn pool_shared(times: u32) {
    let pool = SharedPool::new(&pool_config()).expect("a mapping");
    for _ in 0..times {
        let buffer = pool.take(black_box(1400)).expect("nothing else is out");
        pool.give(black_box(buffer));
    }
}

fn endpoint<T: std::str::FromStr>(times: u32, text: &str) {
    for _ in 0..times {
        let Ok(endpoint) = black_box(text).parse::<T>() else { panic!("{text} is an endpoint") };
        black_box(endpoint);
    }
}
