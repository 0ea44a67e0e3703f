//! Many entries of a hash table at a time (BPF_MAP_LOOKUP_BATCH, Linux 5.6), which the loader library does not offer: one call for
//! thousands instead of two for each.

use std::os::fd::{AsRawFd, BorrowedFd};

use aya::Pod;

/// Entries of one call; a bucket of the table must fit.
const ENTRIES: usize = 4096;
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;

/// `union bpf_attr` as far as this command knows it.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// All entries of a hash table of these types, in no order, and about `entries_max` at most: of those that come and go meanwhile some may
/// be missing. What cannot be read is left out.
pub(crate) fn read_all<K: Pod + Default, V: Pod + Default>(
    map: BorrowedFd<'_>,
    entries_max: usize,
) -> Vec<(K, V)> {
    let mut keys = vec![K::default(); ENTRIES];
    let mut values = vec![V::default(); ENTRIES];
    let mut all = Vec::new();
    let (mut at, mut is_first) = (0_u32, true);
    while all.len() < entries_max {
        let mut next = 0_u32;
        let mut batch = Batch {
            in_batch: if is_first { 0 } else { (&raw const at) as u64 },
            out_batch: (&raw mut next) as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: ENTRIES as u32,
            map_fd: map.as_raw_fd() as u32,
            ..Batch::default()
        };
        // SAFETY: `batch` has the size that is said, and lives through the call. Its pointers are to two words (a hash table's places are
        // `u32`) and to two arrays with room for `count` entries of the map's key and value, whose types the caller vouches for and
        // for which every bit pattern is a value (Pod); the kernel writes no more than that.
        let result =
            unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_LOOKUP_BATCH, &raw mut batch, size_of::<Batch>()) };
        let errno = std::io::Error::last_os_error().raw_os_error();
        let is_last = result != 0 && errno == Some(libc::ENOENT);
        if result != 0 && !is_last {
            break;
        }
        let count = (batch.count as usize).min(ENTRIES);
        all.extend(keys[..count].iter().copied().zip(values[..count].iter().copied()));
        if is_last {
            break;
        }
        (at, is_first) = (next, false);
    }
    all
}
