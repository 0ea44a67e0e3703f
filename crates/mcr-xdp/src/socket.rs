//! A socket in use: its rings, and the system calls that wake the other side.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use crate::error::OpenError;
use crate::frame::Frame;
use crate::map::Map;
use crate::open::Opened;
use crate::ring::{Consumer, Offsets, Producer, Ring};
use crate::rings::{Ends, Rings};
use crate::{memory, sys};

/// An AF_XDP socket, mapped into this process.
///
/// One turn of a loop: [`Socket::receive`], [`Rings::send`] or [`Rings::release`] each frame, [`Socket::flush`]; and
/// [`Socket::wait`] when nothing came.
#[derive(Debug)]
pub struct Socket {
    // Before the descriptor, though either order would do: a mapping holds the socket's rings, too.
    rings: Rings,
    socket: OwnedFd,
    zero_copy: bool,
}

/// What came of [`Socket::flush`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "frames that the device did not take are to be counted"]
#[non_exhaustive]
pub struct Sent {
    /// Frames that the device dropped instead of sending them (copy mode; with zero-copy the device's own counters say so). Their
    /// memory comes back like that of sent ones.
    pub dropped: u32,
    /// Frames that remain in the transmit ring, because the device or the socket buffer has no room now. They go with a later flush.
    pub pending: u32,
}

impl Socket {
    /// Maps what [`Opened::open`] made, here or in another process, and gives the kernel its first frames. Takes no rights; the system
    /// calls it makes are `fcntl`, `fstat`, `mmap` and `getsockopt`.
    ///
    /// There must be no other `Socket` of the same descriptors, and there never was one.
    ///
    /// # Errors
    /// [`OpenError`] says what cannot be mapped.
    pub fn new(opened: Opened) -> Result<Self, OpenError> {
        let Opened { socket, memory, shape, zero_copy } = opened;
        shape.check()?;
        let umem = memory::open(memory.as_fd(), shape.memory_bytes())?;
        let ends = map_rings(socket.as_fd(), &shape)?;
        let mut rings = Rings::new(shape, Arc::new(umem), ends);
        rings.recycle();
        Ok(Self { rings, socket, zero_copy })
    }

    /// The frames and rings.
    #[inline]
    #[must_use]
    pub fn rings(&self) -> &Rings {
        &self.rings
    }

    /// The frames and rings, to send and release.
    #[inline]
    #[must_use]
    pub fn rings_mut(&mut self) -> &mut Rings {
        &mut self.rings
    }

    /// Whether the driver works on the memory directly.
    #[must_use]
    pub fn is_zero_copy(&self) -> bool {
        self.zero_copy
    }

    /// Takes back what was sent, gives the kernel frames to receive into, and appends at most `frames_max` received frames to
    /// `out`. Says how many.
    ///
    /// # Errors
    /// The driver had to be woken for the fill ring and that failed, e.g. with ENETDOWN. Frames may have been appended all the same.
    #[inline]
    pub fn receive(&mut self, out: &mut Vec<Frame>, frames_max: usize) -> io::Result<usize> {
        self.rings.recycle();
        let received = self.rings.receive(out, frames_max);
        if received == 0 && self.rings.fill_needs_wakeup() {
            sys::wake_receive(self.socket.as_fd())?;
        }
        Ok(received)
    }

    /// Shows the kernel what was put into the transmit ring, and makes it send.
    ///
    /// # Errors
    /// The interface is down (ENETDOWN) or gone (ENXIO). The frames stay in the ring.
    #[inline]
    pub fn flush(&mut self) -> io::Result<Sent> {
        self.rings.submit();
        let mut sent = Sent::default();
        if self.rings.counts().sending == 0 {
            return Ok(sent);
        }
        if !self.rings.transmit_needs_wakeup() {
            sent.pending = self.rings.transmit_pending();
            return Ok(sent);
        }
        // One call sends some of them in copy mode, so it takes several; each sends at least one, or it ends here.
        for _ in 0..self.rings.shape().transmit_entries {
            let before = self.rings.transmit_pending();
            match sys::wake_transmit(self.socket.as_fd()).map_err(|error| (error.raw_os_error(), error)) {
                Ok(()) => break,
                // One frame was dropped, and its completion is there (xsk_generic_xmit in net/xdp/xsk.c).
                Err((Some(libc::EBUSY), _)) => sent.dropped += 1,
                Err((Some(libc::EAGAIN), _)) => {
                    // The batch of one call was sent, or the completion ring is full, or the device is.
                    let completed = self.rings.recycle();
                    if completed == 0 && self.rings.transmit_pending() == before {
                        break;
                    }
                }
                Err((Some(libc::ENOBUFS | libc::ENOMEM), _)) => break,
                Err((_, error)) => return Err(error),
            }
        }
        sent.pending = self.rings.transmit_pending();
        Ok(sent)
    }

    /// Waits until there is something to receive; false after `timeout`, or a signal. In copy mode this also sends what is pending.
    ///
    /// # Errors
    /// What `ppoll(2)` says.
    pub fn wait(&self, timeout: Option<Duration>) -> io::Result<bool> {
        sys::wait_readable(self.socket.as_fd(), timeout)
    }
}

impl AsFd for Socket {
    /// The socket, for an event loop: readable when there is something to receive.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn map_rings(socket: BorrowedFd<'_>, shape: &crate::Shape) -> Result<Ends, OpenError> {
    let offsets =
        sys::map_offsets(socket).map_err(|source| OpenError::Read { what: "ring offsets", source })?;
    Ok(Ends {
        receive: Consumer::new(map_ring(
            socket,
            "receive",
            offsets.rx,
            shape.receive_entries,
            libc::XDP_PGOFF_RX_RING as u64,
        )?),
        transmit: Producer::new(map_ring(
            socket,
            "transmit",
            offsets.tx,
            shape.transmit_entries,
            libc::XDP_PGOFF_TX_RING as u64,
        )?),
        fill: Producer::new(map_ring(
            socket,
            "fill",
            offsets.fr,
            shape.fill_entries,
            libc::XDP_UMEM_PGOFF_FILL_RING,
        )?),
        completion: Consumer::new(map_ring(
            socket,
            "completion",
            offsets.cr,
            shape.completion_entries,
            libc::XDP_UMEM_PGOFF_COMPLETION_RING,
        )?),
    })
}

/// The kernel refuses a mapping longer than the ring it made, so that `entries` is never more than there are.
fn map_ring<T: Copy>(
    socket: BorrowedFd<'_>,
    ring: &'static str,
    offsets: libc::xdp_ring_offset,
    entries: u32,
    place: u64,
) -> Result<Ring<T>, OpenError> {
    let failed = |source| OpenError::Ring { ring, entries, source };
    // Offsets within the mapping's first page.
    let offset = |offset: u64| usize::try_from(offset).map_err(|_| failed(io::ErrorKind::InvalidData.into()));
    let offsets = Offsets {
        producer: offset(offsets.producer)?,
        consumer: offset(offsets.consumer)?,
        flags: offset(offsets.flags)?,
        entries: offset(offsets.desc)?,
    };
    let bytes = offsets.entries + entries as usize * size_of::<T>();
    let map = Map::of(socket, bytes, place).map_err(failed)?;
    Ok(Ring::new(Arc::new(map), offsets, entries))
}
