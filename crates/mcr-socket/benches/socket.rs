//! What setting up costs (compiling a filter) and what each datagram costs (decoding its control messages).

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mcr_socket::filter::{Filter, FilterLink, Wanted};
use mcr_socket::packet::{AuxData, VnetHeader};
use mcr_socket::udp::UdpControl;
use std::hint::black_box;
use std::net::Ipv4Addr;

fn compile(c: &mut Criterion) {
    let mut group = c.benchmark_group("filter/compile");
    for entries in [10u32, 100, 1000] {
        let wanted: Vec<_> = (0..entries)
            .map(|number| Wanted {
                destination: Ipv4Addr::from_bits(0xef01_0000 + number * 7).into(),
                port: 5000 + (number % 50) as u16,
                source: None,
            })
            .collect();
        group.throughput(Throughput::Elements(entries.into()));
        group.bench_with_input(BenchmarkId::from_parameter(entries), &wanted, |b, wanted| {
            b.iter(|| Filter::compile(black_box(wanted), FilterLink::Ethernet));
        });
    }
}

/// A control message as the kernel lays it out.
fn message(level: i32, kind: i32, data: &[u8]) -> Vec<u8> {
    let header = size_of::<usize>() + 8;
    let mut bytes = (header + data.len()).to_ne_bytes().to_vec();
    bytes.extend([level, kind].map(i32::to_ne_bytes).concat());
    bytes.extend_from_slice(data);
    bytes.resize(bytes.len().next_multiple_of(size_of::<usize>()), 0);
    bytes
}

fn decode(c: &mut Criterion) {
    let udp = [
        message(libc::SOL_IP, libc::IP_PKTINFO, &[1; 12]),
        message(libc::SOL_IP, libc::IP_TTL, &[64, 0, 0, 0]),
        message(libc::SOL_IP, libc::IP_TOS, &[0]),
        message(libc::SOL_UDP, libc::UDP_GRO, &[0, 4, 0, 0]),
    ]
    .concat();
    c.bench_function("control/udp", |b| b.iter(|| UdpControl::parse(black_box(&udp))));
    let aux = message(libc::SOL_PACKET, libc::PACKET_AUXDATA, &[7; 20]);
    c.bench_function("control/auxdata", |b| b.iter(|| AuxData::parse(black_box(&aux))));
    let vnet = [5u8; 10];
    c.bench_function("control/vnet", |b| b.iter(|| VnetHeader::parse(black_box(&vnet))));
}

criterion_group!(benches, compile, decode);
criterion_main!(benches);
