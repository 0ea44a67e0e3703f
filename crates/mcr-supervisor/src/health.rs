//! Whether children are well: a worker turns its loop at least twice a second and says so in shared memory, control answers a
//! ping. One that does not, or does not apply a plan, is ended, and started again like one that died.

use std::time::{Duration, Instant};

use mcr_proto::message::WorkerState;

use crate::{clock::monotonic_ns, worker::Worker};

/// How often children are looked at.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long a child may be silent. Four turns of a worker's loop: a starved host is no reason to end it.
pub(crate) const SILENT_MAX: Duration = Duration::from_secs(2);
/// How long a worker may take to apply a plan. It does so between two batches; one that cannot, because it lacks something that the
/// plan names, never will, and its successor is given everything anew.
pub(crate) const APPLIED_WITHIN: Duration = Duration::from_secs(10);
/// How long a child may take to be ready.
pub(crate) const READY_WITHIN: Duration = Duration::from_secs(5);

/// Why a worker must be ended, if it must.
pub(crate) fn problem(worker: &Worker, now: Instant) -> Option<String> {
    let in_state = now.duration_since(worker.since);
    match worker.state {
        WorkerState::Starting if in_state >= READY_WITHIN => {
            Some(format!("not ready within {} s", READY_WITHIN.as_secs()))
        }
        // Only a beat of this life counts, and it gets the time to make the first.
        WorkerState::Running if in_state >= SILENT_MAX => {
            let beat_ns = worker.counters.header().heartbeat_ns.get();
            let silent = Duration::from_nanos(monotonic_ns().saturating_sub(beat_ns));
            if silent >= SILENT_MAX {
                return Some(format!("stuck: no sign of life for {} ms", silent.as_millis()));
            }
            let (generation, time) = worker.unanswered(now)?;
            (time >= APPLIED_WITHIN)
                .then(|| format!("stuck: plan {generation} was not applied within {} s", time.as_secs()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use mcr_metrics::Segment;
    use mcr_proto::plan::{Generation, WorkerIndex};

    use super::*;

    #[test]
    fn a_worker_that_beats_and_does_not_apply_its_plan_is_stuck() {
        let mut worker = Worker::new(WorkerIndex(0), None, Segment::create().expect("memory"));
        let begun = Instant::now();
        worker.enter(WorkerState::Running, begun);
        // As if it beat all the time.
        worker.counters.header().heartbeat_ns.set(u64::MAX);
        let at = |time| begun + time;
        assert_eq!(problem(&worker, at(2 * APPLIED_WITHIN)), None, "it was sent none");
        worker.note_sent(Generation(7), at(APPLIED_WITHIN));
        assert_eq!(problem(&worker, at(2 * APPLIED_WITHIN - SILENT_MAX)), None);
        let problem_is = problem(&worker, at(2 * APPLIED_WITHIN)).expect("stuck");
        assert!(problem_is.contains("plan 7"), "{problem_is}");
        worker.note_applied(Generation(7));
        assert_eq!(problem(&worker, at(2 * APPLIED_WITHIN)), None);
        worker.counters.header().heartbeat_ns.set(0);
        assert!(problem(&worker, begun + SILENT_MAX).is_some_and(|why| why.contains("no sign of life")));
    }
}
