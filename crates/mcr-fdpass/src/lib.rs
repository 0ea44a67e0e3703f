#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod channel;
pub mod manifest;

#[cfg(feature = "tokio")]
mod asynchronous;

#[cfg(feature = "tokio")]
pub use asynchronous::AsyncChannel;
pub use channel::{Channel, Received, RecvError, SendError, pair};
pub use manifest::{ManifestError, Tag};

/// The longest body of one message.
///
/// Fits the kernel's default send buffer (`net.core.wmem_default`, 208 KiB), which bounds the size of a packet.
pub const BODY_BYTES_MAX: usize = 192 * 1024;

/// The most descriptors of one message: the kernel's own bound (`SCM_MAX_FD`).
pub const FDS_MAX: usize = 253;
