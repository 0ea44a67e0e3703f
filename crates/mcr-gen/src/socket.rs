//! Opens the plain UDP sockets that both ends use. Duty: names to sockets; no traffic.
//!
//! Everything is opened in the network namespace of the calling thread, with no rights.

use std::ffi::OsString;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};

use mcr_proto::endpoint::{Codepoint, Endpoint, IfName};
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    self, AddressFamily, GetSockOpt, SetSockOpt, SockFlag, SockType, SockaddrStorage, getsockopt, setsockopt,
    sockopt,
};

use crate::error::OpenError;
use crate::sockopt::{
    GroupReq, GroupSourceReq, InterfaceIndex4, JoinGroup4, JoinGroup6, JoinSourceGroup4, JoinSourceGroup6,
    MEMINFO_DROPS, MemInfo, MulticastAll4, MulticastAll6, MulticastIf4, MulticastIf6, scoped,
};

/// What a sending socket is opened with.
pub(crate) struct SendSetup<'a> {
    pub(crate) endpoint: &'a Endpoint,
    pub(crate) source: Option<IpAddr>,
    pub(crate) ttl: u8,
    pub(crate) dscp: Option<Codepoint>,
    /// Size of the datagrams that the kernel cuts what is sent into.
    pub(crate) gso_bytes: Option<usize>,
    pub(crate) sndbuf_bytes: usize,
}

/// A nonblocking socket connected to the endpoint, with a port of its own. Multicast is looped back, so receivers on
/// this host hear it too.
pub(crate) fn open_sender(setup: &SendSetup<'_>) -> Result<UdpSocket, OpenError> {
    let endpoint = setup.endpoint;
    if let Some(from) = setup.source
        && from.is_ipv4() != endpoint.address.is_ipv4()
    {
        return Err(OpenError::Family { from, address: endpoint.address });
    }
    let interface = interface_index(endpoint.interface)?;
    let socket = udp_socket(endpoint.address)?;
    set(&socket, sockopt::Broadcast, &true, "allow broadcasts")?;
    set_marks(&socket, setup)?;
    if let (Some(name), Some(index)) = (endpoint.interface, interface) {
        choose_interface(&socket, endpoint.address, name, index)?;
    }
    // A buffer that stays small costs retries, not datagrams.
    let _ = setsockopt(&socket, sockopt::SndBufForce, &setup.sndbuf_bytes)
        .or_else(|_| setsockopt(&socket, sockopt::SndBuf, &setup.sndbuf_bytes));
    if let Some(bytes) = setup.gso_bytes {
        let bytes = libc::c_int::try_from(bytes).expect("a payload has at most 65,507 bytes");
        set(&socket, sockopt::UdpGsoSegment, &bytes, "turn on UDP GSO (Linux 4.18)")?;
    }
    let local = scoped(setup.source.unwrap_or(default_source(endpoint)), 0, interface.unwrap_or(0));
    bind(&socket, local)?;
    let to = scoped(endpoint.address, endpoint.port, interface.unwrap_or(0));
    socket::connect(socket.as_raw_fd(), &SockaddrStorage::from(to))
        .map_err(|errno| OpenError::Connect { to, source: errno.into() })?;
    nonblocking(socket)
}

/// A nonblocking socket bound to the endpoint and joined to its group, and the size of its buffer as the kernel counts.
pub(crate) fn open_receiver(
    endpoint: &Endpoint,
    rcvbuf_bytes: usize,
) -> Result<(UdpSocket, usize), OpenError> {
    if let Some(from) = endpoint.source
        && from.is_ipv4() != endpoint.address.is_ipv4()
    {
        return Err(OpenError::Family { from, address: endpoint.address });
    }
    let interface = interface_index(endpoint.interface)?;
    let socket = udp_socket(endpoint.address)?;
    // Before bind, so that nothing arrives at a socket that is small or hears what others joined.
    let _ = setsockopt(&socket, sockopt::RcvBufForce, &rcvbuf_bytes)
        .or_else(|_| setsockopt(&socket, sockopt::RcvBuf, &rcvbuf_bytes));
    let rcvbuf_bytes = get(&socket, sockopt::RcvBuf, "ask for the size of the receive buffer")?;
    let multicast = endpoint.address.is_multicast();
    if multicast {
        set(&socket, sockopt::ReuseAddr, &true, "share the port")?;
        match endpoint.address {
            IpAddr::V4(_) => set(&socket, MulticastAll4, &0, "refuse groups that others joined")?,
            IpAddr::V6(_) => set(&socket, MulticastAll6, &0, "refuse groups that others joined")?,
        }
    } else if let Some(name) = endpoint.interface {
        bind_to_device(&socket, name)?;
    }
    bind(&socket, scoped(endpoint.address, endpoint.port, interface.unwrap_or(0)))?;
    if multicast {
        join(&socket, endpoint, interface.unwrap_or(0))?;
    }
    Ok((nonblocking(socket)?, rcvbuf_bytes))
}

/// How many datagrams the kernel dropped at `socket` since it was opened; the count wraps.
pub(crate) fn kernel_drops(socket: &UdpSocket) -> io::Result<u32> {
    Ok(getsockopt(socket, MemInfo)?[MEMINFO_DROPS])
}

fn interface_index(interface: Option<IfName>) -> Result<Option<u32>, OpenError> {
    let Some(interface) = interface else { return Ok(None) };
    match if_nametoindex(interface.as_str()) {
        Ok(index) => Ok(Some(index)),
        Err(Errno::ENODEV | Errno::ENXIO) => Err(OpenError::NoInterface { interface }),
        Err(errno) => Err(OpenError::Setup { action: "look up an interface", source: errno.into() }),
    }
}

fn udp_socket(address: IpAddr) -> Result<OwnedFd, OpenError> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    socket::socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)
        .map_err(|errno| OpenError::Setup { action: "make a UDP socket", source: errno.into() })
}

fn set_marks(socket: &OwnedFd, setup: &SendSetup<'_>) -> Result<(), OpenError> {
    let ttl = libc::c_int::from(setup.ttl);
    let class = setup.dscp.map(|dscp| libc::c_int::from(dscp.value()) << 2);
    if setup.endpoint.address.is_ipv4() {
        set(socket, sockopt::Ipv4Ttl, &ttl, "set the TTL")?;
        set(socket, sockopt::IpMulticastTtl, &setup.ttl, "set the multicast TTL")?;
        class.map_or(Ok(()), |class| set(socket, sockopt::Ipv4Tos, &class, "set the DSCP"))
    } else {
        set(socket, sockopt::Ipv6Ttl, &ttl, "set the hop limit")?;
        set(socket, sockopt::Ipv6MulticastHops, &ttl, "set the multicast hop limit")?;
        class.map_or(Ok(()), |class| set(socket, sockopt::Ipv6TClass, &class, "set the DSCP"))
    }
}

fn choose_interface(socket: &OwnedFd, to: IpAddr, name: IfName, index: u32) -> Result<(), OpenError> {
    match to {
        IpAddr::V4(group) if group.is_multicast() => {
            set(socket, MulticastIf4, &InterfaceIndex4::new(index), "choose the interface")
        }
        IpAddr::V6(group) if group.is_multicast() => {
            set(socket, MulticastIf6, &index, "choose the interface")
        }
        IpAddr::V4(_) | IpAddr::V6(_) => bind_to_device(socket, name),
    }
}

/// Needs no right since Linux 5.7, as long as the socket is not bound to a device yet.
fn bind_to_device(socket: &OwnedFd, name: IfName) -> Result<(), OpenError> {
    set(socket, sockopt::BindToDevice, &OsString::from(name.as_str()), "bind to the interface")
}

fn bind(socket: &OwnedFd, address: SocketAddr) -> Result<(), OpenError> {
    socket::bind(socket.as_raw_fd(), &SockaddrStorage::from(address))
        .map_err(|errno| OpenError::Bind { address, source: errno.into() })
}

fn join(socket: &OwnedFd, endpoint: &Endpoint, interface: u32) -> Result<(), OpenError> {
    let group = endpoint.address;
    let any = GroupReq::new(interface, group);
    let one = |source| GroupSourceReq::new(interface, group, source);
    match (group, endpoint.source) {
        (IpAddr::V4(_), None) => setsockopt(socket, JoinGroup4, &any),
        (IpAddr::V6(_), None) => setsockopt(socket, JoinGroup6, &any),
        (IpAddr::V4(_), Some(source)) => setsockopt(socket, JoinSourceGroup4, &one(source)),
        (IpAddr::V6(_), Some(source)) => setsockopt(socket, JoinSourceGroup6, &one(source)),
    }
    .map_err(|errno| OpenError::Join { group, source: errno.into() })
}

fn nonblocking(socket: OwnedFd) -> Result<UdpSocket, OpenError> {
    let socket = UdpSocket::from(socket);
    socket
        .set_nonblocking(true)
        .map_err(|source| OpenError::Setup { action: "make the socket nonblocking", source })?;
    Ok(socket)
}

/// The unspecified address, which leaves the choice to the kernel; but for IPv4 multicast by `lo` that would choose
/// 0.0.0.0, because the scope of 127.0.0.1 is too small for it.
fn default_source(endpoint: &Endpoint) -> IpAddr {
    match endpoint.address {
        IpAddr::V4(group)
            if group.is_multicast() && endpoint.interface.is_some_and(|name| name.as_str() == "lo") =>
        {
            Ipv4Addr::LOCALHOST.into()
        }
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

fn set<O: SetSockOpt>(
    socket: &OwnedFd,
    option: O,
    value: &O::Val,
    action: &'static str,
) -> Result<(), OpenError> {
    setsockopt(socket, option, value).map_err(|errno| OpenError::Setup { action, source: errno.into() })
}

fn get<O: GetSockOpt>(socket: &OwnedFd, option: O, action: &'static str) -> Result<O::Val, OpenError> {
    getsockopt(socket, option).map_err(|errno| OpenError::Setup { action, source: errno.into() })
}
