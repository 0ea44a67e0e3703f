//! The clocks that counters, signs of life and costs are told by.

use std::time::Duration;

pub(crate) use mcr_metrics::clock::{monotonic_ns, realtime_ns};
use nix::time::{ClockId, clock_gettime};

/// What is to be added to the monotonic clock's time for that since 1970.
pub(crate) fn wall_offset_ns() -> u64 {
    realtime_ns().saturating_sub(monotonic_ns())
}

/// The processor time that the calling thread has taken. Linux has this clock.
pub(crate) fn thread_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}
