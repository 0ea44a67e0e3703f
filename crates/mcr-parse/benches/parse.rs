//! Cost of one frame: parse, verify, rewrite, build.
#![allow(missing_docs)]

use std::hint::black_box;
use std::net::SocketAddr;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mcr_parse::build::{self, ETHER_TYPE_IPV4, ETHER_TYPE_IPV6, Ipv4Udp, Ipv6Udp};
use mcr_parse::checksum::{Parts, sum};
use mcr_parse::{Changes, Link, Tag, Tags, UdpChecksum, parse, rewrite, udp_checksum_is_valid};

const PAYLOAD_BYTES: usize = 1400;

fn frame(source: &str, destination: &str, tags: &[Tag]) -> Vec<u8> {
    let payload: Vec<u8> = (0..PAYLOAD_BYTES).map(|byte| byte as u8).collect();
    let tags = Tags::new(tags).expect("at most two tags");
    let parts = Parts::from(&payload[..]);
    let mut frame = vec![0; 128];
    let (source, destination) = (source.parse().expect("source"), destination.parse().expect("destination"));
    let (ether_type, headers) = match (source, destination) {
        (SocketAddr::V4(source), SocketAddr::V4(destination)) => {
            let mut ip = [0; 64];
            let fields = Ipv4Udp::new(source, destination);
            let bytes = build::ipv4_udp(&mut ip, &fields, parts, UdpChecksum::Complete).expect("fits");
            (ETHER_TYPE_IPV4, ip[..bytes].to_vec())
        }
        (SocketAddr::V6(source), SocketAddr::V6(destination)) => {
            let mut ip = [0; 64];
            let fields = Ipv6Udp::new(source, destination);
            let bytes = build::ipv6_udp(&mut ip, &fields, parts, UdpChecksum::Complete).expect("fits");
            (ETHER_TYPE_IPV6, ip[..bytes].to_vec())
        }
        _ => panic!("both addresses are of one family"),
    };
    let bytes = build::ethernet(&mut frame, [1; 6], [2; 6], &tags, ether_type).expect("fits");
    frame.truncate(bytes);
    frame.extend(headers);
    frame.extend(payload);
    frame
}

fn ipv4() -> Vec<u8> {
    frame("10.0.0.9:4000", "239.1.1.1:5000", &[])
}

fn ipv6() -> Vec<u8> {
    frame("[2001:db8::9]:4000", "[ff3e::1]:5000", &[])
}

fn parsing(c: &mut Criterion) {
    let tags = [Tag { tpid: 0x88a8, tci: 7 }, Tag { tpid: 0x8100, tci: 42 }];
    let frames = [
        ("ipv4", ipv4()),
        ("ipv6", ipv6()),
        ("ipv4_vlan", frame("10.0.0.9:4000", "239.1.1.1:5000", &tags[1..])),
        ("ipv4_double_vlan", frame("10.0.0.9:4000", "239.1.1.1:5000", &tags)),
    ];
    let mut group = c.benchmark_group("parse");
    for (name, frame) in &frames {
        group.bench_function(*name, |b| b.iter(|| black_box(parse(black_box(frame), Link::Ethernet))));
    }
}

fn checksums(c: &mut Criterion) {
    let frame = ipv4();
    let verdict = parse(&frame, Link::Ethernet).expect("a plain frame");
    let mut group = c.benchmark_group("checksum");
    group.throughput(Throughput::Bytes(PAYLOAD_BYTES as u64));
    group.bench_function("sum_1400", |b| b.iter(|| sum(black_box(&frame[verdict.payload()])).fold()));
    group.bench_function("udp_is_valid_1400", |b| {
        b.iter(|| udp_checksum_is_valid(black_box(&frame), black_box(&verdict)))
    });
}

fn rewriting(c: &mut Criterion) {
    let mut group = c.benchmark_group("rewrite");
    for (name, mut frame, destination) in
        [("ipv4", ipv4(), "239.2.2.2:6000"), ("ipv6", ipv6(), "[ff3e::2]:6000")]
    {
        let verdict = parse(&frame, Link::Ethernet).expect("a plain frame");
        let destination: SocketAddr = destination.parse().expect("an address");
        let changes = Changes {
            destination_address: Some(destination.ip()),
            destination_port: Some(destination.port()),
            hop_limit: Some(16),
            dscp: Some(34),
            ..Changes::default()
        };
        group.bench_function(name, |b| {
            b.iter(|| {
                rewrite(
                    black_box(&mut frame),
                    black_box(&verdict),
                    black_box(&changes),
                    UdpChecksum::Complete,
                )
            })
        });
    }
}

fn building(c: &mut Criterion) {
    let payload = Parts::of(&[&[7; PAYLOAD_BYTES]]);
    let fields =
        Ipv4Udp::new("10.0.0.9:4000".parse().expect("source"), "239.1.1.1:5000".parse().expect("group"));
    let mut buf = [0; 64];
    c.bench_function("build/ipv4_udp", |b| {
        b.iter(|| build::ipv4_udp(black_box(&mut buf), black_box(&fields), payload, UdpChecksum::Complete))
    });
}

criterion_group!(benches, parsing, checksums, rewriting, building);
criterion_main!(benches);
