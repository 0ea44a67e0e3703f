//! Turn-round times as a log-linear histogram: two significant digits from a microsecond to ten seconds, mergeable.

/// Buckets of each octave.
const SUB: u64 = 64;
/// The first octave's exponent: below 2^10 ns buckets are 16 ns wide.
const FIRST: u32 = 10;
/// The last octave's, which ends above ten seconds.
const LAST: u32 = 33;

/// Times, in nanoseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Latency {
    /// How many.
    pub count: u64,
    /// Their sum.
    pub sum_ns: u64,
    /// The least; 0 if there are none.
    pub min_ns: u64,
    /// The greatest.
    pub max_ns: u64,
    /// How many of them the kernel's or the NIC's time of arrival was known for; the others count from when they were taken up.
    pub stamped: u64,
    /// How many in each bucket.
    pub buckets: Vec<u64>,
}

impl Default for Latency {
    fn default() -> Self {
        Self { count: 0, sum_ns: 0, min_ns: 0, max_ns: 0, stamped: 0, buckets: vec![0; Self::BUCKETS] }
    }
}

impl Latency {
    /// How many buckets there are.
    pub const BUCKETS: usize = (SUB + (LAST - FIRST + 1) as u64 * SUB) as usize;

    /// The bucket of a time; those beyond the last are in it.
    #[must_use]
    #[inline]
    pub const fn bucket(ns: u64) -> usize {
        if ns < 1 << FIRST {
            return (ns / (1 << FIRST >> 6)) as usize;
        }
        let octave = 63 - ns.leading_zeros();
        if octave > LAST {
            return Self::BUCKETS - 1;
        }
        let sub = (ns >> (octave - 6)) & (SUB - 1);
        (SUB + (octave - FIRST) as u64 * SUB + sub) as usize
    }

    /// The greatest time that falls into a bucket.
    #[must_use]
    pub const fn upper_ns(bucket: usize) -> u64 {
        let bucket = bucket as u64;
        if bucket < SUB {
            return (bucket + 1) * (1 << FIRST >> 6) - 1;
        }
        let (octave, sub) = ((bucket - SUB) / SUB + FIRST as u64, (bucket - SUB) % SUB);
        ((SUB + sub + 1) << (octave - 6)) - 1
    }

    /// Adds one.
    pub fn record(&mut self, ns: u64, stamped: bool) {
        self.min_ns = if self.count == 0 { ns } else { self.min_ns.min(ns) };
        self.max_ns = self.max_ns.max(ns);
        self.count += 1;
        self.sum_ns = self.sum_ns.saturating_add(ns);
        self.stamped += u64::from(stamped);
        self.buckets[Self::bucket(ns)] += 1;
    }

    /// Adds another's.
    pub fn add(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        self.min_ns = if self.count == 0 { other.min_ns } else { self.min_ns.min(other.min_ns) };
        self.max_ns = self.max_ns.max(other.max_ns);
        self.count += other.count;
        self.sum_ns = self.sum_ns.saturating_add(other.sum_ns);
        self.stamped += other.stamped;
        self.buckets.iter_mut().zip(&other.buckets).for_each(|(ours, theirs)| *ours += theirs);
    }

    /// The time that this share of them did not exceed; at most the greatest there was.
    #[must_use]
    pub fn quantile_ns(&self, share: f64) -> u64 {
        let wanted = ((self.count as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        let bucket = self.buckets.iter().position(|count| {
            seen += count;
            seen >= wanted
        });
        bucket.map_or(self.max_ns, |bucket| Self::upper_ns(bucket).min(self.max_ns))
    }

    /// Their mean.
    #[must_use]
    pub fn mean_ns(&self) -> u64 {
        self.sum_ns.checked_div(self.count).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_what_is_told_of_it_to_two_digits() {
        for ns in (0..100_000).chain([1 << 20, 123_456_789, 9_999_999_999]) {
            let bucket = Latency::bucket(ns);
            let upper = Latency::upper_ns(bucket);
            assert!(upper >= ns && Latency::bucket(upper) == bucket, "{ns}: {upper}");
            assert!(upper - ns <= (ns / 50).max(16), "{ns}: {upper}");
        }
        assert_eq!(Latency::bucket(u64::MAX), Latency::BUCKETS - 1);
        assert!(Latency::upper_ns(Latency::BUCKETS - 1) >= 10_000_000_000);
    }

    #[test]
    fn quantiles_are_those_of_the_times_recorded_also_after_adding() {
        let (mut all, mut odd, mut even) = (Latency::default(), Latency::default(), Latency::default());
        for us in 1..=1000u64 {
            all.record(us * 1000, true);
            if us % 2 == 1 { &mut odd } else { &mut even }.record(us * 1000, true);
        }
        odd.add(&even);
        assert_eq!(odd, all);
        assert_eq!((all.min_ns, all.max_ns, all.mean_ns(), all.stamped), (1000, 1_000_000, 500_500, 1000));
        for (share, expected) in [(0.5, 500_000), (0.99, 990_000), (1.0, 1_000_000)] {
            let got = all.quantile_ns(share);
            assert!(got >= expected && got <= expected + expected / 50, "{share}: {got}");
        }
        assert_eq!(Latency::default().quantile_ns(0.99), 0);
    }
}
