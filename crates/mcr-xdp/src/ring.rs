//! One end of one ring: single producer, single consumer, in memory that both share.
//!
//! Two counters run freely through all 32 bits, their difference is what the ring holds; an entry's place is its
//! number modulo the size. The producer writes entries and then stores its counter with Release, the consumer loads
//! that with Acquire before it reads them; the consumer gives room back the same way. The kernel's end does likewise
//! (net/xdp/xsk_queue.h). What an end knows of the other is kept, and asked for anew only when that is not enough.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::map::Map;

/// What the kernel reads and writes in the receive and transmit rings: `struct xdp_desc` of linux/if_xdp.h.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Descriptor {
    pub(crate) address: u64,
    pub(crate) bytes: u32,
    pub(crate) options: u32,
}

/// Where the parts of a ring are in its mapping, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offsets {
    pub(crate) producer: usize,
    pub(crate) consumer: usize,
    pub(crate) flags: usize,
    pub(crate) entries: usize,
}

/// A ring as both of its ends see it.
#[derive(Debug)]
pub(crate) struct Ring<T> {
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    entries: NonNull<T>,
    size: u32,
    /// Keeps the addresses above valid.
    _map: Arc<Map>,
}

// SAFETY: the addresses point into the mapping that the ring holds; the counters are atomics, and an entry is touched only by the
// end whose turn it is, of which there is one on each side (`Producer` and `Consumer` are made once per side and need `&mut`).
unsafe impl<T: Send> Send for Ring<T> {}

impl<T: Copy> Ring<T> {
    /// # Panics
    /// If the parts are outside the mapping, or `size` is not a power of two.
    pub(crate) fn new(map: Arc<Map>, offsets: Offsets, size: u32) -> Self {
        assert!(size.is_power_of_two(), "a ring of {size} entries");
        Self {
            producer: map.at(offsets.producer, 1),
            consumer: map.at(offsets.consumer, 1),
            flags: map.at(offsets.flags, 1),
            entries: map.at(offsets.entries, size as usize),
            size,
            _map: map,
        }
    }

    #[inline]
    fn producer(&self) -> &AtomicU32 {
        // SAFETY: `Map::at` checked range and alignment, the mapping lives as long as self, and all that both sides do with
        // this word is atomic.
        unsafe { self.producer.as_ref() }
    }

    #[inline]
    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as for `producer`.
        unsafe { self.consumer.as_ref() }
    }

    #[inline]
    fn flags(&self) -> &AtomicU32 {
        // SAFETY: as for `producer`.
        unsafe { self.flags.as_ref() }
    }

    #[inline]
    fn entry(&self, number: u32) -> NonNull<T> {
        // SAFETY: the index is below `size`, and `Map::at` checked that `size` entries are inside the mapping.
        unsafe { self.entries.add((number & (self.size - 1)) as usize) }
    }

    /// Whether the other side sleeps and must be woken by a system call.
    #[inline]
    fn needs_wakeup(&self) -> bool {
        self.flags().load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }
}

/// The end that puts entries in.
#[derive(Debug)]
pub(crate) struct Producer<T> {
    ring: Ring<T>,
    /// The number of the next entry; those from the published counter on are written and not yet shown.
    next: u32,
    /// The consumer's counter, as it was when last asked for.
    consumed: u32,
}

impl<T: Copy> Producer<T> {
    pub(crate) fn new(ring: Ring<T>) -> Self {
        let next = ring.producer().load(Ordering::Relaxed);
        let consumed = ring.consumer().load(Ordering::Acquire);
        Self { ring, next, consumed }
    }

    /// Puts an entry in, to be shown by [`Producer::submit`]; false if there is no room.
    #[inline]
    pub(crate) fn push(&mut self, entry: T) -> bool {
        if self.held() >= self.ring.size {
            self.consumed = self.ring.consumer().load(Ordering::Acquire);
            if self.held() >= self.ring.size {
                return false;
            }
        }
        // SAFETY: the entry is inside the mapping (`Ring::entry`), and it is this side's: its number is less than `size` above
        // what the other side has consumed, which the Acquire load orders before this write.
        unsafe { self.ring.entry(self.next).write(entry) };
        self.next = self.next.wrapping_add(1);
        true
    }

    /// Shows what was put in to the other side.
    #[inline]
    pub(crate) fn submit(&mut self) {
        self.ring.producer().store(self.next, Ordering::Release);
    }

    /// How many entries the other side has not consumed, those not shown included; asks for the present state.
    pub(crate) fn pending(&mut self) -> u32 {
        self.consumed = self.ring.consumer().load(Ordering::Acquire);
        self.held().min(self.ring.size)
    }

    #[inline]
    pub(crate) fn needs_wakeup(&self) -> bool {
        self.ring.needs_wakeup()
    }

    #[inline]
    fn held(&self) -> u32 {
        self.next.wrapping_sub(self.consumed)
    }
}

/// The end that takes entries out.
#[derive(Debug)]
pub(crate) struct Consumer<T> {
    ring: Ring<T>,
    /// The number of the next entry; those from the published counter on are read and their room not yet given back.
    next: u32,
    /// The producer's counter, as it was when last asked for.
    produced: u32,
}

impl<T: Copy> Consumer<T> {
    pub(crate) fn new(ring: Ring<T>) -> Self {
        let next = ring.consumer().load(Ordering::Relaxed);
        Self { ring, next, produced: next }
    }

    /// Takes an entry out; its room is given back by [`Consumer::release`]. None if there is none.
    #[inline]
    pub(crate) fn pop(&mut self) -> Option<T> {
        if self.next == self.produced {
            self.produced = self.ring.producer().load(Ordering::Acquire);
            if self.next == self.produced {
                return None;
            }
        }
        // SAFETY: the entry is inside the mapping (`Ring::entry`); the other side wrote it before its Release store of a counter
        // above this number, which the Acquire load has seen, and does not write again before the room is given back. T is
        // made of integers, so that even memory that was never written (zeroed by the kernel) is a value of it.
        let entry = unsafe { self.ring.entry(self.next).read() };
        self.next = self.next.wrapping_add(1);
        Some(entry)
    }

    /// Gives the room of what was taken out back to the other side.
    #[inline]
    pub(crate) fn release(&mut self) {
        self.ring.consumer().store(self.next, Ordering::Release);
    }
}
