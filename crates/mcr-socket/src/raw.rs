//! Raw IP sockets that send whole IP packets, for a source address that is not of this host.
//!
//! Opens and tunes; builds no header and receives nothing.

use crate::packet::send_buffer;
use crate::udp::{deaf, report_errors, send_by};
use crate::{Family, OpenError, mark, sys};
use std::os::fd::{AsFd, OwnedFd};

/// What a raw output shall be.
#[derive(Clone, Copy, Debug)]
pub struct RawOutput {
    /// What it sends.
    pub family: Family,
    /// The interface to send by, groups and unicast alike; `None` leaves it to the routes.
    pub ifindex: Option<u32>,
    /// Whether listeners on this host get a copy of what is sent to a group.
    pub multicast_loop: bool,
    /// Priority of what it sends in this host's queues (SO_PRIORITY); 0 is the usual. 7 takes CAP_NET_ADMIN and becomes 6 without.
    pub priority: u8,
    /// Send buffer; beyond `net.core.wmem_max` only with CAP_NET_ADMIN. 0 leaves the default.
    pub send_buffer_bytes: usize,
}

/// Opens a raw output: non-blocking, close-on-exec. Every message starts with its IP header; the destination of
/// `sendmsg` decides the route.
///
/// In IPv4 the kernel fills in total length and header checksum, and an id and source that are 0 (raw(7)); in IPv6
/// nothing. It does not fragment: a packet longer than the MTU is refused with EMSGSIZE, one that the device's queue has no room
/// for with ENOBUFS.
///
/// # Errors
/// [`OpenError`]: without CAP_NET_RAW `NotPermitted`.
pub fn open_output(options: &RawOutput) -> Result<OwnedFd, OpenError> {
    let domain = match options.family {
        Family::V4 => libc::AF_INET,
        Family::V6 => libc::AF_INET6,
    };
    let fd = sys::socket(domain, libc::SOCK_RAW, libc::IPPROTO_RAW)
        .map_err(OpenError::socket("a raw IP socket", "CAP_NET_RAW"))?;
    deaf(fd.as_fd())?;
    let set = |level, name, value: bool, call| {
        sys::set_option(fd.as_fd(), level, name, &i32::from(value)).map_err(OpenError::call(call))
    };
    set(libc::SOL_SOCKET, libc::SO_BROADCAST, true, "SO_BROADCAST")?;
    match options.family {
        Family::V4 => {
            set(libc::SOL_IP, libc::IP_HDRINCL, true, "IP_HDRINCL")?;
            set(libc::SOL_IP, libc::IP_MULTICAST_LOOP, options.multicast_loop, "IP_MULTICAST_LOOP")?;
        }
        Family::V6 => {
            set(libc::SOL_IPV6, libc::IPV6_HDRINCL, true, "IPV6_HDRINCL")?;
            set(libc::SOL_IPV6, libc::IPV6_MULTICAST_LOOP, options.multicast_loop, "IPV6_MULTICAST_LOOP")?;
        }
    }
    // No ICMP error finds this socket: it is not of the protocol that such an error is about.
    report_errors(fd.as_fd(), options.family)?;
    mark::priority(fd.as_fd(), options.priority)?;
    send_buffer(fd.as_fd(), options.send_buffer_bytes)?;
    if let Some(ifindex) = options.ifindex {
        send_by(fd.as_fd(), options.family, ifindex)?;
    }
    Ok(fd)
}
