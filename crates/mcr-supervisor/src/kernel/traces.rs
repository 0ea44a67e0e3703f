//! Traces of the kernel data path: what its program shows in a ring is taken from there, a bounded part at a time, and put into the
//! segment as workers do it, so that whoever reads traces need not know which path a datagram took.
//!
//! The bytes of frames are copied, and not looked at.

use std::time::{Duration, Instant};

use mcr_ebpf::{KernelPath, TraceCounts, TraceWhat, TracedDatagram};
use mcr_metrics::{
    Segment,
    trace::{FrameKind, TraceProgress, TracedCopy, TracedDatagram as Record},
};
use mcr_proto::{
    message::{TraceOf, TraceOrder},
    plan::InputSlot,
};
use tracing::warn;

use super::Kernel;
use crate::clock::wall_offset_ns;

/// How often the ring is looked at while a trace is on.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Datagrams and copies taken from it at a time: a millisecond's work or two. What comes faster, the program misses and counts.
const COPIES_MAX: usize = 4096;

/// The traces that are on, whether the program is loaded or not.
#[derive(Debug, Default)]
pub(super) struct Traces {
    on: Vec<Trace>,
    look_at: Option<Instant>,
}

#[derive(Debug)]
struct Trace {
    order: TraceOrder,
    progress: TraceProgress,
    /// The program knows of it.
    is_told: bool,
    /// Some program has known of it, so that whoever reads waits for its end.
    is_shown: bool,
}

impl Kernel {
    /// Begins a trace.
    pub(crate) fn begin_trace(&mut self, order: TraceOrder) {
        let progress = TraceProgress { id: order.id, ..TraceProgress::default() };
        self.traces.on.push(Trace { order, progress, is_told: false, is_shown: false });
        self.tell_traces();
    }

    /// Ends the traces that are meant; what was recorded can be read.
    pub(crate) fn end_traces(&mut self, is_meant: impl Fn(&TraceOrder) -> bool) {
        let is_meant = |trace: &Trace| is_meant(&trace.order);
        let places = places(self.traces.on.iter().filter(|trace| is_meant(trace)));
        if let Some(path) = &mut self.path
            && places != 0
        {
            self.traces.count(path);
            path.end_traces(places);
            while !self.take_records() {}
        }
        for mut trace in self.traces.on.extract_if(.., |trace| is_meant(trace)) {
            if trace.is_shown {
                trace.progress.ended = true;
                trace.show(&self.counters);
            }
        }
    }

    /// When the ring is to be looked at.
    pub(crate) fn trace_at(&self) -> Option<Instant> {
        self.traces.look_at
    }

    /// Takes what the program has shown, if that is due.
    pub(crate) fn follow_traces(&mut self, now: Instant) {
        if self.traces.look_at.is_none_or(|at| at > now) {
            return;
        }
        self.take_records();
        let complete = places(self.traces.on.iter().filter(|trace| trace.is_complete()));
        if let (Some(path), true) = (&mut self.path, complete != 0) {
            path.end_traces(complete);
        }
        let is_on = self.traces.on.iter().any(|trace| trace.is_told && !trace.progress.ended);
        self.traces.look_at = (is_on && self.path.is_some()).then(|| now + LOOK_EVERY);
    }

    /// Tells a program that was just loaded of the traces there are.
    pub(super) fn tell_traces(&mut self) {
        let Self { path: Some(path), counters, inputs, traces, .. } = self else { return };
        for trace in traces.on.iter_mut().filter(|trace| !trace.is_told && !trace.progress.ended) {
            let what = match &trace.order.what {
                TraceOf::Rule(slot) => vec![TraceWhat::Rule(*slot)],
                TraceOf::Drops(slots) => {
                    let is_there = |(_, slot): &(&u32, &InputSlot)| slots.contains(slot);
                    inputs.iter().filter(is_there).map(|(ifindex, _)| TraceWhat::Drops(*ifindex)).collect()
                }
            };
            let TraceProgress { seen, recorded, omitted, .. } = trace.progress;
            let counts = TraceCounts { seen, recorded, missed: omitted };
            if let Err(error) = path.begin_trace(trace.order.place, &what, trace.order.sampling, counts) {
                warn!(trace = trace.order.id, "{error}");
            }
            (trace.is_told, trace.is_shown) = (true, true);
            trace.show(counters);
            traces.look_at.get_or_insert_with(|| Instant::now() + LOOK_EVERY);
        }
    }

    /// The program is about to go; the next one is told how far traces are.
    pub(super) fn leave_traces(&mut self) {
        while !self.take_records() {}
        self.traces.on.iter_mut().for_each(|trace| trace.is_told = false);
        self.traces.look_at = None;
    }

    /// Takes a part of what the program has shown. Whether that was all.
    fn take_records(&mut self) -> bool {
        let Self { path: Some(path), counters, inputs, traces, .. } = self else { return true };
        let offset_ns = wall_offset_ns();
        let is_all = path.read_traces(COPIES_MAX, |datagram| {
            // An input that is gone has taken along the name it would be shown by.
            let Some(input) = inputs.get(&datagram.ifindex) else { return };
            let wanting = |trace: &&mut Trace| datagram.traces >> trace.order.place & 1 != 0;
            for trace in traces.on.iter_mut().filter(wanting) {
                trace.record(counters, datagram, *input, offset_ns);
            }
        });
        traces.count(path);
        traces.on.iter().filter(|trace| trace.is_told).for_each(|trace| trace.show(counters));
        is_all
    }
}

impl Traces {
    /// Takes note of what the program has counted.
    fn count(&mut self, path: &KernelPath) {
        for trace in &mut self.on {
            if let Some(counts) = path.trace_counts(trace.order.place) {
                (trace.progress.seen, trace.progress.omitted) = (counts.seen, counts.missed);
            }
        }
    }
}

impl Trace {
    fn is_complete(&self) -> bool {
        self.order.sampling.count.is_some_and(|count| self.progress.recorded >= count)
    }

    fn record(
        &mut self,
        counters: &Segment,
        datagram: &TracedDatagram<'_>,
        input: InputSlot,
        offset_ns: u64,
    ) {
        // CPUs together may show a few more than were asked for.
        if self.is_complete() {
            return;
        }
        let TraceOrder { id, place, ref what, sampling } = self.order;
        let number = self.progress.recorded + 1;
        let copies = || datagram.copies().filter(|copy| copy.traces >> place & 1 != 0);
        let snap = &datagram.frame[..datagram.frame.len().min(sampling.snap_bytes.into())];
        let record = Record {
            trace: id,
            number,
            life: counters.trace().life(),
            input,
            rule: match what {
                TraceOf::Rule(slot) => Some(*slot),
                TraceOf::Drops(_) => None,
            },
            time_ns: datagram.time_ns + offset_ns,
            is_kernel_time: true,
            addresses: datagram.addresses,
            hop_limit: datagram.hop_limit,
            traffic_class: datagram.traffic_class,
            bytes: datagram.bytes,
            index: datagram.index,
            datagrams: datagram.datagrams,
            drop: datagram.drop,
            outputs: copies().count() as u32,
            frame: FrameKind::Ethernet,
            frame_bytes: datagram.frame_bytes,
        };
        counters.trace().record_datagram(&record, &[snap]);
        for copy in copies() {
            counters.trace().record_copy(&TracedCopy {
                trace: id,
                number,
                output: copy.output,
                drop: copy.drop,
                errno: copy.errno,
                time_ns: copy.time_ns + offset_ns,
            });
        }
        self.progress.recorded = number;
    }

    /// Shows how far it is: what is recorded is settled.
    fn show(&self, counters: &Segment) {
        let ended = self.progress.ended || self.is_complete();
        let progress = TraceProgress { settled: self.progress.recorded, ended, ..self.progress };
        counters.trace().places()[usize::from(self.order.place)].set(progress);
    }
}

fn places<'a>(traces: impl Iterator<Item = &'a Trace>) -> u8 {
    traces.filter(|trace| trace.is_told).fold(0, |places, trace| places | 1 << trace.order.place)
}
