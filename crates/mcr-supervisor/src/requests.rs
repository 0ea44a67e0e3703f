//! What control asks for, and the answers: at once where nothing is to be done by a worker, else when the worker has done it.

use std::time::{Duration, Instant};

use mcr_netmon::Snapshot;
use mcr_proto::{
    message::{Fault, FaultKind, LoadReport, Reply, Request, RuleState, WorkerState, WorkerView},
    plan::{Generation, WorkerIndex},
    rule::RuleId,
};
use serde::Serialize;

use crate::{network, state::State, state::not_found};

/// How much of a list one message carries, so that a rule of 1,024 outputs still fits behind the others.
const PAGE_BYTES_MAX: usize = 64 * 1024;

/// How long a worker may take before the client is told that it is busy.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// What became of a request.
pub(crate) enum Outcome {
    /// The answer.
    Now(Result<Reply, Fault>),
    /// The answer comes when these workers have these generations.
    When { needs: Vec<(WorkerIndex, Generation)>, then: Then },
}

/// What to answer once the worker has it.
#[derive(Debug)]
pub(crate) enum Then {
    Added { rule: RuleId, created: bool },
    Show { rule: RuleId },
    Loaded(LoadReport),
    Done,
}

/// An answer that waits for a worker.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) seq: u64,
    pub(crate) needs: Vec<(WorkerIndex, Generation)>,
    pub(crate) then: Then,
    pub(crate) until: Instant,
    /// What follows from the change, too, is among the needs.
    pub(crate) is_settled: bool,
}

impl Waiting {
    /// Waits for what followed from the change as well: a rule that closes a circle, say, changes its data path at once.
    pub(crate) fn settle(&mut self, state: &State) {
        if std::mem::replace(&mut self.is_settled, true) {
            return;
        }
        for (worker, generation) in &mut self.needs {
            *generation = (*generation).max(state.workers[usize::from(worker.0)].desired);
        }
    }

    /// The answer, once it is due.
    pub(crate) fn answer(&self, state: &State, now: Instant) -> Option<Result<Reply, Fault>> {
        if now < self.until && state.moves.are_pending(&self.needs, &state.workers, now) {
            return None;
        }
        let in_kernel = match self.then {
            Then::Added { rule, .. } | Then::Show { rule } => {
                state.rules.get(rule).is_some_and(|rule| rule.acquired.kernel)
            }
            Then::Loaded(_) | Then::Done => false,
        };
        // What is in the kernel needs no worker.
        let lacks = |need: &&(WorkerIndex, Generation)| {
            !in_kernel && !state.workers[usize::from(need.0.0)].has_applied(need.1)
        };
        let Some((worker, _)) = self.needs.iter().find(lacks) else {
            return Some(self.then.reply(state));
        };
        (now >= self.until).then(|| {
            let message = format!(
                "worker {} busy: the change is kept and takes effect when the worker answers; `mcrctl workers` shows its state",
                worker
            );
            Err(Fault::new(FaultKind::Busy, message))
        })
    }
}

impl Then {
    fn reply(&self, state: &State) -> Result<Reply, Fault> {
        match self {
            Self::Done => Ok(Reply::Done),
            Self::Loaded(report) => Ok(Reply::Loaded(report.clone())),
            Self::Added { rule: id, created } => match state.rules.get(*id) {
                Some(rule) => Ok(Reply::Added { rule: Box::new(state.view(rule)), created: *created }),
                None => Err(removed_meanwhile()),
            },
            Self::Show { rule: id } => match state.rules.get(*id) {
                Some(rule) => Ok(Reply::Rule(Box::new(state.view(rule)))),
                None => Err(removed_meanwhile()),
            },
        }
    }
}

fn removed_meanwhile() -> Fault {
    Fault::new(FaultKind::NotFound, "the rule was removed before the worker had answered")
}

/// Carries out one request.
pub(crate) fn handle(request: Request, state: &mut State, network: &Snapshot) -> Outcome {
    let reply = match request {
        Request::RuleAdd(spec) => return add(*spec, state, network),
        Request::RuleRemove(rule) => {
            return match state.remove(&rule) {
                // A worker that is not there relays nothing; there is nothing to wait for.
                Ok((worker, _)) if !state.workers[usize::from(worker.0)].is_running() => {
                    Outcome::Now(Ok(Reply::Done))
                }
                Ok(need) => Outcome::When { needs: vec![need], then: Then::Done },
                Err(fault) => Outcome::Now(Err(fault)),
            };
        }
        Request::RuleMove { rule, worker } => return changed(state.move_rule(&rule, worker, network)),
        Request::RuleEnable { rule, enabled } => return changed(state.enable(&rule, enabled, network)),
        Request::RuleShow(rule) => {
            let found = state.rules.find(&rule).ok_or_else(|| not_found(&rule));
            found.map(|rule| Reply::Rule(Box::new(state.view(rule))))
        }
        Request::RuleList { after } => {
            let (rules, more) = page(state.rules.after(after).map(|rule| state.view(rule)));
            Ok(Reply::Rules { rules, more })
        }
        Request::WorkerList => Ok(Reply::Workers(workers(state))),
        Request::InterfaceList { after } => {
            let rules = |name: &str| u32::try_from(state.rules.using(name).len()).unwrap_or(u32::MAX);
            let (interfaces, more) = page(network::views(network, after, rules));
            Ok(Reply::Interfaces { interfaces, more })
        }
        Request::InputList { after } => {
            // Whoever lists inputs is about to read their counters.
            state.count_drops();
            let open = |worker: WorkerIndex, slot| match state.workers.get(usize::from(worker.0)) {
                Some(worker) => worker.sockets.uses(slot),
                None => state.kernel.uses(slot),
            };
            let (inputs, more) = page(state.inputs.views(after, &state.classes, open).into_iter());
            Ok(Reply::Inputs { inputs, more })
        }
        Request::Load { load, step } => {
            return match state.loads.step(load, step, Instant::now()) {
                Ok(None) => Outcome::Now(Ok(Reply::Done)),
                Ok(Some(load)) => match state.load(load, network) {
                    Ok((report, needs)) => Outcome::When { needs, then: Then::Loaded(report) },
                    Err(fault) => Outcome::Now(Err(fault)),
                },
                Err(fault) => Outcome::Now(Err(fault)),
            };
        }
        Request::Ping => Ok(Reply::Done),
        Request::TraceStart(wanted) => state.start_trace(&wanted),
        Request::TraceStop { id } => {
            state.stop_trace(id);
            Ok(Reply::Done)
        }
        // The loop carries these out itself.
        Request::ReflectAdd(_)
        | Request::ReflectRemove(_)
        | Request::ReflectList { .. }
        | Request::ConfigSave
        | Request::SettingsGet
        | Request::LogGet
        | Request::LogSet { .. }
        | Request::Doctor
        | Request::Why(_) => {
            Err(Fault::new(FaultKind::Internal, "a request about the daemon itself came here"))
        }
    };
    Outcome::Now(reply)
}

fn add(spec: mcr_proto::rule::RuleSpec, state: &mut State, network: &Snapshot) -> Outcome {
    let (id, created) = match state.add(spec, network) {
        Ok(added) => added,
        Err(fault) => return Outcome::Now(Err(fault)),
    };
    let then = Then::Added { rule: id, created };
    match state.rules.get(id) {
        Some(rule) if rule.status.state == RuleState::Active => {
            Outcome::When { needs: vec![(rule.worker, rule.generation)], then }
        }
        _ => Outcome::Now(then.reply(state)),
    }
}

fn changed(change: Result<(RuleId, WorkerIndex, Generation), Fault>) -> Outcome {
    match change {
        Ok((rule, worker, generation)) => {
            Outcome::When { needs: vec![(worker, generation)], then: Then::Show { rule } }
        }
        Err(fault) => Outcome::Now(Err(fault)),
    }
}

fn workers(state: &State) -> Vec<WorkerView> {
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let workers = state.workers.iter().map(|worker| WorkerView {
        index: worker.index,
        pid: worker.running.as_ref().map(|running| running.pid),
        state: worker.state,
        core: worker.core,
        io: worker.io.filter(|_| worker.state == WorkerState::Running),
        restarts: worker.starts.saturating_sub(1),
        rules: count(worker.route_count()),
        sockets: count(worker.sockets.count()),
        desired: worker.desired,
        applied: worker.applied,
    });
    workers.collect()
}

/// As many items as one message carries, and whether there are more. One is always taken, so that a list gets on.
pub(crate) fn page<T: Serialize>(mut items: impl Iterator<Item = T>) -> (Vec<T>, bool) {
    let mut taken = Vec::new();
    let mut bytes = 0;
    for item in items.by_ref() {
        bytes += mcr_proto::codec::encode(&item).map_or(PAGE_BYTES_MAX, |encoded| encoded.len());
        taken.push(item);
        if bytes >= PAGE_BYTES_MAX {
            break;
        }
    }
    (taken, items.next().is_some())
}
