//! How often something is looked at whose cost depends on the host: no look takes more than a small part of a core, in the long run.

use std::time::{Duration, Instant};

use crate::{clock::thread_time, health::LOOK_EVERY};

/// A look is made again when so many times the processor time that it took is over: 0.4 % of a core.
const PAUSES: u32 = 250;

/// The pace of one kind of look.
#[derive(Debug, Default)]
pub(super) struct Pace {
    due: Option<Instant>,
}

impl Pace {
    /// Looks, if it is time to: with each of the calls, which come every [`LOOK_EVERY`], as long as looks are cheap.
    pub(super) fn look<T>(&mut self, now: Instant, look: impl FnOnce() -> T) -> Option<T> {
        if !self.is_due(now) {
            return None;
        }
        let before = thread_time();
        let seen = look();
        self.took(now, thread_time().saturating_sub(before));
        Some(seen)
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.due.is_none_or(|due| due <= now)
    }

    /// Has the next look made as soon as may be.
    pub(super) fn hurry(&mut self) {
        self.due = None;
    }

    fn took(&mut self, now: Instant, cost: Duration) {
        // The next call comes a little early or late; it is meant where the pause is no longer than that.
        self.due = Some(now + (cost * PAUSES).saturating_sub(LOOK_EVERY / 4));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cheap_looks_are_made_each_time_and_dear_ones_when_they_have_been_paid_for() {
        let begun = Instant::now();
        let looks = |cost: Duration| {
            let mut pace = Pace::default();
            let mut looks = 0;
            for now in (0..1000).map(|call| begun + LOOK_EVERY * call) {
                if pace.look(now, || ()).is_some() {
                    pace.took(now, cost);
                    looks += 1;
                }
            }
            looks
        };
        assert_eq!(looks(Duration::from_millis(2)), 1000);
        // 18 ms each in 500 s.
        let dear = looks(Duration::from_millis(18));
        assert!((100..=112).contains(&dear), "{dear}");
    }

    #[test]
    fn a_look_in_a_hurry_is_made_at_once() {
        let now = Instant::now();
        let mut pace = Pace::default();
        pace.took(now, Duration::from_secs(1));
        assert_eq!(pace.look(now + LOOK_EVERY, || ()), None);
        pace.hurry();
        assert_eq!(pace.look(now + LOOK_EVERY, || ()), Some(()));
    }
}
