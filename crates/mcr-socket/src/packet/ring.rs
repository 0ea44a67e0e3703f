//! Frames through the receive ring of a packet socket: changed where the kernel has written them, and sent from there.
//!
//! Does what [`FrameBatch`](super::FrameBatch) does, without a system call, an allocation and a copy for each frame received. A frame
//! that is longer than a slot is cut; its length is told.
//!
//! Invariants: slots are taken in the kernel's order. Between the load of a slot's status that says it is ours and the store that
//! gives it back, nobody but the value whose batch the slot is in touches it; all are given back when what is queued was sent, or
//! with the next receive. There is one reader of a socket's ring, ever: a second would not know where the first stopped.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::{AtomicU32, Ordering};

use super::batch::FrameInfo;
use super::send::{SendQueue, SendReport};
use super::tag::{ADDRESSES_BYTES, TAG_BYTES, put_tag_back};
use super::{AuxData, RingShape};

/// TP_STATUS_USER: the slot is the reader's.
const USER: u32 = 1;
/// struct tpacket2_hdr of linux/if_packet.h.
const HEADER_BYTES: usize = 32;
/// Where the first frame can begin: behind header and address, with room for the addresses that a tag moves forward.
const FRAME_AT_MIN: usize = 56;

/// A slot of the batch.
#[derive(Clone, Copy, Debug)]
struct Taken {
    slot: u32,
    /// Where in it the frame begins.
    start: u32,
    info: FrameInfo,
}

/// The mapped ring of a socket of [`open_port`](super::open_port), and a batch of its frames.
pub struct FrameRing {
    memory: NonNull<u8>,
    shape: RingShape,
    next: u32,
    batch: Vec<Taken>,
    queue: SendQueue,
    /// The last receive found nothing.
    idle: bool,
}

impl std::fmt::Debug for FrameRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { shape, batch, queue, .. } = self;
        let (slots, received, queued) = (shape.slots(), batch.len(), queue.len());
        write!(f, "FrameRing({slots} slots, {received} received, {queued} queued)")
    }
}

impl FrameRing {
    /// Maps the ring that the socket was opened with. Batches have at most `frames` frames.
    ///
    /// Panics if that is none, or more than `sendmmsg(2)` takes (1,024).
    ///
    /// # Errors
    /// Those of `mmap(2)`: of a socket without a ring, or with a smaller one, EINVAL.
    pub fn map(fd: impl AsFd, shape: RingShape, frames: usize) -> io::Result<Self> {
        assert!((1..=1024).contains(&frames), "a batch of {frames} frames");
        let fits = shape.slot_bytes as usize >= FRAME_AT_MIN + TAG_BYTES && shape.slots() > 0;
        // The kernel wants slots aligned to 16 bytes (TPACKET_ALIGNMENT), and so do our words in them.
        if !fits || !shape.slot_bytes.is_multiple_of(16) || !shape.block_bytes.is_multiple_of(4096) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let (rights, how) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_POPULATE);
        let fd = fd.as_fd().as_raw_fd();
        // SAFETY: a new mapping, at an address of the kernel's choice, touches no memory that is in use. The kernel refuses one that is
        // not exactly as long as the ring.
        let memory = unsafe { libc::mmap(ptr::null_mut(), bytes(shape), rights, how, fd, 0) };
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let memory = NonNull::new(memory.cast()).ok_or(io::ErrorKind::InvalidData)?;
        let batch = Vec::with_capacity(frames);
        Ok(Self { memory, shape, next: 0, batch, queue: SendQueue::new(frames), idle: false })
    }

    /// Takes what is there, at most a batch; 0 if nothing is. Frames of before are gone, those queued and not sent included.
    ///
    /// # Errors
    /// What the socket has to say, ENETDOWN for one, when nothing was there the time before either.
    pub fn receive(&mut self, fd: impl AsFd) -> io::Result<usize> {
        self.give_back();
        while self.batch.len() < self.queue.capacity() {
            let (slot, status) = (self.next, self.status(self.next));
            // Acquire: what the kernel wrote before the status is seen from here on.
            if status.load(Ordering::Acquire) & USER == 0 {
                break;
            }
            let taken = self.take(slot);
            self.batch.push(taken);
            self.next = if slot + 1 == self.shape.slots() { 0 } else { slot + 1 };
        }
        let found_nothing = self.batch.is_empty();
        // A ring does not tell of errors, while poll(2) tells that there is one until it was read.
        if found_nothing && std::mem::replace(&mut self.idle, found_nothing) {
            take_error(fd)?;
        }
        self.idle = found_nothing;
        Ok(self.batch.len())
    }

    /// Reads what the kernel said of a slot's frame and puts its tag back.
    fn take(&mut self, slot: u32) -> Taken {
        let slot_bytes = self.shape.slot_bytes as usize;
        let memory = self.slot(slot);
        let aux = AuxData::from_ring_header(&memory[..HEADER_BYTES]).unwrap_or_default();
        let received_ns = AuxData::ring_time_ns(&memory[..HEADER_BYTES]);
        // The kernel keeps to the slot; this is so that nothing depends on it.
        let mut start = usize::from(aux.mac_offset).clamp(FRAME_AT_MIN + TAG_BYTES, slot_bytes);
        let mut bytes = (aux.captured_bytes as usize).min(slot_bytes - start);
        let mut wire_bytes = (aux.frame_bytes as usize).max(bytes);
        if let Some(tci) = aux.vlan_tci()
            && bytes >= ADDRESSES_BYTES
        {
            put_tag_back(memory, start, aux.vlan_tpid(), tci);
            start -= TAG_BYTES;
            (bytes, wire_bytes) = (bytes + TAG_BYTES, wire_bytes + TAG_BYTES);
        }
        let checksum_not_ready = aux.checksum_not_ready();
        let info = FrameInfo { bytes, wire_bytes, received_ns, checksum_not_ready };
        Taken { slot, start: start as u32, info }
    }

    /// A received frame: the room from its first byte on, of which the first `bytes` are the frame.
    ///
    /// Panics if so many were not received.
    #[inline]
    pub fn frame(&mut self, at: usize) -> (&mut [u8], FrameInfo) {
        let Taken { slot, start, info } = self.batch[at];
        (&mut self.slot(slot)[start as usize..], info)
    }

    /// Queues the first `bytes` of a received frame's room, each frame once at most.
    ///
    /// Panics if so many were not received, or do not fit the slot.
    #[inline]
    pub fn queue(&mut self, at: usize, bytes: usize) {
        let frame = &mut self.frame(at).0[..bytes];
        let (start, bytes) = (frame.as_mut_ptr(), frame.len());
        self.queue.push(start, bytes);
    }

    /// Sends what is queued, in order, and gives the batch back. Waits for at most a millisecond where the send buffer is full.
    pub fn send(&mut self, fd: impl AsFd) -> SendReport {
        // SAFETY: what is queued are bytes of slots of the batch, in the mapping of this value, which the kernel leaves alone until they are
        // given back below; that also empties the queue, whoever does it.
        let report = unsafe { self.queue.send(fd) };
        self.give_back();
        report
    }

    fn give_back(&mut self) {
        self.queue.clear();
        for taken in &self.batch {
            // Release: the kernel may write as soon as it sees this; everything read or sent was before.
            self.status(taken.slot).store(0, Ordering::Release);
        }
        self.batch.clear();
    }

    /// Where a slot begins: that many bytes are the slot, in the mapping, aligned to 16.
    fn at(&self, slot: u32) -> NonNull<u8> {
        let in_block = self.shape.block_bytes / self.shape.slot_bytes;
        let at = slot / in_block * self.shape.block_bytes + slot % in_block * self.shape.slot_bytes;
        let end = at as usize + self.shape.slot_bytes as usize;
        assert!(end <= bytes(self.shape), "slot {slot} is none of the ring's");
        // SAFETY: as asserted, the place is within the one mapping that `memory` is the beginning of. It is a multiple of 16, as are the
        // sizes of slots and blocks (`map`).
        unsafe { self.memory.add(at as usize) }
    }

    fn status(&self, slot: u32) -> &AtomicU32 {
        // SAFETY: the first four bytes of a slot, aligned (`at`), in a mapping that lives as long as `self`. They are its status, which this
        // program accesses as an atomic only: slices are made of slots that are ours, and nothing writes the status through them.
        unsafe { AtomicU32::from_ptr(self.at(slot).cast().as_ptr()) }
    }

    /// A slot that is ours.
    fn slot(&mut self, slot: u32) -> &mut [u8] {
        let (at, bytes) = (self.at(slot), self.shape.slot_bytes as usize);
        // SAFETY: so many bytes from there on are the slot (`at`), in a mapping that lives as long as `self`; the kernel leaves it alone while
        // its status says USER, which `receive` has seen, and `&mut self` allows one such slice at a time.
        unsafe { slice::from_raw_parts_mut(at.as_ptr(), bytes) }
    }
}

impl Drop for FrameRing {
    fn drop(&mut self) {
        // SAFETY: address and length are those of the mapping of `map`, and nothing borrows from it when `self` is dropped.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), bytes(self.shape)) };
    }
}

fn bytes(shape: RingShape) -> usize {
    shape.block_bytes as usize * shape.blocks as usize
}

/// A socket's pending error. Nothing is ever queued at a socket with a ring.
fn take_error(fd: impl AsFd) -> io::Result<()> {
    let mut byte = 0_u8;
    // SAFETY: one byte that outlives the call.
    let got = unsafe { libc::recv(fd.as_fd().as_raw_fd(), (&raw mut byte).cast(), 1, libc::MSG_DONTWAIT) };
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        _ if got >= 0 => Ok(()),
        Some(libc::EAGAIN | libc::EINTR) => Ok(()),
        _ => Err(error),
    }
}
