//! Rules that change the way by which their datagrams come: from the kernel data path to a worker's sockets, back, or from some sockets
//! to others.
//!
//! Both ways see every frame, so what divides them is the time at which the kernel received it: its stamp is one number, whoever
//! looks ([`mcr_socket::stamp`]). A time a little ahead is made the end of the old way and the beginning of the new one. First the
//! worker is told ([`Span`]s of its routes), and only when it has that plan the program in the kernel, and then the worker that the time is
//! certain. Should the time be near before that, another one is taken and the worker told again: it holds what came at a time
//! that is not certain, so neither process must be quick. When the time is past for so long that no frame of before is under way any more, the old
//! way is closed, drained where it is a socket, and taken down.
//!
//! Order: what comes by the new way after that time may overtake what still waits in a socket of the old one, if the new one is the kernel.
//!
//! Invariant: a rule is in one move at most; whatever else changes about it waits for the end, or ends the move at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use mcr_netmon::Snapshot;
use mcr_proto::{
    message::{LoadStep, Request},
    plan::{Generation, RuleSlot, Span, WorkerIndex},
    rule::RuleId,
};
use mcr_relay::compile::{Hold, ReceiverKey};
use tracing::{debug, warn};

use crate::{
    acquire::{leave, release},
    clock::realtime_ns,
    rules::{Acquired, Rule},
    state::State,
    worker::{Retired, Worker},
};

/// How far ahead the time is: longer than a worker takes to answer, even on a busy host. Twice as far after each time that came too soon.
const AHEAD_NS: u64 = 100_000_000;
const DOUBLINGS_MAX: u32 = 4;
/// Moves that begin together have the same time: blocks of one destination are divided at few.
const STEP_NS: u64 = 20_000_000;
/// A time nearer than this is not relied on.
const SPARE_NS: u64 = 30_000_000;
/// So long after the time, no frame from before it is on its way to a socket any more: they wait for a turn of the kernel's softirq only.
const SETTLED_AFTER: Duration = Duration::from_millis(200);
/// So long a clock that was set back is waited for.
const CLOCK_WITHIN: Duration = Duration::from_secs(5);
/// What waits in a socket is relayed within this time, or the worker is too busy to be waited for.
const DRAIN_WITHIN: Duration = Duration::from_secs(5);
/// How often a draining socket is looked at.
const DRAIN_EVERY: Duration = Duration::from_millis(2);
/// Turns of a worker after which it has relayed what it had taken from a socket, and the time after which even one of an idle worker will do.
const TURNS: u64 = 8;
const IDLE_FOR: Duration = Duration::from_millis(600);
/// Requests that would disturb a move wait for its end, but no longer than this.
const HELD_UP_FOR: Duration = Duration::from_secs(2);

/// From where to where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    ToKernel,
    FromKernel,
    /// From sockets to sockets of one worker.
    Within,
}

/// What a rule leaves behind; what it has now it has acquired already.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) way: Way,
    /// That of its old way's counters.
    pub(crate) old_slot: RuleSlot,
    pub(crate) old: Acquired,
    /// The receivers that it had, those included that it keeps.
    pub(crate) from: Vec<ReceiverKey>,
    /// What it is to hold when the old way is gone.
    pub(crate) hold_later: Option<Hold>,
    /// Places of counters that are free when the old way is gone.
    pub(crate) retired: Option<Retired>,
}

#[derive(Debug, Default)]
pub(crate) struct Moves {
    under_way: BTreeMap<RuleId, Move>,
    /// Rules to be compiled anew at the end of their moves.
    again: BTreeSet<RuleId>,
    /// Has the kernel stamp frames.
    stamps: Option<OwnedFd>,
    /// Plans by which workers look at stamps no more.
    lifted: BTreeMap<WorkerIndex, Generation>,
}

#[derive(Debug)]
struct Move {
    id: RuleId,
    slot: RuleSlot,
    worker: WorkerIndex,
    change: Change,
    /// The receivers of the new way; it has some in common with the old one perhaps.
    to: Vec<ReceiverKey>,
    edge: Edge,
    /// Times before that one, which came too soon.
    tries: u32,
    phase: Phase,
    begun: Instant,
}

/// The time that divides the ways.
#[derive(Debug, Clone, Copy)]
struct Edge {
    stamp_ns: u64,
    at: Instant,
}

#[derive(Debug)]
enum Phase {
    /// The worker has been told, or will be, with this plan.
    Told(Generation),
    /// Everybody knows the time.
    Set,
    Draining(Drain),
}

/// What waits in sockets: in those of the old way it is still to be relayed, in those of the new way some of it came before the time.
#[derive(Debug)]
struct Drain {
    /// Packet sockets, and how many frames each had let through at the beginning.
    packet: Vec<(ReceiverKey, u64)>,
    /// UDP sockets of the old way, and of the new one.
    udp: Vec<ReceiverKey>,
    udp_kept: Vec<ReceiverKey>,
    /// When all UDP sockets had been seen empty, and the worker's turns then.
    emptied: Option<(Instant, u64)>,
    /// Whether other rules use some of them, so that the worker goes on reading.
    shared: bool,
    until: Instant,
}

/// Whether a request would end moves before their time.
pub(crate) fn disturbs(request: &Request) -> bool {
    matches!(request, Request::Load { step: LoadStep::Commit, .. } | Request::RuleMove { .. })
}

impl Edge {
    /// After so many times that came too soon.
    fn ahead(tries: u32) -> Self {
        let (now_ns, now) = (realtime_ns(), Instant::now());
        let stamp_ns = (now_ns + (AHEAD_NS << tries.min(DOUBLINGS_MAX))).next_multiple_of(STEP_NS);
        Self { stamp_ns, at: now + Duration::from_nanos(stamp_ns - now_ns) }
    }

    fn is_near(&self) -> bool {
        realtime_ns() + SPARE_NS >= self.stamp_ns
    }

    /// Whether no frame of before is under way any more. Should the clock of stamps have been set back meanwhile, its word counts, for a while.
    fn is_settled(&self, now: Instant) -> bool {
        let past = now.saturating_duration_since(self.at);
        past >= CLOCK_WITHIN
            || past >= SETTLED_AFTER && realtime_ns() >= self.stamp_ns + SETTLED_AFTER.as_nanos() as u64
    }
}

impl Moves {
    /// Whether a rule is in a move.
    pub(crate) fn has(&self, id: RuleId) -> bool {
        self.under_way.contains_key(&id)
    }

    /// Has a rule compiled anew at the end of its move.
    pub(crate) fn look_again(&mut self, id: RuleId) {
        self.again.insert(id);
    }

    /// Begins a move of a rule that has acquired all of its new way.
    pub(crate) fn begin(&mut self, change: Change, rule: &mut Rule, worker: &mut Worker) {
        let to = rule.acquired.receivers.clone();
        if self.stamps.is_none() {
            self.stamps = mcr_socket::stamp::hold()
                .inspect_err(|error| warn!("frames are not stamped: {error}; moves are not exact"))
                .ok();
        }
        for key in change.from.iter().chain(&to) {
            worker.sockets.stamp(key);
        }
        let (begun, edge) = (Instant::now(), Edge::ahead(0));
        let (id, slot, worker_index) = (rule.id, rule.slot, worker.index);
        let phase = Phase::Told(worker.desired);
        let mut one = Move { id, slot, worker: worker_index, change, to, edge, tries: 0, phase, begun };
        rule.generation = one.tell(worker, false);
        one.phase = Phase::Told(rule.generation);
        debug!(rule = %rule.name, way = ?one.change.way, "rule changes its way");
        self.under_way.insert(id, one);
    }

    /// Whether some change at these workers, or at any if there are none, is not in force yet, though all who are asked are there.
    pub(crate) fn are_pending(
        &self,
        at: &[(WorkerIndex, Generation)],
        workers: &[Worker],
        now: Instant,
    ) -> bool {
        let concerns = |one: &&Move| at.is_empty() || at.iter().any(|(worker, _)| *worker == one.worker);
        self.under_way.values().filter(concerns).any(|one| match one.phase {
            Phase::Told(_) => workers[usize::from(one.worker.0)].is_running(),
            Phase::Set => now < one.edge.at,
            Phase::Draining(_) => false,
        })
    }

    /// Whether requests that would disturb moves are to be carried out a little later.
    pub(crate) fn hold_up(&self, now: Instant) -> bool {
        self.under_way.values().any(|one| now.duration_since(one.begun) < HELD_UP_FOR)
    }

    /// When [`State::settle_moves`] or a request that waits for a move has something to do next.
    pub(crate) fn at(&self, workers: &[Worker], now: Instant) -> Option<Instant> {
        let times = self.under_way.values().map(|one| match one.phase {
            Phase::Told(_) => one.begun + HELD_UP_FOR,
            Phase::Set if now < one.edge.at => one.edge.at,
            Phase::Set => one.edge.at + SETTLED_AFTER,
            Phase::Draining(_) if workers[usize::from(one.worker.0)].is_running() => now + DRAIN_EVERY,
            Phase::Draining(_) => one.begun + HELD_UP_FOR,
        });
        // What is past was done, or waits for an event.
        times.filter(|at| *at > now).min()
    }
}

impl Move {
    /// Tells the worker what of its sockets' datagrams is whose, for certain or not yet. Gives the plan that has it.
    fn tell(&self, worker: &mut Worker, is_certain: bool) -> Generation {
        let hold_ns = (!is_certain && !self.is_divided_by_kernel()).then_some(self.edge.stamp_ns);
        let (until, from) = (Span::until(self.edge.stamp_ns), Span::from(self.edge.stamp_ns));
        let Self { change: Change { from: old, .. }, to: new, .. } = self;
        let sockets = &worker.sockets;
        let within = |keys: &[ReceiverKey], others: &[ReceiverKey], span| {
            let span_of = |key: &ReceiverKey| match others.contains(key) {
                true => Span::ALWAYS,
                false if others.iter().any(|other| other.rivals(key)) => Span::IN_ORDER,
                false => span,
            };
            let inputs = keys.iter().filter_map(|key| Some((sockets.id_of(key)?, span_of(key))));
            inputs.collect::<Vec<_>>()
        };
        let (mut ending, beginning) = (within(old, new, until), within(new, old, from));
        ending.retain(|(_, span)| *span != Span::ALWAYS);
        if self.change.old_slot == self.slot {
            worker.limit(self.slot, &[beginning, ending].concat(), hold_ns);
        } else {
            if self.change.way != Way::ToKernel {
                worker.limit(self.slot, &beginning, hold_ns);
            }
            if self.change.way != Way::FromKernel {
                worker.limit(self.change.old_slot, &ending, hold_ns);
            }
        }
        worker.desired
    }

    /// Takes a time further ahead.
    fn put_off(&mut self, worker: &mut Worker) {
        self.tries += 1;
        self.edge = Edge::ahead(self.tries);
        self.phase = Phase::Told(self.tell(worker, false));
    }

    /// Whether old and new way are UDP sockets of which the kernel gives each datagram to one, from the moment on when the new one is bound.
    fn is_divided_by_kernel(&self) -> bool {
        self.change.from.iter().any(|old| self.to.iter().any(|new| new.rivals(old)))
    }

    /// The sockets that only the old way has.
    fn left(&self) -> impl Iterator<Item = &ReceiverKey> {
        self.change.from.iter().filter(|key| !self.to.contains(key))
    }
}

impl Drain {
    fn begin(one: &Move, worker: &mut Worker, now: Instant) -> Self {
        let is_udp = |key: &ReceiverKey| matches!(key, ReceiverKey::Udp { .. });
        let (udp, mut packet): (Vec<_>, Vec<_>) = one.left().copied().partition(is_udp);
        let is_fresh = |key: &&ReceiverKey| !one.change.from.iter().any(|old| old == *key || old.rivals(key));
        let fresh = one.to.iter().filter(is_fresh).copied();
        let (udp_kept, packet_kept): (Vec<_>, Vec<_>) = fresh.partition(is_udp);
        packet.extend(packet_kept);
        let Worker { sockets, counters, .. } = worker;
        let packet = packet.into_iter().filter_map(|key| Some((key, sockets.passed(&key, counters)?)));
        let packet = packet.collect();
        Self { packet, udp, udp_kept, emptied: None, shared: false, until: now + DRAIN_WITHIN }
    }

    /// Whether the worker has relayed what waited, or will not. One that is not there is waited for, as far as it has the rule.
    fn is_done(&mut self, change: &Change, worker: &mut Worker, now: Instant) -> bool {
        let rule = change.old_slot;
        if !worker.is_running() {
            self.until = now + DRAIN_WITHIN;
            return change.way == Way::ToKernel;
        }
        let turns = worker.counters.header().turns.get();
        let mut udp = self.udp.iter().chain(&self.udp_kept);
        if self.emptied.is_none() && udp.all(|key| worker.sockets.is_empty(key)) {
            self.emptied = Some((now, turns));
            let stopped = |key: &&ReceiverKey| worker.sockets.stop(key, rule, worker.index);
            self.shared = self.udp.iter().filter(stopped).count() < self.udp.len();
        }
        let Worker { sockets, counters, .. } = &*worker;
        let relayed = |(at, before): (Instant, u64)| {
            let since = turns.wrapping_sub(before);
            !self.shared || since >= TURNS || since > 0 && now.duration_since(at) >= IDLE_FOR
        };
        let by_udp =
            self.emptied.is_some_and(relayed) && self.udp.iter().all(|key| sockets.has_stopped(key, now));
        let mut packet = self.packet.iter();
        let done = by_udp && packet.all(|(key, passed)| sockets.has_taken(key, *passed, counters));
        done || now >= self.until
    }
}

impl State {
    /// A worker has applied a plan, and what it lets in by that: it knows the times of these moves, and now the program does. Where that took
    /// too long, they get another time.
    pub(crate) fn set_moves(&mut self, worker: WorkerIndex) {
        let Self { moves, workers, kernel, .. } = self;
        let told = &mut workers[usize::from(worker.0)];
        let mut refused = Vec::new();
        for one in moves.under_way.values_mut().filter(|one| one.worker == worker) {
            if !matches!(one.phase, Phase::Told(at) if told.has_applied(at)) {
                continue;
            }
            // The worker holds what came at the time that it was told before; where the kernel divides, no time has to be kept.
            let by_time = !one.is_divided_by_kernel();
            if by_time && one.edge.is_near() {
                one.put_off(told);
                continue;
            }
            let is_set = match one.change.way {
                Way::ToKernel => kernel.limit(one.slot, Span::from(one.edge.stamp_ns)),
                Way::FromKernel => kernel.limit(one.change.old_slot, Span::until(one.edge.stamp_ns)),
                Way::Within => true,
            };
            if !is_set {
                refused.push(one.id);
                continue;
            }
            if by_time && realtime_ns() >= one.edge.stamp_ns {
                warn!(
                    rule = one.id.0,
                    "this process stood still while a rule changed its way: what came meanwhile may be lost or doubled"
                );
            }
            one.tell(told, true);
            one.phase = Phase::Set;
        }
        // There is no room to divide by time: at once, then.
        refused.into_iter().for_each(|id| self.end_move(id));
    }

    /// Brings moves to their ends, as far as time alone decides it.
    pub(crate) fn settle_moves(&mut self, now: Instant, network: &Snapshot) {
        let Self { moves, workers, kernel, .. } = self;
        let (mut settled, mut done) = (Vec::new(), Vec::new());
        for one in moves.under_way.values_mut() {
            let worker = &mut workers[usize::from(one.worker.0)];
            match &mut one.phase {
                // Nobody relays what comes to the old way.
                Phase::Told(_) if one.change.way == Way::ToKernel && !worker.is_running() => {
                    kernel.limit(one.slot, Span::ALWAYS);
                    done.push(one.id);
                }
                Phase::Set if one.edge.is_settled(now) => settled.push(one.id),
                Phase::Draining(drain) => {
                    done.extend(drain.is_done(&one.change, worker, now).then_some(one.id))
                }
                _ => {}
            }
        }
        self.drain(&settled, now);
        for id in &done {
            self.moves.under_way.remove(id).into_iter().for_each(|one| self.finish(one));
        }
        self.refresh_all_filters();
        for id in done {
            if self.moves.again.remove(&id) {
                self.refresh(id, network);
            }
        }
        self.end_stamps();
    }

    /// Shuts the old ways' sockets; in these, and in those of the new ways, what came before the time may still wait.
    fn drain(&mut self, settled: &[RuleId], now: Instant) {
        for one in settled.iter().filter_map(|id| self.moves.under_way.get(id)) {
            let old = &mut self.workers[usize::from(one.worker.0)];
            one.left().for_each(|key| old.sockets.shut(key, one.change.old_slot));
        }
        // Once for all of them: a filter may have to be compiled.
        self.refresh_all_filters();
        let Self { moves, workers, kernel, .. } = self;
        for id in settled {
            let Some(one) = moves.under_way.get_mut(id) else { continue };
            if one.change.way == Way::ToKernel {
                kernel.limit(one.slot, Span::ALWAYS);
            }
            let drain = Drain::begin(one, &mut workers[usize::from(one.worker.0)], now);
            one.phase = Phase::Draining(drain);
        }
    }

    /// Ends a rule's move at once, if it is in one: what it has now it has at all times, and what it had is gone.
    pub(crate) fn end_move(&mut self, id: RuleId) {
        self.moves.again.remove(&id);
        let Some(one) = self.moves.under_way.remove(&id) else { return };
        let index = one.worker;
        if one.change.way == Way::ToKernel {
            // The worker has its route until it takes up the next plan: it must get nothing more that the program relays.
            let old = &mut self.workers[usize::from(one.worker.0)];
            one.left().for_each(|key| old.sockets.exclude(key, one.change.old_slot));
            self.kernel.limit(one.slot, Span::ALWAYS);
        }
        self.finish(one);
        self.refresh_filters(index);
    }

    /// Takes the old way down; filters are to be brought in line afterwards.
    fn finish(&mut self, one: Move) {
        let Move { id, slot, worker: index, change, to, .. } = one;
        let Change { way, old_slot, old, hold_later, retired, .. } = change;
        let Self { rules, workers, holds, kernel, moves, .. } = self;
        let worker = &mut workers[usize::from(index.0)];
        if way != Way::ToKernel {
            let inputs = to.iter().filter_map(|key| Some((worker.sockets.id_of(key)?, Span::ALWAYS)));
            let inputs: Vec<_> = inputs.collect();
            worker.limit(slot, &inputs, None);
        }
        // A guard first, while the socket that it takes the place of is there.
        if let Some(mut rule) = rules.get_mut(id) {
            kernel.swallowing.touch(rule.spec.input.socket_addr());
            if let Some(hold) = hold_later.filter(|_| rule.acquired.hold.is_none()) {
                match holds.acquire_beside(hold, workers) {
                    Ok(()) => rule.acquired.hold = Some(hold),
                    Err(error) => warn!(rule = %rule.name, "{error}"),
                }
            }
        }
        let worker = &mut workers[usize::from(index.0)];
        match way == Way::ToKernel || old_slot != slot {
            true => leave(old_slot, old, worker, holds, kernel),
            false => release(old, old_slot, worker, holds, kernel),
        }
        retired.into_iter().for_each(|retired| worker.retire(retired));
        kernel.follow_guards(holds);
        moves.lifted.insert(index, workers[usize::from(index.0)].desired);
    }

    /// Has frames stamped no more, when nobody looks at stamps. A worker that has not taken up that its limits are gone does, and would leave
    /// to others what has none.
    fn end_stamps(&mut self) {
        let Self { moves, workers, .. } = self;
        let has_taken_up = |(index, at): (&WorkerIndex, &Generation)| {
            let worker = &workers[usize::from(index.0)];
            worker.has_applied(*at) || !worker.is_running()
        };
        if moves.lifted.is_empty() || !moves.under_way.is_empty() || !moves.lifted.iter().all(has_taken_up) {
            return;
        }
        moves.lifted.clear();
        workers.iter_mut().for_each(|worker| worker.sockets.end_stamps());
        moves.stamps = None;
    }
}
