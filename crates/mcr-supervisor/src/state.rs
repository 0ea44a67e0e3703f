//! The supervisor's state and what changes it. Nothing here waits: every event changes what is desired, and [`State::reconcile`]
//! brings the workers nearer to it.

use std::{collections::HashMap, net::SocketAddr};

use mcr_metrics::{OUTPUT_SLOTS, RULE_SLOTS, Segment};
use mcr_netmon::{Change, Snapshot};
use mcr_proto::{
    message::{EventWhat, Fault, FaultKind, RuleRef, RuleState, RuleView, Settings},
    plan::{Generation, OutputSlot, Own, RuleSlot, WorkerIndex},
    rule::{Datapath, DatapathChoice, RuleId, RuleName, RuleSpec},
};
use mcr_relay::{classes::Classes, compile::Abilities};
use tracing::{info, warn};

use crate::{
    acquire::{leave, release},
    carry::Draining,
    classes,
    events::Events,
    holds::Holds,
    inputs::Inputs,
    kernel::Kernel,
    load::Loads,
    loops,
    moves::Moves,
    rules::{Acquired, Rule, Rules, Status, place},
    slots::Slots,
    traces::Traces,
    worker::{Retired, Worker},
};

pub(crate) struct State {
    pub(crate) rules: Rules,
    pub(crate) workers: Vec<Worker>,
    pub(crate) inputs: Inputs,
    pub(crate) abilities: Abilities,
    pub(crate) kernel: Kernel,
    /// Something that decides on data paths has changed.
    pub(crate) recompile: bool,
    pub(crate) holds: Holds,
    /// Destinations that rules can lead to again, and how own copies to them look.
    pub(crate) guards: HashMap<SocketAddr, Own>,
    /// The network has changed since they were brought in line.
    pub(crate) guards_stale: bool,
    pub(crate) rule_slots: Slots,
    pub(crate) output_slots: Slots,
    /// What the configuration says beside rules.
    pub(crate) settings: Settings,
    /// Those of the settings, as rules are compiled with them.
    pub(crate) classes: Classes,
    pub(crate) loads: Loads,
    /// Rules that have moved and of which something waits at the worker before.
    pub(crate) draining: Vec<Draining>,
    /// Rules that change the way by which their datagrams come.
    pub(crate) moves: Moves,
    pub(crate) events: Events,
    pub(crate) traces: Traces,
}

impl State {
    pub(crate) fn new(workers: Vec<Worker>, abilities: Abilities, kernel: Kernel) -> Self {
        Self {
            rules: Rules::default(),
            inputs: Inputs::default(),
            workers,
            abilities,
            kernel,
            recompile: false,
            holds: Holds::default(),
            guards: HashMap::new(),
            guards_stale: false,
            rule_slots: Slots::new(RULE_SLOTS),
            output_slots: Slots::new(OUTPUT_SLOTS),
            settings: Settings::default(),
            classes: Classes::default(),
            loads: Loads::default(),
            draining: Vec::new(),
            moves: Moves::default(),
            events: Events::default(),
            traces: Traces::default(),
        }
    }

    /// Adds a rule, unless an identical one is there. Returns its id and whether it is new.
    pub(crate) fn add(&mut self, spec: RuleSpec, network: &Snapshot) -> Result<(RuleId, bool), Fault> {
        let with_input = |input| self.rules.with_input(input).map(|rule| &rule.spec).collect();
        if let Some(way) = spec.way_back(with_input) {
            return Err(loops::refused(&way));
        }
        self.add_checked(spec, network)
    }

    /// As [`State::add`], where it is known that the rule does not feed itself by others.
    pub(crate) fn add_checked(
        &mut self,
        mut spec: RuleSpec,
        network: &Snapshot,
    ) -> Result<(RuleId, bool), Fault> {
        spec.check().map_err(|error| Fault::new(FaultKind::Invalid, error.to_string()).at(error.field()))?;
        classes::check(&spec, &self.settings.classes)?;
        if let Some(known) = self.known(&spec)? {
            return Ok((known, false));
        }
        let limit = |what: &str, max: usize| {
            Fault::new(FaultKind::Limit, format!("no room for more {what}: {max} is the limit"))
        };
        if self.output_slots.available() < spec.outputs.len() {
            return Err(limit("outputs", OUTPUT_SLOTS));
        }
        let slot = RuleSlot(self.rule_slots.take().ok_or_else(|| limit("rules", RULE_SLOTS))?);
        let output_slots: Vec<_> =
            spec.outputs.iter().filter_map(|_| self.output_slots.take()).map(OutputSlot).collect();
        let id = self.rules.fresh_id();
        let name = spec.name.clone().unwrap_or_else(|| self.name_for(id));
        spec.name = Some(name.clone());
        let home = place(&spec, self.workers.len());
        let worker = self.carrier(home);
        let unknown = (RuleState::Unresolved, None);
        let status =
            Status { state: RuleState::Unresolved, reason: None, outputs: vec![unknown; spec.outputs.len()] };
        let acquired = Acquired::default();
        let generation = Generation(0);
        self.rules.insert(Rule {
            id,
            name,
            spec,
            slot,
            output_slots,
            worker,
            home,
            leaving: None,
            compiled: None,
            acquired,
            status,
            generation,
        });
        if let Some(rule) = self.rules.get(id) {
            self.events.rule(rule, EventWhat::Added, None);
        }
        self.refresh(id, network);
        Ok((id, true))
    }

    /// The identical rule that is there already; an error if one of the same name is another.
    fn known(&self, spec: &RuleSpec) -> Result<Option<RuleId>, Fault> {
        match &spec.name {
            Some(name) => match self.rules.named(name) {
                Some(rule) if rule.spec == *spec => Ok(Some(rule.id)),
                Some(rule) => {
                    let message = format!(
                        "a rule named {name} exists already with input {} ({} outputs); remove it first, or choose another name",
                        rule.spec.input,
                        rule.spec.outputs.len()
                    );
                    Err(Fault::new(FaultKind::Exists, message).at("name"))
                }
                None => Ok(None),
            },
            // A client that tries again after a lost answer must not get every datagram twice.
            None => Ok(self
                .rules
                .with_input(spec.input.socket_addr())
                .find(|rule| rule.spec.is_like(spec))
                .map(|rule| rule.id)),
        }
    }

    fn name_for(&self, id: RuleId) -> RuleName {
        let mut name = format!("rule-{id}");
        loop {
            match name.parse() {
                Ok(name) if self.rules.named(&name).is_none() => return name,
                _ => name.push('_'),
            }
        }
    }

    /// A rule as it stands: active only once its worker relays it.
    pub(crate) fn view(&self, rule: &Rule) -> RuleView {
        let mut view = rule.view();
        let worker = &self.workers[usize::from(rule.worker.0)];
        // While a rule moves, the way it leaves relays it.
        let is_relayed = rule.acquired.kernel
            || worker.has_applied(rule.generation)
            || rule.leaving.is_some()
            || self.moves.has(rule.id);
        view.swallowed = self.kernel.swallowing.swallows(rule.id);
        if view.state == RuleState::Active && !is_relayed {
            let why = if worker.is_running() { "has not taken it up yet" } else { "is not running" };
            (view.state, view.reason) = (RuleState::Paused, Some(format!("worker {} {why}", worker.index)));
        }
        view
    }

    /// Removes a rule. Returns its worker and the generation without it.
    pub(crate) fn remove(&mut self, rule: &RuleRef) -> Result<(WorkerIndex, Generation), Fault> {
        let id = self.rules.find(rule).map(|rule| rule.id).ok_or_else(|| not_found(rule))?;
        self.end_move(id);
        let Some(rule) = self.rules.remove(id) else { return Err(not_found(rule)) };
        self.kernel.swallowing.note(id, None);
        self.events.rule(&rule, EventWhat::Removed, None);
        self.end_drains(rule.slot);
        if let Some((from, acquired)) = rule.leaving {
            let old = &mut self.workers[usize::from(from.0)];
            leave(rule.slot, acquired, old, &mut self.holds, &mut self.kernel);
        }
        let was_in_kernel = rule.acquired.kernel;
        let worker = &mut self.workers[usize::from(rule.worker.0)];
        let generation = worker.set_route(rule.slot, None);
        // At once, also where a worker was about to take it over.
        self.kernel.release(rule.slot, None);
        release(rule.acquired, rule.slot, worker, &mut self.holds, &mut self.kernel);
        worker.retire(Retired { rule: rule.slot, outputs: rule.output_slots });
        if was_in_kernel {
            // No worker has a plan to change, so its slot is kept for a while.
            self.end_traces_of(rule.slot);
        }
        info!(rule = %rule.name, "rule removed");
        Ok((rule.worker, generation))
    }

    /// Switches a rule on or off. Returns the generation that has it so.
    pub(crate) fn enable(
        &mut self,
        rule: &RuleRef,
        enabled: bool,
        network: &Snapshot,
    ) -> Result<(RuleId, WorkerIndex, Generation), Fault> {
        let found = self.rules.find(rule).ok_or_else(|| not_found(rule))?;
        let id = found.id;
        let with_input = |input| self.rules.with_input(input).map(|rule| &rule.spec).collect();
        let spec = RuleSpec { enabled, ..found.spec.clone() };
        // Rules that were added while this one was off may feed it by now.
        if let Some(way) = spec.way_back(with_input) {
            return Err(loops::refused(&way));
        }
        if let Some(mut rule) = self.rules.get_mut(id) {
            rule.spec.enabled = enabled;
        }
        self.refresh(id, network);
        let rule = self.rules.get(id).ok_or_else(|| not_found(rule))?;
        Ok((id, rule.worker, rule.generation))
    }

    /// Clears the counters' places that a worker counts in no more, and makes them free.
    pub(crate) fn recycle(&mut self, retired: Vec<Retired>) {
        for retired in retired {
            let Some(Retired { rule, outputs }) = self.kernel.keep(retired) else { continue };
            self.end_traces_of(rule);
            for counters in self.segments() {
                counters.clear_rule(rule);
                outputs.iter().for_each(|slot| counters.clear_output(*slot));
            }
            self.rule_slots.give(rule.0);
            outputs.iter().for_each(|slot| self.output_slots.give(slot.0));
        }
    }

    /// Follows what changed in the network.
    pub(crate) fn network_changed(&mut self, changes: &[Change], network: &Snapshot) {
        let mut concerned = Vec::new();
        for change in changes {
            // What the copies of this host look like is made of these.
            self.guards_stale |= matches!(
                change,
                Change::LinkAdded(_)
                    | Change::LinkRemoved(_)
                    | Change::LinkChanged { .. }
                    | Change::AddressAdded(_)
                    | Change::AddressRemoved(_)
            );
            match change {
                Change::LinkAdded(link) | Change::LinkRemoved(link) => {
                    concerned.extend(self.rules.using(&link.name))
                }
                Change::LinkChanged { old, new } => {
                    concerned.extend(self.rules.using(&old.name));
                    concerned.extend(self.rules.using(&new.name));
                }
                // An address may be what a refused output was waiting for.
                Change::AddressAdded(_) => concerned.extend(self.rules.refused()),
                _ => {}
            }
            self.events.network(change, network);
            self.recompile |=
                !matches!(change, Change::NeighbourChanged { .. } | Change::NeighbourRemoved(_));
        }
        self.kernel.note(changes);
        concerned.sort_unstable();
        concerned.dedup();
        concerned.into_iter().for_each(|id| self.refresh(id, network));
    }

    /// Tries again what the host refused.
    pub(crate) fn retry_refused(&mut self, network: &Snapshot) {
        for id in self.rules.refused() {
            self.refresh(id, network);
        }
    }

    /// Decides anew on data paths, and resolves next hops anew, if something they depend on has changed.
    pub(crate) fn follow_routes(&mut self, network: &Snapshot) {
        if std::mem::take(&mut self.recompile) {
            let depends = |choice| matches!(choice, DatapathChoice::Auto | DatapathChoice::Kernel);
            let rules: Vec<_> =
                self.rules.all().filter(|rule| depends(rule.spec.datapath)).map(|rule| rule.id).collect();
            rules.into_iter().for_each(|id| self.refresh(id, network));
        }
        self.kernel.follow_guards(&mut self.holds);
        self.kernel.refresh(network);
    }

    /// What is to be done for the kernel data path from time to time.
    pub(crate) fn tend_kernel(&mut self, network: &Snapshot) {
        let free = self.kernel.tick(network);
        for group in self.kernel.swallowing.take_stale() {
            let by_other_ways = |rule: &Rule| {
                let compiled = rule.compiled.as_ref();
                compiled.is_none_or(|compiled| compiled.datapath == Some(Datapath::Udp))
                    || self.kernel.carries(rule.slot)
                    || self.moves.has(rule.id)
            };
            let elsewhere = self.rules.with_input(group).any(by_other_ways);
            self.kernel.settle_swallowing(group, elsewhere, network);
        }
        self.recycle(free);
    }

    /// Brings the filters of a worker's packet sockets in line with its rules.
    pub(crate) fn refresh_filters(&mut self, worker: WorkerIndex) {
        for problem in self.workers[usize::from(worker.0)].sockets.refresh_filters() {
            warn!(worker = worker.0, "{problem}");
        }
    }

    /// Brings the filters of all workers' packet sockets in line with their rules.
    pub(crate) fn refresh_all_filters(&mut self) {
        (0..self.workers.len()).for_each(|index| self.refresh_filters(WorkerIndex(index as u16)));
    }

    /// Brings every worker nearer to what is desired.
    pub(crate) fn reconcile(&mut self) {
        self.refresh_all_filters();
        for worker in &mut self.workers {
            if let Err(problem) = worker.reconcile() {
                warn!(worker = worker.index.0, "cannot send the plan: {problem}");
            }
        }
    }

    /// Goes on looking for what dead workers took along, where another runs in their place.
    pub(crate) fn go_on_searching(&mut self) {
        for worker in self.workers.iter_mut().filter(|worker| worker.is_running()) {
            worker.sockets.go_on_searching(&worker.counters);
        }
    }

    /// Everyone's counters, by their places: the workers', then that of the kernel data path.
    pub(crate) fn segments(&self) -> impl Iterator<Item = &Segment> {
        self.workers.iter().map(|worker| &worker.counters).chain([&self.kernel.counters])
    }

    /// Brings the kernel's counts into the counters: those of drops, and those of its own data path.
    pub(crate) fn count_drops(&mut self) {
        self.kernel.count();
        for worker in &mut self.workers {
            worker.sockets.count_drops(&worker.counters);
        }
    }
}

pub(crate) fn not_found(rule: &RuleRef) -> Fault {
    let message = format!("no rule {rule}; `mcrctl list` shows those there are");
    Fault::new(FaultKind::NotFound, message).at("rule")
}

pub(crate) fn log_state(rule: &Rule, status: &Status) {
    let reason = status.reason.as_deref().unwrap_or("");
    match status.state {
        RuleState::Active | RuleState::Disabled => {
            info!(rule = %rule.name, input = %rule.spec.input, worker = rule.worker.0, "rule {}", status.state);
        }
        state => warn!(rule = %rule.name, input = %rule.spec.input, "rule {state}: {reason}"),
    }
    for (output, (state, reason)) in rule.spec.outputs.iter().zip(&status.outputs) {
        if *state != RuleState::Active && status.state == RuleState::Active {
            let reason = reason.as_deref().unwrap_or("");
            warn!(rule = %rule.name, %output, "output {state}: {reason}");
        }
    }
}
