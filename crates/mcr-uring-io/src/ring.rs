//! The io_uring back end: multishot receives, polls and sends on one ring.
//!
//! # Invariants
//!
//! - `in_flight` counts the operations pushed whose last completion was not seen. A completion with F_MORE is not the last.
//! - A socket leaves the table when it is closing, its receive or poll has ended and its sends have; its slot in the
//!   kernel's file table is emptied first.
//! - A buffer lent to the kernel has its handle in `Lent`; a completion moves it out again. So a completion that
//!   names a buffer the kernel was not lent panics, instead of being read from another's bytes.
//!
//! # Dropping
//!
//! The kernel tears a ring down some time after close(2) returned, and its operations may write into buffers till then.
//! So a drop first cancels everything and waits until nothing is in flight, then closes the ring, then frees `Memory`. If
//! operations do not end in time, `Memory` is leaked: memory lost is better than memory written to by surprise.

mod drive;
#[cfg(test)]
mod tests;

use std::fmt;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use io_uring::types::{CancelBuilder, Fixed};
use io_uring::{IoUring, opcode, squeue};

use crate::buf_ring::Lent;
use crate::config::ReceiveShape;
use crate::frames::Frames;
use crate::probe::open_ring;
use crate::rings::Rings;
use crate::slots::{SendSlots, empty_header};
use crate::table::{Kind, Table};
use crate::token::{Operation, Token};
use crate::{
    AddError, Counts, IoConfig, Outgoing, Received, RingShape, SendError, SocketKey, UringUnavailable,
};

/// How long a drop waits for operations to end before it leaks their memory.
const QUIESCE_MAX: Duration = Duration::from_secs(2);

pub(crate) struct RingIo {
    ring: ManuallyDrop<IoUring>,
    memory: ManuallyDrop<Memory>,
    table: Table<State>,
    rings: Rings,
    /// Sends pushed and not submitted; they end as soon as they are.
    sends_queued: bool,
    todo: Vec<Todo>,
    /// Stopped receivers of which nothing is in flight, to be reported.
    stopped: Vec<SocketKey>,
    in_flight: usize,
    events_max: usize,
    counts: Counts,
}

/// All that the kernel reads or writes while operations are in flight.
struct Memory {
    lent: Lent,
    frames: Frames,
    slots: SendSlots,
    /// Per socket; a multishot receive takes only the sizes of name and control messages from it.
    headers: Box<[libc::msghdr]>,
}

/// What the ring knows of a socket.
#[derive(Debug, Default)]
struct State {
    /// Its receive or poll is in flight.
    armed: bool,
    closing: bool,
    /// Receives no more.
    stopped: bool,
    sends: u32,
}

/// What the next wait submits first.
#[derive(Debug)]
enum Todo {
    /// Arm a receiver or a watch, not before then.
    Arm(SocketKey, Option<Instant>),
    /// Cancel the receive or poll of a socket that is closing or stopped.
    Cancel(SocketKey),
}

impl fmt::Debug for RingIo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RingIo")
            .field("sockets", &self.table.len())
            .field("in_flight", &self.in_flight)
            .finish_non_exhaustive()
    }
}

impl Memory {
    fn new(config: &IoConfig, frames: Frames) -> Self {
        Self {
            lent: Lent::new(config.buffers),
            frames,
            slots: SendSlots::new(config.sends_max),
            headers: (0..config.files_max).map(|_| empty_header()).collect(),
        }
    }

    /// Ends a send's use of buffers and of its slot; the caller's token.
    #[inline]
    fn end_send(&mut self, slot: u32) -> u64 {
        let Self { lent, frames, slots, .. } = self;
        slots.release(slot, frames, |frames, buffer| lent.lend(frames, buffer));
        slots.free(slot)
    }
}

impl RingIo {
    pub(crate) fn open(config: &IoConfig, frames: Frames) -> Result<Self, UringUnavailable> {
        let mut memory = Memory::new(config, frames);
        let ring = open_ring(config, memory.lent.ring())?;
        while let Some(buffer) = memory.frames.take() {
            memory.lent.lend(&memory.frames, buffer);
        }
        Ok(Self {
            ring: ManuallyDrop::new(ring),
            memory: ManuallyDrop::new(memory),
            table: Table::new(config.files_max),
            rings: Rings::new(config.events_max.into()),
            sends_queued: false,
            todo: Vec::with_capacity(2 * usize::from(config.files_max)),
            stopped: Vec::new(),
            in_flight: 0,
            events_max: config.events_max.into(),
            counts: Counts::default(),
        })
    }

    pub(crate) fn add_receiver(&mut self, fd: OwnedFd, shape: ReceiveShape) -> Result<SocketKey, AddError> {
        let key = self.add(fd, Kind::Receiver(shape))?;
        let header = &mut self.memory.headers[key.slot as usize];
        header.msg_namelen = shape.name_bytes.into();
        header.msg_controllen = usize::from(shape.control_bytes) as _;
        self.todo.push(Todo::Arm(key, None));
        Ok(key)
    }

    pub(crate) fn add_ring(&mut self, fd: OwnedFd, shape: RingShape) -> Result<SocketKey, AddError> {
        let ring = self.memory.frames.add_ring(fd.as_fd(), shape).map_err(AddError::Map)?;
        match self.add(fd, Kind::Ring(ring)) {
            Ok(key) => {
                self.rings.add(key, ring);
                Ok(key)
            }
            Err(error) => {
                self.memory.frames.close_ring(ring);
                Err(error)
            }
        }
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
        let key = self.add(fd, Kind::Watch)?;
        self.todo.push(Todo::Arm(key, None));
        Ok(key)
    }

    fn add(&mut self, fd: OwnedFd, kind: Kind) -> Result<SocketKey, AddError> {
        let raw = fd.as_raw_fd();
        let files_max = self.table.len() as u16;
        let key = self.table.insert(fd, kind, State::default()).map_err(|_| AddError::Full { files_max })?;
        match self.ring.submitter().register_files_update(key.slot, &[raw]) {
            Ok(_) => Ok(key),
            Err(source) => {
                self.table.remove(key.slot);
                Err(AddError::Register(source))
            }
        }
    }

    pub(crate) fn fd(&self, key: SocketKey) -> Option<BorrowedFd<'_>> {
        self.table.find(key).filter(|socket| !socket.state.closing).map(|socket| socket.borrow_fd())
    }

    pub(crate) fn stop(&mut self, key: SocketKey) {
        let Some(socket) = self.table.find_mut(key) else { return };
        let receives = matches!(socket.kind, Kind::Receiver(_) | Kind::Ring(_));
        if !receives || socket.state.closing || std::mem::replace(&mut socket.state.stopped, true) {
            return;
        }
        self.rings.remove(key);
        match socket.state.armed {
            true => self.todo.push(Todo::Cancel(key)),
            false => self.stopped.push(key),
        }
    }

    pub(crate) fn close(&mut self, key: SocketKey) {
        let Some(socket) = self.table.find_mut(key) else { return };
        if socket.state.closing {
            return;
        }
        // If it was stopped before, its cancellation is under way.
        let cancel = socket.state.armed && !socket.state.stopped;
        socket.state.closing = true;
        if let Kind::Ring(ring) = socket.kind {
            self.rings.remove(key);
            self.memory.frames.close_ring(ring);
        }
        if cancel {
            self.todo.push(Todo::Cancel(key));
        }
        self.stopped.retain(|stopped| *stopped != key);
        self.settle(key);
    }

    /// Removes a closing socket once nothing of it is in flight.
    fn settle(&mut self, key: SocketKey) {
        let Some(socket) = self.table.find(key) else { return };
        if !socket.state.closing || socket.state.armed || socket.state.sends > 0 {
            return;
        }
        // A failure is harmless: nothing refers to the slot, and its next user replaces what is in it.
        let _ = self.ring.submitter().register_files_update(key.slot, &[-1]);
        self.table.remove(key.slot);
    }

    #[inline]
    pub(crate) fn send(&mut self, message: &Outgoing<'_>) -> Result<(), SendError> {
        let socket = self.table.find(message.socket).ok_or(SendError::UnknownSocket)?;
        if socket.state.closing || socket.kind == Kind::Watch {
            return Err(SendError::UnknownSocket);
        }
        let Memory { slots, frames, .. } = &mut *self.memory;
        let slot = slots.fill(message, frames)?;
        let token = Token::new(Operation::Send, slots.generation(slot), slot);
        // MSG_DONTWAIT: else a full socket buffer would make the kernel poll and send later, after its successors.
        let flags = (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as u32;
        let send = opcode::SendMsg::new(Fixed(message.socket.slot), slots.header(slot)).flags(flags).build();
        if !self.push(send, token) {
            self.memory.end_send(slot);
            return Err(SendError::Full);
        }
        if let Some(socket) = self.table.find_mut(message.socket) {
            socket.state.sends += 1;
        }
        self.sends_queued = true;
        Ok(())
    }

    #[inline]
    pub(crate) fn recycle(&mut self, received: Received) {
        if let Some(buffer) = self.memory.frames.recycle(received) {
            let Memory { lent, frames, .. } = &mut *self.memory;
            lent.lend(frames, buffer);
        }
    }

    pub(crate) fn frames(&self) -> &Frames {
        &self.memory.frames
    }

    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    /// Pushes an operation on a fixed file, submitting first if the queue is full; false if there is no room even so.
    #[inline]
    fn push(&mut self, entry: squeue::Entry, token: Token) -> bool {
        let entry = entry.flags(squeue::Flags::FIXED_FILE).user_data(token.bits());
        if self.ring.submission().is_full() {
            self.counts.calls += 1;
            // The room it makes, or does not make, shows below.
            let _ = self.ring.submit();
        }
        // SAFETY: what the entry points to is in `memory`: send slots that are free again only after their completion, and
        // headers that live as long; dropping waits for the operations before it frees them.
        let pushed = unsafe { self.ring.submission().push(&entry) }.is_ok();
        self.in_flight += usize::from(pushed);
        pushed
    }

    /// Cancels everything and waits for the ends; false if some did not come.
    fn quiesce(&mut self) -> bool {
        if self.in_flight == 0 {
            return true;
        }
        let deadline = Instant::now() + QUIESCE_MAX;
        let cancel = opcode::AsyncCancel2::new(CancelBuilder::any()).build();
        if !self.push(cancel, Token::new(Operation::Cancel, 0, 0)) {
            return false;
        }
        while self.in_flight > 0 {
            let entered = self.enter(Some(Duration::from_millis(50)));
            while let Some(completion) = self.ring.completion().next() {
                self.in_flight -= usize::from(!io_uring::cqueue::more(completion.flags()));
            }
            if entered.is_err() || (self.in_flight > 0 && Instant::now() > deadline) {
                return false;
            }
        }
        true
    }
}

impl Drop for RingIo {
    fn drop(&mut self) {
        let quiet = self.quiesce();
        // The kernel empties the file table only some time after close(2); sockets, and the ports they hold, shall be gone
        // when this returns.
        let _ = self.ring.submitter().register_files_update(0, &vec![-1; self.table.len()]);
        // SAFETY: dropped here, once, and not used again: this is the end of self.
        unsafe { ManuallyDrop::drop(&mut self.ring) };
        if quiet {
            // SAFETY: as above; nothing is in flight and the ring is closed, so the kernel does not touch it any more.
            unsafe { ManuallyDrop::drop(&mut self.memory) };
        }
    }
}
