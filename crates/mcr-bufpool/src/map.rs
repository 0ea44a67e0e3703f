//! One anonymous mapping, unmapped on drop. It hands out addresses; who may use which bytes is the pools' business.

use std::io;
use std::ptr::{self, NonNull};

use crate::{HugePages, Pages, PoolError};

/// The size asked for with `MAP_HUGE_2MB`; lengths of such mappings are multiples of it (mmap(2)).
const HUGE_PAGE_BYTES: usize = 2 << 20;

#[derive(Debug)]
pub(crate) struct Map {
    base: NonNull<u8>,
    bytes: usize,
    pages: Pages,
}

// SAFETY: Map owns its mapping as Box<[u8]> owns its memory; it only gives out addresses, and the pools that read
// and write through them hand each byte to one handle at a time.
unsafe impl Send for Map {}
// SAFETY: as for Send; a shared Map offers nothing that writes.
unsafe impl Sync for Map {}

impl Map {
    /// Maps at least `bytes` zeroed bytes; `bytes` is not 0 and well below `usize::MAX` (layout.rs).
    pub(crate) fn new(bytes: usize, wanted: HugePages) -> Result<Self, PoolError> {
        if wanted != HugePages::Never {
            let rounded = bytes.next_multiple_of(HUGE_PAGE_BYTES);
            // Without MAP_NORESERVE the pages are set aside here, so no later touch can fail with SIGBUS.
            if let Ok(base) = map(rounded, libc::MAP_HUGETLB | libc::MAP_HUGE_2MB) {
                return Ok(Self { base, bytes: rounded, pages: Pages::Huge });
            }
        }
        let base = map(bytes, 0).map_err(|source| PoolError::Map { bytes, source })?;
        let mut new = Self { base, bytes, pages: Pages::Normal };
        if wanted != HugePages::ReservedOrTransparent {
            // Where the host makes all memory huge (transparent_hugepage=always), a touched byte would cost 2 MiB. A kernel that refuses has none.
            new.advise(libc::MADV_NOHUGEPAGE);
        } else if new.advise(libc::MADV_HUGEPAGE) {
            new.pages = Pages::Transparent;
        }
        Ok(new)
    }

    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn pages(&self) -> Pages {
        self.pages
    }

    /// The address at `offset`, of which `len` bytes must lie inside the mapping.
    pub(crate) fn at(&self, offset: usize, len: usize) -> NonNull<u8> {
        assert!(offset.checked_add(len).is_some_and(|end| end <= self.bytes), "outside the mapping");
        // SAFETY: offset is at most bytes, so the result is inside or one past the one mapping that base points to.
        unsafe { self.base.add(offset) }
    }

    /// Whether the kernel took the advice, which is one about huge pages.
    fn advise(&self, advice: libc::c_int) -> bool {
        // SAFETY: the range is exactly our own mapping; neither MADV_HUGEPAGE nor MADV_NOHUGEPAGE changes what it holds.
        let result = unsafe { libc::madvise(self.base.as_ptr().cast(), self.bytes, advice) };
        result == 0
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: base and bytes are those of the mapping made in `new`, which is unmapped nowhere else; slices into it
        // borrow the pool that owns this Map and are gone.
        let result = unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
        debug_assert_eq!(result, 0, "munmap of our own mapping");
    }
}

fn map(bytes: usize, extra_flags: libc::c_int) -> io::Result<NonNull<u8>> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | extra_flags;
    // SAFETY: without MAP_FIXED the kernel picks an unused range, so no existing memory is affected.
    let address =
        unsafe { libc::mmap(ptr::null_mut(), bytes, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    if address == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(address.cast()).ok_or_else(|| io::Error::other("the kernel mapped at address 0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_reserved_pages_the_mapping_is_normal_and_zeroed() {
        let map = Map::new(10_000, HugePages::Never).unwrap();
        assert_eq!(map.pages(), Pages::Normal);
        // SAFETY: the first 10,000 bytes are inside the mapping, initialised by the kernel and used by nobody else.
        let bytes = unsafe { std::slice::from_raw_parts(map.at(0, 10_000).as_ptr(), 10_000) };
        assert!(bytes.iter().all(|&byte| byte == 0));
    }

    #[test]
    fn what_was_got_is_said_whatever_was_tried() {
        let reserved = Map::new(4096, HugePages::Reserved).unwrap();
        assert_ne!(reserved.pages(), Pages::Transparent);
        let either = Map::new(4 << 20, HugePages::ReservedOrTransparent).unwrap();
        assert!(either.bytes() >= 4 << 20);
    }

    #[test]
    fn a_mapping_that_cannot_be_is_an_error_with_its_size() {
        let bytes = 1 << 60;
        assert!(
            matches!(Map::new(bytes, HugePages::Never), Err(PoolError::Map { bytes: b, .. }) if b == bytes)
        );
    }
}
