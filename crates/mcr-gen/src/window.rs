//! Which sequences of a flow have been seen, in a fixed amount of memory.

/// How many sequences back from the highest one a datagram may be and still be told from a duplicate.
pub(crate) const WINDOW: u64 = 65_536;

/// Sliding bitmap over the last [`WINDOW`] sequences up to the highest seen.
///
/// Invariant: for each sequence in `next - WINDOW .. next`, bit `sequence % WINDOW` says whether it was seen.
#[derive(Debug)]
pub(crate) struct Window {
    bits: Box<[u64]>,
    next: u64,
}

/// What a sequence is to a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    /// Higher than all before it.
    Ahead,
    /// Seen for the first time, after a higher one: reordered in the sense of RFC 4737, section 3.
    Behind,
    /// Seen before.
    Again,
    /// Too far behind to say which of the two.
    TooOld,
}

impl Window {
    pub(crate) fn new() -> Self {
        Window { bits: vec![0; (WINDOW / 64) as usize].into(), next: 0 }
    }

    /// One more than the highest sequence seen: how many the sender is known to have sent.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// Notes that `sequence` was seen.
    ///
    /// # Panics
    /// If `sequence` is `u64::MAX`, which has no successor.
    pub(crate) fn mark(&mut self, sequence: u64) -> Mark {
        if sequence >= self.next {
            self.advance(sequence);
            self.set(sequence);
            Mark::Ahead
        } else if self.next - sequence > WINDOW {
            Mark::TooOld
        } else if self.set(sequence) {
            Mark::Again
        } else {
            Mark::Behind
        }
    }

    /// Makes `sequence` the highest; those skipped, and itself, are not seen yet.
    fn advance(&mut self, sequence: u64) {
        let next = sequence.checked_add(1).expect("a sequence below u64::MAX");
        if next - self.next >= WINDOW {
            self.bits.fill(0);
        } else {
            for skipped in self.next..next {
                self.bits[word(skipped)] &= !bit(skipped);
            }
        }
        self.next = next;
    }

    /// Sets the bit of `sequence` and says whether it was set before.
    fn set(&mut self, sequence: u64) -> bool {
        let word = &mut self.bits[word(sequence)];
        let before = *word & bit(sequence) != 0;
        *word |= bit(sequence);
        before
    }
}

fn word(sequence: u64) -> usize {
    (sequence % WINDOW / 64) as usize
}

fn bit(sequence: u64) -> u64 {
    1 << (sequence % 64)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    /// The window as a set with unlimited memory.
    #[derive(Default)]
    struct Model {
        seen: HashSet<u64>,
        next: u64,
    }

    impl Model {
        fn mark(&mut self, sequence: u64) -> Mark {
            if sequence >= self.next {
                self.next = sequence + 1;
                self.seen.insert(sequence);
                Mark::Ahead
            } else if sequence + WINDOW < self.next {
                Mark::TooOld
            } else if self.seen.insert(sequence) {
                Mark::Behind
            } else {
                Mark::Again
            }
        }
    }

    /// Mostly steps of a few, now and then a jump of about a window, in either direction.
    fn steps() -> impl Strategy<Value = Vec<i64>> {
        let window = WINDOW as i64;
        prop::collection::vec(
            prop_oneof![20 => -8i64..9, 1 => window - 3..window + 3, 1 => -window - 3..-window + 3, 1 => -200_000i64..200_000],
            1..400,
        )
    }

    proptest! {
        #[test]
        fn the_window_agrees_with_an_unlimited_set(steps in steps()) {
            let (mut window, mut model) = (Window::new(), Model::default());
            let mut sequence = 0u64;
            for step in steps {
                sequence = sequence.saturating_add_signed(step);
                prop_assert_eq!(window.mark(sequence), model.mark(sequence), "sequence {}", sequence);
                prop_assert_eq!(window.next(), model.next);
            }
        }
    }

    #[test]
    fn the_highest_possible_sequence_is_followed_by_none() {
        let mut window = Window::new();
        assert_eq!(window.mark(u64::MAX - 1), Mark::Ahead);
        assert_eq!(window.next(), u64::MAX);
        assert_eq!(window.mark(0), Mark::TooOld);
    }
}
