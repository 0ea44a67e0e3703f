//! `bpf(2)`: maps and socket filter programs. Knows nothing of what is in them.
//!
//! Invariant: keys and values have the sizes their map was made with, because [`HashMap`] names both types.

use super::Plain;
use std::io;
use std::marker::PhantomData;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

// `enum bpf_cmd`, `enum bpf_map_type`, `enum bpf_prog_type` and flags (linux/bpf.h).
const MAP_CREATE: libc::c_int = 0;
const MAP_UPDATE_ELEM: libc::c_int = 2;
const MAP_DELETE_ELEM: libc::c_int = 3;
const PROG_LOAD: libc::c_int = 5;
const MAP_TYPE_HASH: u32 = 1;
const PROG_TYPE_SOCKET_FILTER: u32 = 1;
/// Elements are allocated one by one: a map that is mostly empty is small.
const NO_PREALLOC: u32 = 1;

/// `struct bpf_insn`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Instruction {
    pub(crate) code: u8,
    /// Destination in the low half, source in the high.
    pub(crate) registers: u8,
    pub(crate) offset: i16,
    pub(crate) immediate: i32,
}

const _: () = assert!(size_of::<Instruction>() == 8);

/// A hash map in the kernel; it goes with the last program and descriptor that uses it.
#[derive(Debug)]
pub(crate) struct HashMap<K, V> {
    fd: OwnedFd,
    types: PhantomData<(K, V)>,
}

/// The parts of `union bpf_attr`, each as far as it is used; the kernel takes what is missing for zero.
#[repr(C)]
struct CreateMap {
    map_type: u32,
    key_bytes: u32,
    value_bytes: u32,
    entries_max: u32,
    flags: u32,
}

#[repr(C)]
struct Element {
    map: u32,
    _pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct LoadProgram {
    program_type: u32,
    instructions: u32,
    code: u64,
    license: u64,
}

impl<K: Plain, V: Plain> HashMap<K, V> {
    pub(crate) fn create(entries_max: u32) -> io::Result<Self> {
        let attributes = CreateMap {
            map_type: MAP_TYPE_HASH,
            key_bytes: size_of::<K>() as u32,
            value_bytes: size_of::<V>() as u32,
            entries_max,
            flags: NO_PREALLOC,
        };
        // SAFETY: MAP_CREATE reads the attributes, which lead nowhere else.
        let result = unsafe { bpf(MAP_CREATE, &attributes) };
        Ok(Self { fd: owned(result)?, types: PhantomData })
    }

    /// Puts a value in place of another, or of none: whoever looks meanwhile sees the one or the other.
    pub(crate) fn put(&self, key: &K, value: &V) -> io::Result<()> {
        let attributes = self.element(key, Some(value));
        // SAFETY: the pointers are those of a key and a value that outlive the call and have the map's sizes, of which the
        // kernel reads so many bytes.
        done(unsafe { bpf(MAP_UPDATE_ELEM, &attributes) })
    }

    /// Takes a value away; that there is none is no error.
    pub(crate) fn remove(&self, key: &K) -> io::Result<()> {
        let attributes = self.element(key, None);
        // SAFETY: as in `put`; no value is read.
        match done(unsafe { bpf(MAP_DELETE_ELEM, &attributes) }) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            other => other,
        }
    }

    fn element(&self, key: &K, value: Option<&V>) -> Element {
        Element {
            map: self.number() as u32,
            _pad: 0,
            key: address(key),
            value: value.map_or(0, address),
            flags: 0,
        }
    }

    /// By which a program names it while it is loaded.
    pub(crate) fn number(&self) -> i32 {
        self.fd.as_raw_fd()
    }
}

/// Loads a socket filter.
pub(crate) fn load_filter(code: &[Instruction]) -> io::Result<OwnedFd> {
    // It calls no function that a licence would forbid.
    let license = c"Dual MIT/GPL";
    let attributes = LoadProgram {
        program_type: PROG_TYPE_SOCKET_FILTER,
        instructions: code.len() as u32,
        code: code.as_ptr().expose_provenance() as u64,
        license: license.as_ptr().expose_provenance() as u64,
    };
    // SAFETY: the pointers are those of a slice of so many instructions and of a terminated string; both outlive the call, which
    // reads them. The kernel checks the program itself.
    owned(unsafe { bpf(PROG_LOAD, &attributes) })
}

/// Puts a loaded filter on a socket, in one step with taking off an earlier one.
pub(crate) fn attach_loaded_filter(fd: BorrowedFd<'_>, program: impl AsFd) -> io::Result<()> {
    super::set_option(fd, libc::SOL_SOCKET, libc::SO_ATTACH_BPF, &program.as_fd().as_raw_fd())
}

fn address<T>(value: &T) -> u64 {
    (&raw const *value).expose_provenance() as u64
}

/// # Safety
/// The attributes must be those of the command, and pointers in them valid for what it reads and writes.
unsafe fn bpf<T>(command: libc::c_int, attributes: &T) -> libc::c_long {
    // SAFETY: pointer and size are those of one value; the rest is the caller's promise.
    unsafe { libc::syscall(libc::SYS_bpf, command, &raw const *attributes, size_of::<T>()) }
}

fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    done(result)?;
    // SAFETY: the kernel has just returned this descriptor to us (closed on exec, as all of bpf(2)), and nobody else knows its
    // number, which fits an int.
    Ok(unsafe { OwnedFd::from_raw_fd(result as libc::c_int) })
}

fn done(result: libc::c_long) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
