//! Socket options that nix does not define yet, declared with its macro, and the structures they take.
//!
//! Duty: names and layouts only. Invariant: each structure has the layout that the kernel reads, checked below against
//! libc's.

// The macro makes `pub` types, whose values must be as visible; the module is private all the same.
#![allow(unreachable_pub)]

use std::net::{IpAddr, SocketAddr};

// The first of these macros expands to the other two by their bare names.
use nix::{getsockopt_impl, setsockopt_impl, sockopt_impl};

sockopt_impl!(
    /// Interface index by which IPv4 multicast leaves.
    MulticastIf4, SetOnly, libc::IPPROTO_IP, libc::IP_MULTICAST_IF, InterfaceIndex4);
sockopt_impl!(
    /// Interface index by which IPv6 multicast leaves.
    MulticastIf6, SetOnly, libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_IF, u32);
sockopt_impl!(
    /// 1: IPv4 multicast that other sockets of the host joined is delivered too.
    MulticastAll4, Both, libc::IPPROTO_IP, libc::IP_MULTICAST_ALL, libc::c_int);
sockopt_impl!(
    /// The same for IPv6, since Linux 4.20.
    MulticastAll6, Both, libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_ALL, libc::c_int);
sockopt_impl!(
    /// Joins an IPv4 group.
    JoinGroup4, SetOnly, libc::IPPROTO_IP, libc::MCAST_JOIN_GROUP, GroupReq);
sockopt_impl!(
    /// Joins an IPv6 group.
    JoinGroup6, SetOnly, libc::IPPROTO_IPV6, libc::MCAST_JOIN_GROUP, GroupReq);
sockopt_impl!(
    /// Joins an IPv4 group for one source.
    JoinSourceGroup4, SetOnly, libc::IPPROTO_IP, libc::MCAST_JOIN_SOURCE_GROUP, GroupSourceReq);
sockopt_impl!(
    /// Joins an IPv6 group for one source.
    JoinSourceGroup6, SetOnly, libc::IPPROTO_IPV6, libc::MCAST_JOIN_SOURCE_GROUP, GroupSourceReq);
sockopt_impl!(
    /// Memory and drops of a socket, an array indexed by SK_MEMINFO_* of linux/sock_diag.h.
    MemInfo, GetOnly, libc::SOL_SOCKET, libc::SO_MEMINFO, [u32; MEMINFO_VARS]);

/// SK_MEMINFO_VARS of linux/sock_diag.h.
const MEMINFO_VARS: usize = 9;
/// SK_MEMINFO_DROPS: datagrams the socket had no room for, and those whose checksum was wrong.
pub(crate) const MEMINFO_DROPS: usize = 8;

/// `struct ip_mreqn` with nothing but the index.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct InterfaceIndex4 {
    group: u32,
    address: u32,
    index: u32,
}

impl InterfaceIndex4 {
    pub(crate) fn new(index: u32) -> Self {
        InterfaceIndex4 { group: 0, address: 0, index }
    }
}

/// `struct group_req`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct GroupReq {
    interface: u32,
    group: Storage,
}

/// `struct group_source_req`.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct GroupSourceReq {
    interface: u32,
    group: Storage,
    source: Storage,
}

/// `struct sockaddr_storage`, whose fields libc keeps to itself. The kernel aligns it like a pointer.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Storage {
    align: [usize; 0],
    bytes: [u8; 128],
}

const _: () = assert!(size_of::<InterfaceIndex4>() == size_of::<libc::ip_mreqn>());
const _: () = assert!(size_of::<GroupReq>() == size_of::<libc::group_req>());
const _: () = assert!(size_of::<GroupSourceReq>() == size_of::<libc::group_source_req>());
const _: () = assert!(align_of::<GroupReq>() == align_of::<libc::group_req>());

impl GroupReq {
    /// `interface` 0 leaves the choice to the kernel's routes.
    pub(crate) fn new(interface: u32, group: IpAddr) -> Self {
        GroupReq { interface, group: Storage::new(group) }
    }
}

impl GroupSourceReq {
    pub(crate) fn new(interface: u32, group: IpAddr, source: IpAddr) -> Self {
        GroupSourceReq { interface, group: Storage::new(group), source: Storage::new(source) }
    }
}

impl Storage {
    /// `address` as sockaddr_in or sockaddr_in6 with port, flow label and scope 0; membership calls read none of them.
    fn new(address: IpAddr) -> Self {
        let mut bytes = [0; 128];
        match address {
            IpAddr::V4(address) => {
                bytes[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
                bytes[4..8].copy_from_slice(&address.octets());
            }
            IpAddr::V6(address) => {
                bytes[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
                bytes[8..24].copy_from_slice(&address.octets());
            }
        }
        Storage { align: [], bytes }
    }
}

/// The scope that a socket address needs where its interface is known: link-local IPv6 addresses mean nothing without.
pub(crate) fn scoped(address: IpAddr, port: u16, interface: u32) -> SocketAddr {
    let mut scoped = SocketAddr::new(address, port);
    if let SocketAddr::V6(v6) = &mut scoped {
        v6.set_scope_id(interface);
    }
    scoped
}
