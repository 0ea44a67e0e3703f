//! What the engine should do, done slowly: each datagram by itself, each output by itself, everything remembered.
//!
//! [`check`] runs a scenario through both and compares every copy and every counter. The fuzz target uses it as well.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use mcr_proto::{
    counters::{InputDrop, OutputDrop},
    endpoint::{Dscp, Rate, Ttl},
    plan::{FlowSlot, InputSlot, OutputSlot, PlanOp, Route, RouteOutput, RuleSlot, SocketId, Span, Via},
};
use mcr_relay::engine::{
    Arrival, Counts, Engine, RUN_BYTES_MAX, RUN_DATAGRAMS_MAX, Run, RunsFull, Send, one_by_one,
};

use super::scenario::{Scenario, Step};

/// How far a capped output may be ahead of its rate.
const BURST_NS: u64 = 50_000_000;

/// Everything that was counted.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Tally {
    matched: BTreeMap<InputSlot, u64>,
    input_drops: BTreeMap<(InputSlot, InputDrop), u64>,
    /// Datagrams, bytes and new flows.
    rules: BTreeMap<RuleSlot, (u64, u64, u64)>,
    /// Datagrams and bytes.
    flows: BTreeMap<(RuleSlot, SocketAddr), (u64, u64)>,
    output_drops: BTreeMap<(OutputSlot, OutputDrop), u64>,
}

/// Counting by places, as a worker does.
struct ByPlace<'a> {
    tally: &'a mut Tally,
    owners: &'a mut BTreeMap<FlowSlot, (RuleSlot, SocketAddr)>,
}

impl Counts for ByPlace<'_> {
    fn matched(&mut self, input: InputSlot, datagrams: u64) {
        *self.tally.matched.entry(input).or_default() += datagrams;
    }

    fn input_drop(&mut self, input: InputSlot, reason: InputDrop, datagrams: u64) {
        *self.tally.input_drops.entry((input, reason)).or_default() += datagrams;
    }

    fn begin_flow(&mut self, flow: FlowSlot, rule: RuleSlot, source: SocketAddr) {
        assert_eq!(self.owners.insert(flow, (rule, source)), None, "{flow} is another's");
        self.tally.rules.entry(rule).or_default().2 += 1;
    }

    fn rule(&mut self, rule: RuleSlot, datagrams: u64, bytes: u64, flow: Option<FlowSlot>) {
        let owner = self.owners[&flow.expect("scenarios are small")];
        assert_eq!(owner.0, rule);
        self.tally.rule(owner, datagrams, bytes);
    }

    fn output_drop(&mut self, output: OutputSlot, reason: OutputDrop, datagrams: u64) {
        *self.tally.output_drops.entry((output, reason)).or_default() += datagrams;
    }
}

impl Tally {
    fn rule(&mut self, (rule, source): (RuleSlot, SocketAddr), datagrams: u64, bytes: u64) {
        let counted = self.rules.entry(rule).or_default();
        *counted = (counted.0 + datagrams, counted.1 + bytes, counted.2);
        let flow = self.flows.entry((rule, source)).or_default();
        *flow = (flow.0 + datagrams, flow.1 + bytes);
    }

    fn input_drop(&mut self, input: InputSlot, reason: InputDrop, datagrams: u64) {
        *self.input_drops.entry((input, reason)).or_default() += datagrams;
    }
}

/// One datagram as it leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Copy {
    frame: u32,
    /// Where its payload lies; 0 if it has none.
    offset: u32,
    bytes: u32,
    via: Via,
    destination: SocketAddr,
    hop_limit: u8,
    traffic_class: u8,
}

type Copies = BTreeMap<OutputSlot, Vec<Copy>>;

struct ModelRoute {
    route: Route,
    spans: Vec<(SocketId, Span)>,
    outputs: Vec<ModelOutput>,
}

struct ModelOutput {
    output: RouteOutput,
    /// The time up to which the rate is used.
    clock_ns: u64,
    /// The smallest size that was refused in segments.
    refused: Option<u16>,
}

#[derive(Default)]
struct Model {
    routes: BTreeMap<RuleSlot, ModelRoute>,
    flows: BTreeSet<(RuleSlot, SocketAddr)>,
    tally: Tally,
    copies: Copies,
}

impl Model {
    fn apply(&mut self, op: &PlanOp) {
        match op {
            PlanOp::Put(route) => {
                let old = self.routes.remove(&route.rule);
                let key = |route: &Route| (route.inputs.clone(), route.address, route.port);
                let is_replaced = old.as_ref().is_some_and(|old| key(&old.route) == key(route));
                let known = old.map_or(Vec::new(), |old| old.outputs);
                let outputs = route.outputs.iter().map(|output| {
                    let rated = |output: &RouteOutput| (output.slot, output.destination, output.rate);
                    let rate = known.iter().find(|known| rated(&known.output) == rated(output));
                    let same = known.iter().find(|known| is_replaced && known.output == *output);
                    ModelOutput {
                        output: output.clone(),
                        clock_ns: rate.map_or(0, |known| known.clock_ns),
                        refused: same.and_then(|known| known.refused),
                    }
                });
                let outputs = outputs.collect();
                let spans = Vec::new();
                self.routes.insert(route.rule, ModelRoute { route: route.clone(), spans, outputs });
            }
            PlanOp::Remove(rule) => {
                self.routes.remove(rule);
                self.flows.retain(|(known, _)| known != rule);
            }
            PlanOp::Continue { .. } => unreachable!("scenarios have none of these"),
            PlanOp::Limit { rule, spans, .. } => {
                self.routes.get_mut(rule).into_iter().for_each(|route| route.spans = spans.clone());
            }
        }
    }

    fn relay(&mut self, arrival: &Arrival, now_ns: u64) {
        let Self { routes, flows, tally, copies } = self;
        let pieces = pieces(arrival);
        let datagrams = pieces.len() as u64;
        let mut wanting: Vec<_> = routes.values_mut().filter(|route| wants(route, arrival)).collect();
        if wanting.is_empty() {
            return tally.input_drop(arrival.input, InputDrop::NoRule, datagrams);
        }
        let cannot_send = |route: &ModelRoute| {
            let mut outputs = route.route.outputs.iter();
            outputs.len() > 0 && outputs.all(|output| output.ttl == Ttl::Keep && arrival.hop_limit <= 1)
        };
        if wanting.iter().all(|route| cannot_send(route)) {
            return tally.input_drop(arrival.input, InputDrop::HopLimit, datagrams);
        }
        *tally.matched.entry(arrival.input).or_default() += datagrams;
        for route in &mut wanting {
            let rule = route.route.rule;
            tally.rule((rule, arrival.source), datagrams, u64::from(arrival.bytes));
            if flows.insert((rule, arrival.source)) {
                tally.rules.entry(rule).or_default().2 += 1;
            }
            for output in &mut route.outputs {
                for (offset, bytes) in &pieces {
                    match output.copy(arrival, *offset, *bytes, now_ns) {
                        Ok(copy) => copies.entry(output.output.slot).or_default().push(copy),
                        Err(reason) => {
                            *tally.output_drops.entry((output.output.slot, reason)).or_default() += 1
                        }
                    }
                }
            }
        }
    }

    fn output(&mut self, slot: OutputSlot) -> &mut ModelOutput {
        let mut outputs = self.routes.values_mut().flat_map(|route| &mut route.outputs);
        outputs.find(|output| output.output.slot == slot).expect("a send is of an output of the plan")
    }
}

impl ModelOutput {
    fn copy(&mut self, arrival: &Arrival, offset: u32, bytes: u32, now_ns: u64) -> Result<Copy, OutputDrop> {
        let output = &self.output;
        if output.via == Via::Nowhere {
            return Err(OutputDrop::NoRoute);
        }
        let hop_limit = match output.ttl {
            Ttl::Fixed(ttl) => ttl,
            Ttl::Keep if arrival.hop_limit <= 1 => return Err(OutputDrop::HopLimit),
            Ttl::Keep => arrival.hop_limit - 1,
        };
        if let Some(rate) = output.rate {
            self.clock_ns = self.clock_ns.max(now_ns);
            if self.clock_ns - now_ns >= BURST_NS {
                return Err(OutputDrop::Rate);
            }
            self.clock_ns += match rate {
                Rate::PacketsPerSecond(rate) => 1_000_000_000u64.div_ceil(rate),
                Rate::BitsPerSecond(rate) => (u64::from(bytes) * 8_000_000_000).div_ceil(rate),
            };
        }
        let traffic_class = match output.dscp {
            Dscp::Keep => arrival.traffic_class / 4 * 4,
            Dscp::Fixed(point) => point * 4,
        };
        let (via, destination) = (output.via, output.destination);
        let offset = if bytes == 0 { 0 } else { offset };
        Ok(Copy { frame: arrival.frame, offset, bytes, via, destination, hop_limit, traffic_class })
    }
}

fn wants(route: &ModelRoute, arrival: &Arrival) -> bool {
    let is_outside =
        |(socket, span): &(SocketId, Span)| *socket == arrival.socket && !span.has(arrival.stamp_ns);
    matches(&route.route, arrival) && !route.spans.iter().any(is_outside)
}

fn matches(route: &Route, arrival: &Arrival) -> bool {
    route.inputs.contains(&arrival.socket)
        && (route.address, route.port) == (arrival.destination.ip(), arrival.destination.port())
        && route.source.is_none_or(|source| source == arrival.source.ip())
}

/// Offset and length of each datagram of an arrival.
fn pieces(arrival: &Arrival) -> Vec<(u32, u32)> {
    let mut pieces = Vec::new();
    let (mut offset, end) = (arrival.offset, arrival.offset + arrival.bytes);
    loop {
        let bytes = match arrival.segment {
            0 => end - offset,
            segment => u32::from(segment).min(end - offset),
        };
        pieces.push((offset, bytes));
        offset += bytes;
        if offset == end {
            return pieces;
        }
    }
}

/// Runs a scenario through the engine and the model, and panics where they differ.
pub(crate) fn check(scenario: &Scenario) {
    let mut engine = Engine::new(scenario.runs_max);
    let mut model = Model::default();
    let (mut now_ns, mut owners) = (0, BTreeMap::new());
    for step in &scenario.steps {
        match step {
            Step::Apply(op) => {
                if let PlanOp::Remove(rule) = op {
                    for flow in engine.flows_of(*rule) {
                        assert_eq!(owners.remove(&flow).map(|owner: (RuleSlot, _)| owner.0), Some(*rule));
                    }
                    assert!(owners.values().all(|owner| owner.0 != *rule), "one was not named");
                }
                engine.apply(op.clone());
                model.apply(op);
                assert_eq!(engine.route_count(), model.routes.len());
            }
            Step::Batch { arrivals, later_ns } => {
                now_ns += later_ns;
                let (tally, copies) = relay(&mut engine, &mut model, arrivals, now_ns, scenario, &mut owners);
                for arrival in arrivals {
                    model.relay(arrival, now_ns);
                }
                assert_same(&copies, &std::mem::take(&mut model.copies));
                assert_eq!(tally, std::mem::take(&mut model.tally));
                assert_laws(arrivals, &tally, &copies, &model);
            }
        }
    }
}

/// Says only where two differ first: all copies of a batch are too many to read.
fn assert_same(engine: &Copies, model: &Copies) {
    assert_eq!(engine.keys().collect::<Vec<_>>(), model.keys().collect::<Vec<_>>());
    for ((slot, engine), model) in engine.iter().zip(model.values()) {
        let differing = engine.iter().zip(model).position(|(engine, model)| engine != model);
        if let Some(index) = differing {
            panic!("output {slot}, copy {index}: {:?} instead of {:?}", engine[index], model[index]);
        }
        assert_eq!(engine.len(), model.len(), "copies at output {slot}");
    }
}

/// A batch through the engine, as a worker does it.
fn relay(
    engine: &mut Engine,
    model: &mut Model,
    arrivals: &[Arrival],
    now_ns: u64,
    scenario: &Scenario,
    owners: &mut BTreeMap<FlowSlot, (RuleSlot, SocketAddr)>,
) -> (Tally, Copies) {
    let (mut tally, mut copies) = (Tally::default(), Copies::new());
    let mut counts = ByPlace { tally: &mut tally, owners };
    for arrival in arrivals {
        let before = counts.tally.clone();
        let is_matched = model.routes.values().any(|route| matches(&route.route, arrival));
        let is_wanted = model.routes.values().any(|route| wants(route, arrival));
        assert_eq!(engine.leaves_to_others(arrival), is_matched && !is_wanted);
        if engine.relay(arrival, &mut counts) == Err(RunsFull) {
            assert_eq!(before, *counts.tally, "nothing is counted before there is room");
            assert!(!engine.runs().is_empty(), "an empty engine is never full");
            flush(engine, model, now_ns, scenario, &mut counts, &mut copies);
            assert_eq!(engine.relay(arrival, &mut counts), Ok(()), "an empty engine is never full");
        }
    }
    flush(engine, model, now_ns, scenario, &mut counts, &mut copies);
    (tally, copies)
}

fn flush(
    engine: &mut Engine,
    model: &mut Model,
    now_ns: u64,
    scenario: &Scenario,
    counts: &mut ByPlace<'_>,
    copies: &mut Copies,
) {
    for index in 0..engine.runs().len() {
        let mut refused = Vec::new();
        engine.sends(index, now_ns, counts, |run, send| {
            let output = model.output(send.slot);
            assert_send(run, &send, output);
            let leaving = copies.entry(send.slot).or_default();
            if send.datagrams > 1 && run.segment() >= scenario.refused_bytes {
                refused.push((send.output, send.slot, run.segment()));
                leaving.extend(one_by_one(send).flat_map(|one| expand(run, &one, output)));
            } else {
                leaving.extend(expand(run, &send, output));
            }
        });
        for (output, slot, segment) in refused {
            engine.refuse_segments(output, segment);
            let known = &mut model.output(slot).refused;
            *known = Some(known.map_or(segment, |known| known.min(segment)));
        }
    }
    engine.clear_runs();
    assert!(engine.runs().is_empty());
}

/// What holds of every send.
fn assert_send(run: &Run, send: &Send, model: &ModelOutput) {
    assert!(send.datagrams >= 1 && send.first + send.datagrams <= run.datagrams());
    assert_eq!((send.via, send.destination), (model.output.via, model.output.destination));
    assert_ne!(send.via, Via::Nowhere);
    assert_ne!(send.traffic_class, Some(0));
    // A socket's own TTL serves where it is fixed, but a raw one has none.
    let is_set = model.output.ttl == Ttl::Keep || matches!(send.via, Via::Raw(_));
    assert_eq!(send.hop_limit.is_some(), is_set);
    if send.datagrams == 1 {
        return;
    }
    assert!(matches!(send.via, Via::Udp(_)), "raw copies leave one by one");
    assert!(model.refused.is_none_or(|refused| run.segment() < refused), "segments were refused");
    assert!(send.datagrams <= RUN_DATAGRAMS_MAX);
    assert!(run.bytes(send.first, send.datagrams) <= RUN_BYTES_MAX);
    let sizes: Vec<_> = (0..send.datagrams).map(|index| run.bytes(send.first + index, 1)).collect();
    let (last, whole) = sizes.split_last().expect("not empty");
    assert!(whole.iter().all(|bytes| *bytes == u32::from(run.segment())));
    assert!((1..=u32::from(run.segment())).contains(last));
}

/// The datagrams of a send, one by one.
fn expand(run: &Run, send: &Send, model: &ModelOutput) -> Vec<Copy> {
    let hop_limit = match (send.hop_limit, model.output.ttl) {
        (Some(hop_limit), _) | (None, Ttl::Fixed(hop_limit)) => hop_limit,
        (None, Ttl::Keep) => panic!("a kept TTL is set with each send"),
    };
    let traffic_class = send.traffic_class.unwrap_or(0);
    let copies: Vec<_> = (send.first..send.first + send.datagrams)
        .map(|index| {
            let parts: Vec<_> = run.parts(index, 1).collect();
            let frame = run.frame_of(index);
            let (offset, bytes) = match parts[..] {
                [] => (0, 0),
                [part] => {
                    assert_eq!(part.frame, frame);
                    (part.offset, part.bytes)
                }
                _ => panic!("a datagram lies in one piece: {parts:?}"),
            };
            assert_eq!(bytes, run.bytes(index, 1));
            let (via, destination) = (send.via, send.destination);
            Copy { frame, offset, bytes, via, destination, hop_limit, traffic_class }
        })
        .collect();
    // The pieces of the whole send are the pieces of its datagrams, in the same order.
    let whole = run.parts(send.first, send.datagrams).map(|part| (part.frame, part.offset, part.bytes));
    let single = copies.iter().map(|copy| (copy.frame, copy.offset, copy.bytes));
    assert_eq!(joined(whole), joined(single));
    copies
}

/// Pieces of frames, those that lie side by side as one.
fn joined(pieces: impl Iterator<Item = (u32, u32, u32)>) -> Vec<(u32, u32, u32)> {
    let mut joined: Vec<(u32, u32, u32)> = Vec::new();
    for (frame, offset, bytes) in pieces.filter(|(_, _, bytes)| *bytes > 0) {
        match joined.last_mut() {
            Some(last) if (last.0, last.1 + last.2) == (frame, offset) => last.2 += bytes,
            _ => joined.push((frame, offset, bytes)),
        }
    }
    joined
}

/// Received is matched and dropped; for each output of a rule, matched is copied and dropped.
fn assert_laws(arrivals: &[Arrival], tally: &Tally, copies: &Copies, model: &Model) {
    let mut received = BTreeMap::<InputSlot, u64>::new();
    for arrival in arrivals {
        *received.entry(arrival.input).or_default() += u64::from(arrival.datagrams());
    }
    for (input, received) in received {
        let matched = tally.matched.get(&input).copied().unwrap_or(0);
        let drops = tally.input_drops.iter().filter(|((slot, _), _)| *slot == input);
        assert_eq!(received, matched + drops.map(|(_, datagrams)| datagrams).sum::<u64>());
    }
    for route in model.routes.values() {
        let matched = tally.rules.get(&route.route.rule).map_or(0, |rule| rule.0);
        for output in &route.route.outputs {
            let copied = copies.get(&output.slot).map_or(0, |copies| copies.len() as u64);
            let drops = tally.output_drops.iter().filter(|((slot, _), _)| *slot == output.slot);
            assert_eq!(matched, copied + drops.map(|(_, datagrams)| datagrams).sum::<u64>());
        }
    }
}
