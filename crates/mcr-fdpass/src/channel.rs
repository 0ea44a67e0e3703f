//! One end of a channel: whole messages out, whole messages in.
//!
//! Does not queue, retry or time anything: a full socket is the caller's to wait for. Invariant: after every call,
//! a descriptor that came in is either in the [`Received`] handed to the caller or closed, exactly once; the type
//! `OwnedFd` carries that, no descriptor number is ever kept beside it.

use crate::manifest::{self, MESSAGE_BYTES_MAX, ManifestError};
use crate::{BODY_BYTES_MAX, FDS_MAX, Tag};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
    sockopt::set_socket_send_buffer_size,
};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

/// Why a message was not sent. None of it was: a packet goes whole or not at all.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The socket is non-blocking and full.
    #[error("the peer has not read its earlier messages yet")]
    WouldBlock,
    /// The body is too long.
    #[error("body of {bytes} bytes is longer than the {BODY_BYTES_MAX} of one message")]
    TooLarge {
        /// Length of the body.
        bytes: usize,
    },
    /// Too many descriptors.
    #[error("{count} descriptors are more than the {FDS_MAX} of one message")]
    TooManyFds {
        /// Descriptors given.
        count: usize,
    },
    /// The other end is closed.
    #[error("the peer has closed its end")]
    PeerGone,
    /// Anything else the kernel said.
    #[error("sendmsg failed")]
    Io(#[source] io::Error),
}

/// Why no message was received.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecvError {
    /// The socket is non-blocking and empty.
    #[error("no message is waiting")]
    WouldBlock,
    /// The other end is closed and everything it sent has been read.
    #[error("the peer has closed its end")]
    Closed,
    /// Control data was cut: this process may open no more descriptors, or more came than a message may have.
    #[error(
        "control data truncated; the {got} descriptors that came were closed (RLIMIT_NOFILE may be too low)"
    )]
    Truncated {
        /// Descriptors that came, now closed.
        got: usize,
    },
    /// The packet is longer than the longest message.
    #[error("packet longer than a message can be; the {got} descriptors that came were closed")]
    TooLong {
        /// Descriptors that came, now closed.
        got: usize,
    },
    /// More or fewer descriptors than the manifest names.
    #[error("manifest names {want} descriptors, {got} came and were closed")]
    Count {
        /// Descriptors named.
        want: usize,
        /// Descriptors that came, now closed.
        got: usize,
    },
    /// The bytes are no message.
    #[error("not a message; the {got} descriptors that came were closed")]
    Manifest {
        /// Descriptors that came, now closed.
        got: usize,
        /// What is wrong with the bytes.
        #[source]
        source: ManifestError,
    },
    /// Anything else the kernel said.
    #[error("recvmsg failed")]
    Io(#[source] io::Error),
}

/// The descriptors of one message, in the order they were sent.
#[derive(Debug, Default)]
pub struct Received {
    /// Each with the tag its sender gave it. All have close-on-exec set.
    pub fds: Vec<(Tag, OwnedFd)>,
}

impl Received {
    /// Takes out the first descriptor with this tag.
    pub fn take(&mut self, tag: Tag) -> Option<OwnedFd> {
        let index = self.fds.iter().position(|(has, _)| *has == tag)?;
        Some(self.fds.remove(index).1)
    }
}

/// Makes two connected ends, both blocking and with close-on-exec set, each with room for a few of the longest messages.
///
/// # Errors
/// Those of `socketpair(2)`.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let ends = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    for end in [&ends.0, &ends.1] {
        // The send buffer bounds the size of a packet, and a host may have a small default. The kernel grants the double
        // of what it is asked for, up to net.core.wmem_max.
        set_socket_send_buffer_size(end, 2 * MESSAGE_BYTES_MAX)?;
    }
    Ok(ends)
}

/// One end of a channel, a Unix socket of type `SOCK_SEQPACKET`.
///
/// Shared references suffice for both directions; each message is one system call, so threads cannot mix theirs.
#[derive(Debug)]
pub struct Channel {
    fd: OwnedFd,
}

impl From<OwnedFd> for Channel {
    /// Takes an end made by [`pair`] or inherited. Any other kind of socket gives errors on use, not wrong messages.
    fn from(fd: OwnedFd) -> Self {
        Self { fd }
    }
}

impl From<Channel> for OwnedFd {
    fn from(channel: Channel) -> Self {
        channel.fd
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Channel {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl Channel {
    /// Makes both ends at once; see [`pair`].
    ///
    /// # Errors
    /// Those of `socketpair(2)`.
    pub fn pair() -> io::Result<(Self, Self)> {
        pair().map(|(a, b)| (a.into(), b.into()))
    }

    /// Chooses whether calls wait. The setting belongs to the socket, so every duplicate of it changes too.
    ///
    /// # Errors
    /// Those of `ioctl(FIONBIO)`.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        Ok(rustix::io::ioctl_fionbio(&self.fd, nonblocking)?)
    }

    /// Sends one message. The descriptors stay open here; the peer gets duplicates.
    ///
    /// # Errors
    /// [`SendError`]; then nothing was sent.
    pub fn send(&self, body: &[u8], fds: &[(Tag, BorrowedFd<'_>)]) -> Result<(), SendError> {
        let mut head = Vec::with_capacity(manifest::HEADER_BYTES + 4 * fds.len());
        manifest::encode_head(fds.iter().map(|(tag, _)| *tag), body.len(), &mut head).map_err(|error| {
            match error {
                ManifestError::TooManyFds(count) => SendError::TooManyFds { count },
                _ => SendError::TooLarge { bytes: body.len() },
            }
        })?;
        let bare: Vec<_> = fds.iter().map(|(_, fd)| *fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !bare.is_empty() {
            let fits = control.push(SendAncillaryMessage::ScmRights(&bare));
            assert!(fits, "space for FDS_MAX descriptors holds no more than FDS_MAX");
        }
        let parts = [IoSlice::new(&head), IoSlice::new(body)];
        loop {
            match sendmsg(&self.fd, &parts, &mut control, SendFlags::NOSIGNAL) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Err(SendError::WouldBlock),
                Err(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => return Err(SendError::PeerGone),
                Err(errno) => return Err(SendError::Io(errno.into())),
            }
        }
    }

    /// Receives one message: its body replaces what is in `body`, whose capacity is kept and reused.
    ///
    /// # Errors
    /// [`RecvError`]; then `body` is empty and every descriptor of the message is closed.
    pub fn recv(&self, body: &mut Vec<u8>) -> Result<Received, RecvError> {
        body.clear();
        body.resize(MESSAGE_BYTES_MAX, 0);
        let received = self.recv_into(body);
        if received.is_err() {
            body.clear();
        }
        received
    }

    fn recv_into(&self, body: &mut Vec<u8>) -> Result<Received, RecvError> {
        let packet = recv_packet(self.fd.as_fd(), body)?;
        let got = packet.fds.len();
        if packet.flags.contains(ReturnFlags::CTRUNC) {
            return Err(RecvError::Truncated { got });
        }
        if packet.flags.contains(ReturnFlags::TRUNC) {
            return Err(RecvError::TooLong { got });
        }
        // A message has a header, so a packet of nothing is the end of the stream.
        if packet.bytes == 0 {
            return Err(RecvError::Closed);
        }
        body.truncate(packet.bytes);
        let message = manifest::decode(body).map_err(|source| RecvError::Manifest { got, source })?;
        if message.tags.len() != got {
            return Err(RecvError::Count { want: message.tags.len(), got });
        }
        body.drain(..message.body.start);
        Ok(Received { fds: message.tags.into_iter().zip(packet.fds).collect() })
    }
}

/// A packet as the kernel gave it. Owns its descriptors: whichever check fails, dropping it closes them.
struct Packet {
    bytes: usize,
    flags: ReturnFlags,
    fds: Vec<OwnedFd>,
}

fn recv_packet(socket: BorrowedFd<'_>, room: &mut [u8]) -> Result<Packet, RecvError> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut resets = 0;
    let packet = loop {
        match recvmsg(socket, &mut [IoSliceMut::new(room)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Ok(packet) => break packet,
            Err(Errno::INTR) => {}
            // A peer that died with mail unread leaves ECONNRESET in front of its own last messages; reading takes
            // the error away, and the messages are there (unix(7), sk_err in net/core/datagram.c).
            Err(Errno::CONNRESET) if resets == 0 => resets += 1,
            Err(Errno::CONNRESET) => return Err(RecvError::Closed),
            Err(Errno::AGAIN) => return Err(RecvError::WouldBlock),
            Err(errno) => return Err(RecvError::Io(errno.into())),
        }
    };
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    Ok(Packet { bytes: packet.bytes, flags: packet.flags, fds })
}
