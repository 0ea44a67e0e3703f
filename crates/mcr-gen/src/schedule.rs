//! Which message goes when, to which flow: pure arithmetic, no clock, no socket.
//!
//! A message is what one send hands to the kernel: one datagram, or with GSO as many as fit a superframe. Message i
//! belongs to flow i % flows and is due i intervals after the start, by integer arithmetic on i, so no error adds up
//! however long the run.

use std::ops::Range;
use std::time::Duration;

const NS_PER_S: u128 = 1_000_000_000;

/// Messages closer together than this are waited for in groups: a sleep for each would cost more than sending them.
const GROUP_BELOW_NS: u64 = 50_000;
/// How much schedule such a group spans.
const GROUP_SPAN_NS: u64 = 100_000;
/// Longest busy wait before a message, and its longest share of the interval.
const SPIN_NS_MAX: u64 = 20_000;
const SPIN_SHARE: u64 = 10;

/// All that is to be sent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Schedule {
    /// Datagrams in all; `u64::MAX` if time alone ends the run.
    pub(crate) datagrams: u64,
    /// Datagrams of a full message; the last message may have fewer.
    pub(crate) per_message: u64,
    pub(crate) flows: u32,
    /// Datagrams a second over all flows; `None`: all are due at once.
    pub(crate) rate_pps: Option<u64>,
}

/// Consecutive datagrams of one flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) flow: u32,
    pub(crate) first_sequence: u64,
    pub(crate) datagrams: u64,
}

/// What to wait for before sending on; times are ns since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wait {
    /// Sleep until then.
    pub(crate) sleep_until_ns: u64,
    /// Then watch the clock until then; not before the first.
    pub(crate) spin_until_ns: u64,
}

impl Schedule {
    /// How many datagrams `rate_pps` makes in `duration`; without a rate, no number is too high.
    pub(crate) fn datagrams_in(duration: Duration, rate_pps: Option<u64>) -> u64 {
        let Some(rate) = rate_pps else { return u64::MAX };
        let datagrams = duration.as_nanos().saturating_mul(u128::from(rate)).div_ceil(NS_PER_S);
        u64::try_from(datagrams).unwrap_or(u64::MAX)
    }

    pub(crate) fn messages(&self) -> u64 {
        self.datagrams.div_ceil(self.per_message)
    }

    /// How many messages are due once `elapsed_ns` have passed.
    pub(crate) fn due(&self, elapsed_ns: u64) -> u64 {
        let Some(rate) = self.rate_pps else { return self.messages() };
        let intervals = u128::from(elapsed_ns) * u128::from(rate) / (NS_PER_S * u128::from(self.per_message));
        u64::try_from(intervals + 1).unwrap_or(u64::MAX).min(self.messages())
    }

    /// When `message` is due: the first ns at which [`Schedule::due`] includes it.
    pub(crate) fn due_ns(&self, message: u64) -> u64 {
        let Some(rate) = self.rate_pps else { return 0 };
        let due = (u128::from(message) * u128::from(self.per_message) * NS_PER_S).div_ceil(u128::from(rate));
        u64::try_from(due).unwrap_or(u64::MAX)
    }

    /// How to wait when all messages before `next` are sent and `next` is not due.
    pub(crate) fn wait(&self, next: u64) -> Wait {
        let interval_ns = self.due_ns(1);
        if interval_ns < GROUP_BELOW_NS {
            let group = GROUP_SPAN_NS / interval_ns.max(1);
            let last = next.saturating_add(group.saturating_sub(1)).min(self.messages() - 1);
            let at = self.due_ns(last);
            return Wait { sleep_until_ns: at, spin_until_ns: at };
        }
        let at = self.due_ns(next);
        let spin = SPIN_NS_MAX.min(interval_ns / SPIN_SHARE);
        Wait { sleep_until_ns: at.saturating_sub(spin), spin_until_ns: at }
    }

    /// The datagrams of `messages`, one run for each flow that has any, in the order of their first messages.
    pub(crate) fn runs(&self, messages: Range<u64>) -> impl Iterator<Item = Run> + use<> {
        let schedule = *self;
        let flows = u64::from(self.flows);
        let first_of_each = messages.start..messages.end.min(messages.start.saturating_add(flows));
        first_of_each.map(move |first| {
            let count = (messages.end - first).div_ceil(flows);
            let last = first + (count - 1) * flows;
            let before_last = (count - 1) * schedule.per_message;
            Run {
                flow: (first % flows) as u32,
                first_sequence: first / flows * schedule.per_message,
                datagrams: before_last + schedule.datagrams_of(last),
            }
        })
    }

    fn datagrams_of(&self, message: u64) -> u64 {
        self.per_message.min(self.datagrams - message * self.per_message)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SLOW: Schedule = Schedule { datagrams: 10, per_message: 1, flows: 1, rate_pps: Some(1000) };

    #[test]
    fn the_first_message_is_due_at_once_and_the_others_an_interval_apart() {
        assert_eq!((SLOW.due(0), SLOW.due(999_999), SLOW.due(1_000_000)), (1, 1, 2));
        assert_eq!(SLOW.due(u64::MAX), 10);
    }

    #[test]
    fn a_slow_schedule_sleeps_to_just_before_the_moment() {
        let wait = SLOW.wait(3);
        assert_eq!(wait, Wait { sleep_until_ns: 2_980_000, spin_until_ns: 3_000_000 });
    }

    #[test]
    fn a_fast_schedule_sleeps_for_a_group_and_never_spins() {
        let fast = Schedule { datagrams: 1000, rate_pps: Some(1_000_000), ..SLOW };
        assert_eq!(fast.wait(100), Wait { sleep_until_ns: 199_000, spin_until_ns: 199_000 });
        assert_eq!(fast.wait(990).sleep_until_ns, 999_000, "no longer than to the last message");
    }

    #[test]
    fn a_duration_and_a_rate_make_a_count() {
        assert_eq!(Schedule::datagrams_in(Duration::from_millis(2500), Some(1000)), 2500);
        assert_eq!(Schedule::datagrams_in(Duration::from_secs(1), None), u64::MAX);
    }

    fn schedules() -> impl Strategy<Value = Schedule> {
        (1u64..2000, 1u64..65, 1u32..70, 1u64..3_000_000).prop_map(|(datagrams, per_message, flows, rate)| {
            Schedule { datagrams, per_message, flows, rate_pps: Some(rate) }
        })
    }

    proptest! {
        #[test]
        fn a_message_is_due_at_its_time_and_not_a_ns_before(schedule in schedules(), message: u64) {
            let message = message % schedule.messages();
            let at = schedule.due_ns(message);
            prop_assert!(schedule.due(at) > message);
            prop_assert!(at == 0 || schedule.due(at - 1) <= message);
        }

        #[test]
        fn a_wait_ends_with_something_due(schedule in schedules(), next: u64) {
            let next = next % schedule.messages();
            let wait = schedule.wait(next);
            prop_assert!(wait.sleep_until_ns <= wait.spin_until_ns);
            prop_assert!(schedule.due(wait.spin_until_ns) > next);
        }

        #[test]
        fn any_batches_send_each_sequence_of_each_flow_once_and_in_order(
            schedule in schedules(), batches in prop::collection::vec(1u64..100, 1..50),
        ) {
            let mut next = vec![0; schedule.flows as usize];
            let (mut done, mut sent) = (0, 0);
            for batch in batches.iter().cycle() {
                let end = schedule.messages().min(done + batch);
                for run in schedule.runs(done..end) {
                    prop_assert_eq!(run.first_sequence, next[run.flow as usize]);
                    prop_assert!(run.datagrams > 0 && run.datagrams <= (end - done) * schedule.per_message);
                    next[run.flow as usize] += run.datagrams;
                    sent += run.datagrams;
                }
                done = end;
                if done == schedule.messages() {
                    break;
                }
            }
            prop_assert_eq!(sent, schedule.datagrams);
        }
    }
}
