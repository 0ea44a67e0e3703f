//! AF_PACKET: frames as they come off an interface, before routing and reverse-path checks.
//!
//! Opens the socket and decodes what `recvmsg(2)` tells of a frame besides its bytes. Does not receive, and sets up no
//! ring. Invariant: nothing reaches a socket before its filter is in place, because it is made with protocol 0 and bound
//! last (packet(7)).

mod batch;
mod decode;
mod ring;
mod send;
mod tag;

pub use batch::{FrameBatch, FrameInfo};
pub use decode::{AuxData, GsoType, LinkAddress, PacketType, VNET_HEADER_BYTES, VnetHeader};
pub use ring::FrameRing;
pub use send::SendReport;

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
    /// Have the kernel write frames into a ring that the reader maps, instead of a queue. None leaves the queue.
    pub ring: Option<RingShape>,
    /// What to let through.
    pub filter: &'a Filter,
}

/// A receive ring of TPACKET_V2 (packet(7)): each frame in a slot of its own as soon as it comes.
///
/// A frame that does not fit its slot is cut there, marked TP_STATUS_COPY, and queued whole on the socket besides, as far as
/// the receive buffer has room. V3 would pack frames, and hand them over by the block, a millisecond late at worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingShape {
    /// Bytes of a block: physically contiguous pages.
    pub block_bytes: u32,
    /// How many blocks there are.
    pub blocks: u32,
    /// Bytes of a slot; a block holds as many as fit.
    pub slot_bytes: u32,
}

/// What the kernel puts into a slot before a frame, at most: its header, the address, the virtio-net header, alignment, and
/// the room below.
const SLOT_OVERHEAD_BYTES: u32 = 128;
/// Room in each slot that the kernel leaves to the reader (PACKET_RESERVE), behind the address.
const RESERVED_BYTES: u32 = 16;
/// Sixteen pages: large enough to waste little behind the last slot, small enough to be found in fragmented memory.
const BLOCK_BYTES: u32 = 64 << 10;
/// A block is whole pages; no page of Linux is larger than a block.
const PAGE_BYTES: u32 = 4 << 10;

/// The MTU of Ethernet, and the largest of jumbo frames.
const MTU_DEFAULT: u32 = 1500;
const MTU_MAX: u32 = 9216;

impl RingShape {
    /// A ring of about so many bytes, each slot with room for a frame of `mtu` bytes and its link-layer header. An MTU beyond
    /// that of jumbo frames, such as loopback has, is seldom made use of: slots are then of the usual size.
    #[must_use]
    pub fn for_mtu(mtu: u32, bytes: u32) -> Self {
        let mtu = if mtu > MTU_MAX { MTU_DEFAULT } else { mtu };
        // Ethernet with two VLAN tags.
        let slot_bytes = (mtu + 22 + SLOT_OVERHEAD_BYTES).next_multiple_of(64);
        Self { block_bytes: BLOCK_BYTES, blocks: (bytes / BLOCK_BYTES).max(1), slot_bytes }
    }

    /// A ring for `frames` frames, few more, and at most as many as fit into so many bytes. Slots are as in
    /// [`RingShape::for_mtu`].
    #[must_use]
    pub fn for_frames(mtu: u32, frames: u32, bytes_max: u32) -> Self {
        let largest = Self::for_mtu(mtu, bytes_max);
        let slots_per_block = largest.block_bytes / largest.slot_bytes;
        if frames > slots_per_block {
            return Self { blocks: frames.div_ceil(slots_per_block).min(largest.blocks), ..largest };
        }
        let block_bytes = (frames.max(1) * largest.slot_bytes).next_multiple_of(PAGE_BYTES);
        Self { block_bytes, blocks: 1, ..largest }
    }

    /// A ring of at least `slots` slots, each with room for a frame of `room_bytes`, for [`FrameRing`].
    #[must_use]
    pub fn with_slots(room_bytes: u32, slots: u32) -> Self {
        let slot_bytes = (room_bytes + SLOT_OVERHEAD_BYTES).next_multiple_of(64);
        let block_bytes = BLOCK_BYTES.max(slot_bytes.next_power_of_two());
        Self { block_bytes, blocks: slots.div_ceil(block_bytes / slot_bytes), slot_bytes }
    }

    /// How many frames it holds.
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.block_bytes.checked_div(self.slot_bytes).unwrap_or(0).saturating_mul(self.blocks)
    }
}

/// Opens a packet socket: non-blocking, close-on-exec, without own outgoing frames, with [`AuxData`] on each frame.
///
/// An interface that is down is no error here; reading then says ENETDOWN once, and frames come when it is up.
///
/// # Errors
/// [`OpenError`]: without CAP_NET_RAW `NotPermitted`, without the interface `NoInterface`.
pub fn open(options: &PacketOptions<'_>) -> Result<OwnedFd, OpenError> {
    open_with(options, true)
}

/// `whole` has frames that do not fit a slot of the ring queued besides.
fn open_with(options: &PacketOptions<'_>, whole: bool) -> Result<OwnedFd, OpenError> {
    let PacketOptions { ifindex, vnet_hdr, receive_buffer_bytes, ring, filter } = *options;
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
    if let Some(ring) = ring {
        set_ring(fd.as_fd(), ring, whole).map_err(OpenError::call("PACKET_RX_RING"))?;
    }
    attach(&fd, filter)?;
    sys::bind(fd.as_fd(), &link_address(ifindex)).map_err(OpenError::interface("bind", ifindex))?;
    Ok(fd)
}

/// After PACKET_VNET_HDR, which the kernel refuses once there is a ring.
fn set_ring(fd: BorrowedFd<'_>, ring: RingShape, whole: bool) -> std::io::Result<()> {
    /// `enum tpacket_versions` of linux/if_packet.h.
    const TPACKET_V2: i32 = 1;
    let set = |name, value: i32| sys::set_option(fd, libc::SOL_PACKET, name, &value);
    set(libc::PACKET_VERSION, TPACKET_V2)?;
    set(libc::PACKET_RESERVE, RESERVED_BYTES as i32)?;
    set(libc::PACKET_COPY_THRESH, whole.into())?;
    // struct tpacket_req: block size, blocks, frame size, frames.
    let request = [ring.block_bytes, ring.blocks, ring.slot_bytes, ring.slots()];
    sys::set_option(fd, libc::SOL_PACKET, libc::PACKET_RX_RING, &request)
}

/// The MTU of an interface, by its name.
///
/// # Errors
/// ENODEV if there is none; those of `socket(2)`.
pub fn mtu(ifname: &str) -> std::io::Result<u32> {
    let fd = sys::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    sys::mtu(fd.as_fd(), ifname)
}

/// Whether nothing waits on a packet socket, nor is held by whoever reads it, in its queue or its ring.
///
/// # Errors
/// Those of `poll(2)`.
pub fn is_idle(fd: impl AsFd) -> std::io::Result<bool> {
    sys::is_readable(fd.as_fd()).map(|readable| !readable)
}

/// What a socket that answers frames with frames shall be.
#[derive(Clone, Copy, Debug)]
pub struct PortOptions<'a> {
    /// The one interface it listens and sends on.
    pub ifindex: u32,
    /// Receive buffer; beyond `net.core.rmem_max` only with CAP_NET_ADMIN. 0 leaves the default.
    pub receive_buffer_bytes: usize,
    /// Send buffer; beyond `net.core.wmem_max` only with CAP_NET_ADMIN. 0 leaves the default.
    pub send_buffer_bytes: usize,
    /// Have the kernel say when each frame arrived.
    pub timestamps: bool,
    /// A ring to receive by, for [`FrameRing`]; none for [`FrameBatch`].
    pub ring: Option<RingShape>,
    /// What to let through.
    pub filter: &'a Filter,
}

/// Opens a packet socket for [`FrameBatch`] or [`FrameRing`]: like [`open`], and what it sends goes past the queueing discipline to the device.
///
/// # Errors
/// [`OpenError`]: without CAP_NET_RAW `NotPermitted`, without the interface `NoInterface`.
pub fn open_port(options: &PortOptions<'_>) -> Result<OwnedFd, OpenError> {
    let PortOptions { ifindex, receive_buffer_bytes, send_buffer_bytes, timestamps, ring, filter } = *options;
    let options = PacketOptions { ifindex, vnet_hdr: false, receive_buffer_bytes, ring, filter };
    let fd = open_with(&options, false)?;
    send_buffer(fd.as_fd(), send_buffer_bytes)?;
    sys::set_option(fd.as_fd(), libc::SOL_PACKET, libc::PACKET_QDISC_BYPASS, &1i32)
        .map_err(OpenError::call("PACKET_QDISC_BYPASS"))?;
    if timestamps {
        sys::set_option(fd.as_fd(), libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, &1i32)
            .map_err(OpenError::call("SO_TIMESTAMPNS"))?;
    }
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
