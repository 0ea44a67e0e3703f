//! What can go wrong, one type for each operation, in words that say what to do. What the kernel said is the source.

use std::io;
use std::net::{IpAddr, SocketAddr};

use mcr_proto::endpoint::IfName;

use crate::payload::{HEADER_BYTES, PAYLOAD_BYTES_MAX};

/// A socket could not be opened as asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// No such interface in the network namespace of the calling thread.
    #[error("there is no interface {interface} here; `mcrctl interfaces` or `ip link` shows their names")]
    NoInterface {
        /// The name that was asked for.
        interface: IfName,
    },
    /// The source is of another address family than the destination.
    #[error("source {from} and address {address} are of different IP versions")]
    Family {
        /// The source that was asked for.
        from: IpAddr,
        /// The address of the endpoint.
        address: IpAddr,
    },
    /// The socket could not take the address it should have.
    #[error("cannot bind to {address}{}", bind_hint(source))]
    Bind {
        /// The local address that was asked for.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// The group could not be joined.
    #[error("cannot join {group}{}", join_hint(source))]
    Join {
        /// The group.
        group: IpAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// No way to the destination.
    #[error("cannot send to {to}{}", connect_hint(source))]
    Connect {
        /// The destination.
        to: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// Any other call.
    #[error("cannot {action}")]
    Setup {
        /// What was attempted, as in "make a socket".
        action: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Sending could not start, or broke off.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// A socket could not be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The payload size is out of range.
    #[error("a payload of {bytes} bytes cannot be sent; give {HEADER_BYTES} to {PAYLOAD_BYTES_MAX}")]
    PayloadBytes {
        /// What was asked for.
        bytes: usize,
    },
    /// The number of flows is out of range.
    #[error("{flows} flows cannot be sent; give 1 to {}", crate::FLOWS_MAX)]
    Flows {
        /// What was asked for.
        flows: u32,
    },
    /// The TTL is 0.
    #[error("with a TTL of 0 no datagram gets anywhere; give 1 to 255")]
    Ttl,
    /// The endpoint names one source and the options another.
    #[error("the endpoint says source {endpoint}, the source option says {option}; give one of them")]
    TwoSources {
        /// The source in the endpoint.
        endpoint: IpAddr,
        /// The source in the options.
        option: IpAddr,
    },
    /// The kernel refused a datagram.
    #[error("cannot send to {to}{}", send_hint(source))]
    Send {
        /// The destination.
        to: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Receiving broke off.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecvError {
    /// The kernel refused to give datagrams.
    #[error("cannot receive")]
    Receive(#[source] io::Error),
}

impl OpenError {
    /// Something named does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, OpenError::NoInterface { .. })
    }

    /// A right is missing.
    pub fn is_not_permitted(&self) -> bool {
        match self {
            OpenError::NoInterface { .. } | OpenError::Family { .. } => false,
            OpenError::Bind { source, .. }
            | OpenError::Join { source, .. }
            | OpenError::Connect { source, .. }
            | OpenError::Setup { source, .. } => source.kind() == io::ErrorKind::PermissionDenied,
        }
    }
}

impl SendError {
    /// Something named does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, SendError::Open(error) if error.is_not_found())
    }

    /// A right is missing.
    pub fn is_not_permitted(&self) -> bool {
        match self {
            SendError::Open(error) => error.is_not_permitted(),
            SendError::Send { source, .. } => source.kind() == io::ErrorKind::PermissionDenied,
            _ => false,
        }
    }

    /// The options themselves are wrong: trying again with the same ones is useless anywhere.
    pub fn is_usage(&self) -> bool {
        match self {
            SendError::Open(OpenError::Family { .. })
            | SendError::PayloadBytes { .. }
            | SendError::Flows { .. }
            | SendError::Ttl
            | SendError::TwoSources { .. } => true,
            SendError::Open(_) | SendError::Send { .. } => false,
        }
    }
}

fn bind_hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EADDRNOTAVAIL) => " (it is no address of this host)",
        Some(libc::EADDRINUSE) => " (another program has this port, and does not share it)",
        Some(libc::EACCES) => " (ports below 1024 need CAP_NET_BIND_SERVICE)",
        _ => "",
    }
}

fn join_hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENODEV | libc::EADDRNOTAVAIL) => {
            "; no route says which interface, so name it, as in @eth0"
        }
        Some(libc::ENOBUFS) => " (net.ipv4.igmp_max_memberships or net.ipv4.igmp_max_msf is reached)",
        _ => "",
    }
}

fn connect_hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::ENETUNREACH | libc::EHOSTUNREACH) => {
            "; no route leads there: name the interface, as in @eth0"
        }
        Some(libc::EADDRNOTAVAIL) => " (there is no source address to use: give one to the interface)",
        _ => "",
    }
}

fn send_hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EMSGSIZE | libc::EINVAL) => {
            "; with GSO a payload must fit the MTU, as nothing fragments it"
        }
        Some(libc::EIO) => " (the device cannot take superframes, so send without GSO)",
        Some(libc::EPERM | libc::EACCES) => " (a packet filter of this host forbids it)",
        Some(libc::ENETDOWN | libc::ENODEV) => " (the interface is down or gone)",
        _ => "",
    }
}
