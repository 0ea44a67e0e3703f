//! The receiver: everything that reaches a socket, accounted for.
//!
//! Duty: join, take datagrams in batches, hand each to the [`Tracker`], end when told. Datagrams that the kernel
//! dropped because this receiver was too slow are reported apart (`kernel_drops`): they are nobody else's loss.

use std::io::IoSliceMut;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use mcr_proto::endpoint::Endpoint;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, MultiHeaders, RecvMsg, SockaddrStorage, recvmmsg};
use serde::Serialize;

use crate::clock::realtime_ns;
use crate::error::{OpenError, RecvError};
use crate::latency::LatencyUs;
use crate::progress::Progress;
use crate::send::SendReport;
use crate::socket::{kernel_drops, open_receiver};
use crate::tracker::{FlowReport, Totals, Tracker};

/// Datagrams that one system call takes.
const BATCH: usize = 64;
/// No UDP payload is larger. The odd cache line keeps the heads of 64 buffers from falling on one cache set.
const BUFFER_BYTES: usize = 65_536 + 64;
/// A stop is noticed at least this often.
const STOP_CHECK: Duration = Duration::from_millis(50);
/// At the end, what the socket holds is still taken, for at most this long if it never runs dry.
const DRAIN: Duration = Duration::from_millis(100);

/// What to receive, and until when. The first end that comes counts; with none of them only [`Progress::stop`] does.
#[derive(Debug, Clone)]
pub struct RecvOptions {
    /// Where to listen: a group to join or an address of this host. Port 0 of a unicast address lets the kernel choose.
    pub endpoint: Endpoint,
    /// Stop after so many datagrams, duplicates and damaged ones not counted.
    pub count: Option<u64>,
    /// Stop after so much time.
    pub duration: Option<Duration>,
    /// Stop after so much silence; it counts from the first datagram on.
    pub idle: Option<Duration>,
    /// Receive buffer to ask for. Without CAP_NET_ADMIN the kernel gives no more than `net.core.rmem_max`.
    pub rcvbuf_bytes: usize,
}

impl RecvOptions {
    /// No end, a receive buffer of 32 MiB.
    pub fn new(endpoint: Endpoint) -> Self {
        RecvOptions { endpoint, count: None, duration: None, idle: None, rcvbuf_bytes: 32 << 20 }
    }
}

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// The count was reached.
    Count,
    /// The time was over.
    Duration,
    /// It was silent for long enough.
    Idle,
    /// [`Progress::stop`] was called.
    Stopped,
}

/// What was received.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RecvReport {
    /// Intact, each sequence of each flow once.
    pub received: u64,
    /// As in [`Totals::lost`]; kernel drops of this receiver are among them.
    pub lost: u64,
    /// As in [`Totals::duplicates`].
    pub duplicates: u64,
    /// As in [`Totals::reordered`].
    pub reordered: u64,
    /// As in [`Totals::late`].
    pub late: u64,
    /// As in [`Totals::corrupt`].
    pub corrupt: u64,
    /// As in [`Totals::foreign`].
    pub foreign: u64,
    /// As in [`Totals::untracked`].
    pub untracked: u64,
    /// Datagrams that reached this receiver's socket and that the kernel dropped there: it was full, or the UDP checksum
    /// was wrong.
    pub kernel_drops: u64,
    /// Payload bytes of `received`.
    pub bytes: u64,
    /// From the first datagram to the last.
    pub seconds: f64,
    /// Intact datagrams a second in that time.
    pub rate_pps: f64,
    /// Their payload bits a second.
    pub rate_bps: f64,
    /// Delay from sender to receiver; `None` if nothing was received.
    pub latency_us: Option<LatencyUs>,
    /// Receive buffer that the kernel granted.
    pub rcvbuf_bytes: usize,
    /// Why it ended.
    pub ended: Ended,
    /// Each flow.
    pub flows: Vec<FlowReport>,
}

impl RecvReport {
    /// Of what `sent` tells of, how many datagrams did not come. Unlike `lost`, this includes those at the end.
    pub fn missing_of(&self, sent: &SendReport) -> u64 {
        sent.sent.saturating_sub(self.received)
    }
}

/// A receiver that listens, in the network namespace of the thread that opened it: what is sent from now on is
/// received once [`Receiver::run`] is called.
#[derive(Debug)]
pub struct Receiver {
    socket: UdpSocket,
    local: SocketAddr,
    rcvbuf_bytes: usize,
    options: RecvOptions,
    only_from: Option<IpAddr>,
    buffer: Vec<u8>,
}

/// Not part of [`Receiver`], which may move to another thread: they hold raw pointers.
type Headers = MultiHeaders<SockaddrStorage>;

/// One run: the books, and when things happened.
struct Books {
    tracker: Tracker,
    started: Instant,
    first: Option<Instant>,
    last: Option<Instant>,
}

impl Receiver {
    /// Binds and joins.
    pub fn open(options: &RecvOptions) -> Result<Self, OpenError> {
        let (socket, rcvbuf_bytes) = open_receiver(&options.endpoint, options.rcvbuf_bytes)?;
        let local = socket
            .local_addr()
            .map_err(|source| OpenError::Setup { action: "ask for the own address", source })?;
        Ok(Receiver {
            socket,
            local,
            rcvbuf_bytes,
            options: options.clone(),
            // The kernel filters sources of groups; those of unicast are looked at here.
            only_from: options.endpoint.source.filter(|_| !options.endpoint.address.is_multicast()),
            buffer: vec![0; BATCH * BUFFER_BYTES],
        })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Receives until the options or `progress` say stop.
    pub fn run(mut self, progress: &Progress) -> Result<RecvReport, RecvError> {
        let mut books = Books { tracker: Tracker::new(), started: Instant::now(), first: None, last: None };
        let mut headers = Headers::preallocate(BATCH, None);
        let ended = loop {
            if self.is_complete(&books) {
                break Ended::Count;
            }
            if let Some(ended) = self.end(&books, progress) {
                self.drain(&mut books, &mut headers)?;
                break if self.is_complete(&books) { Ended::Count } else { ended };
            }
            if self.take_batch(&mut books, &mut headers)? == 0 {
                self.wait(&books)?;
            }
            let totals = books.tracker.totals();
            progress.publish_received(totals.received, totals.bytes, totals.lost);
        };
        let totals = books.tracker.totals();
        progress.publish_received(totals.received, totals.bytes, totals.lost);
        let kernel_drops = kernel_drops(&self.socket).map_err(RecvError::Receive)?;
        Ok(books.report(ended, kernel_drops.into(), self.rcvbuf_bytes))
    }

    fn is_complete(&self, books: &Books) -> bool {
        self.options.count.is_some_and(|count| books.tracker.totals().received >= count)
    }

    fn end(&self, books: &Books, progress: &Progress) -> Option<Ended> {
        let over =
            |limit: Option<Duration>, since: Instant| limit.is_some_and(|limit| since.elapsed() >= limit);
        if progress.is_stopped() {
            Some(Ended::Stopped)
        } else if over(self.options.duration, books.started) {
            Some(Ended::Duration)
        } else if books.last.is_some_and(|last| over(self.options.idle, last)) {
            Some(Ended::Idle)
        } else {
            None
        }
    }

    /// Takes what the socket held when the end came.
    fn drain(&mut self, books: &mut Books, headers: &mut Headers) -> Result<(), RecvError> {
        let until = Instant::now() + DRAIN;
        while !self.is_complete(books) && self.take_batch(books, headers)? > 0 && Instant::now() < until {}
        Ok(())
    }

    /// Accounts for the datagrams that are there, at most a batch and no more than the count asks for; says how many.
    fn take_batch(&mut self, books: &mut Books, headers: &mut Headers) -> Result<usize, RecvError> {
        let missing = self.options.count.map_or(u64::MAX, |count| count - books.tracker.totals().received);
        let batch = BATCH.min(usize::try_from(missing).unwrap_or(BATCH));
        let mut buffers = self.buffer.chunks_exact_mut(BUFFER_BYTES);
        let mut slices: [[IoSliceMut<'_>; 1]; BATCH] =
            std::array::from_fn(|_| [IoSliceMut::new(buffers.next().expect("the buffer has BATCH parts"))]);
        let messages = match recvmmsg(
            self.socket.as_raw_fd(),
            headers,
            slices.iter_mut().take(batch),
            MsgFlags::MSG_DONTWAIT,
            None,
        ) {
            Ok(messages) => messages,
            // ECONNREFUSED cannot be this socket's: it never sends.
            Err(Errno::EAGAIN | Errno::EINTR) => return Ok(0),
            Err(errno) => return Err(RecvError::Receive(errno.into())),
        };
        // All of a batch are in this process's hands at the same moment.
        let now_ns = realtime_ns();
        let mut taken = 0;
        for message in messages {
            taken += 1;
            let sender = sender_of(&message);
            let payload = message.iovs().next().unwrap_or_default();
            match self.only_from {
                Some(only) if only != sender.ip() => books.tracker.foreign(),
                _ => books.tracker.record(sender, payload, now_ns),
            };
        }
        let now = Instant::now();
        books.first.get_or_insert(now);
        books.last = Some(now);
        Ok(taken)
    }

    /// Waits for a datagram, for the next end, or for the next look at the stop flag.
    fn wait(&self, books: &Books) -> Result<(), RecvError> {
        let left = |limit: Option<Duration>, since: Option<Instant>| {
            limit.zip(since).map_or(STOP_CHECK, |(limit, since)| limit.saturating_sub(since.elapsed()))
        };
        let timeout = STOP_CHECK
            .min(left(self.options.duration, Some(books.started)))
            .min(left(self.options.idle, books.last));
        // Rounded up, or the last fraction of a millisecond would be spent in circles.
        let timeout_ms = u8::try_from(timeout.as_millis() + 1).unwrap_or(u8::MAX);
        let mut waiting = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        match poll(&mut waiting, PollTimeout::from(timeout_ms)) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(RecvError::Receive(errno.into())),
        }
    }
}

impl Books {
    fn report(&self, ended: Ended, kernel_drops: u64, rcvbuf_bytes: usize) -> RecvReport {
        let Totals { received, lost, duplicates, reordered, late, corrupt, foreign, untracked, bytes } =
            self.tracker.totals();
        let seconds = self.first.zip(self.last).map_or(0.0, |(first, last)| (last - first).as_secs_f64());
        let per_second = |amount: f64| if seconds > 0.0 { amount / seconds } else { 0.0 };
        // N datagrams span N - 1 intervals.
        let intervals = received.saturating_sub(1) as f64;
        let bytes_each = if received > 0 { bytes as f64 / received as f64 } else { 0.0 };
        RecvReport {
            received,
            lost,
            duplicates,
            reordered,
            late,
            corrupt,
            foreign,
            untracked,
            kernel_drops,
            bytes,
            seconds,
            rate_pps: per_second(intervals),
            rate_bps: per_second(intervals * bytes_each * 8.0),
            latency_us: self.tracker.latency_us(),
            rcvbuf_bytes,
            ended,
            flows: self.tracker.flows(),
        }
    }
}

/// A UDP socket always gives the sender's address; the fallback is for a kernel that does not.
fn sender_of(message: &RecvMsg<'_, '_, SockaddrStorage>) -> SocketAddr {
    let address = message.address.as_ref();
    let v4 = address.and_then(SockaddrStorage::as_sockaddr_in).map(|address| SocketAddr::from(*address));
    let v6 = || address.and_then(SockaddrStorage::as_sockaddr_in6).map(|address| SocketAddr::from(*address));
    v4.or_else(v6).unwrap_or_else(|| SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0))
}
