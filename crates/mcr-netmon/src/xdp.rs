//! What the driver of an interface can do of XDP, asked of the kernel: generic netlink family `netdev` (Linux 6.3,
//! Documentation/netlink/specs/netdev.yaml). Takes no rights.

use std::io;

use netlink_sys::protocols::NETLINK_GENERIC;
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::requests::{Received, receive};
use crate::wire::{MESSAGE_HEADER_BYTES, Malformed, attributes, next_message, u16_at, u32_at};

// linux/netlink.h, linux/genetlink.h
const NLM_F_REQUEST: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const GENERIC_HEADER_BYTES: usize = 4;
// linux/netdev.h
const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;
const NETDEV_A_DEV_XDP_RX_METADATA_FEATURES: u16 = 5;

/// What a driver can do of XDP (`enum netdev_xdp_act`, `enum netdev_xdp_rx_metadata`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct XdpFeatures {
    /// Programs run in the driver, and can drop, pass and send back (`NETDEV_XDP_ACT_BASIC`).
    pub basic: bool,
    /// They can redirect (`NETDEV_XDP_ACT_REDIRECT`).
    pub redirect: bool,
    /// Frames can be redirected to it (`NETDEV_XDP_ACT_NDO_XMIT`). Some drivers say so only while something receives by XDP.
    pub ndo_xmit: bool,
    /// AF_XDP sockets without copying (`NETDEV_XDP_ACT_XSK_ZEROCOPY`).
    pub zero_copy: bool,
    /// The card itself runs programs (`NETDEV_XDP_ACT_HW_OFFLOAD`).
    pub offload: bool,
    /// Frames may be of several buffers (`NETDEV_XDP_ACT_RX_SG`).
    pub receive_parts: bool,
    /// Programs can ask when a frame came (`NETDEV_XDP_RX_METADATA_TIMESTAMP`).
    pub timestamp: bool,
    /// Programs can ask for the VLAN tag that the card took out (`NETDEV_XDP_RX_METADATA_VLAN_TAG`).
    pub vlan_tag: bool,
}

impl XdpFeatures {
    /// Asks the kernel about an interface of the calling thread's network namespace; `None` if it cannot tell of any (before
    /// Linux 6.3).
    ///
    /// # Errors
    /// ENODEV without the interface; those of `socket(2)`; ETIMEDOUT.
    pub fn of(ifindex: u32) -> io::Result<Option<Self>> {
        let mut socket = Socket::new(NETLINK_GENERIC)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(5))?;
        let mut name = b"netdev".to_vec();
        name.push(0);
        let ask = request(GENL_ID_CTRL, CTRL_CMD_GETFAMILY, CTRL_ATTR_FAMILY_NAME, &name);
        let family = match exchange(&socket, &ask) {
            Ok(answer) => attribute(&answer, CTRL_ATTR_FAMILY_ID).and_then(|id| u16_at(id, 0)),
            Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => return Ok(None),
            Err(error) => return Err(error),
        };
        let family = family.ok_or(io::ErrorKind::InvalidData)?;
        let ask = request(family, NETDEV_CMD_DEV_GET, NETDEV_A_DEV_IFINDEX, &ifindex.to_ne_bytes());
        exchange(&socket, &ask).map(|answer| Some(Self::read(&answer)))
    }

    fn read(answer: &[u8]) -> Self {
        // 64 bits, of which those that mean something are in the lower half.
        let bits = |kind| {
            let value = attribute(answer, kind)?.first_chunk()?;
            Some(u64::from_ne_bytes(*value))
        };
        let features = bits(NETDEV_A_DEV_XDP_FEATURES).unwrap_or(0);
        let metadata = bits(NETDEV_A_DEV_XDP_RX_METADATA_FEATURES).unwrap_or(0);
        Self {
            basic: features & 1 != 0,
            redirect: features & (1 << 1) != 0,
            ndo_xmit: features & (1 << 2) != 0,
            zero_copy: features & (1 << 3) != 0,
            offload: features & (1 << 4) != 0,
            receive_parts: features & (1 << 5) != 0,
            timestamp: metadata & 1 != 0,
            vlan_tag: metadata & (1 << 2) != 0,
        }
    }
}

/// A request with one attribute.
fn request(kind: u16, command: u8, attribute: u16, value: &[u8]) -> Vec<u8> {
    let attribute_bytes = 4 + value.len();
    let bytes = MESSAGE_HEADER_BYTES + GENERIC_HEADER_BYTES + attribute_bytes.next_multiple_of(4);
    let mut message = Vec::with_capacity(bytes);
    message.extend((bytes as u32).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(NLM_F_REQUEST.to_ne_bytes());
    // Sequence number and port, of which a socket for one question at a time needs neither.
    message.extend([0; 8]);
    message.extend([command, 1, 0, 0]);
    message.extend((attribute_bytes as u16).to_ne_bytes());
    message.extend(attribute.to_ne_bytes());
    message.extend(value);
    message.resize(bytes, 0);
    message
}

/// The attributes of the answer to a request.
fn exchange(socket: &Socket, request: &[u8]) -> io::Result<Vec<u8>> {
    socket.send(request, 0)?;
    let mut datagram = Vec::with_capacity(8192);
    loop {
        match receive(socket, &mut datagram)? {
            Received::Datagram => break,
            Received::Lost | Received::Foreign => {}
            Received::Nothing => return Err(Errno::ETIMEDOUT.into()),
        }
    }
    let first = next_message(&mut datagram.as_slice()).and_then(Result::ok);
    let message = first.ok_or(io::ErrorKind::InvalidData)?;
    if message.kind == NLMSG_ERROR {
        let errno = u32_at(message.payload, 0).map_or(0, |errno| -errno.cast_signed());
        return Err(io::Error::from_raw_os_error(errno));
    }
    Ok(message.payload.get(GENERIC_HEADER_BYTES..).unwrap_or_default().to_vec())
}

fn attribute(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    let found =
        attributes(bytes).find(|item| matches!(item, Ok((kind, _)) if *kind == wanted) || item.is_err());
    match found? {
        Ok((_, value)) => Some(value),
        Err(Malformed) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_read_from_their_bits_and_anything_else_is_none() {
        let mut answer = vec![12, 0, 3, 0];
        answer.extend(0b10_1011_u64.to_ne_bytes());
        answer.extend([12, 0, 5, 0]);
        answer.extend(0b101_u64.to_ne_bytes());
        let features = XdpFeatures::read(&answer);
        let expected = XdpFeatures {
            basic: true,
            redirect: true,
            zero_copy: true,
            receive_parts: true,
            timestamp: true,
            vlan_tag: true,
            ..XdpFeatures::default()
        };
        assert_eq!(features, expected);
        for cut in 0..12 {
            assert_eq!(XdpFeatures::read(&answer[..cut]), XdpFeatures::default());
        }
    }
}
