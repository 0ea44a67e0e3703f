//! How soon a receiver that failed is tried again.

use std::time::Duration;

/// Counts failures in a row.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The first ones are mostly one-off (ENETDOWN, ECONNREFUSED) and the socket works again at once.
    const IMMEDIATE: u32 = 4;

    /// Notes a failure; says how long to leave the socket alone.
    pub(crate) fn fail(&mut self) -> Option<Duration> {
        self.failures = self.failures.saturating_add(1);
        let repeated = self.failures.checked_sub(Self::IMMEDIATE + 1)?;
        Some(Duration::from_millis((1 << repeated.min(10)).min(1000)))
    }

    pub(crate) fn succeed(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_begins_after_four_failures_and_doubles_to_a_second() {
        let mut backoff = Backoff::default();
        let pauses: Vec<_> = (0..18).map(|_| backoff.fail().map(|pause| pause.as_millis())).collect();
        assert_eq!(pauses[..4], [None; 4]);
        assert_eq!(pauses[4..8], [Some(1), Some(2), Some(4), Some(8)]);
        assert_eq!(pauses[17], Some(1000));
        backoff.succeed();
        assert_eq!(backoff.fail(), None);
    }
}
