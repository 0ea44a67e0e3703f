//! Many steady streams at once, for tests that disturb the daemon meanwhile: stream N goes to 239.1.1.N:5000 and is expected
//! at 239.2.2.N:6000. Each datagram is numbered, so what is missing, doubled or out of order is known to the datagram.

use std::{
    collections::HashSet,
    io::ErrorKind,
    net::UdpSocket,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use mcr_gen::payload::{self, Header};
use mcr_lab::Namespace;

use crate::{Bed, Sink, law};

/// Small enough that a slow machine keeps up, large enough to be checked.
const PAYLOAD_BYTES: usize = 200;

/// What came of one stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Arrived {
    /// Datagrams that came.
    pub received: u64,
    /// Of these, those that had come before, or came behind a later one.
    pub out_of_place: u64,
    /// Of these, those that had come before.
    pub doubled: u64,
    /// The longest time between two.
    pub longest_gap: Duration,
}

/// What the threads of [`Streams`] share.
#[derive(Debug, Default)]
struct Shared {
    sent: AtomicU64,
    received: AtomicU64,
    stop_sending: AtomicBool,
    stop_receiving: AtomicBool,
}

/// Streams under way.
#[derive(Debug)]
pub struct Streams {
    shared: Arc<Shared>,
    sender: JoinHandle<()>,
    receiver: JoinHandle<Vec<Arrived>>,
}

impl Streams {
    /// Adds the rules of `count` streams and starts each at `rate` datagrams a second.
    ///
    /// # Panics
    /// If something of it cannot be made.
    pub fn start(bed: &mut Bed, count: usize, rate: u32) -> Self {
        for stream in 0..count {
            let (input, output) =
                (format!("239.1.1.{stream}:5000@in0"), format!("239.2.2.{stream}:6000@out0"));
            bed.add(&format!("stream-{stream}"), &input, &[&output]);
        }
        let sinks = (0..count).map(|stream| bed.sink(0, &format!("239.2.2.{stream}:6000@dst0")));
        let sockets: Vec<_> = sinks.map(Sink::into_socket).collect();
        let shared = Arc::new(Shared::default());
        let receiver = thread::spawn({
            let shared = Arc::clone(&shared);
            move || receive(&sockets, &shared)
        });
        let sender = thread::spawn({
            let (shared, source) = (Arc::clone(&shared), bed.line.source.clone());
            move || crate::source::on_one_core(|| send(&source, count, rate, &shared))
        });
        Self { shared, sender, receiver }
    }

    /// Datagrams that came so far, over all streams.
    pub fn received(&self) -> u64 {
        self.shared.received.load(Relaxed)
    }

    /// Stops sending, waits until all is at rest, and gives back how many were sent to each stream and what came.
    ///
    /// # Panics
    /// If the counters do not come to rest lawfully.
    pub fn stop(self, bed: &mut Bed) -> (u64, Vec<Arrived>) {
        self.shared.stop_sending.store(true, Relaxed);
        self.sender.join().expect("the sender did not panic");
        // What is at rest at the relay is in the sinks' buffers.
        law::at_rest(&mut bed.client);
        self.shared.stop_receiving.store(true, Relaxed);
        let arrived = self.receiver.join().expect("the receiver did not panic");
        (self.shared.sent.load(Relaxed), arrived)
    }
}

/// Sends one datagram of each stream at a time.
fn send(source: &Namespace, count: usize, rate: u32, shared: &Shared) {
    let socket = source.enter(|| UdpSocket::bind("10.1.0.1:0")).expect("the source has this address");
    socket.set_multicast_ttl_v4(16).expect("it is a valid TTL");
    let mut bytes = vec![0; PAYLOAD_BYTES];
    let started = Instant::now();
    for sequence in 0.. {
        let due = started + Duration::from_secs(1) * sequence / rate;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if shared.stop_sending.load(Relaxed) {
            return;
        }
        let sequence = u64::from(sequence);
        for stream in 0..count {
            payload::write(&mut bytes, &Header { run: 1, flow: stream as u32, sequence, sent_ns: 0 });
            let sent = socket.send_to(&bytes, format!("239.1.1.{stream}:5000"));
            assert_eq!(sent.expect("the source can send"), PAYLOAD_BYTES);
        }
        shared.sent.store(sequence + 1, Relaxed);
    }
}

/// Takes what comes until told that nothing more will.
fn receive(sockets: &[UdpSocket], shared: &Shared) -> Vec<Arrived> {
    sockets.iter().for_each(|socket| socket.set_nonblocking(true).expect("a socket can be"));
    let mut books = vec![(Arrived::default(), None::<u64>, None::<Instant>); sockets.len()];
    let mut seen = vec![HashSet::new(); sockets.len()];
    let mut bytes = vec![0; 2 * PAYLOAD_BYTES];
    loop {
        let last_round = shared.stop_receiving.load(Relaxed);
        for (stream, (socket, (arrived, last, at))) in sockets.iter().zip(&mut books).enumerate() {
            loop {
                let length = match socket.recv(&mut bytes) {
                    Ok(length) => length,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => panic!("{error}"),
                };
                let header = payload::check(&bytes[..length]).expect("an intact payload");
                assert_eq!(header.flow as usize, stream, "a datagram of another stream");
                let now = Instant::now();
                let gap = at.replace(now).map_or(Duration::ZERO, |before| now - before);
                arrived.longest_gap = arrived.longest_gap.max(gap);
                arrived.received += 1;
                arrived.doubled += u64::from(!seen[stream].insert(header.sequence));
                arrived.out_of_place += u64::from(last.is_some_and(|last| header.sequence <= last));
                *last = (*last).max(Some(header.sequence));
                shared.received.fetch_add(1, Relaxed);
            }
        }
        if last_round {
            return books.into_iter().map(|(arrived, ..)| arrived).collect();
        }
        thread::sleep(Duration::from_micros(500));
    }
}
