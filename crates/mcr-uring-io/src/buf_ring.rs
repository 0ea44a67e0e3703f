//! The ring through which the kernel is given receive buffers (io_uring_register_buf_ring(3)). Its entries are atomics
//! laid out as the kernel's struct io_uring_buf, so sharing them with the kernel takes no unsafe code here.
//!
//! The handles of buffers lent to the kernel are set aside in [`Lent`], which is what makes its address theirs alone.

use std::fmt;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use mcr_bufpool::LocalBuffer;

use crate::frames::Frames;

const ENTRIES_PER_CHUNK: usize = 4096;

/// struct io_uring_buf; the last field of the first entry is the ring's tail.
#[repr(C)]
struct Entry {
    address: AtomicU64,
    bytes: AtomicU32,
    buffer: AtomicU16,
    tail: AtomicU16,
}

/// The ring must start on a page; 64 KiB is a multiple of every page size in use.
#[repr(C, align(65536))]
struct Chunk([Entry; ENTRIES_PER_CHUNK]);

pub(crate) struct BufRing {
    chunks: Box<[Chunk]>,
    entries: u16,
    tail: u16,
}

impl fmt::Debug for BufRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufRing")
            .field("entries", &self.entries)
            .field("tail", &self.tail)
            .finish_non_exhaustive()
    }
}

impl BufRing {
    /// A ring of so many entries, a power of two up to 32,768.
    pub(crate) fn new(entries: u16) -> Self {
        assert!(entries.is_power_of_two());
        let entry = || Entry {
            address: AtomicU64::new(0),
            bytes: AtomicU32::new(0),
            buffer: AtomicU16::new(0),
            tail: AtomicU16::new(0),
        };
        let chunks = usize::from(entries).div_ceil(ENTRIES_PER_CHUNK);
        let chunks = (0..chunks).map(|_| Chunk(std::array::from_fn(|_| entry()))).collect();
        Self { chunks, entries, tail: 0 }
    }

    pub(crate) fn address(&self) -> u64 {
        self.chunks.as_ptr().expose_provenance() as u64
    }

    pub(crate) fn entries(&self) -> u16 {
        self.entries
    }

    /// Shows a buffer to the kernel. There are as many entries as buffers and each buffer is given once at a time, so
    /// there is always room.
    #[inline]
    fn provide(&mut self, buffer: u16, address: NonNull<u8>, bytes: u32) {
        let at = usize::from(self.tail & (self.entries - 1));
        let entry = &self.chunks[at / ENTRIES_PER_CHUNK].0[at % ENTRIES_PER_CHUNK];
        entry.address.store(address.as_ptr().expose_provenance() as u64, Ordering::Relaxed);
        entry.bytes.store(bytes, Ordering::Relaxed);
        entry.buffer.store(buffer, Ordering::Relaxed);
        self.tail = self.tail.wrapping_add(1);
        // Release: the kernel reads the tail with acquire and must then see the entry.
        self.chunks[0].0[0].tail.store(self.tail, Ordering::Release);
    }
}

/// The buffers that the kernel may write to.
#[derive(Debug)]
pub(crate) struct Lent {
    ring: BufRing,
    handles: Box<[Option<LocalBuffer>]>,
    count: usize,
}

impl Lent {
    /// Room for so many buffers, a power of two up to 32,768.
    pub(crate) fn new(buffers: u16) -> Self {
        Self { ring: BufRing::new(buffers), handles: (0..buffers).map(|_| None).collect(), count: 0 }
    }

    pub(crate) fn ring(&self) -> &BufRing {
        &self.ring
    }

    /// How many buffers the kernel has, as far as completions were seen.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    #[inline]
    pub(crate) fn lend(&mut self, frames: &Frames, buffer: LocalBuffer) {
        let index = frames.index(&buffer);
        let before = self.handles[usize::from(index)].replace(buffer);
        assert!(before.is_none(), "buffer {index} was lent twice");
        self.count += 1;
        // A buffer has at most 1 GiB and some headers (`IoConfig::check`).
        self.ring.provide(index, frames.address(index), frames.buffer_bytes() as u32);
    }

    /// Takes back the buffer that a completion names.
    #[inline]
    pub(crate) fn collect(&mut self, index: u16) -> LocalBuffer {
        let Some(buffer) = self.handles.get_mut(usize::from(index)).and_then(Option::take) else {
            panic!("a completion names buffer {index}, which the kernel was not lent");
        };
        self.count -= 1;
        buffer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_laid_out_as_the_kernel_reads_them() {
        assert_eq!(size_of::<Entry>(), 16);
        assert_eq!(std::mem::offset_of!(Entry, bytes), 8);
        assert_eq!(std::mem::offset_of!(Entry, buffer), 12);
        assert_eq!(std::mem::offset_of!(Entry, tail), 14);
        assert_eq!(BufRing::new(8192).address() % 65536, 0);
    }

    #[test]
    fn the_tail_counts_on_when_the_entries_wrap() {
        let mut ring = BufRing::new(2);
        let address = NonNull::dangling();
        for buffer in [0, 1, 7] {
            ring.provide(buffer, address, 100);
        }
        assert_eq!(ring.chunks[0].0[0].buffer.load(Ordering::Relaxed), 7);
        assert_eq!(ring.chunks[0].0[1].buffer.load(Ordering::Relaxed), 1);
        assert_eq!(ring.chunks[0].0[0].tail.load(Ordering::Relaxed), 3);
    }
}
