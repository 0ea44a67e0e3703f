//! A UDP socket that only sends.

use super::input::bind_to_interface;
use crate::filter::{Filter, attach};
use crate::mark;
use crate::packet::send_buffer;
use crate::sys::{self, MulticastInterface};
use crate::{Family, OpenError, address};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// What an output socket shall be.
#[derive(Clone, Copy, Debug)]
pub struct UdpOutput {
    /// What it sends.
    pub family: Family,
    /// The interface to send by, groups and unicast alike; `None` leaves it to the routes.
    pub ifindex: Option<u32>,
    /// The source address, and port unless 0; `None` leaves both to the kernel.
    pub source: Option<SocketAddr>,
    /// TTL or hop limit of what it sends.
    pub hop_limit: u8,
    /// Whether listeners on this host get a copy of what is sent to a group.
    pub multicast_loop: bool,
    /// Whether a send fails with ENOBUFS when the queue of the device is full. Otherwise Linux drops the datagram and says that
    /// it was sent. With it, an ICMP error about an earlier datagram fails a later send (`IP_RECVERR`, ip(7)), whichever its
    /// destination: for sockets that send to groups, about which hosts send no ICMP errors (RFC 1122, 3.2.2).
    pub report_full_queue: bool,
    /// DSCP of what it sends, unless a message says otherwise.
    pub dscp: Option<u8>,
    /// Priority of what it sends in this host's queues (SO_PRIORITY); 0 is the usual. 7 takes CAP_NET_ADMIN and becomes 6 without.
    pub priority: u8,
    /// Send buffer; beyond `net.core.wmem_max` only with CAP_NET_ADMIN. 0 leaves the default.
    pub send_buffer_bytes: usize,
}

/// Opens an output: unconnected, non-blocking, close-on-exec; the destination goes with each message, broadcast allowed.
///
/// A datagram longer than the MTU is sent in fragments, by this host or a router, as by any UDP sender (the
/// don't-fragment bit is off). It receives nothing: its filter drops everything.
/// Any number of outputs may have the same source address and port.
///
/// # Errors
/// [`OpenError`].
pub fn open_output(options: &UdpOutput) -> Result<OwnedFd, OpenError> {
    let domain = match options.family {
        Family::V4 => libc::AF_INET,
        Family::V6 => libc::AF_INET6,
    };
    let fd = sys::socket(domain, libc::SOCK_DGRAM, libc::IPPROTO_UDP).map_err(OpenError::call("socket"))?;
    deaf(fd.as_fd())?;
    sys::set_option(fd.as_fd(), libc::SOL_SOCKET, libc::SO_BROADCAST, &1i32)
        .map_err(OpenError::call("SO_BROADCAST"))?;
    match options.family {
        Family::V4 => tune_v4(fd.as_fd(), options)?,
        Family::V6 => tune_v6(fd.as_fd(), options)?,
    }
    if options.report_full_queue {
        report_errors(fd.as_fd(), options.family)?;
    }
    // The DSCP first: setting it sets the priority, too.
    mark::dscp(fd.as_fd(), options.family, options.dscp)?;
    mark::priority(fd.as_fd(), options.priority)?;
    send_buffer(fd.as_fd(), options.send_buffer_bytes)?;
    if let Some(ifindex) = options.ifindex {
        send_by(fd.as_fd(), options.family, ifindex)?;
        bind_to_interface(fd.as_fd(), ifindex)?;
    }
    if let Some(source) = options.source {
        let source = address::scoped(source, options.ifindex.unwrap_or(0));
        if Family::of(source.ip()) != options.family {
            return Err(OpenError::Family { address: source, family: options.family });
        }
        // Other outputs may send from the same port. Never SO_REUSEADDR: an input of the same address would get nothing more.
        if source.port() != 0 {
            sys::set_option(fd.as_fd(), libc::SOL_SOCKET, libc::SO_REUSEPORT, &1i32)
                .map_err(OpenError::call("SO_REUSEPORT"))?;
        }
        sys::bind(fd.as_fd(), address::Storage::new(source).used()).map_err(OpenError::bind(source))?;
    }
    Ok(fd)
}

/// Sees to it that a socket never holds what it was sent: a drop-all filter, and no room.
pub(crate) fn deaf(fd: BorrowedFd<'_>) -> Result<(), OpenError> {
    attach(fd, &Filter::drop_all())?;
    // The kernel makes it the least it allows (SOCK_MIN_RCVBUF).
    sys::set_option(fd, libc::SOL_SOCKET, libc::SO_RCVBUF, &0i32).map_err(OpenError::call("SO_RCVBUF"))
}

/// Without this option a datagram that the device's queue has no room for counts as sent (udp_send_skb and
/// raw_send_hdrinc of the kernel).
pub(crate) fn report_errors(fd: BorrowedFd<'_>, family: Family) -> Result<(), OpenError> {
    let (level, name, call) = match family {
        Family::V4 => (libc::SOL_IP, libc::IP_RECVERR, "IP_RECVERR"),
        Family::V6 => (libc::SOL_IPV6, libc::IPV6_RECVERR, "IPV6_RECVERR"),
    };
    sys::set_option(fd, level, name, &1i32).map_err(OpenError::call(call))
}

/// Chooses the interface without any right. Must come before a bind to the interface, after which the kernel refuses
/// IP_UNICAST_IF (ip(7): EINVAL).
pub(crate) fn send_by(fd: BorrowedFd<'_>, family: Family, ifindex: u32) -> Result<(), OpenError> {
    // Both _UNICAST_IF options take the index in network order.
    let network_order = ifindex.to_be() as i32;
    match family {
        Family::V4 => {
            let request = MulticastInterface { group: 0, address: 0, ifindex };
            sys::set_option(fd, libc::SOL_IP, libc::IP_MULTICAST_IF, &request)
                .map_err(OpenError::interface("IP_MULTICAST_IF", ifindex))?;
            sys::set_option(fd, libc::SOL_IP, libc::IP_UNICAST_IF, &network_order)
                .map_err(OpenError::interface("IP_UNICAST_IF", ifindex))
        }
        Family::V6 => {
            sys::set_option(fd, libc::SOL_IPV6, libc::IPV6_MULTICAST_IF, &(ifindex as i32))
                .map_err(OpenError::interface("IPV6_MULTICAST_IF", ifindex))?;
            sys::set_option(fd, libc::SOL_IPV6, libc::IPV6_UNICAST_IF, &network_order)
                .map_err(OpenError::interface("IPV6_UNICAST_IF", ifindex))
        }
    }
}

fn tune_v4(fd: BorrowedFd<'_>, options: &UdpOutput) -> Result<(), OpenError> {
    let set = |name, value: i32, call| {
        sys::set_option(fd, libc::SOL_IP, name, &value).map_err(OpenError::call(call))
    };
    set(libc::IP_MULTICAST_TTL, i32::from(options.hop_limit), "IP_MULTICAST_TTL")?;
    // ip(7) allows 1 to 255 here; 0 for a group means not leaving the host.
    set(libc::IP_TTL, i32::from(options.hop_limit.max(1)), "IP_TTL")?;
    set(libc::IP_MULTICAST_LOOP, i32::from(options.multicast_loop), "IP_MULTICAST_LOOP")?;
    set(libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT, "IP_MTU_DISCOVER")
}

fn tune_v6(fd: BorrowedFd<'_>, options: &UdpOutput) -> Result<(), OpenError> {
    let set = |name, value: i32, call| {
        sys::set_option(fd, libc::SOL_IPV6, name, &value).map_err(OpenError::call(call))
    };
    set(libc::IPV6_V6ONLY, 1, "IPV6_V6ONLY")?;
    set(libc::IPV6_MULTICAST_HOPS, i32::from(options.hop_limit), "IPV6_MULTICAST_HOPS")?;
    set(libc::IPV6_UNICAST_HOPS, i32::from(options.hop_limit), "IPV6_UNICAST_HOPS")?;
    set(libc::IPV6_MULTICAST_LOOP, i32::from(options.multicast_loop), "IPV6_MULTICAST_LOOP")?;
    set(libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DONT, "IPV6_MTU_DISCOVER")
}
