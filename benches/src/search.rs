//! The search for the highest rate that passes: gallop to a bracket, then bisect it. Pure.

/// A result this close below the truth is close enough.
pub(crate) const RESOLUTION: f64 = 1.02;
/// The same where only the working of the program is tried.
pub(crate) const RESOLUTION_QUICK: f64 = 1.15;

/// How far to step where no rate has failed yet.
const STRIDE_UNKNOWN: f64 = 1.5;
/// The same when the peer's rate is known from a round before.
const STRIDE_KNOWN: f64 = 1.06;
/// A sender that has fallen short of a rate this often, and nothing was lost, does not reach it. Fewer times may be noise.
const SHORTFALLS: u32 = 3;
/// Below this a relay relays nothing.
const RATE_MIN: f64 = 1000.0;

/// What a trial has shown.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Outcome {
    /// At most 0.1 % was lost.
    pub(crate) passed: bool,
    /// Datagrams a second that the sender reached.
    pub(crate) sent_pps: f64,
    /// Whether these are the rate that was asked for.
    pub(crate) reached: bool,
    /// Datagrams a second that came through.
    pub(crate) received_pps: f64,
}

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Found {
    /// The highest rate that passed; 0 if none did.
    pub(crate) rate_pps: f64,
    /// The sender, not the relay, was the limit: the true rate is at least this.
    pub(crate) sender_bound: bool,
}

/// A search under way: ask [`Search::next`], try, tell [`Search::record`], until there is nothing to ask.
#[derive(Debug)]
pub(crate) struct Search {
    passed: Option<f64>,
    failed: Option<f64>,
    candidate: f64,
    stride: f64,
    resolution: f64,
    shortfalls: u32,
    trials_left: u32,
}

impl Search {
    /// From the result of a round before, or from any rate.
    pub(crate) fn new(known: Option<f64>, resolution: f64, trials_max: u32) -> Self {
        Self {
            passed: None,
            failed: None,
            candidate: known.unwrap_or(300_000.0).max(RATE_MIN),
            stride: if known.is_some() { STRIDE_KNOWN } else { STRIDE_UNKNOWN },
            resolution,
            shortfalls: 0,
            trials_left: trials_max,
        }
    }

    /// The rate to try, in datagrams a second; none when the search is over.
    pub(crate) fn next(&self) -> Option<f64> {
        let close = |low: f64, high: f64| high <= low * self.resolution;
        let over = self.shortfalls == SHORTFALLS
            || self.trials_left == 0
            || self.candidate < RATE_MIN
            || matches!((self.passed, self.failed), (Some(low), Some(high)) if close(low, high));
        (!over).then_some(self.candidate)
    }

    /// Takes in what the rate of [`Search::next`] gave.
    pub(crate) fn record(&mut self, outcome: Outcome) {
        self.trials_left = self.trials_left.saturating_sub(1);
        // What was sent is what was tried.
        let tried = if outcome.reached { self.candidate } else { outcome.sent_pps };
        if outcome.passed {
            self.passed = Some(self.passed.map_or(tried, |passed| passed.max(tried)));
            if !outcome.reached {
                // Nothing is known of the candidate yet: it stays.
                self.shortfalls += 1;
                return;
            }
        } else {
            self.failed = Some(self.failed.map_or(tried, |failed| failed.min(tried)));
        }
        self.shortfalls = 0;
        self.candidate = match (self.passed, self.failed) {
            (Some(low), Some(high)) => (low * high).sqrt(),
            (Some(low), None) => low * self.stride,
            (None, Some(high)) => self.below(high, outcome.received_pps),
            (None, None) => self.candidate,
        };
    }

    /// Where to go on when everything has failed so far: what came through of too much is a hint, never more.
    fn below(&self, failed: f64, received: f64) -> f64 {
        let step = failed / self.stride;
        if self.stride == STRIDE_KNOWN {
            step
        } else {
            received.clamp(failed / 4.0, step.max(failed * 0.9)) * 0.95
        }
    }

    pub(crate) fn found(&self) -> Found {
        Found { rate_pps: self.passed.unwrap_or(0.0), sender_bound: self.shortfalls > 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A relay that carries `capacity` and a sender that reaches `sender`, both in datagrams a second.
    fn run(mut search: Search, capacity: f64, sender: f64) -> (Found, u32) {
        let mut trials = 0;
        while let Some(rate) = search.next() {
            let sent_pps = rate.min(sender);
            let reached = sent_pps >= rate * 0.99;
            let passed = sent_pps <= capacity;
            search.record(Outcome { passed, sent_pps, reached, received_pps: sent_pps.min(capacity) });
            trials += 1;
            assert!(trials < 100, "it ends");
        }
        (search.found(), trials)
    }

    #[test]
    fn the_highest_rate_without_loss_is_found_whatever_it_is() {
        for capacity in [1_500.0, 87_000.0, 250_000.0, 299_999.0, 300_001.0, 765_000.0, 9_000_000.0] {
            let (found, trials) = run(Search::new(None, RESOLUTION, 30), capacity, f64::MAX);
            assert!(!found.sender_bound);
            assert!(
                found.rate_pps <= capacity && found.rate_pps * RESOLUTION >= capacity,
                "{capacity}: {found:?}"
            );
            assert!(trials <= 16, "{capacity}: {trials} trials");
        }
    }

    #[test]
    fn a_round_after_the_first_takes_few_trials() {
        for drift in [0.93, 0.99, 1.0, 1.01, 1.07] {
            let (found, trials) =
                run(Search::new(Some(400_000.0), RESOLUTION, 30), 400_000.0 * drift, f64::MAX);
            assert!(found.rate_pps * RESOLUTION >= 400_000.0 * drift, "{found:?}");
            assert!(trials <= 5, "{drift}: {trials} trials");
        }
    }

    #[test]
    fn a_relay_faster_than_the_sender_is_said_to_be_sender_bound() {
        let (found, _) = run(Search::new(None, RESOLUTION, 30), 2_000_000.0, 1_100_000.0);
        assert_eq!(found, Found { rate_pps: 1_100_000.0, sender_bound: true });
    }

    #[test]
    fn a_sender_that_falls_short_once_is_asked_again() {
        let mut search = Search::new(None, RESOLUTION, 30);
        let rate = search.next().unwrap();
        let short = Outcome { passed: true, sent_pps: rate / 2.0, reached: false, received_pps: rate / 2.0 };
        search.record(short);
        assert_eq!(search.next(), Some(rate));
        search.record(Outcome { passed: true, sent_pps: rate, reached: true, received_pps: rate });
        assert!(search.next().unwrap() > rate);
        assert_eq!(search.found(), Found { rate_pps: rate, sender_bound: false });
    }

    #[test]
    fn loss_at_less_than_the_offered_rate_is_held_against_the_rate_that_was_sent() {
        let (found, _) = run(Search::new(None, RESOLUTION, 30), 400_000.0, 420_000.0);
        assert!(!found.sender_bound);
        assert!(found.rate_pps <= 400_000.0 && found.rate_pps * RESOLUTION >= 400_000.0, "{found:?}");
    }

    #[test]
    fn a_relay_that_loses_at_every_rate_ends_the_search_with_nothing() {
        let (found, trials) = run(Search::new(None, RESOLUTION, 30), 0.0, f64::MAX);
        assert_eq!(found, Found { rate_pps: 0.0, sender_bound: false });
        assert!(trials <= 10, "{trials}");
    }

    #[test]
    fn no_more_trials_are_asked_for_than_allowed() {
        assert_eq!(run(Search::new(None, RESOLUTION, 3), 87_000.0, f64::MAX).1, 3);
    }
}
