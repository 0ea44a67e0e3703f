//! From runs to sends, and what comes of them.
//!
//! One run at a time is turned into sends, which are queued as far as the I/O has room; the rest waits for completions. The
//! runs and their frames stay until the last send has ended, so that a send the kernel will not cut into segments is made
//! again, datagram by datagram. Nothing else is made again: every other failure is counted and done with.
//!
//! Invariants: every copy ends in exactly one counter; the copies of an output leave in the order of the runs, also when the
//! first of them turn out to need the slow way: while a segment size is new to an output, the next run waits for the outcome. Only
//! where an MTU shrinks under an output that has sent such segments may the first refused run be overtaken, once.

use std::collections::VecDeque;

use arrayvec::ArrayVec;
use mcr_parse::checksum;
use mcr_proto::plan::{OutputSlot, Via};
use mcr_relay::engine::{self, Engine, Run};
use mcr_uring_io::{Io, Outgoing, PARTS_MAX, Part, SendError};

use crate::{
    batch::Frame,
    counts::{Counts, reason_of},
    raw::{Headers, without_port},
    sockets::Sockets,
    trace::{DropWatch, Outcome, Tracer},
};

/// What sends are made of and counted in.
pub(crate) struct Context<'a> {
    pub(crate) io: &'a mut Io,
    pub(crate) engine: &'a mut Engine,
    pub(crate) sockets: &'a Sockets,
    pub(crate) frames: &'a [Frame],
    pub(crate) counts: Counts<'a>,
    pub(crate) tracer: &'a mut Tracer,
    pub(crate) now_ns: u64,
}

/// One send of one run of the batch.
#[derive(Debug, Clone, Copy)]
struct Planned {
    run: u32,
    send: engine::Send,
    /// Whether it failed already, for what may have been another's fault.
    is_second: bool,
}

/// The sends of a batch.
#[derive(Debug)]
pub(crate) struct Sends {
    /// Of the run at hand, in order.
    planned: VecDeque<Planned>,
    /// To be made again one by one; before all that is planned.
    again: VecDeque<Planned>,
    /// By token.
    in_flight: Vec<Option<Planned>>,
    free: Vec<u32>,
    next_run: usize,
    proven: Proven,
    /// Whether the run at hand has a segment size that is new to an output.
    proving: bool,
}

/// What became of an attempt to queue a send.
enum Queued {
    Yes,
    Full,
    Failed(i32),
}

impl Sends {
    pub(crate) fn new(sends_max: u16) -> Self {
        Self {
            planned: VecDeque::with_capacity(sends_max.into()),
            again: VecDeque::new(),
            in_flight: (0..sends_max).map(|_| None).collect(),
            free: (0..u32::from(sends_max)).rev().collect(),
            next_run: 0,
            proven: Proven::default(),
            proving: false,
        }
    }

    /// How many sends have not ended.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.len() - self.free.len()
    }

    /// Makes as many sends as there is room for. True when those of all runs have ended: then the runs can be cleared.
    pub(crate) fn advance(&mut self, context: &mut Context<'_>) -> bool {
        loop {
            if !self.queue(context) {
                return false;
            }
            if self.next_run == context.engine.runs().len() {
                return self.in_flight() == 0;
            }
            if self.proving && self.in_flight() > 0 {
                return false;
            }
            self.plan_next_run(context);
        }
    }

    /// Forgets where it was in the runs, which were cleared.
    pub(crate) fn begin(&mut self) {
        self.next_run = 0;
        self.proving = false;
    }

    /// The output's routes changed: what it can carry has to be found out again.
    pub(crate) fn forget(&mut self, output: OutputSlot) {
        self.proven.forget(output);
    }

    /// Counts what came of the send with this token, or makes it again datagram by datagram.
    #[inline]
    pub(crate) fn ended(
        &mut self,
        token: u64,
        result: Result<usize, i32>,
        engine: &mut Engine,
        counts: &Counts<'_>,
        tracer: &Tracer,
    ) {
        let place = self.in_flight.get_mut(token as usize).and_then(Option::take);
        let planned = place.expect("a token comes back once, from the send that bore it");
        self.free.push(token as u32);
        let Planned { run: index, send, is_second } = planned;
        let run = &engine.runs()[index as usize];
        match result {
            Ok(_) => {
                counts.sent(send.slot, send.datagrams, run.bytes(send.first, send.datagrams));
                if tracer.is_on() {
                    show(tracer, counts, engine, &planned, None);
                }
                if send.datagrams > 1 {
                    self.proven.note(send.slot, run.segment());
                }
            }
            Err(errno) if !is_second && may_be_of_another(&send, errno) => {
                self.again.push_back(Planned { is_second: true, ..planned });
            }
            Err(errno) if send.datagrams > 1 && refuses_segments(errno) => {
                let segment = run.segment();
                engine.refuse_segments(send.output, segment);
                let one_by_one = engine::one_by_one(send);
                self.again.extend(one_by_one.map(|send| Planned { run: index, send, is_second }));
            }
            Err(errno) => refuse(tracer, counts, engine, &planned, errno),
        }
    }

    /// Queues what is waiting; false if there was no room for all of it.
    fn queue(&mut self, context: &mut Context<'_>) -> bool {
        loop {
            let again = !self.again.is_empty();
            let Some(planned) = self.again.front().or(self.planned.front()).copied() else { return true };
            match self.start(planned, context) {
                Queued::Full if self.in_flight() > 0 => return false,
                // No send is under way and still there is no room: waiting would be for ever.
                Queued::Full => {
                    refuse(context.tracer, &context.counts, context.engine, &planned, libc::ENOBUFS);
                }
                Queued::Failed(errno) => {
                    refuse(context.tracer, &context.counts, context.engine, &planned, errno);
                }
                Queued::Yes => {}
            }
            if again {
                self.again.pop_front()
            } else {
                self.planned.pop_front()
            };
        }
    }

    fn start(&mut self, planned: Planned, context: &mut Context<'_>) -> Queued {
        let Some(token) = self.free.last().copied() else { return Queued::Full };
        let run = &context.engine.runs()[planned.run as usize];
        let queued = queue_send(context.io, context.sockets, context.frames, run, &planned.send, token);
        if matches!(queued, Queued::Yes) {
            self.free.pop();
            self.in_flight[token as usize] = Some(planned);
        }
        queued
    }

    fn plan_next_run(&mut self, context: &mut Context<'_>) {
        let index = self.next_run;
        self.next_run += 1;
        self.proving = false;
        let Self { planned, proven, proving, .. } = self;
        let plan = |run: &Run, send: engine::Send| {
            *proving |= send.datagrams > 1 && !proven.carries(send.slot, run.segment());
            planned.push_back(Planned { run: index as u32, send, is_second: false });
        };
        let Context { engine, counts, tracer, now_ns, .. } = context;
        if !tracer.is_on() {
            return engine.sends(index, *now_ns, counts, plan);
        }
        let mut drops = tracer.take_drops();
        engine.sends(index, *now_ns, &mut DropWatch { counts, drops: &mut drops }, plan);
        tracer.dropped(counts.segment, engine, &engine.runs()[index], drops);
    }
}

/// Counts copies that the kernel refused.
#[cold]
fn refuse(tracer: &Tracer, counts: &Counts<'_>, engine: &Engine, planned: &Planned, errno: i32) {
    counts.refused(planned.send.slot, planned.send.datagrams, errno);
    if tracer.is_on() {
        show(tracer, counts, engine, planned, Some(errno));
    }
}

/// Shows traces what came of a send.
#[cold]
fn show(tracer: &Tracer, counts: &Counts<'_>, engine: &Engine, planned: &Planned, errno: Option<i32>) {
    let Planned { run, send, .. } = planned;
    let run = &engine.runs()[*run as usize];
    let outcome = Outcome { output: send.slot, drop: errno.map(reason_of), errno: errno.unwrap_or(0) };
    tracer.copied(counts.segment, engine, run, send.first..send.first + send.datagrams, outcome);
}

/// Queues one send; its parts lie on the stack and in the frames.
fn queue_send(
    io: &mut Io,
    sockets: &Sockets,
    frames: &[Frame],
    run: &Run,
    send: &engine::Send,
    token: u32,
) -> Queued {
    let (Via::Udp(id) | Via::Raw(id)) = send.via else { return Queued::Failed(libc::ENETUNREACH) };
    let Some(socket) = sockets.sender(id) else { return Queued::Failed(libc::EBADF) };
    // Before the parts, which borrow from it.
    let headers;
    let mut parts = ArrayVec::<Part<'_>, PARTS_MAX>::new();
    let mut message = Outgoing::new(socket, &[], u64::from(token));
    if let Via::Raw(_) = send.via {
        headers = match raw_headers(io, frames, run, send) {
            Ok(headers) => headers,
            Err(errno) => return Queued::Failed(errno),
        };
        parts.push(Part::Inline(headers.as_slice()));
        message.destination = Some(without_port(send.destination));
    } else {
        message.destination = Some(send.destination);
        message.segment_bytes = (send.datagrams > 1).then(|| run.segment());
        message.hop_limit = send.hop_limit;
        message.traffic_class = send.traffic_class;
    }
    for part in run.parts(send.first, send.datagrams) {
        let start = part.offset as usize;
        let part = Part::Frame(&frames[part.frame as usize].received, start..start + part.bytes as usize);
        if parts.try_push(part).is_err() {
            return Queued::Failed(libc::EINVAL);
        }
    }
    match io.send(&Outgoing { parts: &parts, ..message }) {
        Ok(()) => Queued::Yes,
        Err(SendError::Full) => Queued::Full,
        Err(SendError::UnknownSocket) => Queued::Failed(libc::EBADF),
        Err(_) => Queued::Failed(libc::EINVAL),
    }
}

/// Headers with the source of the datagram that is to be sent.
fn raw_headers(io: &Io, frames: &[Frame], run: &Run, send: &engine::Send) -> Result<Headers, i32> {
    let mut payload = checksum::Parts::default();
    for part in run.parts(send.first, send.datagrams) {
        let frame = io.datagram(&frames[part.frame as usize].received);
        let start = part.offset as usize;
        payload.push(&frame.payload[start..start + part.bytes as usize]);
    }
    let source = frames[run.frame_of(send.first) as usize].source;
    // The engine gives raw sends a hop limit always, and a traffic class unless it is 0.
    let hop_limit = send.hop_limit.unwrap_or(64);
    Headers::new(source, send.destination, hop_limit, send.traffic_class.unwrap_or(0), payload)
}

/// Whether a send may have failed, without being made, because of an ICMP error about an earlier one: a socket that sends to
/// groups is told of errors (`mcr_socket::udp::UdpOutput`). Nobody answers what is sent to a group with such an error, but anybody
/// can forge one (icmp_err_convert and icmpv6_err_convert of the kernel).
fn may_be_of_another(send: &engine::Send, errno: i32) -> bool {
    matches!(send.via, Via::Udp(_))
        && send.destination.ip().is_multicast()
        && matches!(
            errno,
            libc::ECONNREFUSED
                | libc::EHOSTUNREACH
                | libc::ENETUNREACH
                | libc::EHOSTDOWN
                | libc::ENONET
                | libc::ENOPROTOOPT
                | libc::EOPNOTSUPP
                | libc::EMSGSIZE
                | libc::EPROTO
                | libc::EACCES
        )
}

/// What Linux says to `UDP_SEGMENT`: EINVAL or EMSGSIZE where a segment is larger than the MTU (udp_send_skb), EIO where the
/// device has no checksum offload, EOPNOTSUPP and ENOPROTOOPT where there is no such thing.
fn refuses_segments(errno: i32) -> bool {
    matches!(errno, libc::EINVAL | libc::EIO | libc::EMSGSIZE | libc::EOPNOTSUPP | libc::ENOPROTOOPT)
}

/// The largest segments that went out of each output.
#[derive(Debug, Default)]
struct Proven {
    segments: Vec<u16>,
}

impl Proven {
    #[inline]
    fn carries(&self, output: OutputSlot, segment: u16) -> bool {
        self.segments.get(output.0 as usize).is_some_and(|proven| segment <= *proven)
    }

    /// Grows up to the largest slot there is, `OUTPUT_SLOTS`, and only where segments are sent.
    #[inline]
    fn note(&mut self, output: OutputSlot, segment: u16) {
        let index = output.0 as usize;
        if self.segments.len() <= index {
            self.segments.resize(index + 1, 0);
        }
        self.segments[index] = self.segments[index].max(segment);
    }

    fn forget(&mut self, output: OutputSlot) {
        if let Some(proven) = self.segments.get_mut(output.0 as usize) {
            *proven = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_size_is_proven_for_its_output_and_smaller_ones_until_it_is_forgotten() {
        let mut proven = Proven::default();
        let output = OutputSlot(3);
        assert!(!proven.carries(output, 1));
        proven.note(output, 1400);
        proven.note(output, 100);
        assert!(proven.carries(output, 1400));
        assert!(!proven.carries(output, 1401));
        assert!(!proven.carries(OutputSlot(2), 100));
        assert!(!proven.carries(OutputSlot(4), 100));
        proven.forget(output);
        proven.forget(OutputSlot(9));
        assert!(!proven.carries(output, 1));
    }
}
