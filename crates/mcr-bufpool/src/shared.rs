//! The pool of many threads: taken by any, given back by any.

use std::slice;

use crate::layout::{Placed, place};
use crate::local::next_pool_id;
use crate::map::Map;
use crate::sync::{ArrayQueue, AtomicU32, AtomicU64, Ordering};
use crate::{Counts, Pages, PoolConfig, PoolError};

/// One buffer of one [`SharedPool`]: neither `Copy` nor `Clone`, given back by value, from any thread.
#[must_use = "a dropped buffer is lost to its pool"]
#[derive(Debug)]
pub struct SharedBuffer {
    pool: u32,
    index: u32,
    class: u8,
}

/// Buffers for many threads. Put it into an `Arc`, or borrow it into scoped threads. Without locks.
#[derive(Debug)]
pub struct SharedPool {
    id: u32,
    classes: Vec<SharedClass>,
    map: Map,
}

#[derive(Debug)]
struct SharedClass {
    placed: Placed,
    free: ArrayQueue<u32>,
    taken: AtomicU64,
    given: AtomicU64,
    empty: AtomicU64,
    out: AtomicU32,
    high_water: AtomicU32,
}

impl SharedPool {
    /// Maps the memory; no page of it is touched.
    pub fn new(config: &PoolConfig) -> Result<Self, PoolError> {
        let (placed, bytes) = place(config)?;
        let map = Map::new(bytes, config.huge_pages)?;
        let classes = placed.into_iter().map(SharedClass::new).collect();
        Ok(Self { id: next_pool_id(), classes, map })
    }

    /// Takes a buffer of the smallest class that holds `bytes`. That class being empty, larger ones are left alone:
    /// they are there for larger datagrams. A size that no class holds is `None` too, and counted nowhere.
    pub fn take(&self, bytes: usize) -> Option<SharedBuffer> {
        let class = self.classes.iter().position(|class| class.placed.bytes >= bytes)?;
        self.take_from(class)
    }

    /// Takes a buffer of one class; `None` if it is empty, which is counted.
    ///
    /// # Panics
    /// If there is no such class.
    #[inline]
    pub fn take_from(&self, class: usize) -> Option<SharedBuffer> {
        let index = self.classes[class].take()?;
        // A pool has at most 256 classes (layout.rs).
        Some(SharedBuffer { pool: self.id, index, class: class as u8 })
    }

    /// Gives a buffer back.
    ///
    /// # Panics
    /// If the buffer is another pool's.
    #[inline]
    pub fn give(&self, buffer: SharedBuffer) {
        self.check(&buffer);
        self.classes[usize::from(buffer.class)].give(buffer.index);
    }

    /// The buffer's bytes, all of them: what its last user left.
    ///
    /// # Panics
    /// If the buffer is another pool's.
    #[inline]
    #[must_use]
    pub fn bytes<'a>(&'a self, buffer: &'a SharedBuffer) -> &'a [u8] {
        let (start, bytes) = self.span(buffer);
        // SAFETY: the span is inside the mapping (`Map::at`), initialised (the kernel zeroes it) and this buffer's
        // alone (layout.rs); the one handle to it is borrowed for 'a, so nobody writes; what an earlier owner wrote
        // happened before, as its index came through the queue; the pool is borrowed too, so it stays mapped.
        unsafe { slice::from_raw_parts(start, bytes) }
    }

    /// The buffer's bytes, for writing. Distinct buffers can be written at the same time.
    ///
    /// # Panics
    /// If the buffer is another pool's.
    #[inline]
    #[must_use]
    #[allow(clippy::mut_from_ref)] // The exclusive borrow is that of the handle, of which there is one per buffer.
    pub fn bytes_mut<'a>(&'a self, buffer: &'a mut SharedBuffer) -> &'a mut [u8] {
        let (start, bytes) = self.span(buffer);
        // SAFETY: as for `bytes`; the one handle is borrowed exclusively for 'a, so no other slice of this buffer exists.
        unsafe { slice::from_raw_parts_mut(start, bytes) }
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

    /// How many buffers of a class could be taken at this moment.
    ///
    /// # Panics
    /// If there is no such class.
    #[must_use]
    pub fn available(&self, class: usize) -> usize {
        self.classes[class].free.len()
    }

    /// How a class was used so far. While other threads work, each count is right but they belong to no common moment.
    ///
    /// # Panics
    /// If there is no such class.
    #[must_use]
    pub fn counts(&self, class: usize) -> Counts {
        self.classes[class].counts()
    }

    /// Which pages the memory has.
    #[must_use]
    pub fn pages(&self) -> Pages {
        self.map.pages()
    }

    #[inline]
    fn check(&self, buffer: &SharedBuffer) {
        assert!(buffer.pool == self.id, "a buffer of pool {} was used with pool {}", buffer.pool, self.id);
    }

    #[inline]
    fn span(&self, buffer: &SharedBuffer) -> (*mut u8, usize) {
        self.check(buffer);
        let placed = &self.classes[usize::from(buffer.class)].placed;
        (self.map.at(placed.offset(buffer.index), placed.bytes).as_ptr(), placed.bytes)
    }
}

impl SharedClass {
    fn new(placed: Placed) -> Self {
        let free = ArrayQueue::new(placed.buffers as usize);
        for index in 0..placed.buffers {
            assert!(free.push(index).is_ok(), "the queue has room for every buffer");
        }
        Self {
            placed,
            free,
            taken: AtomicU64::new(0),
            given: AtomicU64::new(0),
            empty: AtomicU64::new(0),
            out: AtomicU32::new(0),
            high_water: AtomicU32::new(0),
        }
    }

    #[inline]
    fn take(&self) -> Option<u32> {
        let Some(index) = self.free.pop() else {
            self.empty.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        self.taken.fetch_add(1, Ordering::Relaxed);
        let out = self.out.fetch_add(1, Ordering::Relaxed) + 1;
        // Most takes set no record; the plain load keeps them from writing the line.
        if out > self.high_water.load(Ordering::Relaxed) {
            self.high_water.fetch_max(out, Ordering::Relaxed);
        }
        Some(index)
    }

    #[inline]
    fn give(&self, index: u32) {
        // Before the push: after it another thread may already have taken this buffer and counted it.
        self.given.fetch_add(1, Ordering::Relaxed);
        self.out.fetch_sub(1, Ordering::Relaxed);
        assert!(self.free.push(index).is_ok(), "more buffers came back than there are");
    }

    fn counts(&self) -> Counts {
        Counts {
            taken: self.taken.load(Ordering::Relaxed),
            given: self.given.load(Ordering::Relaxed),
            empty: self.empty.load(Ordering::Relaxed),
            high_water: self.high_water.load(Ordering::Relaxed),
        }
    }
}

/// Every order of threads: `cargo xtask loom`.
#[cfg(all(loom, test))]
mod tests {
    use loom::{cell::UnsafeCell, sync::Arc, thread};

    use super::*;

    /// A class of so many buffers, and what stands for their memory: loom fails the test if two threads use one at once, or one
    /// without having seen what the other did.
    struct Watched {
        class: SharedClass,
        memory: Vec<UnsafeCell<u32>>,
    }

    impl Watched {
        fn new(buffers: u32) -> Self {
            let class = SharedClass::new(Placed { start: 0, stride: 64, bytes: 64, buffers });
            Self { class, memory: (0..buffers).map(|_| UnsafeCell::new(0)).collect() }
        }

        /// Takes a buffer, writes to it and gives it back; whether there was one.
        fn use_one(&self, mark: u32) -> bool {
            let Some(index) = self.class.take() else { return false };
            self.memory[index as usize].with_mut(|memory| {
                // SAFETY: the queue gave out this index once, so no other thread is here; loom checks just that.
                unsafe { *memory = mark }
            });
            self.class.give(index);
            true
        }
    }

    fn all_is_back(watched: &Watched, uses: u64, misses: u64, threads: u32) {
        let buffers = watched.memory.len() as u32;
        let Counts { taken, given, empty, high_water } = watched.class.counts();
        assert_eq!((taken, given, empty), (uses, uses, misses));
        assert_eq!(watched.class.free.len(), buffers as usize);
        assert_eq!(watched.class.out.load(Ordering::Relaxed), 0);
        // A buffer that was counted as taken before it was counted as given back would show here.
        assert!((1..=buffers.min(threads)).contains(&high_water), "{high_water} out at a time");
    }

    #[test]
    fn in_every_order_of_threads_a_buffer_has_one_owner_and_the_counts_are_right() {
        loom::model(|| {
            let watched = Arc::new(Watched::new(1));
            let other = {
                let watched = Arc::clone(&watched);
                thread::spawn(move || [watched.use_one(1), watched.use_one(2)])
            };
            let own = [watched.use_one(3), watched.use_one(4)];
            let all = [own, other.join().expect("it does not panic")].concat();
            let uses = all.iter().filter(|used| **used).count() as u64;
            all_is_back(&watched, uses, 4 - uses, 2);
        });
    }

    #[test]
    fn with_a_buffer_for_each_thread_none_ever_finds_the_pool_empty() {
        loom::model(|| {
            let watched = Arc::new(Watched::new(2));
            let others = [1, 2].map(|mark| {
                let watched = Arc::clone(&watched);
                thread::spawn(move || watched.use_one(mark))
            });
            assert!(others.map(|other| other.join().expect("it does not panic")).iter().all(|used| *used));
            all_is_back(&watched, 2, 0, 2);
        });
    }

    #[test]
    fn a_buffer_taken_by_one_thread_and_given_back_by_another_is_whole_for_the_next() {
        loom::model(|| {
            let watched = Arc::new(Watched::new(1));
            let index = watched.class.take().expect("it is full");
            let other = {
                let watched = Arc::clone(&watched);
                thread::spawn(move || {
                    watched.memory[index as usize].with_mut(|memory| {
                        // SAFETY: the index was handed over with the thread, and is used nowhere else until it is given back.
                        unsafe { *memory = 7 }
                    });
                    watched.class.give(index);
                })
            };
            if let Some(again) = watched.class.take() {
                let seen = watched.memory[again as usize].with(|memory| {
                    // SAFETY: as in `use_one`.
                    unsafe { *memory }
                });
                assert_eq!(seen, 7, "what its last user wrote is seen");
                watched.class.give(again);
            }
            other.join().expect("it does not panic");
        });
    }
}
