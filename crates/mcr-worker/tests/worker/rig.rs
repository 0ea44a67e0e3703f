//! A worker on a thread and the test as its supervisor; senders and sinks.

use std::{
    io::{ErrorKind, IoSlice},
    net::{SocketAddr, UdpSocket},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use mcr_fdpass::{Channel, RecvError, Tag};
use mcr_lab::{Namespace, wait_until};
use mcr_metrics::Segment;
use mcr_proto::{
    codec,
    counters::{InputDrop, OutputDrop},
    endpoint::{Dscp, Ttl},
    message::{FromWorker, IoChoice, ReceiverKind, ToWorker, tag},
    plan::{
        Generation, InputSlot, Lane, OutputSlot, PlanOp, Route, RouteOutput, RuleSlot, SocketId, Via,
        WorkerIndex,
    },
};
use mcr_socket::{Family, udp};
use mcr_worker::WorkerError;
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, sendmsg, setsockopt, sockopt};

pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
const BUFFER_BYTES: usize = 64 << 20;

/// Both ways a worker can do its I/O.
pub(crate) const BACK_ENDS: [IoChoice; 2] = [IoChoice::Uring, IoChoice::Syscalls];

/// The one input of a rig.
pub(crate) const INPUT: InputSlot = InputSlot(1);

pub(crate) struct Rig {
    channel: Channel,
    pub(crate) counters: Segment,
    thread: Option<JoinHandle<Result<(), WorkerError>>>,
    next_socket: u32,
    generation: u64,
}

impl Rig {
    /// Starts a worker and waits until it is ready.
    pub(crate) fn start(io: IoChoice) -> Self {
        Self::start_as(io, WorkerIndex(0), None, || ())
    }

    /// The same on one core; `first` is called on the worker's thread.
    pub(crate) fn start_as(io: IoChoice, index: WorkerIndex, core: Option<u16>, first: fn()) -> Self {
        let (ours, theirs) = Channel::pair().expect("sockets");
        let counters = Segment::create().expect("memory");
        let thread = std::thread::spawn(move || {
            first();
            mcr_worker::run(theirs.into())
        });
        ours.set_nonblocking(true).expect("own socket");
        let mut rig = Self { channel: ours, counters, thread: Some(thread), next_socket: 0, generation: 0 };
        let fd = rig.counters.as_fd().try_clone_to_owned().expect("a descriptor");
        rig.say(&ToWorker::Start { index, core, io, ids: None }, &[(tag::COUNTERS, &fd)]);
        assert_eq!(rig.hear(), FromWorker::Ready { io, fallback: None });
        rig
    }

    pub(crate) fn say(&mut self, message: &ToWorker, fds: &[(u32, &OwnedFd)]) {
        let fds: Vec<_> = fds.iter().map(|(tag, fd)| (Tag(*tag), fd.as_fd())).collect();
        self.channel.send(&codec::encode(message).expect("small"), &fds).expect("the worker listens");
    }

    pub(crate) fn say_bytes(&mut self, bytes: &[u8]) {
        self.channel.send(bytes, &[]).expect("the worker listens");
    }

    /// The next message that is no log line of low level.
    pub(crate) fn hear(&mut self) -> FromWorker {
        let mut body = Vec::new();
        let mut heard = None;
        wait_until(PATIENCE, "the worker says something", || match self.channel.recv(&mut body) {
            Ok(_) => {
                heard = Some(codec::decode(&body).expect("a worker's message"));
                true
            }
            Err(RecvError::WouldBlock) => false,
            Err(error) => panic!("{error}"),
        })
        .unwrap_or_else(|error| panic!("{error}"));
        heard.expect("waited for it")
    }

    pub(crate) fn receiver(&mut self, fd: OwnedFd, kind: ReceiverKind) -> SocketId {
        let socket = self.new_socket();
        let message = ToWorker::OpenReceiver { socket, input: INPUT, kind, lane: Lane::default() };
        self.say(&message, &[(tag::SOCKET, &fd)]);
        socket
    }

    pub(crate) fn sender(&mut self, fd: OwnedFd) -> SocketId {
        let socket = self.new_socket();
        self.say(&ToWorker::OpenSender { socket }, &[(tag::SOCKET, &fd)]);
        socket
    }

    pub(crate) fn new_socket(&mut self) -> SocketId {
        self.next_socket += 1;
        SocketId(self.next_socket)
    }

    /// Sends a plan in parts of one difference each.
    pub(crate) fn plan(&mut self, ops: Vec<PlanOp>) -> FromWorker {
        self.generation += 1;
        let generation = Generation(self.generation);
        let last = ops.len() - 1;
        for (index, op) in ops.into_iter().enumerate() {
            self.say(&ToWorker::Plan { generation, ops: vec![op], last: index == last }, &[]);
        }
        self.hear()
    }

    pub(crate) fn apply(&mut self, ops: Vec<PlanOp>) {
        let answer = self.plan(ops);
        assert_eq!(answer, FromWorker::Applied { generation: Generation(self.generation) });
    }

    /// Waits until the input has taken so many datagrams and what they came to is counted.
    pub(crate) fn wait_received(&self, datagrams: u64, outputs: &[RouteOutput]) {
        let at_rest = || {
            let input = self.counters.input(INPUT);
            let settled = |output: &RouteOutput| self.output(output.slot).total() >= self.matched();
            let drops: u64 = input.drops.iter().map(mcr_metrics::Counter::get).sum();
            let taken = input.datagrams.get();
            taken >= datagrams && self.matched() + drops == taken && outputs.iter().all(settled)
        };
        if let Err(error) = wait_until(PATIENCE, "all datagrams are counted", at_rest) {
            let input = self.counters.input(INPUT);
            let outputs: Vec<_> = outputs.iter().map(|output| self.output(output.slot)).collect();
            panic!("{error}: {datagrams} sent, input {input:?}, outputs {outputs:?}");
        }
    }

    pub(crate) fn matched(&self) -> u64 {
        self.counters.input(INPUT).matched.get()
    }

    pub(crate) fn input_drops(&self, reason: InputDrop) -> u64 {
        self.counters.input(INPUT).drops[reason as usize].get()
    }

    pub(crate) fn output(&self, slot: OutputSlot) -> OutputCounts {
        let counters = self.counters.output(slot);
        OutputCounts {
            copies: counters.copies.get(),
            bytes: counters.bytes.get(),
            drops: OutputDrop::ALL.iter().map(|reason| counters.drops[*reason as usize].get()).collect(),
        }
    }

    /// The laws of the counters, for an input with one rule.
    pub(crate) fn check_laws(&self, rule: RuleSlot, outputs: &[RouteOutput]) {
        let input = self.counters.input(INPUT);
        let drops: u64 = input.drops.iter().map(mcr_metrics::Counter::get).sum();
        assert_eq!(input.datagrams.get(), self.matched() + drops, "received = matched + drops");
        let counters = self.counters.rule(rule);
        assert_eq!(counters.datagrams.get(), self.matched());
        for output in outputs {
            assert_eq!(
                self.output(output.slot).total(),
                counters.datagrams.get(),
                "matched = copies + drops"
            );
        }
        // The worker counts these at the end of its turn.
        let timed = || mcr_metrics::sum_latency(std::slice::from_ref(&self.counters), rule).datagrams();
        if let Err(error) = wait_until(PATIENCE, "all datagrams are timed", || timed() >= self.matched()) {
            panic!("{error}: {} of {}", timed(), self.matched());
        }
        assert_eq!(timed(), self.matched(), "each datagram takes its time once");
    }

    /// Stops the worker and waits for its end.
    pub(crate) fn stop(mut self) {
        self.say(&ToWorker::Stop, &[]);
        self.end().expect("a clean exit");
    }

    /// Waits for the worker's end.
    pub(crate) fn end(&mut self) -> Result<(), WorkerError> {
        let thread = self.thread.take().expect("not ended yet");
        wait_until(PATIENCE, "the worker ends", || thread.is_finished())
            .unwrap_or_else(|error| panic!("{error}"));
        thread.join().expect("no panic")
    }

    /// Closes the supervisor's end and waits for the worker's.
    pub(crate) fn abandon(self) -> Result<(), WorkerError> {
        let Self { channel, thread, .. } = self;
        drop(channel);
        let thread = thread.expect("not ended yet");
        wait_until(PATIENCE, "the worker ends", || thread.is_finished())
            .unwrap_or_else(|error| panic!("{error}"));
        thread.join().expect("no panic")
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct OutputCounts {
    pub(crate) copies: u64,
    pub(crate) bytes: u64,
    pub(crate) drops: Vec<u64>,
}

impl OutputCounts {
    pub(crate) fn total(&self) -> u64 {
        self.copies + self.drops.iter().sum::<u64>()
    }

    pub(crate) fn drop(&self, reason: OutputDrop) -> u64 {
        self.drops[reason as usize]
    }
}

pub(crate) fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

pub(crate) fn output(slot: u32, destination: &str, via: Via) -> RouteOutput {
    RouteOutput {
        slot: OutputSlot(slot),
        destination: address(destination),
        via,
        ttl: Ttl::Fixed(64),
        dscp: Dscp::Fixed(0),
        rate: None,
    }
}

pub(crate) fn route(rule: u32, input: SocketId, to: &str, outputs: &[RouteOutput]) -> PlanOp {
    let to = address(to);
    PlanOp::Put(Route {
        rule: RuleSlot(rule),
        inputs: vec![input],
        source: None,
        address: to.ip(),
        port: to.port(),
        outputs: outputs.to_vec(),
    })
}

/// A UDP input as the supervisor opens it.
pub(crate) fn udp_input(net: &Namespace, bound: &str) -> (OwnedFd, ReceiverKind) {
    let bound = address(bound);
    let options = udp::UdpInput {
        address: bound,
        ifindex: 0,
        ifname: "",
        sources: &[],
        receive_buffer_bytes: BUFFER_BYTES,
        gro: true,
    };
    let fd = net.enter(|| udp::open_input(&options)).unwrap_or_else(|error| panic!("{error}"));
    (fd, ReceiverKind::Udp { bound })
}

/// A UDP output as the supervisor opens it.
pub(crate) fn udp_output(net: &Namespace, family: Family) -> OwnedFd {
    let options = udp::UdpOutput {
        family,
        ifindex: None,
        source: None,
        hop_limit: 64,
        multicast_loop: false,
        dscp: None,
        priority: 0,
        report_full_queue: false,
        send_buffer_bytes: BUFFER_BYTES,
    };
    net.enter(|| udp::open_output(&options)).unwrap_or_else(|error| panic!("{error}"))
}

/// A socket with room for whatever a test sends to it.
pub(crate) fn sink(net: &Namespace, bound: &str) -> UdpSocket {
    let sink = net.enter(|| UdpSocket::bind(bound)).expect("a free port");
    setsockopt(&sink, sockopt::RcvBufForce, &BUFFER_BYTES).expect("root");
    sink.set_nonblocking(true).expect("own socket");
    sink
}

pub(crate) fn source(net: &Namespace, bound: &str) -> UdpSocket {
    let source = net.enter(|| UdpSocket::bind(bound)).expect("a free port");
    setsockopt(&source, sockopt::SndBufForce, &BUFFER_BYTES).expect("root");
    source
}

/// Sends `payload` cut into datagrams of `segment` bytes in one call.
pub(crate) fn send_segments(source: &UdpSocket, to: &str, payload: &[u8], segment: u16) {
    let to = SockaddrStorage::from(address(to));
    let control = [ControlMessage::UdpGsoSegments(&segment)];
    let sent = sendmsg(source.as_raw_fd(), &[IoSlice::new(payload)], &control, MsgFlags::empty(), Some(&to));
    assert_eq!(sent, Ok(payload.len()));
}

/// Receives `count` datagrams, or fails.
pub(crate) fn receive(sink: &UdpSocket, count: usize) -> Vec<Vec<u8>> {
    let started = Instant::now();
    let mut buffer = vec![0; 65_536];
    let mut received = Vec::with_capacity(count);
    while received.len() < count {
        match sink.recv(&mut buffer) {
            Ok(bytes) => received.push(buffer[..bytes].to_vec()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                assert!(started.elapsed() < PATIENCE, "{} of {count} datagrams came", received.len());
                std::thread::yield_now();
            }
            Err(error) => panic!("{error}"),
        }
    }
    received
}

pub(crate) fn assert_empty(sink: &UdpSocket) {
    let error = sink.recv(&mut [0; 16]).expect_err("nothing more comes");
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
}

/// A datagram of this size that looks like no other.
pub(crate) fn payload(number: usize, bytes: usize) -> Vec<u8> {
    let mut state = number as u32 ^ 0x9e37_79b9;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    });
    noise.take(bytes).collect()
}
