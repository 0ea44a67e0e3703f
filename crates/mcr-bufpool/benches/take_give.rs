//! One take and one give; a relay does this once per received datagram. The goal is under 10 ns for `LocalPool`.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use mcr_bufpool::{Class, HugePages, LocalPool, PoolConfig, SharedPool};

fn config() -> PoolConfig {
    let classes = vec![
        Class { buffer_bytes: 1536, buffers: 256 },
        Class { buffer_bytes: 4096, buffers: 256 },
        Class { buffer_bytes: 68 << 10, buffers: 64 },
    ];
    PoolConfig { classes, huge_pages: HugePages::Never, colour: true }
}

fn take_give(criterion: &mut Criterion) {
    let mut local = LocalPool::new(&config()).expect("a mapping of 6 MiB");
    criterion.bench_function("local/take_give", |bencher| {
        bencher.iter(|| {
            let buffer = local.take(black_box(1400)).expect("nothing else is out");
            local.give(black_box(buffer));
        });
    });
    criterion.bench_function("local/batch_of_64", |bencher| {
        let mut held = Vec::with_capacity(64);
        bencher.iter(|| {
            held.extend((0..64).map(|_| local.take_from(0).expect("256 are there")));
            held.drain(..).for_each(|buffer| local.give(buffer));
        });
    });
    let shared = SharedPool::new(&config()).expect("a mapping of 6 MiB");
    criterion.bench_function("shared/take_give", |bencher| {
        bencher.iter(|| {
            let buffer = shared.take(black_box(1400)).expect("nothing else is out");
            shared.give(black_box(buffer));
        });
    });
}

criterion_group!(benches, take_give);
criterion_main!(benches);
