//! A batch of 64 datagrams as a worker takes it from a ring: read, looked up, appended to runs, counted, made into sends, and the
//! time they took counted. Without counting, the rest is the same: the difference is what statistics cost.
//!
//! Not here: the kernel, and the sends themselves.

use std::{hint::black_box, net::SocketAddr};

use mcr_metrics::Segment;
use mcr_proto::{
    counters::{InputDrop, OutputDrop},
    endpoint::{Dscp, Ttl},
    message::ReceiverKind,
    plan::{FlowSlot, InputSlot, OutputSlot, PlanOp, Route, RouteOutput, RuleSlot, SocketId, Via},
};
use mcr_relay::engine::{self, Engine};
use mcr_uring_io::Datagram;
use mcr_worker::{
    arrival::{Origin, decode},
    counts::Counts,
};

use crate::cases::frame;

const BATCH: u32 = 64;
const ORIGIN: Origin = Origin {
    socket: SocketId(1),
    input: InputSlot(0),
    kind: ReceiverKind::Packet { ethernet: true, ring: None },
};
/// `struct virtio_net_hdr` of a sender that left the checksum to the device, as virtual ones do.
const NEEDS_CHECKSUM: [u8; 10] = [1, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Counts nothing.
struct Nothing;

impl engine::Counts for Nothing {
    fn matched(&mut self, _: InputSlot, _: u64) {}
    fn input_drop(&mut self, _: InputSlot, _: InputDrop, _: u64) {}
    fn begin_flow(&mut self, _: FlowSlot, _: RuleSlot, _: SocketAddr) {}
    fn rule(&mut self, _: RuleSlot, _: u64, _: u64, _: Option<FlowSlot>) {}
    fn output_drop(&mut self, _: OutputSlot, _: OutputDrop, _: u64) {}
}

/// One rule with one output.
fn engine() -> Engine {
    let output = RouteOutput {
        slot: OutputSlot(0),
        destination: ([10, 0, 0, 2], 6000).into(),
        via: Via::Udp(SocketId(9)),
        ttl: Ttl::Fixed(64),
        dscp: Dscp::Keep,
        rate: None,
    };
    let mut engine = Engine::new(BATCH as usize);
    engine.apply(PlanOp::Put(Route {
        rule: RuleSlot(0),
        inputs: vec![ORIGIN.socket],
        source: None,
        address: [239, 1, 1, 1].into(),
        port: 5000,
        outputs: vec![output],
    }));
    engine
}

/// Relays a batch so many times, its datagrams of `flows` senders in turn.
pub(crate) fn relay(times: u32, flows: u32, counted: bool) {
    let frames = (0..BATCH).map(|index| {
        let bytes = frame(&format!("10.0.0.9:{}", 4000 + index % flows), "239.1.1.1:5000");
        [&NEEDS_CHECKSUM[..], &bytes].concat()
    });
    let frames: Vec<_> = frames.collect();
    let segment = Segment::create().expect("memory");
    let mut engine = engine();
    for round in 0..u64::from(times) {
        // A clock that goes on, so that gaps and jitter are those of a stream.
        let now_ns = 1_000_000_000 + round * 64_000;
        if counted {
            let mut counts = Counts { segment: &segment, arrived_ns: now_ns };
            take(&mut engine, &frames, &mut counts, |counts, datagrams, bytes| {
                counts.arrived_ns += 1_000;
                counts.received(ORIGIN.input, datagrams, bytes);
            });
            send(&mut engine, &mut counts, |counts, datagrams, bytes| {
                counts.sent(OutputSlot(0), datagrams, bytes)
            });
            counts.relayed(&engine, |frame| now_ns + u64::from(frame) * 1_000, now_ns + 100_000);
        } else {
            take(&mut engine, &frames, &mut Nothing, |_, _, _| {});
            send(&mut engine, &mut Nothing, |_, _, _| {});
        }
        engine.clear_runs();
    }
}

#[inline(always)]
fn take<C: engine::Counts>(
    engine: &mut Engine,
    frames: &[Vec<u8>],
    counts: &mut C,
    received: impl Fn(&mut C, u32, u32),
) {
    // Valid, and nothing else.
    let ring_header = [0; 32];
    for (index, frame) in (0..).zip(black_box(frames)) {
        let datagram = Datagram {
            name: &[],
            control: &[],
            ring_header: &ring_header,
            payload: frame,
            truncated: false,
            control_truncated: false,
        };
        let arrival = decode(&datagram, &ORIGIN, index).expect("a plain frame");
        received(counts, arrival.datagrams(), arrival.bytes);
        engine.relay(&arrival, counts).expect("there is room");
    }
}

#[inline(always)]
fn send<C: engine::Counts>(engine: &mut Engine, counts: &mut C, sent: impl Fn(&mut C, u32, u32)) {
    for run in 0..engine.runs().len() {
        let mut made = (0, 0);
        engine.sends(run, 0, counts, |run, send| {
            let send = black_box(send);
            made = (send.datagrams, run.bytes(send.first, send.datagrams));
        });
        sent(counts, made.0, made.1);
    }
}
