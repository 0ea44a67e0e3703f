//! What an `Io` is made of. Values only.

use crate::OpenError;

/// How an [`Io`](crate::Io) is set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IoConfig {
    /// Which back end to use.
    pub backend: Choice,
    /// How many receive buffers there are: a power of two, at most 32,768. Only touched pages cost memory.
    pub buffers: u16,
    /// The payload bytes each buffer has room for, at least; a longer datagram is truncated and says so.
    pub buffer_bytes: u32,
    /// How many sends can be queued or in flight.
    pub sends_max: u16,
    /// How many sockets there can be. RLIMIT_NOFILE bounds it for io_uring.
    pub files_max: u16,
    /// How many events one `wait` reports, at most.
    pub events_max: u16,
    /// Restricts the ring to the operations of this crate, on registered files; the twin has nothing to restrict.
    pub restricted: bool,
    /// Tries reserved huge pages for the buffers. All of them are then set aside at once.
    pub huge_pages: bool,
}

impl Default for IoConfig {
    /// 256 buffers for a superframe each (64 KiB, its headers and a virtio header), 256 sends, 256 sockets, restricted.
    fn default() -> Self {
        Self {
            backend: Choice::Auto,
            buffers: 256,
            buffer_bytes: 65_536 + 256,
            sends_max: 256,
            files_max: 256,
            events_max: 256,
            restricted: true,
            huge_pages: false,
        }
    }
}

impl IoConfig {
    pub(crate) fn check(&self) -> Result<(), OpenError> {
        if !self.buffers.is_power_of_two() || self.buffers > 32_768 {
            return Err(OpenError::Buffers { buffers: self.buffers });
        }
        let fields = [
            ("buffer_bytes", self.buffer_bytes),
            ("sends_max", self.sends_max.into()),
            ("files_max", self.files_max.into()),
            ("events_max", self.events_max.into()),
        ];
        match fields.iter().find(|(_, value)| *value == 0) {
            Some((field, _)) => Err(OpenError::Zero { field }),
            None if self.buffer_bytes > 1 << 30 => Err(OpenError::TooLarge),
            None => Ok(()),
        }
    }
}

/// Which back end is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// io_uring if the kernel offers all that is needed, else the system calls.
    #[default]
    Auto,
    /// io_uring or an error.
    Uring,
    /// epoll, recvmmsg and sendmmsg.
    Syscalls,
}

/// Which back end is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// io_uring.
    Uring,
    /// epoll, recvmmsg and sendmmsg.
    Syscalls,
}

/// What a receiver wants beside the payload; both are rounded up to a multiple of 8.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReceiveShape {
    /// Room for the sender's address, at most 128: 16 for IPv4, 28 for IPv6, 20 for AF_PACKET, 0 for none.
    pub name_bytes: u16,
    /// Room for control messages, at most 256; they come if the socket's options ask for them.
    pub control_bytes: u16,
}

/// The shape of an AF_PACKET socket's receive ring: what the socket's opener gave to PACKET_RX_RING, for TPACKET_V2 with
/// PACKET_RESERVE of 16 bytes or more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingShape {
    /// Bytes of a block: a multiple of the page size.
    pub block_bytes: u32,
    /// How many blocks there are.
    pub blocks: u32,
    /// Bytes of a slot; a block holds as many as fit.
    pub slot_bytes: u32,
    /// Bytes in front of each frame that belong to it: 10 with PACKET_VNET_HDR, else 0.
    pub prefix_bytes: u16,
}

impl RingShape {
    /// The most slots a ring may have.
    pub const SLOTS_MAX: u32 = 1 << 18;

    /// How many frames it holds; `None` if it makes no sense.
    #[must_use]
    pub fn slots(&self) -> Option<u32> {
        let aligned = self.slot_bytes.is_multiple_of(16) && self.block_bytes.is_multiple_of(4096);
        let slots = self.block_bytes.checked_div(self.slot_bytes)?.checked_mul(self.blocks)?;
        let bytes = self.block_bytes.checked_mul(self.blocks)?;
        (aligned && (1..=Self::SLOTS_MAX).contains(&slots) && bytes <= 1 << 30).then_some(slots)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.block_bytes as usize * self.blocks as usize
    }
}

impl ReceiveShape {
    pub(crate) const NAME_BYTES_MAX: u16 = 128;
    pub(crate) const CONTROL_BYTES_MAX: u16 = 256;

    /// Rounded so that the control messages are aligned as the kernel aligns them; `None` if too large.
    pub(crate) fn rounded(self) -> Option<Self> {
        let fits = self.name_bytes <= Self::NAME_BYTES_MAX && self.control_bytes <= Self::CONTROL_BYTES_MAX;
        fits.then(|| Self {
            name_bytes: self.name_bytes.next_multiple_of(8),
            control_bytes: self.control_bytes.next_multiple_of(8),
        })
    }
}
