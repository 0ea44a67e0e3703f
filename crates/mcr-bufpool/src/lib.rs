#![doc = include_str!("../README.md")]
#![deny(missing_docs)]
//!
//! # What this crate does not do
//!
//! It never falls back to the heap: a class without a free buffer answers `None`, counts it, and the caller drops
//! the datagram. It does not clear a buffer between two owners, and it does not know what a buffer holds.
//!
//! # Invariants
//!
//! - For every buffer there is at most one handle, made by `take` and consumed by `give`. Handles have no public
//!   constructor and are neither `Copy` nor `Clone`; the slices rest on this alone.
//! - A handle names its pool. Using it with another pool panics, in release builds too.
//! - The mapping neither moves nor shrinks while its pool lives.

#![allow(unexpected_cfgs, reason = "`cargo xtask loom` sets `loom`")]

mod layout;
mod local;
mod map;
mod shared;
mod sync;

use std::io;

pub use local::{LocalBuffer, LocalPool};
pub use shared::{SharedBuffer, SharedPool};

/// One size class of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Class {
    /// The usable bytes of each buffer; rounded up to a multiple of [`LINE_BYTES`].
    pub buffer_bytes: usize,
    /// How many buffers of this class there are.
    pub buffers: u32,
}

/// What a pool is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolConfig {
    /// The classes, by ascending `buffer_bytes`; their position is their number.
    pub classes: Vec<Class>,
    /// Which huge pages to try.
    pub huge_pages: HugePages,
    /// Adds one cache line to the distance of two buffers when that distance would be a multiple of 4 KiB.
    ///
    /// An L1 data cache of 64 sets of 64-byte lines puts addresses that are 4 KiB apart into the same set. Headers
    /// are at the start of each buffer, so the headers of a batch would compete for the ways of a few sets.
    /// Must be off where the user of the memory demands aligned buffers (AF_XDP's aligned mode).
    pub colour: bool,
}

impl PoolConfig {
    /// One class, reserved huge pages if there are any, colouring on.
    #[must_use]
    pub fn one_class(buffer_bytes: usize, buffers: u32) -> Self {
        Self {
            classes: vec![Class { buffer_bytes, buffers }],
            huge_pages: HugePages::default(),
            colour: true,
        }
    }
}

/// Which huge pages to try; normal pages are the silent fallback, [`Pages`] says what came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HugePages {
    /// Normal pages only: memory that is never touched costs nothing.
    Never,
    /// Pages from the reserved pool (`MAP_HUGETLB`, `vm.nr_hugepages`).
    #[default]
    Reserved,
    /// As `Reserved`, else transparent huge pages (`MADV_HUGEPAGE`). A first touch then costs 2 MiB.
    ReservedOrTransparent,
}

/// Which pages a pool got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// Normal pages.
    Normal,
    /// Normal pages that the kernel may merge into huge ones.
    Transparent,
    /// Reserved huge pages.
    Huge,
}

/// How one class of a pool was used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Buffers taken.
    pub taken: u64,
    /// Buffers given back.
    pub given: u64,
    /// Takes that found the class empty.
    pub empty: u64,
    /// The most buffers that were out at one time.
    pub high_water: u32,
}

/// A cache line: class sizes are multiples of it, buffers start on one.
pub const LINE_BYTES: usize = 64;

/// Why a pool could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PoolError {
    /// The config names no class.
    #[error("a pool needs at least one class")]
    NoClass,
    /// A class has no bytes or no buffers.
    #[error("class {class} is empty: it needs at least one buffer of at least one byte")]
    EmptyClass {
        /// The class's number.
        class: usize,
    },
    /// The classes are not in ascending order of their sizes.
    #[error("class {class} is not larger than the class before it")]
    Order {
        /// The class's number.
        class: usize,
    },
    /// The sizes do not fit the address space, or there are more than 256 classes.
    #[error("the pool is larger than the address space, or has more than 256 classes")]
    TooLarge,
    /// The kernel refused the mapping.
    #[error("cannot map {bytes} bytes")]
    Map {
        /// The size of the mapping.
        bytes: usize,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}
