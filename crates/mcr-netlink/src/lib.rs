//! One question to the kernel over netlink, and the messages of its answer.
//!
//! - [`Asker`] asks in bytes, of whichever family; [`attribute`] has what such bytes are made of.
//! - [`Generic`] asks one of the families that are known by name, such as `ethtool`.
//! - [`Route`] asks rtnetlink, with the messages of `netlink_packet_route`.
//!
//! Answers are matched by sequence number, so what is left of one that was given up is passed over. A socket belongs to the network
//! namespace in which it was opened, whoever asks.
//!
//! What it does not do: subscribe to anything, or say that a dump was interrupted by a change. For a picture of the network that stays
//! true there is `mcr-netmon`, which is published and so has a reader of its own.

#![forbid(unsafe_code)]

mod asker;
pub mod attribute;
mod generic;
mod route;

pub use asker::{ALL, Asker, ONE, Protocol};
pub use generic::Generic;
pub use route::Route;
