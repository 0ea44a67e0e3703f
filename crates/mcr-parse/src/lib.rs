#![doc = include_str!("../README.md")]
//!
//! # Modules
//! The parser and its types are at the root; [`checksum`] is the arithmetic alone; [`build`](mod@build) writes headers.
#![no_std]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod build;
mod bytes;
pub mod checksum;
mod ethernet;
mod parse;
mod rewrite;
mod verdict;
mod verify;

pub use ethernet::{ETHERNET_BYTES, Tag, Tags, multicast_mac, set_macs};
pub use parse::{EXTENSION_HEADERS_MAX, Link, Malformed, Reject, parse};
pub use rewrite::{Changes, RewriteError, UdpChecksum, rewrite};
pub use verdict::Verdict;
pub use verify::{ipv4_header_checksum_is_valid, udp_checksum_is_valid};
