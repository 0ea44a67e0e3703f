//! The twin: epoll, recvmmsg and sendmmsg, with the semantics of the ring.
//!
//! # Invariants
//!
//! - A send slot is on its socket's queue, then among the `ended`, then free. Its buffers are released when it was sent,
//!   its slot when its event was reported, so that `sends_max` bounds both, as with the ring.
//! - epoll reports level-triggered, so what a bounded batch left behind is reported again. While no buffer is free only the
//!   watches are polled: readable sockets would else make every wait return at once and do nothing.
//! - A socket leaves epoll before it is closed: another process may hold the same open file, which keeps it registered.

mod drive;

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Instant;

use mcr_bufpool::LocalBuffer;

use crate::config::ReceiveShape;
use crate::frames::Frames;
use crate::rings::Rings;
use crate::slots::{SendSlots, empty_header};
use crate::table::{Kind, Table};
use crate::token::{Operation, Token};
use crate::{AddError, Counts, IoConfig, OpenError, Outgoing, Received, RingShape, SendError, SocketKey};

/// Datagrams per recvmmsg or sendmmsg; more of one socket would starve others.
const BATCH_MAX: usize = 64;

pub(crate) struct SyscallIo {
    epoll: OwnedFd,
    table: Table<Queue>,
    frames: Frames,
    slots: SendSlots,
    rings: Rings,
    /// Sockets with queued sends, in the order of their first.
    queued: Vec<SocketKey>,
    /// Slots whose sends have ended, with the results, in order.
    ended: VecDeque<(u32, i32)>,
    /// Failing receivers, out of epoll until then.
    paused: Vec<(SocketKey, Instant)>,
    /// Stopped receivers, to be reported.
    stopped: Vec<SocketKey>,
    watches: Vec<SocketKey>,
    /// One per watch, in the same order.
    polled: Vec<libc::pollfd>,
    /// Buffers for the next receive: kept, as most receives use few of a batch.
    staged: Vec<LocalBuffer>,
    batch: Box<Batch>,
    events_max: usize,
    counts: Counts,
}

/// What the system calls read and write.
struct Batch {
    messages: [libc::mmsghdr; BATCH_MAX],
    parts: [libc::iovec; BATCH_MAX],
    ready: [libc::epoll_event; BATCH_MAX],
}

/// The sends queued on a socket: slots, the oldest first.
#[derive(Debug, Default)]
struct Queue {
    slots: VecDeque<u32>,
    /// Receives no more.
    stopped: bool,
}

impl fmt::Debug for SyscallIo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SyscallIo")
            .field("epoll", &self.epoll)
            .field("sockets", &self.table.len())
            .finish_non_exhaustive()
    }
}

impl SyscallIo {
    pub(crate) fn open(config: &IoConfig, frames: Frames) -> Result<Self, OpenError> {
        let message = libc::mmsghdr { msg_hdr: empty_header(), msg_len: 0 };
        let batch = Batch {
            messages: [message; BATCH_MAX],
            parts: [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; BATCH_MAX],
            ready: [libc::epoll_event { events: 0, u64: 0 }; BATCH_MAX],
        };
        Ok(Self {
            epoll: epoll_create().map_err(OpenError::Epoll)?,
            table: Table::new(config.files_max),
            frames,
            slots: SendSlots::new(config.sends_max),
            rings: Rings::new(config.events_max.into()),
            queued: Vec::with_capacity(config.files_max.into()),
            ended: VecDeque::with_capacity(config.sends_max.into()),
            paused: Vec::new(),
            stopped: Vec::new(),
            watches: Vec::new(),
            polled: Vec::new(),
            staged: Vec::with_capacity(BATCH_MAX),
            batch: Box::new(batch),
            events_max: config.events_max.into(),
            counts: Counts::default(),
        })
    }

    pub(crate) fn add_receiver(&mut self, fd: OwnedFd, shape: ReceiveShape) -> Result<SocketKey, AddError> {
        let key = self.add(fd, Kind::Receiver(shape))?;
        self.poll(key, Operation::Receive)
    }

    pub(crate) fn add_ring(&mut self, fd: OwnedFd, shape: RingShape) -> Result<SocketKey, AddError> {
        let ring = self.frames.add_ring(fd.as_fd(), shape).map_err(AddError::Map)?;
        let added = self.add(fd, Kind::Ring(ring)).and_then(|key| self.poll(key, Operation::Receive));
        match &added {
            Ok(key) => self.rings.add(*key, ring),
            Err(_) => self.frames.close_ring(ring),
        }
        added
    }

    pub(crate) fn prioritize(&mut self, key: SocketKey, priority: u8) {
        self.rings.prioritize(key, priority);
        if let Some(socket) = self.table.find_mut(key) {
            socket.priority = priority;
        }
    }

    pub(crate) fn rings_mut(&mut self) -> &mut Rings {
        &mut self.rings
    }

    pub(crate) fn add_sender(&mut self, fd: OwnedFd) -> Result<SocketKey, AddError> {
        self.add(fd, Kind::Sender)
    }

    pub(crate) fn add_watch(&mut self, fd: OwnedFd) -> Result<SocketKey, AddError> {
        let raw = fd.as_raw_fd();
        let key = self.add(fd, Kind::Watch)?;
        let key = self.poll(key, Operation::Watch)?;
        self.watches.push(key);
        self.polled.push(libc::pollfd { fd: raw, events: libc::POLLIN, revents: 0 });
        Ok(key)
    }

    fn add(&mut self, fd: OwnedFd, kind: Kind) -> Result<SocketKey, AddError> {
        let files_max = self.table.len() as u16;
        self.table.insert(fd, kind, Queue::default()).map_err(|_| AddError::Full { files_max })
    }

    /// Has epoll report a new socket, or forgets it again.
    fn poll(&mut self, key: SocketKey, operation: Operation) -> Result<SocketKey, AddError> {
        match self.resume(key, operation) {
            Ok(()) => Ok(key),
            Err(error) => {
                self.table.remove(key.slot);
                Err(AddError::Register(error))
            }
        }
    }

    fn resume(&mut self, key: SocketKey, operation: Operation) -> io::Result<()> {
        let Some(socket) = self.table.find(key) else { return Ok(()) };
        let token = Token::new(operation, key.generation, key.slot);
        // Edge-triggered for rings: they are looked at before each wait, and poll(2) goes on telling of a frame until it is
        // given back.
        let edge = if let Kind::Ring(_) = socket.kind { libc::EPOLLET } else { 0 };
        epoll_add(&self.epoll, socket.fd.as_raw_fd(), libc::EPOLLIN | edge, token)
    }

    pub(crate) fn fd(&self, key: SocketKey) -> Option<BorrowedFd<'_>> {
        self.table.find(key).map(|socket| socket.borrow_fd())
    }

    pub(crate) fn stop(&mut self, key: SocketKey) {
        let Some(socket) = self.table.find_mut(key) else { return };
        let receives = matches!(socket.kind, Kind::Receiver(_) | Kind::Ring(_));
        if !receives || std::mem::replace(&mut socket.state.stopped, true) {
            return;
        }
        epoll_remove(&self.epoll, socket.fd.as_raw_fd());
        self.paused.retain(|(paused, _)| *paused != key);
        self.rings.remove(key);
        self.stopped.push(key);
    }

    /// Sends what is queued on the socket and closes it.
    pub(crate) fn close(&mut self, key: SocketKey) {
        if self.table.find(key).is_none() {
            return;
        }
        self.send_queue(key);
        self.queued.retain(|queued| *queued != key);
        self.paused.retain(|(paused, _)| *paused != key);
        self.stopped.retain(|stopped| *stopped != key);
        if let Some(at) = self.watches.iter().position(|watch| *watch == key) {
            self.watches.remove(at);
            self.polled.remove(at);
        }
        if let Some(socket) = self.table.find(key) {
            epoll_remove(&self.epoll, socket.fd.as_raw_fd());
            if let Kind::Ring(ring) = socket.kind {
                self.rings.remove(key);
                self.frames.close_ring(ring);
            }
        }
        self.table.remove(key.slot);
    }

    #[inline]
    pub(crate) fn send(&mut self, message: &Outgoing<'_>) -> Result<(), SendError> {
        let socket = self.table.find_mut(message.socket).ok_or(SendError::UnknownSocket)?;
        if socket.kind == Kind::Watch {
            return Err(SendError::UnknownSocket);
        }
        let slot = self.slots.fill(message, &mut self.frames)?;
        if socket.state.slots.is_empty() {
            self.queued.push(message.socket);
        }
        socket.state.slots.push_back(slot);
        Ok(())
    }

    #[inline]
    pub(crate) fn recycle(&mut self, received: Received) {
        if let Some(buffer) = self.frames.recycle(received) {
            self.frames.give(buffer);
        }
    }

    pub(crate) fn frames(&self) -> &Frames {
        &self.frames
    }

    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }
}

impl Drop for SyscallIo {
    /// As with the ring, what is queued still goes out.
    fn drop(&mut self) {
        let _ = self.flush();
    }
}

fn epoll_create() -> io::Result<OwnedFd> {
    // SAFETY: takes no pointers.
    let fd = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made this descriptor for us; nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn epoll_add(epoll: &OwnedFd, fd: RawFd, events: libc::c_int, token: Token) -> io::Result<()> {
    let mut event = libc::epoll_event { events: events as u32, u64: token.bits() };
    // SAFETY: the event is read during the call and lives until its end.
    let result = unsafe { libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &raw mut event) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// ENOENT, for sockets that were never or are just not in it, is as good as success.
fn epoll_remove(epoll: &OwnedFd, fd: RawFd) {
    // SAFETY: EPOLL_CTL_DEL reads no event, so null is allowed.
    let _ = unsafe { libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_DEL, fd, std::ptr::null_mut()) };
}
