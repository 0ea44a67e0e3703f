//! The system calls, each behind a safe function.

use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::time::Duration;

/// An option value made of integers only: every bit pattern is a value.
pub(crate) trait Plain: Copy {}
impl Plain for libc::c_int {}
impl Plain for u32 {}
impl Plain for libc::xdp_umem_reg {}
impl Plain for libc::xdp_statistics {}
impl Plain for libc::xdp_options {}
impl Plain for libc::xdp_mmap_offsets {}

pub(crate) fn page_bytes() -> u32 {
    // SAFETY: sysconf takes a number and touches no memory.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u32::try_from(bytes).unwrap_or(4096)
}

pub(crate) fn socket() -> io::Result<OwnedFd> {
    // SAFETY: socket takes numbers and touches no memory.
    let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    check(fd)?;
    // SAFETY: the kernel just made this descriptor for us, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub(crate) fn set<T: Plain>(
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: &T,
) -> io::Result<()> {
    // An option is a few bytes.
    let bytes = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel reads `bytes` bytes from a value that has as many. Of what the value itself points to (XDP_UMEM_REG names
    // memory) the caller keeps account.
    let result = unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, ptr::from_ref(value).cast(), bytes) };
    check(result).map(drop)
}

/// None if the kernel's value is shorter than ours: a kernel that is too old.
fn read<T: Plain>(fd: BorrowedFd<'_>, name: libc::c_int) -> io::Result<Option<T>> {
    let mut value = MaybeUninit::<T>::zeroed();
    let mut bytes = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `bytes` bytes, for which there is room, and says how many it wrote.
    let result = unsafe {
        libc::getsockopt(fd.as_raw_fd(), libc::SOL_XDP, name, value.as_mut_ptr().cast(), &mut bytes)
    };
    check(result)?;
    if (bytes as usize) < size_of::<T>() {
        return Ok(None);
    }
    // SAFETY: every byte is initialised, and T is made of integers (`Plain`).
    Ok(Some(unsafe { value.assume_init() }))
}

pub(crate) fn statistics(fd: BorrowedFd<'_>) -> io::Result<libc::xdp_statistics> {
    read(fd, libc::XDP_STATISTICS)?.ok_or_else(|| io::ErrorKind::Unsupported.into())
}

pub(crate) fn is_zero_copy(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let options: Option<libc::xdp_options> = read(fd, libc::XDP_OPTIONS)?;
    Ok(options.is_some_and(|options| options.flags & libc::XDP_OPTIONS_ZEROCOPY != 0))
}

pub(crate) fn map_offsets(fd: BorrowedFd<'_>) -> io::Result<libc::xdp_mmap_offsets> {
    read(fd, libc::XDP_MMAP_OFFSETS)?.ok_or_else(|| io::ErrorKind::Unsupported.into())
}

pub(crate) fn bind(fd: BorrowedFd<'_>, ifindex: u32, queue: u32, flags: u16) -> io::Result<()> {
    let address = libc::sockaddr_xdp {
        sxdp_family: libc::AF_XDP as u16,
        sxdp_flags: flags,
        sxdp_ifindex: ifindex,
        sxdp_queue_id: queue,
        sxdp_shared_umem_fd: 0,
    };
    let bytes = size_of::<libc::sockaddr_xdp>() as libc::socklen_t;
    // SAFETY: the kernel reads `bytes` bytes from an address that has as many.
    let result = unsafe { libc::bind(fd.as_raw_fd(), ptr::from_ref(&address).cast(), bytes) };
    check(result).map(drop)
}

/// Makes the kernel look at the transmit ring.
pub(crate) fn wake_transmit(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no data and no address: nothing is read.
    let result = unsafe { libc::sendto(fd.as_raw_fd(), ptr::null(), 0, libc::MSG_DONTWAIT, ptr::null(), 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes the driver look at the fill ring.
pub(crate) fn wake_receive(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no room for data or an address: nothing is written.
    let result = unsafe {
        libc::recvfrom(
            fd.as_raw_fd(),
            ptr::null_mut(),
            0,
            libc::MSG_DONTWAIT,
            ptr::null_mut(),
            ptr::null_mut(),
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Waits until there is something to receive; false after `timeout`, or a signal.
pub(crate) fn wait_readable(fd: BorrowedFd<'_>, timeout: Option<Duration>) -> io::Result<bool> {
    let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let timeout = timeout.map(|timeout| libc::timespec {
        tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    });
    let timeout = timeout.as_ref().map_or(ptr::null(), ptr::from_ref);
    // SAFETY: one pollfd is read and written, one timespec or none is read; both outlive the call.
    match check(unsafe { libc::ppoll(&mut poll, 1, timeout, ptr::null()) }) {
        Ok(ready) => Ok(ready > 0),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
        Err(error) => Err(error),
    }
}

/// Has the processor fetch the cache line of an address for writing, if it has a way to be told.
#[inline]
pub(crate) fn prefetch(address: ptr::NonNull<u8>) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_ET0, _mm_prefetch};
        // SAFETY: a prefetch reads and writes nothing that a program can see, and faults at no address. x86-64 has SSE.
        unsafe { _mm_prefetch::<_MM_HINT_ET0>(address.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// `struct ethtool_channels` of linux/ethtool.h.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Channels {
    cmd: u32,
    max_rx: u32,
    max_tx: u32,
    max_other: u32,
    max_combined: u32,
    pub(crate) rx_count: u32,
    tx_count: u32,
    other_count: u32,
    pub(crate) combined_count: u32,
}

/// ETHTOOL_GCHANNELS of linux/ethtool.h.
const GET_CHANNELS: u32 = 0x3c;
/// SIOCETHTOOL of linux/sockios.h.
const SIOCETHTOOL: u32 = 0x8946;

/// What channels an interface has.
pub(crate) fn channels(interface: &CStr) -> io::Result<Channels> {
    let mut channels = Channels { cmd: GET_CHANNELS, ..Channels::default() };
    ethtool(interface, &mut channels)?;
    Ok(channels)
}

/// `struct ethtool_value` of linux/ethtool.h.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Value {
    cmd: u32,
    data: u32,
}

/// ETHTOOL_GFLAGS of linux/ethtool.h.
const GET_FLAGS: u32 = 0x25;

/// The switches of an interface, as ETH_FLAG_ values of linux/ethtool.h.
pub(crate) fn flags(interface: &CStr) -> io::Result<u32> {
    let mut flags = Value { cmd: GET_FLAGS, data: 0 };
    ethtool(interface, &mut flags)?;
    Ok(flags.data)
}

/// What an ethtool request is told in: a structure of integers that begins with the request.
trait Request: Copy {}
impl Request for Channels {}
impl Request for Value {}

/// Asks the driver of an interface of the calling thread's namespace.
fn ethtool<T: Request>(interface: &CStr, told: &mut T) -> io::Result<()> {
    // SAFETY: socket takes numbers and touches no memory.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    check(fd)?;
    // SAFETY: the kernel just made this descriptor for us, and nobody else knows of it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: an ifreq is integers, an array of them, or a pointer, all of which may be zero.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let name = interface.to_bytes_with_nul();
    if name.len() > request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name) {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = ptr::from_mut(told).cast();
    // SAFETY: the kernel reads an ifreq with a name that ends, and writes what it points to, which is the structure that belongs to the request
    // in its first word (`Request`); both outlive the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), SIOCETHTOOL as _, &mut request) }).map(drop)
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
