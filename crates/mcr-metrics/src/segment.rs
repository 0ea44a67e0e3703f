//! The shared memory itself: made, handed on, mapped, cleared.

use std::{
    ffi::c_void,
    fs::File,
    io,
    num::NonZeroUsize,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    ptr::NonNull,
    sync::atomic::Ordering::Relaxed,
};

use mcr_proto::plan::{InputSlot, OutputSlot, RuleSlot};
use nix::{
    fcntl::{FcntlArg, SealFlag, fcntl},
    sys::{
        memfd::{MFdFlags, memfd_create},
        mman::{MapFlags, ProtFlags, mmap, munmap},
        stat::fstat,
    },
    unistd::ftruncate,
};

use crate::{
    LatencyCounters,
    layout::{
        Header, InputCounters, LAYOUT, Layout, MAGIC, OutputCounters, RuleCounters, SEGMENT_BYTES,
    },
};

/// What a mapping may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Counting; the process that holds it is a writer.
    Write,
    /// Looking.
    Read,
}

/// Why a descriptor could not be used as a segment.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// Another size than this build's.
    #[error("the segment has {got} bytes, this build expects {SEGMENT_BYTES}; restart the daemon")]
    Size {
        /// Its size.
        got: u64,
    },
    /// It could shrink under the mapping.
    #[error("the segment is not sealed against resizing")]
    Unsealed,
    /// Not a segment, or another build's.
    #[error("the segment was made by another build; restart the daemon")]
    Layout,
    /// The kernel refused.
    #[error("{call} failed")]
    Io {
        /// Which call.
        call: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// One worker's counters, mapped.
#[derive(Debug)]
pub struct Segment {
    // The mapping stays valid without the descriptor; it is kept to hand it on.
    fd: OwnedFd,
    layout: NonNull<Layout>,
    access: Access,
}

// SAFETY: the mapping is memory like any other, not bound to a thread, and everything in it is an atomic.
unsafe impl Send for Segment {}
// SAFETY: as above; shared access goes through atomics only.
unsafe impl Sync for Segment {}

impl Segment {
    /// Makes a segment, all zero, writable, sealed against resizing.
    ///
    /// # Errors
    /// [`AttachError::Io`] where the kernel has no memory or descriptors left.
    pub fn create() -> Result<Self, AttachError> {
        let fd = memfd_create(c"mcr-counters", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)
            .map_err(failed("memfd_create"))?;
        ftruncate(&fd, SEGMENT_BYTES as libc::off_t).map_err(failed("ftruncate"))?;
        fcntl(&fd, FcntlArg::F_ADD_SEALS(SIZE_SEALS | SealFlag::F_SEAL_SEAL)).map_err(failed("fcntl"))?;
        let segment = Self { layout: map(&fd, Access::Write)?, fd, access: Access::Write };
        segment.layout().header.magic.store(MAGIC, Relaxed);
        segment.layout().header.layout.store(LAYOUT, Relaxed);
        Ok(segment)
    }

    /// Maps a segment that another process made.
    ///
    /// # Errors
    /// A descriptor that is not a segment of this build, or that could change its size (reads would then be fatal).
    pub fn attach(fd: OwnedFd, access: Access) -> Result<Self, AttachError> {
        let bytes = fstat(&fd).map_err(failed("fstat"))?.st_size;
        if bytes != SEGMENT_BYTES as libc::off_t {
            return Err(AttachError::Size { got: u64::try_from(bytes).unwrap_or(0) });
        }
        let seals = fcntl(&fd, FcntlArg::F_GET_SEALS).map_err(|_| AttachError::Unsealed)?;
        if !SealFlag::from_bits_retain(seals).contains(SIZE_SEALS) {
            return Err(AttachError::Unsealed);
        }
        let segment = Self { layout: map(&fd, access)?, fd, access };
        let header = &segment.layout().header;
        if header.magic.load(Relaxed) != MAGIC || header.layout.load(Relaxed) != LAYOUT {
            return Err(AttachError::Layout);
        }
        Ok(segment)
    }

    /// A descriptor of the same memory through which nobody can write, whatever they map.
    ///
    /// # Errors
    /// The kernel's, as where `/proc` is not mounted.
    pub fn read_only(&self) -> io::Result<OwnedFd> {
        // Opening again is the one way to less access: a duplicate has the rights of its original.
        Ok(File::open(format!("/proc/self/fd/{}", self.fd.as_raw_fd()))?.into())
    }

    /// The first page.
    pub fn header(&self) -> &Header {
        &self.layout().header
    }

    /// An input's counters. Panics if the slot is out of range: slots come from the supervisor, which allots them within it.
    pub fn input(&self, slot: InputSlot) -> &InputCounters {
        &self.layout().inputs[slot.0 as usize]
    }

    /// A rule's counters. Panics as [`Segment::input`] does.
    pub fn rule(&self, slot: RuleSlot) -> &RuleCounters {
        &self.layout().rules[slot.0 as usize]
    }

    /// How long a rule's datagrams took. Panics as [`Segment::input`] does.
    pub fn latency(&self, slot: RuleSlot) -> &LatencyCounters {
        &self.layout().latencies[slot.0 as usize]
    }

    /// An output's counters. Panics as [`Segment::input`] does.
    pub fn output(&self, slot: OutputSlot) -> &OutputCounters {
        &self.layout().outputs[slot.0 as usize]
    }

    /// Zeroes a rule's counters, for a slot that no worker uses.
    pub fn clear_rule(&self, slot: RuleSlot) {
        let rule = self.rule(slot);
        if rule.is_timed() {
            self.latency(slot).counters().for_each(|counter| self.clear(counter));
        }
        rule.counters().into_iter().for_each(|counter| self.clear(counter));
    }

    /// Zeroes an output's counters, for a slot that no worker uses.
    pub fn clear_output(&self, slot: OutputSlot) {
        let OutputCounters { copies, bytes, drops, send_errors } = self.output(slot);
        for counter in [copies, bytes].into_iter().chain(drops).chain(send_errors.places()) {
            self.clear(counter);
        }
    }

    fn clear(&self, counter: &crate::Counter) {
        // Reading first keeps pages that were never written out of memory.
        if counter.get() != 0 {
            counter.set(0);
        }
    }

    fn layout(&self) -> &Layout {
        // SAFETY: `layout` points to a mapping of SEGMENT_BYTES = size_of::<Layout>() bytes, page-aligned, which covers
        // Layout's 4,096; it lives until drop; sealed against shrinking, so no page can vanish; every field is an atomic,
        // valid for any bit pattern, so writers in other processes are no data race.
        unsafe { self.layout.as_ref() }
    }

    /// What this mapping may be used for. Writing through a [`Access::Read`] one faults.
    pub fn access(&self) -> Access {
        self.access
    }
}

impl AsFd for Segment {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        // SAFETY: `layout` is the start of a mapping of SEGMENT_BYTES that only this value owns; no borrow outlives it.
        // Failure would mean it was no mapping, which the constructor rules out.
        let _ = unsafe { munmap(self.layout.cast::<c_void>(), SEGMENT_BYTES) };
    }
}

const SIZE_SEALS: SealFlag = SealFlag::F_SEAL_SHRINK.union(SealFlag::F_SEAL_GROW);
const LENGTH: NonZeroUsize = match NonZeroUsize::new(SEGMENT_BYTES) {
    Some(length) => length,
    None => unreachable!(),
};

fn map(fd: &OwnedFd, access: Access) -> Result<NonNull<Layout>, AttachError> {
    let protection = match access {
        Access::Write => ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
        Access::Read => ProtFlags::PROT_READ,
    };
    // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing that exists.
    let address = unsafe { mmap(None, LENGTH, protection, MapFlags::MAP_SHARED, fd, 0) };
    Ok(address.map_err(failed("mmap"))?.cast())
}

fn failed(call: &'static str) -> impl Fn(nix::Error) -> AttachError {
    move |errno| AttachError::Io { call, source: errno.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_mapping_counts_another_reads() {
        let writer = Segment::create().expect("memory");
        let reader = Segment::attach(writer.read_only().expect("/proc"), Access::Read).expect("own segment");
        writer.rule(RuleSlot(65_535)).datagrams.add(3);
        writer.output(OutputSlot(262_143)).send_errors.add(libc::ENETUNREACH, 2);
        assert_eq!(reader.rule(RuleSlot(65_535)).datagrams.get(), 3);
        let sum = crate::sum_output(&[reader], OutputSlot(262_143));
        assert_eq!(sum.send_errors, [(libc::ENETUNREACH, 2)].into());
    }

    #[test]
    fn a_read_only_descriptor_cannot_be_mapped_for_writing() {
        let writer = Segment::create().expect("memory");
        let fd = writer.read_only().expect("/proc");
        assert!(matches!(Segment::attach(fd, Access::Write), Err(AttachError::Io { call: "mmap", .. })));
    }

    #[test]
    fn a_cleared_slot_reads_zero_and_its_neighbours_stay() {
        let segment = Segment::create().expect("memory");
        for slot in 0..3 {
            segment.rule(RuleSlot(slot)).arrived(1, 1, 7);
            segment.latency(RuleSlot(slot)).add(1_000, 1);
            segment.output(OutputSlot(slot)).copies.add(1);
            segment.output(OutputSlot(slot)).send_errors.add(1, 1);
        }
        segment.clear_rule(RuleSlot(1));
        segment.clear_output(OutputSlot(1));
        let rules: Vec<_> = (0..3).map(|slot| segment.rule(RuleSlot(slot)).datagrams.get()).collect();
        let errors: Vec<_> =
            (0..3).map(|slot| segment.output(OutputSlot(slot)).send_errors.counts().count()).collect();
        assert_eq!((rules, errors), (vec![1, 0, 1], vec![1, 0, 1]));
        // Seen again, so that its latencies are looked at.
        segment.rule(RuleSlot(1)).arrived(1, 1, 9);
        let sum = |slot| crate::sum_rule(std::slice::from_ref(&segment), RuleSlot(slot)).first_seen_ns;
        assert_eq!([sum(0), sum(1), sum(2)], [7, 9, 7]);
        let latencies = |slot| crate::sum_latency(std::slice::from_ref(&segment), RuleSlot(slot)).datagrams();
        assert_eq!([latencies(0), latencies(1), latencies(2)], [1, 0, 1]);
    }

    #[test]
    fn a_file_is_not_a_segment() {
        let file = tempfile::tempfile().expect("a file");
        assert!(matches!(Segment::attach(file.into(), Access::Read), Err(AttachError::Size { got: 0 })));
        let file = tempfile::tempfile().expect("a file");
        file.set_len(SEGMENT_BYTES as u64).expect("room");
        assert!(matches!(Segment::attach(file.into(), Access::Read), Err(AttachError::Unsealed)));
    }

    #[test]
    fn untouched_slots_take_no_memory() {
        let segment = Segment::create().expect("memory");
        segment.clear_output(OutputSlot(1000));
        segment.rule(RuleSlot(0)).datagrams.add(1);
        let blocks = fstat(&segment).expect("own descriptor").st_blocks;
        assert!(blocks * 512 <= 4 * 4096, "{blocks} blocks");
    }
}
