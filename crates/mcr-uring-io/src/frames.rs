//! Receive buffers: the handle a caller holds, the layout inside a buffer, and who still refers to it.
//!
//! A buffer is laid out as a multishot receive writes it, for both back ends: a header of four words, room for the
//! name, room for the control messages, payload. The references of sends are plain counters: one thread, no atomics.

use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

use mcr_bufpool::{Class, HugePages, LocalBuffer, LocalPool, PoolConfig, PoolError};

use crate::config::ReceiveShape;
use crate::packet_ring::{self, PacketRing, Slot};
use crate::{Datagram, IoConfig, OpenError, RingShape, SendError};

/// struct io_uring_recvmsg_out: namelen, controllen, payloadlen, flags.
pub(crate) const HEADER_BYTES: usize = 16;

/// A received datagram: neither `Copy` nor `Clone`, given back by value with [`Io::recycle`](crate::Io::recycle).
#[must_use = "a dropped frame is a buffer lost"]
#[derive(Debug)]
pub struct Received {
    place: Place,
}

/// What holds a datagram. The handle in it is the only one there is.
#[derive(Debug)]
enum Place {
    Buffer(LocalBuffer, Layout),
    /// Too large for its ring's slot: the slot's headers were copied, the frame received by itself.
    Large(LocalBuffer, Layout),
    /// In the ring of that number.
    Slot(u16, Slot),
}

impl Received {
    /// The bytes of the payload.
    #[must_use]
    #[inline]
    pub fn payload_bytes(&self) -> usize {
        match &self.place {
            Place::Buffer(_, layout) | Place::Large(_, layout) => layout.payload_len as usize,
            Place::Slot(_, slot) => slot.bytes as usize,
        }
    }
}

/// Names what holds a datagram without being its handle: the kind in the two top bits, below it a buffer's index, or 12 bits of
/// a ring's number and 18 of a slot's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameId(u32);

/// How many rings a [`FrameId`] can tell apart.
const RINGS_MAX: usize = 1 << 12;

impl FrameId {
    pub(crate) const NONE: Self = Self(u32::MAX);
    const LARGE: u32 = 1 << 30;
    const SLOT: u32 = 2 << 30;
    const SLOT_BITS: u32 = 18;

    fn slot(ring: u16, slot: u32) -> Self {
        debug_assert!(usize::from(ring) < RINGS_MAX && slot < RingShape::SLOTS_MAX);
        Self(Self::SLOT | u32::from(ring) << Self::SLOT_BITS | slot)
    }

    fn read(self) -> (u32, u32) {
        (self.0 >> 30 << 30, self.0 & !(3 << 30))
    }

    fn read_slot(rest: u32) -> (usize, u32) {
        ((rest >> Self::SLOT_BITS) as usize, rest & (RingShape::SLOTS_MAX - 1))
    }
}

/// Where in a buffer a datagram's parts are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) shape: ReceiveShape,
    pub(crate) name_len: u16,
    pub(crate) control_len: u16,
    pub(crate) payload_len: u32,
    pub(crate) truncated: bool,
    pub(crate) control_truncated: bool,
}

impl Layout {
    /// Of the header that a multishot receive wrote; `used` is the completion's result. Lengths say what there was, not
    /// what fitted, so each is cut to its room.
    fn of_multishot(buffer: &[u8], shape: ReceiveShape, used: usize) -> Self {
        let word = |at: usize| {
            buffer.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_ne_bytes)
        };
        let (name, control, payload, flags) = (word(0), word(4), word(8), word(12) as i32);
        let room = used.min(buffer.len()).saturating_sub(payload_start(shape));
        Self {
            shape,
            name_len: name.min(shape.name_bytes.into()) as u16,
            control_len: control.min(shape.control_bytes.into()) as u16,
            payload_len: payload.min(room as u32),
            truncated: flags & libc::MSG_TRUNC != 0,
            control_truncated: flags & libc::MSG_CTRUNC != 0,
        }
    }
}

/// Where the payload begins in the buffers of a receiver of this shape.
pub(crate) fn payload_start(shape: ReceiveShape) -> usize {
    HEADER_BYTES + usize::from(shape.name_bytes) + usize::from(shape.control_bytes)
}

/// The buffers and rings, and the references to them.
#[derive(Debug)]
pub(crate) struct Frames {
    pool: LocalPool,
    /// Of the buffers that sockets receive into, and of those for frames too large for a ring.
    users: [Users; 2],
    rings: Vec<Option<Ring>>,
}

/// What is known of the buffers of one class.
#[derive(Debug)]
struct Users {
    /// How many parts of sends in flight lie in each buffer.
    references: Box<[u32]>,
    /// Buffers given back while sends refer to them.
    waiting: Box<[Option<LocalBuffer>]>,
}

#[derive(Debug)]
struct Ring {
    ring: PacketRing,
    /// Its socket is closed: it goes with the last of its frames.
    closing: bool,
}

/// Buffers for frames too large for a ring's slot: superframes, a few of which are a batch.
const LARGE_BUFFERS: u32 = 64;
/// The layout of such a buffer: the ring's header takes the place of control messages.
const LARGE_SHAPE: ReceiveShape =
    ReceiveShape { name_bytes: 24, control_bytes: packet_ring::HEADER_BYTES as u16 };

const BUFFER: usize = 0;
const LARGE: usize = 1;

impl Frames {
    pub(crate) fn new(config: &IoConfig) -> Result<Self, OpenError> {
        let largest = ReceiveShape {
            name_bytes: ReceiveShape::NAME_BYTES_MAX,
            control_bytes: ReceiveShape::CONTROL_BYTES_MAX,
        };
        let bytes = payload_start(largest) + config.buffer_bytes as usize;
        let huge_pages = if config.huge_pages { HugePages::Reserved } else { HugePages::Never };
        let buffers = u32::from(config.buffers);
        let mut pool = PoolConfig { huge_pages, ..PoolConfig::one_class(bytes, buffers) };
        // A class must be larger than the one before.
        pool.classes.push(Class { buffer_bytes: bytes.next_multiple_of(64) + 64, buffers: LARGE_BUFFERS });
        let pool = LocalPool::new(&pool).map_err(|error| match error {
            PoolError::Map { bytes, source } => OpenError::Memory { bytes, source },
            _ => OpenError::TooLarge,
        })?;
        let users = [buffers, LARGE_BUFFERS].map(|buffers| Users {
            references: vec![0; buffers as usize].into_boxed_slice(),
            waiting: (0..buffers).map(|_| None).collect(),
        });
        Ok(Self { pool, users, rings: Vec::new() })
    }

    pub(crate) fn take(&mut self) -> Option<LocalBuffer> {
        self.pool.take_from(BUFFER)
    }

    pub(crate) fn give(&mut self, buffer: LocalBuffer) {
        self.pool.give(buffer);
    }

    pub(crate) fn available(&self) -> usize {
        self.pool.available(BUFFER)
    }

    pub(crate) fn buffer_bytes(&self) -> usize {
        self.pool.buffer_bytes(BUFFER)
    }

    /// The buffer's number; there are at most 32,768 (`IoConfig::check`).
    #[inline]
    pub(crate) fn index(&self, buffer: &LocalBuffer) -> u16 {
        self.pool.index(buffer) as u16
    }

    #[inline]
    pub(crate) fn address(&self, index: u16) -> NonNull<u8> {
        self.pool.address(BUFFER, index.into())
    }

    /// What a multishot receive left in the buffer.
    #[inline]
    pub(crate) fn received(&self, buffer: LocalBuffer, shape: ReceiveShape, used: usize) -> Received {
        let layout = Layout::of_multishot(self.pool.bytes(&buffer), shape, used);
        Received { place: Place::Buffer(buffer, layout) }
    }

    /// What a system call left in the buffer; every length in it fits its room.
    #[inline]
    pub(crate) fn received_with(&self, buffer: LocalBuffer, layout: Layout) -> Received {
        assert!(
            layout.name_len <= layout.shape.name_bytes && layout.control_len <= layout.shape.control_bytes
        );
        assert!(payload_start(layout.shape) + layout.payload_len as usize <= self.buffer_bytes());
        Received { place: Place::Buffer(buffer, layout) }
    }

    #[inline]
    pub(crate) fn datagram<'a>(&'a self, received: &'a Received) -> Datagram<'a> {
        let (buffer, layout, is_large) = match &received.place {
            Place::Buffer(buffer, layout) => (buffer, layout, false),
            Place::Large(buffer, layout) => (buffer, layout, true),
            Place::Slot(ring, slot) => {
                let ring = self.ring(*ring);
                return Datagram {
                    name: ring.name(slot),
                    control: &[],
                    ring_header: ring.header(slot),
                    payload: ring.payload(slot),
                    truncated: slot.cut,
                    control_truncated: false,
                };
            }
        };
        let Layout { shape, name_len, control_len, payload_len, truncated, control_truncated } = *layout;
        let bytes = self.pool.bytes(buffer);
        let control = HEADER_BYTES + usize::from(shape.name_bytes);
        let payload = control + usize::from(shape.control_bytes);
        let control = &bytes[control..control + usize::from(control_len)];
        let (control, ring_header) = if is_large { (&[][..], control) } else { (control, &[][..]) };
        Datagram {
            name: &bytes[HEADER_BYTES..HEADER_BYTES + usize::from(name_len)],
            control,
            ring_header,
            payload: &bytes[payload..payload + payload_len as usize],
            truncated,
            control_truncated,
        }
    }

    /// Whether the range lies in the payload.
    #[inline]
    pub(crate) fn check(&self, received: &Received, range: &Range<usize>) -> Result<(), SendError> {
        if let Place::Buffer(buffer, _) | Place::Large(buffer, _) = &received.place {
            // Names the pool in its panic if the datagram is another Io's.
            let _ = self.pool.index(buffer);
        }
        let fits = range.start <= range.end && range.end <= received.payload_bytes();
        if fits { Ok(()) } else { Err(SendError::PartOutOfRange) }
    }

    /// Counts a reference to what holds the datagram and says where a range, that `check` passed, lies.
    #[inline]
    pub(crate) fn refer(&mut self, received: &Received, range: &Range<usize>) -> (FrameId, *mut u8) {
        let (class, buffer, layout) = match &received.place {
            Place::Buffer(buffer, layout) => (BUFFER, buffer, layout),
            Place::Large(buffer, layout) => (LARGE, buffer, layout),
            Place::Slot(ring, slot) => {
                let start = self.ring_mut(*ring).refer(slot);
                assert!(range.start <= slot.bytes as usize);
                // SAFETY: `start` is that of `slot.bytes` bytes of one mapping (`PacketRing::refer`).
                let start = unsafe { start.add(range.start) };
                return (FrameId::slot(*ring, slot.index), start.as_ptr());
            }
        };
        let index = self.pool.index(buffer);
        self.users[class].references[index as usize] += 1;
        let offset = payload_start(layout.shape) + range.start;
        assert!(offset <= self.pool.buffer_bytes(class));
        // SAFETY: the offset was just checked against the size of this buffer, which is one mapping (mcr-bufpool).
        let start = unsafe { self.pool.address(class, index).add(offset) };
        let kind = if class == LARGE { FrameId::LARGE } else { 0 };
        (FrameId(kind | index), start.as_ptr())
    }

    /// Ends a reference; the buffer, if that was the last thing that kept it.
    #[inline]
    pub(crate) fn end_reference(&mut self, id: FrameId) -> Option<LocalBuffer> {
        let (kind, rest) = id.read();
        if kind == FrameId::SLOT {
            let (ring, slot) = FrameId::read_slot(rest);
            self.end_use(ring, slot);
            return None;
        }
        let class = if kind == FrameId::LARGE { LARGE } else { BUFFER };
        let Users { references, waiting } = &mut self.users[class];
        let references = &mut references[rest as usize];
        assert!(*references > 0, "a send ended twice");
        *references -= 1;
        let buffer = if *references == 0 { waiting[rest as usize].take() } else { None };
        self.home(class, buffer?)
    }

    /// Ends the caller's use; the buffer, unless sends refer to it.
    #[inline]
    pub(crate) fn recycle(&mut self, received: Received) -> Option<LocalBuffer> {
        let (class, buffer) = match received.place {
            Place::Buffer(buffer, _) => (BUFFER, buffer),
            Place::Large(buffer, _) => (LARGE, buffer),
            Place::Slot(ring, slot) => {
                self.end_use(ring.into(), slot.index);
                return None;
            }
        };
        let index = self.pool.index(&buffer) as usize;
        if self.users[class].references[index] == 0 {
            return self.home(class, buffer);
        }
        self.users[class].waiting[index] = Some(buffer);
        None
    }

    /// Buffers for large frames never leave; the others are the back end's.
    fn home(&mut self, class: usize, buffer: LocalBuffer) -> Option<LocalBuffer> {
        if class == BUFFER {
            return Some(buffer);
        }
        self.pool.give(buffer);
        None
    }

    /// Maps a socket's ring; its number.
    pub(crate) fn add_ring(&mut self, fd: BorrowedFd<'_>, shape: RingShape) -> io::Result<u16> {
        let ring = Ring { ring: PacketRing::map(fd, shape)?, closing: false };
        if let Some(free) = self.rings.iter().position(Option::is_none) {
            self.rings[free] = Some(ring);
            return Ok(free as u16);
        }
        if self.rings.len() == RINGS_MAX {
            return Err(io::Error::from_raw_os_error(libc::ENFILE));
        }
        self.rings.push(Some(ring));
        Ok((self.rings.len() - 1) as u16)
    }

    /// Unmaps a ring, now or with the last of its frames.
    pub(crate) fn close_ring(&mut self, ring: u16) {
        let place = &mut self.rings[usize::from(ring)];
        match place {
            Some(open) if open.ring.held() > 0 => open.closing = true,
            _ => *place = None,
        }
    }

    #[inline]
    pub(crate) fn ring(&self, ring: u16) -> &PacketRing {
        let ring = self.rings.get(usize::from(ring)).and_then(Option::as_ref);
        &ring.expect("a frame of a ring was used with an Io that does not have it").ring
    }

    #[inline]
    fn ring_mut(&mut self, ring: u16) -> &mut PacketRing {
        let ring = self.rings.get_mut(usize::from(ring)).and_then(Option::as_mut);
        &mut ring.expect("a frame of a ring was used with an Io that does not have it").ring
    }

    #[inline]
    fn end_use(&mut self, ring: usize, slot: u32) {
        let place = self.rings.get_mut(ring);
        let place = place.expect("a frame of a ring was used with an Io that does not have it");
        if let Some(Ring { ring, closing }) = place {
            ring.end_use(slot);
            if *closing && ring.held() == 0 {
                *place = None;
            }
        }
    }

    /// Takes the next frame of a ring. `fd` is its socket's, on which frames wait that are too large for a slot.
    #[inline]
    pub(crate) fn take_from_ring(&mut self, ring: u16, fd: BorrowedFd<'_>) -> Option<Received> {
        let large = self.pool.available(LARGE) > 0;
        let slot = self.ring_mut(ring).take(large)?;
        if !slot.queued {
            return Some(Received { place: Place::Slot(ring, slot) });
        }
        let received = self.receive_large(ring, &slot, fd);
        self.end_use(ring.into(), slot.index);
        received
    }

    /// Receives the frame that waits on the socket, and copies what the ring says of it.
    #[cold]
    fn receive_large(&mut self, ring: u16, slot: &Slot, fd: BorrowedFd<'_>) -> Option<Received> {
        let mut buffer = self.pool.take_from(LARGE)?;
        let ring = self.rings.get(usize::from(ring)).and_then(Option::as_ref)?;
        let bytes = self.pool.bytes_mut(&mut buffer);
        let (name, control) = (ring.ring.name(slot), ring.ring.header(slot));
        let control_at = HEADER_BYTES + usize::from(LARGE_SHAPE.name_bytes);
        bytes[HEADER_BYTES..HEADER_BYTES + name.len()].copy_from_slice(name);
        bytes[control_at..control_at + control.len()].copy_from_slice(control);
        let payload = &mut bytes[payload_start(LARGE_SHAPE)..];
        let room = payload.len();
        // Nothing there, which cannot be: then it is a frame of no bytes, cut, and will be counted as such.
        let there = packet_ring::receive(fd, payload).unwrap_or(0);
        let layout = Layout {
            shape: LARGE_SHAPE,
            name_len: name.len() as u16,
            control_len: control.len() as u16,
            payload_len: there.min(room) as u32,
            truncated: there == 0 || there > room,
            control_truncated: false,
        };
        Some(Received { place: Place::Large(buffer, layout) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames() -> Frames {
        Frames::new(&IoConfig { buffers: 2, buffer_bytes: 100, ..IoConfig::default() }).unwrap()
    }

    #[test]
    fn a_buffer_comes_back_after_its_handle_and_the_last_of_its_sends() {
        let mut frames = frames();
        let buffer = frames.take().unwrap();
        let received = frames.received(buffer, ReceiveShape::default(), HEADER_BYTES);
        let (index, _) = frames.refer(&received, &(0..0));
        let _ = frames.refer(&received, &(0..0));
        assert!(frames.recycle(received).is_none());
        assert!(frames.end_reference(index).is_none());
        let buffer = frames.end_reference(index).expect("nothing refers to it any more");
        frames.give(buffer);
        assert_eq!(frames.available(), 2);
    }

    #[test]
    fn lengths_beyond_their_room_are_cut_to_it() {
        let shape = ReceiveShape { name_bytes: 8, control_bytes: 16 };
        let mut buffer = vec![0; 100];
        for word in buffer[..12].chunks_mut(4) {
            word.copy_from_slice(&1000u32.to_ne_bytes());
        }
        let layout = Layout::of_multishot(&buffer, shape, 100);
        assert_eq!((layout.name_len, layout.control_len, layout.payload_len), (8, 16, 60));
        let layout = Layout::of_multishot(&buffer, shape, 10);
        assert_eq!(layout.payload_len, 0);
    }

    #[test]
    #[should_panic(expected = "was used with pool")]
    fn recycling_another_pools_datagram_panics() {
        let (mut ours, mut theirs) = (frames(), frames());
        let buffer = ours.take().unwrap();
        let received = ours.received(buffer, ReceiveShape::default(), HEADER_BYTES);
        let _ = theirs.recycle(received);
    }
}
