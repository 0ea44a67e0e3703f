//! The clocks that counters, signs of life and costs are told by.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// What the kernel's programs and the children stamp with.
pub(crate) fn monotonic_ns() -> u64 {
    ns(ClockId::CLOCK_MONOTONIC)
}

/// What the kernel stamps frames with: nanoseconds since 1970.
pub(crate) fn realtime_ns() -> u64 {
    ns(ClockId::CLOCK_REALTIME)
}

/// What is to be added to the monotonic clock's time for that since 1970.
pub(crate) fn wall_offset_ns() -> u64 {
    ns(ClockId::CLOCK_REALTIME).saturating_sub(monotonic_ns())
}

/// The processor time that the calling thread has taken.
pub(crate) fn thread_time() -> Duration {
    Duration::from_nanos(ns(ClockId::CLOCK_THREAD_CPUTIME_ID))
}

/// Linux has these clocks; 0 makes every age 0.
fn ns(clock: ClockId) -> u64 {
    clock_gettime(clock).map_or(0, |time| Duration::from(time).as_nanos() as u64)
}
