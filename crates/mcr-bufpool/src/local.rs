//! The pool of one thread: plain counters, a stack of free buffers per class.

use std::marker::PhantomData;
use std::ptr::NonNull;
use std::slice;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::layout::{Placed, place};
use crate::map::Map;
use crate::{Counts, Pages, PoolConfig, PoolError};

/// One buffer of one [`LocalPool`]: neither `Copy` nor `Clone`, given back by value, of no use to other threads.
#[must_use = "a dropped buffer is lost to its pool"]
#[derive(Debug)]
pub struct LocalBuffer {
    pool: u32,
    index: u32,
    class: u8,
    one_thread: PhantomData<*const ()>,
}

/// Buffers for one thread; the last one given back is the next one taken, as it is likely still in the cache.
#[derive(Debug)]
pub struct LocalPool {
    id: u32,
    classes: Vec<LocalClass>,
    map: Map,
}

#[derive(Debug)]
struct LocalClass {
    placed: Placed,
    free: Vec<u32>,
    counts: Counts,
}

impl LocalPool {
    /// Maps the memory; no page of it is touched.
    pub fn new(config: &PoolConfig) -> Result<Self, PoolError> {
        let (placed, bytes) = place(config)?;
        let map = Map::new(bytes, config.huge_pages)?;
        let classes = placed.into_iter().map(LocalClass::new).collect();
        Ok(Self { id: next_pool_id(), classes, map })
    }

    /// Takes a buffer of the smallest class that holds `bytes`. That class being empty, larger ones are left alone:
    /// they are there for larger datagrams. A size that no class holds is `None` too, and counted nowhere.
    pub fn take(&mut self, bytes: usize) -> Option<LocalBuffer> {
        let class = self.classes.iter().position(|class| class.placed.bytes >= bytes)?;
        self.take_from(class)
    }

    /// Takes a buffer of one class; `None` if it is empty, which is counted.
    ///
    /// # Panics
    /// If there is no such class.
    #[inline]
    pub fn take_from(&mut self, class: usize) -> Option<LocalBuffer> {
        let index = self.classes[class].take()?;
        // A pool has at most 256 classes (layout.rs).
        Some(LocalBuffer { pool: self.id, index, class: class as u8, one_thread: PhantomData })
    }

    /// Gives a buffer back.
    ///
    /// # Panics
    /// If the buffer is another pool's.
    #[inline]
    pub fn give(&mut self, buffer: LocalBuffer) {
        self.check(&buffer);
        self.classes[usize::from(buffer.class)].give(buffer.index);
    }

    /// The buffer's bytes, all of them: what its last user left.
    ///
    /// # Panics
    /// If the buffer is another pool's.
    #[inline]
    #[must_use]
    pub fn bytes<'a>(&'a self, buffer: &'a LocalBuffer) -> &'a [u8] {
        let (start, bytes) = self.span(buffer);
        // SAFETY: the span is inside the mapping (`Map::at`), initialised (the kernel zeroes it) and this buffer's
        // alone (layout.rs); the one handle to it is borrowed for 'a, so nobody writes; so is the pool, so it stays mapped.
        unsafe { slice::from_raw_parts(start.as_ptr(), bytes) }
    }

    /// The buffer's bytes, for writing. Distinct buffers can be written at the same time.
    ///
    /// # Panics
    /// If the buffer is another pool's.
    #[inline]
    #[must_use]
    #[allow(clippy::mut_from_ref)] // The exclusive borrow is that of the handle, of which there is one per buffer.
    pub fn bytes_mut<'a>(&'a self, buffer: &'a mut LocalBuffer) -> &'a mut [u8] {
        let (start, bytes) = self.span(buffer);
        // SAFETY: as for `bytes`; the one handle is borrowed exclusively for 'a, so no other slice of this buffer exists.
        unsafe { slice::from_raw_parts_mut(start.as_ptr(), bytes) }
    }

    /// The buffer's number within its class: what a provided-buffer ring calls its buffer id.
    ///
    /// # Panics
    /// If the buffer is another pool's.
    #[inline]
    #[must_use]
    pub fn index(&self, buffer: &LocalBuffer) -> u32 {
        self.check(buffer);
        buffer.index
    }

    /// Where a buffer starts. The address stays the same as long as the pool lives. Reading or writing through it is
    /// for whoever owns that buffer's handle, or lets the kernel do it while the handle is set aside.
    ///
    /// # Panics
    /// If there is no such class or no such buffer.
    #[must_use]
    pub fn address(&self, class: usize, index: u32) -> NonNull<u8> {
        let placed = &self.classes[class].placed;
        assert!(
            index < placed.buffers,
            "class {class} has {} buffers, none numbered {index}",
            placed.buffers
        );
        self.map.at(placed.offset(index), placed.bytes)
    }

    /// The start of the mapping, which stays the same as long as the pool lives.
    #[must_use]
    pub fn base(&self) -> NonNull<u8> {
        self.map.base()
    }

    /// The size of the mapping.
    #[must_use]
    pub fn mapped_bytes(&self) -> usize {
        self.map.bytes()
    }

    /// How many classes there are.
    #[must_use]
    pub fn classes(&self) -> usize {
        self.classes.len()
    }

    /// The usable bytes of a class's buffers.
    ///
    /// # Panics
    /// If there is no such class.
    #[must_use]
    pub fn buffer_bytes(&self, class: usize) -> usize {
        self.classes[class].placed.bytes
    }

    /// How many buffers of a class can be taken now.
    ///
    /// # Panics
    /// If there is no such class.
    #[must_use]
    pub fn available(&self, class: usize) -> usize {
        self.classes[class].free.len()
    }

    /// How a class was used so far.
    ///
    /// # Panics
    /// If there is no such class.
    #[must_use]
    pub fn counts(&self, class: usize) -> Counts {
        self.classes[class].counts
    }

    /// Which pages the memory has.
    #[must_use]
    pub fn pages(&self) -> Pages {
        self.map.pages()
    }

    #[inline]
    fn check(&self, buffer: &LocalBuffer) {
        assert!(buffer.pool == self.id, "a buffer of pool {} was used with pool {}", buffer.pool, self.id);
    }

    #[inline]
    fn span(&self, buffer: &LocalBuffer) -> (NonNull<u8>, usize) {
        self.check(buffer);
        let placed = &self.classes[usize::from(buffer.class)].placed;
        (self.map.at(placed.offset(buffer.index), placed.bytes), placed.bytes)
    }
}

impl LocalClass {
    fn new(placed: Placed) -> Self {
        // The lowest index is taken first, so that a pool that is never short touches few pages.
        let free = (0..placed.buffers).rev().collect();
        Self { placed, free, counts: Counts::default() }
    }

    #[inline]
    fn take(&mut self) -> Option<u32> {
        let Some(index) = self.free.pop() else {
            self.counts.empty += 1;
            return None;
        };
        self.counts.taken += 1;
        let out = self.placed.buffers - self.free.len() as u32;
        self.counts.high_water = self.counts.high_water.max(out);
        Some(index)
    }

    #[inline]
    fn give(&mut self, index: u32) {
        self.counts.given += 1;
        self.free.push(index);
    }
}

/// Numbers for pools, never used twice in a process.
pub(crate) fn next_pool_id() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    assert!(id != u32::MAX, "the numbers for pools are used up");
    id
}
