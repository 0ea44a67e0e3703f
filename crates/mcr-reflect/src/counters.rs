//! Everything that is counted, as one table of numbers with names, and the law that binds them.

use crate::outcome::{Kind, Reason, named};

named! {
    /// Counters besides those of reasons and kinds.
    Count {
        /// Frames that the back end handed up.
        Received = "received",
        /// Their bytes.
        ReceivedBytes = "received_bytes",
        /// Replies that the kernel or NIC took.
        Reflected = "reflected",
        /// Their bytes.
        ReflectedBytes = "reflected_bytes",
        /// Replies for which there was no room to send.
        TxFull = "tx_full",
        /// Replies that the kernel refused to send.
        TxError = "tx_error",
        /// Frames that the kernel dropped before they could be received, for want of room. They are not in `received`.
        RxRingDrop = "rx_ring_drop",
        /// Descriptors that came from the kernel and cannot be right. They are not in `received`.
        RxInvalidDesc = "rx_invalid_desc",
        /// Replies that wait to be sent.
        InFlight = "in_flight",
    }
}

const REASONS: usize = Reason::ALL.len();
const KINDS: usize = Kind::ALL.len();
const COUNTS: usize = Count::ALL.len();

/// All counters of one reflector, or of several added up.
///
/// Law: `received = reflected + sum of reasons + tx_full + tx_error + in_flight`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counters {
    /// By [`Count`].
    pub counts: [u64; COUNTS],
    /// Frames not reflected, by [`Reason`].
    pub reasons: [u64; REASONS],
    /// Frames reflected, by [`Kind`].
    pub kinds: [u64; KINDS],
}

impl Default for Counters {
    fn default() -> Self {
        Self { counts: [0; COUNTS], reasons: [0; REASONS], kinds: [0; KINDS] }
    }
}

impl Counters {
    /// How many numbers there are.
    pub const LEN: usize = COUNTS + REASONS + KINDS;

    /// One of [`Count`].
    #[must_use]
    pub fn count(&self, count: Count) -> u64 {
        self.counts[count.index()]
    }

    /// Frames not reflected for this reason.
    #[must_use]
    pub fn reason(&self, reason: Reason) -> u64 {
        self.reasons[reason.index()]
    }

    /// Frames of this kind that were reflected.
    #[must_use]
    pub fn kind(&self, kind: Kind) -> u64 {
        self.kinds[kind.index()]
    }

    /// All frames that were not reflected because of what they are.
    #[must_use]
    pub fn rejected(&self) -> u64 {
        self.reasons.iter().sum()
    }

    /// All numbers, in the order of [`Counters::from_numbers`].
    pub fn numbers(&self) -> impl Iterator<Item = u64> + '_ {
        self.counts.iter().chain(&self.reasons).chain(&self.kinds).copied()
    }

    /// From as many numbers as there are; missing ones are 0.
    #[must_use]
    pub fn from_numbers(numbers: impl IntoIterator<Item = u64>) -> Self {
        let mut counters = Self::default();
        let places = counters.counts.iter_mut().chain(&mut counters.reasons).chain(&mut counters.kinds);
        places.zip(numbers).for_each(|(place, number)| *place = number);
        counters
    }

    /// Adds another's, as of another queue.
    pub fn add(&mut self, other: &Self) {
        let sums: Vec<_> = self.numbers().zip(other.numbers()).map(|(a, b)| a.wrapping_add(b)).collect();
        *self = Self::from_numbers(sums);
    }

    /// What the law says is missing: 0 where it holds, positive where frames vanished, negative where some were counted twice.
    #[must_use]
    pub fn missing(&self) -> i128 {
        let accounted = [Count::Reflected, Count::TxFull, Count::TxError, Count::InFlight]
            .iter()
            .map(|count| i128::from(self.count(*count)))
            .sum::<i128>();
        i128::from(self.count(Count::Received)) - accounted - i128::from(self.rejected())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn numbers_come_back_where_they_were() {
        let counters = Counters::from_numbers(1..);
        assert_eq!(counters.numbers().collect::<Vec<_>>(), (1..=Counters::LEN as u64).collect::<Vec<_>>());
        assert_eq!(Counters::from_numbers(counters.numbers()), counters);
        let mut twice = counters.clone();
        twice.add(&counters);
        assert_eq!(twice.count(Count::Received), 2);
    }

    #[test]
    fn no_two_counters_have_one_name() {
        let names = Count::ALL.iter().map(|count| count.name());
        let names = names.chain(Reason::ALL.iter().map(|reason| reason.name()));
        let names: Vec<_> = names.chain(Kind::ALL.iter().map(|kind| kind.name())).collect();
        let distinct: HashSet<_> = names.iter().collect();
        assert_eq!(distinct.len(), Counters::LEN);
    }

    #[test]
    fn the_law_notices_a_frame_that_vanished() {
        let mut counters = Counters::default();
        counters.counts[Count::Received.index()] = 3;
        counters.counts[Count::Reflected.index()] = 1;
        counters.reasons[Reason::Port.index()] = 1;
        assert_eq!(counters.missing(), 1);
        counters.counts[Count::TxFull.index()] = 1;
        assert_eq!(counters.missing(), 0);
    }
}
