//! What lies where in a segment: one header page, then tables of equal rows, and what traces show.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use mcr_proto::counters::{FLOWS_MAX, InputDrop, OutputDrop};

use crate::{FlowCounters, LatencyCounters, trace::Trace};

/// Inputs a worker can have: one for each interface and data path.
pub const INPUT_SLOTS: usize = 1024;
/// Rules a daemon can have.
pub const RULE_SLOTS: usize = 65_536;
/// Outputs all rules together can have.
pub const OUTPUT_SLOTS: usize = 262_144;

/// A number that one thread writes and any process reads.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds; for the counter's one writer. Two writers would lose counts, not memory safety.
    #[inline]
    pub fn add(&self, count: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(count), Relaxed);
    }

    /// Sets; for the counter's one writer.
    #[inline]
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    /// Reads.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// The first page of a segment.
#[derive(Debug)]
#[repr(C, align(4096))]
pub struct Header {
    /// Says that this is a segment.
    pub(crate) magic: AtomicU64,
    /// The layout's version and its sizes, as one number.
    pub(crate) layout: AtomicU64,
    /// The worker's monotonic clock at its last turn, in nanoseconds; of the kernel data path, when its counts were brought here.
    pub heartbeat_ns: Counter,
    /// Turns of the worker: batches relayed, or seen that there is none.
    pub turns: Counter,
    /// Rows of flows that were ever in use: from the first on.
    pub(crate) flow_rows: Counter,
    /// Datagrams of flows that found no row, of all rules together.
    pub(crate) flow_overflow: Counter,
}

/// Counters of one input.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct InputCounters {
    /// Frames taken from the kernel.
    pub frames: Counter,
    /// Datagrams taken from the kernel.
    pub datagrams: Counter,
    /// Their payload bytes.
    pub bytes: Counter,
    /// Datagrams that at least one rule took.
    pub matched: Counter,
    /// Datagrams that no rule got, indexed by [`InputDrop`], without those of `unseen`.
    pub drops: [Counter; InputDrop::COUNT],
    /// Frames that a worker took from the kernel and died before it counted them; the supervisor writes it.
    pub unseen: Counter,
}

impl InputCounters {
    /// Datagrams that came, those that the kernel dropped and those a dying worker took along included.
    pub fn received(&self) -> u64 {
        // The kernel's drops, under either name.
        let kernel =
            [InputDrop::KernelRing, InputDrop::ClassFull].map(|reason| self.drops[reason as usize].get());
        self.datagrams.get() + kernel.iter().sum::<u64>() + self.unseen.get()
    }

    /// Datagrams that no rule got, by reason.
    pub fn dropped(&self, reason: InputDrop) -> u64 {
        let unseen = if reason == InputDrop::WorkerLost { self.unseen.get() } else { 0 };
        self.drops[reason as usize].get() + unseen
    }
}

/// Counters of one rule: one line of the cache.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct RuleCounters {
    /// Datagrams that matched.
    pub datagrams: Counter,
    /// Their payload bytes.
    pub bytes: Counter,
    /// When the last one came, in nanoseconds since 1970.
    pub last_seen_ns: Counter,
    /// Different flows.
    pub flows: Counter,
    /// When the first one came, in nanoseconds since 1970.
    pub first_seen_ns: Counter,
    /// The longest time between two arrivals and 1, in nanoseconds; 0 while none was seen.
    gap_max: Counter,
    /// Sixteen times the jitter, in nanoseconds (RFC 3550, A.8 keeps it so), its lowest bit set; 0 while none was seen.
    jitter_16: Counter,
    /// The time between the last two arrivals and [`INTERVAL`], in nanoseconds; less says why there is none.
    interval: Counter,
}

/// What [`RuleCounters::interval`] says before the first arrival.
const NEVER: u64 = 0;
/// What it says while the next arrival follows none: after a pause that is no gap.
const PAUSED: u64 = 1;
/// What it says after an arrival that followed none.
const ONCE: u64 = 2;
/// What an interval of nothing is.
const INTERVAL: u64 = 3;

impl RuleCounters {
    /// Counts datagrams that came together at `now_ns`, nanoseconds since 1970; for the one writer.
    #[inline]
    pub fn arrived(&self, datagrams: u64, bytes: u64, now_ns: u64) {
        self.datagrams.add(datagrams);
        self.bytes.add(bytes);
        let (before_ns, interval) = (self.last_seen_ns.get(), self.interval.get());
        self.last_seen_ns.set(now_ns);
        if interval < ONCE {
            return self.begin(now_ns);
        }
        // A clock that is set back gives no gap.
        let gap = now_ns.saturating_sub(before_ns);
        if gap >= self.gap_max.get() {
            self.gap_max.set(gap.saturating_add(1));
        }
        if interval != ONCE {
            // RFC 3550, A.8; without time stamps of the sender, an interval is compared with the one before.
            let jitter = self.jitter_16.get();
            let change = gap.abs_diff(interval - INTERVAL);
            self.jitter_16.set(jitter.saturating_sub((jitter + 8) >> 4).saturating_add(change) | 1);
        }
        self.interval.set(gap.saturating_add(INTERVAL));
    }

    #[cold]
    fn begin(&self, now_ns: u64) {
        self.note_first(now_ns);
        self.interval.set(ONCE);
    }

    /// Counts datagrams of which only the number and the time of the last are known; for the one writer.
    pub fn told(&self, datagrams: u64, bytes: u64, first_ns: u64, last_ns: u64) {
        self.datagrams.add(datagrams);
        self.bytes.add(bytes);
        if datagrams > 0 {
            self.note_first(first_ns);
            self.last_seen_ns.set(last_ns);
        }
    }

    /// Notes the longest gap and the jitter of datagrams that were not seen one by one, as far as they are known; for the one writer.
    pub fn told_times(&self, gap_max_ns: Option<u64>, jitter_ns: Option<u64>) {
        if let Some(gap) = gap_max_ns {
            self.gap_max.set(self.gap_max.get().max(gap.saturating_add(1)));
        }
        if let Some(jitter) = jitter_ns {
            self.jitter_16.set(jitter.saturating_mul(16) | 1);
        }
    }

    fn note_first(&self, first_ns: u64) {
        if self.first_seen_ns.get() == 0 {
            self.first_seen_ns.set(first_ns);
        }
    }

    /// Notes that the worker gives the rule up: until it has it again there is no gap. For the one writer.
    pub fn given_up(&self) {
        if self.interval.get() != NEVER {
            self.interval.set(PAUSED);
        }
    }

    /// Whether each arrival was seen by itself, so that there may be times of it.
    pub fn is_timed(&self) -> bool {
        self.interval.get() != NEVER
    }

    /// The longest time between two arrivals, in nanoseconds; none before the second, and where nobody knows.
    pub fn gap_max_ns(&self) -> Option<u64> {
        self.gap_max.get().checked_sub(1)
    }

    /// How much the time between arrivals varies, in nanoseconds, as in RFC 3550; none before the third, and where they are not seen
    /// one by one.
    pub fn jitter_ns(&self) -> Option<u64> {
        Some(self.jitter_16.get()).filter(|jitter| *jitter != 0).map(|jitter| jitter >> 4)
    }

    pub(crate) fn counters(&self) -> [&Counter; 8] {
        let Self { datagrams, bytes, last_seen_ns, flows, first_seen_ns, gap_max, jitter_16, interval } =
            self;
        [datagrams, bytes, last_seen_ns, flows, first_seen_ns, gap_max, jitter_16, interval]
    }
}

/// Counters of one output.
#[derive(Debug)]
#[repr(C, align(128))]
pub struct OutputCounters {
    /// Datagrams handed to the kernel.
    pub copies: Counter,
    /// Their payload bytes.
    pub bytes: Counter,
    /// Copies not sent, indexed by [`OutputDrop`].
    pub drops: [Counter; OutputDrop::COUNT],
    /// The failed sends, by errno.
    pub send_errors: SendErrors,
}

const ERRNO_PLACES: usize = 4;
const COUNT_BITS: u32 = 48;

/// Failed sends by errno: the first few kinds each have a place, all further ones share the last as errno 0.
#[derive(Debug)]
#[repr(transparent)]
pub struct SendErrors([Counter; ERRNO_PLACES]);

impl SendErrors {
    /// Counts `datagrams` that failed with `errno`; for the one writer.
    pub fn add(&self, errno: i32, datagrams: u64) {
        const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;
        let errno = u64::from(errno.unsigned_abs()) & 0xffff;
        let (shared, own) = self.0.split_last().expect("a fixed, non-empty array");
        for place in own {
            let value = place.get();
            if value == 0 || value >> COUNT_BITS == errno {
                place.set(errno << COUNT_BITS | ((value & COUNT_MASK) + datagrams) & COUNT_MASK);
                return;
            }
        }
        shared.set((shared.get() + datagrams) & COUNT_MASK);
    }

    pub(crate) fn places(&self) -> &[Counter] {
        &self.0
    }

    /// Every errno seen with its count; errno 0 stands for all that found no place.
    pub fn counts(&self) -> impl Iterator<Item = (i32, u64)> + '_ {
        self.0
            .iter()
            .map(Counter::get)
            .filter(|value| *value != 0)
            .map(|value| (i32::try_from(value >> COUNT_BITS).unwrap_or(0), value & ((1 << COUNT_BITS) - 1)))
    }
}

/// A segment as it lies in memory.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Layout {
    pub(crate) header: Header,
    pub(crate) inputs: [InputCounters; INPUT_SLOTS],
    pub(crate) rules: [RuleCounters; RULE_SLOTS],
    pub(crate) outputs: [OutputCounters; OUTPUT_SLOTS],
    pub(crate) latencies: [LatencyCounters; RULE_SLOTS],
    pub(crate) flows: [FlowCounters; FLOWS_MAX],
    /// Datagrams of flows that found no row, by rule.
    pub(crate) flow_overflows: [Counter; RULE_SLOTS],
    pub(crate) trace: Trace,
}

/// Size of a segment in bytes. Pages that were never written take no memory.
pub const SEGMENT_BYTES: usize = size_of::<Layout>();

pub(crate) const MAGIC: u64 = u64::from_be_bytes(*b"MCRCOUNT");
/// Changes with every size in the layout, so that two builds that disagree refuse each other.
pub(crate) const LAYOUT: u64 = 3 << 48 | SEGMENT_BYTES as u64;

#[cfg(test)]
mod tests {
    use super::*;

    fn rule() -> RuleCounters {
        RuleCounters {
            datagrams: Counter::default(),
            bytes: Counter::default(),
            last_seen_ns: Counter::default(),
            flows: Counter::default(),
            first_seen_ns: Counter::default(),
            gap_max: Counter::default(),
            jitter_16: Counter::default(),
            interval: Counter::default(),
        }
    }

    #[test]
    fn the_longest_gap_is_between_two_arrivals_and_not_where_the_rule_was_elsewhere() {
        let rule = rule();
        rule.given_up();
        assert!(!rule.is_timed());
        for now_ns in [1_000, 1_500, 3_000, 3_100] {
            rule.arrived(1, 10, now_ns);
        }
        assert_eq!((rule.gap_max_ns(), rule.first_seen_ns.get()), (Some(1_500), 1_000));
        rule.given_up();
        rule.arrived(2, 20, 1_000_000);
        assert_eq!((rule.gap_max_ns(), rule.first_seen_ns.get()), (Some(1_500), 1_000));
        rule.arrived(1, 10, 1_002_000);
        assert_eq!((rule.gap_max_ns(), rule.last_seen_ns.get()), (Some(2_000), 1_002_000));
        rule.arrived(1, 10, 900_000);
        assert_eq!((rule.gap_max_ns(), rule.datagrams.get(), rule.bytes.get()), (Some(2_000), 8, 80));
    }

    #[test]
    fn there_is_no_gap_before_two_arrivals_and_no_jitter_before_three() {
        let rule = rule();
        let times = || (rule.is_timed(), rule.gap_max_ns(), rule.jitter_ns());
        assert_eq!(times(), (false, None, None));
        // A superframe is many datagrams that came as one.
        rule.arrived(40, 400, 1_000);
        assert_eq!(times(), (true, None, None));
        rule.arrived(1, 10, 1_000);
        assert_eq!(times(), (true, Some(0), None));
        rule.arrived(1, 10, 1_000);
        assert_eq!(times(), (true, Some(0), Some(0)));
    }

    #[test]
    fn what_is_only_told_of_has_a_first_and_a_last_time_and_the_others_that_are_told() {
        let rule = rule();
        rule.told(0, 0, 0, 0);
        assert_eq!((rule.first_seen_ns.get(), rule.last_seen_ns.get()), (0, 0));
        rule.told(5, 50, 100, 200);
        rule.told(5, 50, 300, 400);
        rule.told(0, 0, 0, 0);
        assert_eq!((rule.first_seen_ns.get(), rule.last_seen_ns.get()), (100, 400));
        assert_eq!((rule.datagrams.get(), rule.bytes.get()), (10, 100));
        assert_eq!((rule.is_timed(), rule.gap_max_ns(), rule.jitter_ns()), (false, None, None));
        rule.told_times(Some(7_000), None);
        assert_eq!((rule.is_timed(), rule.gap_max_ns(), rule.jitter_ns()), (false, Some(7_000), None));
        // Who tells may have begun anew.
        rule.told_times(Some(5_000), Some(30));
        rule.told_times(None, None);
        assert_eq!((rule.is_timed(), rule.gap_max_ns(), rule.jitter_ns()), (false, Some(7_000), Some(30)));
        rule.told_times(Some(8_000), Some(0));
        assert_eq!((rule.gap_max_ns(), rule.jitter_ns()), (Some(8_000), Some(0)));
    }

    #[test]
    fn jitter_is_that_of_rfc_3550() {
        let steady = rule();
        (1..=100).for_each(|n| steady.arrived(1, 1, n * 1_000));
        assert_eq!(steady.jitter_ns(), Some(0));
        let (uneven, mut now_ns, mut want) = (rule(), 5, 0.0_f64);
        let gaps = [0, 100, 2_000, 0, 0, 50, 1_000_000, 1_000_000, 3];
        let mut before = None;
        uneven.arrived(1, 1, now_ns);
        for gap in gaps.into_iter().cycle().take(900) {
            now_ns += gap;
            uneven.arrived(1, 1, now_ns);
            if let Some(before) = before.replace(gap) {
                want += (gap.abs_diff(before) as f64 - want) / 16.0;
            }
        }
        let got = uneven.jitter_ns().expect("many arrivals") as f64;
        assert!((got - want).abs() <= 2.0, "{got} for {want}");
    }

    #[test]
    fn errors_beyond_the_places_are_counted_together() {
        let errors = SendErrors(Default::default());
        for errno in [1, 101, 101, 113, 90, 11, 13] {
            errors.add(errno, 2);
        }
        let counts: Vec<_> = errors.counts().collect();
        assert_eq!(counts, [(1, 2), (101, 4), (113, 2), (0, 6)]);
    }
}
