//! What the programs counted since it was last asked.

use std::net::SocketAddr;

use mcr_proto::{
    counters::{InputDrop, OutputDrop},
    plan::{OutputSlot, RuleSlot},
};

use crate::layout::{InputCounts, OutputCounts, RuleCounts};

/// What one input, rule or output counted since it was last told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delta {
    /// An interface's input. Only datagrams of rules are counted: all else is none of the program's business.
    Input {
        /// The interface.
        ifindex: u32,
        /// Frames, superframes as one.
        frames: u64,
        /// Datagrams.
        datagrams: u64,
        /// Their payload bytes.
        bytes: u64,
        /// Datagrams that at least one rule took.
        matched: u64,
        /// Datagrams that none got, by reason.
        drops: [(InputDrop, u64); 5],
    },
    /// A flow of a rule, after the rule itself.
    Flow {
        /// Whose.
        slot: RuleSlot,
        /// Who sends.
        source: SocketAddr,
        /// Datagrams.
        datagrams: u64,
        /// Their payload bytes.
        bytes: u64,
        /// When the first one came, by the monotonic clock.
        first_seen_ns: u64,
        /// When the last one came, by the same clock.
        last_seen_ns: u64,
    },
    /// A rule.
    Rule {
        /// Which.
        slot: RuleSlot,
        /// Datagrams that matched.
        datagrams: u64,
        /// Their payload bytes.
        bytes: u64,
        /// When the first one came since the rule is there, by the monotonic clock (with a few milliseconds' resolution).
        first_seen_ns: u64,
        /// When the last one came, by the same clock.
        last_seen_ns: u64,
        /// Flows not seen before.
        flows: u64,
        /// Datagrams of flows that found no place in the table.
        flow_overflow: u64,
        /// Gaps and jitter.
        times: Times,
    },
    /// An output.
    Output {
        /// Which.
        slot: OutputSlot,
        /// Copies handed to the kernel.
        copies: u64,
        /// Their payload bytes.
        bytes: u64,
        /// Copies not sent, by reason.
        drops: [(OutputDrop, u64); 6],
        /// How many of the send errors were of which errno; others of another.
        errno: Option<(i32, u64)>,
    },
}

/// Times between a rule's arrivals, since the rule is there or the maps have grown; superframes are one arrival.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Times {
    /// The longest time between two arrivals, to a few milliseconds; none while all came within a tick of the kernel's clock.
    pub gap_max_ns: Option<u64>,
    /// How much the time between arrivals varies (RFC 3550), from samples of three in a row, by the CPU that saw the last datagram;
    /// none before the first sample.
    pub jitter_ns: Option<u64>,
}

/// In the order of `enum input_drop`.
pub(crate) const INPUT_DROPS: [InputDrop; 5] =
    [InputDrop::Malformed, InputDrop::NotUdp, InputDrop::Fragment, InputDrop::Checksum, InputDrop::HopLimit];
/// In the order of `enum output_drop`.
pub(crate) const OUTPUT_DROPS: [OutputDrop; 6] = [
    OutputDrop::SendError,
    OutputDrop::QueueFull,
    OutputDrop::TooBig,
    OutputDrop::NoRoute,
    OutputDrop::NoNeighbour,
    OutputDrop::HopLimit,
];

const ERRNO_SHIFT: u32 = 48;

/// Counts of all CPUs as one, and the difference to what was told.
pub(crate) trait Counts: Copy + Default + PartialEq {
    fn sum(self, other: Self) -> Self;
}

impl Counts for InputCounts {
    fn sum(self, other: Self) -> Self {
        Self {
            frames: self.frames + other.frames,
            datagrams: self.datagrams + other.datagrams,
            bytes: self.bytes + other.bytes,
            matched: self.matched + other.matched,
            drops: std::array::from_fn(|index| self.drops[index] + other.drops[index]),
        }
    }
}

impl Counts for RuleCounts {
    fn sum(self, other: Self) -> Self {
        Self {
            datagrams: self.datagrams + other.datagrams,
            bytes: self.bytes + other.bytes,
            // A CPU that saw none has no time.
            first_ns: [self.first_ns, other.first_ns].into_iter().filter(|ns| *ns != 0).min().unwrap_or(0),
            last_ns: self.last_ns.max(other.last_ns),
            flows: self.flows + other.flows,
            overflow: self.overflow + other.overflow,
            ..Self::default()
        }
    }
}

impl Counts for OutputCounts {
    fn sum(self, other: Self) -> Self {
        let (low, high) = (self.errno_and_count, other.errno_and_count);
        Self {
            copies: self.copies + other.copies,
            bytes: self.bytes + other.bytes,
            drops: std::array::from_fn(|index| self.drops[index] + other.drops[index]),
            // CPUs that saw different errors first: those of the second are told without theirs.
            errno_and_count: match (low, high) {
                (0, only) | (only, 0) => only,
                _ if low >> ERRNO_SHIFT == high >> ERRNO_SHIFT => low + (high & ((1 << ERRNO_SHIFT) - 1)),
                _ => low,
            },
        }
    }
}

impl InputCounts {
    pub(crate) fn since(self, told: Self, ifindex: u32) -> Delta {
        Delta::Input {
            ifindex,
            frames: self.frames - told.frames,
            datagrams: self.datagrams - told.datagrams,
            bytes: self.bytes - told.bytes,
            matched: self.matched - told.matched,
            drops: std::array::from_fn(|index| (INPUT_DROPS[index], self.drops[index] - told.drops[index])),
        }
    }
}

impl RuleCounts {
    pub(crate) fn since(self, told: Self, slot: RuleSlot, times: Times) -> Delta {
        Delta::Rule {
            slot,
            datagrams: self.datagrams - told.datagrams,
            bytes: self.bytes - told.bytes,
            first_seen_ns: self.first_ns,
            last_seen_ns: self.last_ns,
            flows: self.flows - told.flows,
            // What a CPU has not told its flow yet is counted here, too, and on its way was in neither place.
            flow_overflow: self.overflow.saturating_sub(told.overflow),
            times,
        }
    }
}

impl OutputCounts {
    pub(crate) fn since(self, told: Self, slot: OutputSlot) -> Delta {
        let errors = |word: u64| word & ((1 << ERRNO_SHIFT) - 1);
        let errno = (self.errno_and_count >> ERRNO_SHIFT) as i32;
        let new = errors(self.errno_and_count).saturating_sub(errors(told.errno_and_count));
        Delta::Output {
            slot,
            copies: self.copies - told.copies,
            bytes: self.bytes - told.bytes,
            drops: std::array::from_fn(|index| (OUTPUT_DROPS[index], self.drops[index] - told.drops[index])),
            errno: (new > 0).then_some((errno, new)),
        }
    }
}
