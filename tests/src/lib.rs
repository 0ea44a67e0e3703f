//! What the end-to-end tests stand on: the programs as a user runs them, in networks made for one test.
//!
//! - [`programs`]: where `mcrd`, `mcrctl` and `mcrgen` are, built if need be.
//! - [`daemon`]: one `mcrd run`, started, watched and stopped.
//! - [`bed`]: source, relay with its daemon, and sinks; and the cells (data path and I/O) that tests run in.
//! - [`source`], [`sink`]: exact payloads in and out; volume is mcr-gen's part.
//! - [`wire`]: whole frames in and out, built and read by a parser that is not ours.
//! - [`http`], [`prometheus`]: requests as a scraper sends them, and what its metrics must look like.
//! - `browser` (a feature): a real one without a window.
//! - [`reflector`]: one `mcrd reflect` and a tester that compares every frame.
//! - [`random`]: frames of all kinds, valid and not, from a seed.
//! - [`held`]: the sockets and memberships of a namespace.
//! - [`host_setting`]: a sysctl of the whole host, for the time of a test.
//! - [`soak`]: everything at once, for as long as one likes.
//! - [`law`]: every datagram in exactly one counter.
//! - [`streams`], [`under_traffic`]: steady streams while a test disturbs the daemon.
//! - [`traffic_lock`]: one test with traffic at a time, also over test programs.
//!
//! Everything here fails by panicking with what was expected and what the daemon logged: it is for tests only.

#![forbid(unsafe_code)]

pub mod bed;
#[cfg(feature = "browser")]
pub mod browser;
pub mod command;
pub mod daemon;
pub mod held;
pub mod host_setting;
pub mod http;
pub mod law;
pub mod processes;
pub mod programs;
pub mod prometheus;
pub mod random;
pub mod reflector;
pub mod sink;
pub mod soak;
pub mod source;
pub mod streams;
pub mod traffic_lock;
pub mod under_traffic;
pub mod wire;

pub use bed::{Bed, Cell};
pub use daemon::{Daemon, DaemonOptions};
pub use sink::Sink;
pub use source::Source;
pub use wire::{Macs, Wire};

use std::time::Duration;

use mcr_gen::Progress;

/// How long anything may take before a test fails. Nothing waits this long unless something is wrong.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Waits for a condition; panics with `what` (as in "the rule is active") if it does not come true in [`PATIENCE`].
pub fn eventually(what: &str, condition: impl FnMut() -> bool) {
    if let Err(error) = mcr_lab::wait_until(PATIENCE, what, condition) {
        panic!("{error}");
    }
}

/// Ends a run when dropped, so that a test that fails while threads send or receive does not wait for them for ever.
#[derive(Debug)]
pub struct StopOnDrop<'a>(pub &'a Progress);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}
