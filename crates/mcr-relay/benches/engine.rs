//! Cost of one datagram through the engine: look up and append, then what each output makes of a run.
#![allow(missing_docs)]

use std::{hint::black_box, net::SocketAddr};

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use mcr_proto::{
    counters::{InputDrop, OutputDrop},
    endpoint::{Dscp, Ttl},
    plan::{FlowSlot, InputSlot, OutputSlot, PlanOp, Route, RouteOutput, RuleSlot, SocketId, Via},
};
use mcr_relay::engine::{Arrival, Counts, Engine, RUN_BYTES_MAX};

/// What a worker takes at once from one input.
const BATCH: u32 = 64;
const PAYLOAD_BYTES: u32 = 1400;

/// As cheap as counting can be: the bench is of the engine.
#[derive(Default)]
struct Sum(u64);

impl Counts for Sum {
    fn matched(&mut self, _: InputSlot, datagrams: u64) {
        self.0 += datagrams;
    }

    fn input_drop(&mut self, _: InputSlot, _: InputDrop, datagrams: u64) {
        self.0 += datagrams;
    }

    fn begin_flow(&mut self, _: FlowSlot, _: RuleSlot, _: SocketAddr) {}

    fn rule(&mut self, _: RuleSlot, datagrams: u64, bytes: u64, _: Option<FlowSlot>) {
        self.0 += datagrams + bytes;
    }

    fn output_drop(&mut self, _: OutputSlot, _: OutputDrop, datagrams: u64) {
        self.0 += datagrams;
    }
}

fn group(rule: u32) -> [u8; 4] {
    let [_, high, middle, low] = rule.to_be_bytes();
    [239, high, middle, low]
}

fn route(rule: u32, outputs: u32) -> Route {
    let output = |index: u32| RouteOutput {
        slot: OutputSlot(index),
        destination: ([10, 0, (index >> 8) as u8, index as u8], 6000).into(),
        via: Via::Udp(SocketId(9)),
        ttl: Ttl::Fixed(64),
        dscp: Dscp::Keep,
        rate: None,
    };
    Route {
        rule: RuleSlot(rule),
        inputs: vec![SocketId(1)],
        source: None,
        address: group(rule).into(),
        port: 5000,
        outputs: (0..outputs).map(output).collect(),
    }
}

fn engine(routes: u32, outputs: u32) -> Engine {
    let mut engine = Engine::new(4 * BATCH as usize);
    (0..routes).for_each(|rule| engine.apply(PlanOp::Put(route(rule, outputs))));
    engine
}

fn arrival(frame: u32, rule: u32) -> Arrival {
    Arrival {
        socket: SocketId(1),
        input: InputSlot(1),
        source: ([10, 0, 0, 9], 4000).into(),
        destination: (group(rule), 5000).into(),
        hop_limit: 8,
        traffic_class: 0,
        frame,
        offset: 42,
        bytes: PAYLOAD_BYTES,
        segment: 0,
        stamp_ns: 0,
    }
}

/// Batches of 64 datagrams, spread over all routes so that each lookup is of another one where there are enough.
fn relaying(c: &mut Criterion) {
    let mut bench = c.benchmark_group("relay");
    bench.throughput(Throughput::Elements(BATCH.into()));
    for routes in [1, 50, 1_000, 10_000] {
        let mut engine = engine(routes, 1);
        // A stride that shares no factor with the number of routes: neighbours in a batch are no neighbours in the plan.
        let batches: Vec<Vec<Arrival>> = (0..routes.div_ceil(BATCH))
            .map(|batch| {
                let rule = |index| ((batch * BATCH + index) * 7919) % routes;
                (0..BATCH).map(|index| arrival(index, rule(index))).collect()
            })
            .collect();
        let mut batches = batches.iter().cycle();
        let mut counts = Sum::default();
        bench.bench_function(BenchmarkId::new("routes", routes), |b| {
            b.iter(|| {
                for arrival in batches.next().expect("endless") {
                    engine.relay(black_box(arrival), &mut counts).expect("there is room");
                }
                engine.clear_runs();
            });
        });
        black_box(counts.0);
    }
    bench.finish();
}

/// One run, as full as it gets, to each output of a route.
fn sending(c: &mut Criterion) {
    let mut bench = c.benchmark_group("sends");
    for outputs in [1, 10, 1_000] {
        let mut counts = Sum::default();
        let mut engine = engine(1, outputs);
        for frame in 0..RUN_BYTES_MAX / PAYLOAD_BYTES {
            engine.relay(&arrival(frame, 0), &mut counts).expect("there is room");
        }
        bench.throughput(Throughput::Elements(outputs.into()));
        bench.bench_function(BenchmarkId::new("outputs", outputs), |b| {
            b.iter(|| engine.sends(0, black_box(1), &mut counts, |_, send| _ = black_box(send)));
        });
    }
    bench.finish();
}

/// What a change of plan holds up a worker for.
fn planning(c: &mut Criterion) {
    c.bench_function("replace one of 1,000 routes of 10 outputs", |b| {
        let mut engine = engine(1_000, 10);
        b.iter_batched(|| PlanOp::Put(route(500, 10)), |op| engine.apply(op), BatchSize::SmallInput);
    });
}

criterion_group!(benches, relaying, sending, planning);
criterion_main!(benches);
