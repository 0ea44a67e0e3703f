//! AF_PACKET: frames as they come off an interface, before routing and reverse-path checks.
//!
//! Opens the socket and decodes what `recvmsg(2)` tells of a frame besides its bytes. Does not receive, and sets up no
//! ring. Invariant: nothing reaches a socket before its filter is in place, because it is made with protocol 0 and bound
//! last (packet(7)).

mod decode;

pub use decode::{AuxData, GsoType, LinkAddress, PacketType, VNET_HEADER_BYTES, VnetHeader};

use crate::filter::{Filter, attach};
use crate::{OpenError, sys};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// What a packet socket shall be.
#[derive(Clone, Copy, Debug)]
pub struct PacketOptions<'a> {
    /// The one interface it listens on.
    pub ifindex: u32,
    /// Put a [`VnetHeader`] in front of each frame, without which the datagrams in a superframe cannot be told apart.
    pub vnet_hdr: bool,
    /// Receive buffer; beyond `net.core.rmem_max` only with CAP_NET_ADMIN. 0 leaves the default.
    pub receive_buffer_bytes: usize,
    /// What to let through.
    pub filter: &'a Filter,
}

/// Opens a packet socket: non-blocking, close-on-exec, without own outgoing frames, with [`AuxData`] on each frame.
///
/// An interface that is down is no error here; reading then says ENETDOWN once, and frames come when it is up.
///
/// # Errors
/// [`OpenError`]: without CAP_NET_RAW `NotPermitted`, without the interface `NoInterface`.
pub fn open(options: &PacketOptions<'_>) -> Result<OwnedFd, OpenError> {
    let PacketOptions { ifindex, vnet_hdr, receive_buffer_bytes, filter } = *options;
    if ifindex == 0 {
        // To the kernel 0 means all interfaces at once, which no caller of this can want.
        return Err(OpenError::NoInterface { ifindex });
    }
    let fd = sys::socket(libc::AF_PACKET, libc::SOCK_RAW, 0)
        .map_err(OpenError::socket("a packet socket", "CAP_NET_RAW"))?;
    let on = |name, call| {
        sys::set_option(fd.as_fd(), libc::SOL_PACKET, name, &1i32).map_err(OpenError::call(call))
    };
    on(libc::PACKET_IGNORE_OUTGOING, "PACKET_IGNORE_OUTGOING")?;
    on(libc::PACKET_AUXDATA, "PACKET_AUXDATA")?;
    if vnet_hdr {
        on(libc::PACKET_VNET_HDR, "PACKET_VNET_HDR")?;
    }
    receive_buffer(fd.as_fd(), receive_buffer_bytes)?;
    attach(&fd, filter)?;
    sys::bind(fd.as_fd(), &link_address(ifindex)).map_err(OpenError::interface("bind", ifindex))?;
    Ok(fd)
}

/// What became of the frames that a packet socket's filter let through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// All of them, those dropped included.
    pub frames: u32,
    /// Those for which the receive buffer had no room.
    pub dropped: u32,
}

/// The frames since this was last called for the socket, by any process that has it: reading resets it.
///
/// # Errors
/// Those of `getsockopt(2)`.
pub fn take_statistics(fd: impl AsFd) -> std::io::Result<Statistics> {
    let [frames, dropped] = sys::option(fd.as_fd(), libc::SOL_PACKET, libc::PACKET_STATISTICS)?;
    Ok(Statistics { frames, dropped })
}

/// `struct sockaddr_ll` that binds to every protocol of an interface.
fn link_address(ifindex: u32) -> [u8; 20] {
    let mut bytes = [0; 20];
    bytes[0..2].copy_from_slice(&(libc::AF_PACKET as u16).to_ne_bytes());
    bytes[2..4].copy_from_slice(&(libc::ETH_P_ALL as u16).to_be_bytes());
    bytes[4..8].copy_from_slice(&ifindex.to_ne_bytes());
    bytes
}

/// Sets the receive buffer, past the limit of `net.core.rmem_max` where that is allowed.
pub(crate) fn receive_buffer(fd: BorrowedFd<'_>, bytes: usize) -> Result<(), OpenError> {
    buffer(fd, bytes, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF).map_err(OpenError::call("SO_RCVBUF"))
}

/// Sets the send buffer, past the limit of `net.core.wmem_max` where that is allowed.
pub(crate) fn send_buffer(fd: BorrowedFd<'_>, bytes: usize) -> Result<(), OpenError> {
    buffer(fd, bytes, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF).map_err(OpenError::call("SO_SNDBUF"))
}

fn buffer(fd: BorrowedFd<'_>, bytes: usize, force: libc::c_int, ask: libc::c_int) -> std::io::Result<()> {
    if bytes == 0 {
        return Ok(());
    }
    let bytes = i32::try_from(bytes).unwrap_or(i32::MAX);
    sys::set_option(fd, libc::SOL_SOCKET, force, &bytes)
        .or_else(|_| sys::set_option(fd, libc::SOL_SOCKET, ask, &bytes))
}
