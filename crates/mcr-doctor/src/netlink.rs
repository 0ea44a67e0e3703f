//! One question to the kernel over netlink, and the messages of its answer. For families that have no typed reader here: link
//! details, generic netlink, the packet filter.

use std::{io, time::Duration};

use netlink_sys::{Socket, SocketAddr};
use nix::{
    errno::Errno,
    sys::{
        socket::{setsockopt, sockopt},
        time::TimeVal,
    },
};

/// The kernel fills at most 32 KiB a read (`netlink_recvmsg`).
const DATAGRAM_BYTES: usize = 64 * 1024;
const HEADER_BYTES: usize = 16;
const ATTRIBUTE_BYTES: usize = 4;
/// Never reached while the kernel is well.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// What is read of one answer at most.
const ANSWER_BYTES_MAX: usize = 32 * 1024 * 1024;

/// `NLM_F_REQUEST | NLM_F_ACK`: one object.
pub(crate) const ONE: u16 = 0x1 | 0x4;
/// `NLM_F_REQUEST | NLM_F_ROOT | NLM_F_MATCH`: all of them.
pub(crate) const ALL: u16 = 0x1 | 0x300;

const ERROR: u16 = 2;
const DONE: u16 = 3;

/// A socket of one netlink family.
#[derive(Debug)]
pub(crate) struct Asker {
    socket: Socket,
    sequence: u32,
}

impl Asker {
    pub(crate) fn open(protocol: isize) -> io::Result<Self> {
        let mut socket = Socket::new(protocol)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        let timeout = TimeVal::new(ANSWER_WITHIN.as_secs().cast_signed(), 0);
        setsockopt(&socket, sockopt::ReceiveTimeout, &timeout)?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Sends `body` as a message of this kind and hands the body of each message of the answer to `each`.
    pub(crate) fn ask(
        &mut self,
        kind: u16,
        flags: u16,
        body: &[u8],
        mut each: impl FnMut(&[u8]),
    ) -> io::Result<()> {
        self.sequence += 1;
        let length = u32::try_from(HEADER_BYTES + body.len()).map_err(io::Error::other)?;
        let mut message = length.to_ne_bytes().to_vec();
        message.extend(kind.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        message.extend(self.sequence.to_ne_bytes());
        message.extend(0_u32.to_ne_bytes());
        message.extend(body);
        self.socket.send(&message, 0)?;
        let mut total = 0;
        loop {
            let mut datagram: Vec<u8> = Vec::with_capacity(DATAGRAM_BYTES);
            match self.socket.recv(&mut datagram, 0) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Err(Errno::ETIMEDOUT.into());
                }
                Err(error) => return Err(error),
            }
            total += datagram.len();
            if total > ANSWER_BYTES_MAX {
                return Err(io::Error::other("the kernel's answer is larger than expected"));
            }
            for (kind, sequence, body) in messages(&datagram) {
                match kind {
                    _ if sequence != self.sequence => {}
                    DONE => return Ok(()),
                    ERROR => {
                        let errno = body.get(..4).and_then(|code| code.try_into().ok());
                        return match errno.map(i32::from_ne_bytes) {
                            Some(0) => Ok(()),
                            Some(errno) => Err(io::Error::from_raw_os_error(errno.saturating_neg())),
                            None => Err(io::ErrorKind::InvalidData.into()),
                        };
                    }
                    _ => each(body),
                }
            }
        }
    }
}

/// Type, sequence number and body of each whole message.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, u32, &[u8])> {
    std::iter::from_fn(move || {
        let length = u32_at(bytes, 0)? as usize;
        let message = bytes.get(..length).filter(|_| length >= HEADER_BYTES)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16_at(message, 4)?, u32_at(message, 8)?, &message[HEADER_BYTES..]))
    })
}

/// Type, without its flag bits, and value of each whole attribute.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    /// `NLA_TYPE_MASK`: the two highest bits are flags.
    const TYPE: u16 = 0x3fff;
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(bytes, 0)?);
        let attribute = bytes.get(..length).filter(|_| length >= ATTRIBUTE_BYTES)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16_at(attribute, 2)? & TYPE, &attribute[ATTRIBUTE_BYTES..]))
    })
}

/// The value of the first attribute of a type.
pub(crate) fn attribute(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

/// Appends an attribute.
pub(crate) fn put(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(ATTRIBUTE_BYTES + value.len()).unwrap_or(u16::MAX);
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// A string attribute, with or without the zero at its end.
pub(crate) fn text(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

/// A string as the kernel wants it in a request.
pub(crate) fn zero_ended(text: &str) -> Vec<u8> {
    text.bytes().chain([0]).collect()
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes)
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_ne_bytes)
}

/// A number of the packet filter, which speaks network byte order.
pub(crate) fn be32(bytes: &[u8]) -> Option<u32> {
    bytes.get(..4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_come_back_as_they_were_put_and_a_cut_one_is_left_out() {
        let mut bytes = Vec::new();
        put(&mut bytes, 7, b"abcde");
        put(&mut bytes, 0x8000 | 9, &[]);
        assert_eq!(attributes(&bytes).collect::<Vec<_>>(), [(7, &b"abcde"[..]), (9, &[][..])]);
        assert_eq!(attributes(&bytes[..bytes.len() - 1]).count(), 1);
        assert_eq!(attributes(&[0, 0, 0, 0]).count(), 0, "a length that does not get ahead ends it");
    }
}
