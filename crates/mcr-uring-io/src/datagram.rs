//! A received datagram as its receiver sees it, and readers for the raw name and control messages. Pure.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// A received datagram; the slices lie in its buffer.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    /// The sender's address, a raw `sockaddr`: `sockaddr_in`, `sockaddr_in6`, `sockaddr_ll`. Empty if the receiver has
    /// no room for it or the socket gives none.
    pub name: &'a [u8],
    /// The raw control messages; [`Datagram::control_messages`] reads them.
    pub control: &'a [u8],
    /// What a packet socket's ring says of the frame, a raw `struct tpacket2_hdr`; empty for what came by no ring.
    pub ring_header: &'a [u8],
    /// The payload of a UDP socket, the frame of an AF_PACKET socket.
    pub payload: &'a [u8],
    /// The payload was longer than the buffer; its rest is gone.
    pub truncated: bool,
    /// There were more control messages than fit; the rest is gone.
    pub control_truncated: bool,
}

impl<'a> Datagram<'a> {
    /// The sender, if the name is an IPv4 or IPv6 address.
    #[must_use]
    pub fn source(&self) -> Option<SocketAddr> {
        source(self.name)
    }

    /// The control messages, one by one.
    #[must_use]
    pub fn control_messages(&self) -> ControlMessages<'a> {
        ControlMessages::new(self.control)
    }
}

/// One control message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControlMessage<'a> {
    /// `cmsg_level`.
    pub level: i32,
    /// `cmsg_type`.
    pub kind: i32,
    /// The data, as the kernel wrote it.
    pub data: &'a [u8],
}

/// Reads control messages from bytes; stops at the first that does not hold together.
#[derive(Clone, Debug)]
pub struct ControlMessages<'a> {
    rest: &'a [u8],
}

impl<'a> ControlMessages<'a> {
    /// Over the raw bytes that `recvmsg` wrote.
    #[must_use]
    pub fn new(control: &'a [u8]) -> Self {
        Self { rest: control }
    }
}

impl<'a> Iterator for ControlMessages<'a> {
    type Item = ControlMessage<'a>;

    fn next(&mut self) -> Option<ControlMessage<'a>> {
        const WORD: usize = size_of::<usize>();
        const HEADER_BYTES: usize = size_of::<libc::cmsghdr>().next_multiple_of(WORD);
        let header = self.rest.get(..HEADER_BYTES)?;
        let len = usize::from_ne_bytes(header[..WORD].try_into().ok()?);
        let level = i32::from_ne_bytes(header[WORD..WORD + 4].try_into().ok()?);
        let kind = i32::from_ne_bytes(header[WORD + 4..WORD + 8].try_into().ok()?);
        let data = self.rest.get(HEADER_BYTES..len)?;
        let next = len.checked_next_multiple_of(WORD)?;
        self.rest = self.rest.get(next..).unwrap_or_default();
        Some(ControlMessage { level, kind, data })
    }
}

pub(crate) fn source(name: &[u8]) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes(name.get(..2)?.try_into().ok()?);
    let port = u16::from_be_bytes(name.get(2..4)?.try_into().ok()?);
    match i32::from(family) {
        libc::AF_INET => {
            let address: [u8; 4] = name.get(4..8)?.try_into().ok()?;
            Some(SocketAddrV4::new(Ipv4Addr::from(address), port).into())
        }
        libc::AF_INET6 => {
            let flow = u32::from_ne_bytes(name.get(4..8)?.try_into().ok()?);
            let address: [u8; 16] = name.get(8..24)?.try_into().ok()?;
            let scope = u32::from_ne_bytes(name.get(24..28)?.try_into().ok()?);
            Some(SocketAddrV6::new(Ipv6Addr::from(address), port, flow, scope).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_bytes_that_do_not_hold_together_end_the_reading() {
        assert_eq!(ControlMessages::new(&[]).count(), 0);
        assert_eq!(ControlMessages::new(&[0; 15]).count(), 0);
        // A length of 0, and one beyond the end, would else loop for ever or read too far.
        assert_eq!(ControlMessages::new(&[0; 64]).count(), 0);
        assert_eq!(ControlMessages::new(&[0xff; 64]).count(), 0);
    }

    #[test]
    fn short_names_have_no_source() {
        assert_eq!(source(&[]), None);
        assert_eq!(source(&(libc::AF_INET6 as u16).to_ne_bytes()), None);
        assert_eq!(source(&[libc::AF_PACKET as u8; 20]), None);
    }
}
