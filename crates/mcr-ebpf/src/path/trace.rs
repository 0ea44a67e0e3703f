//! Traces: single datagrams as the program shows them in a ring, with what became of their copies.
//!
//! A place is a bit in the blocks of traced rules. It is another trace's only after a grace period, so that nothing in the ring is taken
//! for what it is not: whoever ends a trace reads the ring before a place is used again.

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
};

use mcr_proto::{
    counters::{InputDrop, OutputDrop},
    message::Sampling,
    plan::{OutputSlot, RuleSlot},
};

use super::{KernelPath, group_of};
use crate::{
    counts::{INPUT_DROPS, OUTPUT_DROPS},
    error::UpdateError,
    layout::{TraceEntry, address},
    object::{Object, map_error},
};

/// `TRACES_MAX` of trace.h.
const TRACES_MAX: u8 = 8;
/// `struct traced` and `struct outcome` of trace.h.
const RECORD_BYTES: usize = 72;
const OUTCOME_BYTES: usize = 12;

/// Of which datagrams a trace is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TraceWhat {
    /// Those of a rule, whether it is there already or comes later; also those that a drop at the input keeps from it.
    Rule(RuleSlot),
    /// Those that are dropped at the input of an interface.
    Drops(u32),
}

/// How far a trace is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TraceCounts {
    /// Datagrams it is about, those between the samples included.
    pub seen: u64,
    /// Of the samples those that were shown.
    pub recorded: u64,
    /// And those for which there was no room.
    pub missed: u64,
}

/// A datagram as it came, and what became of it.
#[derive(Debug, Clone, Copy)]
pub struct TracedDatagram<'a> {
    /// The traces it is for; bit n is the nth.
    pub traces: u8,
    /// The interface it came in by.
    pub ifindex: u32,
    /// When the program took it, by the monotonic clock.
    pub time_ns: u64,
    /// Source and destination, unless they could not be read.
    pub addresses: Option<(SocketAddr, SocketAddr)>,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// TOS or traffic class.
    pub traffic_class: u8,
    /// Payload bytes.
    pub bytes: u32,
    /// Its place among the datagrams of its superframe, counted from 0.
    pub index: u16,
    /// How many those are; 1 if it came by itself.
    pub datagrams: u16,
    /// Why no rule got it, if so.
    pub drop: Option<InputDrop>,
    /// Bytes of its frame, Ethernet header included.
    pub frame_bytes: u32,
    /// The beginning of the frame; as many bytes as any of its traces wants.
    pub frame: &'a [u8],
    outcomes: &'a [u8],
    outputs: &'a crate::pool::Pool<OutputSlot, crate::layout::OutputCounts>,
}

/// What became of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TracedCopy {
    /// The traces it is for.
    pub traces: u8,
    /// Which output.
    pub output: OutputSlot,
    /// Why it was not sent, if so.
    pub drop: Option<OutputDrop>,
    /// What the kernel said, if it refused; else 0.
    pub errno: i32,
    /// When that was known, by the monotonic clock.
    pub time_ns: u64,
}

/// The traces that are on.
#[derive(Debug, Default)]
pub(super) struct Traces {
    on: HashMap<u8, On>,
    /// The traces of what is dropped at an interface.
    drops: HashMap<u32, u8>,
    /// What the ring of an object that is no more still held.
    carried: VecDeque<Vec<u8>>,
}

#[derive(Debug)]
struct On {
    what: Vec<TraceWhat>,
    sampling: Sampling,
    /// Counted by objects that are no more, and not by the one that is.
    before: TraceCounts,
    /// What the last that is no more had counted when another began with that.
    copied: TraceCounts,
}

impl KernelPath {
    /// Begins a trace in a place that is free, and goes on counting from `counts`.
    ///
    /// # Errors
    /// [`UpdateError`]; what was begun is to be ended all the same.
    ///
    /// # Panics
    /// If there is no such place.
    pub fn begin_trace(
        &mut self,
        place: u8,
        what: &[TraceWhat],
        sampling: Sampling,
        counts: TraceCounts,
    ) -> Result<(), UpdateError> {
        assert!(place < TRACES_MAX, "no place {place}");
        let entry = entry(sampling, counts);
        self.object.traces.set(place.into(), entry, 0).map_err(map_error)?;
        let (before, copied) = (TraceCounts::default(), TraceCounts::default());
        self.traces.on.insert(place, On { what: what.to_vec(), sampling, before, copied });
        what.iter().try_for_each(|what| self.mark(*what, |traces| traces | 1 << place))
    }

    /// Ends traces; bit n is the nth. Waits until no program records for them any more (milliseconds), so that what the ring holds then is
    /// all there is.
    pub fn end_traces(&mut self, places: u8) {
        for place in (0..TRACES_MAX).filter(|place| places >> place & 1 != 0) {
            let Some(On { what, .. }) = self.traces.on.remove(&place) else { continue };
            for what in what {
                // What cannot be written now is written with the destination's next change; until then the place records nothing.
                let _ = self.mark(what, |traces| traces & !(1 << place));
            }
            let _ = self.object.traces.set(place.into(), TraceEntry::default(), 0);
        }
        self.grace.wait();
    }

    /// How far a trace is; none if it is not on.
    pub fn trace_counts(&self, place: u8) -> Option<TraceCounts> {
        let on = self.traces.on.get(&place)?;
        let entry = self.object.traces.get(&place.into(), 0).ok()?;
        Some(TraceCounts {
            seen: on.before.seen + entry.seen,
            recorded: on.before.recorded + entry.recorded,
            missed: on.before.missed + entry.missed,
        })
    }

    /// Shows what the ring holds, in order, up to about `copies_max` copies and datagrams together. Whether that was all.
    pub fn read_traces(&mut self, copies_max: usize, mut show: impl FnMut(&TracedDatagram<'_>)) -> bool {
        let Self { object, counters, traces, .. } = self;
        let mut left = copies_max;
        let mut read = |bytes: &[u8]| {
            let taken = 1 + bytes.len().saturating_sub(RECORD_BYTES) / OUTCOME_BYTES;
            if let Some(datagram) = decode(bytes, &counters.inputs, &counters.outputs) {
                show(&datagram);
            }
            left = left.saturating_sub(taken);
            left > 0
        };
        while let Some(bytes) = traces.carried.pop_front() {
            if !read(&bytes) {
                return false;
            }
        }
        while let Some(bytes) = object.trace_ring.next() {
            if !read(&bytes) {
                return false;
            }
        }
        true
    }

    /// Changes the traces of what one is of.
    fn mark(&mut self, what: TraceWhat, change: impl Fn(u8) -> u8) -> Result<(), UpdateError> {
        match what {
            TraceWhat::Rule(slot) => {
                let traced = self.counters.traced.entry(slot).or_default();
                *traced = change(*traced);
                if *traced == 0 {
                    self.counters.traced.remove(&slot);
                }
                let Some(rule) = self.rules.get(&slot).cloned() else { return Ok(()) };
                self.make_room(slot, &rule)?;
                self.install(group_of(&rule))
            }
            TraceWhat::Drops(ifindex) => {
                let traces = self.traces.drops.entry(ifindex).or_default();
                *traces = change(*traces);
                if *traces == 0 {
                    self.traces.drops.remove(&ifindex);
                }
                self.show_drops_of(ifindex)
            }
        }
    }

    /// Writes which traces are of the drops at an interface, if it has an input.
    pub(super) fn show_drops_of(&mut self, ifindex: u32) -> Result<(), UpdateError> {
        if !self.counters.inputs.has(ifindex) {
            return Ok(());
        }
        let traces = self.traces.drops.get(&ifindex).copied().unwrap_or(0);
        let place = self.counters.inputs.find(ifindex);
        self.object.drop_traces.set(place, u32::from(traces), 0).map_err(map_error)
    }

    /// Has another object go on with the traces.
    pub(super) fn copy_traces(&mut self, to: &mut Object) -> Result<(), UpdateError> {
        for (place, on) in &mut self.traces.on {
            let now = self.object.traces.get(&u32::from(*place), 0).map_err(map_error)?;
            let counts = TraceCounts { seen: now.seen, recorded: now.recorded, missed: now.missed };
            to.traces.set((*place).into(), entry(on.sampling, counts), 0).map_err(map_error)?;
            on.copied = counts;
        }
        for (ifindex, traces) in &self.traces.drops {
            if self.counters.inputs.has(*ifindex) {
                let place = self.counters.inputs.find(*ifindex);
                to.drop_traces.set(place, u32::from(*traces), 0).map_err(map_error)?;
            }
        }
        Ok(())
    }

    /// Takes along what an object holds that is about to go, and that counts no more.
    pub(super) fn leave_traces(&mut self) {
        for (place, on) in &mut self.traces.on {
            let Ok(last) = self.object.traces.get(&u32::from(*place), 0) else { continue };
            // What it has counted since its counts were copied.
            on.before.seen += last.seen - on.copied.seen;
            on.before.recorded += last.recorded - on.copied.recorded;
            on.before.missed += last.missed - on.copied.missed;
        }
        while let Some(bytes) = self.object.trace_ring.next() {
            self.traces.carried.push_back(bytes.to_vec());
        }
    }
}

impl TracedDatagram<'_> {
    /// What became of its copies, in the order in which they were made.
    pub fn copies(&self) -> impl Iterator<Item = TracedCopy> + '_ {
        self.outcomes.chunks_exact(OUTCOME_BYTES).filter_map(|bytes| {
            let &[a, b, c, d, e, f, g, h, i, j, traces, drop] = bytes.first_chunk()?;
            Some(TracedCopy {
                traces,
                output: self.outputs.owner(u32::from_ne_bytes([a, b, c, d]))?,
                drop: drop.checked_sub(1).and_then(|index| OUTPUT_DROPS.get(usize::from(index))).copied(),
                errno: u16::from_ne_bytes([i, j]).into(),
                time_ns: self.time_ns + u64::from(u32::from_ne_bytes([e, f, g, h])),
            })
        })
    }
}

/// A trace that begins with these counts.
fn entry(sampling: Sampling, counts: TraceCounts) -> TraceEntry {
    let Sampling { one_in, count, snap_bytes } = sampling;
    let TraceCounts { seen, recorded, missed } = counts;
    let (recorded_max, snap_bytes) = (count.unwrap_or(u64::MAX), snap_bytes.into());
    TraceEntry { seen, recorded, missed, recorded_max, one_in, snap_bytes }
}

/// What the bytes of a record say; none if its input is no more.
fn decode<'a>(
    bytes: &'a [u8],
    inputs: &crate::pool::Pool<u32, crate::layout::InputCounts>,
    outputs: &'a crate::pool::Pool<OutputSlot, crate::layout::OutputCounts>,
) -> Option<TracedDatagram<'a>> {
    let (record, rest) = bytes.split_at_checked(RECORD_BYTES)?;
    let word = |at: usize| u32::from_ne_bytes(*record[at..].first_chunk().unwrap_or(&[0; 4]));
    let half = |at: usize| u16::from_ne_bytes(*record[at..].first_chunk().unwrap_or(&[0; 2]));
    let words = |at: usize| [word(at), word(at + 4), word(at + 8), word(at + 12)];
    let [traces, drop, ipv6, hop_limit, traffic_class] = *record[64..].first_chunk()?;
    let [source, destination] = [(8, 40), (24, 42)]
        .map(|(at, port)| SocketAddr::new(address(words(at), ipv6 != 0), u16::from_be(half(port))));
    let (captured, count) = (usize::from(half(60)), usize::from(half(62)));
    let (outcomes, frame) = rest.split_at_checked(count * OUTCOME_BYTES)?;
    Some(TracedDatagram {
        traces,
        ifindex: inputs.owner(word(44))?,
        time_ns: u64::from(word(0)) | u64::from(word(4)) << 32,
        addresses: (destination.port() != 0).then_some((source, destination)),
        hop_limit,
        traffic_class,
        bytes: word(48),
        index: half(56),
        datagrams: half(58),
        drop: drop.checked_sub(1).and_then(|index| INPUT_DROPS.get(usize::from(index))).copied(),
        frame_bytes: word(52),
        // The ring rounds up to whole words.
        frame: frame.get(..captured)?,
        outcomes,
        outputs,
    })
}
