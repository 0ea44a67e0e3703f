//! Traces: what became of single datagrams, shown in the segment for whoever asked.
//!
//! While no trace is on, none of this is called: a batch, a run and a send each ask [`Tracer::is_on`] once. While one is, nothing is
//! allocated per datagram, and nothing waits for whoever reads.
//!
//! A datagram is recorded when the engine has taken it (or it was dropped), and remembered until the batch ends, by where its
//! payload lies in it, so that what comes of its copies finds it again. With the end of the batch all is known: it is settled.

mod frames;

use std::net::SocketAddr;

use mcr_metrics::{
    Segment,
    clock::realtime_ns,
    trace::{FrameKind, TRACED_DATAGRAMS, TRACES_MAX, TraceProgress, TracedCopy, TracedDatagram},
};
use mcr_proto::{
    counters::{InputDrop, OutputDrop},
    message::{ReceiverKind, TraceOf, TraceOrder},
    plan::{FlowSlot, InputSlot, OutputSlot, RuleSlot},
};
use mcr_relay::engine::{Arrival, Counts, Engine, Run};
use mcr_socket::packet::AuxData;
use mcr_uring_io::Datagram;

use crate::{arrival::Origin, trace::frames::Packet};

/// Outputs of a rule, for which there is room without asking for memory.
const OUTPUTS: usize = 1024;

/// The traces that are on.
#[derive(Debug)]
pub(crate) struct Tracer {
    traces: Vec<Trace>,
    life: u32,
    /// Copies that the run at hand does not send.
    drops: Vec<(OutputSlot, OutputDrop, u64)>,
}

#[derive(Debug)]
struct Trace {
    order: TraceOrder,
    progress: TraceProgress,
    /// Of the batch at hand, in the order of frames and offsets.
    remembered: Vec<Remembered>,
}

/// Where the payload of a recorded datagram lies.
#[derive(Debug, Clone, Copy)]
struct Remembered {
    frame: u32,
    offset: u32,
    number: u64,
}

/// What was received and what the engine made of it.
pub(crate) struct Seen<'a> {
    pub(crate) datagram: Datagram<'a>,
    pub(crate) origin: Origin,
    /// When the worker took it, in nanoseconds since 1970.
    pub(crate) taken_ns: u64,
}

/// What the engine says of one arrival: counted as ever, and noted for traces.
pub(crate) struct Watch<'a, C> {
    counts: &'a mut C,
    tracer: &'a Tracer,
    noted: Noted,
}

/// Which traces an arrival concerns; bit n is the nth.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Noted {
    matched: u8,
    kept: u8,
    /// Its first so many datagrams matched.
    taken: u32,
    drop: Option<InputDrop>,
}

const _: () = assert!(TRACES_MAX <= 8, "a bit for each");

impl Tracer {
    /// For a worker that begins.
    pub(crate) fn new(segment: &Segment) -> Self {
        let life = segment.trace().begin_life();
        Self { traces: Vec::new(), life, drops: Vec::new() }
    }

    /// Whether there is anything to be shown, or to be settled.
    #[inline]
    pub(crate) fn is_on(&self) -> bool {
        !self.traces.is_empty()
    }

    /// Begins a trace, or goes on with it where the worker before had to leave it. Only between batches.
    pub(crate) fn begin(&mut self, segment: &Segment, order: TraceOrder) {
        let Some(place) = segment.trace().places().get(usize::from(order.place)) else { return };
        self.traces.retain(|trace| trace.order.place != order.place);
        let before = place.progress();
        let progress = match before.id == order.id {
            true => TraceProgress { settled: before.recorded, ..before },
            false => TraceProgress { id: order.id, ..TraceProgress::default() },
        };
        if self.drops.capacity() == 0 {
            self.drops.reserve(OUTPUTS);
        }
        let mut trace = Trace { order, progress, remembered: Vec::with_capacity(TRACED_DATAGRAMS) };
        trace.progress.ended |= trace.is_complete();
        trace.show(segment);
        if !trace.progress.ended {
            self.traces.push(trace);
        }
    }

    /// Ends a trace, if it is the one that has this place. Only between batches.
    pub(crate) fn end(&mut self, segment: &Segment, place: u8, id: u64) {
        self.traces.retain(|trace| trace.order.id != id);
        if let Some(place) = segment.trace().places().get(usize::from(place))
            && place.progress().id == id
        {
            place.set(TraceProgress { ended: true, ..place.progress() });
        }
    }

    /// Counts for one arrival, with an ear for what they say.
    pub(crate) fn watch<'a, C>(&'a self, counts: &'a mut C) -> Watch<'a, C> {
        Watch { counts, tracer: self, noted: Noted::default() }
    }

    /// The engine has had an arrival.
    #[cold]
    pub(crate) fn arrived(
        &mut self,
        segment: &Segment,
        engine: &Engine,
        seen: &Seen<'_>,
        arrival: &Arrival,
        noted: Noted,
    ) {
        let life = self.life;
        for (bit, trace) in self.traces.iter_mut().enumerate() {
            let (matched, kept) = (noted.matched >> bit & 1 != 0, noted.kept >> bit & 1 != 0);
            let rule = match &trace.order.what {
                TraceOf::Rule(rule) => Some(*rule),
                TraceOf::Drops(_) => None,
            };
            let outputs = rule.map_or(0, |rule| engine.output_count(rule));
            for index in 0..arrival.datagrams() {
                let drop = match (matched && index < noted.taken, noted.drop) {
                    (true, _) => None,
                    (false, Some(drop)) if kept => Some(drop),
                    (false, _) => continue,
                };
                let Some(number) = trace.next() else { continue };
                let packet = frames::of_arrival(seen, arrival, index);
                let record = TracedDatagram {
                    addresses: Some((arrival.source, arrival.destination)),
                    hop_limit: arrival.hop_limit,
                    traffic_class: arrival.traffic_class,
                    bytes: packet.payload_bytes,
                    index: index as u16,
                    datagrams: arrival.datagrams() as u16,
                    outputs: if drop.is_none() { outputs as u32 } else { 0 },
                    ..trace.record(number, life, seen, rule, drop, &packet)
                };
                segment.trace().record_datagram(&record, &packet.snap(trace.order.sampling.snap_bytes));
                if drop.is_none() {
                    let offset = arrival.offset + index * u32::from(arrival.segment);
                    trace.remembered.push(Remembered { frame: arrival.frame, offset, number });
                }
            }
            trace.show(segment);
        }
    }

    /// What is to be told of an arrival that the engine does not get.
    pub(crate) fn note_drop(&self, input: InputSlot, reason: InputDrop) -> Noted {
        let kept = self.bits(|trace| trace.is_of_drops_at(input));
        Noted { kept, drop: Some(reason), ..Noted::default() }
    }

    /// Something that is no arrival was dropped.
    #[cold]
    pub(crate) fn rejected(&mut self, segment: &Segment, seen: &Seen<'_>, drop: InputDrop, bytes: u32) {
        let life = self.life;
        for trace in &mut self.traces {
            if !trace.is_of_drops_at(seen.origin.input) {
                continue;
            }
            let Some(number) = trace.next() else { continue };
            let packet = frames::of_anything(seen);
            let record =
                TracedDatagram { bytes, ..trace.record(number, life, seen, None, Some(drop), &packet) };
            segment.trace().record_datagram(&record, &packet.snap(trace.order.sampling.snap_bytes));
            trace.show(segment);
        }
    }

    /// Datagrams of a run came to an outcome at an output.
    #[cold]
    pub(crate) fn copied(
        &self,
        segment: &Segment,
        engine: &Engine,
        run: &Run,
        datagrams: std::ops::Range<u32>,
        outcome: Outcome,
    ) {
        let Some(rule) = engine.rule_of(run) else { return };
        let of_rule =
            |trace: &&Trace| trace.order.what == TraceOf::Rule(rule) && !trace.remembered.is_empty();
        let mut time_ns = None;
        for trace in self.traces.iter().filter(of_rule) {
            for index in datagrams.clone() {
                let place = run.place_of(index);
                let found =
                    trace.remembered.binary_search_by_key(&place, |known| (known.frame, known.offset));
                let Ok(found) = found else { continue };
                let Outcome { output, drop, errno } = outcome;
                segment.trace().record_copy(&TracedCopy {
                    trace: trace.order.id,
                    number: trace.remembered[found].number,
                    output,
                    drop,
                    errno,
                    time_ns: *time_ns.get_or_insert_with(realtime_ns),
                });
            }
        }
    }

    /// The sends of a run are about to be made; what is to be told of its drops.
    pub(crate) fn take_drops(&mut self) -> Drops {
        Drops(std::mem::take(&mut self.drops))
    }

    /// Tells of copies of a run that are not sent: its last ones each.
    pub(crate) fn dropped(&mut self, segment: &Segment, engine: &Engine, run: &Run, drops: Drops) {
        let Drops(mut drops) = drops;
        for (output, reason, datagrams) in drops.drain(..) {
            let first = run.datagrams().saturating_sub(datagrams as u32);
            let outcome = Outcome { output, drop: Some(reason), errno: 0 };
            self.copied(segment, engine, run, first..run.datagrams(), outcome);
        }
        self.drops = drops;
    }

    /// The batch has ended: all that will be known of its datagrams is.
    #[cold]
    pub(crate) fn settle(&mut self, segment: &Segment) {
        self.traces.retain_mut(|trace| {
            trace.remembered.clear();
            trace.progress.settled = trace.progress.recorded;
            trace.progress.ended = trace.is_complete();
            trace.show(segment);
            !trace.progress.ended
        });
    }

    fn bits_of(&self, rule: RuleSlot) -> u8 {
        self.bits(|trace| trace.order.what == TraceOf::Rule(rule))
    }

    fn bits(&self, wanted: impl Fn(&Trace) -> bool) -> u8 {
        let bits = self.traces.iter().enumerate().filter(|(_, trace)| wanted(trace));
        bits.fold(0, |bits, (index, _)| bits | 1 << index)
    }
}

impl Trace {
    /// The number to record another datagram under, if it is to be recorded.
    fn next(&mut self) -> Option<u64> {
        if self.is_complete() {
            return None;
        }
        let progress = &mut self.progress;
        progress.seen += 1;
        if !(progress.seen - 1).is_multiple_of(self.order.sampling.one_in.max(1).into()) {
            return None;
        }
        // More of one batch would overwrite what nobody can have read yet.
        if progress.recorded - progress.settled >= TRACED_DATAGRAMS as u64 {
            progress.omitted += 1;
            return None;
        }
        progress.recorded += 1;
        Some(progress.recorded)
    }

    fn is_complete(&self) -> bool {
        self.order.sampling.count.is_some_and(|count| self.progress.recorded >= count)
    }

    fn is_of_drops_at(&self, input: InputSlot) -> bool {
        matches!(&self.order.what, TraceOf::Drops(inputs) if inputs.contains(&input))
    }

    fn show(&self, segment: &Segment) {
        segment.trace().places()[usize::from(self.order.place)].set(self.progress);
    }

    /// What is known of a datagram that could not be read.
    fn record(
        &self,
        number: u64,
        life: u32,
        seen: &Seen<'_>,
        rule: Option<RuleSlot>,
        drop: Option<InputDrop>,
        packet: &Packet<'_>,
    ) -> TracedDatagram {
        let kernel_ns = AuxData::ring_time_ns(seen.datagram.ring_header);
        let frame = match seen.origin.kind {
            ReceiverKind::Packet { ethernet: true, .. } => FrameKind::Ethernet,
            _ => FrameKind::Ip,
        };
        TracedDatagram {
            trace: self.order.id,
            number,
            life,
            input: seen.origin.input,
            rule,
            time_ns: kernel_ns.unwrap_or(seen.taken_ns),
            is_kernel_time: kernel_ns.is_some(),
            addresses: None,
            hop_limit: 0,
            traffic_class: 0,
            bytes: 0,
            index: 0,
            datagrams: 1,
            drop,
            outputs: 0,
            frame,
            frame_bytes: packet.bytes() as u32,
        }
    }
}

/// What came of copies to an output.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outcome {
    pub(crate) output: OutputSlot,
    /// Why they were not sent, if so.
    pub(crate) drop: Option<OutputDrop>,
    /// What the kernel said, if it refused.
    pub(crate) errno: i32,
}

/// Copies of a run that are not sent: at which output, why, and how many.
#[derive(Debug)]
pub(crate) struct Drops(Vec<(OutputSlot, OutputDrop, u64)>);

/// Counts of a run's sends, with an ear for its drops.
pub(crate) struct DropWatch<'a, C> {
    pub(crate) counts: &'a mut C,
    pub(crate) drops: &'a mut Drops,
}

impl<C: Counts> Counts for DropWatch<'_, C> {
    fn matched(&mut self, input: InputSlot, datagrams: u64) {
        self.counts.matched(input, datagrams);
    }

    fn input_drop(&mut self, input: InputSlot, reason: InputDrop, datagrams: u64) {
        self.counts.input_drop(input, reason, datagrams);
    }

    fn begin_flow(&mut self, flow: FlowSlot, rule: RuleSlot, source: SocketAddr) {
        self.counts.begin_flow(flow, rule, source);
    }

    fn rule(&mut self, rule: RuleSlot, datagrams: u64, bytes: u64, flow: Option<FlowSlot>) {
        self.counts.rule(rule, datagrams, bytes, flow);
    }

    fn output_drop(&mut self, output: OutputSlot, reason: OutputDrop, datagrams: u64) {
        self.counts.output_drop(output, reason, datagrams);
        self.drops.0.push((output, reason, datagrams));
    }
}

impl<C> Watch<'_, C> {
    pub(crate) fn noted(&self) -> Noted {
        self.noted
    }
}

impl<C: Counts> Counts for Watch<'_, C> {
    fn matched(&mut self, input: InputSlot, datagrams: u64) {
        self.counts.matched(input, datagrams);
    }

    fn input_drop(&mut self, input: InputSlot, reason: InputDrop, datagrams: u64) {
        self.counts.input_drop(input, reason, datagrams);
        self.noted.kept |= self.tracer.bits(|trace| trace.is_of_drops_at(input));
        self.noted.drop = Some(reason);
    }

    fn begin_flow(&mut self, flow: FlowSlot, rule: RuleSlot, source: SocketAddr) {
        self.counts.begin_flow(flow, rule, source);
    }

    fn rule(&mut self, rule: RuleSlot, datagrams: u64, bytes: u64, flow: Option<FlowSlot>) {
        self.counts.rule(rule, datagrams, bytes, flow);
        self.noted.matched |= self.tracer.bits_of(rule);
        self.noted.taken = datagrams as u32;
    }

    fn output_drop(&mut self, output: OutputSlot, reason: OutputDrop, datagrams: u64) {
        self.counts.output_drop(output, reason, datagrams);
    }

    fn kept_from(&mut self, rule: RuleSlot) {
        self.noted.kept |= self.tracer.bits_of(rule);
    }
}

impl Noted {
    /// Whether any trace is to be told.
    pub(crate) fn is_of_interest(self) -> bool {
        self.matched | self.kept != 0
    }
}
