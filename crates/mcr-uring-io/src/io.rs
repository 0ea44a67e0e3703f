//! The one door to both back ends.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use crate::frames::Frames;
use crate::ring::RingIo;
use crate::syscalls::SyscallIo;
use crate::{
    AddError, Backend, Choice, Datagram, Event, IoConfig, OpenError, Outgoing, ReceiveShape, Received,
    RingShape, SendError, SocketKey, UringUnavailable, WaitError,
};

/// One thread's I/O. It stays in the thread that opened it, which the kernel insists on as well.
///
/// Dropping it sends what is queued, ends all operations and closes all sockets. The kernel takes a ring apart a little
/// later and may then interrupt, once, a blocking call of the same thread (EINTR).
#[derive(Debug)]
pub struct Io {
    engine: Engine,
    fallback: Option<UringUnavailable>,
    events_max: usize,
}

#[derive(Debug)]
enum Engine {
    Ring(Box<RingIo>),
    Syscalls(Box<SyscallIo>),
}

/// What an [`Io`] did so far, for its own sake; datagrams are for the caller to count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// System calls to submit, send, receive and wait.
    pub calls: u64,
    /// Times a receiver found no free buffer.
    pub starved: u64,
    /// Times a receiver was armed, the first time included; 0 for the twin.
    pub armed: u64,
}

macro_rules! on {
    ($io:expr, $engine:ident => $call:expr) => {
        match $io {
            Engine::Ring($engine) => $call,
            Engine::Syscalls($engine) => $call,
        }
    };
}

impl Io {
    /// Opens the back end that the config chooses. All memory is mapped here.
    pub fn open(config: &IoConfig) -> Result<Self, OpenError> {
        config.check()?;
        let (engine, fallback) = match config.backend {
            Choice::Syscalls => (Self::syscalls(config)?, None),
            Choice::Uring => (Engine::Ring(Box::new(RingIo::open(config, Frames::new(config)?)?)), None),
            Choice::Auto => match RingIo::open(config, Frames::new(config)?) {
                Ok(ring) => (Engine::Ring(Box::new(ring)), None),
                Err(reason) => (Self::syscalls(config)?, Some(reason)),
            },
        };
        Ok(Self { engine, fallback, events_max: config.events_max.into() })
    }

    fn syscalls(config: &IoConfig) -> Result<Engine, OpenError> {
        Ok(Engine::Syscalls(Box::new(SyscallIo::open(config, Frames::new(config)?)?)))
    }

    /// Which back end is in use.
    #[must_use]
    pub fn backend(&self) -> Backend {
        match self.engine {
            Engine::Ring(_) => Backend::Uring,
            Engine::Syscalls(_) => Backend::Syscalls,
        }
    }

    /// Why io_uring is not in use though `Auto` tried it.
    #[must_use]
    pub fn fallback_reason(&self) -> Option<&UringUnavailable> {
        self.fallback.as_ref()
    }

    /// The most events that one `wait` reports: the capacity an event vector should have.
    #[must_use]
    pub fn events_max(&self) -> usize {
        self.events_max
    }

    /// Adds a datagram socket to receive from; sending on it is possible too. It must not have IP_RECVERR on, as
    /// nobody reads its error queue.
    pub fn add_receiver(&mut self, fd: OwnedFd, shape: ReceiveShape) -> Result<SocketKey, AddError> {
        let ReceiveShape { name_bytes, control_bytes } = shape;
        let shape = shape.rounded().ok_or(AddError::Shape { name_bytes, control_bytes })?;
        on!(&mut self.engine, engine => engine.add_receiver(fd, shape))
    }

    /// Adds an AF_PACKET socket that has a receive ring of this shape, to receive from. It must not have IP_RECVERR on, and
    /// nobody else may read it. Frames lie in the ring until they are recycled and their sends have ended; those too large
    /// for a slot are received by themselves, in their place in the order.
    pub fn add_ring(&mut self, fd: OwnedFd, shape: RingShape) -> Result<SocketKey, AddError> {
        on!(&mut self.engine, engine => engine.add_ring(fd, shape))
    }

    /// Has a receiver come before those of a higher number, or after; all begin with 0. Rings of a lower number are emptied before
    /// others are looked at. Receivers without a ring share the buffers; those of a lower number are served first where there are
    /// too few, but an io_uring receive that is under way is not interrupted.
    pub fn prioritize(&mut self, key: SocketKey, priority: u8) {
        on!(&mut self.engine, engine => engine.prioritize(key, priority));
    }

    /// From now on one `wait` takes at most so many frames from rings, all together; by default as many as it reports events.
    /// With 0 they stay in the rings, and a wait does not return on their account.
    pub fn limit_ring_frames(&mut self, frames_max: usize) {
        on!(&mut self.engine, engine => engine.rings_mut().frames_max = frames_max);
    }

    /// Adds a datagram socket to send on.
    pub fn add_sender(&mut self, fd: OwnedFd) -> Result<SocketKey, AddError> {
        on!(&mut self.engine, engine => engine.add_sender(fd))
    }

    /// Adds anything that can be polled; readability is reported, the caller reads.
    pub fn add_watch(&mut self, fd: OwnedFd) -> Result<SocketKey, AddError> {
        on!(&mut self.engine, engine => engine.add_watch(fd))
    }

    /// The descriptor of a socket that is not closed.
    #[must_use]
    pub fn fd(&self, key: SocketKey) -> Option<BorrowedFd<'_>> {
        on!(&self.engine, engine => engine.fd(key))
    }

    /// Closes a socket. No event will bear this key, though sends queued before still go out and report their tokens.
    /// The descriptor is closed when the last operation on it has ended, with io_uring within the next waits.
    /// Datagrams received on it remain valid. A key of no socket is ignored.
    pub fn close(&mut self, key: SocketKey) {
        on!(&mut self.engine, engine => engine.close(key));
    }

    /// Ends receiving, for another reader of the same socket to go on. Unlike with [`close`](Self::close) nothing is lost: what was taken
    /// from the kernel already is still reported, then [`Event::Stopped`], once, within the next waits; the rest stays in the
    /// kernel. Sending goes on. A key of no receiver, or of one that was stopped before, is ignored.
    pub fn stop(&mut self, key: SocketKey) {
        on!(&mut self.engine, engine => engine.stop(key));
    }

    /// Queues a message; it goes out with the next `wait` or `flush`, per socket in the order queued.
    ///
    /// # Panics
    /// If a part is a datagram of another `Io`.
    #[inline]
    pub fn send(&mut self, message: &Outgoing<'_>) -> Result<(), SendError> {
        on!(&mut self.engine, engine => engine.send(message))
    }

    /// Sends what is queued without waiting; results come with the next `wait`.
    #[inline]
    pub fn flush(&mut self) -> Result<(), WaitError> {
        on!(&mut self.engine, engine => engine.flush())
    }

    /// Sends what is queued, waits until something happened or the timeout is over (`None`: no timeout), and appends at
    /// most `events_max` events. May come back early without any, as after a signal.
    ///
    /// Take the events out with `drain(..)`: a [`Received`] that is merely dropped is a buffer lost.
    #[inline]
    pub fn wait(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> Result<(), WaitError> {
        on!(&mut self.engine, engine => engine.wait(timeout, events))
    }

    /// A received datagram's parts.
    ///
    /// # Panics
    /// If the datagram is another `Io`'s.
    #[inline]
    #[must_use]
    pub fn datagram<'a>(&'a self, received: &'a Received) -> Datagram<'a> {
        on!(&self.engine, engine => engine.frames().datagram(received))
    }

    /// Gives a datagram's buffer back; it is received into again once the sends that refer to it have ended.
    ///
    /// # Panics
    /// If the datagram is another `Io`'s.
    #[inline]
    pub fn recycle(&mut self, received: Received) {
        on!(&mut self.engine, engine => engine.recycle(received));
    }

    /// What was done so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        on!(&self.engine, engine => engine.counts())
    }
}
