//! Numbered datagrams into every stream of the scene, and books about what came of them at the first sink.

use std::{
    io::ErrorKind,
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use mcr_gen::payload::{self, Header};
use mcr_lab::Namespace;
use serde_json::{Value, json};

use super::{
    scene::{FLAPS, Scene, flap_group},
    trouble::Trouble,
};
use crate::Sink;

/// Datagrams a second of each stream.
const RATE: u32 = 200;
const PAYLOAD_BYTES: usize = 300;
/// How far a sender that was kept from its core catches up at once; what is more is left out, so that no queue overflows by that.
const CATCH_UP: u32 = RATE / 20;

/// What came of a stream.
#[derive(Debug, Clone, Default)]
pub(super) struct Flow {
    /// The rule's name.
    pub(super) name: String,
    /// Whether nothing was done to its rule.
    pub(super) steady: bool,
    pub(super) received: u64,
    /// Of these, those that had come before, or came behind a later one.
    pub(super) out_of_place: u64,
    /// Not what was sent.
    pub(super) damaged: u64,
    longest_gap: Duration,
}

impl Flow {
    pub(super) fn to_json(&self) -> Value {
        json!({
            "rule": self.name, "steady": self.steady, "received": self.received, "out_of_place": self.out_of_place,
            "damaged": self.damaged, "longest_gap_ms": self.longest_gap.as_millis() as u64,
        })
    }
}

#[derive(Debug, Default)]
struct Shared {
    sent: AtomicU64,
    received: AtomicU64,
    stop_sending: AtomicBool,
    stop_receiving: AtomicBool,
}

/// Streams under way.
#[derive(Debug)]
pub(super) struct Traffic {
    shared: Arc<Shared>,
    sender: JoinHandle<()>,
    receiver: JoinHandle<Vec<Flow>>,
}

impl Traffic {
    /// Sends into all streams of a scene from now on.
    pub(super) fn start(scene: &Scene) -> Self {
        let streams = scene.streams();
        let sinks =
            streams.iter().map(|stream| Sink::open(&scene.line.sinks[0], &stream.listen).into_socket());
        let sockets: Vec<_> = sinks.collect();
        let flows = streams.iter().map(|stream| Flow {
            name: stream.rule.clone(),
            steady: stream.steady,
            ..Flow::default()
        });
        let flows: Vec<_> = flows.collect();
        let to: Vec<SocketAddr> = streams.iter().map(|stream| stream.to).collect();
        let shared = Arc::new(Shared::default());
        let receiver = thread::spawn({
            let shared = Arc::clone(&shared);
            move || receive(&sockets, flows, &shared)
        });
        let sender = thread::spawn({
            let (shared, source) = (Arc::clone(&shared), scene.line.source.clone());
            move || crate::source::on_one_core(|| send(&source, &to, &shared))
        });
        Self { shared, sender, receiver }
    }

    /// Datagrams sent to the interface that stays, over all streams.
    pub(super) fn sent(&self) -> u64 {
        self.shared.sent.load(Relaxed)
    }

    /// Copies that came so far.
    pub(super) fn received(&self) -> u64 {
        self.shared.received.load(Relaxed)
    }

    /// Stops sending, and taking once all is at rest; how many were sent, and what came of each stream.
    pub(super) fn stop(self, trouble: &mut Trouble) -> (u64, Vec<Flow>) {
        self.shared.stop_sending.store(true, Relaxed);
        self.sender.join().expect("the sender did not panic");
        // What is at rest at the relay is in the sinks' buffers.
        trouble.at_rest();
        self.shared.stop_receiving.store(true, Relaxed);
        let flows = self.receiver.join().expect("the receiver did not panic");
        (self.shared.sent.load(Relaxed), flows)
    }
}

/// One datagram of each stream at a time, and now and then some to the interfaces that come and go.
fn send(source: &Namespace, to: &[SocketAddr], shared: &Shared) {
    let open =
        |address: &str| source.enter(|| UdpSocket::bind(address)).expect("the source has this address");
    let (ipv4, ipv6) = (open("10.1.0.1:0"), open("[fd00:1::1]:0"));
    // A socket with an address sends to groups by the interface that has it, whatever the routes say.
    let routed = open("0.0.0.0:0");
    ipv4.set_multicast_ttl_v4(16).expect("it is a valid TTL");
    let mut bytes = vec![0; PAYLOAD_BYTES];
    let (mut due, step) = (Instant::now(), Duration::from_secs(1) / RATE);
    for sequence in 0.. {
        due = (due + step).max(Instant::now().checked_sub(step * CATCH_UP).unwrap_or(due));
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if shared.stop_sending.load(Relaxed) {
            return;
        }
        for (flow, to) in (0..).zip(to) {
            payload::write(&mut bytes, &Header { run: 1, flow, sequence, sent_ns: 0 });
            let socket = if to.is_ipv4() { &ipv4 } else { &ipv6 };
            assert_eq!(socket.send_to(&bytes, to).expect("the source can send"), PAYLOAD_BYTES);
            shared.sent.fetch_add(1, Relaxed);
        }
        for flap in 0..FLAPS {
            // The interface may be gone: nobody counts on these.
            let _ = routed.send_to(&bytes, (flap_group(flap), 5000));
        }
    }
}

/// Takes what comes until told that nothing more will.
fn receive(sockets: &[UdpSocket], flows: Vec<Flow>, shared: &Shared) -> Vec<Flow> {
    sockets.iter().for_each(|socket| socket.set_nonblocking(true).expect("a socket can be"));
    let mut books: Vec<_> = flows.into_iter().map(|flow| (flow, None::<u64>, None::<Instant>)).collect();
    let mut bytes = vec![0; 2 * PAYLOAD_BYTES];
    loop {
        let last_round = shared.stop_receiving.load(Relaxed);
        for (index, (socket, (flow, last, at))) in (0..).zip(sockets.iter().zip(&mut books)) {
            loop {
                let length = match socket.recv(&mut bytes) {
                    Ok(length) => length,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => panic!("{error}"),
                };
                shared.received.fetch_add(1, Relaxed);
                flow.received += 1;
                let Some(header) =
                    payload::check(&bytes[..length]).ok().filter(|header| header.flow == index)
                else {
                    flow.damaged += 1;
                    continue;
                };
                let now = Instant::now();
                let gap = at.replace(now).map_or(Duration::ZERO, |before| now - before);
                flow.longest_gap = flow.longest_gap.max(gap);
                flow.out_of_place += u64::from(last.is_some_and(|last| header.sequence <= last));
                *last = (*last).max(Some(header.sequence));
            }
        }
        if last_round {
            return books.into_iter().map(|(flow, ..)| flow).collect();
        }
        thread::sleep(Duration::from_millis(1));
    }
}
