//! The loop: a batch is received, each of its frames decided on and changed in place, the answers sent, all of it counted.

use std::{collections::VecDeque, io, os::fd::AsFd, time::Duration};

use mcr_fdpass::{Channel, RecvError};
use mcr_metrics::clock::{monotonic_ns, realtime_ns};
use mcr_proto::codec;
use mcr_reflect::{FromReflector, Now, Outcome, Reflector, ToReflector, WallTime};
use nix::{
    poll::{PollFd, PollFlags, ppoll},
    sys::time::TimeSpec,
};

use crate::{
    ReflectorError,
    back_end::{BATCH_FRAMES, BackEnd, Sent},
    counts::{Batch, Counts},
    start::tell,
};

/// Answers that wait for their time; there is one kind, multicast loopback, which nobody sends often.
const DELAYED_MAX: usize = 64;
/// The supervisor is heard at least after so many batches, however much there is to do.
const BATCHES_UNHEARD_MAX: u32 = 64;
/// At least so often the loop turns, to show that it does.
const BEAT: Duration = Duration::from_millis(500);
/// Errors of the socket are told at most so often.
const COMPLAIN_EVERY_NS: u64 = 1_000_000_000;

/// A reflector at work.
pub(crate) struct Reflecting {
    reflector: Reflector,
    back_end: Box<dyn BackEnd>,
    counts: Counts,
    channel: Channel,
    body: Vec<u8>,
    delayed: VecDeque<Delayed>,
    latency_every: u32,
    /// Frames until the next is measured.
    unmeasured: u32,
    complained_ns: Option<u64>,
}

struct Delayed {
    due_ns: u64,
    frame: Vec<u8>,
}

/// A frame whose turn-round time is to be told.
#[derive(Clone, Copy)]
struct Measured {
    since: WallTime,
    stamped: bool,
}

enum Heard {
    GoOn,
    Stop,
}

impl Reflecting {
    pub(crate) fn new(
        reflector: Reflector,
        back_end: Box<dyn BackEnd>,
        counts: Counts,
        channel: Channel,
        latency_every: u32,
    ) -> Self {
        let (body, delayed) = (Vec::new(), VecDeque::new());
        let (unmeasured, complained_ns) = (0, None);
        Self { reflector, back_end, counts, channel, body, delayed, latency_every, unmeasured, complained_ns }
    }

    /// Reflects until told to stop.
    pub(crate) fn run(mut self) -> Result<(), ReflectorError> {
        let mut batches_unheard = 0;
        loop {
            let idle = self.turn() == 0;
            batches_unheard += 1;
            if !idle && batches_unheard < BATCHES_UNHEARD_MAX {
                continue;
            }
            batches_unheard = 0;
            self.counts.alive(now().monotonic_ns);
            self.send_due();
            // Where it waits, it is told whether anything was said: to ask would be another system call for each frame that comes alone.
            let told = if idle { self.wait()? } else { true };
            if told && matches!(self.hear()?, Heard::Stop) {
                return Ok(());
            }
        }
    }

    /// Handles one batch; how many frames it had.
    fn turn(&mut self) -> usize {
        let frames = match self.back_end.receive() {
            Ok(0) => return 0,
            Ok(frames) => frames,
            Err(error) => {
                self.complain("receiving failed", &error);
                return 0;
            }
        };
        let mut batch = Batch::default();
        let mut measured = [const { None::<Measured> }; BATCH_FRAMES];
        let each = self.reflector.tells_time();
        let mut at = now();
        for (index, measured) in measured.iter_mut().enumerate().take(frames) {
            let (room, bytes, meta) = self.back_end.frame(index);
            batch.note_frame(bytes);
            if each {
                at = now();
            }
            match self.reflector.reflect(room, bytes, &meta, &at) {
                Outcome::Send { bytes, kind } => {
                    batch.note_answered(kind);
                    self.back_end.queue(index, bytes);
                    if self.latency_every > 0 {
                        self.unmeasured += 1;
                        if self.unmeasured >= self.latency_every {
                            self.unmeasured = 0;
                            let (since, stamped) =
                                (meta.received.unwrap_or(at.wall), meta.received.is_some());
                            *measured = Some(Measured { since, stamped });
                        }
                    }
                }
                Outcome::SendLater { bytes, kind, delay_ns } => {
                    batch.note_answered(kind);
                    if self.delayed.len() < DELAYED_MAX {
                        let frame = room[..bytes].to_vec();
                        self.delayed.push_back(Delayed { due_ns: at.monotonic_ns + delay_ns, frame });
                    } else {
                        self.counts.note_full();
                    }
                }
                Outcome::Drop(reason) => batch.note_dropped(reason),
            }
        }
        let sent = self.back_end.flush();
        self.counts.write(&batch, &sent);
        self.counts.set_in_flight(self.delayed.len());
        self.counts.note_invalid(self.back_end.take_invalid());
        self.measure(&measured[..frames]);
        self.note_errors(&sent);
        frames
    }

    fn measure(&self, measured: &[Option<Measured>]) {
        if self.latency_every == 0 || measured.iter().all(Option::is_none) {
            return;
        }
        let sent = now().wall;
        for Measured { since, stamped } in measured.iter().flatten() {
            self.counts.note_latency(sent.ns_since(*since), *stamped);
        }
    }

    /// Sends the answers whose time has come.
    fn send_due(&mut self) {
        if self.delayed.is_empty() {
            return;
        }
        let now_ns = now().monotonic_ns;
        let (due, later) =
            std::mem::take(&mut self.delayed).into_iter().partition(|delayed| delayed.due_ns <= now_ns);
        self.delayed = later;
        let due: VecDeque<Delayed> = due;
        for delayed in due {
            let sent = self.back_end.send_one(&delayed.frame);
            self.counts.write_sent(&sent);
            self.note_errors(&sent);
        }
        self.counts.set_in_flight(self.delayed.len());
    }

    fn hear(&mut self) -> Result<Heard, ReflectorError> {
        loop {
            match self.channel.recv(&mut self.body) {
                Ok(_) => {}
                Err(RecvError::WouldBlock) => return Ok(Heard::GoOn),
                Err(RecvError::Closed) => return Ok(Heard::Stop),
                Err(error) => return Err(ReflectorError::NotStarted { why: error.to_string() }),
            }
            match codec::decode(&self.body) {
                Ok(ToReflector::Configure { config }) => {
                    // The supervisor checked it; if it is wrong all the same, the old options are better than none.
                    if let Err(error) = self.reflector.reconfigure(config) {
                        self.log(true, format!("options not taken: {error}"));
                    }
                }
                Ok(ToReflector::Stop) => return Ok(Heard::Stop),
                Ok(ToReflector::Start { .. }) => self.log(true, "told to start twice".into()),
                Err(error) => self.log(true, format!("cannot read a message: {error}")),
            }
        }
    }

    /// Sleeps until a frame or a message comes, or an answer is due; whether the supervisor may have said something.
    fn wait(&mut self) -> Result<bool, ReflectorError> {
        let now_ns = now().monotonic_ns;
        let due = self
            .delayed
            .iter()
            .map(|delayed| Duration::from_nanos(delayed.due_ns.saturating_sub(now_ns)))
            .min();
        let patience = due.map_or(BEAT, |due| due.min(BEAT));
        let mut polled = [
            PollFd::new(self.back_end.fd(), PollFlags::POLLIN),
            PollFd::new(self.channel.as_fd(), PollFlags::POLLIN),
        ];
        match ppoll(&mut polled, Some(TimeSpec::from_duration(patience)), None) {
            Ok(_) => Ok(polled[1].any().unwrap_or(true)),
            Err(nix::Error::EINTR) => Ok(true),
            Err(errno) => Err(ReflectorError::Wait(errno.into())),
        }
    }

    fn note_errors(&mut self, sent: &Sent) {
        if let Some(errno) = sent.errno {
            self.complain("sending failed", &io::Error::from_raw_os_error(errno));
        }
    }

    /// Tells of an error, unless one was told of a moment ago.
    fn complain(&mut self, what: &str, error: &io::Error) {
        let now_ns = now().monotonic_ns;
        if self.complained_ns.is_none_or(|before| now_ns.saturating_sub(before) >= COMPLAIN_EVERY_NS) {
            self.complained_ns = Some(now_ns);
            self.log(true, format!("{what}: {error}"));
        }
    }

    fn log(&self, error: bool, text: String) {
        tell(&self.channel, &FromReflector::Log { error, text });
    }
}

/// Both clocks.
fn now() -> Now {
    Now { monotonic_ns: monotonic_ns(), wall: WallTime::from_unix_ns(realtime_ns()) }
}
