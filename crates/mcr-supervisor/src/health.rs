//! Whether children are well: a worker turns its loop at least twice a second and says so in shared memory, control answers a
//! ping. One that does not is ended, and started again like one that died.

use std::time::{Duration, Instant};

use mcr_proto::message::WorkerState;

use crate::{clock::monotonic_ns, worker::Worker};

/// How often children are looked at.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long a child may be silent. Four turns of a worker's loop: a starved host is no reason to end it.
pub(crate) const SILENT_MAX: Duration = Duration::from_secs(2);
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
            (silent >= SILENT_MAX).then(|| format!("stuck: no sign of life for {} ms", silent.as_millis()))
        }
        _ => None,
    }
}
