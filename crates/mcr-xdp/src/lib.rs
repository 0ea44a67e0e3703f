#![doc = include_str!("../README.md")]
#![deny(missing_docs)]
//!
//! # Two processes
//!
//! To open a socket takes CAP_NET_RAW, to use it takes nothing. [`Opened::open`] does all that needs the right and gives two
//! descriptors and a [`Shape`]; they can be passed to another process, where [`Socket::new`] maps them:
//!
//! - The UMEM is a sealed memory file (`memfd_create(2)`), not anonymous memory: XDP_UMEM_REG pins the *pages* that the registering
//!   process has mapped at that moment, so that another process which maps the same file has the memory that the kernel writes
//!   to. The opener unmaps it again at once. The seal against shrinking means that no holder of the file can take the pages away.
//! - The rings belong to the socket and are mapped from its descriptor, by whoever holds it.
//!
//! Only one process may use the rings and write to the memory; that is the duty of who passes them on. When that process
//! dies, the frames it held are forgotten: the descriptors are of no more use, and a new socket has to be opened.
//!
//! After [`Socket::new`] the system calls are `sendto` and `recvfrom` without data, and `ppoll` in [`Socket::wait`].
//!
//! # What this crate does not do
//!
//! It loads no XDP program: one that redirects to an XSKMAP with the socket in it must be attached by the caller, before which
//! nothing is received. It has no threads and no runtime, shares no UMEM between sockets, and splits no frame over buffers
//! (XDP_USE_SG): a frame longer than [`Shape::receive_bytes_max`] is dropped by the kernel and counted in
//! [`Statistics::receive_dropped`].
//!
//! # Invariants
//!
//! - A frame of the UMEM is in exactly one of: the free list, the kernel's hands for receiving (fill ring to receive ring), the
//!   caller's hands ([`Frame`]), the kernel's hands for sending (transmit ring to completion ring). The one byte per frame
//!   that says so is checked at each move, in release builds too; [`Rings::counts`] has the sums.
//! - Only the completion ring frees a sent frame.
//! - What a ring has no room for stays where it was: [`Rings::send`] gives the frame back, [`Rings::recycle`] keeps it in the
//!   free list.
//! - A descriptor that is not what the kernel was given (outside the UMEM, a frame that is not the kernel's) is counted and
//!   otherwise ignored.

mod error;
mod frame;
mod map;
mod memory;
mod open;
mod queues;
mod ring;
mod rings;
mod shape;
mod socket;
mod statistics;
mod sys;
pub mod twin;

pub use error::{OpenError, ShapeError};
pub use frame::Frame;
pub use open::{Binding, Config, Opened};
pub use queues::{queues, takes_vlan_tags_out};
pub use rings::{Counts, Rings};
pub use shape::{HEADROOM_BYTES, Shape};
pub use socket::{Sent, Socket};
pub use statistics::{Statistics, statistics};
