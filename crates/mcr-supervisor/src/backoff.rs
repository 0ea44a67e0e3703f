//! When to start a child again: after 250 ms, doubling to 16 s; a clean exit or a minute of health begins anew.

use std::time::{Duration, Instant};

const FIRST: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(16);
const HEALTHY: Duration = Duration::from_secs(60);

/// The pauses between the lives of one child.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    started: Option<Instant>,
}

impl Backoff {
    pub(crate) fn new() -> Self {
        Self { next: FIRST, started: None }
    }

    /// Notes a start.
    pub(crate) fn started(&mut self, now: Instant) {
        self.started = Some(now);
    }

    /// Notes an end; the pause to make now.
    pub(crate) fn ended(&mut self, now: Instant, clean: bool) -> Duration {
        let healthy = self.started.take().is_some_and(|started| now.duration_since(started) >= HEALTHY);
        if clean || healthy {
            self.next = FIRST;
        }
        let pause = self.next;
        self.next = (pause * 2).min(LONGEST);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_to_sixteen_seconds_and_begin_anew_after_health() {
        let mut backoff = Backoff::new();
        let mut now = Instant::now();
        let mut pauses = Vec::new();
        for _ in 0..8 {
            backoff.started(now);
            pauses.push(backoff.ended(now, false).as_millis());
        }
        assert_eq!(pauses, [250, 500, 1000, 2000, 4000, 8000, 16000, 16000]);
        backoff.started(now);
        now += HEALTHY;
        assert_eq!(backoff.ended(now, false), FIRST);
        backoff.started(now);
        backoff.ended(now, false);
        backoff.started(now);
        assert_eq!(backoff.ended(now, true), FIRST);
    }
}
