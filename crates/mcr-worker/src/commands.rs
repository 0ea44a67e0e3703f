//! What the supervisor asks for, carried out between batches.

use mcr_fdpass::{Received, Tag};
use mcr_metrics::{OUTPUT_SLOTS, RULE_SLOTS, Segment};
use mcr_proto::{
    message::{FromWorker, LogLevel, ToWorker, tag},
    plan::{Generation, OutputSlot, PlanOp, SocketId},
};
use mcr_relay::engine::Engine;
use mcr_uring_io::Io;

use crate::{
    WorkerError,
    arrival::Origin,
    guards::Guards,
    link::{Heard, Link, chain},
    sends::Sends,
    sockets::{Sockets, is_input_slot},
    trace::Tracer,
};

/// Messages carried out at a time, so that a long plan does not hold up the traffic.
const MESSAGES_MAX: usize = 32;
/// The most differences of one plan: every rule removed, or put again with a limit and what it goes on from.
const OPS_MAX: usize = 3 * RULE_SLOTS;

/// What commands change.
pub(crate) struct Subject<'a> {
    pub(crate) io: &'a mut Io,
    pub(crate) engine: &'a mut Engine,
    pub(crate) sockets: &'a mut Sockets,
    pub(crate) sends: &'a mut Sends,
    pub(crate) guards: &'a mut Guards,
    pub(crate) tracer: &'a mut Tracer,
    pub(crate) segment: &'a Segment,
}

/// What the worker is to do after the commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    GoOn,
    /// Finish what was received, then exit.
    Drain,
    /// The supervisor is gone.
    Exit,
}

/// The parts of a plan that is not complete yet.
#[derive(Debug, Default)]
pub(crate) struct Plans {
    ops: Vec<PlanOp>,
    /// Why the plan cannot be applied; the rest of it is passed over.
    problem: Option<String>,
}

/// Reads and carries out what has come, or a part of it: the channel then stays readable.
pub(crate) fn carry_out(
    link: &mut Link,
    plans: &mut Plans,
    subject: &mut Subject<'_>,
) -> Result<Then, WorkerError> {
    for _ in 0..MESSAGES_MAX {
        match link.hear() {
            Heard::Nothing => break,
            Heard::End => return Ok(Then::Exit),
            Heard::Unreadable(why) => {
                link.log(LogLevel::Warn, format!("a message from the supervisor was passed over: {why}"))?;
            }
            Heard::Message(ToWorker::Stop, _) => return Ok(Then::Drain),
            Heard::Message(ToWorker::LogLevel(level), _) => link.set_level(level),
            Heard::Message(ToWorker::Guards(own), _) => {
                own.into_iter().for_each(|(destination, own)| subject.guards.set(destination, own));
            }
            Heard::Message(ToWorker::Trace(order), _) => subject.tracer.begin(subject.segment, order),
            Heard::Message(ToWorker::EndTrace { place, id }, _) => {
                subject.tracer.end(subject.segment, place, id);
            }
            Heard::Message(message, fds) => {
                if let Some(answer) = carry_out_one(message, fds, plans, subject) {
                    link.answer(&answer)?;
                }
            }
        }
    }
    Ok(Then::GoOn)
}

fn carry_out_one(
    message: ToWorker,
    mut fds: Received,
    plans: &mut Plans,
    subject: &mut Subject<'_>,
) -> Option<FromWorker> {
    let Subject { io, sockets, engine, .. } = subject;
    let mut fd = || fds.take(Tag(tag::SOCKET)).ok_or_else(|| "it came without a descriptor".to_owned());
    let (what, outcome) = match message {
        ToWorker::OpenReceiver { input, .. } if !is_input_slot(input) => {
            (format!("open a receiver for input slot {input}"), Err("there is no such slot".into()))
        }
        ToWorker::OpenReceiver { socket, input, kind, lane } => {
            let origin = Origin { socket, input, kind };
            let opened =
                fd().and_then(|fd| sockets.announce(fd, origin, lane).map_err(|error| chain(&error)));
            (format!("open receiver {socket}"), opened)
        }
        ToWorker::OpenSender { socket } => {
            let opened =
                fd().and_then(|fd| sockets.open_sender(io, fd, socket).map_err(|error| chain(&error)));
            (format!("open sender {socket}"), opened)
        }
        ToWorker::CloseSocket { socket } => {
            engine.uncap(socket);
            let closed = if sockets.close(io, socket) { Ok(()) } else { Err("it is not open".into()) };
            (format!("close socket {socket}"), closed)
        }
        ToWorker::StopReceiver { socket } => {
            let stopped = if sockets.stop(io, socket) { Ok(()) } else { Err("it is not open".into()) };
            (format!("stop receiver {socket}"), stopped)
        }
        ToWorker::Plan { generation, ops, last } => return plans.take(generation, ops, last, subject),
        ToWorker::Start { .. } => ("start".to_owned(), Err("the worker has started".into())),
        // Not reached: the caller looks for them first.
        ToWorker::Stop
        | ToWorker::LogLevel(_)
        | ToWorker::Guards(_)
        | ToWorker::Trace(_)
        | ToWorker::EndTrace { .. } => return None,
    };
    let problem = outcome.err().map(|why: String| format!("cannot {what}: {why}"));
    problem.map(|problem| FromWorker::Refused { problem })
}

impl Plans {
    /// Takes a part of a plan; with the last one the plan is applied, or refused as a whole.
    fn take(
        &mut self,
        generation: Generation,
        ops: Vec<PlanOp>,
        last: bool,
        subject: &mut Subject<'_>,
    ) -> Option<FromWorker> {
        if self.problem.is_none() {
            self.problem = problem_of(&ops, self.ops.len(), subject.sockets);
        }
        if self.problem.is_none() {
            self.ops.extend(ops);
        }
        if !last {
            return None;
        }
        let ops = std::mem::take(&mut self.ops);
        let Subject { io, sockets, engine, .. } = subject;
        for (socket, lane, opened) in sockets.open_announced(io) {
            match (opened, lane.cap) {
                (Ok(()), Some((number, rate))) => engine.cap(socket, number, rate),
                (Ok(()), None) => {}
                (Err(error), _) => {
                    self.problem = Some(format!("cannot open receiver {socket}: {}", chain(&error)));
                }
            }
        }
        if let Some(why) = self.problem.take() {
            return Some(FromWorker::Refused { problem: format!("cannot apply plan {generation}: {why}") });
        }
        for op in ops {
            outputs_of(&op).for_each(|output| subject.sends.forget(output));
            if let PlanOp::Remove(rule) = op {
                subject.segment.rule(rule).given_up();
                subject.engine.flows_of(rule).for_each(|flow| _ = subject.segment.flow(flow).end());
            }
            subject.engine.apply(op);
        }
        Some(FromWorker::Applied { generation })
    }
}

fn problem_of(ops: &[PlanOp], before: usize, sockets: &Sockets) -> Option<String> {
    if before + ops.len() > OPS_MAX {
        return Some(format!("it has more than {OPS_MAX} differences"));
    }
    for op in ops {
        let (PlanOp::Put(mcr_proto::plan::Route { rule, .. })
        | PlanOp::Remove(rule)
        | PlanOp::Limit { rule, .. }
        | PlanOp::Continue { rule, .. }) = op;
        if rule.0 as usize >= RULE_SLOTS {
            return Some(format!("rule slot {rule} does not exist"));
        }
        if let Some(output) = outputs_of(op).find(|output| output.0 as usize >= OUTPUT_SLOTS) {
            return Some(format!("output slot {output} does not exist"));
        }
        if let Some(socket) = sockets.missing(op) {
            return Some(missing(socket));
        }
    }
    None
}

fn missing(socket: SocketId) -> String {
    format!("socket {socket} is not open, or not for this use")
}

fn outputs_of(op: &PlanOp) -> impl Iterator<Item = OutputSlot> + '_ {
    let outputs = match op {
        PlanOp::Put(route) => route.outputs.as_slice(),
        PlanOp::Remove(_) | PlanOp::Limit { .. } | PlanOp::Continue { .. } => &[],
    };
    outputs.iter().map(|output| output.slot)
}
