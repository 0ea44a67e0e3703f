//! A route at work: which datagrams it wants, the run that they join, and how many of a run each output takes.

use std::net::SocketAddr;

use mcr_proto::{
    counters::OutputDrop,
    endpoint::Ttl,
    plan::{FlowSlot, Route, RouteOutput, SocketId, Span, Via},
};

use super::{Arrival, Counts, Part, Run, flows::Flows, rate::Bucket};

const ECN: u8 = 0b11;

#[derive(Debug)]
pub(super) struct RouteState {
    pub(super) route: Route,
    pub(super) outputs: Vec<OutputState>,
    /// Whether any output keeps the TTL, so that runs must not mix TTLs.
    keeps_hop_limit: bool,
    /// Whether all do, so that a used-up TTL ends at the input.
    pub(super) all_keep_hop_limit: bool,
    /// The run that the next datagram may join.
    pub(super) open: Option<u32>,
    /// Who sent the last datagram, and where it was counted: a row of them is looked up once.
    pub(super) last_flow: Option<(SocketAddr, FlowSlot)>,
    /// While the rule changes its way: what is for this route.
    pub(super) spans: Vec<(SocketId, Span)>,
    /// From when on these are not certain.
    pub(super) hold_ns: Option<u64>,
}

#[derive(Debug)]
pub(super) struct OutputState {
    pub(super) output: RouteOutput,
    pub(super) bucket: Option<Bucket>,
    /// Datagrams larger than this are sent one by one: the kernel or device refused them in segments.
    pub(super) segment_max: u16,
}

impl RouteState {
    pub(super) fn new(route: Route) -> Self {
        let keeps = |output: &RouteOutput| output.ttl == Ttl::Keep;
        Self {
            keeps_hop_limit: route.outputs.iter().any(keeps),
            all_keep_hop_limit: !route.outputs.is_empty() && route.outputs.iter().all(keeps),
            outputs: route.outputs.iter().cloned().map(OutputState::new).collect(),
            route,
            open: None,
            last_flow: None,
            spans: Vec::new(),
            hold_ns: None,
        }
    }

    /// What is left of its outputs' rates, by where they send to.
    pub(super) fn rates(&self) -> Vec<(SocketAddr, Bucket)> {
        let capped =
            self.outputs.iter().filter_map(|state| Some((state.output.destination, state.bucket.clone()?)));
        capped.collect()
    }

    /// Has its outputs go on with these rates of others to the same places, each with one of them; none: with rates of which no burst is
    /// left.
    pub(super) fn go_on(&mut self, mut rates: Option<Vec<(SocketAddr, Bucket)>>) {
        for OutputState { output, bucket, .. } in &mut self.outputs {
            let Some(bucket) = bucket else { continue };
            let key = (output.destination, bucket.rate());
            match &mut rates {
                None => *bucket = Bucket::spent(bucket.rate()),
                Some(rates) => {
                    let same =
                        rates.iter().position(|(destination, known)| (*destination, known.rate()) == key);
                    same.into_iter().for_each(|place| *bucket = rates.remove(place).1);
                }
            }
        }
    }

    /// Has outputs that the route before had, too, go on with what is left of their rates, by whichever sockets they send now.
    pub(super) fn keep_rates(&mut self, before: &Self) {
        let key = |output: &RouteOutput| (output.slot, output.destination, output.rate);
        for state in self.outputs.iter_mut().filter(|state| state.bucket.is_some()) {
            let mut known = before.outputs.iter();
            if let Some(same) = known.find(|known| key(&known.output) == key(&state.output)) {
                state.bucket.clone_from(&same.bucket);
            }
        }
    }

    /// Whether it takes such a datagram; its destination was looked up.
    pub(super) fn wants(&self, arrival: &Arrival) -> bool {
        self.is_of_source(arrival) && (self.spans.is_empty() || self.is_inside(arrival))
    }

    pub(super) fn is_of_source(&self, arrival: &Arrival) -> bool {
        self.route.source.is_none_or(|source| source == arrival.source.ip())
    }

    /// Whether it came when what comes by its socket was for this route.
    #[cold]
    pub(super) fn is_inside(&self, arrival: &Arrival) -> bool {
        let mut spans = self.spans.iter().filter(|(socket, _)| *socket == arrival.socket);
        spans.all(|(_, span)| span.has(arrival.stamp_ns))
    }
}

impl OutputState {
    pub(super) fn new(output: RouteOutput) -> Self {
        Self { bucket: output.rate.map(Bucket::new), output, segment_max: u16::MAX }
    }
}

/// Where a flow that is not the last one is counted.
pub(super) fn flow_of(
    state: &mut RouteState,
    source: SocketAddr,
    flows: &mut Flows,
    counts: &mut impl Counts,
) -> Option<FlowSlot> {
    let place = flows.place_of(state.route.rule, source);
    if let Some((flow, true)) = place {
        counts.begin_flow(flow, state.route.rule, source);
    }
    let flow = place.map(|(flow, _)| flow);
    // One that found no place looks for one with each datagram: a rule that goes may leave it room.
    state.last_flow = flow.map(|flow| (source, flow));
    flow
}

/// Appends an arrival to its route's open run, beginning new ones as they fill.
pub(super) fn append(
    state: &mut RouteState,
    index: u32,
    arrival: &Arrival,
    runs: &mut [Run],
    runs_used: &mut usize,
) {
    let mut rest = Part { frame: arrival.frame, offset: arrival.offset, bytes: arrival.bytes };
    let hop_limit = if state.keeps_hop_limit { arrival.hop_limit } else { 0 };
    // ECN is not copied, and a path that marks some datagrams must not cut runs to pieces.
    let traffic_class = arrival.traffic_class & !ECN;
    loop {
        let open = state.open.map(|open| &mut runs[open as usize]);
        let left = match open {
            Some(run) if run.hop_limit == hop_limit && run.traffic_class == traffic_class => {
                run.push(rest, arrival.segment)
            }
            _ => Some(rest),
        };
        let Some(left) = left else { return };
        rest = left;
        let run = &mut runs[*runs_used];
        run.begin(index, hop_limit, traffic_class);
        state.open = Some(*runs_used as u32);
        *runs_used += 1;
    }
}

/// How many of a run's datagrams an output takes now, the rest being counted; none if it takes none.
pub(super) fn admit(
    state: &mut OutputState,
    run: &Run,
    now_ns: u64,
    counts: &mut impl Counts,
) -> Option<u32> {
    let OutputState { output, bucket, .. } = state;
    let all = run.datagrams();
    if output.via == Via::Nowhere {
        counts.output_drop(output.slot, OutputDrop::NoRoute, u64::from(all));
        return None;
    }
    if output.ttl == Ttl::Keep && run.hop_limit <= 1 {
        counts.output_drop(output.slot, OutputDrop::HopLimit, u64::from(all));
        return None;
    }
    let admitted = bucket.as_mut().map_or(all, |bucket| bucket.take(run, now_ns));
    if admitted < all {
        counts.output_drop(output.slot, OutputDrop::Rate, u64::from(all - admitted));
    }
    (admitted > 0).then_some(admitted)
}
