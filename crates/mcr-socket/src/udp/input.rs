//! A UDP socket that receives one group or one unicast address.

use crate::join::{self, JoinError};
use crate::packet::receive_buffer;
use crate::{Family, OpenError, address, sys};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// What an input socket shall be.
#[derive(Clone, Copy, Debug)]
pub struct UdpInput<'a> {
    /// The group, or a unicast address of this host; and the port.
    pub address: SocketAddr,
    /// The interface to receive by; 0 for any (a group is then joined where the routes say).
    pub ifindex: u32,
    /// Its name, for messages only.
    pub ifname: &'a str,
    /// The sources to receive a group from; empty is any. Ignored for a unicast address, which the kernel cannot filter
    /// by source: compare the sender yourself.
    pub sources: &'a [IpAddr],
    /// Receive buffer; beyond `net.core.rmem_max` only with CAP_NET_ADMIN. 0 leaves the default.
    pub receive_buffer_bytes: usize,
    /// Let the kernel hand over many datagrams of one flow at once; see
    /// [`UdpControl::segment_bytes`](super::UdpControl::segment_bytes).
    pub gro: bool,
}

/// Opens an input: non-blocking, close-on-exec, bound to exactly that address, with hop limit, TOS, destination and
/// interface on each datagram. It receives its own group only, not what other sockets of the host have joined.
///
/// The address may be shared with other sockets that allow it (`SO_REUSEADDR`): each gets a copy of what is sent to a group or by
/// broadcast. A unicast datagram goes to the one bound last, so a unicast address is shared with those only that have it already; from then
/// on nobody else can bind it, unless you set `SO_REUSEADDR` on this socket again.
///
/// The kernel allows 10 sources a group on one socket (`net.ipv4.igmp_max_msf`; IPv6 64, `net.ipv6.mld_max_msf`).
///
/// # Errors
/// [`OpenError`].
pub fn open_input(options: &UdpInput<'_>) -> Result<OwnedFd, OpenError> {
    let family = Family::of(options.address.ip());
    let domain = match family {
        Family::V4 => libc::AF_INET,
        Family::V6 => libc::AF_INET6,
    };
    let fd = sys::socket(domain, libc::SOCK_DGRAM, libc::IPPROTO_UDP).map_err(OpenError::call("socket"))?;
    tune(fd.as_fd(), family, options)?;
    bind_to_interface(fd.as_fd(), options.ifindex)?;
    let address = address::scoped(options.address, options.ifindex);
    sys::bind(fd.as_fd(), address::Storage::new(address).used()).map_err(OpenError::bind(address))?;
    if goes_to_one(address, options.ifindex) {
        sys::set_option(fd.as_fd(), libc::SOL_SOCKET, libc::SO_REUSEADDR, &0i32)
            .map_err(OpenError::call("SO_REUSEADDR"))?;
    }
    if address.ip().is_multicast() {
        let group = address.ip();
        if options.sources.is_empty() {
            join::join_group(fd.as_fd(), options.ifindex, group)?;
        }
        for source in options.sources {
            join::join_source(fd.as_fd(), options.ifindex, group, *source)?;
        }
    }
    Ok(fd)
}

/// Adds a group, from any source, to a live input that was opened for any address (0.0.0.0 or `::`) of a port: the destination that
/// comes with each datagram tells which it was sent to.
///
/// # Errors
/// [`JoinError`]; its `Limit` means that this socket holds as many as the kernel lets one hold (`net.ipv4.igmp_max_memberships`, 20
/// unless raised).
pub fn add_group(fd: impl AsFd, ifindex: u32, group: IpAddr) -> Result<(), JoinError> {
    join::join_group(fd.as_fd(), ifindex, group)
}

/// Takes a group, with all its sources, from a live input.
///
/// # Errors
/// [`JoinError`]. That the interface is gone, or the group was never added, is no error.
pub fn remove_group(fd: impl AsFd, ifindex: u32, group: IpAddr) -> Result<(), JoinError> {
    join::leave_group(fd.as_fd(), ifindex, group)
}

/// Adds a source to a live input that was opened with sources.
///
/// # Errors
/// [`JoinError`]. On an input that was opened for any source the kernel refuses it.
pub fn add_source(fd: impl AsFd, ifindex: u32, group: IpAddr, source: IpAddr) -> Result<(), JoinError> {
    join::join_source(fd.as_fd(), ifindex, group, source)
}

/// Takes a source from a live input. With the last one it receives nothing more.
///
/// # Errors
/// [`JoinError`]. That the interface is gone, or the source was never added, is no error.
pub fn remove_source(fd: impl AsFd, ifindex: u32, group: IpAddr, source: IpAddr) -> Result<(), JoinError> {
    join::leave_source(fd.as_fd(), ifindex, group, source)
}

fn tune(fd: BorrowedFd<'_>, family: Family, options: &UdpInput<'_>) -> Result<(), OpenError> {
    let set = |level, name, value: i32, call| {
        sys::set_option(fd, level, name, &value).map_err(OpenError::call(call))
    };
    set(libc::SOL_SOCKET, libc::SO_REUSEADDR, 1, "SO_REUSEADDR")?;
    match family {
        Family::V4 => {
            set(libc::SOL_IP, libc::IP_MULTICAST_ALL, 0, "IP_MULTICAST_ALL")?;
            set(libc::SOL_IP, libc::IP_PKTINFO, 1, "IP_PKTINFO")?;
            set(libc::SOL_IP, libc::IP_RECVTTL, 1, "IP_RECVTTL")?;
            set(libc::SOL_IP, libc::IP_RECVTOS, 1, "IP_RECVTOS")?;
        }
        Family::V6 => {
            set(libc::SOL_IPV6, libc::IPV6_V6ONLY, 1, "IPV6_V6ONLY")?;
            set(libc::SOL_IPV6, libc::IPV6_MULTICAST_ALL, 0, "IPV6_MULTICAST_ALL")?;
            set(libc::SOL_IPV6, libc::IPV6_RECVPKTINFO, 1, "IPV6_RECVPKTINFO")?;
            set(libc::SOL_IPV6, libc::IPV6_RECVHOPLIMIT, 1, "IPV6_RECVHOPLIMIT")?;
            set(libc::SOL_IPV6, libc::IPV6_RECVTCLASS, 1, "IPV6_RECVTCLASS")?;
        }
    }
    if options.gro {
        set(libc::SOL_UDP, libc::UDP_GRO, 1, "UDP_GRO")?;
    }
    receive_buffer(fd, options.receive_buffer_bytes)
}

/// Whether the kernel gives what is sent to an address to one socket only.
fn goes_to_one(address: SocketAddr, ifindex: u32) -> bool {
    match address.ip() {
        ip if ip.is_multicast() || ip.is_unspecified() => false,
        IpAddr::V4(ip) => !ip.is_broadcast() && !is_broadcast(address, ifindex),
        IpAddr::V6(_) => true,
    }
}

/// Whether an IPv4 address is the broadcast address of a network: without `SO_BROADCAST` there is no connecting to it.
fn is_broadcast(address: SocketAddr, ifindex: u32) -> bool {
    let Ok(fd) = sys::socket(libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_UDP) else { return false };
    if bind_to_interface(fd.as_fd(), ifindex).is_err() {
        return false;
    }
    let connected = UdpSocket::from(fd).connect(address);
    connected.is_err_and(|error| error.raw_os_error() == Some(libc::EACCES))
}

/// Binds to an interface where that is allowed: to anybody since Linux 5.7, before that with CAP_NET_RAW. Without it a
/// group is still received by its interface only, for there alone it is joined.
///
/// By index and not by name, for another interface may have got the name by now.
pub(super) fn bind_to_interface(fd: BorrowedFd<'_>, ifindex: u32) -> Result<(), OpenError> {
    if ifindex == 0 {
        return Ok(());
    }
    let Ok(index) = i32::try_from(ifindex) else { return Err(OpenError::NoInterface { ifindex }) };
    match sys::set_option(fd, libc::SOL_SOCKET, libc::SO_BINDTOIFINDEX, &index) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => Ok(()),
        other => other.map_err(OpenError::interface("SO_BINDTOIFINDEX", ifindex)),
    }
}
