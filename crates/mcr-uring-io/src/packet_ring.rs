//! The receive ring of an AF_PACKET socket, mapped (TPACKET_V2, packet(7), packet_mmap.rst in the kernel's documentation).
//!
//! The kernel writes each frame into the next slot and sets the slot's status to "user"; status 0 gives it back. A frame that
//! does not fit its slot is cut there and queued whole on the socket besides (PACKET_COPY_THRESH), in the same order.
//!
//! # Invariants
//!
//! - Slots are taken in order. A slot taken from the kernel is marked in its status (`TAKEN`), and given back when its handle
//!   and the last send that refers to it are gone, not before: only `end_reference` and `recycle` do so.
//! - The place of the next slot stands in the ring itself, in room the kernel leaves free (PACKET_RESERVE): who maps a ring
//!   whose reader has died goes on behind what that one took, and gives back what it held. Nothing is read twice.
//! - Nothing but a slot's status and the place are read or written by both sides at the same time, and these are atomics.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::RingShape;
use crate::slots::empty_header;

/// struct tpacket2_hdr of linux/if_packet.h: status, len, snaplen, mac and net (16 bits each), seconds, nanoseconds, VLAN
/// TCI and TPID, padding.
pub(crate) const HEADER_BYTES: usize = 32;
/// struct sockaddr_ll, which follows it.
pub(crate) const NAME_BYTES: usize = 20;
/// Where the place of the next slot stands in the first one: behind the address, in the room that PACKET_RESERVE makes.
const PLACE_AT: usize = 56;
const FRAME_AT_MIN: u32 = 60;
/// What a slot must have room for besides data.
const OVERHEAD_BYTES: u32 = 128;

const TP_STATUS_USER: u32 = 1;
const TP_STATUS_COPY: u32 = 1 << 1;
/// Ours; the kernel only looks whether the status is 0.
const TAKEN: u32 = 1 << 24;

/// One slot taken from the kernel: neither `Copy` nor `Clone`.
#[must_use = "a slot that is dropped is lost to the kernel"]
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) index: u32,
    /// Where in the mapping it begins.
    at: u32,
    /// Where in the slot the frame begins, with what goes before it.
    start: u32,
    pub(crate) bytes: u32,
    /// Less than there was.
    pub(crate) cut: bool,
    /// The whole frame waits on the socket.
    pub(crate) queued: bool,
}

#[derive(Debug)]
pub(crate) struct PacketRing {
    memory: Mapping,
    shape: RingShape,
    slots_per_block: u32,
    next: u32,
    /// Handles and sends that keep each slot.
    users: Box<[u32]>,
    held: u32,
}

impl PacketRing {
    /// Maps the ring of a socket that was given one of this shape.
    pub(crate) fn map(fd: BorrowedFd<'_>, shape: RingShape) -> io::Result<Self> {
        let slots = shape.slots().ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
        if shape.slot_bytes < OVERHEAD_BYTES + u32::from(shape.prefix_bytes) {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        let memory = Mapping::new(fd, shape.bytes())?;
        let users = vec![0; slots as usize].into_boxed_slice();
        let slots_per_block = shape.block_bytes / shape.slot_bytes;
        let mut ring = Self { memory, shape, slots_per_block, next: 0, users, held: 0 };
        ring.take_over();
        Ok(ring)
    }

    /// Goes on where a reader before stopped, and gives back what it held.
    fn take_over(&mut self) {
        let slots = self.slots();
        let place = self.memory.word(PLACE_AT).load(Ordering::Relaxed);
        // Odd: it was just taking that slot, which may or may not be marked.
        let interrupted = place & 1 == 1;
        self.next = (place / 2) % slots;
        if interrupted {
            self.give_back(self.next);
            self.next = (self.next + 1) % slots;
        }
        for slot in 0..slots {
            if self.status(self.at(slot)).load(Ordering::Relaxed) & TAKEN != 0 {
                self.give_back(slot);
            }
        }
        self.memory.word(PLACE_AT).store(2 * self.next, Ordering::Relaxed);
    }

    fn slots(&self) -> u32 {
        self.users.len() as u32
    }

    /// How many slots are taken and not given back.
    pub(crate) fn held(&self) -> u32 {
        self.held
    }

    /// Whether a frame can be taken.
    #[inline]
    pub(crate) fn is_ready(&self) -> bool {
        let status = self.status(self.at(self.next)).load(Ordering::Relaxed);
        status & TP_STATUS_USER != 0 && status & TAKEN == 0
    }

    /// Whether poll(2) tells of new frames only: it tells of the last one the kernel wrote, until that is given back.
    pub(crate) fn is_last_given_back(&self) -> bool {
        let last = self.next.checked_sub(1).unwrap_or(self.slots() - 1);
        self.users[last as usize] == 0
    }

    /// Takes the next frame, if there is one; `allow_queued` says whether also one that waits on the socket.
    #[inline]
    pub(crate) fn take(&mut self, allow_queued: bool) -> Option<Slot> {
        let (index, at) = (self.next, self.at(self.next));
        // Acquire: what the kernel wrote before the status is seen from here on.
        let status = self.status(at).load(Ordering::Acquire);
        let queued = status & TP_STATUS_COPY != 0;
        if status & TP_STATUS_USER == 0 || status & TAKEN != 0 || (queued && !allow_queued) {
            return None;
        }
        let next = if index + 1 == self.slots() { 0 } else { index + 1 };
        let place = self.memory.word(PLACE_AT);
        place.store(2 * index + 1, Ordering::Release);
        self.status(at).store(status | TAKEN, Ordering::Release);
        place.store(2 * next, Ordering::Release);
        self.next = next;
        self.users[index as usize] = 1;
        self.held += 1;
        let prefix = u32::from(self.shape.prefix_bytes);
        let [whole, captured] = [4, 8].map(|field| self.memory.read_u32(at as usize + field));
        let mac = u32::from(self.memory.read_u16(at as usize + 12));
        // The kernel keeps to the slot, and behind the place; this is so that nothing depends on it.
        let start = mac.saturating_sub(prefix).clamp(FRAME_AT_MIN, self.shape.slot_bytes);
        let bytes = captured.saturating_add(prefix).min(self.shape.slot_bytes - start);
        Some(Slot { index, at, start, bytes, cut: captured < whole && !queued, queued })
    }

    /// The kernel's header of a slot.
    #[inline]
    pub(crate) fn header<'a>(&'a self, slot: &'a Slot) -> &'a [u8] {
        self.memory.bytes(slot.at as usize, HEADER_BYTES)
    }

    /// The sockaddr_ll of a slot.
    #[inline]
    pub(crate) fn name<'a>(&'a self, slot: &'a Slot) -> &'a [u8] {
        self.memory.bytes(slot.at as usize + HEADER_BYTES, NAME_BYTES)
    }

    /// What goes before the frame, and the frame.
    #[inline]
    pub(crate) fn payload<'a>(&'a self, slot: &'a Slot) -> &'a [u8] {
        self.memory.bytes((slot.at + slot.start) as usize, slot.bytes as usize)
    }

    /// Counts a send that refers to the slot, and says where its payload lies.
    #[inline]
    pub(crate) fn refer(&mut self, slot: &Slot) -> NonNull<u8> {
        self.users[slot.index as usize] += 1;
        self.memory.address((slot.at + slot.start) as usize, slot.bytes as usize)
    }

    /// Ends the use by a handle, or by a send.
    #[inline]
    pub(crate) fn end_use(&mut self, slot: u32) {
        let users = &mut self.users[slot as usize];
        assert!(*users > 0, "a slot was given back twice");
        *users -= 1;
        if *users == 0 {
            self.held -= 1;
            self.give_back(slot);
        }
    }

    fn give_back(&self, slot: u32) {
        // Release: the kernel may write as soon as it sees this, and everything read must have been read by then.
        self.status(self.at(slot)).store(0, Ordering::Release);
    }

    #[inline]
    fn at(&self, slot: u32) -> u32 {
        let (block, within) = (slot / self.slots_per_block, slot % self.slots_per_block);
        block * self.shape.block_bytes + within * self.shape.slot_bytes
    }

    #[inline]
    fn status(&self, at: u32) -> &AtomicU32 {
        self.memory.word(at as usize)
    }
}

/// Receives what waits on the socket, whole or not; how long it is.
pub(crate) fn receive(fd: BorrowedFd<'_>, into: &mut [u8]) -> io::Result<usize> {
    receive_with(fd, into, libc::MSG_TRUNC)
}

/// The error that the socket has to tell, if any (ENETDOWN); what waits on it stays.
pub(crate) fn error(fd: BorrowedFd<'_>) -> Option<i32> {
    let errno = receive_with(fd, &mut [0; 16], libc::MSG_PEEK).err()?.raw_os_error();
    errno.filter(|errno| !matches!(*errno, libc::EAGAIN | libc::EINTR))
}

/// recvmsg(2), which a worker is allowed in any case.
fn receive_with(fd: BorrowedFd<'_>, into: &mut [u8], flags: libc::c_int) -> io::Result<usize> {
    let mut part = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    let mut header = empty_header();
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    // SAFETY: the header points to one part, which is a slice that outlives the call and is ours alone.
    let got = unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut header, flags | libc::MSG_DONTWAIT) };
    usize::try_from(got).map_err(|_| io::Error::last_os_error())
}

/// The kernel's pages, in our address space until dropped.
#[derive(Debug)]
struct Mapping {
    base: NonNull<u8>,
    bytes: usize,
}

impl Mapping {
    fn new(fd: BorrowedFd<'_>, bytes: usize) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: without MAP_FIXED the kernel picks an unused range, so no existing memory is affected.
        let address =
            unsafe { libc::mmap(ptr::null_mut(), bytes, protection, libc::MAP_SHARED, fd.as_raw_fd(), 0) };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(address.cast()).ok_or_else(|| io::Error::other("mapped at address 0"))?;
        Ok(Self { base, bytes })
    }

    #[inline]
    fn address(&self, at: usize, len: usize) -> NonNull<u8> {
        assert!(at.checked_add(len).is_some_and(|end| end <= self.bytes), "outside the ring");
        // SAFETY: `at` is at most `bytes`, so the result is inside or one past the one mapping that base points to.
        unsafe { self.base.add(at) }
    }

    /// A word that the kernel may write at the same time.
    #[inline]
    fn word(&self, at: usize) -> &AtomicU32 {
        assert!(at.is_multiple_of(align_of::<AtomicU32>()));
        let word = self.address(at, size_of::<AtomicU32>()).cast::<AtomicU32>();
        // SAFETY: aligned, as a page is and `at` was checked to be; inside the mapping, which lives as long as self; and
        // accessed by us through atomics only (callers of `bytes` leave out the first word of slots they do not own).
        unsafe { word.as_ref() }
    }

    /// Bytes of a slot that is ours: the kernel does not write to one whose status is not 0.
    #[inline]
    fn bytes(&self, at: usize, len: usize) -> &[u8] {
        let start = self.address(at, len);
        // SAFETY: inside the mapping (`address`) and initialised by the kernel. Nobody writes while the slice lives: the
        // callers take a borrowed `Slot`, which exists from `take` until the slot is given back; both need the ring
        // exclusively or a handle by value. The status word, which `take` alone stores to, is stored to before the Slot is.
        unsafe { std::slice::from_raw_parts(start.as_ptr(), len) }
    }

    #[inline]
    fn read_u32(&self, at: usize) -> u32 {
        self.bytes(at, 4).try_into().map_or(0, u32::from_ne_bytes)
    }

    #[inline]
    fn read_u16(&self, at: usize) -> u16 {
        self.bytes(at, 2).try_into().map_or(0, u16::from_ne_bytes)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: base and bytes are those of the mapping made in `new`, unmapped nowhere else; slices into it borrow self.
        let result = unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
        debug_assert_eq!(result, 0, "munmap of our own mapping");
    }
}
