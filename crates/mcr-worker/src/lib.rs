//! A worker: the data-plane process of the relay.
//!
//! One thread with one I/O does everything, in turns: it waits, takes what came to its routes, sends the copies and
//! recycles the frames. It opens nothing: sockets, routes and the memory to count in come from the supervisor over one
//! channel, the only thing a worker inherits. It parses what strangers send, so nothing privileged may be in its process.
//!
//! - [`arrival`]: received bytes to an arrival or a reason for none, pure.
//! - [`counts`]: what happens to them into the counters; public so that its cost can be measured.
//! - the rest is private: `start` (from the channel to a worker that is ready), `event_loop` (the turns), `batch` and `sends` (a
//!   batch in and out), `raw` (headers of copies that keep their source), `trace`, `sockets`, `link` and `commands` (the supervisor).
//!
//! Once started a worker makes no system calls but those of mcr-uring-io, `recvmsg` and `sendmsg` on the channel, `close`, and
//! the clocks. In steady state nothing is allocated, formatted or logged per packet.
#![forbid(unsafe_code)]

pub mod arrival;
mod batch;
mod commands;
pub mod counts;
mod event_loop;
mod guards;
mod link;
mod raw;
mod sends;
mod sockets;
mod start;
mod trace;
mod turn;

use std::{io, os::fd::OwnedFd};

/// Why a worker ended other than by being told to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkerError {
    /// The first message was no start.
    #[error("the supervisor's first message does not start the worker: {why}")]
    NotStarted {
        /// What it was.
        why: String,
    },
    /// The start came without counters.
    #[error("the supervisor sent no memory to count in")]
    NoCounters,
    /// The counters could not be used.
    #[error("cannot use the memory to count in")]
    Counters(#[source] mcr_metrics::AttachError),
    /// No I/O.
    #[error("cannot open the I/O")]
    Io(#[source] mcr_uring_io::OpenError),
    /// The channel could not be watched.
    #[error("cannot watch the channel to the supervisor")]
    Watch(#[source] mcr_uring_io::AddError),
    /// Waiting failed, time and again.
    #[error("cannot wait for packets")]
    Wait(#[source] mcr_uring_io::WaitError),
    /// The channel failed.
    #[error("the channel to the supervisor failed")]
    Channel(#[source] io::Error),
    /// A step of the confinement failed; the supervisor has been told which.
    #[error("cannot confine itself")]
    Confine(#[source] mcr_confine::ConfineError),
    /// A message could not be encoded.
    #[error("cannot encode a message to the supervisor")]
    Encode(#[source] mcr_proto::codec::CodecError),
    /// Nobody listens.
    #[error("the supervisor takes no messages")]
    Unheard,
}

/// Runs a worker in a process of its own until the supervisor tells it to stop or is gone. The process must have no other
/// thread: before it says that it is ready it loses every right it does not need, for good.
///
/// `channel` is the worker's end of an `mcr_fdpass` pair. What it is told there is in [`mcr_proto::message::ToWorker`].
///
/// # Errors
/// [`WorkerError`]: the process must end, and whoever started it may start another.
pub fn run_confined(channel: OwnedFd) -> Result<(), WorkerError> {
    run_as(channel, Confinement::Process)
}

/// Runs a worker on the calling thread and leaves the process its rights: for tests, which are their own supervisor.
///
/// # Errors
/// As [`run_confined`].
pub fn run(channel: OwnedFd) -> Result<(), WorkerError> {
    run_as(channel, Confinement::None)
}

/// Whether a worker confines the process that it runs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Confinement {
    Process,
    None,
}

fn run_as(channel: OwnedFd, confinement: Confinement) -> Result<(), WorkerError> {
    match start::start(channel, confinement)? {
        Some(worker) => worker.work(),
        None => Ok(()),
    }
}
