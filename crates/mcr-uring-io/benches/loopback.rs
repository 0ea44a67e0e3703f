//! A relay in small: datagrams received on one loopback socket and sent to another, in batches, by either back end.
//!
//! What is measured is a batch of 64 datagrams from the sender's last system call to the last `Sent`; the sender's and
//! the sink's own work is outside the measured time.

#![allow(missing_docs, clippy::print_stderr)] // A macro makes the entry point; a skip is told to whoever runs this.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mcr_uring_io::{Choice, Event, Io, IoConfig, Outgoing, Part, ReceiveShape, SocketKey};

const BATCH: usize = 64;

struct Relay {
    io: Io,
    events: Vec<Event>,
    output: SocketKey,
    source: UdpSocket,
    sink: UdpSocket,
}

impl Relay {
    fn new(backend: Choice) -> Option<Self> {
        let io = Io::open(&IoConfig { backend, ..IoConfig::default() });
        let mut io = io.inspect_err(|error| eprintln!("skipped: {error:?}")).ok()?;
        let input = UdpSocket::bind("127.0.0.1:0").expect("loopback");
        let source = UdpSocket::bind("127.0.0.1:0").expect("loopback");
        source.connect(input.local_addr().expect("bound")).expect("loopback");
        let sink = UdpSocket::bind("127.0.0.1:0").expect("loopback");
        sink.set_nonblocking(true).expect("a flag");
        let output = UdpSocket::bind("127.0.0.1:0").expect("loopback");
        output.connect(sink.local_addr().expect("bound")).expect("loopback");
        io.add_receiver(input.into(), ReceiveShape { name_bytes: 16, control_bytes: 0 }).expect("room");
        let output = io.add_sender(output.into()).expect("room");
        let events = Vec::with_capacity(io.events_max());
        Some(Self { io, events, output, source, sink })
    }

    fn fill(&self, payload: &[u8]) {
        for _ in 0..BATCH {
            assert_eq!(self.source.send(payload).expect("loopback"), payload.len());
        }
    }

    /// Relays until so many sends have ended.
    fn relay(&mut self) -> Duration {
        let start = Instant::now();
        let mut sent = 0;
        while sent < BATCH {
            self.io.wait(Some(Duration::from_secs(1)), &mut self.events).expect("a ring that works");
            for event in self.events.drain(..) {
                match event {
                    Event::Received { frame, .. } => {
                        let parts = [Part::Frame(&frame, 0..frame.payload_bytes())];
                        self.io.send(&Outgoing::new(self.output, &parts, 0)).expect("256 slots");
                        self.io.recycle(frame);
                    }
                    Event::Sent { result, .. } => sent += usize::from(result.is_ok()),
                    other => panic!("unexpected: {other:?}"),
                }
            }
        }
        start.elapsed()
    }

    fn empty(&self) {
        let mut buffer = [0; 2048];
        let mut got = 0;
        while self.sink.recv(&mut buffer).is_ok() {
            got += 1;
        }
        assert_eq!(got, BATCH, "the relay lost or doubled datagrams");
    }
}

fn loopback(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("loopback");
    group.throughput(Throughput::Elements(BATCH as u64));
    for bytes in [64usize, 1400] {
        for (name, backend) in [("io_uring", Choice::Uring), ("syscalls", Choice::Syscalls)] {
            let Some(mut relay) = Relay::new(backend) else { continue };
            let payload = vec![0x5a; bytes];
            group.bench_function(BenchmarkId::new(name, bytes), |bencher| {
                bencher.iter_custom(|rounds| {
                    let mut total = Duration::ZERO;
                    for _ in 0..rounds {
                        relay.fill(&payload);
                        total += relay.relay();
                        relay.empty();
                    }
                    total
                });
            });
        }
    }
    group.finish();
}

criterion_group!(benches, loopback);
criterion_main!(benches);
