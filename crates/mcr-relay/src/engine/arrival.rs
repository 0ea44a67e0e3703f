//! What comes in, as the engine sees it: a datagram or a superframe, and no bytes of it.

use std::net::SocketAddr;

use mcr_proto::plan::{InputSlot, SocketId};

/// A datagram, or a superframe of several, as it came out of a receiving socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Arrival {
    /// The socket it came through.
    pub socket: SocketId,
    /// Where to count it.
    pub input: InputSlot,
    /// Who sent it.
    pub source: SocketAddr,
    /// What it was sent to.
    pub destination: SocketAddr,
    /// TTL or hop limit it came with.
    pub hop_limit: u8,
    /// TOS or traffic class byte it came with.
    pub traffic_class: u8,
    /// Which frame of the batch holds it.
    pub frame: u32,
    /// Where in the frame the payload starts.
    pub offset: u32,
    /// Payload length, of all datagrams of a superframe together.
    pub bytes: u32,
    /// Payload length of each datagram of a superframe but the last, which may be shorter; 0 if it is one datagram.
    pub segment: u16,
    /// When the kernel received it, in nanoseconds since 1970, by the stamp that everybody sees who sees the frame; 0 if it has none.
    pub stamp_ns: u64,
}

impl Arrival {
    /// How many datagrams it is.
    pub fn datagrams(&self) -> u32 {
        if self.segment == 0 { 1 } else { self.bytes.div_ceil(u32::from(self.segment)).max(1) }
    }

    /// Payload bytes of one of them.
    pub(super) fn bytes_of(&self, datagram: u32) -> u32 {
        match u32::from(self.segment) {
            0 => self.bytes,
            segment => self.bytes.saturating_sub(datagram * segment).min(segment),
        }
    }

    /// The first few of its datagrams; none if that is none.
    pub(super) fn first(&self, datagrams: u32) -> Option<Self> {
        let bytes = match u32::from(self.segment) {
            0 => self.bytes,
            segment => self.bytes.min(datagrams * segment),
        };
        (datagrams > 0).then_some(Self { bytes, ..*self })
    }
}
