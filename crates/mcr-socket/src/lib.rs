#![doc = include_str!("../README.md")]
#![deny(missing_docs)]

mod address;
mod cmsg;
mod error;
pub mod filter;
pub mod join;
mod mark;
pub mod packet;
pub mod raw;
pub mod stamp;
mod sys;
pub mod udp;

pub use address::socket_addr;
pub use error::OpenError;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// Which internet protocol a socket speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6, and IPv6 only: no socket here takes IPv4 through mapped addresses.
    V6,
}

impl Family {
    /// The family of an address.
    pub fn of(address: std::net::IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// Datagrams or frames that the kernel dropped at this socket since it was opened, because its receive buffer was
/// full or its filter refused them (UDP counts both, AF_PACKET the former only).
///
/// Reading does not reset it. The kernel counts in 32 bits and wraps: take differences with `wrapping_sub` on `u32`
/// when a socket may live that long. Reads `SO_MEMINFO` (Linux 4.12), which needs no right.
///
/// # Errors
/// Those of `getsockopt(2)`.
pub fn dropped(fd: impl AsFd) -> io::Result<u64> {
    Ok(u64::from(memory_info(fd.as_fd())?[libc::SK_MEMINFO_DROPS as usize]))
}

/// Bytes of receive buffer that is taken by what waits to be read, in the kernel's measure; 0 means that nothing waits.
///
/// # Errors
/// Those of `getsockopt(2)`.
pub fn queued_bytes(fd: impl AsFd) -> io::Result<u32> {
    Ok(memory_info(fd.as_fd())?[libc::SK_MEMINFO_RMEM_ALLOC as usize])
}

fn memory_info(fd: BorrowedFd<'_>) -> io::Result<[u32; libc::SK_MEMINFO_DROPS as usize + 1]> {
    // `SO_MEMINFO` is missing from the libc crate; the number is that of asm-generic/socket.h.
    const SO_MEMINFO: libc::c_int = 55;
    sys::option(fd, libc::SOL_SOCKET, SO_MEMINFO)
}

/// Bytes of receive buffer the kernel granted, in the measure in which they were asked for (it stores the double).
///
/// Less than was asked for means that `net.core.rmem_max` bounds it and CAP_NET_ADMIN was not there to pass it.
///
/// # Errors
/// Those of `getsockopt(2)`.
pub fn receive_buffer_bytes(fd: impl AsFd) -> io::Result<usize> {
    let doubled: i32 = sys::option(fd.as_fd(), libc::SOL_SOCKET, libc::SO_RCVBUF)?;
    Ok(usize::try_from(doubled).unwrap_or(0) / 2)
}

/// Bytes of send buffer the kernel granted; see [`receive_buffer_bytes`].
///
/// # Errors
/// Those of `getsockopt(2)`.
pub fn send_buffer_bytes(fd: impl AsFd) -> io::Result<usize> {
    let doubled: i32 = sys::option(fd.as_fd(), libc::SOL_SOCKET, libc::SO_SNDBUF)?;
    Ok(usize::try_from(doubled).unwrap_or(0) / 2)
}
