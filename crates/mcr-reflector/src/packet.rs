//! AF_PACKET: works on any interface.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use mcr_reflect::{Meta, WallTime};
use mcr_socket::packet::{FrameBatch, FrameInfo, FrameRing, RingShape, SendReport};

use crate::{
    ReflectorError,
    back_end::{BATCH_FRAMES, BackEnd, Sent},
};

/// Ethernet header, two tags, and what a reply may be longer than its request.
const SPARE_BYTES: usize = 14 + 8 + 128;

/// A packet socket with a receive ring: frames are changed and sent where the kernel wrote them.
#[derive(Debug)]
pub(crate) struct PacketRing {
    socket: OwnedFd,
    ring: FrameRing,
}

impl PacketRing {
    /// Maps the ring. Takes a system call that a confined process does not have.
    pub(crate) fn new(socket: OwnedFd, shape: RingShape) -> Result<Self, ReflectorError> {
        let ring = FrameRing::map(&socket, shape, BATCH_FRAMES).map_err(ReflectorError::Ring)?;
        Ok(Self { socket, ring })
    }
}

impl BackEnd for PacketRing {
    fn receive(&mut self) -> io::Result<usize> {
        self.ring.receive(&self.socket)
    }

    #[inline]
    fn frame(&mut self, index: usize) -> (&mut [u8], usize, Meta) {
        let (room, info) = self.ring.frame(index);
        (room, info.bytes, meta(&info))
    }

    #[inline]
    fn queue(&mut self, index: usize, bytes: usize) {
        self.ring.queue(index, bytes);
    }

    fn flush(&mut self) -> Sent {
        self.ring.send(&self.socket).into()
    }

    fn send_one(&mut self, frame: &[u8]) -> Sent {
        FrameBatch::send_one(&self.socket, frame).into()
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[inline]
fn meta(info: &FrameInfo) -> Meta {
    let received = info.received_ns.map(WallTime::from_unix_ns);
    Meta { received, partial_checksum: info.checksum_not_ready, ..Meta::default() }
}

/// A packet socket without a ring, where the kernel has no memory for one, and its batch.
#[derive(Debug)]
pub(crate) struct Packet {
    socket: OwnedFd,
    batch: FrameBatch,
}

impl Packet {
    pub(crate) fn new(socket: OwnedFd, mtu: usize) -> Self {
        Self { socket, batch: FrameBatch::new(BATCH_FRAMES, mtu + SPARE_BYTES) }
    }
}

impl BackEnd for Packet {
    fn receive(&mut self) -> io::Result<usize> {
        self.batch.receive(&self.socket)
    }

    #[inline]
    fn frame(&mut self, index: usize) -> (&mut [u8], usize, Meta) {
        let (room, info) = self.batch.frame(index);
        (room, info.bytes, meta(&info))
    }

    #[inline]
    fn queue(&mut self, index: usize, bytes: usize) {
        self.batch.queue(index, bytes);
    }

    fn flush(&mut self) -> Sent {
        self.batch.send(&self.socket).into()
    }

    fn send_one(&mut self, frame: &[u8]) -> Sent {
        FrameBatch::send_one(&self.socket, frame).into()
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl From<SendReport> for Sent {
    fn from(report: SendReport) -> Self {
        let SendReport { frames, bytes, full, errors, errno } = report;
        Self { frames: frames as u64, bytes: bytes as u64, full: full as u64, errors: errors as u64, errno }
    }
}
