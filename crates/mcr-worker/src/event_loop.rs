//! The one loop of a worker: wait, take the batch to its routes, send, recycle, listen to the supervisor.
//!
//! There are two batches: one whose copies are being sent and one being received. A wait submits the sends of the former and
//! brings their results together with the next frames. At most [`EVENTS_MAX`] events come out of a wait, and at most
//! [`FRAMES_MAX`] frames are in a batch, so that neither grows without bound; in what measure inputs share them is the I/O's
//! business. Routes change only while no copy is being made.

use std::time::Duration;

use mcr_metrics::{
    Segment,
    clock::{monotonic_ns, realtime_ns},
};
use mcr_proto::{
    message::{FromWorker, LogLevel},
    plan::SocketId,
};
use mcr_relay::engine::Engine;
use mcr_uring_io::{Event, Io, SocketKey};

use crate::{
    WorkerError,
    batch::{self, Batch, Frame},
    commands::{self, Plans, Subject, Then},
    counts::Counts,
    guards::Guards,
    link::Link,
    sends::{Context, Sends},
    sockets::Sockets,
    trace::Tracer,
    turn::{self, TurnSize},
};

/// Frames held at a time.
const FRAMES_MAX: usize = BUFFERS as usize + turn::MAX;
/// Receive buffers of sockets without a ring. A buffer has room for any superframe, but only touched pages count. When the worker is behind, each
/// socket's queue is taken in one go as far as they reach: with 256, a thousand interleaved streams came to two thirds of the rate.
pub(crate) const BUFFERS: u16 = 1024;
/// Sends queued or in flight.
pub(crate) const SENDS_MAX: u16 = 1024;
/// Events of one wait.
pub(crate) const EVENTS_MAX: u16 = 8192;
/// Runs of one step; more frames than fill them are taken in several steps.
const RUNS_MAX: usize = 4096;

/// An idle worker shows twice a second that it is alive.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// How soon a full channel to the supervisor is tried again.
const RETRY: Duration = Duration::from_millis(10);
/// How long a stopping worker goes on with what it has received.
const DRAIN_NS: u64 = 500_000_000;
/// Waits that may fail in a row, for want of memory say, before the worker gives up.
const FAILED_WAITS_MAX: u32 = 16;

/// Receivers that were stopped, until what they brought is relayed.
#[derive(Debug, Default)]
struct Stopped {
    in_batch: Vec<SocketId>,
    incoming: Vec<SocketId>,
}

/// A worker at work.
#[derive(Debug)]
pub(crate) struct Worker {
    io: Io,
    engine: Engine,
    segment: Segment,
    link: Link,
    /// The channel as the I/O knows it.
    watch: SocketKey,
    sockets: Sockets,
    guards: Guards,
    plans: Plans,
    /// Being sent.
    batch: Batch,
    /// Being received.
    incoming: Vec<Frame>,
    sends: Sends,
    turn: TurnSize,
    tracer: Tracer,
    /// Receivers that nothing more comes of than what is in the batch at hand, or being received.
    stopped: Stopped,
    /// The supervisor has said something.
    called: bool,
    /// Set when the worker was told to stop.
    drain_until_ns: Option<u64>,
    /// When the last wait that brought something ended, in nanoseconds since 1970.
    realtime_ns: u64,
}

impl Stopped {
    /// The batch is relayed, and what is being received becomes the next: those of which all is relayed now.
    fn ended(&mut self, none_incoming: bool) -> Vec<SocketId> {
        let mut ended = std::mem::replace(&mut self.in_batch, std::mem::take(&mut self.incoming));
        if none_incoming {
            ended.append(&mut self.in_batch);
        }
        ended
    }
}

impl Worker {
    pub(crate) fn new(io: Io, segment: Segment, link: Link, watch: SocketKey) -> Self {
        let tracer = Tracer::new(&segment);
        Self {
            io,
            engine: Engine::new(RUNS_MAX),
            segment,
            link,
            watch,
            sockets: Sockets::default(),
            guards: Guards::default(),
            plans: Plans::default(),
            batch: Batch::new(FRAMES_MAX),
            incoming: Vec::with_capacity(FRAMES_MAX),
            sends: Sends::new(SENDS_MAX),
            turn: TurnSize::default(),
            tracer,
            stopped: Stopped::default(),
            called: false,
            drain_until_ns: None,
            realtime_ns: 0,
        }
    }

    /// Works until told to stop, or until the supervisor is gone.
    pub(crate) fn work(mut self) -> Result<(), WorkerError> {
        let mut events = Vec::with_capacity(self.io.events_max());
        let mut failed_waits = 0;
        loop {
            // What two sockets bring of one flow is put in order within a batch, so all that waits should be in it.
            let frames_max = if self.engine.is_limited() { turn::MAX } else { self.turn.frames() };
            let frames_max = frames_max.min(self.sockets.ring_frames_max());
            self.io.limit_ring_frames(frames_max.saturating_sub(self.incoming.len()));
            match self.io.wait(Some(self.timeout()), &mut events) {
                Ok(()) => failed_waits = 0,
                Err(_) if failed_waits < FAILED_WAITS_MAX => failed_waits += 1,
                Err(error) => return Err(WorkerError::Wait(error)),
            }
            let now_ns = monotonic_ns();
            let idle = events.is_empty();
            self.beat(now_ns);
            self.take(&mut events, now_ns)?;
            if self.step(now_ns)? == Then::Exit || self.is_drained(idle, now_ns) {
                return Ok(());
            }
            if self.link.is_waiting() {
                self.link.flush()?;
            }
        }
    }

    fn timeout(&self) -> Duration {
        match self.drain_until_ns {
            Some(_) if self.sends.in_flight() == 0 => Duration::ZERO,
            Some(_) => RETRY,
            None if self.link.is_waiting() => RETRY,
            None => HEARTBEAT,
        }
    }

    fn beat(&self, now_ns: u64) {
        let header = self.segment.header();
        header.heartbeat_ns.set(now_ns);
    }

    /// Sorts what a wait brought.
    fn take(&mut self, events: &mut Vec<Event>, now_ns: u64) -> Result<(), WorkerError> {
        if !events.is_empty() {
            self.realtime_ns = realtime_ns();
        }
        let counts = Counts { segment: &self.segment, arrived_ns: 0 };
        for event in events.drain(..) {
            match event {
                Event::Received { socket, frame } => match self.sockets.origin(socket) {
                    Some(origin) => self.incoming.push(Frame::new(frame, origin, self.realtime_ns)),
                    // Not reached: no event bears the key of a closed socket.
                    None => self.io.recycle(frame),
                },
                Event::Sent { token, result } => {
                    self.sends.ended(token, result, &mut self.engine, &counts, &self.tracer);
                }
                Event::Stopped { socket } => {
                    let stopped = self.sockets.origin(socket).map(|origin| origin.socket);
                    self.stopped.incoming.extend(stopped);
                }
                Event::Readable { socket } => self.called |= socket == self.watch,
                Event::ReceiveFailed { socket, errno } => {
                    if let Some(socket) = self.sockets.failed(socket, now_ns) {
                        self.link.note(&FromWorker::SocketFailed { socket, errno })?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Does what can be done without waiting: the rest of the batch at hand, commands, and the next batch up to its sends.
    fn step(&mut self, now_ns: u64) -> Result<Then, WorkerError> {
        loop {
            if !self.send(now_ns) {
                return Ok(Then::GoOn);
            }
            // Its sends ended in the last wait that brought something.
            let counts = Counts { segment: &self.segment, arrived_ns: 0 };
            let frames = self.batch.frames();
            counts.relayed(&self.engine, |frame| frames[frame as usize].received_ns, self.realtime_ns);
            self.engine.runs().iter().for_each(|run| self.turn.note(run.datagrams(), run.datagrams_max()));
            self.engine.clear_runs();
            self.sends.begin();
            if self.batch.is_relayed() {
                self.turn.end(self.batch.frames().len(), self.sockets.ring_frames_max(), now_ns);
                self.batch.recycle(&mut self.io);
                if self.tracer.is_on() {
                    self.tracer.settle(&self.segment);
                }
                // What is held was taken from sockets and is not relayed.
                if !self.is_held() {
                    self.segment.header().turns.add(1);
                    for socket in self.stopped.ended(self.incoming.is_empty()) {
                        self.link.answer(&FromWorker::Stopped { socket })?;
                    }
                }
                if std::mem::take(&mut self.called) && self.listen(now_ns)? == Then::Exit {
                    return Ok(Then::Exit);
                }
                if self.incoming.is_empty() || self.is_held() {
                    return Ok(Then::GoOn);
                }
                if self.engine.is_limited() {
                    batch::sort(&self.io, &mut self.incoming);
                }
                self.batch.begin(&mut self.incoming);
                self.turn.begin(now_ns);
                self.engine.tick(now_ns);
            }
            let mut counts = Counts { segment: &self.segment, arrived_ns: 0 };
            self.batch.relay(&self.io, &self.guards, &mut self.engine, &mut counts, &mut self.tracer);
        }
    }

    /// Whether what has been received has to wait until it is certain whose it is; it has come by the last wait's time at the latest. A worker that
    /// ends will not be told.
    fn is_held(&self) -> bool {
        self.drain_until_ns.is_none() && !self.incoming.is_empty() && self.engine.is_held(self.realtime_ns)
    }

    /// Makes the sends of the runs; true when all have ended.
    fn send(&mut self, now_ns: u64) -> bool {
        self.sends.advance(&mut Context {
            io: &mut self.io,
            engine: &mut self.engine,
            sockets: &self.sockets,
            frames: self.batch.frames(),
            counts: Counts { segment: &self.segment, arrived_ns: 0 },
            tracer: &mut self.tracer,
            now_ns,
        })
    }

    fn listen(&mut self, now_ns: u64) -> Result<Then, WorkerError> {
        let Self { io, engine, sockets, sends, guards, tracer, segment, link, plans, .. } = self;
        let mut subject = Subject { io, engine, sockets, sends, guards, tracer, segment };
        let then = commands::carry_out(link, plans, &mut subject)?;
        if then == Then::Drain {
            self.drain_until_ns = Some(now_ns + DRAIN_NS);
            // Whatever else the supervisor says, or that it is gone, changes nothing now.
            self.io.close(self.watch);
            self.link.log(LogLevel::Debug, "stopping")?;
        }
        Ok(then)
    }

    /// Whether a stopping worker has nothing left to do, or no time left to do it.
    fn is_drained(&self, idle: bool, now_ns: u64) -> bool {
        let Some(until_ns) = self.drain_until_ns else { return false };
        let done = idle && self.sends.in_flight() == 0 && self.incoming.is_empty();
        done || now_ns >= until_ns
    }
}
