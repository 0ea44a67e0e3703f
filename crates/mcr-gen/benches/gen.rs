//! What a datagram costs the generator itself: writing it, checking it, accounting for it. At a million datagrams/s
//! each has a budget of 1,000 ns, most of which belongs to the kernel.

use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use mcr_gen::payload::{self, Header};
use mcr_gen::tracker::Tracker;

const SIZES: [usize; 3] = [64, 1316, 9000];

fn header(sequence: u64) -> Header {
    Header { run: 1, flow: 2, sequence, sent_ns: 3 }
}

fn payloads(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("payload");
    for bytes in SIZES {
        group.throughput(Throughput::Bytes(bytes as u64));
        let mut payload = vec![0; bytes];
        let mut sequence = 0;
        group.bench_function(format!("write/{bytes}"), |bencher| {
            bencher.iter(|| {
                sequence += 1;
                payload::write(black_box(&mut payload), &header(sequence));
            });
        });
        group.bench_function(format!("check/{bytes}"), |bencher| {
            bencher.iter(|| payload::check(black_box(&payload)));
        });
    }
    group.finish();
}

fn tracker(criterion: &mut Criterion) {
    let sender = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 1);
    let batch: Vec<[u8; 64]> = (0..1000)
        .map(|sequence| {
            let mut payload = [0; 64];
            payload::write(&mut payload, &header(sequence));
            payload
        })
        .collect();
    let mut group = criterion.benchmark_group("tracker");
    group.throughput(Throughput::Elements(batch.len() as u64));
    group.bench_function("record/1000_in_order", |bencher| {
        bencher.iter_batched_ref(
            Tracker::new,
            |tracker| {
                for payload in &batch {
                    black_box(tracker.record(sender, black_box(payload), 4));
                }
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(benches, payloads, tracker);
criterion_main!(benches);
