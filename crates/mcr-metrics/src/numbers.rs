//! A row of numbers in shared memory, for whoever has few counters of its own kind.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    slice,
};

use crate::{Access, AttachError, Counter, mapping::Mapping};

const NUMBER_BYTES: usize = size_of::<Counter>();

/// Numbers that one process writes and others read.
#[derive(Debug)]
pub struct Numbers {
    memory: Mapping,
    count: usize,
}

impl Numbers {
    /// Makes `count` numbers, all zero, writable, sealed against resizing.
    ///
    /// Panics if `count` is 0.
    ///
    /// # Errors
    /// [`AttachError::Io`] where the kernel has no memory or descriptors left.
    pub fn create(count: usize) -> Result<Self, AttachError> {
        Ok(Self { memory: Mapping::create(c"mcr-numbers", count * NUMBER_BYTES)?, count })
    }

    /// Maps numbers that another process made.
    ///
    /// Panics if `count` is 0.
    ///
    /// # Errors
    /// A descriptor of something else than so many numbers, or of what could change its size (reads would then be fatal).
    pub fn attach(fd: OwnedFd, count: usize, access: Access) -> Result<Self, AttachError> {
        Ok(Self { memory: Mapping::attach(fd, count * NUMBER_BYTES, access)?, count })
    }

    /// A descriptor of the same memory through which nobody can write, whatever they map.
    ///
    /// # Errors
    /// The kernel's, as where `/proc` is not mounted.
    pub fn read_only(&self) -> io::Result<OwnedFd> {
        self.memory.read_only()
    }

    /// The numbers. Writing through a mapping for reading faults.
    #[inline]
    pub fn all(&self) -> &[Counter] {
        // SAFETY: the mapping has room for `count` numbers, page-aligned; it lives as long as the borrow of it; it cannot shrink, so no
        // page can vanish; a Counter is an atomic, valid for any bit pattern, so writers elsewhere are no data race.
        unsafe { slice::from_raw_parts(self.memory.start().as_ptr().cast(), self.count) }
    }
}

impl AsFd for Numbers {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }
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
        assert!(matches!(
            Numbers::attach(fd, 11, Access::Read),
            Err(AttachError::Size { got: 80, want: 88 })
        ));
        let file = tempfile::tempfile().expect("a file");
        file.set_len(80).expect("room");
        assert!(matches!(Numbers::attach(file.into(), 10, Access::Read), Err(AttachError::Unsealed)));
    }
}
