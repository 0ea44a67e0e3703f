//! One-way delay: a histogram inside, microseconds with ns resolution outside.

use hdrhistogram::Histogram;
use serde::Serialize;

/// Longer delays are counted as this one: 100 s.
const LATENCY_NS_MAX: u64 = 100_000_000_000;

/// From the sender's stamp to the moment the receiver held the datagram, in microseconds to three places.
///
/// Between two hosts it is as true as their clocks are equal. A delay below 0, which only unequal or stepped clocks
/// give, counts as 0. Percentiles are exact to three digits; `mean`, `min` and `max` are exact.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct LatencyUs {
    /// Shortest.
    pub min: f64,
    /// Mean of all.
    pub mean: f64,
    /// Median.
    pub p50: f64,
    /// 90 of 100 took at most this.
    pub p90: f64,
    /// 99 of 100.
    pub p99: f64,
    /// 999 of 1,000.
    pub p99_9: f64,
    /// Longest.
    pub max: f64,
}

/// Delays collected so far.
#[derive(Debug)]
pub(crate) struct Latency {
    histogram: Histogram<u64>,
    min_ns: u64,
    max_ns: u64,
    sum_ns: u128,
}

impl Latency {
    pub(crate) fn new() -> Self {
        let histogram =
            Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).expect("bounds the constructor documents");
        Latency { histogram, min_ns: u64::MAX, max_ns: 0, sum_ns: 0 }
    }

    pub(crate) fn record(&mut self, delay_ns: u64) {
        self.histogram.saturating_record(delay_ns);
        self.min_ns = self.min_ns.min(delay_ns);
        self.max_ns = self.max_ns.max(delay_ns);
        self.sum_ns += u128::from(delay_ns);
    }

    /// `None` before the first delay.
    pub(crate) fn summary(&self) -> Option<LatencyUs> {
        let samples = self.histogram.len();
        if samples == 0 {
            return None;
        }
        // A bucket is named by its upper end, which the longest delay may lie below.
        let percentile = |percent| us(self.histogram.value_at_percentile(percent).min(self.max_ns));
        Some(LatencyUs {
            min: us(self.min_ns),
            mean: us((self.sum_ns / u128::from(samples)) as u64),
            p50: percentile(50.0),
            p90: percentile(90.0),
            p99: percentile(99.0),
            p99_9: percentile(99.9),
            max: us(self.max_ns),
        })
    }
}

fn us(ns: u64) -> f64 {
    ns as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_recorded_has_no_latency() {
        assert_eq!(Latency::new().summary(), None);
    }

    #[test]
    fn percentiles_of_a_ramp_are_where_they_belong() {
        let mut latency = Latency::new();
        (1..=100_000).for_each(|us| latency.record(us * 1000));
        let summary = latency.summary().expect("recorded");
        assert_eq!((summary.min, summary.mean, summary.max), (1.0, 50_000.5, 100_000.0));
        for (got, want) in [
            (summary.p50, 50_000.0),
            (summary.p90, 90_000.0),
            (summary.p99, 99_000.0),
            (summary.p99_9, 99_900.0),
        ] {
            assert!((got - want).abs() <= want / 1000.0, "{got} is not {want} to three digits");
        }
    }

    #[test]
    fn a_single_delay_is_every_percentile() {
        let mut latency = Latency::new();
        latency.record(123_457);
        let summary = latency.summary().expect("recorded");
        assert_eq!(
            (summary.min, summary.p50, summary.p99_9, summary.max),
            (123.457, 123.457, 123.457, 123.457)
        );
    }
}
