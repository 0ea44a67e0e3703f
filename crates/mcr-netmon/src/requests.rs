//! Dumps: one question, the whole of one kind of object as answer.
//!
//! The kernel builds an answer while it is read, so a dump waits for no one but the kernel's own lock. The socket
//! is not subscribed to anything: what comes is the answer, or the rest of one that was given up.

use std::io;
use std::time::Duration;

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, setsockopt, sockopt};
use nix::sys::time::TimeVal;

use crate::message::{Update, parse_datagram};
use crate::wire::MESSAGE_HEADER_BYTES;

/// The kernel fills at most 32 KiB a read (`netlink_recvmsg`), unless one object is larger.
pub(crate) const DATAGRAM_BYTES: usize = 64 * 1024;
/// Never reached while the kernel is well; a bound all the same.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// What can be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dump {
    Links,
    Addresses,
    RoutesV4,
    RoutesV6,
    Neighbours,
}

impl Dump {
    pub(crate) const ALL: [Self; 5] =
        [Self::Links, Self::Addresses, Self::RoutesV4, Self::RoutesV6, Self::Neighbours];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Links => "links",
            Self::Addresses => "addresses",
            Self::RoutesV4 => "IPv4 routes",
            Self::RoutesV6 => "IPv6 routes",
            Self::Neighbours => "neighbours",
        }
    }
}

/// How a dump ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// All was seen.
    Whole,
    /// Something changed meanwhile, and something else may have been skipped.
    Interrupted,
}

#[derive(Debug)]
pub(crate) struct Requests {
    socket: Socket,
    sequence: u32,
    datagram: Vec<u8>,
}

impl Requests {
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        let timeout = TimeVal::new(ANSWER_WITHIN.as_secs().cast_signed(), 0);
        setsockopt(&socket, sockopt::ReceiveTimeout, &timeout)?;
        Ok(Self { socket, sequence: 0, datagram: Vec::with_capacity(DATAGRAM_BYTES) })
    }

    /// Asks for `dump` and hands each object to `each`. Counts what could not be read in `malformed`.
    pub(crate) fn dump(
        &mut self,
        dump: Dump,
        malformed: &mut u64,
        mut each: impl FnMut(Update),
    ) -> io::Result<Ended> {
        self.sequence = self.sequence.wrapping_add(1);
        self.socket.send(&request(dump, self.sequence), 0)?;
        let mut ended = Ended::Whole;
        loop {
            match receive(&self.socket, &mut self.datagram) {
                Ok(Received::Datagram) => {}
                Ok(Received::Lost | Received::Foreign) => {
                    ended = Ended::Interrupted;
                    continue;
                }
                Ok(Received::Nothing) => return Err(Errno::ETIMEDOUT.into()),
                Err(error) => return Err(error),
            }
            let parsed = parse_datagram(&self.datagram);
            *malformed += parsed.malformed;
            for message in parsed.messages.into_iter().filter(|m| m.sequence == self.sequence) {
                if message.interrupted {
                    ended = Ended::Interrupted;
                }
                match message.update {
                    Update::Done | Update::Error { errno: 0 } => return Ok(ended),
                    Update::Error { errno } => return Err(io::Error::from_raw_os_error(errno)),
                    update => each(update),
                }
            }
        }
    }
}

impl Requests {
    /// Sends a request that the kernel acknowledges, and waits for that. `bytes` begin with a netlink header; its sequence number
    /// is written here.
    pub(crate) fn acknowledged(&mut self, mut bytes: Vec<u8>) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        bytes[8..12].copy_from_slice(&self.sequence.to_ne_bytes());
        self.socket.send(&bytes, 0)?;
        loop {
            match receive(&self.socket, &mut self.datagram)? {
                Received::Datagram => {}
                Received::Lost | Received::Foreign => continue,
                Received::Nothing => return Err(Errno::ETIMEDOUT.into()),
            }
            let messages = parse_datagram(&self.datagram).messages;
            let answer = messages.into_iter().find(|message| message.sequence == self.sequence);
            match answer.map(|message| message.update) {
                Some(Update::Error { errno: 0 }) => return Ok(()),
                Some(Update::Error { errno }) => return Err(io::Error::from_raw_os_error(errno)),
                _ => {}
            }
        }
    }
}

/// What a read of a netlink socket gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Received {
    /// A whole datagram from the kernel is in the buffer.
    Datagram,
    /// There is nothing (left).
    Nothing,
    /// The kernel had more than the socket could hold, or the datagram more than the buffer; the buffer is
    /// larger now.
    Lost,
    /// Another process wrote to the socket; the buffer is not to be believed.
    Foreign,
}

/// Reads one datagram into `datagram`.
pub(crate) fn receive(socket: &Socket, datagram: &mut Vec<u8>) -> io::Result<Received> {
    loop {
        datagram.clear();
        // With MSG_TRUNC the length is the datagram's own, also when the buffer is too small (netlink(7)).
        let error = match socket.recv_from(datagram, MsgFlags::MSG_TRUNC.bits()) {
            Ok((_, from)) if from.port_number() != 0 => return Ok(Received::Foreign),
            Ok((length, _)) if length > datagram.len() => {
                datagram.clear();
                datagram.reserve(length.next_power_of_two());
                return Ok(Received::Lost);
            }
            Ok(_) => return Ok(Received::Datagram),
            Err(error) => error,
        };
        match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EINTR) => {}
            Some(Errno::EAGAIN) => return Ok(Received::Nothing),
            Some(Errno::ENOBUFS) => return Ok(Received::Lost),
            _ => return Err(error),
        }
    }
}

/// A dump request: the netlink header and the fixed header of the kind asked for.
fn request(dump: Dump, sequence: u32) -> Vec<u8> {
    const RTM_GETLINK: u16 = 18;
    const RTM_GETADDR: u16 = 22;
    const RTM_GETROUTE: u16 = 26;
    const RTM_GETNEIGH: u16 = 30;
    const NLM_F_REQUEST: u16 = 0x1;
    const NLM_F_DUMP: u16 = 0x300;
    const AF_INET: u8 = 2;
    const AF_INET6: u8 = 10;
    // Message type, length of the fixed header, family.
    let (kind, header_bytes, family) = match dump {
        Dump::Links => (RTM_GETLINK, 16, 0),
        Dump::Addresses => (RTM_GETADDR, 8, 0),
        Dump::RoutesV4 => (RTM_GETROUTE, 12, AF_INET),
        Dump::RoutesV6 => (RTM_GETROUTE, 12, AF_INET6),
        Dump::Neighbours => (RTM_GETNEIGH, 12, 0),
    };
    let mut bytes = vec![0; MESSAGE_HEADER_BYTES + header_bytes];
    bytes[MESSAGE_HEADER_BYTES] = family;
    if dump == Dump::Links {
        bytes.extend(without_statistics());
    }
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    bytes[0..4].copy_from_slice(&length.to_ne_bytes());
    bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
    bytes[6..8].copy_from_slice(&(NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
    bytes
}

/// The attribute that leaves counters out of a dump of links: they are most of its bytes, and not needed.
fn without_statistics() -> Vec<u8> {
    const IFLA_EXT_MASK: u16 = 29;
    const RTEXT_FILTER_SKIP_STATS: u32 = 1 << 3;
    let mut bytes = Vec::with_capacity(8);
    bytes.extend(8u16.to_ne_bytes());
    bytes.extend(IFLA_EXT_MASK.to_ne_bytes());
    bytes.extend(RTEXT_FILTER_SKIP_STATS.to_ne_bytes());
    bytes
}
