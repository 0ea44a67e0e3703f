//! One netlink request, one answer.
//!
//! Every request carries NLM_F_ACK, so the kernel closes each answer with an NLMSG_ERROR that holds 0 or an
//! errno. Answers are matched by sequence number; what is left of an abandoned request is passed over.

use std::io;

use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkBuffer, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use crate::error::LabError;

/// The kernel builds an answer in at most 32 KiB (NLMSG_GOODSIZE is smaller still); this leaves room.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// A netlink socket and the number of its last request.
#[derive(Debug)]
pub(crate) struct Requests {
    socket: Socket,
    sequence: u32,
}

impl Requests {
    /// Opens a socket in the namespace of the calling thread, where it stays.
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Sends `message` with `flags` beside REQUEST and ACK; gives what came before the acknowledgement.
    /// `what` completes the sentence "cannot ...".
    pub(crate) fn send(
        &mut self,
        what: impl FnOnce() -> String,
        flags: u16,
        message: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, LabError> {
        match self.exchange(flags, message) {
            Ok(answers) => Ok(answers),
            Err(Failure::Errno(source)) => Err(LabError::Request { what: what(), source }),
            Err(Failure::Answer(reason)) => Err(LabError::Answer { what: what(), reason }),
        }
    }

    fn exchange(
        &mut self,
        flags: u16,
        message: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, Failure> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        request.header.sequence_number = self.sequence;
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        let mut answers = Vec::new();
        loop {
            let mut datagram = Vec::with_capacity(ANSWER_BYTES_MAX);
            self.socket.recv(&mut datagram, 0)?;
            if read_answer(&datagram, self.sequence, &mut answers)? {
                return Ok(answers);
            }
        }
    }
}

/// Appends what `datagram` says about request `sequence`; true when it holds the acknowledgement.
fn read_answer(
    datagram: &[u8],
    sequence: u32,
    answers: &mut Vec<RouteNetlinkMessage>,
) -> Result<bool, Failure> {
    let mut rest = datagram;
    while !rest.is_empty() {
        let length = NetlinkBuffer::new_checked(rest).map_err(undecoded)?.length() as usize;
        if NetlinkBuffer::new(rest).sequence_number() == sequence {
            let message =
                NetlinkMessage::<RouteNetlinkMessage>::deserialize(&rest[..length]).map_err(undecoded)?;
            match message.payload {
                NetlinkPayload::Error(error) if error.code.is_none() => return Ok(true),
                NetlinkPayload::Error(error) => return Err(Failure::Errno(error.to_io())),
                NetlinkPayload::InnerMessage(inner) => answers.push(inner),
                _ => {}
            }
        }
        rest = &rest[length.next_multiple_of(4).min(rest.len())..];
    }
    Ok(false)
}

enum Failure {
    Errno(io::Error),
    Answer(String),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Errno(error)
    }
}

fn undecoded(error: impl std::fmt::Display) -> Failure {
    Failure::Answer(error.to_string())
}
