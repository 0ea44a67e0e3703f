//! The memory file that a UMEM lies in: sealed, so that no holder of it can take pages away from another.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::OpenError;
use crate::map::Map;

const NAME: &CStr = c"mcr-umem";
const SEALS: libc::c_int = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
/// Lengths of files of such pages are multiples of their size.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// A memory file of at least `bytes`, and a mapping of it; of reserved huge pages if that is wanted and there are any.
pub(crate) fn create(bytes: usize, huge_pages: bool) -> Result<(OwnedFd, Map), OpenError> {
    if huge_pages {
        let rounded = bytes.next_multiple_of(HUGE_PAGE_BYTES);
        // That there are too few is said by mmap, as that is what sets them aside.
        if let Ok(made) = try_create(rounded, libc::MFD_HUGETLB | libc::MFD_HUGE_2MB) {
            return Ok(made);
        }
    }
    try_create(bytes, 0).map_err(|source| OpenError::Memory { bytes, source })
}

/// Maps the memory that another process made, if it is what it must be.
pub(crate) fn open(memory: BorrowedFd<'_>, bytes: usize) -> Result<Map, OpenError> {
    let failed = |source| OpenError::Memory { bytes, source };
    // SAFETY: F_GET_SEALS takes no argument and touches no memory.
    let seals = unsafe { libc::fcntl(memory.as_raw_fd(), libc::F_GET_SEALS) };
    let sealed = seals >= 0 && seals & libc::F_SEAL_SHRINK != 0;
    let there = file_bytes(memory).map_err(failed)?;
    if !sealed || there < bytes as u64 {
        return Err(OpenError::Unsealed { bytes: there, want: bytes, sealed });
    }
    Map::of(memory, bytes, 0).map_err(failed)
}

fn try_create(bytes: usize, extra_flags: libc::c_uint) -> io::Result<(OwnedFd, Map)> {
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING | extra_flags;
    // SAFETY: the name is a C string that outlives the call.
    let fd = check(unsafe { libc::memfd_create(NAME.as_ptr(), flags) })?;
    // SAFETY: the kernel just made this descriptor for us, and nobody else knows of it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let length = libc::off_t::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: ftruncate touches no memory of ours; the file is not mapped yet.
    check(unsafe { libc::ftruncate(fd.as_raw_fd(), length) })?;
    // SAFETY: F_ADD_SEALS takes an int and touches no memory.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, SEALS) })?;
    let map = Map::of(fd.as_fd(), bytes, 0)?;
    Ok((fd, map))
}

fn file_bytes(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let mut status = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: fstat writes a whole stat to the address given, which has room for one.
    check(unsafe { libc::fstat(fd.as_raw_fd(), status.as_mut_ptr()) })?;
    // SAFETY: fstat succeeded, so it wrote the whole stat.
    let status = unsafe { status.assume_init() };
    Ok(u64::try_from(status.st_size).unwrap_or(0))
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_shared_between_its_mappings_and_cannot_shrink() {
        let (fd, first) = create(8192, true).unwrap();
        let second = open(fd.as_fd(), 8192).unwrap();
        // SAFETY: the byte is inside the mapping, which nobody else uses.
        unsafe { first.at::<u8>(5000, 1).write(7) };
        // SAFETY: as above; the kernel zeroed the mapping, so every byte of it is initialised.
        assert_eq!(unsafe { second.at::<u8>(5000, 1).read() }, 7);
        // SAFETY: no memory is touched unless it succeeds, which is what this test denies.
        assert!(check(unsafe { libc::ftruncate(fd.as_raw_fd(), 0) }).is_err());
    }

    #[test]
    fn memory_that_is_short_or_not_sealed_is_refused() {
        let (fd, _map) = create(4096, false).unwrap();
        assert!(matches!(open(fd.as_fd(), 8192), Err(OpenError::Unsealed { want: 8192, sealed: true, .. })));
        let file = std::fs::File::open("/proc/self/exe").unwrap();
        assert!(matches!(open(file.as_fd(), 4096), Err(OpenError::Unsealed { sealed: false, .. })));
    }
}
