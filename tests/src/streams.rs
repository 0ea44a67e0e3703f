//! Many steady streams at once, for tests that disturb the daemon meanwhile: stream N goes to 239.1.1.N:5000 and is expected
//! at 239.2.2.N:6000, or to and at what its [`Kind`] says. Each datagram is numbered, so what is missing, doubled or out of order is known
//! to the datagram.

use std::{
    collections::HashSet,
    io::ErrorKind,
    net::UdpSocket,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use mcr_gen::payload::{self, Header};
use mcr_lab::Namespace;
use nix::sys::socket::{SetSockOpt, setsockopt, sockopt};

use crate::{Bed, Sink, law};

/// Small enough that a slow machine keeps up, large enough to be checked.
const PAYLOAD_BYTES: usize = 200;

/// Datagrams of a superframe.
const SEGMENTS: u32 = 8;

/// What streams are sent to, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// IPv4 groups.
    Groups,
    /// IPv6 groups.
    Groups6,
    /// Ports of the relay's IPv4 address.
    Hosts,
    /// Ports of the relay's IPv6 address.
    Hosts6,
    /// IPv4 groups, in superframes.
    Superframes,
}

impl Kind {
    /// Where a stream is sent to.
    pub fn destination(self, stream: usize) -> String {
        match self {
            Self::Groups | Self::Superframes => format!("239.1.1.{stream}:5000"),
            Self::Groups6 => format!("[ff15::1:{stream:x}]:5000"),
            Self::Hosts => format!("10.1.0.2:{}", 5000 + stream),
            Self::Hosts6 => format!("[fd00:1::2]:{}", 5000 + stream),
        }
    }

    /// The input of a stream's rule.
    pub fn input(self, stream: usize) -> String {
        format!("{}@in0", self.destination(stream))
    }

    /// Where a stream is sent to by its rule, and listened for.
    pub fn group(self, stream: usize) -> String {
        match self {
            Self::Groups | Self::Superframes | Self::Hosts => format!("239.2.2.{stream}:6000"),
            Self::Groups6 | Self::Hosts6 => format!("[ff15::2:{stream:x}]:6000"),
        }
    }

    /// The output of a stream's rule.
    pub fn output(self, stream: usize) -> String {
        format!("{}@out0", self.group(stream))
    }

    fn source(self) -> &'static str {
        match self {
            Self::Groups | Self::Superframes | Self::Hosts => "10.1.0.1:0",
            Self::Groups6 | Self::Hosts6 => "[fd00:1::1]:0",
        }
    }

    /// Datagrams of one send.
    fn segments(self) -> u32 {
        if self == Self::Superframes { SEGMENTS } else { 1 }
    }
}

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
    /// From before the first was sent until the last had come.
    pub within: Duration,
}

/// What the threads of [`Streams`] share.
#[derive(Debug, Default)]
struct Shared {
    started: OnceLock<Instant>,
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
        Self::start_of(Kind::Groups, bed, count, rate)
    }

    /// As [`Streams::start`], with streams of a kind.
    ///
    /// # Panics
    /// If something of it cannot be made.
    pub fn start_of(kind: Kind, bed: &mut Bed, count: usize, rate: u32) -> Self {
        Self::start_with(kind, bed, count, rate, "")
    }

    /// As [`Streams::start_of`], with these keys of their outputs, as in `,ttl=9`.
    ///
    /// # Panics
    /// If something of it cannot be made.
    pub fn start_with(kind: Kind, bed: &mut Bed, count: usize, rate: u32, keys: &str) -> Self {
        for stream in 0..count {
            let output = format!("{}{keys}", kind.output(stream));
            bed.add(&format!("stream-{stream}"), &kind.input(stream), &[&output]);
        }
        let sinks = (0..count).map(|stream| bed.sink(0, &format!("{}@dst0", kind.group(stream))));
        let sockets: Vec<_> = sinks.map(Sink::into_socket).collect();
        let shared = Arc::new(Shared::default());
        let receiver = thread::spawn({
            let shared = Arc::clone(&shared);
            move || receive(&sockets, &shared)
        });
        let sender = thread::spawn({
            let (shared, source) = (Arc::clone(&shared), bed.line.source.clone());
            move || crate::source::on_one_core(|| send(kind, &source, count, rate, &shared))
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

/// Sends one datagram, or superframe, of each stream at a time.
fn send(kind: Kind, source: &Namespace, count: usize, rate: u32, shared: &Shared) {
    let sockets: Vec<_> = (0..count).map(|stream| source.enter(|| connect(kind, stream))).collect();
    let mut bytes = vec![0; PAYLOAD_BYTES * kind.segments() as usize];
    let started = *shared.started.get_or_init(Instant::now);
    for first in (0..).step_by(kind.segments() as usize) {
        let due = started + Duration::from_secs(1) * first / rate;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if shared.stop_sending.load(Relaxed) {
            return;
        }
        for (stream, socket) in sockets.iter().enumerate() {
            for (sequence, payload) in (u64::from(first)..).zip(bytes.chunks_mut(PAYLOAD_BYTES)) {
                payload::write(payload, &Header { run: 1, flow: stream as u32, sequence, sent_ns: 0 });
            }
            assert_eq!(socket.send(&bytes).expect("the source can send"), bytes.len());
        }
        shared.sent.store(u64::from(first + kind.segments()), Relaxed);
    }
}

/// A socket for one stream. It is connected, so that a send fails if the relay has answered one before (ICMP port unreachable).
fn connect(kind: Kind, stream: usize) -> UdpSocket {
    let socket = UdpSocket::bind(kind.source()).expect("the source has this address");
    socket.connect(kind.destination(stream)).expect("there is a route");
    match kind.source().starts_with('[') {
        true => set(&socket, sockopt::Ipv6MulticastHops, &16),
        false => set(&socket, sockopt::IpMulticastTtl, &16),
    }
    if kind.segments() > 1 {
        set(&socket, sockopt::UdpGsoSegment, &(PAYLOAD_BYTES as i32));
    }
    socket
}

fn set<O: SetSockOpt>(socket: &UdpSocket, option: O, value: &O::Val) {
    setsockopt(socket, option, value).unwrap_or_else(|errno| panic!("cannot set an option: {errno}"));
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
                arrived.within = now - *shared.started.get().expect("what comes was sent");
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
