//! Memory that processes share: made, sealed, handed on, mapped. What lies in it is the business of others; all of it must be atomics.

use std::{
    ffi::{CStr, c_void},
    fs::File,
    io,
    num::NonZeroUsize,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    ptr::NonNull,
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

/// What a mapping may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Counting; the process that holds it is a writer.
    Write,
    /// Looking.
    Read,
}

/// Why a descriptor could not be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// Another size than this build's.
    #[error("the memory has {got} bytes, this build expects {want}; restart the daemon")]
    Size {
        /// Its size.
        got: u64,
        /// What was expected.
        want: usize,
    },
    /// It could shrink under the mapping.
    #[error("the memory is not sealed against resizing")]
    Unsealed,
    /// Not counters, or another build's.
    #[error("the memory was made by another build; restart the daemon")]
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

const SIZE_SEALS: SealFlag = SealFlag::F_SEAL_SHRINK.union(SealFlag::F_SEAL_GROW);

/// So many bytes of shared memory, page-aligned, at one place until drop. They cannot become fewer, so no page can vanish.
#[derive(Debug)]
pub(crate) struct Mapping {
    // The mapping stays valid without the descriptor; it is kept to hand it on.
    fd: OwnedFd,
    start: NonNull<c_void>,
    bytes: NonZeroUsize,
    access: Access,
}

// SAFETY: the mapping is memory like any other, not bound to a thread; this type does not read or write it.
unsafe impl Send for Mapping {}
// SAFETY: as above; whoever gives it a type sees to it that all of it is atomics (the module's head).
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Makes so many bytes, all zero, writable, sealed against resizing. Panics if there are none.
    pub(crate) fn create(name: &CStr, bytes: usize) -> Result<Self, AttachError> {
        let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
        let fd = memfd_create(name, flags).map_err(failed("memfd_create"))?;
        ftruncate(&fd, bytes as libc::off_t).map_err(failed("ftruncate"))?;
        fcntl(&fd, FcntlArg::F_ADD_SEALS(SIZE_SEALS | SealFlag::F_SEAL_SEAL)).map_err(failed("fcntl"))?;
        Self::map(fd, bytes, Access::Write)
    }

    /// Maps what another process made. Refuses another size, and what could change its size: reads would then be fatal.
    pub(crate) fn attach(fd: OwnedFd, bytes: usize, access: Access) -> Result<Self, AttachError> {
        let got = fstat(&fd).map_err(failed("fstat"))?.st_size;
        if got != bytes as libc::off_t {
            return Err(AttachError::Size { got: u64::try_from(got).unwrap_or(0), want: bytes });
        }
        let seals = fcntl(&fd, FcntlArg::F_GET_SEALS).map_err(|_| AttachError::Unsealed)?;
        if !SealFlag::from_bits_retain(seals).contains(SIZE_SEALS) {
            return Err(AttachError::Unsealed);
        }
        Self::map(fd, bytes, access)
    }

    fn map(fd: OwnedFd, bytes: usize, access: Access) -> Result<Self, AttachError> {
        let bytes = NonZeroUsize::new(bytes).unwrap_or_else(|| panic!("a mapping of nothing"));
        let protection = match access {
            Access::Write => ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
            Access::Read => ProtFlags::PROT_READ,
        };
        // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing that exists.
        let start = unsafe { mmap(None, bytes, protection, MapFlags::MAP_SHARED, &fd, 0) };
        Ok(Self { start: start.map_err(failed("mmap"))?, fd, bytes, access })
    }

    /// A descriptor of the same memory through which nobody can write, whatever they map.
    pub(crate) fn read_only(&self) -> io::Result<OwnedFd> {
        // Opening again is the one way to less access: a duplicate has the rights of its original.
        Ok(File::open(format!("/proc/self/fd/{}", self.fd.as_raw_fd()))?.into())
    }

    /// Where it starts; valid for as long as the mapping is borrowed.
    #[inline]
    pub(crate) fn start(&self) -> NonNull<c_void> {
        self.start
    }

    /// What it may be used for.
    pub(crate) fn access(&self) -> Access {
        self.access
    }
}

impl AsFd for Mapping {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `start` is that of a mapping of so many bytes that only this value owns; no borrow outlives it.
        // Failure would mean it was no mapping, which the constructors rule out.
        let _ = unsafe { munmap(self.start, self.bytes.get()) };
    }
}

fn failed(call: &'static str) -> impl Fn(nix::Error) -> AttachError {
    move |errno| AttachError::Io { call, source: errno.into() }
}
