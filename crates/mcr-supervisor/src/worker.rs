//! One worker as the supervisor sees it: what it should have, what it was told, what it has.
//!
//! One plan is under way at a time. What changes meanwhile is gathered and becomes the next, so what is queued for a worker
//! that does not answer is bounded by the rules there are, and a burst of changes costs few plans.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    net::SocketAddr,
    time::{Duration, Instant},
};

use mcr_metrics::Segment;
use mcr_proto::{
    codec,
    message::{IoChoice, ToWorker, WorkerState, tag},
    plan::{Generation, OutputSlot, Own, PlanOp, Route, RuleSlot, SocketId, Span, WorkerIndex},
};

use crate::{
    backoff::Backoff,
    child::Running,
    sockets::{Sockets, Untold},
};

/// How much of a plan one message carries; a route of 1,024 outputs fits.
const PLAN_BYTES_MAX: usize = 96 * 1024;

/// Messages that wait for a worker to read them when nothing more is sent; what changes meanwhile is gathered.
const WAITING_MAX: usize = 1024;

/// The counters' places of a removed rule.
#[derive(Debug)]
pub(crate) struct Retired {
    pub(crate) rule: RuleSlot,
    pub(crate) outputs: Vec<OutputSlot>,
}

/// What of a route's sockets is its own, and from when on that is not certain.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Limit {
    spans: Vec<(SocketId, Span)>,
    hold_ns: Option<u64>,
}

#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) index: WorkerIndex,
    pub(crate) core: Option<u16>,
    pub(crate) counters: Segment,
    pub(crate) sockets: Sockets,
    pub(crate) state: WorkerState,
    pub(crate) running: Option<Running>,
    pub(crate) starts: u32,
    pub(crate) backoff: Backoff,
    /// When to start it again.
    pub(crate) start_at: Option<Instant>,
    /// Since when it has been in its state.
    pub(crate) since: Instant,
    /// Since when nobody relays its rules; none while it runs.
    pub(crate) gone_since: Option<Instant>,
    pub(crate) io: Option<IoChoice>,
    /// Guards it has not been told yet.
    guards: BTreeMap<SocketAddr, Own>,
    routes: HashMap<RuleSlot, Route>,
    /// Of routes whose rules change their ways: what is theirs.
    limits: HashMap<RuleSlot, Limit>,
    dirty: BTreeSet<RuleSlot>,
    /// Rules that go on from another one's route, or from another worker's, as far as it has not been told.
    continued: BTreeMap<RuleSlot, Option<RuleSlot>>,
    pub(crate) desired: Generation,
    sent: Generation,
    /// When that was.
    sent_at: Instant,
    pub(crate) applied: Generation,
    /// In order of generation.
    retiring: VecDeque<(Generation, Retired)>,
}

impl Worker {
    pub(crate) fn new(index: WorkerIndex, core: Option<u16>, counters: Segment) -> Self {
        Self {
            index,
            core,
            counters,
            sockets: Sockets::default(),
            state: WorkerState::Backoff,
            running: None,
            starts: 0,
            backoff: Backoff::new(),
            start_at: None,
            since: Instant::now(),
            gone_since: None,
            io: None,
            guards: BTreeMap::new(),
            routes: HashMap::new(),
            limits: HashMap::new(),
            dirty: BTreeSet::new(),
            continued: BTreeMap::new(),
            desired: Generation(0),
            sent: Generation(0),
            sent_at: Instant::now(),
            applied: Generation(0),
            retiring: VecDeque::new(),
        }
    }

    /// Notes a change of state.
    pub(crate) fn enter(&mut self, state: WorkerState, now: Instant) {
        (self.state, self.since) = (state, now);
        match state {
            WorkerState::Running => self.gone_since = None,
            WorkerState::Starting | WorkerState::Backoff => {
                self.gone_since.get_or_insert(now);
            }
        }
    }

    /// Whether it can be given rules.
    pub(crate) fn is_running(&self) -> bool {
        self.state == WorkerState::Running
    }

    /// Whether it has a rule's route as it is wanted.
    pub(crate) fn has_applied(&self, generation: Generation) -> bool {
        self.is_running() && self.applied >= generation
    }

    pub(crate) fn note_sent(&mut self, generation: Generation, now: Instant) {
        (self.sent, self.sent_at) = (generation, now);
    }

    /// The plan that it was sent and has not applied, and for how long it has had it.
    pub(crate) fn unanswered(&self, now: Instant) -> Option<(Generation, Duration)> {
        let is_under_way = self.is_running() && self.sent > self.applied;
        is_under_way.then(|| (self.sent, now.duration_since(self.sent_at)))
    }

    /// Wants own copies to a destination recognised, or nothing more.
    pub(crate) fn guard(&mut self, destination: SocketAddr, own: Own) {
        self.guards.insert(destination, own);
    }

    /// Wants a rule relayed so, or not at all. Returns the generation that has it.
    pub(crate) fn set_route(&mut self, rule: RuleSlot, route: Option<Route>) -> Generation {
        let changed = match route {
            Some(route) => {
                self.routes.get(&rule) != Some(&route) && {
                    self.routes.insert(rule, route);
                    true
                }
            }
            None => {
                self.limits.remove(&rule);
                self.routes.remove(&rule).is_some()
            }
        };
        if changed {
            self.desired.0 += 1;
            self.dirty.insert(rule);
        }
        self.desired
    }

    /// Has the rates of a rule's next route go on as those of another rule's route here; none: of its own one elsewhere.
    pub(crate) fn go_on_from(&mut self, rule: RuleSlot, before: Option<RuleSlot>) {
        self.continued.insert(rule, before);
    }

    /// The sockets by which a rule's route takes datagrams in; none if it has no route.
    pub(crate) fn inputs_of(&self, rule: RuleSlot) -> &[SocketId] {
        self.routes.get(&rule).map_or(&[], |route| &route.inputs)
    }

    /// Has a rule's route take datagrams in by these sockets, each within its span, and the worker hold what came at `hold_ns` or later.
    /// Returns the generation that has it so.
    pub(crate) fn limit(
        &mut self,
        rule: RuleSlot,
        inputs: &[(SocketId, Span)],
        hold_ns: Option<u64>,
    ) -> Generation {
        let Some(route) = self.routes.get_mut(&rule) else { return self.desired };
        let sockets: Vec<_> = inputs.iter().map(|(socket, _)| *socket).collect();
        let spans: Vec<_> = inputs.iter().filter(|(_, span)| *span != Span::ALWAYS).copied().collect();
        let limit = (!spans.is_empty()).then_some(Limit { spans, hold_ns });
        if route.inputs == sockets && self.limits.get(&rule) == limit.as_ref() {
            return self.desired;
        }
        route.inputs = sockets;
        match limit {
            None => _ = self.limits.remove(&rule),
            Some(limit) => _ = self.limits.insert(rule, limit),
        }
        self.desired.0 += 1;
        self.dirty.insert(rule);
        self.desired
    }

    pub(crate) fn route_count(&self) -> usize {
        self.routes.len()
    }

    /// Keeps a removed rule's counters until the worker counts in them no more.
    pub(crate) fn retire(&mut self, retired: Retired) {
        self.retiring.push_back((self.desired, retired));
    }

    /// A new process is there and knows nothing.
    pub(crate) fn begin_anew(&mut self) {
        self.sockets.forget_told();
        self.continued.clear();
        self.dirty = self.routes.keys().copied().collect();
        // Whatever the dead one had applied, the new one has not.
        self.desired.0 += 1;
        (self.sent, self.applied) = (Generation(0), Generation(0));
    }

    /// Notes what the worker has applied. Returns the counters' places that are free now.
    pub(crate) fn note_applied(&mut self, generation: Generation) -> Vec<Retired> {
        self.applied = generation;
        let Self { sockets, routes, dirty, .. } = self;
        // A dirty route is newer than what was applied; it is admitted with the plan that carries it.
        sockets.admit(|rule| routes.contains_key(&rule) && !dirty.contains(&rule));
        let due = self.retiring.partition_point(|(at, _)| *at <= generation);
        let retired: Vec<_> = self.retiring.drain(..due).map(|(_, retired)| retired).collect();
        // Others will be given these places.
        let is_free = |slot: RuleSlot| retired.iter().any(|retired| retired.rule == slot);
        self.continued.retain(|rule, from| {
            *from = from.filter(|from| !is_free(*from));
            !is_free(*rule)
        });
        retired
    }

    /// Sends what the worker does not have yet, if it is ready for it.
    pub(crate) fn reconcile(&mut self) -> Result<(), String> {
        let Some(running) = self.running.as_ref().filter(|_| self.is_running()) else {
            return Ok(());
        };
        // At once: another worker waits for it.
        for socket in self.sockets.take_stopping() {
            running
                .send(&ToWorker::StopReceiver { socket }, Vec::new())
                .map_err(|error| error.to_string())?;
        }
        let held = self.sockets.held_until(Instant::now()).is_some();
        if self.sent > self.applied || running.waiting() > WAITING_MAX || held {
            return Ok(());
        }
        // Before the routes that they guard.
        let guards: Vec<_> = std::mem::take(&mut self.guards).into_iter().collect();
        for part in codec::chunks(guards, PLAN_BYTES_MAX) {
            running.send(&ToWorker::Guards(part), Vec::new()).map_err(|error| error.to_string())?;
        }
        if self.sent == self.desired {
            return close(running, self.sockets.take_closing());
        }
        for untold in self.sockets.untold().map_err(|error| format!("cannot duplicate a socket: {error}"))? {
            let (message, fd) = match untold {
                Untold::Receiver { socket, input, kind, lane, fd } => {
                    (ToWorker::OpenReceiver { socket, input, kind, lane }, fd)
                }
                Untold::Sender { socket, fd } => (ToWorker::OpenSender { socket }, fd),
            };
            running.send(&message, vec![(tag::SOCKET, fd)]).map_err(|error| error.to_string())?;
        }
        let ops = std::mem::take(&mut self.dirty).into_iter().flat_map(|rule| {
            let first = match self.routes.get(&rule) {
                Some(route) => PlanOp::Put(route.clone()),
                None => PlanOp::Remove(rule),
            };
            let continued = self.continued.remove(&rule).filter(|_| matches!(first, PlanOp::Put(_)));
            let continued = continued.map(|from| PlanOp::Continue { rule, from });
            let limit = self.limits.get(&rule).cloned();
            let limit = limit.map(|Limit { spans, hold_ns }| PlanOp::Limit { rule, spans, hold_ns });
            [first].into_iter().chain(continued).chain(limit)
        });
        let mut ops: Vec<_> = ops.collect();
        // Others go on from them.
        ops.sort_by_key(|op| matches!(op, PlanOp::Remove(_)));
        let mut parts = codec::chunks(ops, PLAN_BYTES_MAX);
        let last = parts.pop().unwrap_or_default();
        let generation = self.desired;
        let parts = parts.into_iter().map(|ops| (ops, false)).chain([(last, true)]);
        for (ops, last) in parts {
            let part = ToWorker::Plan { generation, ops, last };
            running.send(&part, Vec::new()).map_err(|error| error.to_string())?;
        }
        close(running, self.sockets.take_closing())?;
        self.note_sent(generation, Instant::now());
        Ok(())
    }
}

fn close(running: &Running, sockets: Vec<SocketId>) -> Result<(), String> {
    sockets.into_iter().try_for_each(|socket| {
        running.send(&ToWorker::CloseSocket { socket }, Vec::new()).map_err(|error| error.to_string())
    })
}
