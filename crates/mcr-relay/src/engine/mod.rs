//! A worker's routes at work.
//!
//! A batch goes through in two steps. [`Engine::relay`] takes each datagram (or superframe) to the routes that want it and
//! appends it to each one's open run: datagrams of one size, of which only the last may be shorter, so that one send with
//! `UDP_SEGMENT` carries them all. Then [`Engine::sends`] turns a run into one send for each output of its route: runs
//! belong to routes, not to outputs, so the fan-out costs nothing until then.
//!
//! Invariants: the datagrams of a route leave in the order they came, because its runs are made and sent in that order; every
//! datagram ends in exactly one call of [`Counts`] for its input, and every copy in one of [`Counts`] or one [`Send`].

mod arrival;
mod caps;
mod flows;
mod rate;
mod route;
mod run;
mod table;

use std::{collections::BTreeSet, net::SocketAddr};

use hashbrown::HashMap;
use mcr_proto::{
    counters::{InputDrop, OutputDrop},
    endpoint::{Dscp, Rate, Ttl},
    plan::{FlowSlot, InputSlot, OutputSlot, PlanOp, Route, RuleSlot, SocketId, Span, Via},
};

pub use self::{
    arrival::Arrival,
    run::{Part, RUN_BYTES_MAX, RUN_DATAGRAMS_MAX, Run},
};
use self::{
    caps::Caps,
    flows::Flows,
    route::{RouteState, admit, append, flow_of},
    table::Table,
};

/// Where the engine counts what does not leave.
pub trait Counts {
    /// Datagrams of an input that at least one rule took.
    fn matched(&mut self, input: InputSlot, datagrams: u64);
    /// Datagrams of an input that no rule got.
    fn input_drop(&mut self, input: InputSlot, reason: InputDrop, datagrams: u64);
    /// A rule has a flow that it did not have, which is counted at `flow` until the rule is removed ([`Engine::flows_of`]).
    fn begin_flow(&mut self, flow: FlowSlot, rule: RuleSlot, source: SocketAddr);
    /// Datagrams that a rule took, and where their flow is counted; none if there is no place for it.
    fn rule(&mut self, rule: RuleSlot, datagrams: u64, bytes: u64, flow: Option<FlowSlot>);
    /// Copies that are not sent: the last ones of the run at hand.
    fn output_drop(&mut self, output: OutputSlot, reason: OutputDrop, datagrams: u64);
    /// A rule would have taken the arrival at hand, but for what [`Counts::input_drop`] says next. For traces; nothing is to be
    /// counted.
    fn kept_from(&mut self, rule: RuleSlot) {
        let _ = rule;
    }
}

/// One send to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Send {
    /// The output, for [`Engine::refuse_segments`].
    pub output: OutputRef,
    /// Where to count what comes of it.
    pub slot: OutputSlot,
    /// The way out; never [`Via::Nowhere`].
    pub via: Via,
    /// Where to.
    pub destination: SocketAddr,
    /// First datagram of the run to send.
    pub first: u32,
    /// How many of them; more than one goes out as `UDP_SEGMENT` of [`Run::segment`] bytes.
    pub datagrams: u32,
    /// TTL or hop limit to set, where the socket's own does not apply.
    pub hop_limit: Option<u8>,
    /// TOS or traffic class to set, where 0 does not apply.
    pub traffic_class: Option<u8>,
}

/// An output of a route; valid until the next plan is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputRef {
    route: u32,
    output: u32,
}

/// There is no room for more runs: send those that are there first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunsFull;

/// All routes of a worker, and the runs of the batch at hand.
#[derive(Debug)]
pub struct Engine {
    routes: Vec<Option<RouteState>>,
    free: Vec<u32>,
    by_rule: HashMap<RuleSlot, u32>,
    table: Table,
    flows: Flows,
    caps: Caps,
    /// Routes with spans.
    limited: usize,
    /// Those of them whose spans are not certain, by time.
    holds: BTreeSet<(u64, RuleSlot)>,
    runs: Vec<Run>,
    runs_used: usize,
}

impl Engine {
    /// An engine without routes that holds at most `runs_max` runs at a time.
    pub fn new(runs_max: usize) -> Self {
        Self {
            routes: Vec::new(),
            free: Vec::new(),
            by_rule: HashMap::new(),
            table: Table::default(),
            flows: Flows::new(),
            caps: Caps::default(),
            limited: 0,
            holds: BTreeSet::new(),
            runs: (0..runs_max).map(|_| Run::new()).collect(),
            runs_used: 0,
        }
    }

    /// Applies one difference of a plan. Only between batches: asserts that no run is left.
    pub fn apply(&mut self, op: PlanOp) {
        assert_eq!(self.runs_used, 0, "a plan is applied between batches");
        match op {
            PlanOp::Put(route) => {
                self.limit(route.rule, Vec::new(), None);
                if !self.replace(&route) {
                    let before = self.remove(route.rule);
                    self.insert(route, before.as_ref());
                }
            }
            PlanOp::Remove(rule) => {
                self.limit(rule, Vec::new(), None);
                let _ = self.remove(rule);
                self.flows.forget(rule);
            }
            PlanOp::Limit { rule, spans, hold_ns } => self.limit(rule, spans, hold_ns),
            PlanOp::Continue { rule, from } => self.go_on(rule, from),
        }
    }

    /// Has the rates of a rule's outputs go on as those of another one's outputs to the same places, or as if their bursts were used up.
    fn go_on(&mut self, rule: RuleSlot, from: Option<RuleSlot>) {
        let index_of = |rule| self.by_rule.get(&rule).map(|index| *index as usize);
        let Some(index) = index_of(rule) else { return };
        let before = from.map(|from| index_of(from).and_then(|before| self.routes[before].as_ref()));
        let rates = before.map(|before| before.map_or(Vec::new(), RouteState::rates));
        if let Some(state) = self.routes[index].as_mut() {
            state.go_on(rates);
        }
    }

    fn limit(&mut self, rule: RuleSlot, spans: Vec<(SocketId, Span)>, hold_ns: Option<u64>) {
        let Some(index) = self.by_rule.get(&rule) else { return };
        let Some(state) = self.routes[*index as usize].as_mut() else { return };
        self.limited -= usize::from(!state.spans.is_empty());
        self.limited += usize::from(!spans.is_empty());
        state.spans = spans;
        if let Some(at_ns) = std::mem::replace(&mut state.hold_ns, hold_ns) {
            self.holds.remove(&(at_ns, rule));
        }
        self.holds.extend(hold_ns.map(|at_ns| (at_ns, rule)));
    }

    /// Whether what may have come as late as `now_ns`, in nanoseconds since 1970, must wait for a plan that says whose it is.
    pub fn is_held(&self, now_ns: u64) -> bool {
        self.holds.first().is_some_and(|(at_ns, _)| now_ns >= *at_ns)
    }

    /// Whether rules change their ways, so that there is something to leave to others.
    pub fn is_limited(&self) -> bool {
        self.limited > 0
    }

    /// Whether an arrival is none of this worker's, because its rules change their ways and it came when they went another: then it is
    /// not to be counted here.
    #[inline]
    pub fn leaves_to_others(&self, arrival: &Arrival) -> bool {
        self.limited > 0 && self.is_outside(arrival)
    }

    #[cold]
    fn is_outside(&self, arrival: &Arrival) -> bool {
        let matches = self.table.lookup(arrival.socket, arrival.destination);
        let routes = matches.iter().filter_map(|index| self.routes[*index as usize].as_ref());
        let mut routes = routes.filter(|state| state.is_of_source(arrival)).peekable();
        routes.peek().is_some() && routes.all(|state| !state.is_inside(arrival))
    }

    /// Where the flows of a rule are counted.
    pub fn flows_of(&self, rule: RuleSlot) -> impl Iterator<Item = FlowSlot> + '_ {
        self.flows.of(rule)
    }

    /// Caps what a receiving socket takes, together with all others that have the same number.
    pub fn cap(&mut self, socket: SocketId, number: u16, rate: Rate) {
        self.caps.insert(socket, number, rate);
    }

    /// The socket is gone, and its cap with the last of the same number.
    pub fn uncap(&mut self, socket: SocketId) {
        self.caps.remove(socket);
    }

    /// What time it is for caps, on a monotonic clock.
    pub fn tick(&mut self, now_ns: u64) {
        self.caps.now_ns = now_ns;
    }

    /// How many routes there are.
    pub fn route_count(&self) -> usize {
        self.by_rule.len()
    }

    /// Takes one arrival to its routes.
    ///
    /// # Errors
    /// [`RunsFull`] before anything was done or counted: send and [`Engine::clear_runs`], then call again.
    pub fn relay(&mut self, arrival: &Arrival, counts: &mut impl Counts) -> Result<(), RunsFull> {
        let datagrams = arrival.datagrams();
        let matches = self.table.lookup(arrival.socket, arrival.destination);
        if arrival.hop_limit <= 1 && expires(&self.routes, matches, arrival) {
            wanting(&self.routes, matches, arrival).for_each(|state| counts.kept_from(state.route.rule));
            counts.input_drop(arrival.input, InputDrop::HopLimit, u64::from(datagrams));
            return Ok(());
        }
        // Each match needs at most one run more than the arrival fills by itself.
        let runs_needed = matches.len() * (2 + arrival.bytes as usize / Run::room(arrival.segment));
        if self.runs.len() - self.runs_used < runs_needed {
            if self.runs_used > 0 {
                return Err(RunsFull);
            }
            self.runs.resize_with(runs_needed, Run::new);
        }
        let capped;
        let arrival = if self.caps.are_none() || wanting(&self.routes, matches, arrival).next().is_none() {
            arrival
        } else {
            let admitted = self.caps.admit(arrival);
            if admitted < datagrams {
                wanting(&self.routes, matches, arrival).for_each(|state| counts.kept_from(state.route.rule));
                counts.input_drop(arrival.input, InputDrop::Rate, u64::from(datagrams - admitted));
            }
            let Some(first) = arrival.first(admitted) else { return Ok(()) };
            capped = first;
            &capped
        };
        let datagrams = arrival.datagrams();
        let mut taken = false;
        for &index in matches {
            let Some(state) = self.routes[index as usize].as_mut() else { continue };
            if !state.wants(arrival) {
                continue;
            }
            taken = true;
            let flow = match state.last_flow {
                Some((source, flow)) if source == arrival.source => Some(flow),
                _ => flow_of(state, arrival.source, &mut self.flows, counts),
            };
            counts.rule(state.route.rule, u64::from(datagrams), u64::from(arrival.bytes), flow);
            append(state, index, arrival, &mut self.runs, &mut self.runs_used);
        }
        if taken {
            counts.matched(arrival.input, u64::from(datagrams));
        } else {
            counts.input_drop(arrival.input, InputDrop::NoRule, u64::from(datagrams));
        }
        Ok(())
    }

    /// The runs of this batch, in the order they must be sent.
    pub fn runs(&self) -> &[Run] {
        &self.runs[..self.runs_used]
    }

    /// The rule whose datagrams a run holds; none if its route is gone.
    pub fn rule_of(&self, run: &Run) -> Option<RuleSlot> {
        self.routes.get(run.route as usize)?.as_ref().map(|state| state.route.rule)
    }

    /// How many outputs the route of a rule has; none if it has no route.
    pub fn output_count(&self, rule: RuleSlot) -> usize {
        let route = self.by_rule.get(&rule).and_then(|index| self.routes[*index as usize].as_ref());
        route.map_or(0, |state| state.outputs.len())
    }

    /// Calls `send` for each send that a run needs, and counts the copies that are not to be sent. `now_ns` is a monotonic clock.
    pub fn sends(
        &mut self,
        run: usize,
        now_ns: u64,
        counts: &mut impl Counts,
        mut send: impl FnMut(&Run, Send),
    ) {
        let run = &self.runs[..self.runs_used][run];
        let Some(state) = self.routes[run.route as usize].as_mut() else { return };
        for (index, state) in state.outputs.iter_mut().enumerate() {
            let output = OutputRef { route: run.route, output: index as u32 };
            let Some(datagrams) = admit(state, run, now_ns, counts) else { continue };
            let all = Send {
                output,
                slot: state.output.slot,
                via: state.output.via,
                destination: state.output.destination,
                first: 0,
                datagrams,
                hop_limit: match (state.output.ttl, state.output.via) {
                    (Ttl::Keep, _) => Some(run.hop_limit.saturating_sub(1)),
                    (Ttl::Fixed(ttl), Via::Raw(_)) => Some(ttl),
                    (Ttl::Fixed(_), _) => None,
                },
                traffic_class: match state.output.dscp {
                    Dscp::Keep => Some(run.traffic_class).filter(|class| *class != 0),
                    Dscp::Fixed(point) => Some(point << 2).filter(|class| *class != 0),
                },
            };
            let segmented = matches!(state.output.via, Via::Udp(_)) && run.segment <= state.segment_max;
            if datagrams == 1 || segmented {
                send(run, all);
            } else {
                one_by_one(all).for_each(|one| send(run, one));
            }
        }
    }

    /// Notes that an output cannot take datagrams of this size in segments, so that they go one by one from now on.
    pub fn refuse_segments(&mut self, output: OutputRef, segment: u16) {
        if let Some(Some(state)) = self.routes.get_mut(output.route as usize)
            && let Some(output) = state.outputs.get_mut(output.output as usize)
        {
            output.segment_max = output.segment_max.min(segment.saturating_sub(1));
        }
    }

    /// Forgets the runs of the batch, sent or not.
    pub fn clear_runs(&mut self) {
        for run in &mut self.runs[..self.runs_used] {
            if let Some(Some(state)) = self.routes.get_mut(run.route as usize) {
                state.open = None;
            }
            run.clear();
        }
        self.runs_used = 0;
    }

    /// Exchanges a route for one that matches the same datagrams, keeping what its outputs learned. False if it matches others.
    fn replace(&mut self, route: &Route) -> bool {
        let Some(state) =
            self.by_rule.get(&route.rule).and_then(|index| self.routes[*index as usize].as_mut())
        else {
            return false;
        };
        let old = &state.route;
        if (&old.inputs, old.address, old.port) != (&route.inputs, route.address, route.port) {
            return false;
        }
        let mut new = RouteState::new(route.clone());
        new.last_flow = state.last_flow;
        new.keep_rates(state);
        for output in &mut new.outputs {
            if let Some(same) = state.outputs.iter().find(|known| known.output == output.output) {
                output.segment_max = same.segment_max;
            }
        }
        *state = new;
        true
    }

    /// Adds a route, perhaps in place of one that took other datagrams in.
    fn insert(&mut self, route: Route, before: Option<&RouteState>) {
        self.flows.expect(route.rule);
        let index = self.free.pop().unwrap_or_else(|| {
            self.routes.push(None);
            (self.routes.len() - 1) as u32
        });
        self.by_rule.insert(route.rule, index);
        for input in &route.inputs {
            self.table.insert(*input, SocketAddr::new(route.address, route.port), index);
        }
        let mut state = RouteState::new(route);
        before.into_iter().for_each(|before| state.keep_rates(before));
        self.routes[index as usize] = Some(state);
    }

    fn remove(&mut self, rule: RuleSlot) -> Option<RouteState> {
        let index = self.by_rule.remove(&rule)?;
        self.free.push(index);
        let state = self.routes[index as usize].take()?;
        let Route { inputs, address, port, .. } = &state.route;
        for input in inputs {
            self.table.remove(*input, SocketAddr::new(*address, *port), index);
        }
        Some(state)
    }
}

/// The routes that want an arrival.
fn wanting<'a>(
    routes: &'a [Option<RouteState>],
    matches: &'a [u32],
    arrival: &'a Arrival,
) -> impl Iterator<Item = &'a RouteState> {
    let routes = matches.iter().filter_map(|index| routes[*index as usize].as_ref());
    routes.filter(|state| state.wants(arrival))
}

/// Whether an arrival with its TTL used up ends at the input: some route wants it, and every output of all that do keeps the TTL.
/// If one of them can send it, the others take it as well, and count it at their outputs.
fn expires(routes: &[Option<RouteState>], matches: &[u32], arrival: &Arrival) -> bool {
    let mut wanting = wanting(routes, matches, arrival).peekable();
    wanting.peek().is_some() && wanting.all(|state| state.all_keep_hop_limit)
}

/// The same copies as one send for each datagram.
pub fn one_by_one(all: Send) -> impl Iterator<Item = Send> {
    (all.first..all.first + all.datagrams).map(move |first| Send { first, datagrams: 1, ..all })
}
