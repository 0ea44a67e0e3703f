#![doc = include_str!("../README.md")]
//!
//! # How it works
//!
//! [`Monitor`] owns two netlink sockets. One is subscribed, and only read; the other asks for dumps. It first
//! subscribes, then dumps, then applies what was announced meanwhile: whatever happened is in the dump, in the
//! queue, or in both, and the last word on each object is right.
//!
//! The parts, each usable alone: [`parse_datagram`] turns bytes into [`Update`]s and knows nothing else;
//! [`Snapshot::apply`] turns updates into [`Change`]s; [`Snapshot::diff`] compares two snapshots.
//!
//! # Decisions
//!
//! - **Own parsing, no async runtime.** Overruns must be seen exactly where they happen, and an attribute that a
//!   future kernel adds must never cost a whole link. So only the few attributes that are needed are read, by a
//!   function that is total on any bytes; the netlink-packet-route crate is its oracle in the tests.
//! - **An overrun is answered by a resync.** When the kernel says ENOBUFS, the rest of the queue is discarded, all
//!   is dumped again, and the difference is reported as changes: a consumer of the stream cannot tell.
//! - **IPv4 routes are dumped again** when a link went down or away, an address was removed, or a nexthop object
//!   changed: the kernel drops routes then without announcing it (`fib_flush` sends no RTM_DELROUTE).
//! - **Bounded.** A snapshot holds at most [`LINKS_MAX`], [`ADDRESSES_MAX`], [`ROUTES_MAX`] and
//!   [`NEIGHBOURS_MAX`] objects; what is left out is counted.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod apply;
mod diff;
mod lookup;
mod message;
mod monitor;
mod requests;
mod resolve;
mod snapshot;
mod types;
mod wire;
mod xdp;

pub use apply::Followup;
pub use lookup::RouteHit;
pub use message::{Message, Parsed, Update, parse_datagram};
pub use monitor::{Monitor, MonitorError, OpenError, Options};
pub use resolve::{Ask, Resolver};
pub use snapshot::{ADDRESSES_MAX, Change, LINKS_MAX, NEIGHBOURS_MAX, ROUTES_MAX, Snapshot};
pub use types::{Address, Link, LinkKind, Neighbour, NeighbourState, Route, RouteKind, Table};
pub use xdp::XdpFeatures;
