//! Which worker carries a rule: its own, or another while that one is not well, or the one a user moved it to.
//!
//! A rule moves without a hole between two running workers: the old one relays until the new one has the route, then both
//! filters change, one right after the other. Frames that arrive in the few microseconds between are not let through. Those that
//! wait in the old socket are relayed by the old worker, which has the route until it has taken as many as were let through. On the
//! `udp` path the socket moves along with its rule (`sockets/hand_over.rs`). Where another rule uses it, too, the rule gets one of the
//! new worker's: the old worker lets go of it first, and what the rule misses in between the other rule has.

use std::time::{Duration, Instant};

use mcr_netmon::Snapshot;
use mcr_proto::{
    counters::{InputDrop, OutputDrop},
    message::{EventWhat, Fault, FaultKind, RuleRef},
    plan::{Generation, RuleSlot, SocketId, WorkerIndex},
    rule::{Datapath, RuleId},
};
use mcr_relay::compile::ReceiverKey;
use tracing::info;

use crate::{
    acquire::{leave, release},
    inputs::Inputs,
    rules::{Acquired, Rule},
    sockets::is_host,
    state::{State, not_found},
    worker::Worker,
};

/// A worker that is gone for this long has its rules carried by others.
const GONE_FOR: Duration = Duration::from_secs(1);
/// A worker that has run for this long gets its rules back.
const WELL_AFTER: Duration = Duration::from_secs(2);

/// What waits in a socket is relayed within this time, or the worker is too busy to be waited for.
const DRAIN_WITHIN: Duration = Duration::from_secs(5);
/// How often a draining socket is looked at.
const DRAIN_EVERY: Duration = Duration::from_millis(2);

/// A rule that is carried by another worker already, while the one before still relays what waits in its socket.
#[derive(Debug)]
pub(crate) struct Draining {
    slot: RuleSlot,
    from: WorkerIndex,
    acquired: Acquired,
    /// Its packet sockets, and how many frames each had let through when its filter closed.
    waiting: Vec<(ReceiverKey, u64)>,
    until: Instant,
}

/// What may wait in a rule's sockets, where there is a worker that takes it and a kernel that counts it.
fn waiting(receivers: &[ReceiverKey], worker: &mut Worker) -> Option<Vec<(ReceiverKey, u64)>> {
    let Worker { sockets, counters, .. } = worker;
    let passed = receivers.iter().filter_map(|key| Some((*key, sockets.passed(key, counters)?)));
    let waiting: Vec<_> = passed.collect();
    (worker.is_running() && !waiting.is_empty()).then_some(waiting)
}

/// Has the UDP sockets of a rule go from one worker to the one that it has now: all, or none. Those that went.
fn hand_over(
    rule: &Rule,
    acquired: &mut Acquired,
    from: WorkerIndex,
    workers: &mut [Worker],
    inputs: &mut Inputs,
) -> Vec<ReceiverKey> {
    let (old, new) = (usize::from(from.0), usize::from(rule.worker.0));
    let goes = |key: &ReceiverKey| {
        workers[old].sockets.can_give(key, rule.slot) && workers[new].sockets.can_take(key)
    };
    if acquired.receivers.is_empty() || !acquired.receivers.iter().all(goes) {
        return Vec::new();
    }
    let mut slot = |key: &ReceiverKey| {
        inputs.slot(rule.worker, rule.spec.input.interface, Datapath::Udp, key.lane().classed())
    };
    let Some(slots) = acquired.receivers.iter().map(&mut slot).collect::<Option<Vec<_>>>() else {
        return Vec::new();
    };
    let keys = std::mem::take(&mut acquired.receivers);
    let reader = workers[old].is_running().then_some(from);
    if !keys.iter().all(|key| workers[old].sockets.has_told(key)) {
        // The old worker has none of it yet, and would refuse a plan with a route from a socket that it is never given.
        workers[old].set_route(rule.slot, None);
    }
    for (key, input) in keys.iter().zip(slots) {
        let Worker { sockets, counters, .. } = &mut workers[old];
        if let Some(handed_over) = sockets.give(key, counters, reader) {
            workers[new].sockets.take(handed_over, input);
        }
    }
    keys
}

impl State {
    /// The worker that carries rules of `home` now.
    pub(crate) fn carrier(&self, home: WorkerIndex) -> WorkerIndex {
        let is_gone = |index: WorkerIndex| self.gone(index, Instant::now());
        if !is_gone(home) {
            return home;
        }
        let count = self.workers.len();
        let others = (1..count).map(|step| WorkerIndex(((usize::from(home.0) + step) % count) as u16));
        others.into_iter().find(|index| self.workers[usize::from(index.0)].is_running()).unwrap_or(home)
    }

    fn gone(&self, index: WorkerIndex, now: Instant) -> bool {
        let worker = &self.workers[usize::from(index.0)];
        !worker.is_running() && worker.gone_since.is_some_and(|since| now.duration_since(since) >= GONE_FOR)
    }

    /// Gives the rules of workers that are gone to others, and those of workers that are well again back to them.
    pub(crate) fn settle_carriers(&mut self, now: Instant, network: &Snapshot) {
        for index in (0..self.workers.len()).map(|index| WorkerIndex(index as u16)) {
            let to = self.carrier(index);
            if to != index && self.gone(index, now) {
                let rules = self.rules.carried_by(index);
                if !rules.is_empty() {
                    info!(
                        worker = index.0,
                        to = to.0,
                        rules = rules.len(),
                        "worker is gone; another carries its rules"
                    );
                    rules.into_iter().for_each(|id| self.carry(id, to, network));
                }
            }
            let worker = &self.workers[usize::from(index.0)];
            if worker.is_running() && now.duration_since(worker.since) >= WELL_AFTER {
                let rules = self.rules.away_from(index);
                if !rules.is_empty() {
                    info!(
                        worker = index.0,
                        rules = rules.len(),
                        "worker is well again; it gets its rules back"
                    );
                    rules.into_iter().for_each(|id| self.carry(id, index, network));
                }
            }
        }
    }

    /// When [`State::settle_carriers`] has something to do next, as far as time alone decides it.
    pub(crate) fn settle_at(&self) -> Option<Instant> {
        let gone =
            self.workers.iter().filter(|worker| !worker.is_running()).filter_map(|worker| worker.gone_since);
        let gone = gone.map(|since| since + GONE_FOR);
        let away = |worker: &&Worker| worker.is_running() && self.rules.are_away_from(worker.index);
        let well = self.workers.iter().filter(away);
        let now = Instant::now();
        // What is past was done, or could not be done and waits for an event.
        gone.chain(well.map(|worker| worker.since + WELL_AFTER)).filter(|at| *at > now).min()
    }

    /// Moves a rule to a worker for good. Returns the generation that has it there.
    pub(crate) fn move_rule(
        &mut self,
        rule: &RuleRef,
        to: WorkerIndex,
        network: &Snapshot,
    ) -> Result<(RuleId, WorkerIndex, Generation), Fault> {
        let id = self.rules.find(rule).map(|rule| rule.id).ok_or_else(|| not_found(rule))?;
        if usize::from(to.0) >= self.workers.len() {
            let message = format!("no worker {to}; there are {}, counted from 0", self.workers.len());
            return Err(Fault::new(FaultKind::NotFound, message).at("worker"));
        }
        self.check_alone(id, to)?;
        if let Some(mut rule) = self.rules.get_mut(id) {
            rule.home = to;
        }
        self.carry(id, self.carrier(to), network);
        let rule = self.rules.get(id).ok_or_else(|| not_found(rule))?;
        Ok((id, rule.worker, rule.generation))
    }

    /// Whether a rule can go to a worker by itself. Of UDP sockets at one address of this host the kernel gives datagrams to one only, so
    /// rules that share one stay together.
    fn check_alone(&self, id: RuleId, to: WorkerIndex) -> Result<(), Fault> {
        let Some(rule) = self.rules.get(id).filter(|rule| rule.worker != self.carrier(to)) else {
            return Ok(());
        };
        let shares = |key: &ReceiverKey, other: &Rule| {
            let theirs = &other.acquired.receivers;
            is_host(key) && theirs.iter().any(|other| other == key || other.rivals(key))
        };
        let is_other =
            |other: &&Rule| other.id != id && rule.acquired.receivers.iter().any(|key| shares(key, other));
        if !rule.acquired.receivers.iter().any(is_host) {
            return Ok(());
        }
        let Some(other) = self.rules.all().find(is_other) else { return Ok(()) };
        let message = format!(
            "rule {} takes {} in by the udp data path, too, and both share the one socket that gets it; give one of them the packet data path, \
             or another address or port",
            other.name, rule.spec.input
        );
        Err(Fault::new(FaultKind::Unsupported, message).at("worker"))
    }

    /// Has a rule carried by another worker.
    fn carry(&mut self, id: RuleId, to: WorkerIndex, network: &Snapshot) {
        if self.rules.get(id).is_some_and(|rule| rule.worker != to) {
            self.end_move(id);
        }
        // Back to where something still waits: what it has there it keeps.
        let back = self.rules.get(id).map(|rule| rule.slot).and_then(|slot| {
            let place = self.draining.iter().position(|drain| drain.slot == slot && drain.from == to)?;
            Some(self.draining.swap_remove(place).acquired)
        });
        self.finish_leaving(id);
        let Self { rules, workers, inputs, holds, kernel, events, .. } = self;
        let Some(mut rule) = rules.get_mut(id).filter(|rule| rule.worker != to) else { return };
        let from = std::mem::replace(&mut rule.worker, to);
        if rule.acquired.kernel {
            // Neither has it; it is the worker that would.
            let to = &mut workers[usize::from(to.0)];
            rule.generation = to.desired;
            if let Some(back) = back {
                leave(rule.slot, back, to, holds, kernel);
            }
            return;
        }
        events.rule(&rule, EventWhat::Moved, Some(format!("from worker {from}")));
        let mut acquired = std::mem::take(&mut rule.acquired);
        let alive = workers[usize::from(from.0)].is_running();
        let datapath = rule.compiled.take().and_then(|compiled| compiled.datapath);
        let handed_over = hand_over(&rule, &mut acquired, from, workers, inputs);
        if alive {
            workers[usize::from(to.0)].go_on_from(rule.slot, None);
        }
        let receivers = acquired.receivers.clone();
        let old = &mut workers[usize::from(from.0)];
        if alive && datapath == Some(Datapath::Udp) && handed_over.is_empty() {
            leave(rule.slot, acquired, old, holds, kernel);
        } else {
            // The membership stays with the rule: `refresh` takes it again before this one is given back.
            rule.leaving = Some((from, acquired));
        }
        drop(rule);
        // Another rule may have the socket there still, until it is carried here, too.
        self.workers[usize::from(from.0)].sockets.lend(&receivers, true);
        self.refresh(id, network);
        self.workers[usize::from(from.0)].sockets.lend(&receivers, false);
        let worker = &mut self.workers[usize::from(to.0)];
        let is_running = worker.is_running();
        handed_over.iter().for_each(|key| worker.sockets.close_unused(key, &worker.counters, is_running));
        let Some(rule) = self.rules.get(id) else { return };
        if let Some(mut back) = back {
            back.receivers.retain(|key| !rule.acquired.receivers.contains(key));
            let to = &mut self.workers[usize::from(to.0)];
            release(back, rule.slot, to, &mut self.holds, &mut self.kernel);
        }
        let (slot, receives) = (rule.slot, !rule.acquired.receivers.is_empty());
        let has_it = receives && self.workers[usize::from(to.0)].has_applied(rule.generation);
        if alive && has_it {
            // It still had the route and its socket, for what waited there: no plan tells when it has it.
            self.workers[usize::from(to.0)].sockets.admit(|rule| rule == slot);
            self.begin_draining(id);
            self.refresh_filters(to);
            return;
        }
        if !alive {
            // Nobody relays the rule now, so what comes before the new worker has the route is counted there rather than
            // kept out, where nobody would count it.
            self.workers[usize::from(to.0)].sockets.admit(|rule| rule == slot);
            self.refresh_filters(to);
        }
        if !alive || !receives {
            self.finish_leaving(id);
        }
    }

    /// A worker reads a socket no more that another is to read.
    pub(crate) fn note_stopped(&mut self, worker: WorkerIndex, socket: SocketId) {
        self.workers[usize::from(worker.0)].sockets.stopped(socket);
        self.workers.iter_mut().for_each(|other| other.sockets.reader_stopped(worker, Some(socket)));
    }

    /// A worker reads nothing more.
    pub(crate) fn note_ended(&mut self, worker: WorkerIndex) {
        self.workers.iter_mut().for_each(|other| other.sockets.reader_stopped(worker, None));
        // Its next life is not told of rules that were about to leave it: their sockets may have gone ahead.
        let left = |rule: &&Rule| rule.leaving.as_ref().is_some_and(|(from, _)| *from == worker);
        let left: Vec<_> = self.rules.all().filter(left).map(|rule| rule.id).collect();
        left.into_iter().for_each(|id| self.leave_behind(id));
    }

    /// When a worker is told of its new sockets even if another one has not said that it reads them no more.
    pub(crate) fn hand_over_at(&self) -> Option<Instant> {
        let now = Instant::now();
        self.workers.iter().filter_map(|worker| worker.sockets.held_until(now)).min()
    }

    /// Takes rules from the workers that carried them before, once the new ones have them.
    pub(crate) fn finish_moves(&mut self, worker: WorkerIndex) {
        let applied = &self.workers[usize::from(worker.0)];
        let due = self.rules.arriving_at(worker).filter(|rule| applied.has_applied(rule.generation));
        let due: Vec<_> = due.map(|rule| rule.id).collect();
        due.into_iter().for_each(|id| self.begin_draining(id));
    }

    /// The worker that carried a rule before gets no more of its datagrams, and relays those that wait.
    fn begin_draining(&mut self, id: RuleId) {
        let left = self.rules.get_mut(id).and_then(|mut rule| Some((rule.slot, rule.leaving.take()?)));
        let Some((slot, (from, acquired))) = left else { return };
        let old = &mut self.workers[usize::from(from.0)];
        acquired.receivers.iter().for_each(|key| old.sockets.shut(key, slot));
        // Closed before the new worker's filter opens: what came by both would be relayed twice.
        self.refresh_filters(from);
        let old = &mut self.workers[usize::from(from.0)];
        match waiting(&acquired.receivers, old) {
            Some(waiting) => {
                let until = Instant::now() + DRAIN_WITHIN;
                self.draining.push(Draining { slot, from, acquired, waiting, until });
                self.settle_drains(Instant::now());
            }
            None => leave(slot, acquired, old, &mut self.holds, &mut self.kernel),
        }
    }

    /// Takes rules from the workers that carried them before and have relayed what waited.
    pub(crate) fn settle_drains(&mut self, now: Instant) {
        let Self { draining, workers, holds, kernel, .. } = self;
        let done = draining.extract_if(.., |drain| {
            let old = &workers[usize::from(drain.from.0)];
            now >= drain.until
                || !old.is_running()
                || drain
                    .waiting
                    .iter()
                    .all(|(key, passed)| old.sockets.has_taken(key, *passed, &old.counters))
        });
        for Draining { slot, from, acquired, .. } in done.collect::<Vec<_>>() {
            leave(slot, acquired, &mut workers[usize::from(from.0)], holds, kernel);
        }
    }

    /// When [`State::settle_drains`] has something to look at.
    pub(crate) fn drain_at(&self) -> Option<Instant> {
        (!self.draining.is_empty()).then(|| Instant::now() + DRAIN_EVERY)
    }

    /// Ends at once what a rule still has at workers that carried it before.
    pub(crate) fn end_drains(&mut self, slot: RuleSlot) {
        self.end_drains_of(|drain| drain.slot == slot);
    }

    /// Ends at once what a rule still has at one worker, which is to have the rule again, or never to have had it.
    pub(crate) fn end_drains_at(&mut self, slot: RuleSlot, worker: WorkerIndex) {
        self.end_drains_of(|drain| drain.slot == slot && drain.from == worker);
    }

    fn end_drains_of(&mut self, which: impl Fn(&Draining) -> bool) {
        let Self { draining, workers, holds, kernel, .. } = self;
        for Draining { slot, from, acquired, .. } in
            draining.extract_if(.., |drain| which(drain)).collect::<Vec<_>>()
        {
            leave(slot, acquired, &mut workers[usize::from(from.0)], holds, kernel);
        }
    }

    pub(crate) fn finish_leaving(&mut self, id: RuleId) {
        if let Some(slot) = self.rules.get(id).map(|rule| rule.slot) {
            self.end_drains(slot);
        }
        self.leave_behind(id);
    }

    /// Takes a rule from the worker that carried it before, at once.
    fn leave_behind(&mut self, id: RuleId) {
        let Self { rules, workers, holds, kernel, .. } = self;
        let left = rules.get_mut(id).and_then(|mut rule| Some((rule.slot, rule.leaving.take()?)));
        if let Some((slot, (from, acquired))) = left {
            leave(slot, acquired, &mut workers[usize::from(from.0)], holds, kernel);
            // Closed before the new worker's filter opens: what came by both would be relayed twice.
            self.refresh_filters(from);
        }
    }

    /// A worker died: what it had counted in and not yet counted out is lost, and counted so. Its counters obey the law again.
    pub(crate) fn count_lost(&mut self, index: WorkerIndex) {
        let Self { rules, workers, inputs, .. } = self;
        let worker = &mut workers[usize::from(index.0)];
        worker.sockets.search_lost();
        let counters = &worker.counters;
        for slot in inputs.of(index) {
            let input = counters.input(slot);
            let dropped: u64 = InputDrop::ALL.iter().map(|reason| input.dropped(*reason)).sum();
            let ended = input.matched.get() + dropped;
            input.drops[InputDrop::WorkerLost as usize].add(input.received().saturating_sub(ended));
        }
        for rule in rules.all() {
            let matched = counters.rule(rule.slot).datagrams.get();
            for slot in &rule.output_slots {
                let output = counters.output(*slot);
                let dropped: u64 = output.drops.iter().map(mcr_metrics::Counter::get).sum();
                let ended = output.copies.get() + dropped;
                output.drops[OutputDrop::WorkerLost as usize].add(matched.saturating_sub(ended));
            }
        }
    }
}
