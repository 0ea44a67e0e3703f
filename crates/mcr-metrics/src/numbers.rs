//! A row of numbers in shared memory, for whoever has few counters of its own kind.

use std::{
    ffi::c_void,
    fs::File,
    io,
    num::NonZeroUsize,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    ptr::NonNull,
    slice,
};

use nix::{
    fcntl::{FcntlArg, SealFlag, fcntl},
    sys::{
        memfd::{MFdFlags, memfd_create},
        mman::{MapFlags, ProtFlags, mmap, munmap},
        stat::fstat,
    },
    unistd::ftruncate,
};

use crate::{Access, AttachError, Counter};

const SIZE_SEALS: SealFlag = SealFlag::F_SEAL_SHRINK.union(SealFlag::F_SEAL_GROW);
const NUMBER_BYTES: usize = size_of::<Counter>();

/// Numbers that one process writes and others read.
#[derive(Debug)]
pub struct Numbers {
    // The mapping stays valid without the descriptor; it is kept to hand it on.
    fd: OwnedFd,
    first: NonNull<Counter>,
    count: usize,
}

// SAFETY: the mapping is memory like any other, not bound to a thread, and everything in it is an atomic.
unsafe impl Send for Numbers {}
// SAFETY: as above; shared access goes through atomics only.
unsafe impl Sync for Numbers {}

impl Numbers {
    /// Makes `count` numbers, all zero, writable, sealed against resizing.
    ///
    /// Panics if `count` is 0.
    ///
    /// # Errors
    /// [`AttachError::Io`] where the kernel has no memory or descriptors left.
    pub fn create(count: usize) -> Result<Self, AttachError> {
        let fd = memfd_create(c"mcr-numbers", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)
            .map_err(failed("memfd_create"))?;
        ftruncate(&fd, (count * NUMBER_BYTES) as libc::off_t).map_err(failed("ftruncate"))?;
        fcntl(&fd, FcntlArg::F_ADD_SEALS(SIZE_SEALS | SealFlag::F_SEAL_SEAL)).map_err(failed("fcntl"))?;
        Ok(Self { first: map(&fd, count, Access::Write)?, fd, count })
    }

    /// Maps numbers that another process made.
    ///
    /// Panics if `count` is 0.
    ///
    /// # Errors
    /// A descriptor of something else than so many numbers, or of what could change its size (reads would then be fatal).
    pub fn attach(fd: OwnedFd, count: usize, access: Access) -> Result<Self, AttachError> {
        let bytes = fstat(&fd).map_err(failed("fstat"))?.st_size;
        if bytes != (count * NUMBER_BYTES) as libc::off_t {
            return Err(AttachError::Layout);
        }
        let seals = fcntl(&fd, FcntlArg::F_GET_SEALS).map_err(|_| AttachError::Unsealed)?;
        if !SealFlag::from_bits_retain(seals).contains(SIZE_SEALS) {
            return Err(AttachError::Unsealed);
        }
        Ok(Self { first: map(&fd, count, access)?, fd, count })
    }

    /// A descriptor of the same memory through which nobody can write, whatever they map.
    ///
    /// # Errors
    /// The kernel's, as where `/proc` is not mounted.
    pub fn read_only(&self) -> io::Result<OwnedFd> {
        Ok(File::open(format!("/proc/self/fd/{}", self.fd.as_raw_fd()))?.into())
    }

    /// The numbers. Writing through a mapping for reading faults.
    #[inline]
    pub fn all(&self) -> &[Counter] {
        // SAFETY: `first` points to a mapping of `count` numbers, page-aligned; it lives until drop; sealed against shrinking,
        // so no page can vanish; a Counter is an atomic, valid for any bit pattern, so writers elsewhere are no data race.
        unsafe { slice::from_raw_parts(self.first.as_ptr(), self.count) }
    }
}

impl AsFd for Numbers {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Numbers {
    fn drop(&mut self) {
        // SAFETY: `first` is the start of a mapping of so many bytes that only this value owns; no borrow outlives it.
        let _ = unsafe { munmap(self.first.cast::<c_void>(), self.count * NUMBER_BYTES) };
    }
}

fn map(fd: &OwnedFd, count: usize, access: Access) -> Result<NonNull<Counter>, AttachError> {
    let length = NonZeroUsize::new(count * NUMBER_BYTES);
    let length = length.unwrap_or_else(|| panic!("a row of no numbers"));
    let protection = match access {
        Access::Write => ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
        Access::Read => ProtFlags::PROT_READ,
    };
    // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing that exists.
    let address = unsafe { mmap(None, length, protection, MapFlags::MAP_SHARED, fd, 0) };
    Ok(address.map_err(failed("mmap"))?.cast())
}

fn failed(call: &'static str) -> impl Fn(nix::Error) -> AttachError {
    move |errno| AttachError::Io { call, source: errno.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_process_writes_another_reads() {
        let writer = Numbers::create(1000).expect("memory");
        let reader =
            Numbers::attach(writer.read_only().expect("/proc"), 1000, Access::Read).expect("own memory");
        writer.all()[999].add(3);
        writer.all()[0].set(u64::MAX);
        assert_eq!((reader.all()[999].get(), reader.all()[0].get(), reader.all().len()), (3, u64::MAX, 1000));
    }

    #[test]
    fn another_count_or_a_file_is_refused() {
        let numbers = Numbers::create(10).expect("memory");
        let fd = numbers.as_fd().try_clone_to_owned().expect("a descriptor");
        assert!(matches!(Numbers::attach(fd, 11, Access::Read), Err(AttachError::Layout)));
        let file = tempfile::tempfile().expect("a file");
        file.set_len(80).expect("room");
        assert!(matches!(Numbers::attach(file.into(), 10, Access::Read), Err(AttachError::Unsealed)));
    }
}
