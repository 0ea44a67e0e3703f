//! One message across a channel and back out: what a command to a worker costs.

use criterion::{Criterion, criterion_group, criterion_main};
use mcr_fdpass::manifest::{decode, encode_head};
use mcr_fdpass::{Channel, Tag};
use std::fs::File;
use std::hint::black_box;
use std::os::fd::AsFd;

fn channel(c: &mut Criterion) {
    let (near, far) = Channel::pair().expect("a socket pair");
    let file = File::open("/dev/null").expect("/dev/null opens");
    let mut body = Vec::new();
    let mut round = |name: &str, payload: &[u8], fds: usize| {
        let fds = vec![(Tag(1), file.as_fd()); fds];
        c.bench_function(name, |b| {
            b.iter(|| {
                near.send(black_box(payload), &fds).expect("room for one message");
                far.recv(&mut body).expect("the message just sent")
            });
        });
    };
    round("channel/256B", &[0; 256], 0);
    round("channel/256B+8fds", &[0; 256], 8);
    round("channel/192KiB", &[0; 192 * 1024], 0);
}

fn manifest(c: &mut Criterion) {
    let mut bytes = Vec::new();
    encode_head((0..8).map(Tag), 0, &mut bytes).expect("within bounds");
    c.bench_function("manifest/decode", |b| b.iter(|| decode(black_box(&bytes))));
}

criterion_group!(benches, channel, manifest);
criterion_main!(benches);
