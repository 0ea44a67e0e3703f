//! Limits of the rate at which is replied: token buckets, for everybody together and for each source.

use std::net::IpAddr;

use crate::{
    config::{Limit, Limits},
    headers::Mac,
    table::Table,
};

const NS_PER_S: u64 = 1_000_000_000;
/// Buckets of sources; a source not heard of for so long begins with a full one, as it would have by then anyway.
const SOURCE_SETS: usize = 1024;
const SOURCE_IDLE_NS: u64 = 60 * NS_PER_S;
/// Of a second's worth, how much may come at once.
const BURST_DIVISOR: u64 = 10;
/// A burst of fewer frames, or of less than the longest frame, would never let one through.
const BURST_FRAMES_MIN: u64 = 1;
const BURST_BITS_MIN: u64 = 65_536 * 8;

/// Whom a limit is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    Ip(IpAddr),
    Mac(Mac),
}

/// Tokens that flow in at a rate up to a depth, in billionths so that a nanosecond's share is whole.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    per_second: u64,
    depth: u128,
    tokens: u128,
    filled_ns: u64,
}

impl Bucket {
    fn new(per_second: u64, burst: u64, now_ns: u64) -> Self {
        let depth = u128::from(burst) * u128::from(NS_PER_S);
        Self { per_second, depth, tokens: depth, filled_ns: now_ns }
    }

    fn fill(&mut self, now_ns: u64) {
        let elapsed_ns = now_ns.saturating_sub(self.filled_ns);
        self.filled_ns = self.filled_ns.max(now_ns);
        self.tokens = (self.tokens + u128::from(elapsed_ns) * u128::from(self.per_second)).min(self.depth);
    }

    fn has(&self, count: u64) -> bool {
        self.tokens >= u128::from(count) * u128::from(NS_PER_S)
    }

    fn take(&mut self, count: u64) {
        self.tokens = self.tokens.saturating_sub(u128::from(count) * u128::from(NS_PER_S));
    }
}

/// The buckets of one [`Limit`].
#[derive(Debug, Clone, Copy)]
struct Pair {
    frames: Option<Bucket>,
    bits: Option<Bucket>,
}

impl Pair {
    fn new(limit: &Limit, now_ns: u64) -> Self {
        let frames =
            limit.pps.map(|pps| Bucket::new(pps, (pps / BURST_DIVISOR).max(BURST_FRAMES_MIN), now_ns));
        let bits = limit
            .bits_per_second
            .map(|bits| Bucket::new(bits, (bits / BURST_DIVISOR).max(BURST_BITS_MIN), now_ns));
        Self { frames, bits }
    }

    fn has(&mut self, bytes: usize, now_ns: u64) -> bool {
        let bits = bytes as u64 * 8;
        [(&mut self.frames, 1), (&mut self.bits, bits)].into_iter().all(|(bucket, count)| {
            bucket.as_mut().is_none_or(|bucket| {
                bucket.fill(now_ns);
                bucket.has(count)
            })
        })
    }

    fn take(&mut self, bytes: usize) {
        if let Some(frames) = &mut self.frames {
            frames.take(1);
        }
        if let Some(bits) = &mut self.bits {
            bits.take(bytes as u64 * 8);
        }
    }
}

/// What [`Limits`] leaves to be sent.
#[derive(Debug)]
pub(crate) struct Guard {
    limits: Limits,
    total: Option<Pair>,
    sources: Option<Table<Source, Pair>>,
}

impl Guard {
    pub(crate) fn new(limits: &Limits) -> Self {
        let sources = limits.source.is_some().then(|| Table::new(SOURCE_SETS, SOURCE_IDLE_NS));
        Self { limits: *limits, total: None, sources }
    }

    /// Whether a reply of so many bytes to this source may be sent; if so it is charged.
    #[inline]
    pub(crate) fn admits(&mut self, source: Source, bytes: usize, now_ns: u64) -> bool {
        let Limits { total, source: each } = self.limits;
        if total.is_none() && each.is_none() {
            return true;
        }
        let total = total.map(|limit| self.total.get_or_insert_with(|| Pair::new(&limit, now_ns)));
        let each = each
            .zip(self.sources.as_mut())
            .map(|(limit, sources)| sources.entry(source, now_ns, || Pair::new(&limit, now_ns)));
        let mut pairs = [total, each];
        // Only if all have room does any give: a source over its limit must not use up the others' share.
        let admitted = pairs.iter_mut().flatten().all(|pair| pair.has(bytes, now_ns));
        if admitted {
            pairs.iter_mut().flatten().for_each(|pair| pair.take(bytes));
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Source = Source::Mac([2, 0, 0, 0, 0, 1]);
    const B: Source = Source::Mac([2, 0, 0, 0, 0, 2]);

    fn limit(pps: u64) -> Option<Limit> {
        Some(Limit { pps: Some(pps), bits_per_second: None })
    }

    #[test]
    fn a_second_lets_through_the_rate_and_one_burst() {
        let mut guard = Guard::new(&Limits { total: limit(1000), source: None });
        let passed = (0..100_000u64).filter(|n| guard.admits(A, 100, n * 10_000)).count();
        assert_eq!(passed, 1099, "100 at once, then one a millisecond");
    }

    #[test]
    fn one_source_over_its_limit_costs_another_nothing() {
        let mut guard = Guard::new(&Limits { total: limit(1000), source: limit(100) });
        assert_eq!((0..1000).filter(|_| guard.admits(A, 100, 0)).count(), 10);
        assert_eq!((0..1000).filter(|_| guard.admits(B, 100, 0)).count(), 10);
    }

    #[test]
    fn bits_are_limited_apart_from_frames() {
        let bits = Limit { pps: None, bits_per_second: Some(8_000_000) };
        let mut guard = Guard::new(&Limits { total: None, source: Some(bits) });
        let passed = (0..10_000).filter(|_| guard.admits(A, 1000, 0)).count();
        assert_eq!(passed, 100, "a tenth of a second's 1,000 frames of 1,000 bytes");
        assert!(guard.admits(A, 1000, 1_000_000));
        assert!(!guard.admits(A, 1000, 1_000_001));
    }

    #[test]
    fn a_clock_that_stands_still_or_jumps_gives_no_more_than_a_burst() {
        let mut guard = Guard::new(&Limits { total: limit(1000), source: None });
        assert!(guard.admits(A, 1, u64::MAX / 2));
        assert_eq!((0..1000).filter(|_| guard.admits(A, 1, u64::MAX)).count(), 100);
        assert_eq!((0..1000).filter(|_| guard.admits(A, 1, 0)).count(), 0);
    }
}
