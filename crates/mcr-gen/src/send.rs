//! The sender: datagrams at a rate, none of them silently left out.
//!
//! Duty: options to sockets, the schedule carried out, a report. The schedule itself is [`crate::schedule`]. What the
//! kernel has no room for is tried again until it is taken, so the sequences of each flow leave without a gap.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::num::NonZeroU64;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use mcr_proto::endpoint::{Codepoint, Endpoint};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, MultiHeaders, sendmmsg};
use serde::Serialize;

use crate::clock::{PunctualTimers, monotonic_ns, realtime_ns, sleep_until_ns};
use crate::error::{OpenError, SendError};
use crate::payload::{self, HEADER_BYTES, Header, PAYLOAD_BYTES_MAX};
use crate::progress::Progress;
use crate::schedule::{Run, Schedule};
use crate::socket::{SendSetup, open_sender};

/// Most flows of one sender: each has a socket of its own.
pub const FLOWS_MAX: u32 = 4096;

/// Messages that one system call hands over.
const BATCH_MESSAGES_MAX: usize = 64;
/// With GSO a message is up to 64 KiB, so a few fill what the cache holds of the buffer.
const BATCH_SUPERFRAMES_MAX: usize = 4;
/// UDP_MAX_SEGMENTS of the kernel before 6.9; later ones take 128.
const SUPERFRAME_DATAGRAMS_MAX: usize = 64;
/// The largest UDP length is 65,535, less 8 for the header and 20 or 40 for that of IP.
const SUPERFRAME_BYTES_MAX: usize = 65_535 - 8 - 40;

const SNDBUF_BYTES: usize = 4 << 20;
/// A stop is noticed at least this often.
const STOP_CHECK_NS: u64 = 50_000_000;
/// Kernel queues that are full have room again after about this long.
const BACKOFF: Duration = Duration::from_micros(50);
/// A run with an end in time may be this late with its last datagrams.
const GRACE: Duration = Duration::from_millis(200);
/// The offered rate counts as reached from here.
const RATE_REACHED: f64 = 0.99;

/// What to send, and where to.
#[derive(Debug, Clone)]
pub struct SendOptions {
    /// Destination; its source, if any, is the address to send from, its interface the one to send by.
    pub endpoint: Endpoint,
    /// Datagrams a second over all flows; `None`: as fast as the kernel takes them.
    pub rate_pps: Option<NonZeroU64>,
    /// Payload of each datagram, 32 to 65,507 bytes.
    pub payload_bytes: usize,
    /// When to stop.
    pub stop: Stop,
    /// Flows, 1 to [`FLOWS_MAX`], each with a source port of its own; datagrams take turns among them.
    pub flows: u32,
    /// Hand the kernel superframes (UDP_SEGMENT) of as many datagrams as fit 64 KiB, at most 64. The rate stays the
    /// same: a superframe goes every so many intervals.
    pub gso: bool,
    /// Address to send from; `None`: that of the interface.
    pub source: Option<IpAddr>,
    /// TTL or hop limit, at least 1.
    pub ttl: u8,
    /// DSCP; `None`: the system's default.
    pub dscp: Option<Codepoint>,
}

/// When a sender stops by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// After so many datagrams over all flows.
    After {
        /// How many.
        count: u64,
    },
    /// After so much time. With a rate these are exactly `rate * duration` datagrams, unless it is not reached.
    For {
        /// How long.
        duration: Duration,
    },
}

/// What was sent.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SendReport {
    /// Datagrams the kernel took.
    pub sent: u64,
    /// Their payload bytes.
    pub bytes: u64,
    /// From the start to the end of the last datagram's interval.
    pub seconds: f64,
    /// Datagrams a second that were reached.
    pub rate_pps: f64,
    /// Payload bits a second that were reached.
    pub rate_bps: f64,
    /// Datagrams a second that were asked for; `None`: as many as possible.
    pub offered_pps: Option<u64>,
    /// Whether at least 99 % of the offered rate was reached. If not, the sender was the limit and nothing said about
    /// the receiver holds for the offered rate.
    pub rate_reached: bool,
    /// Times the kernel had no room and was asked again.
    pub retries: u64,
    /// Times a host answered that nobody listens (ICMP port unreachable).
    pub refused: u64,
    /// Whether [`Progress::stop`] ended the run.
    pub stopped: bool,
    /// Each flow.
    pub flows: Vec<FlowSent>,
}

/// One flow of a sender.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FlowSent {
    /// Its index.
    pub flow: u32,
    /// Where it was sent from.
    pub source: SocketAddr,
    /// Datagrams sent.
    pub sent: u64,
}

/// Opens the sockets of a sender and sends: [`Sender::open`] and [`Sender::run`].
pub fn send(options: &SendOptions, progress: &Progress) -> Result<SendReport, SendError> {
    Sender::open(options)?.run(progress)
}

impl SendOptions {
    /// 1,000 datagrams/s of 1,316 bytes (seven MPEG transport stream packets), one flow, TTL 16.
    pub fn new(endpoint: Endpoint, stop: Stop) -> Self {
        SendOptions {
            endpoint,
            rate_pps: NonZeroU64::new(1000),
            payload_bytes: 1316,
            stop,
            flows: 1,
            gso: false,
            source: None,
            ttl: 16,
            dscp: None,
        }
    }

    fn check(&self) -> Result<(), SendError> {
        if !(HEADER_BYTES..=PAYLOAD_BYTES_MAX).contains(&self.payload_bytes) {
            return Err(SendError::PayloadBytes { bytes: self.payload_bytes });
        }
        if !(1..=FLOWS_MAX).contains(&self.flows) {
            return Err(SendError::Flows { flows: self.flows });
        }
        if self.ttl == 0 {
            return Err(SendError::Ttl);
        }
        match (self.endpoint.source, self.source) {
            (Some(endpoint), Some(option)) if endpoint != option => {
                Err(SendError::TwoSources { endpoint, option })
            }
            _ => Ok(()),
        }
    }

    fn schedule(&self) -> Schedule {
        let per_message = match self.gso {
            true => (SUPERFRAME_BYTES_MAX / self.payload_bytes).clamp(1, SUPERFRAME_DATAGRAMS_MAX),
            false => 1,
        };
        let rate_pps = self.rate_pps.map(NonZeroU64::get);
        let datagrams = match self.stop {
            Stop::After { count } => count,
            Stop::For { duration } => Schedule::datagrams_in(duration, rate_pps),
        };
        Schedule { datagrams, per_message: per_message as u64, flows: self.flows, rate_pps }
    }
}

/// A sender with its sockets open, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Sender {
    schedule: Schedule,
    payload_bytes: usize,
    to: SocketAddr,
    run: u32,
    cutoff: Option<Duration>,
    flows: Vec<Flow>,
    batch_messages_max: usize,
    buffer: Vec<u8>,
    counts: Counts,
}

#[derive(Debug)]
struct Flow {
    socket: UdpSocket,
    source: SocketAddr,
    sent: u64,
}

#[derive(Debug, Default)]
struct Counts {
    sent: u64,
    retries: u64,
    refused: u64,
}

/// When a run ends before its schedule does.
struct End<'a> {
    progress: &'a Progress,
    /// CLOCK_MONOTONIC.
    cutoff_ns: u64,
}

impl End<'_> {
    fn is_here(&self) -> bool {
        self.progress.is_stopped() || monotonic_ns() >= self.cutoff_ns
    }
}

impl Sender {
    /// Checks the options and opens a socket for each flow; sends nothing.
    pub fn open(options: &SendOptions) -> Result<Self, SendError> {
        options.check()?;
        let schedule = options.schedule();
        let message_bytes = schedule.per_message as usize * options.payload_bytes;
        let batch_messages_max = if options.gso { BATCH_SUPERFRAMES_MAX } else { BATCH_MESSAGES_MAX };
        let setup = SendSetup {
            endpoint: &options.endpoint,
            source: options.source.or(options.endpoint.source),
            ttl: options.ttl,
            dscp: options.dscp,
            gso_bytes: (schedule.per_message > 1).then_some(options.payload_bytes),
            sndbuf_bytes: SNDBUF_BYTES,
        };
        let flows = (0..options.flows).map(|_| Flow::open(&setup)).collect::<Result<Vec<_>, _>>()?;
        Ok(Sender {
            schedule,
            payload_bytes: options.payload_bytes,
            to: options.endpoint.socket_addr(),
            run: RandomState::new().hash_one(realtime_ns()) as u32,
            cutoff: match options.stop {
                Stop::After { .. } => None,
                Stop::For { duration } if options.rate_pps.is_none() => Some(duration),
                Stop::For { duration } => Some(duration.saturating_add(GRACE)),
            },
            flows,
            batch_messages_max,
            buffer: vec![0; batch_messages_max * message_bytes],
            counts: Counts::default(),
        })
    }

    /// Where each flow is sent from.
    pub fn sources(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.flows.iter().map(|flow| flow.source)
    }

    /// Sends until the options or `progress` say stop.
    pub fn run(mut self, progress: &Progress) -> Result<SendReport, SendError> {
        let _punctual = PunctualTimers::new();
        let start_ns = monotonic_ns();
        let cutoff_ns = self.cutoff.map_or(u64::MAX, |cutoff| {
            start_ns.saturating_add(u64::try_from(cutoff.as_nanos()).unwrap_or(u64::MAX))
        });
        let end = End { progress, cutoff_ns };
        // Not part of `Sender`, which may move to another thread: it holds raw pointers.
        let mut headers = MultiHeaders::preallocate(self.batch_messages_max, None);
        let mut done = 0;
        while done < self.schedule.messages() && !end.is_here() {
            let due = self.schedule.due(monotonic_ns() - start_ns);
            if due <= done {
                wait(&self.schedule, done, start_ns, &end);
                continue;
            }
            let until = due.min(done + self.batch_messages_max as u64);
            for run in self.schedule.runs(done..until) {
                self.send_run(&run, &mut headers, &end)?;
            }
            done = until;
            let Counts { sent, retries, .. } = self.counts;
            progress.publish_sent(sent, sent * self.payload_bytes as u64, retries);
        }
        Ok(self.report(Duration::from_nanos(monotonic_ns() - start_ns), progress))
    }

    /// Writes the datagrams of `run`, which are at most a batch, and hands them over; at the end of the run some may
    /// be left. All of a batch carry the time at which the kernel began to take it.
    fn send_run(
        &mut self,
        run: &Run,
        headers: &mut MultiHeaders<()>,
        end: &End<'_>,
    ) -> Result<(), SendError> {
        let bytes = run.datagrams as usize * self.payload_bytes;
        let mut header =
            Header { run: self.run, flow: run.flow, sequence: run.first_sequence, sent_ns: realtime_ns() };
        for payload in self.buffer[..bytes].chunks_exact_mut(self.payload_bytes) {
            payload::write(payload, &header);
            header.sequence += 1;
        }
        let message_bytes = self.schedule.per_message as usize * self.payload_bytes;
        let flow = &mut self.flows[run.flow as usize];
        let mut at = 0;
        while at < bytes {
            match hand_over(&flow.socket, &self.buffer[at..bytes], message_bytes, headers) {
                Ok(messages) => {
                    let taken = bytes.min(at + messages * message_bytes) - at;
                    at += taken;
                    flow.sent += (taken / self.payload_bytes) as u64;
                    self.counts.sent += (taken / self.payload_bytes) as u64;
                }
                Err(Errno::EINTR) => {}
                // The ICMP answer to an earlier datagram; the one at hand was not sent and is tried again.
                Err(Errno::ECONNREFUSED) => self.counts.refused += 1,
                Err(errno @ (Errno::EAGAIN | Errno::ENOBUFS)) => {
                    self.counts.retries += 1;
                    make_room(&flow.socket, errno);
                    if end.is_here() {
                        return Ok(());
                    }
                }
                Err(errno) => return Err(SendError::Send { to: self.to, source: errno.into() }),
            }
        }
        Ok(())
    }

    fn report(&self, elapsed: Duration, progress: &Progress) -> SendReport {
        let Counts { sent, retries, refused } = self.counts;
        let bytes = sent * self.payload_bytes as u64;
        let offered_pps = self.schedule.rate_pps;
        // N datagrams take N intervals: the last one has its interval after it, even if the run has ended by then.
        let scheduled = offered_pps.map_or(0.0, |rate| sent as f64 / rate as f64);
        let seconds = elapsed.as_secs_f64().max(scheduled);
        let per_second = |amount: u64| if seconds > 0.0 { amount as f64 / seconds } else { 0.0 };
        let rate_pps = per_second(sent);
        let flows = self.flows.iter().enumerate();
        SendReport {
            sent,
            bytes,
            seconds,
            rate_pps,
            rate_bps: per_second(bytes * 8),
            offered_pps,
            rate_reached: offered_pps
                .is_none_or(|offered| sent == 0 || rate_pps >= offered as f64 * RATE_REACHED),
            retries,
            refused,
            stopped: progress.is_stopped(),
            flows: flows
                .map(|(index, flow)| FlowSent { flow: index as u32, source: flow.source, sent: flow.sent })
                .collect(),
        }
    }
}

impl Flow {
    fn open(setup: &SendSetup<'_>) -> Result<Self, OpenError> {
        let socket = open_sender(setup)?;
        let source = socket
            .local_addr()
            .map_err(|source| OpenError::Setup { action: "ask for the own address", source })?;
        Ok(Flow { socket, source, sent: 0 })
    }
}

/// Waits for `next` to be due, or for less, so that a stop is noticed.
fn wait(schedule: &Schedule, next: u64, start_ns: u64, end: &End<'_>) {
    let wait = schedule.wait(next);
    let sleep_until = start_ns.saturating_add(wait.sleep_until_ns);
    let check_at = monotonic_ns().saturating_add(STOP_CHECK_NS).min(end.cutoff_ns);
    if sleep_until > check_at {
        return sleep_until_ns(check_at);
    }
    sleep_until_ns(sleep_until);
    let spin_until = start_ns.saturating_add(wait.spin_until_ns);
    while monotonic_ns() < spin_until {
        std::hint::spin_loop();
    }
}

/// Hands `bytes` to the kernel in messages of `message_bytes`, the last one maybe shorter; says how many it took.
fn hand_over(
    socket: &UdpSocket,
    bytes: &[u8],
    message_bytes: usize,
    headers: &mut MultiHeaders<()>,
) -> Result<usize, Errno> {
    if bytes.len() <= message_bytes {
        let sent =
            socket.send(bytes).map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?;
        assert_eq!(sent, bytes.len(), "the kernel takes a UDP message whole or not at all");
        return Ok(1);
    }
    let mut messages = bytes.chunks(message_bytes);
    let slices: [[IoSlice<'_>; 1]; BATCH_MESSAGES_MAX] =
        std::array::from_fn(|_| [IoSlice::new(messages.next().unwrap_or_default())]);
    let count = bytes.len().div_ceil(message_bytes);
    let no_addresses = [None; BATCH_MESSAGES_MAX];
    let taken = sendmmsg(
        socket.as_raw_fd(),
        headers,
        slices.iter().take(count),
        no_addresses,
        [],
        MsgFlags::MSG_DONTWAIT,
    )?;
    Ok(taken.count())
}

/// Waits until the kernel may have room again: EAGAIN means the socket's own buffer, ENOBUFS a queue behind it.
fn make_room(socket: &UdpSocket, errno: Errno) {
    if errno == Errno::ENOBUFS {
        return std::thread::sleep(BACKOFF);
    }
    let mut waiting = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
    // Whatever it returns, the next send says more.
    let _ = poll(&mut waiting, PollTimeout::from(20u8));
}
