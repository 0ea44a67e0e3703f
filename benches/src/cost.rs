//! What a copy costs: for how long the relay's core is busy at a rate that every peer carries.

use std::time::Duration;

use crate::{case::Case, cores::Clock, interrupt, lab::Lab, peer::Relay, record, trial};

/// Copies a second of all outputs together; what socat just carries.
const COPIES_PER_SECOND: f64 = 100_000.0;
/// The kernel accounts idle time by ticks of 10 ms: a second and a half makes that less than 1 %.
const DURATION_MIN: Duration = Duration::from_millis(1500);
/// Before, so that the core is idle when the measurement begins.
const REST: Duration = Duration::from_millis(100);

/// Relays at a fixed rate and says what it took, the start of the sender and the drain of queues included, which are idle time.
pub(crate) fn run(
    lab: &Lab,
    case: Case,
    relay: &Relay,
    duration: Duration,
    (peer, round): (&str, u32),
) -> anyhow::Result<record::Cost> {
    interrupt::sleep(REST)?;
    let rate_pps = COPIES_PER_SECOND / f64::from(case.outputs());
    let before = Clock::read(relay.root())?;
    let trial = trial::run(lab, case, rate_pps, duration.max(DURATION_MIN))?;
    let (busy, processes) = Clock::read(relay.root())?.busy_since(&before);
    let per_copy = |time: Duration| time.as_nanos() as f64 / trial.copies_received.max(1) as f64;
    Ok(record::Cost {
        case: case.name().into(),
        peer: peer.into(),
        round,
        copies_received: trial.copies_received,
        copies_expected: trial.copies_expected,
        seconds: trial.seconds,
        core_ns_per_copy: per_copy(busy),
        process_ns_per_copy: per_copy(processes),
    })
}
