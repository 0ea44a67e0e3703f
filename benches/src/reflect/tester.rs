//! A tester on a core of its own: sends numbered frames by a schedule, and compares every frame that comes back, byte by byte.

use std::{
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, MultiHeaders, sendmmsg, setsockopt, sockopt},
};

use super::{
    frame::{Expected, FRAMES_MAX, Messages},
    lab::{Cable, TESTER_IF},
    ring::Ring,
};
use crate::{interrupt, sys};

/// Frames go in bursts of what is due in this time: a sender of single frames is slower than some reflectors.
const BURST_SECONDS: f64 = 50e-6;
const BATCH: usize = 64;
/// Foreign frames for each test frame, where there are any.
pub(super) const FOREIGN: usize = 3;
/// What a reflector that keeps up needs for what is under way at the end.
const GRACE: Duration = Duration::from_millis(10);
/// When nothing has come for this long, nothing is under way any more ...
const SILENCE: Duration = Duration::from_millis(50);
/// ... which takes at most this long.
const DRAIN_WITHIN: Duration = Duration::from_secs(2);
/// More can be in no queue: what is missing then is lost.
const IN_FLIGHT_MAX: u64 = 60_000;
/// A signal is looked for after so many messages.
const MESSAGES_UNHEARD: u64 = 1024;

/// What is sent, and how.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    /// Length of each frame.
    pub(super) bytes: usize,
    /// Whether [`FOREIGN`] others go with each test frame.
    pub(super) foreign: bool,
    /// Test frames a second; infinite for all at once.
    pub(super) rate_pps: f64,
    /// How many test frames.
    pub(super) frames: u64,
    /// Whether each turn-round is timed.
    pub(super) timed: bool,
}

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Outcome {
    /// Test frames sent.
    pub(super) sent: u64,
    pub(super) seconds: f64,
    /// Replies that came, each the right one, whole, once, in its turn.
    pub(super) back: u64,
    /// Of those, the ones that came more than [`GRACE`] after the last was sent.
    pub(super) late: u64,
    /// Frames that came and should not have: damaged, misaddressed, or answers to foreign ones.
    pub(super) wrong: u64,
    /// Replies that had come before, or after those of later frames.
    pub(super) out_of_turn: u64,
    /// Replies that the tester itself was too slow for.
    pub(super) tester_lost: u64,
    /// Ended early: more was missing than can be in queues.
    pub(super) cut_short: bool,
    /// From just before a frame was handed to the kernel until its reply was looked at, in nanoseconds.
    pub(super) turn_round_ns: Vec<u64>,
}

/// The tester's two sockets.
#[derive(Debug)]
pub(super) struct Tester {
    sender: OwnedFd,
    ring: Ring,
    headers: MultiHeaders<()>,
    /// Number of the next frame; no two trials have the same.
    pub(super) number: u64,
}

impl Tester {
    /// A tester of frames of at most this length, the first of which has this number.
    pub(super) fn open(cable: &Cable, bytes: usize, number: u64) -> anyhow::Result<Self> {
        let ifindex = cable.tester.link_index(TESTER_IF)?;
        let ring = Ring::open(&cable.tester, ifindex, bytes)?;
        let sender = cable.tester.try_enter(|| sys::packet_sender(ifindex))??;
        setsockopt(&sender, sockopt::SndBufForce, &(8 << 20))?;
        let on = 1_i32.to_ne_bytes();
        sys::set_option(sender.as_fd(), libc::SOL_PACKET, libc::PACKET_VNET_HDR, &on)
            .context("cannot send superframes by a packet socket")?;
        Ok(Self { sender, ring, headers: MultiHeaders::preallocate(2, None), number })
    }

    /// Sends a load in the calling thread and takes what comes back, until all has or nothing does any more.
    pub(super) fn run(&mut self, load: &Load) -> anyhow::Result<Outcome> {
        let per_message = ((load.rate_pps * BURST_SECONDS) as usize).clamp(1, FRAMES_MAX);
        let mut test = Messages::new(load.bytes, per_message, false)?;
        let foreign = load.foreign.then(|| Messages::new(load.bytes, per_message, true)).transpose()?;
        let mut check = Check::new(load, self.number)?;
        let messages = load.frames.div_ceil(per_message as u64);
        let messages_pps = load.rate_pps / per_message as f64;
        let limit = Duration::from_secs_f64(load.frames as f64 / load.rate_pps.max(1000.0) * 1.5 + 0.1);
        let started = Instant::now();
        let mut done = 0;
        while done < messages && !check.outcome.cut_short {
            let elapsed = started.elapsed();
            if elapsed > limit {
                break;
            }
            if elapsed.as_secs_f64() * messages_pps >= done as f64 {
                test.number(check.next_to_send());
                check.note_sent(&test, load.timed.then_some(started));
                self.send(&test, foreign.as_ref())?;
                done += 1;
                if done.is_multiple_of(MESSAGES_UNHEARD) {
                    interrupt::check()?;
                }
            }
            // A burst at once is looked at when all of it has gone.
            if load.rate_pps.is_finite() {
                self.take(&mut check, started);
            }
        }
        let seconds = started.elapsed().as_secs_f64().max(done as f64 / messages_pps);
        self.drain(&mut check, started)?;
        self.number = check.next_to_send();
        let tester_lost = self.ring.take_dropped()?;
        Ok(Outcome { seconds, tester_lost, ..check.outcome })
    }

    /// Sends foreign frames alone. Whatever comes back is taken by the next load.
    pub(super) fn send_foreign(
        &mut self,
        bytes: usize,
        rate_pps: f64,
        duration: Duration,
    ) -> anyhow::Result<()> {
        let message = Messages::new(bytes, 1, true)?;
        let started = Instant::now();
        let mut done = 0_u64;
        while started.elapsed() < duration {
            if started.elapsed().as_secs_f64() * rate_pps >= done as f64 {
                self.send_message(&message)?;
                done += 1;
            }
            if done.is_multiple_of(MESSAGES_UNHEARD) {
                interrupt::check()?;
            }
        }
        Ok(())
    }

    fn send(&mut self, test: &Messages, foreign: Option<&Messages>) -> anyhow::Result<()> {
        if let Some(foreign) = foreign {
            for _ in 0..FOREIGN {
                self.send_message(foreign)?;
            }
        }
        self.send_message(test)
    }

    fn send_message(&mut self, message: &Messages) -> anyhow::Result<()> {
        let parts = [message.parts()];
        loop {
            let sent =
                sendmmsg(self.sender.as_raw_fd(), &mut self.headers, &parts, [None], [], MsgFlags::empty());
            return match sent.map(|taken| taken.count()) {
                // What there was no room for at the other end is sent, and lost.
                Ok(_) | Err(Errno::ENOBUFS) => Ok(()),
                Err(Errno::EINTR | Errno::EAGAIN) => continue,
                Err(errno) => Err(errno).context("cannot send"),
            };
        }
    }

    /// Looks at the frames that are there, a batch at most; how many.
    fn take(&mut self, check: &mut Check, started: Instant) -> usize {
        let timed = check.sent_at.is_some();
        self.ring.take(BATCH, |frame| check.note(frame, timed.then(|| started.elapsed())))
    }

    /// Takes what is still under way.
    fn drain(&mut self, check: &mut Check, started: Instant) -> anyhow::Result<()> {
        let (ended, mut heard) = (Instant::now(), Instant::now());
        let mut in_time = None;
        while heard.elapsed() < SILENCE && ended.elapsed() < DRAIN_WITHIN {
            if self.take(check, started) > 0 {
                heard = Instant::now();
            }
            if in_time.is_none() && ended.elapsed() >= GRACE {
                in_time = Some(check.outcome.back);
            }
            if check.outcome.back == check.outcome.sent && in_time.is_some() {
                break;
            }
        }
        ensure!(ended.elapsed() < DRAIN_WITHIN, "frames still come {DRAIN_WITHIN:?} after the last was sent");
        check.outcome.late = check.outcome.back - in_time.unwrap_or(check.outcome.back);
        Ok(())
    }
}

/// What is known of a load under way.
struct Check {
    expected: Expected,
    first: u64,
    /// The number that is due to come back.
    next: u64,
    sent_at: Option<Vec<Duration>>,
    outcome: Outcome,
}

impl Check {
    fn new(load: &Load, first: u64) -> anyhow::Result<Self> {
        let sent_at = load.timed.then(|| Vec::with_capacity(load.frames as usize + FRAMES_MAX));
        let expected = Expected::new(load.bytes)?;
        Ok(Self { expected, first, next: first, sent_at, outcome: Outcome::default() })
    }

    fn next_to_send(&self) -> u64 {
        self.first + self.outcome.sent
    }

    fn note_sent(&mut self, message: &Messages, started: Option<Instant>) {
        if let (Some(sent_at), Some(started)) = (&mut self.sent_at, started) {
            sent_at.extend(std::iter::repeat_n(started.elapsed(), message.frames()));
        }
        self.outcome.sent += message.frames() as u64;
        let missing = self.next_to_send() - self.next;
        self.outcome.cut_short = missing > IN_FLIGHT_MAX;
    }

    fn note(&mut self, frame: &[u8], now: Option<Duration>) {
        let Some(number) = self.expected.number(frame).filter(|number| *number < self.next_to_send()) else {
            self.outcome.wrong += 1;
            return;
        };
        if number < self.next {
            self.outcome.out_of_turn += 1;
            return;
        }
        // Those in between are lost, or will be out of turn.
        self.next = number + 1;
        self.outcome.back += 1;
        let sent_at = self.sent_at.as_ref().and_then(|sent_at| sent_at.get((number - self.first) as usize));
        if let (Some(now), Some(sent_at)) = (now, sent_at) {
            self.outcome.turn_round_ns.push((now - *sent_at).as_nanos() as u64);
        }
    }
}
