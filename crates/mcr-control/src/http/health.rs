//! `/readyz`: whether everything works that was asked to, and if not, what does not.

use hyper::StatusCode;
use mcr_proto::{
    message::{Fault, RuleState, RuleView, WorkerState, WorkerView},
    rule::RuleName,
};
use serde::Serialize;

use super::{Document, JSON, Web, shelf::Kind};
use crate::view;

/// The body of `/readyz`.
#[derive(Debug, Serialize)]
struct Readiness {
    ready: bool,
    workers: usize,
    workers_running: usize,
    /// Without those that are switched off.
    rules: usize,
    rules_active: usize,
    /// Why not, if not; one line each.
    problems: Vec<Problem>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Problem {
    Worker { worker: u16, state: WorkerState, reason: String },
    Rule { rule: RuleName, state: RuleState, reason: String },
    Daemon { reason: String },
}

/// Problems that are named; all of them are counted.
const PROBLEMS_MAX: usize = 100;

impl Web {
    pub(super) async fn readiness(&self) -> Document {
        self.shelf.get(Kind::Readiness, async { readiness(self.look().await).into() }).await
    }

    async fn look(&self) -> Result<(Vec<WorkerView>, Vec<RuleView>), Fault> {
        let supervisor = &self.service.supervisor;
        Ok((supervisor.workers().await?, supervisor.rules(None).await?))
    }
}

fn readiness(looked: Result<(Vec<WorkerView>, Vec<RuleView>), Fault>) -> Readiness {
    let (workers, rules) = match looked {
        Ok(looked) => looked,
        Err(fault) => {
            let problems = vec![Problem::Daemon { reason: fault.message }];
            return Readiness {
                ready: false,
                workers: 0,
                workers_running: 0,
                rules: 0,
                rules_active: 0,
                problems,
            };
        }
    };
    let enabled = || rules.iter().filter(|rule| rule.spec.enabled);
    let of_workers = workers.iter().filter_map(|worker| {
        let reason = match worker.state {
            WorkerState::Running if worker.applied >= worker.desired => return None,
            WorkerState::Running => "it has not applied its plan yet",
            WorkerState::Starting => "it is being started",
            WorkerState::Backoff => "its process has ended and is started again after a pause",
        };
        Some(Problem::Worker { worker: worker.index.0, state: worker.state, reason: reason.into() })
    });
    let of_rules = enabled().filter(|rule| rule.state != RuleState::Active).map(|rule| Problem::Rule {
        rule: view::name(rule.id, rule.spec.name.clone()),
        state: rule.state,
        reason: rule.reason.clone().unwrap_or_default(),
    });
    let problems: Vec<_> = of_workers.chain(of_rules).take(PROBLEMS_MAX).collect();
    Readiness {
        ready: problems.is_empty(),
        workers: workers.len(),
        workers_running: workers.iter().filter(|worker| worker.state == WorkerState::Running).count(),
        rules: enabled().count(),
        rules_active: enabled().filter(|rule| rule.state == RuleState::Active).count(),
        problems,
    }
}

impl From<Readiness> for Document {
    fn from(readiness: Readiness) -> Self {
        let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        // Strings and numbers: nothing in it can fail to be JSON.
        let mut text = serde_json::to_string_pretty(&readiness).expect("plain data");
        text.push('\n');
        Self::new(status, JSON, text)
    }
}
