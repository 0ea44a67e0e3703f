//! The system calls of this crate, each behind a safe function. All unsafe code of the crate is here.
//!
//! Knows nothing of what the options mean. Invariant: a descriptor is owned from the moment the kernel returns it.

pub(crate) mod bpf;

use crate::address::Storage;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// A type whose every bit pattern is a value and which holds no pointer, so that the kernel may read or write it.
///
/// # Safety
/// Implement it only for such types.
pub(crate) unsafe trait Plain: Copy + 'static {
    /// The value of all zero bits.
    const ZERO: Self;
}

// SAFETY: integers have no invalid bit pattern and are no pointers.
unsafe impl Plain for i32 {
    const ZERO: Self = 0;
}

// SAFETY: an array of integers is integers side by side, without padding.
unsafe impl<const N: usize> Plain for [u32; N] {
    const ZERO: Self = [0; N];
}

/// `struct ip_mreqn`, whose address is given in network order.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct MulticastInterface {
    pub(crate) group: u32,
    pub(crate) address: u32,
    pub(crate) ifindex: u32,
}

// SAFETY: three integers of one size, no padding, no pointer.
unsafe impl Plain for MulticastInterface {
    const ZERO: Self = Self { group: 0, address: 0, ifindex: 0 };
}

/// `struct group_req` (RFC 3678, section 5.1).
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct GroupRequest {
    pub(crate) ifindex: u32,
    pub(crate) group: Storage,
}

// SAFETY: an integer and an array of bytes; the kernel does not look at the padding between them.
unsafe impl Plain for GroupRequest {
    const ZERO: Self = Self { ifindex: 0, group: Storage::ZERO };
}

/// `struct group_source_req` (RFC 3678, section 5.1).
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct GroupSourceRequest {
    pub(crate) ifindex: u32,
    pub(crate) group: Storage,
    pub(crate) source: Storage,
}

// SAFETY: an integer and two arrays of bytes; the kernel does not look at the padding between them.
unsafe impl Plain for GroupSourceRequest {
    const ZERO: Self = Self { ifindex: 0, group: Storage::ZERO, source: Storage::ZERO };
}

// The layouts the kernel expects; a mistake here would be read past the end.
const _: () = assert!(size_of::<GroupRequest>() == size_of::<libc::group_req>());
const _: () = assert!(size_of::<GroupSourceRequest>() == size_of::<libc::group_source_req>());
const _: () = assert!(size_of::<MulticastInterface>() == size_of::<libc::ip_mreqn>());

/// `socket(2)`, always non-blocking and closed on exec.
pub(crate) fn socket(domain: libc::c_int, kind: libc::c_int, protocol: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: takes three integers and touches no memory of ours.
    let fd = unsafe { libc::socket(domain, kind | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, protocol) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just returned this descriptor to us and nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `bind(2)` to the bytes of a socket address.
pub(crate) fn bind(fd: BorrowedFd<'_>, address: &[u8]) -> io::Result<()> {
    let bytes = address.len() as libc::socklen_t;
    // SAFETY: pointer and length are those of one slice, which outlives the call; the kernel copies byte by byte, so
    // alignment does not matter.
    let result = unsafe { libc::bind(fd.as_raw_fd(), address.as_ptr().cast(), bytes) };
    done(result)
}

/// `setsockopt(2)`.
pub(crate) fn set_option<T: Plain>(
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: &T,
) -> io::Result<()> {
    let bytes = size_of::<T>() as libc::socklen_t;
    // SAFETY: pointer and length are those of one value, which outlives the call and, being `Plain`, leads nowhere else.
    let result = unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const *value).cast(), bytes) };
    done(result)
}

/// `getsockopt(2)`; what the kernel does not write stays zero.
pub(crate) fn option<T: Plain>(fd: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int) -> io::Result<T> {
    let mut value = T::ZERO;
    let mut bytes = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `bytes` bytes into a value of that size, and any bytes are a valid `Plain`.
    let result =
        unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut bytes) };
    done(result).map(|()| value)
}

/// Attaches a classic BPF program, in one step with taking off an earlier one.
pub(crate) fn attach_filter(fd: BorrowedFd<'_>, program: &[libc::sock_filter]) -> io::Result<()> {
    let Ok(len) = u16::try_from(program.len()) else {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    };
    // The kernel's struct has a mutable pointer and only reads through it (sk_attach_filter).
    let program = libc::sock_fprog { len, filter: program.as_ptr().cast_mut() };
    let bytes = size_of::<libc::sock_fprog>() as libc::socklen_t;
    // SAFETY: `program` points at `len` instructions of a slice that outlives the call; the kernel copies them.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            bytes,
        )
    };
    done(result)
}

/// The MTU of the interface of that name (SIOCGIFMTU of netdevice(7)).
pub(crate) fn mtu(fd: BorrowedFd<'_>, ifname: &str) -> io::Result<u32> {
    let mut name = [0; libc::IFNAMSIZ];
    // Of the bytes one must remain 0.
    if ifname.len() >= name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (to, from) in name.iter_mut().zip(ifname.bytes()) {
        *to = from as libc::c_char;
    }
    let mut request = libc::ifreq { ifr_name: name, ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_mtu: 0 } };
    // SAFETY: SIOCGIFMTU reads and writes one struct ifreq, which outlives the call.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::SIOCGIFMTU as _, &raw mut request) };
    done(result)?;
    // SAFETY: on success the kernel has written this member, and any bytes are an integer.
    let mtu = unsafe { request.ifr_ifru.ifru_mtu };
    Ok(u32::try_from(mtu).unwrap_or(0))
}

/// Whether `poll(2)` says POLLIN, now.
pub(crate) fn is_readable(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let mut polled = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one pollfd, which outlives the call; a timeout of 0 does not wait.
    let result = unsafe { libc::poll(&raw mut polled, 1, 0) };
    done(result).map(|()| polled.revents & libc::POLLIN != 0)
}

fn done(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
