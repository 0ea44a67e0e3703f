//! Test networks: anonymous network namespaces and what connects them, made through netlink.
//!
//! The end-to-end tests, the benches and `mcrd demo` run real traffic over networks built here. A namespace is
//! held by a file descriptor alone: it has no name, leaves nothing on disk, and is gone with its last descriptor
//! and process, also when a test panics.
//!
//! - [`Namespace`] makes namespaces, runs code and programs in them, and configures links, addresses, routes,
//!   neighbours and sysctls.
//! - [`Tun`] is a device whose other end is the test; [`veth`], [`macvlan`] connect namespaces; [`Line`] and [`Chain`] are the ready-made shapes.
//! - [`enter_user_namespace`] gives an ordinary user the rights to do all this.
//! - [`forbid`] has the kernel refuse system calls to a thread.
//! - [`require`] skips tests that lack rights; [`wait_until`] replaces sleeping in tests.
//!
//! What it does not do: it never touches a namespace it was not asked to, runs no external program, and keeps no
//! state beside the descriptors. Everything blocks; a netlink request to the kernel is answered at once.
//!
//! ```
//! use mcr_lab::{Line, require};
//! use std::{net::UdpSocket, time::Duration};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let Some(()) = require::netns() else { return Ok(()) };
//! let line = Line::new()?;
//! let sink = line.sinks[0].enter(|| UdpSocket::bind("10.2.0.2:6000"))?;
//! sink.set_read_timeout(Some(Duration::from_secs(5)))?;
//! let relay = line.relay.enter(|| UdpSocket::bind("10.2.0.1:0"))?;
//! relay.send_to(b"hello", "10.2.0.2:6000")?;
//! assert_eq!(sink.recv(&mut [0; 16])?, 5);
//! # Ok(())
//! # }
//! ```

#![deny(unsafe_code)]

mod child;
mod error;
mod forbid;
mod link;
mod namespace;
mod net;
mod offload;
pub mod require;
mod topology;
mod tun;
mod user;
mod wait;

pub use error::LabError;
pub use forbid::forbid;
pub use link::{LinkState, LinkStats, macvlan, veth, veth_with_queues};
pub use namespace::Namespace;
pub use topology::{Chain, Line};
pub use tun::Tun;
pub use user::enter_user_namespace;
pub use wait::wait_until;
