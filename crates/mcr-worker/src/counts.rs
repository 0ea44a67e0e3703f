//! Counting into the worker's segment. The only place that knows which outcome goes to which counter.

use std::net::SocketAddr;

use mcr_metrics::Segment;
use mcr_proto::{
    counters::{InputDrop, OutputDrop},
    plan::{FlowSlot, InputSlot, OutputSlot, RuleSlot},
};
use mcr_relay::engine::{self, Engine};

use crate::arrival::Rejected;

/// The segment, and the time.
#[derive(Debug, Clone, Copy)]
pub struct Counts<'a> {
    /// The worker's.
    pub segment: &'a Segment,
    /// When the datagrams at hand came, in nanoseconds since 1970.
    pub arrived_ns: u64,
}

impl Counts<'_> {
    /// One frame came, of so many datagrams.
    #[inline]
    pub fn received(&self, input: InputSlot, datagrams: u32, bytes: u32) {
        let counters = self.segment.input(input);
        counters.frames.add(1);
        counters.datagrams.add(u64::from(datagrams));
        counters.bytes.add(u64::from(bytes));
    }

    /// One frame came, whose datagrams went another way: there they are counted.
    #[cold]
    pub(crate) fn left_to_others(&self, input: InputSlot) {
        self.segment.input(input).frames.add(1);
    }

    /// It was no arrival.
    #[cold]
    pub(crate) fn rejected(&self, input: InputSlot, rejected: Rejected) {
        let drop = &self.segment.input(input).drops[rejected.reason as usize];
        drop.add(u64::from(rejected.datagrams));
    }

    /// The copies of all runs are done with at `now_ns`, as far as the worker has to do with them; `received_ns` says when a frame
    /// of the batch was received. Both are nanoseconds since 1970.
    pub fn relayed(&self, engine: &Engine, received_ns: impl Fn(u32) -> u64, now_ns: u64) {
        for run in engine.runs() {
            let Some(rule) = engine.rule_of(run) else { continue };
            let latency = self.segment.latency(rule);
            for (frame, datagrams) in run.frames() {
                let took_ns = now_ns.saturating_sub(received_ns(frame));
                latency.add(took_ns, u64::from(datagrams));
            }
        }
    }

    /// The kernel took so many copies.
    #[inline]
    pub fn sent(&self, output: OutputSlot, datagrams: u32, bytes: u32) {
        let counters = self.segment.output(output);
        counters.copies.add(u64::from(datagrams));
        counters.bytes.add(u64::from(bytes));
    }

    /// The kernel refused so many copies.
    #[cold]
    pub(crate) fn refused(&self, output: OutputSlot, datagrams: u32, errno: i32) {
        let counters = self.segment.output(output);
        let reason = reason_of(errno);
        counters.drops[reason as usize].add(u64::from(datagrams));
        if reason == OutputDrop::SendError {
            counters.send_errors.add(errno, u64::from(datagrams));
        }
    }
}

impl engine::Counts for Counts<'_> {
    #[inline]
    fn matched(&mut self, input: InputSlot, datagrams: u64) {
        self.segment.input(input).matched.add(datagrams);
    }

    #[inline]
    fn input_drop(&mut self, input: InputSlot, reason: InputDrop, datagrams: u64) {
        self.segment.input(input).drops[reason as usize].add(datagrams);
    }

    #[cold]
    fn begin_flow(&mut self, flow: FlowSlot, rule: RuleSlot, source: SocketAddr) {
        self.segment.begin_flow(flow, rule, source, self.arrived_ns);
        self.segment.rule(rule).flows.add(1);
    }

    #[inline]
    fn rule(&mut self, rule: RuleSlot, datagrams: u64, bytes: u64, flow: Option<FlowSlot>) {
        self.segment.rule(rule).arrived(datagrams, bytes, self.arrived_ns);
        match flow {
            Some(flow) => self.segment.flow(flow).arrived(datagrams, bytes, self.arrived_ns),
            None => self.segment.flow_overflowed(rule, datagrams),
        }
    }

    #[inline]
    fn output_drop(&mut self, output: OutputSlot, reason: OutputDrop, datagrams: u64) {
        self.segment.output(output).drops[reason as usize].add(datagrams);
    }
}

/// What a failed send is counted as (send(2), ip(7), udp(7)).
pub(crate) fn reason_of(errno: i32) -> OutputDrop {
    match errno {
        libc::EMSGSIZE => OutputDrop::TooBig,
        // The last two: the interface that the socket is bound to is gone.
        libc::ENETUNREACH | libc::EHOSTUNREACH | libc::ENETDOWN | libc::ENODEV | libc::ENXIO => {
            OutputDrop::NoRoute
        }
        libc::EAGAIN | libc::ENOBUFS => OutputDrop::QueueFull,
        _ => OutputDrop::SendError,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_send_is_counted_once_and_by_errno_only_if_it_has_no_reason_of_its_own() {
        let segment = Segment::create().expect("memory");
        let counts = Counts { segment: &segment, arrived_ns: 0 };
        let slot = OutputSlot(5);
        for errno in [libc::EMSGSIZE, libc::ENETDOWN, libc::EAGAIN, libc::EPERM, libc::EPERM] {
            counts.refused(slot, 3, errno);
        }
        let drops: Vec<_> = segment.output(slot).drops.iter().map(mcr_metrics::Counter::get).collect();
        let count = |reason: OutputDrop| drops[reason as usize];
        assert_eq!(count(OutputDrop::TooBig), 3);
        assert_eq!(count(OutputDrop::NoRoute), 3);
        assert_eq!(count(OutputDrop::QueueFull), 3);
        assert_eq!(count(OutputDrop::SendError), 6);
        assert_eq!(drops.iter().sum::<u64>(), 15);
        let errors: Vec<_> = segment.output(slot).send_errors.counts().collect();
        assert_eq!(errors, [(libc::EPERM, 6)]);
    }
}
