//! The clocks that stamps in shared memory are told by: the same ones for whoever writes and whoever reads. Neither call enters the
//! kernel where it has a vDSO.

use nix::time::{ClockId, clock_gettime};

const NS_PER_S: u64 = 1_000_000_000;

/// What signs of life are told by, and what the kernel's programs stamp with: nanoseconds since some moment before the start.
#[inline]
pub fn monotonic_ns() -> u64 {
    read_ns(ClockId::CLOCK_MONOTONIC)
}

/// What the kernel stamps frames with: nanoseconds since 1970.
#[inline]
pub fn realtime_ns() -> u64 {
    read_ns(ClockId::CLOCK_REALTIME)
}

/// Every Linux has both clocks (clock_gettime(2)); 0 makes every age 0.
#[inline]
fn read_ns(clock: ClockId) -> u64 {
    clock_gettime(clock).map_or(0, |time| time.tv_sec() as u64 * NS_PER_S + time.tv_nsec() as u64)
}
