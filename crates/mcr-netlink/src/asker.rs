//! Questions and answers in bytes.

use std::{io, time::Duration};

use netlink_sys::{Socket, SocketAddr, protocols};
use nix::{
    errno::Errno,
    sys::{
        socket::{setsockopt, sockopt},
        time::TimeVal,
    },
};

use crate::attribute::{u16_at, u32_at};

/// The kernel fills at most 32 KiB a read (`netlink_recvmsg`).
const DATAGRAM_BYTES: usize = 64 * 1024;
const HEADER_BYTES: usize = 16;
/// Never reached while the kernel is well.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// What is read of one answer at most.
const ANSWER_BYTES_MAX: usize = 32 * 1024 * 1024;

/// `NLM_F_REQUEST | NLM_F_ACK`: one object.
pub const ONE: u16 = 0x1 | 0x4;
/// `NLM_F_REQUEST | NLM_F_ROOT | NLM_F_MATCH`: all of them.
pub const ALL: u16 = 0x1 | 0x300;

const ERROR: u16 = 2;
const DONE: u16 = 3;
/// `NLMSG_MIN_TYPE`: what is below speaks of the answer, not of what was asked for.
const KIND_MIN: u16 = 0x10;

/// Which part of the kernel is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Links, addresses, routes, neighbours, queueing disciplines (rtnetlink(7)).
    Route,
    /// The packet filter.
    Netfilter,
    /// Families that have names instead of numbers ([`crate::Generic`]).
    Generic,
}

/// A socket of one netlink family.
#[derive(Debug)]
pub struct Asker {
    socket: Socket,
    sequence: u32,
}

impl Asker {
    /// Opens a socket in the network namespace of the calling thread, where it stays.
    ///
    /// # Errors
    /// Those of `socket(2)`, `bind(2)` and `setsockopt(2)`.
    pub fn open(protocol: Protocol) -> io::Result<Self> {
        let mut socket = Socket::new(match protocol {
            Protocol::Route => protocols::NETLINK_ROUTE,
            Protocol::Netfilter => protocols::NETLINK_NETFILTER,
            Protocol::Generic => protocols::NETLINK_GENERIC,
        })?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        let timeout = TimeVal::new(ANSWER_WITHIN.as_secs().cast_signed(), 0);
        setsockopt(&socket, sockopt::ReceiveTimeout, &timeout)?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Sends `body` as a message of this kind, and hands kind and body of each message of the answer to `each`. `flags` must be such
    /// that the answer has an end: [`ONE`] or [`ALL`], and whatever else.
    ///
    /// # Errors
    /// What the kernel answered; ETIMEDOUT; what has no `errno` is an answer that is not as it should be.
    pub fn ask(
        &mut self,
        kind: u16,
        flags: u16,
        body: &[u8],
        mut each: impl FnMut(u16, &[u8]),
    ) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        self.socket.send(&message(kind, flags, self.sequence, body)?, 0)?;
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
                    // A dump that was given up ends with the reason; of other ends the kernel says nothing, or a number that is no error.
                    DONE => return done(body),
                    ERROR => return acknowledged(body),
                    ..KIND_MIN => {}
                    _ => each(kind, body),
                }
            }
        }
    }
}

fn message(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> io::Result<Vec<u8>> {
    let length = u32::try_from(HEADER_BYTES + body.len()).map_err(io::Error::other)?;
    let mut message = Vec::with_capacity(HEADER_BYTES + body.len());
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend(sequence.to_ne_bytes());
    message.extend(0_u32.to_ne_bytes());
    message.extend(body);
    Ok(message)
}

/// What an NLMSG_DONE says.
fn done(body: &[u8]) -> io::Result<()> {
    match u32_at(body, 0).map(u32::cast_signed) {
        Some(errno @ ..0) => Err(io::Error::from_raw_os_error(errno.saturating_neg())),
        _ => Ok(()),
    }
}

/// What an NLMSG_ERROR says; 0 is an acknowledgement.
fn acknowledged(body: &[u8]) -> io::Result<()> {
    match u32_at(body, 0).map(u32::cast_signed) {
        Some(0) => Ok(()),
        Some(errno) => Err(io::Error::from_raw_os_error(errno.saturating_neg())),
        None => Err(io::ErrorKind::InvalidData.into()),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_back_as_they_were_made_and_a_cut_one_is_left_out() {
        let mut bytes = message(18, ONE, 7, b"abcde").expect("it fits");
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend(message(3, ALL, 8, &[]).expect("it fits"));
        assert_eq!(messages(&bytes).collect::<Vec<_>>(), [(18, 7, &b"abcde"[..]), (3, 8, &[][..])]);
        assert_eq!(messages(&bytes[..bytes.len() - 1]).count(), 1);
        assert_eq!(messages(&[0; 16]).count(), 0, "a length that does not get ahead ends it");
    }

    #[test]
    fn an_answer_is_whole_a_refusal_has_its_errno_and_the_next_question_gets_its_own_answer() {
        // linux/rtnetlink.h: RTM_GETLINK takes a `struct ifinfomsg`, whose index is at 4; RTM_NEWLINK is the answer.
        const GET_LINK: u16 = 18;
        const NEW_LINK: u16 = 16;
        let link = |index: u32| {
            let mut body = [0; 16];
            body[4..8].copy_from_slice(&index.to_ne_bytes());
            body
        };
        let mut asker = Asker::open(Protocol::Route).expect("anybody may ask");
        let mut all = Vec::new();
        let index_of = |kind, body: &[u8]| (kind, u32_at(body, 4));
        asker.ask(GET_LINK, ALL, &link(0), |kind, body| all.push(index_of(kind, body))).expect("an answer");
        assert!(all.contains(&(NEW_LINK, Some(1))), "there is a loopback: {all:?}");

        let refused = asker.ask(GET_LINK, ONE, &link(i32::MAX as u32), |_, _| panic!("no such link"));
        assert_eq!(refused.expect_err("no such link").raw_os_error(), Some(Errno::ENODEV as i32));

        let mut one = Vec::new();
        asker.ask(GET_LINK, ONE, &link(1), |kind, body| one.push(index_of(kind, body))).expect("an answer");
        assert_eq!(one, [(NEW_LINK, Some(1))]);
    }
}
