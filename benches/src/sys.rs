//! System calls that have no safe wrapper: signal handlers, socket options that are C structures, the address of a packet
//! socket. The only unsafe code of the program beside `bpf`.

#![allow(unsafe_code)]

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use nix::{
    errno::Errno,
    sys::{
        signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction},
        socket::{AddressFamily, SockFlag, SockType, socket},
    },
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

/// A packet socket that sends by an interface and receives nothing (protocol 0, packet(7)).
pub(crate) fn packet_sender(ifindex: u32) -> io::Result<OwnedFd> {
    packet_socket(ifindex, 0)
}

/// A packet socket that sends by an interface and receives frames of a protocol from it.
pub(crate) fn packet_socket(ifindex: u32, protocol: u16) -> io::Result<OwnedFd> {
    let fd = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: protocol.to_be(),
        sll_ifindex: i32::try_from(ifindex).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let bytes = size_of_val(&address) as libc::socklen_t;
    // SAFETY: `address` is a whole sockaddr_ll of `bytes` bytes, and the kernel reads no more than those and keeps no
    // reference to it; `fd` is open, for it is owned here.
    let result = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), bytes) };
    Errno::result(result)?;
    Ok(fd)
}
