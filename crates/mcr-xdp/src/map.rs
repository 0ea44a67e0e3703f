//! One shared mapping, unmapped on drop. It hands out addresses; who may use which bytes is for the rings to say.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};

#[derive(Debug)]
pub(crate) struct Map {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: Map owns its mapping as Box<[u8]> owns its memory and only gives out addresses.
unsafe impl Send for Map {}
// SAFETY: as for Send; a shared Map offers nothing that writes.
unsafe impl Sync for Map {}

impl Map {
    /// Maps `bytes` of a file or socket from `offset`, every page present.
    pub(crate) fn of(fd: BorrowedFd<'_>, bytes: usize, offset: u64) -> io::Result<Self> {
        let offset = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        Self::new(bytes, libc::MAP_SHARED | libc::MAP_POPULATE, fd.as_raw_fd(), offset)
    }

    /// Maps `bytes` of zeroed memory of this process.
    pub(crate) fn anonymous(bytes: usize) -> io::Result<Self> {
        Self::new(bytes, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
    }

    /// The address of `count` values of T at `offset`.
    ///
    /// # Panics
    /// If they are not inside the mapping, or not aligned.
    pub(crate) fn at<T>(&self, offset: usize, count: usize) -> NonNull<T> {
        let end = count.checked_mul(size_of::<T>()).and_then(|bytes| bytes.checked_add(offset));
        assert!(end.is_some_and(|end| end <= self.bytes), "outside the mapping");
        assert!(offset.is_multiple_of(align_of::<T>()), "not aligned");
        // SAFETY: offset is at most `bytes`, so the result is inside or one past the one mapping that base points to.
        unsafe { self.base.add(offset) }.cast()
    }

    fn new(bytes: usize, flags: libc::c_int, fd: libc::c_int, offset: libc::off_t) -> io::Result<Self> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: without MAP_FIXED the kernel picks an unused range, so no existing memory is affected.
        let address = unsafe { libc::mmap(ptr::null_mut(), bytes, access, flags, fd, offset) };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base =
            NonNull::new(address.cast()).ok_or_else(|| io::Error::other("the kernel mapped at address 0"))?;
        Ok(Self { base, bytes })
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: base and bytes are those of the mapping made in `new`, which is unmapped nowhere else; whoever has an address
        // inside it holds this Map as well (`Arc`).
        let result = unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
        debug_assert_eq!(result, 0, "munmap of our own mapping");
    }
}
