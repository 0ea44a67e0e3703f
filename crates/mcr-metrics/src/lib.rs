//! Counters in shared memory.
//!
//! The supervisor makes one [`Segment`] for each worker and keeps it for as long as it lives, so counters outlast a worker
//! that dies and never go back. The worker gets it writable, control read-only. Each counter has one writer: a worker its
//! own segment, but for [`InputDrop::KernelRing`](mcr_proto::counters::InputDrop::KernelRing) and
//! [`InputDrop::ClassFull`](mcr_proto::counters::InputDrop::ClassFull), which the supervisor writes because it owns the sockets. So a write is a load and a store, no locked instruction, and a read needs no answer from anyone.
//!
//! A rule's slots are the same in every segment; what it relayed is the sum over the segments, whichever worker carried it.
//! A slot is cleared, by the supervisor, only when no worker has the rule any more.
//!
//! What is not here: who has which slot (the supervisor), rates and names (control).

pub mod clock;
mod flows;
mod latency;
mod layout;
mod mapping;
mod numbers;
pub mod prometheus;
mod segment;
pub mod trace;

pub use flows::{FlowCounters, FlowSum};
pub use latency::{LATENCY_BUCKETS, LatencyCounters, LatencySum};
pub use layout::{
    Counter, Header, INPUT_SLOTS, InputCounters, OUTPUT_SLOTS, OutputCounters, RULE_SLOTS, RuleCounters,
    SEGMENT_BYTES, SendErrors,
};
pub use mapping::{Access, AttachError};
pub use numbers::Numbers;
pub use segment::Segment;

use mcr_proto::plan::{OutputSlot, RuleSlot};

/// What a rule relayed, over all workers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RuleSum {
    /// Datagrams that matched.
    pub datagrams: u64,
    /// Their payload bytes.
    pub bytes: u64,
    /// When the last one came, in nanoseconds since 1970; 0 if none did.
    pub last_seen_ns: u64,
    /// Different flows.
    pub flows: u64,
    /// When the first one came, in nanoseconds since 1970; 0 if none did.
    pub first_seen_ns: u64,
    /// The longest time between two arrivals, in nanoseconds; none before the second, and where they are not seen one by one.
    pub gap_max_ns: Option<u64>,
    /// How much the time between arrivals varies, in nanoseconds, as in RFC 3550, where the rule was seen last; none before the third
    /// arrival, and where they are not seen one by one.
    pub jitter_ns: Option<u64>,
}

/// What an output sent and dropped, over all workers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OutputSum {
    /// Datagrams handed to the kernel.
    pub copies: u64,
    /// Their payload bytes.
    pub bytes: u64,
    /// Copies not sent, indexed by [`mcr_proto::counters::OutputDrop`].
    pub drops: [u64; mcr_proto::counters::OutputDrop::COUNT],
    /// The failed sends by errno; 0 stands for "any other".
    pub send_errors: std::collections::BTreeMap<i32, u64>,
}

/// Sums a rule's counters over `segments`.
pub fn sum_rule(segments: &[Segment], slot: RuleSlot) -> RuleSum {
    segments.iter().fold(RuleSum::default(), |sum, segment| {
        let counters = segment.rule(slot);
        let (last, first) = (counters.last_seen_ns.get(), counters.first_seen_ns.get());
        RuleSum {
            datagrams: sum.datagrams + counters.datagrams.get(),
            bytes: sum.bytes + counters.bytes.get(),
            last_seen_ns: sum.last_seen_ns.max(last),
            flows: sum.flows + counters.flows.get(),
            first_seen_ns: [sum.first_seen_ns, first].into_iter().filter(|ns| *ns != 0).min().unwrap_or(0),
            gap_max_ns: sum.gap_max_ns.max(counters.gap_max_ns()),
            jitter_ns: if last > sum.last_seen_ns { counters.jitter_ns() } else { sum.jitter_ns },
        }
    })
}

/// Sums a rule's latencies over `segments`.
pub fn sum_latency(segments: &[Segment], slot: RuleSlot) -> LatencySum {
    let mut sum = LatencySum::default();
    // Looking at pages that were never written would take memory for them.
    for segment in segments.iter().filter(|segment| segment.rule(slot).is_timed()) {
        sum.take_in(segment.latency(slot));
    }
    sum
}

/// Sums an output's counters over `segments`.
pub fn sum_output(segments: &[Segment], slot: OutputSlot) -> OutputSum {
    let mut sum = OutputSum::default();
    for segment in segments {
        let counters = segment.output(slot);
        sum.copies += counters.copies.get();
        sum.bytes += counters.bytes.get();
        for (total, drop) in sum.drops.iter_mut().zip(&counters.drops) {
            *total += drop.get();
        }
        for (errno, count) in counters.send_errors.counts() {
            *sum.send_errors.entry(errno).or_default() += count;
        }
    }
    sum
}
