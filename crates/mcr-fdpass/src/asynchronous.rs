//! The channel for tasks of a tokio runtime.
//!
//! Every attempt is one non-blocking system call, so dropping a future that has not finished has neither sent nor
//! taken anything.

use crate::{Channel, Received, RecvError, SendError, Tag};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A [`Channel`] whose calls wait without holding a thread.
#[derive(Debug)]
pub struct AsyncChannel {
    inner: AsyncFd<Channel>,
}

impl AsyncChannel {
    /// Makes a channel non-blocking and registers it with the runtime.
    ///
    /// # Errors
    /// Those of `ioctl(FIONBIO)` and of `epoll_ctl(2)`.
    ///
    /// # Panics
    /// Outside a tokio runtime with its I/O driver enabled.
    pub fn new(channel: Channel) -> io::Result<Self> {
        channel.set_nonblocking(true)?;
        // Deprecated for types that might not own the descriptor they name; a `Channel` does, and what replaces it is
        // unsafe, which this crate does without.
        #[allow(deprecated)]
        let inner = AsyncFd::with_interest(channel, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Self { inner })
    }

    /// Sends one message, waiting for room.
    ///
    /// # Errors
    /// Those of [`Channel::send`], but never `WouldBlock`.
    pub async fn send(&self, body: &[u8], fds: &[(Tag, BorrowedFd<'_>)]) -> Result<(), SendError> {
        loop {
            let mut ready = self.inner.writable().await.map_err(SendError::Io)?;
            match self.try_send(body, fds) {
                Err(SendError::WouldBlock) => ready.clear_ready(),
                done => return done,
            }
        }
    }

    /// Sends one message if there is room for it now.
    ///
    /// # Errors
    /// Those of [`Channel::send`].
    pub fn try_send(&self, body: &[u8], fds: &[(Tag, BorrowedFd<'_>)]) -> Result<(), SendError> {
        self.inner.get_ref().send(body, fds)
    }

    /// Receives one message, waiting for it.
    ///
    /// # Errors
    /// Those of [`Channel::recv`], but never `WouldBlock`.
    pub async fn recv(&self, body: &mut Vec<u8>) -> Result<Received, RecvError> {
        loop {
            let mut ready = self.inner.readable().await.map_err(RecvError::Io)?;
            match self.try_recv(body) {
                Err(RecvError::WouldBlock) => ready.clear_ready(),
                done => return done,
            }
        }
    }

    /// Receives one message if one is waiting.
    ///
    /// # Errors
    /// Those of [`Channel::recv`].
    pub fn try_recv(&self, body: &mut Vec<u8>) -> Result<Received, RecvError> {
        self.inner.get_ref().recv(body)
    }

    /// Takes the channel off the runtime. It stays non-blocking.
    pub fn into_channel(self) -> Channel {
        self.inner.into_inner()
    }
}

impl AsFd for AsyncChannel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.get_ref().as_fd()
    }
}

impl From<AsyncChannel> for OwnedFd {
    fn from(channel: AsyncChannel) -> Self {
        channel.into_channel().into()
    }
}
