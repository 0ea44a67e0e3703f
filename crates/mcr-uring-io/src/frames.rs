//! Receive buffers: the handle a caller holds, the layout inside a buffer, and who still refers to it.
//!
//! A buffer is laid out as a multishot receive writes it, for both back ends: a header of four words, room for the
//! name, room for the control messages, payload. The references of sends are plain counters: one thread, no atomics.

use std::ops::Range;
use std::ptr::NonNull;

use mcr_bufpool::{HugePages, LocalBuffer, LocalPool, PoolConfig, PoolError};

use crate::config::ReceiveShape;
use crate::{Datagram, IoConfig, OpenError, SendError};

/// struct io_uring_recvmsg_out: namelen, controllen, payloadlen, flags.
pub(crate) const HEADER_BYTES: usize = 16;

/// A received datagram: neither `Copy` nor `Clone`, given back by value with [`Io::recycle`](crate::Io::recycle).
#[must_use = "a dropped frame is a buffer lost"]
#[derive(Debug)]
pub struct Received {
    buffer: LocalBuffer,
    layout: Layout,
}

impl Received {
    /// The bytes of the payload.
    #[must_use]
    pub fn payload_bytes(&self) -> usize {
        self.layout.payload_len as usize
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

/// The buffers and the references to them.
#[derive(Debug)]
pub(crate) struct Frames {
    pool: LocalPool,
    /// How many parts of sends in flight lie in each buffer.
    references: Box<[u32]>,
    /// Buffers given back while sends refer to them.
    waiting: Box<[Option<LocalBuffer>]>,
}

impl Frames {
    pub(crate) fn new(config: &IoConfig) -> Result<Self, OpenError> {
        let largest = ReceiveShape {
            name_bytes: ReceiveShape::NAME_BYTES_MAX,
            control_bytes: ReceiveShape::CONTROL_BYTES_MAX,
        };
        let bytes = payload_start(largest) + config.buffer_bytes as usize;
        let huge_pages = if config.huge_pages { HugePages::Reserved } else { HugePages::Never };
        let pool = PoolConfig { huge_pages, ..PoolConfig::one_class(bytes, config.buffers.into()) };
        let pool = LocalPool::new(&pool).map_err(|error| match error {
            PoolError::Map { bytes, source } => OpenError::Memory { bytes, source },
            _ => OpenError::TooLarge,
        })?;
        let buffers = usize::from(config.buffers);
        Ok(Self {
            pool,
            references: vec![0; buffers].into_boxed_slice(),
            waiting: (0..buffers).map(|_| None).collect(),
        })
    }

    pub(crate) fn take(&mut self) -> Option<LocalBuffer> {
        self.pool.take_from(0)
    }

    pub(crate) fn give(&mut self, buffer: LocalBuffer) {
        self.pool.give(buffer);
    }

    pub(crate) fn available(&self) -> usize {
        self.pool.available(0)
    }

    pub(crate) fn buffer_bytes(&self) -> usize {
        self.pool.buffer_bytes(0)
    }

    /// The buffer's number; there are at most 32,768 (`IoConfig::check`).
    #[inline]
    pub(crate) fn index(&self, buffer: &LocalBuffer) -> u16 {
        self.pool.index(buffer) as u16
    }

    #[inline]
    pub(crate) fn address(&self, index: u16) -> NonNull<u8> {
        self.pool.address(0, index.into())
    }

    /// What a multishot receive left in the buffer.
    #[inline]
    pub(crate) fn received(&self, buffer: LocalBuffer, shape: ReceiveShape, used: usize) -> Received {
        let layout = Layout::of_multishot(self.pool.bytes(&buffer), shape, used);
        Received { buffer, layout }
    }

    /// What a system call left in the buffer; every length in it fits its room.
    #[inline]
    pub(crate) fn received_with(&self, buffer: LocalBuffer, layout: Layout) -> Received {
        assert!(
            layout.name_len <= layout.shape.name_bytes && layout.control_len <= layout.shape.control_bytes
        );
        assert!(payload_start(layout.shape) + layout.payload_len as usize <= self.buffer_bytes());
        Received { buffer, layout }
    }

    #[inline]
    pub(crate) fn datagram<'a>(&'a self, received: &'a Received) -> Datagram<'a> {
        let Layout { shape, name_len, control_len, payload_len, truncated, control_truncated } =
            received.layout;
        let bytes = self.pool.bytes(&received.buffer);
        let control = HEADER_BYTES + usize::from(shape.name_bytes);
        let payload = control + usize::from(shape.control_bytes);
        Datagram {
            name: &bytes[HEADER_BYTES..HEADER_BYTES + usize::from(name_len)],
            control: &bytes[control..control + usize::from(control_len)],
            payload: &bytes[payload..payload + payload_len as usize],
            truncated,
            control_truncated,
        }
    }

    /// Whether the range lies in the payload.
    #[inline]
    pub(crate) fn check(&self, received: &Received, range: &Range<usize>) -> Result<(), SendError> {
        // Names the pool in its panic if the datagram is another Io's.
        let _ = self.pool.index(&received.buffer);
        let fits = range.start <= range.end && range.end <= received.payload_bytes();
        if fits { Ok(()) } else { Err(SendError::PartOutOfRange) }
    }

    /// Counts a reference to the buffer and says where a range, that `check` passed, lies.
    #[inline]
    pub(crate) fn refer(&mut self, received: &Received, range: &Range<usize>) -> (u16, *mut u8) {
        let index = self.index(&received.buffer);
        self.references[usize::from(index)] += 1;
        let offset = payload_start(received.layout.shape) + range.start;
        assert!(offset <= self.buffer_bytes());
        // SAFETY: the offset was just checked against the size of this buffer, which is one mapping (mcr-bufpool).
        let start = unsafe { self.address(index).add(offset) };
        (index, start.as_ptr())
    }

    /// Ends a reference; the buffer, if that was the last thing that kept it.
    #[inline]
    pub(crate) fn end_reference(&mut self, index: u16) -> Option<LocalBuffer> {
        let references = &mut self.references[usize::from(index)];
        assert!(*references > 0, "a send ended twice");
        *references -= 1;
        if *references == 0 { self.waiting[usize::from(index)].take() } else { None }
    }

    /// Ends the caller's use; the buffer, unless sends refer to it.
    #[inline]
    pub(crate) fn recycle(&mut self, received: Received) -> Option<LocalBuffer> {
        let index = usize::from(self.index(&received.buffer));
        if self.references[index] == 0 {
            return Some(received.buffer);
        }
        self.waiting[index] = Some(received.buffer);
        None
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
