//! What a caller gives to be sent.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use crate::{Received, SocketKey};

/// How many parts a message can have.
pub const PARTS_MAX: usize = 64;
/// How many bytes the inline parts of a message can hold together.
pub const INLINE_BYTES_MAX: usize = 128;

/// One message: one datagram, one frame, or with `segment_bytes` many datagrams.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// A sender, or a receiver that can send as well.
    pub socket: SocketKey,
    /// Where to; `None` for connected sockets and AF_PACKET sockets bound to their interface.
    pub destination: Option<SocketAddr>,
    /// The bytes, in this order. None at all is an empty datagram.
    pub parts: &'a [Part<'a>],
    /// Cuts the message into datagrams of so many bytes (UDP_SEGMENT); the last one may be shorter.
    pub segment_bytes: Option<u16>,
    /// TTL or hop limit of this message, 1 to 255.
    pub hop_limit: Option<u8>,
    /// The TOS byte or traffic class of this message: DSCP and ECN.
    pub traffic_class: Option<u8>,
    /// Source address and interface of this message.
    pub source: Option<Source>,
    /// Comes back in [`Event::Sent`](crate::Event).
    pub token: u64,
}

impl<'a> Outgoing<'a> {
    /// A message with neither destination nor options.
    #[must_use]
    pub fn new(socket: SocketKey, parts: &'a [Part<'a>], token: u64) -> Self {
        Self {
            socket,
            destination: None,
            parts,
            segment_bytes: None,
            hop_limit: None,
            traffic_class: None,
            source: None,
            token,
        }
    }
}

/// Where a message comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// The source address; unspecified lets the kernel choose.
    pub address: IpAddr,
    /// The interface to send on; 0 lets the route choose.
    pub interface_index: u32,
}

/// A part of a message.
#[derive(Clone, Debug)]
pub enum Part<'a> {
    /// A range of a received datagram's payload, sent from where it is. The datagram can be recycled at once: its
    /// buffer waits for the send.
    Frame(&'a Received, Range<usize>),
    /// Bytes that are copied, such as headers.
    Inline(&'a [u8]),
}
