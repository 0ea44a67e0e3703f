//! Netlink messages by hand, for the two protocols the lab speaks beside rtnetlink: nf_tables and ethtool.

use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context as _, bail, ensure};
use mcr_lab::Namespace;
use nix::{
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket,
            sockopt,
        },
        time::{TimeVal, TimeValLike},
    },
};

/// NLM_F_REQUEST.
pub(crate) const REQUEST: u16 = 0x1;
/// NLM_F_ACK.
pub(crate) const ACK: u16 = 0x4;
/// NLM_F_CREATE.
pub(crate) const CREATE: u16 = 0x400;

/// NLMSG_ERROR, which also carries the acknowledgement, error 0.
const ERROR: u16 = 2;
const HEADER_BYTES: usize = 16;
/// NLA_F_NESTED.
const NESTED: u16 = 1 << 15;
/// Answers are at most this long.
const ANSWER_BYTES: usize = 64 << 10;

/// One message: header, the family's own head, attributes.
#[derive(Debug)]
pub(crate) struct Message(Vec<u8>);

impl Message {
    pub(crate) fn new(kind: u16, flags: u16, head: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER_BYTES];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(head);
        Self(bytes)
    }

    #[must_use]
    pub(crate) fn with(mut self, attributes: Attributes) -> Self {
        self.0.extend(attributes.0);
        self
    }

    fn finish(mut self) -> Vec<u8> {
        let bytes = self.0.len() as u32;
        self.0[..4].copy_from_slice(&bytes.to_ne_bytes());
        self.0
    }
}

/// A row of attributes.
#[derive(Debug, Default)]
pub(crate) struct Attributes(Vec<u8>);

impl Attributes {
    #[must_use]
    pub(crate) fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        let bytes = (4 + value.len()) as u16;
        self.0.extend_from_slice(&bytes.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    #[must_use]
    pub(crate) fn text(self, kind: u16, value: &str) -> Self {
        self.bytes(kind, &[value.as_bytes(), &[0]].concat())
    }

    #[must_use]
    pub(crate) fn nested(self, kind: u16, inner: Attributes) -> Self {
        self.bytes(kind | NESTED, &inner.0)
    }
}

/// Finds the first attribute of a kind.
pub(crate) fn attribute(mut bytes: &[u8], kind: u16) -> Option<&[u8]> {
    while let Some((&[a, b, c, d], _)) = bytes.split_first_chunk() {
        let (length, found) = (u16::from_ne_bytes([a, b]) as usize, u16::from_ne_bytes([c, d]));
        let value = bytes.get(4..length)?;
        if found & !NESTED == kind {
            return Some(value);
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
    None
}

/// A socket in a namespace.
#[derive(Debug)]
pub(crate) struct Netlink(OwnedFd);

impl Netlink {
    pub(crate) fn open(namespace: &Namespace, protocol: SockProtocol) -> anyhow::Result<Self> {
        let open = || socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol);
        let fd = namespace.try_enter(open)?.context("cannot open a netlink socket")?;
        // The kernel answers at once; if it does not, an error is better than to wait for ever.
        setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::seconds(5))?;
        Ok(Self(fd))
    }

    /// Sends messages at once and waits for `acks` acknowledgements. Gives the body of the last other answer.
    pub(crate) fn request(&self, messages: Vec<Message>, acks: usize) -> anyhow::Result<Vec<u8>> {
        let request: Vec<u8> = messages.into_iter().flat_map(Message::finish).collect();
        send(self.0.as_raw_fd(), &request, MsgFlags::empty())?;
        let mut answer = Vec::new();
        let mut acknowledged = 0;
        let mut buffer = vec![0; ANSWER_BYTES];
        while acknowledged < acks {
            let bytes =
                recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()).context("no answer by netlink")?;
            for (kind, body) in split(&buffer[..bytes]) {
                if kind == ERROR {
                    judge(body)?;
                    acknowledged += 1;
                } else {
                    answer = body.to_vec();
                }
            }
        }
        Ok(answer)
    }
}

fn judge(body: &[u8]) -> anyhow::Result<()> {
    let Some(errno) = body.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes)) else {
        bail!("a netlink answer is cut off");
    };
    ensure!(errno == 0, "the kernel refuses: {}", Errno::from_raw(-errno));
    Ok(())
}

/// The messages in a buffer: kinds and what follows their headers.
fn split(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut messages = Vec::new();
    while let Some((header, _)) = bytes.split_first_chunk::<HEADER_BYTES>() {
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let Some(body) = bytes.get(HEADER_BYTES..length) else { break };
        messages.push((u16::from_ne_bytes([header[4], header[5]]), body));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    messages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_behind_others_and_in_others() {
        let inner = Attributes::default().text(7, "name");
        let Attributes(bytes) = Attributes::default().bytes(1, &[9]).nested(2, inner);
        assert_eq!(attribute(&bytes, 1), Some(&[9][..]));
        assert_eq!(attribute(attribute(&bytes, 2).unwrap(), 7), Some(&b"name\0"[..]));
        assert_eq!(attribute(&bytes, 3), None);
    }

    #[test]
    fn messages_are_split_where_their_lengths_say() {
        let two = [Message::new(5, 0, &[1, 2, 3, 4]).finish(), Message::new(6, 0, &[]).finish()].concat();
        assert_eq!(split(&two), [(5, &[1, 2, 3, 4][..]), (6, &[][..])]);
        assert_eq!(split(&two[..18]), [], "one that is cut off is none");
    }
}
