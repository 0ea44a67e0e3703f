//! Why a socket was not opened.

use crate::filter::AttachError;
use crate::join::JoinError;
use std::io;
use std::net::SocketAddr;

/// Why a socket was not opened. Nothing is left open.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The right is missing.
    #[error(
        "not permitted to open {socket}: it needs {capability}; give the process that capability, or choose a data path that needs none (udp)"
    )]
    NotPermitted {
        /// What was to be opened.
        socket: &'static str,
        /// What it takes.
        capability: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// No such interface (any more).
    #[error("no interface has index {ifindex}; it may have been removed")]
    NoInterface {
        /// The index asked for.
        ifindex: u32,
    },
    /// Another socket has this address and does not share it.
    #[error(
        "{address} is in use by another socket that does not share it; stop that program or choose another port"
    )]
    AddressInUse {
        /// The address asked for.
        address: SocketAddr,
    },
    /// This host does not have this address.
    #[error("{} is not an address of this host; add it to an interface or choose another", .address.ip())]
    AddressNotAvailable {
        /// The address asked for.
        address: SocketAddr,
    },
    /// Two addresses of one socket are of different families.
    #[error("{address} is not of the family of this socket ({family:?})")]
    Family {
        /// The address that does not fit.
        address: SocketAddr,
        /// The family of the socket.
        family: crate::Family,
    },
    /// The group was not joined.
    #[error("cannot join the group of the socket")]
    Join(#[from] JoinError),
    /// The filter was not attached.
    #[error("cannot attach the filter of the socket")]
    Filter(#[from] AttachError),
    /// Any other call failed.
    #[error("{call} failed")]
    Call {
        /// The call, or the option that was set.
        call: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

impl OpenError {
    /// For `map_err`: which call failed.
    pub(crate) fn call(call: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Call { call, source }
    }

    /// For `map_err` of `socket(2)`: which right it takes.
    pub(crate) fn socket(socket: &'static str, capability: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Self::NotPermitted { socket, capability, source },
            _ => Self::Call { call: "socket", source },
        }
    }

    /// For `map_err` of a call that names an interface.
    pub(crate) fn interface(call: &'static str, ifindex: u32) -> impl FnOnce(io::Error) -> Self {
        move |source| match source.raw_os_error() {
            // EADDRNOTAVAIL is what IP_MULTICAST_IF and IP_UNICAST_IF say of an index nobody has.
            Some(libc::ENODEV | libc::ENXIO | libc::EADDRNOTAVAIL) => Self::NoInterface { ifindex },
            _ => Self::Call { call, source },
        }
    }

    /// For `map_err` of `bind(2)` to an internet address.
    pub(crate) fn bind(address: SocketAddr) -> impl FnOnce(io::Error) -> Self {
        move |source| match source.raw_os_error() {
            Some(libc::EADDRINUSE) => Self::AddressInUse { address },
            Some(libc::EADDRNOTAVAIL) => Self::AddressNotAvailable { address },
            Some(libc::EACCES) => {
                Self::NotPermitted { socket: "a port below 1024", capability: "CAP_NET_BIND_SERVICE", source }
            }
            _ => Self::Call { call: "bind", source },
        }
    }
}
