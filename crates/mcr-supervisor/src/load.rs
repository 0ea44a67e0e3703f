//! Loading a configuration: gathered from its parts, checked as a whole, then carried out by difference.
//!
//! Control has parsed it; nothing here trusts that. Until the last check has passed the running configuration is untouched.
//! Rules that are the same before and after are not touched at all; a changed rule keeps its id, its worker and, where its input
//! stays, its receiving socket, so that no datagram is missed in between. Its counters begin anew: what was relayed to other
//! outputs was relayed by another rule.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

use mcr_metrics::{OUTPUT_SLOTS, RULE_SLOTS};
use mcr_netmon::Snapshot;
use mcr_proto::{
    config::{Config, RuleChange, diff, to_toml},
    message::{EventWhat, Fault, FaultKind, LoadId, LoadReport, LoadStep, RuleRef, Settings},
    plan::{Generation, OutputSlot, RuleSlot, WorkerIndex},
    rule::{RuleId, RuleSpec},
};
use tracing::info;

use crate::{acquire::leave, classes, loops, refresh::Before, rules::place, state::State, worker::Retired};

/// Loads under way at a time.
const LOADS_MAX: usize = 8;
/// A load that gets no further for so long is forgotten: its client is gone.
const IDLE_MAX: Duration = Duration::from_secs(10);

/// Loads under way.
#[derive(Debug, Default)]
pub(crate) struct Loads(HashMap<LoadId, Load>);

/// A configuration that is complete, or not yet.
#[derive(Debug)]
pub(crate) struct Load {
    replace: bool,
    settings: Settings,
    rules: Vec<RuleSpec>,
    touched: Instant,
}

impl Loads {
    /// Takes a step; gives the load when it is complete.
    pub(crate) fn step(&mut self, load: LoadId, step: LoadStep, now: Instant) -> Result<Option<Load>, Fault> {
        self.0.retain(|_, load| now.duration_since(load.touched) < IDLE_MAX);
        let unknown = || {
            Fault::new(FaultKind::Internal, "the load was begun too long ago, or never; load the file again")
        };
        match step {
            LoadStep::Begin { replace, settings } => {
                if self.0.len() >= LOADS_MAX {
                    let message = format!("{LOADS_MAX} loads are under way, which is the limit; try again");
                    return Err(Fault::new(FaultKind::Busy, message));
                }
                self.0.insert(load, Load { replace, settings, rules: Vec::new(), touched: now });
                Ok(None)
            }
            LoadStep::Part { rules } => {
                let begun = self.0.get_mut(&load).ok_or_else(unknown)?;
                if begun.rules.len() + rules.len() > RULE_SLOTS {
                    self.0.remove(&load);
                    return Err(Fault::new(
                        FaultKind::Limit,
                        format!("more rules than {RULE_SLOTS}, the limit"),
                    ));
                }
                begun.rules.extend(rules);
                begun.touched = now;
                Ok(None)
            }
            LoadStep::Commit => self.0.remove(&load).map(Some).ok_or_else(unknown),
            LoadStep::Abort => {
                self.0.remove(&load);
                Ok(None)
            }
        }
    }

    /// Control is gone, and whoever was loading with it.
    pub(crate) fn forget(&mut self) {
        self.0.clear();
    }
}

/// What a load comes to.
#[derive(Debug)]
struct Steps {
    adds: Vec<RuleSpec>,
    changes: Vec<(RuleId, RuleSpec)>,
    removes: Vec<RuleId>,
    unchanged: usize,
}

/// A load carried out: what was done, and the plans that have it.
pub(crate) type Loaded = (LoadReport, Vec<(WorkerIndex, Generation)>);

impl State {
    /// Makes a configuration the running one: all of it, or nothing.
    pub(crate) fn load(&mut self, load: Load, network: &Snapshot) -> Result<Loaded, Fault> {
        let Load { replace, settings, rules, .. } = load;
        check(&rules)?;
        let mut after = settings.clone();
        if !replace {
            after = self.settings.clone();
            after.merge(settings.clone());
        }
        rules.iter().try_for_each(|spec| classes::check(spec, &after.classes))?;
        self.check_loops(&rules, replace)?;
        let steps = self.steps(rules, replace);
        self.check_room(&steps)?;

        let before: Vec<_> = self.workers.iter().map(|worker| worker.desired).collect();
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let mut report = LoadReport {
            added: count(steps.adds.len()),
            changed: count(steps.changes.len()),
            removed: count(steps.removes.len()),
            unchanged: count(steps.unchanged),
            notes: notes(&self.settings, &after),
        };
        // Classes before the rules that have them.
        let changing = steps.changes.iter().map(|(id, spec)| (*id, Some(spec)));
        let changing = changing.chain(steps.removes.iter().map(|id| (*id, None))).collect();
        self.set_settings(after, &changing, network);
        // First what is new, then what goes: sockets and memberships that both need stay.
        for (id, spec) in steps.changes {
            self.change(id, spec, network)?;
        }
        for spec in steps.adds {
            if !self.add_checked(spec, network)?.1 {
                (report.added, report.unchanged) = (report.added - 1, report.unchanged + 1);
            }
        }
        for id in steps.removes {
            self.remove(&RuleRef::Id(id))?;
        }
        let LoadReport { added, changed, removed, unchanged, .. } = report;
        info!(added, changed, removed, unchanged, "configuration loaded");
        let concerned = self.workers.iter().zip(before).filter(|(worker, before)| worker.desired > *before);
        Ok((report, concerned.map(|(worker, _)| (worker.index, worker.desired)).collect()))
    }

    fn steps(&self, wanted: Vec<RuleSpec>, replace: bool) -> Steps {
        let (ids, known): (Vec<_>, Vec<_>) = self.rules.all().map(|rule| (rule.id, &rule.spec)).unzip();
        let changes = diff(&known, &wanted.iter().collect::<Vec<_>>());
        let mut wanted: Vec<_> = wanted.into_iter().map(Some).collect();
        let mut steps = Steps { adds: Vec::new(), changes: Vec::new(), removes: Vec::new(), unchanged: 0 };
        for change in changes {
            match change {
                RuleChange::Same { .. } => steps.unchanged += 1,
                RuleChange::Changed { old, new } => {
                    steps.changes.extend(wanted[new].take().map(|spec| (ids[old], spec)));
                }
                RuleChange::Added { new } => steps.adds.extend(wanted[new].take()),
                RuleChange::Removed { old } if replace => steps.removes.push(ids[old]),
                RuleChange::Removed { .. } => steps.unchanged += 1,
            }
        }
        steps
    }

    /// Whether no rule would feed itself by others, as they will be.
    fn check_loops(&self, wanted: &[RuleSpec], replace: bool) -> Result<(), Fault> {
        let names: HashSet<_> = wanted.iter().filter_map(|spec| spec.name.as_ref()).collect();
        let kept =
            self.rules.all().filter(|rule| !replace && !names.contains(&rule.name)).map(|rule| &rule.spec);
        let mut by_input: HashMap<SocketAddr, Vec<&RuleSpec>> = HashMap::new();
        for spec in kept.chain(wanted) {
            by_input.entry(spec.input.socket_addr()).or_default().push(spec);
        }
        let with_input = |input| by_input.get(&input).cloned().unwrap_or_default();
        wanted
            .iter()
            .find_map(|spec| spec.way_back(with_input))
            .map_or(Ok(()), |way| Err(loops::refused(&way)))
    }

    /// Whether there is room for everything that is new; what goes gives its room back only when the workers have let go.
    fn check_room(&self, steps: &Steps) -> Result<(), Fault> {
        let new = || steps.adds.iter().chain(steps.changes.iter().map(|(_, spec)| spec));
        let outputs = new().map(|spec| spec.outputs.len()).sum::<usize>();
        let (rules_free, outputs_free) = self.room();
        let refuse = |what, count, free, max| {
            let message = format!(
                "no room: {count} {what} are new or changed, and of {max} there is room for {free} more until those that \
                 go are gone; load it in two steps"
            );
            Err(Fault::new(FaultKind::Limit, message))
        };
        if new().count() > rules_free {
            return refuse("rules", new().count(), rules_free, RULE_SLOTS);
        }
        if outputs > outputs_free {
            return refuse("outputs", outputs, outputs_free, OUTPUT_SLOTS);
        }
        Ok(())
    }

    /// Makes a rule another one under the same id and name.
    fn change(&mut self, id: RuleId, spec: RuleSpec, network: &Snapshot) -> Result<(), Fault> {
        let Some(rule) = self.rules.get(id) else { return Ok(()) };
        let only_switched = RuleSpec { enabled: spec.enabled, ..rule.spec.clone() }.is_like(&spec);
        if only_switched {
            return self.enable(&RuleRef::Id(id), spec.enabled, network).map(drop);
        }
        self.finish_leaving(id);
        self.end_move(id);
        let Some((slot, output_slots)) = self.take_slots(spec.outputs.len()) else {
            return Err(Fault::new(FaultKind::Limit, "no room for the counters of a changed rule"));
        };
        let Some(mut rule) = self.rules.remove(id) else { return Ok(()) };
        let (old_slot, old_worker) = (rule.slot, rule.worker);
        let same_input = rule.spec.input == spec.input;
        let same_place = place(&rule.spec, self.workers.len()) == place(&spec, self.workers.len());
        if !same_place {
            rule.home = place(&spec, self.workers.len());
            rule.worker = self.carrier(rule.home);
        }
        let retired =
            Retired { rule: old_slot, outputs: std::mem::replace(&mut rule.output_slots, output_slots) };
        let old = std::mem::take(&mut rule.acquired);
        rule.slot = RuleSlot(slot);
        rule.compiled = None;
        rule.spec = RuleSpec { name: Some(rule.name.clone()), ..spec };
        // The same datagrams by the same worker: none of them is missed or taken twice, whichever way they go then.
        let stays = same_input && rule.worker == old_worker;
        let mut receivers = old.receivers.clone();
        receivers.retain(|_| stays);
        let sockets = &mut self.workers[usize::from(old_worker.0)].sockets;
        for key in &receivers {
            // The filter goes on letting its datagrams through; the worker changes from the old route to the new between two.
            sockets.share_receiver(key, old_slot, rule.slot);
        }
        info!(rule = %rule.name, "rule changed");
        self.events.rule(&rule, EventWhat::Changed, None);
        if same_input {
            self.kernel.succeed(old_slot, rule.slot);
        }
        let slot = rule.slot;
        self.rules.insert(rule);
        let (before, left) = match stays {
            true => (Some(Before { slot: old_slot, acquired: old, retired }), None),
            false => (None, Some((old, retired))),
        };
        self.refresh_from(id, before, network);

        let kept = self.rules.get(id).map(|rule| rule.acquired.receivers.clone()).unwrap_or_default();
        let worker = &mut self.workers[usize::from(old_worker.0)];
        for key in receivers.into_iter().filter(|key| !kept.contains(key)) {
            let alive = worker.is_running();
            worker.sockets.release_receiver(&key, slot, &worker.counters, alive);
        }
        if let Some((old, retired)) = left {
            leave(old_slot, old, worker, &mut self.holds, &mut self.kernel);
            worker.retire(retired);
        }
        Ok(())
    }

    fn take_slots(&mut self, outputs: usize) -> Option<(u32, Vec<OutputSlot>)> {
        let (rules_free, outputs_free) = self.room();
        if rules_free == 0 || outputs_free < outputs {
            return None;
        }
        let slot = self.rule_slots.take()?;
        Some((slot, (0..outputs).filter_map(|_| self.output_slots.take()).map(OutputSlot).collect()))
    }

    /// How many more rules and outputs can be counted.
    fn room(&self) -> (usize, usize) {
        (self.rule_slots.available(), self.output_slots.available())
    }

    /// The running configuration as a file says it, and how many rules it has.
    pub(crate) fn to_toml(&self) -> Result<(String, usize), Fault> {
        let rules: Vec<_> = self.rules.all().map(|rule| rule.spec.clone()).collect();
        let classes: HashSet<_> = self.settings.classes.iter().map(|class| class.name.as_str()).collect();
        for rule in &rules {
            // It would be a file that no daemon starts with.
            if let (Some(name), Some(class)) = (&rule.name, &rule.class)
                && !classes.contains(class.as_str())
            {
                let message = format!(
                    "rule {name} has class {class}, which no [[class]] defines; load a configuration that does, or change the rule"
                );
                return Err(Fault::new(FaultKind::Invalid, message).at("class"));
            }
        }
        let count = rules.len();
        let config: Config = self.settings.clone().join(rules);
        Ok((to_toml(&config), count))
    }
}

/// Whether every rule can be, and no two have one name.
fn check(rules: &[RuleSpec]) -> Result<(), Fault> {
    let mut names = HashSet::new();
    for (index, spec) in rules.iter().enumerate() {
        let who = || match &spec.name {
            Some(name) => format!("rule {name}"),
            None => format!("rule[{index}]"),
        };
        if let Err(error) = spec.check() {
            let field = format!("rule[{index}].{}", error.field());
            return Err(Fault::new(FaultKind::Invalid, format!("{}: {error}", who())).at(field));
        }
        if spec.name.as_ref().is_some_and(|name| !names.insert(name)) {
            let message = format!("{}: another rule of the same file has this name", who());
            return Err(Fault::new(FaultKind::Invalid, message).at(format!("rule[{index}].name")));
        }
    }
    Ok(())
}

/// What of a load takes no effect yet.
fn notes(running: &Settings, after: &Settings) -> Vec<String> {
    let mut notes = Vec::new();
    if after.workers != running.workers {
        notes.push("workers: takes effect when mcrd is started again".to_owned());
    }
    if after.allow_read != running.allow_read {
        notes.push("others_may_read: takes effect when mcrd is started again".to_owned());
    }
    if after.http != running.http {
        notes.push("http: takes effect when mcrd is started again".to_owned());
    }
    notes
}

#[cfg(test)]
#[path = "load/tests.rs"]
mod tests;
