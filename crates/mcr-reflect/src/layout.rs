//! Where each number is in the row that a reflecting process writes and others read.

use crate::{
    counters::{Count, Counters},
    latency::Latency,
    outcome::{Kind, Reason},
};

/// Places of numbers in the row.
#[derive(Debug, Clone, Copy)]
pub struct Layout;

const COUNTERS_AT: usize = 1;
const LATENCY_AT: usize = COUNTERS_AT + Counters::LEN;
const BUCKETS_AT: usize = LATENCY_AT + 5;

impl Layout {
    /// Monotonic nanoseconds of the process's last turn.
    pub const HEARTBEAT: usize = 0;
    /// Turn-round times: count, sum, least, greatest, stamped.
    pub const LATENCY: [usize; 5] =
        [LATENCY_AT, LATENCY_AT + 1, LATENCY_AT + 2, LATENCY_AT + 3, LATENCY_AT + 4];
    /// How many numbers a row has.
    pub const LEN: usize = BUCKETS_AT + Latency::BUCKETS;

    /// Of a count.
    #[must_use]
    pub const fn count(count: Count) -> usize {
        COUNTERS_AT + count.index()
    }

    /// Of a reason.
    #[must_use]
    pub const fn reason(reason: Reason) -> usize {
        COUNTERS_AT + Count::ALL.len() + reason.index()
    }

    /// Of a kind.
    #[must_use]
    pub const fn kind(kind: Kind) -> usize {
        COUNTERS_AT + Count::ALL.len() + Reason::ALL.len() + kind.index()
    }

    /// Of a bucket of turn-round times.
    #[must_use]
    pub const fn bucket(bucket: usize) -> usize {
        BUCKETS_AT + bucket
    }

    /// The counters of a row; missing numbers are 0.
    #[must_use]
    pub fn counters(row: &[u64]) -> Counters {
        Counters::from_numbers(row.iter().skip(COUNTERS_AT).copied())
    }

    /// The turn-round times of a row.
    #[must_use]
    pub fn latency(row: &[u64]) -> Latency {
        let at = |place: usize| row.get(place).copied().unwrap_or(0);
        let [count, sum_ns, min_ns, max_ns, stamped] = Self::LATENCY.map(at);
        let buckets = (0..Latency::BUCKETS).map(|bucket| at(Self::bucket(bucket))).collect();
        Latency { count, sum_ns, min_ns, max_ns, stamped, buckets }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_has_a_place_of_its_own() {
        let row: Vec<u64> = (0..Layout::LEN as u64).collect();
        let counters = Layout::counters(&row);
        assert_eq!(counters.count(Count::InFlight), Layout::count(Count::InFlight) as u64);
        assert_eq!(counters.reason(Reason::Auth), Layout::reason(Reason::Auth) as u64);
        assert_eq!(counters.kind(Kind::Lmm), Layout::kind(Kind::Lmm) as u64);
        let latency = Layout::latency(&row);
        assert_eq!(latency.count, Layout::kind(Kind::Lmm) as u64 + 1);
        assert_eq!(latency.buckets.last(), row.last());
    }
}
