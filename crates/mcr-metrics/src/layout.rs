//! What lies where in a segment: one header page, then three tables of equal rows.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use mcr_proto::counters::{InputDrop, OutputDrop};

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
    /// The worker's monotonic clock at its last turn, in nanoseconds.
    pub heartbeat_ns: Counter,
    /// Turns of the worker's loop.
    pub turns: Counter,
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
        self.datagrams.get() + self.drops[InputDrop::KernelRing as usize].get() + self.unseen.get()
    }

    /// Datagrams that no rule got, by reason.
    pub fn dropped(&self, reason: InputDrop) -> u64 {
        let unseen = if reason == InputDrop::WorkerLost { self.unseen.get() } else { 0 };
        self.drops[reason as usize].get() + unseen
    }
}

/// Counters of one rule.
#[derive(Debug)]
#[repr(C, align(32))]
pub struct RuleCounters {
    /// Datagrams that matched.
    pub datagrams: Counter,
    /// Their payload bytes.
    pub bytes: Counter,
    /// When the last one came, in nanoseconds since 1970.
    pub last_seen_ns: Counter,
    /// Different flows.
    pub flows: Counter,
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
}

/// Size of a segment in bytes. Pages that were never written take no memory.
pub const SEGMENT_BYTES: usize = size_of::<Layout>();

pub(crate) const MAGIC: u64 = u64::from_be_bytes(*b"MCRCOUNT");
/// Changes with every size in the layout, so that two builds that disagree refuse each other.
pub(crate) const LAYOUT: u64 = 1 << 48 | SEGMENT_BYTES as u64;

#[cfg(test)]
mod tests {
    use super::*;

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
