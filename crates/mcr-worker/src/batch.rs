//! A batch: frames received together, on their way through the engine.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
};

use mcr_proto::{counters::InputDrop, plan::SocketId};
use mcr_relay::engine::{Arrival, Engine, RunsFull};
use mcr_socket::packet::AuxData;
use mcr_uring_io::{Io, Received};

use crate::{
    arrival::{self, Origin, Rejected},
    counts::Counts,
    guards::Guards,
    trace::{Seen, Tracer},
};

const UNKNOWN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// A received frame. It stays until the last copy of the batch is sent, so that any copy can be made again.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) received: Received,
    pub(crate) origin: Origin,
    /// Who sent it; for outputs that keep the source. Known once the frame is relayed.
    pub(crate) source: SocketAddr,
    /// When it was received, in nanoseconds since 1970: by the kernel where the frame says so, else from the kernel.
    pub(crate) received_ns: u64,
}

impl Frame {
    pub(crate) fn new(received: Received, origin: Origin, received_ns: u64) -> Self {
        Self { received, origin, source: UNKNOWN, received_ns }
    }
}

/// The frames at work, and how far the work has come.
#[derive(Debug)]
pub(crate) struct Batch {
    frames: Vec<Frame>,
    next: usize,
    /// Read and counted as received, but the engine had no room for it yet.
    held: Option<Arrival>,
}

impl Batch {
    pub(crate) fn new(frames_max: usize) -> Self {
        Self { frames: Vec::with_capacity(frames_max), next: 0, held: None }
    }

    pub(crate) fn frames(&self) -> &[Frame] {
        &self.frames
    }

    pub(crate) fn is_relayed(&self) -> bool {
        self.next == self.frames.len()
    }

    /// Begins with these frames; `frames` is empty afterwards. The frames of the batch before must have been recycled.
    pub(crate) fn begin(&mut self, frames: &mut Vec<Frame>) {
        assert!(self.frames.is_empty(), "a frame that is dropped is a buffer lost");
        std::mem::swap(&mut self.frames, frames);
        self.next = 0;
    }

    /// Gives all frames back.
    pub(crate) fn recycle(&mut self, io: &mut Io) {
        for frame in self.frames.drain(..) {
            io.recycle(frame.received);
        }
        self.next = 0;
    }

    /// Takes frames to their routes, until all are taken or the engine's runs are full and must be sent first.
    pub(crate) fn relay(
        &mut self,
        io: &Io,
        guards: &Guards,
        engine: &mut Engine,
        counts: &mut Counts<'_>,
        tracer: &mut Tracer,
    ) {
        if tracer.is_on() {
            self.relay_as::<true>(io, guards, engine, counts, tracer);
        } else {
            self.relay_as::<false>(io, guards, engine, counts, tracer);
        }
    }

    /// `TRACED` is known when this is compiled, so that what is not traced pays nothing for it.
    #[inline]
    fn relay_as<const TRACED: bool>(
        &mut self,
        io: &Io,
        guards: &Guards,
        engine: &mut Engine,
        counts: &mut Counts<'_>,
        tracer: &mut Tracer,
    ) {
        while let Some(frame) = self.frames.get_mut(self.next) {
            let arrival = match self.held.take() {
                None => read::<TRACED>(io, guards, frame, self.next, engine, counts, tracer),
                held => held,
            };
            if let Some(arrival) = arrival {
                frame.source = arrival.source;
                counts.arrived_ns = frame.received_ns;
                let relayed = if TRACED {
                    relay_traced(io, frame, &arrival, engine, counts, tracer)
                } else {
                    engine.relay(&arrival, counts)
                };
                if relayed == Err(RunsFull) {
                    self.held = Some(arrival);
                    return;
                }
            }
            self.next += 1;
        }
    }
}

/// Puts frames into the order in which the kernel received them. While a rule goes from some sockets to others, datagrams of one flow
/// come through both; each socket has its own in order, but not together.
#[cold]
pub(crate) fn sort(io: &Io, frames: &mut Vec<Frame>) {
    let stamps =
        frames.iter().map(|frame| (frame.origin.socket, arrival::stamp(&io.datagram(&frame.received))));
    let times = times(stamps);
    let mut timed: Vec<_> = times.into_iter().zip(frames.drain(..)).collect();
    timed.sort_by_key(|(time, _)| *time);
    frames.extend(timed.into_iter().map(|(_, frame)| frame));
}

/// When frames came, as far as they are to be put in order: never earlier than the one before by the same socket. One without a stamp comes behind ones with,
/// where the kernel has ceased to stamp them before they were taken; and a clock may have been set back.
fn times(stamps: impl Iterator<Item = (SocketId, u64)>) -> Vec<u64> {
    let mut latest = BTreeMap::new();
    let time = |(socket, stamp_ns): (SocketId, u64)| {
        let latest: &mut u64 = latest.entry(socket).or_default();
        *latest = stamp_ns.max(*latest);
        *latest
    };
    stamps.map(time).collect()
}

/// Takes an arrival to its routes and shows traces what became of it.
fn relay_traced(
    io: &Io,
    frame: &Frame,
    arrival: &Arrival,
    engine: &mut Engine,
    counts: &mut Counts<'_>,
    tracer: &mut Tracer,
) -> Result<(), RunsFull> {
    let mut watch = tracer.watch(counts);
    engine.relay(arrival, &mut watch)?;
    let noted = watch.noted();
    if noted.is_of_interest() {
        tracer.arrived(counts.segment, engine, &seen(io, frame), arrival, noted);
    }
    Ok(())
}

fn seen<'a>(io: &'a Io, frame: &'a Frame) -> Seen<'a> {
    Seen { datagram: io.datagram(&frame.received), origin: frame.origin, taken_ns: frame.received_ns }
}

/// Reads a frame and counts it.
#[inline]
fn read<const TRACED: bool>(
    io: &Io,
    guards: &Guards,
    frame: &mut Frame,
    index: usize,
    engine: &Engine,
    counts: &Counts<'_>,
    tracer: &mut Tracer,
) -> Option<Arrival> {
    let input = frame.origin.input;
    let datagram = io.datagram(&frame.received);
    if let Some(received_ns) = AuxData::ring_time_ns(datagram.ring_header) {
        frame.received_ns = received_ns;
    }
    match arrival::decode(&datagram, &frame.origin, index as u32) {
        Ok(arrival) => {
            if engine.leaves_to_others(&arrival) {
                counts.left_to_others(input);
                return None;
            }
            counts.received(input, arrival.datagrams(), arrival.bytes);
            if guards.catch(datagram.payload, frame.origin.kind, &arrival) {
                let (datagrams, bytes) = (arrival.datagrams(), arrival.bytes);
                counts.rejected(input, Rejected { reason: InputDrop::Loop, datagrams, bytes });
                if TRACED {
                    let noted = tracer.note_drop(input, InputDrop::Loop);
                    tracer.arrived(counts.segment, engine, &seen(io, frame), &arrival, noted);
                }
                return None;
            }
            Some(arrival)
        }
        Err(rejected) => {
            counts.received(input, rejected.datagrams, rejected.bytes);
            counts.rejected(input, rejected);
            if TRACED {
                let Rejected { reason, bytes, .. } = rejected;
                tracer.rejected(counts.segment, &seen(io, frame), reason, bytes);
            }
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_sockets_are_merged_by_stamps_and_neither_loses_its_order() {
        let [ring, other] = [SocketId(1), SocketId(2)];
        // The ring's third has no stamp, its fifth came after the clock was set back.
        let stamps =
            [(ring, 0), (ring, 10), (ring, 0), (ring, 30), (ring, 25), (other, 0), (other, 20), (other, 40)];
        let times = times(stamps.into_iter());
        assert_eq!(times, [0, 10, 10, 30, 30, 0, 20, 40]);
        let mut order: Vec<_> = (0..stamps.len()).collect();
        order.sort_by_key(|index| times[*index]);
        assert_eq!(order, [0, 5, 1, 2, 6, 3, 4, 7]);
    }
}
