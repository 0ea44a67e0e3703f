//! Rate caps, as a virtual clock (the generic cell rate algorithm, ITU-T I.371): each datagram admitted moves the clock on by
//! the time it may take at the capped rate, and one is refused while the clock is more than a burst ahead of now.

use std::{cell::Cell, rc::Rc};

use mcr_proto::endpoint::Rate;

use super::Run;

/// How far ahead of the rate a burst may run. Video frames and polling senders burst at 40 to 50 ms.
const BURST_NS: u64 = 50_000_000;
const NS_PER_S: u64 = 1_000_000_000;

/// Stands for a clock as far ahead as it can be.
const SPENT: u64 = u64::MAX;

/// What is left of a rate. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Bucket {
    rate: Rate,
    clock_ns: Rc<Cell<u64>>,
}

impl Bucket {
    pub(super) fn new(rate: Rate) -> Self {
        Self { rate, clock_ns: Rc::new(Cell::new(0)) }
    }

    /// One whose burst somebody else may have used a moment ago; who keeps to the rate finds room nevertheless.
    pub(super) fn spent(rate: Rate) -> Self {
        Self { rate, clock_ns: Rc::new(Cell::new(SPENT)) }
    }

    pub(super) fn rate(&self) -> Rate {
        self.rate
    }

    /// How many datagrams of the run, from its first, may be sent.
    pub(super) fn take(&mut self, run: &Run, now_ns: u64) -> u32 {
        self.take_each(run.datagrams(), |datagram| run.bytes(datagram, 1), now_ns)
    }

    /// How many of so many datagrams, each of so many bytes, may go on.
    pub(super) fn take_each(&mut self, datagrams: u32, bytes: impl Fn(u32) -> u32, now_ns: u64) -> u32 {
        let limit_ns = now_ns.saturating_add(BURST_NS);
        let mut clock_ns = match self.clock_ns.get() {
            SPENT => limit_ns.saturating_sub(1),
            clock_ns => clock_ns.max(now_ns),
        };
        let mut admitted = 0;
        // The clock may stand at the limit but not beyond, so that even a rate of less than one a burst admits one.
        while admitted < datagrams && clock_ns < limit_ns {
            clock_ns = clock_ns.saturating_add(self.cost_ns(bytes(admitted))).min(SPENT - 1);
            admitted += 1;
        }
        self.clock_ns.set(clock_ns);
        admitted
    }

    fn cost_ns(&self, payload_bytes: u32) -> u64 {
        match self.rate {
            Rate::PacketsPerSecond(rate) => NS_PER_S.div_ceil(rate.max(1)),
            Rate::BitsPerSecond(rate) => {
                let bits = u64::from(payload_bytes) * 8;
                (bits * NS_PER_S).div_ceil(rate.max(1))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::engine::Part;

    const STEP_NS: u64 = 1_000_000;

    fn run(datagrams: u32, bytes: u16) -> Run {
        let mut run = Run::new();
        for frame in 0..datagrams {
            let part = Part { frame, offset: 0, bytes: bytes.into() };
            assert_eq!(run.push(part, 0), None, "the run has room");
        }
        run
    }

    /// Offers a run each millisecond for as many milliseconds, and returns how many datagrams were admitted.
    fn offer(bucket: &mut Bucket, run: &Run, from_ms: u64, steps: u64) -> u64 {
        (from_ms..from_ms + steps).map(|ms| u64::from(bucket.take(run, ms * STEP_NS))).sum()
    }

    #[test]
    fn a_rate_in_datagrams_is_held_and_used_in_full() {
        for rate in [1, 10, 999, 10_000, 60_000] {
            let mut bucket = Bucket::new(Rate::PacketsPerSecond(rate));
            // Any start: the clock is monotonic, not zero-based.
            let admitted = offer(&mut bucket, &run(64, 100), 1_000_000, 10_000);
            let burst = rate * BURST_NS / NS_PER_S + 1;
            assert!(admitted <= rate * 10 + burst, "{admitted} at {rate} pps");
            assert!(admitted >= rate * 10 * 999 / 1000, "{admitted} at {rate} pps");
        }
    }

    #[test]
    fn a_rate_in_bits_is_held_and_used_in_full() {
        let run = run(40, 1400);
        for rate in [100_000, 8_000_000, 300_000_000] {
            let mut bucket = Bucket::new(Rate::BitsPerSecond(rate));
            let bits = offer(&mut bucket, &run, 1_000_000, 10_000) * 1400 * 8;
            let burst = rate * BURST_NS / NS_PER_S + 1400 * 8;
            assert!(bits <= rate * 10 + burst, "{bits} bits at {rate}");
            assert!(bits + 1400 * 8 >= rate * 10 * 999 / 1000, "{bits} bits at {rate}");
        }
    }

    #[test]
    fn less_than_the_rate_passes_untouched() {
        let mut bucket = Bucket::new(Rate::PacketsPerSecond(1000));
        assert_eq!(offer(&mut bucket, &run(1, 100), 0, 60_000), 60_000);
    }

    #[test]
    fn a_burst_of_fifty_milliseconds_passes_at_once_and_no_more() {
        let mut bucket = Bucket::new(Rate::PacketsPerSecond(1000));
        assert_eq!(bucket.take(&run(64, 100), 5 * NS_PER_S), 50);
        assert_eq!(bucket.take(&run(64, 100), 5 * NS_PER_S), 0);
        // Idle time is not saved up beyond a burst.
        assert_eq!(bucket.take(&run(64, 100), 500 * NS_PER_S), 50);
    }

    #[test]
    fn a_spent_one_has_room_for_the_rate_and_for_no_burst() {
        let mut bucket = Bucket::spent(Rate::PacketsPerSecond(1000));
        assert_eq!(offer(&mut bucket, &run(1, 100), 5_000, 1_000), 1_000);
        let mut bucket = Bucket::spent(Rate::PacketsPerSecond(1000));
        assert_eq!(offer(&mut bucket, &run(64, 100), 5_000, 1_000), 1_000);
    }

    #[test]
    fn clones_share_one_rate() {
        let mut bucket = Bucket::new(Rate::PacketsPerSecond(1000));
        let mut other = bucket.clone();
        assert_eq!((bucket.take(&run(30, 100), 0), other.take(&run(64, 100), 0)), (30, 20));
    }

    #[test]
    fn the_slowest_rate_admits_the_largest_datagram_and_then_pays_for_it() {
        let mut bucket = Bucket::new(Rate::BitsPerSecond(1));
        assert_eq!(bucket.take(&run(1, 65_507), 0), 1);
        let paid_ns = 65_507 * 8 * NS_PER_S;
        assert_eq!(bucket.take(&run(1, 1), paid_ns - BURST_NS), 0);
        assert_eq!(bucket.take(&run(1, 1), paid_ns), 1);
    }

    proptest! {
        #[test]
        fn a_rate_is_held_over_any_time_and_never_starves(
            packets in any::<bool>(),
            rate in 1u64..2_000_000_000,
            offers in prop::collection::vec((1u32..=64, 1u16..=1000, 0u64..200_000_000), 1..50),
        ) {
            let capped = if packets { Rate::PacketsPerSecond(rate) } else { Rate::BitsPerSecond(rate) };
            let mut bucket = Bucket::new(capped);
            let (mut now_ns, mut admitted_units, mut largest) = (0, 0u128, 0u128);
            for (datagrams, bytes, later_ns) in offers {
                now_ns += later_ns;
                let run = run(datagrams, bytes);
                let unit = if packets { 1 } else { u128::from(bytes) * 8 };
                largest = largest.max(unit);
                admitted_units += u128::from(bucket.take(&run, now_ns)) * unit;
                let allowed = u128::from(rate) * u128::from(now_ns + BURST_NS) / u128::from(NS_PER_S);
                prop_assert!(admitted_units <= allowed + largest + 1);
            }
            // Whatever was sent is paid for in due time.
            let paid_ns = admitted_units * u128::from(NS_PER_S) / u128::from(rate) + u128::from(now_ns) + 50 * 64;
            if let Ok(paid_ns) = u64::try_from(paid_ns) {
                prop_assert!(bucket.take(&run(1, 1), paid_ns) == 1);
            }
        }
    }
}
