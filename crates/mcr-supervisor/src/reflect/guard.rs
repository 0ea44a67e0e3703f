//! Sockets that keep the host from answering, too: it would tell testers by ICMP that nobody listens on the port.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6},
    os::fd::OwnedFd,
};

use mcr_socket::filter::{self, Filter};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrIn6, SockaddrLike, bind, setsockopt, socket,
    sockopt,
};

/// Takes a port's datagrams on an interface and drops them. None where a program of this host has the port already: then the
/// host does not answer, and that program keeps getting its datagrams.
pub(crate) fn guards(interface: &str, ports: impl Iterator<Item = u16>) -> Vec<OwnedFd> {
    ports
        .flat_map(|port| {
            let v4 = SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port));
            let v6 = SockaddrIn6::from(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0));
            [guard(interface, AddressFamily::Inet, &v4), guard(interface, AddressFamily::Inet6, &v6)]
        })
        .filter_map(Result::ok)
        .collect()
}

fn guard(interface: &str, family: AddressFamily, address: &dyn SockaddrLike) -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(family, SockType::Datagram, flags, None)?;
    if family == AddressFamily::Inet6 {
        setsockopt(&fd, sockopt::Ipv6V6Only, &true)?;
    }
    setsockopt(&fd, sockopt::BindToDevice, &interface.into())?;
    // Before it is bound, so that nothing is ever queued at it.
    filter::attach(&fd, &Filter::drop_all()).map_err(|_| nix::Error::ENOMEM)?;
    bind(std::os::fd::AsRawFd::as_raw_fd(&fd), address)?;
    Ok(fd)
}
