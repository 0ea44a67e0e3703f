//! One trial: send at a rate, count what the sinks got. And the check before all trials that the relay relays.

use std::{
    sync::atomic::Ordering::Relaxed,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow, bail, ensure};

use crate::{
    case::Case,
    interrupt,
    lab::Lab,
    peer::Relay,
    record,
    search::Outcome,
    sender::{self, Watch},
};

/// Of 1,000 copies at most one may be lost.
const LOSS_MAX: f64 = 0.001;
/// Frames of other protocols that the sinks may get. More are copies of a trial before, which would hide a loss.
const STRAYS_MAX: u64 = 32;
/// From this share of the offered rate on it counts as reached.
const REACHED: f64 = 0.99;
/// How often a trial is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// After a trial queues are empty when nothing has come for this long ...
const SILENCE: Duration = Duration::from_millis(40);
/// ... which takes at most this long, or the relay has stalled.
const DRAIN_WITHIN: Duration = Duration::from_secs(2);
/// What a relay that keeps up needs for what is under way at the end.
pub(crate) const GRACE: Duration = Duration::from_millis(10);
/// What may be in queues, at most: the core's backlog and a large socket buffer.
const IN_FLIGHT_MAX: u64 = 40_000;
/// A relay that was started relays within this time.
const READY_WITHIN: Duration = Duration::from_secs(10);
/// Of the datagrams that show whether it does: slow enough for any relay.
const PROBE_PPS: f64 = 5_000.0;

/// What a trial gave.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Trial {
    pub(crate) offered_pps: f64,
    pub(crate) sent: u64,
    pub(crate) seconds: f64,
    pub(crate) copies_expected: u64,
    /// In the end.
    pub(crate) copies_received: u64,
    /// Of those, the ones that still were in queues [`GRACE`] after the last datagram was sent.
    pub(crate) copies_late: u64,
    /// It was ended early: more was missing than can be in queues.
    pub(crate) cut_short: bool,
}

impl Trial {
    /// Whether at most 0.1 % was lost, or late: a relay that lives on its queues would lose in a longer trial.
    pub(crate) fn passed(&self) -> bool {
        let in_time = self.copies_received.saturating_sub(self.copies_late);
        let lost = self.copies_expected.saturating_sub(in_time);
        let surplus = self.copies_received.saturating_sub(self.copies_expected + STRAYS_MAX);
        let allowed = self.copies_expected as f64 * LOSS_MAX;
        !self.cut_short && self.sent > 0 && lost as f64 <= allowed && surplus as f64 <= allowed
    }

    /// Whether the offered rate was sent.
    pub(crate) fn reached(&self) -> bool {
        self.sent_pps() >= self.offered_pps * REACHED
    }

    pub(crate) fn sent_pps(&self) -> f64 {
        if self.seconds > 0.0 { self.sent as f64 / self.seconds } else { 0.0 }
    }

    pub(crate) fn outcome(&self) -> Outcome {
        let share =
            self.copies_received.saturating_sub(self.copies_late) as f64 / self.copies_expected.max(1) as f64;
        Outcome {
            passed: self.passed(),
            sent_pps: self.sent_pps(),
            reached: self.reached(),
            received_pps: self.sent_pps() * share.min(1.0),
        }
    }

    pub(crate) fn record(&self, case: Case, peer: &str, round: u32) -> record::Trial {
        record::Trial {
            case: case.name().into(),
            peer: peer.into(),
            round,
            offered_pps: self.offered_pps,
            sent: self.sent,
            seconds: self.seconds,
            copies_expected: self.copies_expected,
            copies_received: self.copies_received,
            copies_late: self.copies_late,
            reached: self.reached(),
            cut_short: self.cut_short,
            passed: self.passed(),
        }
    }
}

/// Offers `rate_pps` for `duration`, or until it is clear that it is too much.
pub(crate) fn run(lab: &Lab, case: Case, rate_pps: f64, duration: Duration) -> anyhow::Result<Trial> {
    let allowed = (rate_pps * duration.as_secs_f64() * LOSS_MAX) as u64 + IN_FLIGHT_MAX;
    offer(lab, case, rate_pps, duration, allowed)
}

/// As [`run`], whatever is lost.
pub(crate) fn to_the_end(lab: &Lab, case: Case, rate_pps: f64, duration: Duration) -> anyhow::Result<Trial> {
    offer(lab, case, rate_pps, duration, u64::MAX / u64::from(u8::MAX))
}

/// Ends early when more than `allowed` is missing at an output.
fn offer(lab: &Lab, case: Case, rate_pps: f64, duration: Duration, allowed: u64) -> anyhow::Result<Trial> {
    let outputs = case.outputs();
    let before = lab.frames_received(case)?;
    let watch = Watch::default();
    let send = || -> anyhow::Result<_> {
        let sent = sender::run(lab, case, rate_pps, duration, &watch)?;
        thread::sleep(GRACE);
        Ok((sent, lab.frames_received(case)? - before))
    };
    let (sent, cut_short) = thread::scope(|scope| {
        let sender = scope.spawn(send);
        let hopeless = || -> anyhow::Result<bool> {
            let expected = watch.sent.load(Relaxed) * u64::from(outputs);
            let missing = expected.saturating_sub(lab.frames_received(case)? - before);
            Ok(missing > allowed * u64::from(outputs))
        };
        let mut cut_short = Ok(false);
        while !sender.is_finished() && matches!(cut_short, Ok(false)) {
            cut_short = interrupt::sleep(LOOK_EVERY).and_then(|()| hopeless());
        }
        // It ends by itself, or when told to, and is always waited for.
        watch.stop.store(true, Relaxed);
        (sender.join().map_err(|_| anyhow!("the sender has panicked")), cut_short)
    });
    let (cut_short, (sent, in_time)) = (cut_short?, sent??);
    let received = drain(lab, case)? - before;
    Ok(Trial {
        offered_pps: rate_pps,
        sent: sent.datagrams,
        seconds: sent.seconds,
        copies_expected: sent.datagrams * u64::from(outputs),
        copies_received: received,
        copies_late: received.saturating_sub(in_time),
        cut_short,
    })
}

/// Waits until nothing comes any more; the frames received by then.
fn drain(lab: &Lab, case: Case) -> anyhow::Result<u64> {
    let started = Instant::now();
    let mut frames = lab.frames_received(case)?;
    while started.elapsed() < DRAIN_WITHIN {
        interrupt::sleep(SILENCE)?;
        let now = lab.frames_received(case)?;
        if now == frames {
            return Ok(frames);
        }
        frames = now;
    }
    bail!("the relay still sends {DRAIN_WITHIN:?} after the end of a trial")
}

/// Waits until every copy of every stream gets through, and checks that the sinks drop before their stack.
pub(crate) fn warm_up(lab: &Lab, case: Case, relay: &mut Relay) -> anyhow::Result<()> {
    let started = Instant::now();
    let duration = Duration::from_secs_f64(f64::from(case.streams().max(100)) / PROBE_PPS);
    loop {
        interrupt::check()?;
        relay.check()?;
        let in_stack = lab.packets_in_stack(case.outputs())?;
        let trial = run(lab, case, PROBE_PPS, duration)?;
        ensure!(
            lab.packets_in_stack(case.outputs())? == in_stack,
            "the sinks do not drop at ingress: their stacks have seen packets"
        );
        if trial.copies_received >= trial.copies_expected && trial.sent > 0 {
            return Ok(());
        }
        if started.elapsed() >= READY_WITHIN {
            let Trial { copies_received, copies_expected, .. } = trial;
            return Err(anyhow!("{copies_received} of {copies_expected} copies came through"))
                .with_context(|| format!("it does not relay within {READY_WITHIN:?}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRIAL: Trial = Trial {
        offered_pps: 100_000.0,
        sent: 200_000,
        seconds: 2.0,
        copies_expected: 200_000,
        copies_received: 200_000,
        copies_late: 0,
        cut_short: false,
    };

    #[test]
    fn one_copy_in_a_thousand_may_be_lost_and_not_one_more() {
        assert!(Trial { copies_received: 199_800, ..TRIAL }.passed());
        assert!(!Trial { copies_received: 199_799, ..TRIAL }.passed());
        assert!(Trial { copies_received: 200_003, ..TRIAL }.passed(), "a stray frame is no loss");
        assert!(!Trial { copies_received: 201_000, ..TRIAL }.passed(), "a thousand are none of this trial's");
        assert!(!Trial { cut_short: true, ..TRIAL }.passed());
    }

    #[test]
    fn what_was_in_queues_at_the_end_was_not_kept_up_with() {
        assert!(Trial { copies_late: 200, ..TRIAL }.passed());
        assert!(!Trial { copies_late: 201, ..TRIAL }.passed());
        assert!(!Trial { copies_received: 199_900, copies_late: 101, ..TRIAL }.passed());
    }

    #[test]
    fn a_sender_two_percent_too_slow_has_not_reached_the_rate() {
        assert!(TRIAL.reached());
        assert!(!Trial { sent: 196_000, ..TRIAL }.reached());
    }
}
