//! One frame through the pure function: what a back end pays besides its system calls.

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mcr_reflect::{Config, Meta, Now, Outcome, Reflector};

const OURS: [u8; 6] = [2, 0, 0, 0, 0, 1];

fn probe(bytes: usize, port: u16) -> Vec<u8> {
    let udp_bytes = (bytes - 34) as u16;
    let mut frame = [&OURS[..], &[0, 0xc0, 0x17, 1, 2, 3], &[8, 0, 0x45, 0]].concat();
    frame.extend((udp_bytes + 20).to_be_bytes());
    frame.extend([0, 1, 0x40, 0, 64, 17, 0, 0, 192, 0, 2, 10, 192, 0, 2, 1, 0xc3, 0x50]);
    frame.extend(port.to_be_bytes());
    frame.extend(udp_bytes.to_be_bytes());
    frame.extend([0, 0, 9, 0x10, 0xea, 0x1d, 0]);
    frame.extend(b"PROBEOT");
    frame.resize(bytes, 0);
    frame
}

fn benches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("reflect");
    let (meta, now) = (Meta::default(), Now::default());
    for (name, port, bytes) in [("answered", 3842, 128), ("answered", 3842, 1514), ("refused", 53, 128)] {
        let mut reflector = Reflector::new(Config::new(OURS, 1500)).expect("no contradiction");
        let frame = probe(bytes, port);
        group.throughput(Throughput::Elements(64));
        group.bench_function(BenchmarkId::new(name, bytes), |bencher| {
            let batch = || vec![frame.clone(); 64];
            let reflect = |frames: &mut Vec<Vec<u8>>| {
                let mut sent = |frame: &mut Vec<u8>| {
                    matches!(reflector.reflect(frame, bytes, &meta, &now), Outcome::Send { .. })
                };
                frames.iter_mut().map(|frame| usize::from(sent(frame))).sum::<usize>()
            };
            bencher.iter_batched_ref(batch, reflect, BatchSize::SmallInput);
        });
    }
    group.finish();
}

criterion_group!(all, benches);
criterion_main!(all);
