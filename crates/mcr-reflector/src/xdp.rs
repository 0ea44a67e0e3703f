//! AF_XDP: frames are changed and sent in the memory that they were received into.
//!
//! A process serves one queue, or, where it has to see all frames of its interface, all of its queues in turn; a batch is of one queue.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
};

use mcr_metrics::clock::{monotonic_ns, realtime_ns};
use mcr_reflect::{Meta, WallTime};
use mcr_xdp::{Frame, OpenError, Opened, Socket};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};

use crate::{
    ReflectorError,
    back_end::{BATCH_FRAMES, BackEnd, Sent},
};

/// What the XDP program puts before a frame (`struct arrival` in mcr-ebpf, bpf/xsk.h): CLOCK_MONOTONIC, a number that says that it did, 0.
const ARRIVAL_BYTES: u32 = 16;
const ARRIVAL_MAGIC: u32 = 0x4d43_5258;

/// The sockets of an interface's queues, and the batch of one of them.
#[derive(Debug)]
pub(crate) struct Xdp {
    queues: Vec<Socket>,
    /// Which of them the batch is of.
    current: usize,
    received: Vec<Frame>,
    /// Those of them that are not queued or given up, in their places.
    batch: Vec<Option<Frame>>,
    queued: Sent,
    /// What to wait on where there is more than one queue.
    readiness: Option<Epoll>,
    invalid_told: u64,
    /// Frames tell when they came. Where they do not, what is in front of them is not looked at: it is in no cache.
    times: bool,
    /// Wall-clock time less CLOCK_MONOTONIC, when the batch came.
    wall_offset_ns: u64,
}

impl Xdp {
    /// Maps the sockets, of which there is at least one. Takes system calls that a confined process does not have.
    pub(crate) fn new(opened: Vec<Opened>, times: bool) -> Result<Self, ReflectorError> {
        let queues = opened.into_iter().map(Socket::new).collect::<Result<Vec<_>, OpenError>>()?;
        if queues.is_empty() {
            return Err(ReflectorError::NotStarted { why: "no queue".into() });
        }
        let readiness = if queues.len() > 1 { Some(readiness(&queues)?) } else { None };
        Ok(Self {
            queues,
            current: 0,
            received: Vec::with_capacity(BATCH_FRAMES),
            batch: Vec::with_capacity(BATCH_FRAMES),
            queued: Sent::default(),
            readiness,
            invalid_told: 0,
            times,
            wall_offset_ns: 0,
        })
    }

    /// Gives up what is left of a batch.
    fn give_up(&mut self) {
        let rings = self.queues[self.current].rings_mut();
        self.batch.drain(..).flatten().for_each(|frame| rings.release(frame));
    }
}

impl BackEnd for Xdp {
    fn receive(&mut self) -> io::Result<usize> {
        self.give_up();
        // Each has its turn, beginning with the one after the last.
        for _ in 0..self.queues.len() {
            self.current = (self.current + 1) % self.queues.len();
            if self.queues[self.current].receive(&mut self.received, BATCH_FRAMES)? > 0 {
                break;
            }
        }
        self.batch.extend(self.received.drain(..).map(Some));
        if self.times
            && let Some(Some(first)) = self.batch.first()
            && arrival_ns(&self.queues[self.current], first).is_some()
        {
            self.wall_offset_ns = realtime_ns().wrapping_sub(monotonic_ns());
        }
        Ok(self.batch.len())
    }

    #[inline]
    fn frame(&mut self, index: usize) -> (&mut [u8], usize, Meta) {
        let socket = &self.queues[self.current];
        let Some(Some(frame)) = self.batch.get_mut(index) else { return (&mut [], 0, Meta::default()) };
        let received = if self.times { arrival_ns(socket, frame) } else { None };
        let received = received.map(|ns| WallTime::from_unix_ns(ns.wrapping_add(self.wall_offset_ns)));
        let bytes = frame.len();
        let meta = Meta { received, partial_checksum: false, partial_checksum_unknown: true };
        (socket.rings().room_mut(frame), bytes, meta)
    }

    #[inline]
    fn queue(&mut self, index: usize, bytes: usize) {
        let Some(mut frame) = self.batch.get_mut(index).and_then(Option::take) else { return };
        let rings = self.queues[self.current].rings_mut();
        if bytes == 0 || !rings.resize(&mut frame, bytes) {
            self.queued.errors += 1;
            return rings.release(frame);
        }
        match rings.send(frame) {
            Ok(()) => {
                self.queued.frames += 1;
                self.queued.bytes += bytes as u64;
            }
            Err(frame) => {
                self.queued.full += 1;
                rings.release(frame);
            }
        }
    }

    fn flush(&mut self) -> Sent {
        self.give_up();
        let mut sent = std::mem::take(&mut self.queued);
        match self.queues[self.current].flush() {
            Ok(report) if report.dropped > 0 => {
                // Which of them it was is not told; of one size they are more often than not.
                let dropped = u64::from(report.dropped).min(sent.frames);
                sent.bytes -= sent.bytes / sent.frames.max(1) * dropped;
                sent.frames -= dropped;
                sent.errors += dropped;
                sent.errno = Some(nix::libc::EBUSY);
            }
            Ok(_) => {}
            // They stay in the ring, and go when the interface is up again.
            Err(error) => sent.errno = error.raw_os_error(),
        }
        sent
    }

    fn send_one(&mut self, frame: &[u8]) -> Sent {
        let socket = &mut self.queues[self.current];
        let rings = socket.rings_mut();
        let full = Sent { full: 1, ..Sent::default() };
        let Some(mut own) = rings.take() else { return full };
        if frame.is_empty() || !rings.resize(&mut own, frame.len()) {
            rings.release(own);
            return Sent { errors: 1, ..Sent::default() };
        }
        rings.bytes_mut(&mut own).copy_from_slice(frame);
        if let Err(own) = rings.send(own) {
            rings.release(own);
            return full;
        }
        self.queued.frames += 1;
        self.queued.bytes += frame.len() as u64;
        self.flush()
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.readiness.as_ref().map_or(self.queues[0].as_fd(), |epoll| epoll.0.as_fd())
    }

    fn take_invalid(&mut self) -> u64 {
        let of = |socket: &Socket| {
            let counts = socket.rings().counts();
            counts.receive_invalid + counts.completion_invalid
        };
        let invalid: u64 = self.queues.iter().map(of).sum();
        invalid - std::mem::replace(&mut self.invalid_told, invalid)
    }
}

/// Readable when any of them is.
fn readiness(queues: &[Socket]) -> Result<Epoll, ReflectorError> {
    let made = || {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        for queue in queues {
            epoll.add(queue, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
        }
        Ok::<_, nix::Error>(epoll)
    };
    made().map_err(|errno| ReflectorError::Wait(errno.into()))
}

/// When the program saw a frame, if it said so.
#[inline]
fn arrival_ns(socket: &Socket, frame: &Frame) -> Option<u64> {
    let said = socket.rings().metadata(frame, ARRIVAL_BYTES)?;
    let (ns, rest) = said.split_first_chunk()?;
    let (magic, zero) = rest.split_first_chunk()?;
    (u32::from_ne_bytes(*magic) == ARRIVAL_MAGIC && zero == [0; 4]).then(|| u64::from_ne_bytes(*ns))
}
