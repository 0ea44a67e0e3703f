//! The three uses of clocks: stamps that two programs compare, a schedule that no clock step disturbs, and sleep.

use std::time::Duration;

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, ClockNanosleepFlags, clock_gettime, clock_nanosleep};

const NS_PER_S: u64 = 1_000_000_000;

/// CLOCK_REALTIME in ns since the epoch: the only clock that two hosts can share.
pub(crate) fn realtime_ns() -> u64 {
    read_ns(ClockId::CLOCK_REALTIME)
}

/// CLOCK_MONOTONIC in ns: schedules and durations.
pub(crate) fn monotonic_ns() -> u64 {
    read_ns(ClockId::CLOCK_MONOTONIC)
}

fn read_ns(clock: ClockId) -> u64 {
    let time = clock_gettime(clock).expect("every Linux has CLOCK_REALTIME and CLOCK_MONOTONIC");
    time.tv_sec() as u64 * NS_PER_S + time.tv_nsec() as u64
}

/// Sleeps until CLOCK_MONOTONIC shows `at_ns`; a signal may end it early, which every caller's loop allows for.
pub(crate) fn sleep_until_ns(at_ns: u64) {
    let at = TimeSpec::from_duration(Duration::from_nanos(at_ns));
    match clock_nanosleep(ClockId::CLOCK_MONOTONIC, ClockNanosleepFlags::TIMER_ABSTIME, &at) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(errno) => panic!("clock_nanosleep refused a valid time: {errno}"),
    }
}

/// Timers of the calling thread fire on time while this lives. The default of 50 us late (PR_SET_TIMERSLACK in
/// prctl(2)) would be all of the interval at 20,000 datagrams/s.
pub(crate) struct PunctualTimers {
    slack_before_ns: Option<i32>,
}

impl PunctualTimers {
    pub(crate) fn new() -> Self {
        let slack_before_ns = prctl::get_timerslack().ok();
        // Timers that stay late make a run less even, not wrong: nothing to report.
        let _ = prctl::set_timerslack(1);
        PunctualTimers { slack_before_ns }
    }
}

impl Drop for PunctualTimers {
    fn drop(&mut self) {
        if let Some(slack_ns) = self.slack_before_ns.and_then(|ns| u64::try_from(ns).ok()) {
            let _ = prctl::set_timerslack(slack_ns as libc::c_ulong);
        }
    }
}
