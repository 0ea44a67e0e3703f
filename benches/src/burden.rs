//! What a relay does under more than it can relay, and under what is none of its business.
//!
//! Overload: twice the loss-free rate, for longer than queues last; what is delivered meanwhile. Foreign: a million datagrams a second to
//! a group that no rule wants, at the input; how long the relay's core is busy with each. The host's stack is in both, as ever: without
//! a relay there is the same to be done, and the difference is the relay's.

use std::time::Duration;

use crate::{
    case::Case,
    cores::Clock,
    interrupt,
    lab::Lab,
    peer::Relay,
    record,
    trial::{self, Trial},
};

/// Of the loss-free rate.
const OVERLOAD: f64 = 2.0;
/// What queues hold (30,000 frames) is gone after a fraction of it.
const DURATION: Duration = Duration::from_millis(1500);
const FOREIGN_PPS: f64 = 1_000_000.0;
/// Before, so that the core is idle when the measurement begins.
const REST: Duration = Duration::from_millis(100);
/// The peer's name where nothing relays.
pub(crate) const NO_RELAY: &str = "no-relay";

/// Offers twice what the relay carries.
pub(crate) fn overload(
    lab: &Lab,
    case: Case,
    loss_free_pps: f64,
    (peer, round): (&str, u32),
) -> anyhow::Result<record::Overload> {
    let trial = trial::to_the_end(lab, case, loss_free_pps * OVERLOAD, DURATION)?;
    let Trial { copies_received, copies_late, seconds, .. } = trial;
    let in_time = copies_received.saturating_sub(copies_late) as f64 / (seconds + trial::GRACE.as_secs_f64());
    let loss_free = loss_free_pps * f64::from(case.outputs());
    Ok(record::Overload {
        case: case.name().into(),
        peer: peer.into(),
        round,
        loss_free_pps,
        sent_pps: trial.sent_pps(),
        delivered_copies: in_time,
        delivered_share: if loss_free > 0.0 { in_time / loss_free } else { 0.0 },
    })
}

/// Sends what nobody wants.
pub(crate) fn foreign(
    lab: &Lab,
    relay: Option<&Relay>,
    (peer, round): (&str, u32),
) -> anyhow::Result<record::Foreign> {
    interrupt::sleep(REST)?;
    let root = relay.and_then(Relay::root);
    let before = Clock::read(root)?;
    let trial = trial::to_the_end(lab, Case::Foreign, FOREIGN_PPS, DURATION)?;
    let (busy, processes) = Clock::read(root)?.busy_since(&before);
    let each = |time: Duration| time.as_nanos() as f64 / trial.sent.max(1) as f64;
    Ok(record::Foreign {
        peer: peer.into(),
        round,
        sent_pps: trial.sent_pps(),
        core_ns: each(busy),
        process_ns: each(processes),
    })
}
