//! The two system calls that have no safe wrapper: signal handlers, and socket options of multicast routing. The only
//! unsafe code of the program.

#![allow(unsafe_code)]

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use nix::{
    errno::Errno,
    sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction},
};

/// Set by SIGINT, SIGTERM and SIGHUP once [`catch`] was called.
pub(crate) static CAUGHT: AtomicBool = AtomicBool::new(false);

extern "C" fn note(_: libc::c_int) {
    CAUGHT.store(true, Relaxed);
}

/// Has a signal noted in [`CAUGHT`] instead of ending the process.
pub(crate) fn catch(signal: Signal) -> nix::Result<()> {
    let action = SigAction::new(SigHandler::Handler(note), SaFlags::SA_RESTART, SigSet::empty());
    // SAFETY: a handler may make only async-signal-safe calls; `note` stores to an atomic and does nothing else.
    unsafe { sigaction(signal, &action) }.map(drop)
}

/// Sets a socket option whose value is a C structure, given as its bytes.
pub(crate) fn set_option(fd: BorrowedFd<'_>, level: i32, name: i32, value: &[u8]) -> io::Result<()> {
    let bytes =
        libc::socklen_t::try_from(value.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: `value` is readable for `bytes` bytes, which is its length, until the call returns, and the kernel
    // keeps no reference to it; `fd` is open, as BorrowedFd demands. An option the bytes do not fit is refused.
    let result = unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, value.as_ptr().cast(), bytes) };
    Errno::result(result).map(drop).map_err(io::Error::from)
}
