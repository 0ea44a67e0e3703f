//! A process that reflects test packets: one thread, run to completion, without any right.
//!
//! It is started with a channel to its supervisor, over which it gets its options ([`mcr_reflect::ToReflector`]), its
//! socket and the memory in which it counts. It opens nothing itself. What frames are and what becomes of them is
//! `mcr-reflect`'s to say; how they are got and sent is a [`BackEnd`]'s.
//!
//! Invariants: every frame taken from the back end is counted under one outcome; counters are written before the process
//! sleeps, so whoever reads them sees each frame that was handled.
#![forbid(unsafe_code)]

mod back_end;
mod counts;
mod event_loop;
mod packet;
mod start;
mod xdp;

use std::{io, os::fd::OwnedFd};

pub use back_end::{BATCH_FRAMES, BackEnd, Sent};

/// Why a reflector ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReflectorError {
    /// The first message was not what it must be.
    #[error("not started: {why}")]
    NotStarted {
        /// What it was instead.
        why: String,
    },
    /// Options that contradict each other.
    #[error("options cannot be used")]
    Config(#[from] mcr_reflect::ConfigError),
    /// The memory for counters was not what it must be.
    #[error("the counters cannot be used")]
    Counters(#[from] mcr_metrics::AttachError),
    /// The packet socket's ring was not what it must be.
    #[error("the ring of the packet socket cannot be used")]
    Ring(#[source] io::Error),
    /// The AF_XDP sockets were not what they must be.
    #[error("the AF_XDP sockets cannot be used")]
    Xdp(#[from] mcr_xdp::OpenError),
    /// The process could not give up its rights.
    #[error("cannot be confined")]
    Confine(#[source] mcr_confine::ConfineError),
    /// The channel to the supervisor failed.
    #[error("the channel to the supervisor failed")]
    Channel(#[source] io::Error),
    /// Waiting failed.
    #[error("waiting failed")]
    Wait(#[source] io::Error),
}

/// Whether this process gives up its rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confinement {
    /// All of them, for good.
    Process,
    /// None: it runs as a thread of a test.
    None,
}

/// Runs a reflector over a channel to its supervisor, until told to stop or the channel ends.
///
/// # Errors
/// Any [`ReflectorError`]; the process must exit.
pub fn run(channel: OwnedFd, confinement: Confinement) -> Result<(), ReflectorError> {
    let Some(reflecting) = start::start(channel, confinement)? else { return Ok(()) };
    reflecting.run()
}
