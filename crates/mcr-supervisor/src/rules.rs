//! The rules: what the user wants, and what has become of each.

mod sets;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
    ops::Bound,
};

use mcr_proto::{
    endpoint::{IfName, Output},
    message::{OutputView, RuleRef, RuleState, RuleView},
    plan::{Generation, OutputSlot, RuleSlot, WorkerIndex},
    rule::{RuleId, RuleName, RuleSpec},
};
use mcr_relay::compile::{Compiled, Hold, ReceiverKey, SenderKey};

pub(crate) use self::sets::RuleMut;
use self::sets::Sets;

/// A rule and everything that was acquired for it.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) id: RuleId,
    pub(crate) name: RuleName,
    /// With its name, also where the user gave none.
    pub(crate) spec: RuleSpec,
    pub(crate) slot: RuleSlot,
    pub(crate) output_slots: Vec<OutputSlot>,
    /// The worker that carries it.
    pub(crate) worker: WorkerIndex,
    /// The worker it belongs to: carried by another only while this one is not well.
    pub(crate) home: WorkerIndex,
    /// What it still has at the worker that carried it before, until the new one has taken over.
    pub(crate) leaving: Option<(WorkerIndex, Acquired)>,
    /// What the compiler said last; none before the first time, and when it must be carried out anew.
    pub(crate) compiled: Option<Compiled>,
    pub(crate) acquired: Acquired,
    pub(crate) status: Status,
    /// The plan of its worker that has it as it is now.
    pub(crate) generation: Generation,
}

/// What a rule holds, to be given back.
#[derive(Debug, Default)]
pub(crate) struct Acquired {
    pub(crate) receivers: Vec<ReceiverKey>,
    pub(crate) hold: Option<Hold>,
    pub(crate) senders: Vec<SenderKey>,
    /// The kernel data path relays it.
    pub(crate) kernel: bool,
}

/// The state of a rule as it turned out: as compiled, unless the host refused something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) state: RuleState,
    pub(crate) reason: Option<String>,
    pub(crate) outputs: Vec<(RuleState, Option<String>)>,
}

impl Status {
    /// Why it is not as good as it could be: the rule's own reason, or that of the first output that does not send.
    pub(crate) fn why(&self, spec: &RuleSpec) -> Option<String> {
        let of_outputs = || {
            let mut outputs = spec.outputs.iter().zip(&self.outputs);
            let (output, reason) =
                outputs.find_map(|(output, (_, reason))| Some((output, reason.as_ref()?)))?;
            Some(format!("output {output}: {reason}"))
        };
        self.reason.clone().or_else(of_outputs)
    }

    /// Whether the host refused something that it may grant later.
    pub(crate) fn refused(&self) -> bool {
        self.state == RuleState::Failed || self.outputs.iter().any(|(state, _)| *state == RuleState::Failed)
    }
}

impl Rule {
    pub(crate) fn view(&self) -> RuleView {
        let outputs = self.spec.outputs.iter().zip(&self.output_slots).zip(&self.status.outputs);
        let outputs = outputs.map(|((output, slot), (state, reason))| OutputView {
            slot: *slot,
            output: output.clone(),
            state: *state,
            reason: reason.clone(),
        });
        RuleView {
            id: self.id,
            spec: self.spec.clone(),
            state: self.status.state,
            reason: self.status.reason.clone(),
            worker: self.worker,
            datapath: self.compiled.as_ref().and_then(|compiled| compiled.datapath),
            datapath_reason: self
                .compiled
                .as_ref()
                .map_or_else(String::new, |compiled| compiled.datapath_reason.clone()),
            swallowed: false,
            slot: self.slot,
            outputs: outputs.collect(),
        }
    }

    fn interfaces(&self) -> impl Iterator<Item = &IfName> {
        let outputs = self.spec.outputs.iter().filter_map(|output| output.interface.as_ref());
        outputs.chain([&self.spec.input.interface])
    }
}

/// All rules, found by id, name, input and interface, and by what is still to be done about them: nothing that happens to one
/// rule looks at all of them.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    by_id: BTreeMap<RuleId, Rule>,
    by_name: HashMap<RuleName, RuleId>,
    by_input: HashMap<SocketAddr, BTreeSet<RuleId>>,
    by_output: HashMap<SocketAddr, BTreeSet<RuleId>>,
    /// Destinations of rules that came or went.
    touched: BTreeSet<SocketAddr>,
    by_interface: HashMap<IfName, BTreeSet<RuleId>>,
    sets: Sets,
    last_id: u64,
}

impl Rules {
    /// An id that no rule had before.
    pub(crate) fn fresh_id(&mut self) -> RuleId {
        self.last_id += 1;
        RuleId(self.last_id)
    }

    pub(crate) fn insert(&mut self, rule: Rule) {
        self.by_name.insert(rule.name.clone(), rule.id);
        for interface in rule.interfaces() {
            self.by_interface.entry(*interface).or_default().insert(rule.id);
        }
        self.by_input.entry(rule.spec.input.socket_addr()).or_default().insert(rule.id);
        for output in &rule.spec.outputs {
            self.by_output.entry(output.socket_addr()).or_default().insert(rule.id);
        }
        self.touch(&rule.spec);
        self.sets.insert(&rule);
        self.by_id.insert(rule.id, rule);
    }

    pub(crate) fn remove(&mut self, id: RuleId) -> Option<Rule> {
        let rule = self.by_id.remove(&id)?;
        self.by_name.remove(&rule.name);
        for interface in rule.interfaces() {
            sets::take(&mut self.by_interface, interface, id);
        }
        self.touch(&rule.spec);
        sets::take(&mut self.by_input, &rule.spec.input.socket_addr(), id);
        for output in &rule.spec.outputs {
            sets::take(&mut self.by_output, &output.socket_addr(), id);
        }
        self.sets.remove(&rule);
        Some(rule)
    }

    pub(crate) fn find(&self, rule: &RuleRef) -> Option<&Rule> {
        match rule {
            RuleRef::Id(id) => self.by_id.get(id),
            RuleRef::Name(name) => self.named(name),
        }
    }

    pub(crate) fn named(&self, name: &RuleName) -> Option<&Rule> {
        self.by_name.get(name).and_then(|id| self.by_id.get(id))
    }

    pub(crate) fn get(&self, id: RuleId) -> Option<&Rule> {
        self.by_id.get(&id)
    }

    /// For a change of anything but name, input and interfaces, by which it is found.
    pub(crate) fn get_mut(&mut self, id: RuleId) -> Option<RuleMut<'_>> {
        let Self { by_id, sets, .. } = self;
        by_id.get_mut(&id).map(|rule| RuleMut::new(rule, sets))
    }

    /// Those that take in what is sent there, by whatever interface and source.
    pub(crate) fn with_input(&self, destination: SocketAddr) -> impl Iterator<Item = &Rule> {
        self.by_input.get(&destination).into_iter().flatten().filter_map(|id| self.by_id.get(id))
    }

    /// The outputs of rules to a destination.
    pub(crate) fn sending_to(&self, destination: SocketAddr) -> impl Iterator<Item = &Output> {
        let rules = self.by_output.get(&destination).into_iter().flatten();
        let outputs = rules.filter_map(|id| self.by_id.get(id)).flat_map(|rule| &rule.spec.outputs);
        outputs.filter(move |output| output.socket_addr() == destination)
    }

    /// The inputs of rules that those with this input send to.
    pub(crate) fn led_to(&self, input: SocketAddr) -> Vec<SocketAddr> {
        let outputs = self.with_input(input).flat_map(|rule| &rule.spec.outputs).map(Output::socket_addr);
        outputs.filter(|destination| self.by_input.contains_key(destination)).collect()
    }

    /// Destinations that may lead elsewhere, or be led to from elsewhere, than when they were last taken.
    pub(crate) fn take_touched(&mut self) -> BTreeSet<SocketAddr> {
        std::mem::take(&mut self.touched)
    }

    /// Notes what a rule leads to or from, as far as that can be part of a circle: other than most, where nothing takes in what it
    /// sends.
    fn touch(&mut self, spec: &RuleSpec) {
        let Self { by_input, by_output, touched, .. } = self;
        let outputs = spec.outputs.iter().map(Output::socket_addr);
        let inner = outputs.chain([spec.input.socket_addr()]);
        touched.extend(inner.filter(|at| by_input.contains_key(at) && by_output.contains_key(at)));
    }

    /// In order of id, those behind `after`.
    pub(crate) fn after(&self, after: Option<RuleId>) -> impl Iterator<Item = &Rule> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.by_id.range((start, Bound::Unbounded)).map(|(_, rule)| rule)
    }

    /// Those that name an interface as input or output.
    pub(crate) fn using(&self, interface: &str) -> Vec<RuleId> {
        let Ok(name) = interface.parse::<IfName>() else { return Vec::new() };
        self.by_interface.get(&name).map(|rules| rules.iter().copied().collect()).unwrap_or_default()
    }

    pub(crate) fn count(&self) -> usize {
        self.by_id.len()
    }

    /// Those that a worker carries.
    pub(crate) fn carried_by(&self, worker: WorkerIndex) -> Vec<RuleId> {
        sets::list(self.sets.carried.get(&worker))
    }

    /// Those that belong to a worker and are carried by another.
    pub(crate) fn away_from(&self, worker: WorkerIndex) -> Vec<RuleId> {
        sets::list(self.sets.away.get(&worker))
    }

    /// Whether there are any.
    pub(crate) fn are_away_from(&self, worker: WorkerIndex) -> bool {
        self.sets.away.contains_key(&worker)
    }

    /// Those that a worker carries and another has not let go of yet.
    pub(crate) fn arriving_at(&self, worker: WorkerIndex) -> impl Iterator<Item = &Rule> {
        self.sets.arriving.get(&worker).into_iter().flatten().filter_map(|id| self.by_id.get(id))
    }

    /// All of them.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Rule> {
        self.by_id.values()
    }

    /// Those where the host refused something.
    pub(crate) fn refused(&self) -> Vec<RuleId> {
        sets::list(Some(&self.sets.refused))
    }

    /// Whether there are any.
    pub(crate) fn has_refused(&self) -> bool {
        !self.sets.refused.is_empty()
    }
}

/// The worker that carries an input: the same for the same input, whatever else there is.
///
/// The source is left out, so that rules for one group share a worker whether they name sources or not.
pub(crate) fn place(spec: &RuleSpec, workers: usize) -> WorkerIndex {
    let key = format!("{}@{}", spec.input.socket_addr(), spec.input.interface);
    // FNV-1a, 64 bits: stable over versions and hosts, which the standard library's hashers do not promise.
    let hash = key.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    WorkerIndex((hash % workers.max(1) as u64) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_always_has_the_same_worker_and_inputs_are_spread() {
        let rule = |text: String| {
            RuleSpec::new(text.parse().expect("an input"), vec!["10.0.0.1:1".parse().expect("an output")])
        };
        let places: Vec<_> = (1..=100).map(|n| place(&rule(format!("239.1.1.{n}:5000@eth0")), 2)).collect();
        let again: Vec<_> =
            (1..=100).map(|n| place(&rule(format!("10.0.0.9>239.1.1.{n}:5000@eth0")), 2)).collect();
        assert_eq!(places, again);
        let first = places.iter().filter(|place| place.0 == 0).count();
        assert!((30..=70).contains(&first), "{first} of 100");
    }
}
