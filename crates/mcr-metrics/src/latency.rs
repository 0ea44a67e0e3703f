//! How long datagrams took, as a histogram of fixed size: four buckets for each doubling, from a microsecond to 17 seconds.

use std::array;

use crate::Counter;

/// Below 2^10 ns, everything is one bucket.
const FIRST_BITS: u32 = 10;
/// Doublings from there that are told apart.
const DOUBLINGS: u32 = 24;
/// Buckets of one doubling, as a power of two: a bucket is at most a quarter wider than its lower bound.
const STEP_BITS: u32 = 2;
const STEPS: usize = 1 << STEP_BITS;

/// How many buckets there are: one for what is shorter, those of the doublings, one for what is longer.
pub const LATENCY_BUCKETS: usize = 2 + DOUBLINGS as usize * STEPS;

/// The bucket of a time.
#[inline]
fn bucket_of(ns: u64) -> usize {
    let Some(doubling) = (u64::BITS - 1 - (ns | 1).leading_zeros()).checked_sub(FIRST_BITS) else { return 0 };
    if doubling >= DOUBLINGS {
        return LATENCY_BUCKETS - 1;
    }
    let step = (ns >> (doubling + FIRST_BITS - STEP_BITS)) as usize & (STEPS - 1);
    1 + doubling as usize * STEPS + step
}

/// The least time that is beyond a bucket, in nanoseconds; none for the last one.
fn end_ns(bucket: usize) -> Option<u64> {
    if bucket + 1 == LATENCY_BUCKETS {
        return None;
    }
    let (doubling, step) = (bucket / STEPS, bucket % STEPS);
    Some(((STEPS + step) as u64) << (doubling as u32 + FIRST_BITS - STEP_BITS))
}

/// How long the datagrams of one rule took.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct LatencyCounters {
    /// All times together, in nanoseconds.
    sum_ns: Counter,
    buckets: [Counter; LATENCY_BUCKETS],
}

impl LatencyCounters {
    /// Counts datagrams that took so long each; for the one writer.
    #[inline]
    pub fn add(&self, ns: u64, datagrams: u64) {
        self.buckets[bucket_of(ns)].add(datagrams);
        self.sum_ns.add(ns.saturating_mul(datagrams));
    }

    pub(crate) fn counters(&self) -> impl Iterator<Item = &Counter> {
        std::iter::once(&self.sum_ns).chain(&self.buckets)
    }
}

/// How long the datagrams of a rule took, over all workers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LatencySum {
    sum_ns: u64,
    buckets: [u64; LATENCY_BUCKETS],
}

impl Default for LatencySum {
    fn default() -> Self {
        Self { sum_ns: 0, buckets: [0; LATENCY_BUCKETS] }
    }
}

impl LatencySum {
    pub(crate) fn take_in(&mut self, counters: &LatencyCounters) {
        self.sum_ns = self.sum_ns.wrapping_add(counters.sum_ns.get());
        let here: [u64; LATENCY_BUCKETS] = array::from_fn(|bucket| counters.buckets[bucket].get());
        self.buckets.iter_mut().zip(here).for_each(|(sum, here)| *sum += here);
    }

    /// How many datagrams it speaks of.
    pub fn datagrams(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The times of all of them together, in nanoseconds.
    pub fn sum_ns(&self) -> u64 {
        self.sum_ns
    }

    /// A time that at least this share (0 to 1) of the datagrams did not exceed: the end of a bucket, so at most a quarter too large.
    /// None where there are no datagrams; `u64::MAX` for what took longer than 17 s.
    pub fn quantile_ns(&self, share: f64) -> Option<u64> {
        let all = self.datagrams();
        // Not above what there is, whatever rounding does.
        let rank = ((all as f64 * share).ceil() as u64).clamp(1, all.max(1));
        let mut below = 0;
        let bucket = self.buckets.iter().position(|count| {
            below += count;
            below >= rank
        })?;
        Some(end_ns(bucket).unwrap_or(u64::MAX))
    }

    /// For each doubling from 4.096 µs to 1.07 s: that time in nanoseconds, and how many datagrams took less.
    pub fn doublings(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        (12..=30_u32).map(|bits| {
            let end = 1_u64 << bits;
            let buckets = self.buckets.iter().enumerate();
            let below = buckets.filter(|(bucket, _)| end_ns(*bucket).is_some_and(|bucket| bucket <= end));
            (end, below.map(|(_, count)| count).sum())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_ends_where_the_next_begins_and_is_at_most_a_quarter_wide() {
        for bucket in 0..LATENCY_BUCKETS - 1 {
            let end = end_ns(bucket).expect("only the last has no end");
            assert_eq!((bucket_of(end - 1), bucket_of(end)), (bucket, bucket + 1));
            if bucket > 0 {
                let begin = end_ns(bucket - 1).expect("not the last");
                assert!((end - begin) * 4 <= begin, "{begin}..{end}");
            }
        }
        assert_eq!((bucket_of(0), bucket_of(u64::MAX)), (0, LATENCY_BUCKETS - 1));
        assert_eq!(end_ns(0), Some(1 << FIRST_BITS));
    }

    #[test]
    fn quantiles_are_those_of_the_times_rounded_up_to_a_bucket() {
        let times: Vec<u64> = (1..=10_000).map(|n| n * n).collect();
        let counters =
            LatencyCounters { sum_ns: Counter::default(), buckets: array::from_fn(|_| Counter::default()) };
        times.iter().for_each(|ns| counters.add(*ns, 2));
        let mut sum = LatencySum::default();
        assert_eq!(sum.quantile_ns(0.5), None);
        sum.take_in(&counters);
        assert_eq!((sum.datagrams(), sum.sum_ns()), (20_000, 2 * times.iter().sum::<u64>()));
        for share in [0.0, 0.01, 0.5, 0.99, 0.999, 1.0] {
            let exact = times[((10_000.0 * share) as usize).clamp(1, 10_000) - 1];
            let quantile = sum.quantile_ns(share).expect("there are some");
            assert!(
                exact < quantile && quantile <= (exact + exact / 4).max(1024),
                "{share}: {exact} {quantile}"
            );
        }
        for (end, below) in sum.doublings() {
            assert_eq!(below, 2 * times.iter().filter(|ns| **ns < end).count() as u64, "{end}");
        }
        counters.add(1 << 40, 1_000_000);
        sum.take_in(&counters);
        assert_eq!(sum.quantile_ns(0.999), Some(u64::MAX));
    }
}
