//! Loading an object, and giving back what that took.

use aya::{Ebpf, EbpfError, EbpfLoader};

/// Loads an object, with room in maps for so many entries. Its programs are still to be loaded.
pub(crate) fn load(object: &[u8], entries: &[(&str, u32)]) -> Result<Ebpf, EbpfError> {
    let mut loader = EbpfLoader::new();
    // The types of the whole kernel, which the library has read: 20 MiB, and our programs use none of them.
    loader.btf(None);
    for (map, entries_max) in entries {
        loader.map_max_entries(map, *entries_max);
    }
    let loaded = loader.load(object);
    drop(loader);
    give_back_memory();
    loaded
}

/// Freed memory stays with the process otherwise, for months.
fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes a number, at any time (malloc_trim(3)).
    unsafe {
        libc::malloc_trim(0);
    }
}
