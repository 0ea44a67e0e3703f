//! The daemon's reflectors: those that its configuration names, and those whose processes have yet to end.

use std::{collections::BTreeMap, io, time::Instant};

use mcr_netmon::Snapshot;
use mcr_proto::{
    message::{Fault, FaultKind, Ids, ReflectLatency, ReflectView, ReflectWorker, RuleState},
    reflect::{Hex, Reflect},
};
use mcr_reflect::{Count, FromReflector, Kind, Latency, Reason};
use tokio::sync::mpsc;
use tracing::{error, info};

use super::{
    config,
    entry::{Entry, Report, State, WorkerReport},
};
use crate::{child::ChildEvent, clock::monotonic_ns};

/// The most reflectors a daemon has: each is a process, or several.
const REFLECTORS_MAX: usize = 64;

/// Tells reflectors apart, also such that had one name one after the other.
pub(crate) type Id = u64;

/// All reflectors.
#[derive(Debug, Default)]
pub(crate) struct Reflectors {
    entries: BTreeMap<Id, Entry>,
    /// Removed; each is forgotten when its process has ended, and killed if that takes too long.
    leaving: BTreeMap<Id, (Entry, Instant)>,
    next: Id,
}

/// How long a process may take to stop before it is ended.
const STOP_WITHIN: std::time::Duration = std::time::Duration::from_millis(500);

impl Reflectors {
    /// Brings what there is in line with what is wanted. One that is changed begins when its predecessor has ended, so that
    /// nobody is answered twice.
    pub(crate) fn reconcile(&mut self, wanted: &[Reflect], ids: Option<Ids>, network: &Snapshot) {
        let gone: Vec<Id> = self
            .entries
            .iter()
            .filter(|(_, entry)| !wanted.contains(&entry.reflect))
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            if let Some(mut entry) = self.entries.remove(&id) {
                info!(reflector = %name(&entry.reflect), "reflector removed");
                entry.stop();
                if entry.is_running() {
                    self.leaving.insert(id, (entry, Instant::now()));
                }
            }
        }
        for reflect in wanted {
            let there = self.entries.values().any(|entry| entry.reflect == *reflect);
            let place = place_of(reflect);
            if there || self.leaving.values().any(|(entry, _)| place_of(&entry.reflect) == place) {
                continue;
            }
            match Entry::new(reflect.clone(), ids) {
                Ok(mut entry) => {
                    info!(reflector = %name(reflect), "reflector added");
                    entry.follow(network, false);
                    self.entries.insert(self.next, entry);
                    self.next += 1;
                }
                Err(problem) => error!(reflector = %name(reflect), "cannot count: {problem}"),
            }
        }
    }

    /// Follows what changed in the network.
    pub(crate) fn follow(&mut self, network: &Snapshot) {
        self.entries.values_mut().for_each(|entry| entry.follow(network, false));
    }

    /// Starts the processes that are due.
    pub(crate) fn start_due<E: 'static>(
        &mut self,
        events: &mpsc::Sender<E>,
        wrap: impl Fn(Id, usize, ChildEvent<FromReflector>) -> E + Copy + 'static,
    ) -> io::Result<()> {
        let now = Instant::now();
        for (id, entry) in &mut self.entries {
            let id = *id;
            entry.start_due(now, events, move |process, event| wrap(id, process, event))?;
        }
        Ok(())
    }

    /// When something is to be done that no event tells of.
    pub(crate) fn due(&self) -> Option<Instant> {
        let starts = self.entries.values().filter_map(Entry::due);
        let ends = self.leaving.values().map(|(_, since)| *since + STOP_WITHIN);
        starts.chain(ends).min()
    }

    /// Ends processes that are stuck or take too long to stop.
    pub(crate) fn look_after(&mut self, network: &Snapshot) {
        let (now, monotonic_ns) = (Instant::now(), monotonic_ns());
        for entry in self.entries.values_mut() {
            entry.look_after(now, monotonic_ns);
            // What the host refused is tried again.
            entry.follow(network, false);
        }
        for (entry, since) in self.leaving.values_mut() {
            if now.duration_since(*since) >= STOP_WITHIN {
                entry.kill();
                *since = now;
            }
        }
    }

    pub(crate) fn note(&mut self, id: Id, process: usize, event: ChildEvent<FromReflector>) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.note(process, event);
        } else if let Some((entry, _)) = self.leaving.get_mut(&id) {
            entry.end_with(process, event);
            if !entry.is_running() {
                self.leaving.remove(&id);
            }
        }
    }

    /// Has all processes stop; how many run.
    pub(crate) fn stop(&mut self) -> usize {
        self.entries.values_mut().for_each(Entry::stop);
        let leaving = self.leaving.values().map(|(entry, _)| entry);
        self.entries.values().chain(leaving).map(Entry::running).sum()
    }

    pub(crate) fn kill(&self) {
        let leaving = self.leaving.values().map(|(entry, _)| entry);
        self.entries.values().chain(leaving).for_each(Entry::kill);
    }

    /// Whether a reflector of this name is what it will be for now: it reflects, or it is known why not.
    pub(crate) fn is_settled(&self, wanted: &str) -> bool {
        let found = self.entries.values().find(|entry| name(&entry.reflect) == wanted);
        found.is_some_and(|entry| entry.state() != State::Starting)
    }

    /// Reflectors as clients see them, all or one.
    pub(crate) fn views(&self, wanted: Option<&str>) -> Vec<ReflectView> {
        let entries =
            self.entries.values().filter(|entry| wanted.is_none_or(|wanted| name(&entry.reflect) == wanted));
        entries.map(|entry| view(&entry.report(), entry.pid(), entry.restarts())).collect()
    }
}

/// The name that a reflector has, or is given.
pub(crate) fn name(reflect: &Reflect) -> String {
    match &reflect.name {
        Some(name) => name.to_string(),
        None => format!("{}-{}", reflect.interface, reflect.port),
    }
}

/// Two reflectors cannot have one of these.
fn place_of(reflect: &Reflect) -> (mcr_proto::endpoint::IfName, u16) {
    (reflect.interface, reflect.port)
}

/// Adds a reflector to those wanted; false if the same is there already.
pub(crate) fn add(wanted: &mut Vec<Reflect>, reflect: Reflect) -> Result<bool, Fault> {
    if wanted.contains(&reflect) {
        return Ok(false);
    }
    reflect.check().map_err(|error| Fault::new(FaultKind::Invalid, error.to_string()).at(error.key()))?;
    config::check(&reflect).map_err(|fault| Fault::new(FaultKind::Invalid, fault.to_string()))?;
    let new = name(&reflect);
    if wanted.iter().any(|other| name(other) == new) {
        let message = format!("a reflector named {new} exists already, with other options; remove it first");
        return Err(Fault::new(FaultKind::Exists, message).at("name"));
    }
    if let Some(other) = wanted.iter().find(|other| place_of(other) == place_of(&reflect)) {
        let (interface, port) = place_of(other);
        let message =
            format!("reflector {} has port {port} of {interface} already; choose another", name(other));
        return Err(Fault::new(FaultKind::Exists, message).at("port"));
    }
    if wanted.len() >= REFLECTORS_MAX {
        return Err(Fault::new(FaultKind::Limit, format!("{REFLECTORS_MAX} reflectors are the limit")));
    }
    wanted.push(reflect);
    Ok(true)
}

/// Takes a reflector from those wanted.
pub(crate) fn remove(wanted: &mut Vec<Reflect>, gone: &str) -> Result<(), Fault> {
    match wanted.iter().position(|reflect| name(reflect) == gone) {
        Some(at) => {
            wanted.remove(at);
            Ok(())
        }
        None => Err(not_found(gone)),
    }
}

pub(crate) fn not_found(name: &str) -> Fault {
    let message = format!("no reflector {name}; `mcrctl reflect list` shows those there are");
    Fault::new(FaultKind::NotFound, message).at("name")
}

fn view(report: &Report, pid: Option<u32>, restarts: u32) -> ReflectView {
    let (state, reason) = match &report.state {
        State::Unresolved => (RuleState::Unresolved, Some("the interface does not exist".into())),
        State::Paused => (RuleState::Paused, Some("the interface is down".into())),
        State::Starting => (RuleState::Paused, Some("it is being started".into())),
        State::Active => (RuleState::Active, None),
        State::Failed(why) => (RuleState::Failed, Some(why.clone())),
    };
    let counters = &report.counters;
    ReflectView {
        name: name(&report.reflect),
        interface: report.reflect.interface,
        port: report.reflect.port,
        mode: report.reflect.mode,
        state,
        reason,
        platform: report.platform.map(Into::into),
        pid,
        restarts,
        // Whoever may read sees this; the key is for those who may change.
        options: Reflect { stamp_key: Hex::default(), ..report.reflect.clone() },
        counters: Count::ALL.iter().map(|count| (count.name().into(), counters.count(*count))).collect(),
        rejected: Reason::ALL.iter().map(|reason| (reason.name().into(), counters.reason(*reason))).collect(),
        signatures: Kind::ALL.iter().map(|kind| (kind.name().into(), counters.kind(*kind))).collect(),
        latency: latency(&report.latency),
        fault: report.fault.clone(),
        workers: report.workers.iter().map(worker).collect(),
    }
}

fn worker(report: &WorkerReport) -> ReflectWorker {
    let WorkerReport { queues, pid, ready, restarts, received, reflected } = report.clone();
    ReflectWorker { queues: queues.collect(), pid, ready, restarts, received, reflected }
}

fn latency(latency: &Latency) -> Option<ReflectLatency> {
    (latency.count > 0).then(|| ReflectLatency {
        count: latency.count,
        min_ns: latency.min_ns,
        mean_ns: latency.mean_ns(),
        p50_ns: latency.quantile_ns(0.5),
        p90_ns: latency.quantile_ns(0.9),
        p99_ns: latency.quantile_ns(0.99),
        p999_ns: latency.quantile_ns(0.999),
        max_ns: latency.max_ns,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reflect(interface: &str, name: Option<&str>) -> Reflect {
        let mut reflect = Reflect::new(interface.parse().expect("a name"));
        reflect.name = name.map(|name| name.parse().expect("a name"));
        reflect
    }

    #[test]
    fn a_reflector_is_added_once_and_what_contradicts_another_is_refused() {
        let mut wanted = Vec::new();
        assert_eq!(add(&mut wanted, reflect("eth0", None)), Ok(true));
        assert_eq!(add(&mut wanted, reflect("eth0", None)), Ok(false));
        let kind = |fault: Result<bool, Fault>| fault.expect_err("refused").kind;
        assert_eq!(kind(add(&mut wanted, reflect("eth0", Some("other")))), FaultKind::Exists);
        let mut same_name = reflect("eth1", Some("eth0-3842"));
        assert_eq!(kind(add(&mut wanted, same_name.clone())), FaultKind::Exists);
        same_name.oam_level = 9;
        same_name.name = None;
        assert_eq!(kind(add(&mut wanted, same_name)), FaultKind::Invalid);
        assert_eq!(remove(&mut wanted, "nobody").expect_err("refused").kind, FaultKind::NotFound);
        assert_eq!(remove(&mut wanted, "eth0-3842"), Ok(()));
        assert!(wanted.is_empty());
    }
}
