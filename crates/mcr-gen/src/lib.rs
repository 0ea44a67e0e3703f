//! Test traffic: a sender that keeps a rate and a receiver that accounts for every datagram.
//!
//! Both run in the calling thread, so several of them live in one process, each in its own network namespace if the
//! caller wants that: sockets are opened by [`Sender::open`] and [`Receiver::open`], in the namespace of the thread
//! that calls, and stay there. [`Progress`] shows a run from outside and ends it early. No rights are needed.
//!
//! What this crate does not do: choose what to test, print, or know the relay. It sees a network with datagrams going
//! in at one end and coming out at the other.
//!
//! ```
//! use std::net::Ipv4Addr;
//! use std::time::Duration;
//!
//! use mcr_gen::{Progress, Receiver, RecvOptions, SendOptions, Stop};
//! use mcr_proto::endpoint::Endpoint;
//!
//! let mut options = RecvOptions::new(Endpoint::new(Ipv4Addr::LOCALHOST.into(), 0));
//! options.count = Some(100);
//! options.duration = Some(Duration::from_secs(10));
//! let receiver = Receiver::open(&options)?; // From here on nothing that is sent is missed.
//! let to = receiver.local_addr();
//! let receiving = std::thread::spawn(move || receiver.run(&Progress::new()));
//!
//! let options = SendOptions::new(Endpoint::new(to.ip(), to.port()), Stop::After { count: 100 });
//! let sent = mcr_gen::send(&options, &Progress::new())?;
//! let received = receiving.join().expect("no panic")?;
//! assert_eq!((sent.sent, received.received, received.lost), (100, 100, 0));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]

mod clock;
mod error;
mod latency;
pub mod payload;
mod progress;
mod recv;
mod schedule;
mod send;
mod socket;
mod sockopt;
pub mod tracker;
mod window;

pub use error::{OpenError, RecvError, SendError};
pub use latency::LatencyUs;
pub use progress::Progress;
pub use recv::{Ended, Receiver, RecvOptions, RecvReport};
pub use send::{FLOWS_MAX, FlowSent, SendOptions, SendReport, Sender, Stop, send};
