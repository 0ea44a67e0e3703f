#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod blocking;
mod error;
mod path;
mod session;

#[cfg(feature = "tokio")]
mod asynchronous;

use std::time::Duration;

#[cfg(feature = "tokio")]
pub use asynchronous::AsyncClient;
pub use blocking::Client;
pub use error::ClientError;
/// The types of parameters and results.
pub use mcr_proto;
pub use path::default_socket_path;

/// How a client behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// The longest that connecting, and each call, may take. The daemon itself gives up on a request after 5 s and says so,
    /// which a deadline above that lets through.
    pub deadline: Duration,
}

impl Default for Options {
    /// A deadline of 10 s.
    fn default() -> Self {
        Self { deadline: Duration::from_secs(10) }
    }
}
