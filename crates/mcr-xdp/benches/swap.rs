//! What the rings themselves cost: a batch of 64 frames received, changed, sent and recycled, without the kernel's part.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mcr_xdp::{Shape, twin};

const BATCH: usize = 64;

fn swap(criterion: &mut Criterion) {
    let (mut rings, mut kernel) = twin::pair(Shape::with_entries(1024)).expect("a mapping of 4 MiB");
    let mut frames = Vec::with_capacity(BATCH);
    let mut group = criterion.benchmark_group("rings");
    group.throughput(Throughput::Elements(BATCH as u64));
    group.bench_function("swap_64", |bencher| {
        bencher.iter_custom(|rounds| {
            let mut spent = Duration::ZERO;
            for _ in 0..rounds {
                for _ in 0..BATCH {
                    kernel.deliver(&[7; 128]);
                }
                let started = Instant::now();
                rings.recycle();
                assert_eq!(rings.receive(&mut frames, BATCH), BATCH);
                for mut frame in frames.drain(..) {
                    let (destination, source) = rings.bytes_mut(&mut frame)[..12].split_at_mut(6);
                    black_box(destination).swap_with_slice(source);
                    rings.send(frame).expect("there is room");
                }
                rings.submit();
                spent += started.elapsed();
                while kernel.transmit().is_some() {}
                while kernel.complete(0) {}
            }
            spent
        });
    });
    group.finish();
}

criterion_group!(benches, swap);
criterion_main!(benches);
