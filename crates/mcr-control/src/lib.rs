//! The control-plane process: what clients say in JSON or over HTTP, said to the supervisor in types.
//!
//! It parses and checks everything that comes from a client, so that the supervisor, which has rights, never does. It has
//! no state but its connections: rules and workers are asked of the supervisor each time, counters are read from shared
//! memory. It ends with its channel, so a supervisor that dies takes it along.
//!
//! Bounds, all of them in the module `limits`: how many clients there are, how long a line is, how long half a line or an unread
//! response is waited for, how many requests are under way at the supervisor and how long an answer may take. A client
//! gets its answers in order and has one request under way at a time.
//!
//! What it does not do: make the listening sockets, or remember anything over a restart.

#![forbid(unsafe_code)]

mod answer;
mod classes;
mod client;
mod config;
mod feed;
mod http;
mod limits;
mod line;
mod logs;
mod peer;
mod rates;
pub mod request;
mod serve;
mod stats;
mod supervisor;
mod trace;
mod view;

#[cfg(test)]
mod tests;

use std::{io, os::fd::OwnedFd};

use mcr_fdpass::{RecvError, SendError};
use mcr_metrics::AttachError;
use mcr_proto::codec::CodecError;
use tokio::{runtime, task::LocalSet};
use tracing_subscriber::layer::SubscriberExt;

use limits::Limits;
use logs::Lines;

/// Why the control process ended other than by being told to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// No event loop.
    #[error("the event loop could not be set up")]
    Runtime(#[source] io::Error),
    /// The first message is not the one that starts.
    #[error("the supervisor's first message is not `Start`; control and supervisor must be of one build")]
    NotStarted,
    /// A descriptor is missing among those that came with `Start`.
    #[error("the supervisor's `Start` came without {what}")]
    Missing {
        /// Which.
        what: String,
    },
    /// Shared memory that is none.
    #[error("the counters of worker {worker} cannot be used")]
    Counters {
        /// Whose.
        worker: usize,
        /// Why.
        #[source]
        source: AttachError,
    },
    /// The listener is none.
    #[error("the listener cannot be used")]
    Listener(#[source] io::Error),
    /// The channel to the supervisor failed.
    #[error("receiving from the supervisor failed")]
    Receive(#[source] RecvError),
    /// The channel to the supervisor failed.
    #[error("sending to the supervisor failed")]
    Send(#[source] SendError),
    /// A step of the confinement failed; the supervisor has been told which.
    #[error("cannot confine itself")]
    Confine(#[source] mcr_confine::ConfineError),
    /// Bytes that are no message.
    #[error("the supervisor and control do not understand each other; they must be of one build")]
    Message(#[source] CodecError),
}

/// Serves clients in a process of its own until the supervisor says `Stop` or is gone. The process must have no other thread:
/// before it says that it is ready it loses every right it does not need, for good. `channel` is one end of an `mcr_fdpass`
/// channel whose other end the supervisor has.
///
/// # Errors
/// Any [`ControlError`]: the process cannot go on and its supervisor should start another.
pub fn run_confined(channel: OwnedFd) -> Result<(), ControlError> {
    run_within(channel, Limits::default(), Confinement::Process)
}

/// Serves clients and leaves the process its rights: for tests, which are their own supervisor.
///
/// # Errors
/// As [`run_confined`].
pub fn run(channel: OwnedFd) -> Result<(), ControlError> {
    run_within(channel, Limits::default(), Confinement::None)
}

/// Whether control confines the process that it runs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Confinement {
    Process,
    None,
}

fn run_within(channel: OwnedFd, limits: Limits, confinement: Confinement) -> Result<(), ControlError> {
    let runtime =
        runtime::Builder::new_current_thread().enable_all().build().map_err(ControlError::Runtime)?;
    // Everything runs on this thread and shares by `Rc`; what is left when `serve` ends is dropped with the set.
    // This thread's lines of the log go to the supervisor; a process has no other thread, a test has.
    let lines = Lines::default();
    let _logging = tracing::subscriber::set_default(tracing_subscriber::registry().with(lines.clone()));
    LocalSet::new().block_on(&runtime, serve::serve(channel, limits, confinement, lines))
}
