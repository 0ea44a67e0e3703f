//! Whether frames come and none goes back: what a reflector that runs can still be wrong about.

use std::time::{Duration, Instant};

/// Frames that come for so long without one being reflected are no coincidence.
pub(super) const UNANSWERED_MAX: Duration = Duration::from_secs(10);

/// What was seen of frames and replies, at looks that are made often.
#[derive(Debug, Default)]
pub(super) struct Health {
    received: u64,
    reflected: u64,
    /// When frames began to come without a reply to any, and when the last of them was seen.
    unanswered: Option<(Instant, Instant)>,
}

impl Health {
    /// Looks at the counters as they are now.
    pub(super) fn look(&mut self, now: Instant, received: u64, reflected: u64) {
        let (came, went) = (received != self.received, reflected != self.reflected);
        (self.received, self.reflected) = (received, reflected);
        self.unanswered = match self.unanswered {
            _ if went => None,
            Some((since, _)) if came => Some((since, now)),
            None if came => Some((now, now)),
            // A while ago something came that was not for the reflector, and nothing since: that says nothing.
            Some((_, last)) if now.duration_since(last) >= UNANSWERED_MAX => None,
            before => before,
        };
    }

    /// For how long frames have come and none was reflected, if that is long.
    pub(super) fn unanswered_for(&self, now: Instant) -> Option<Duration> {
        let (since, _) = self.unanswered?;
        Some(now.duration_since(since)).filter(|time| *time >= UNANSWERED_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_that_come_on_and_on_without_a_reply_are_unhealthy_and_a_stray_one_is_not() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut health = Health::default();
        let looked = |health: &mut Health, second, received, reflected| {
            health.look(at(second), received, reflected);
            health.unanswered_for(at(second)).map(|time| time.as_secs())
        };
        assert_eq!(looked(&mut health, 0, 5, 5), None);
        assert_eq!(looked(&mut health, 1, 6, 5), None);
        assert_eq!(looked(&mut health, 5, 6, 5), None);
        assert_eq!(looked(&mut health, 11, 6, 5), None, "it was one");
        for second in 20..30 {
            assert_eq!(looked(&mut health, second, second, 5), None);
        }
        assert_eq!(looked(&mut health, 30, 31, 5), Some(10));
        assert_eq!(looked(&mut health, 31, 31, 5), Some(11), "a pause is no reply");
        assert_eq!(looked(&mut health, 32, 32, 6), None);
    }
}
