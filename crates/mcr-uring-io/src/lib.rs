#![doc = include_str!("../README.md")]
#![deny(missing_docs)]
//!
//! # How it is used
//!
//! Open an [`Io`] in the thread that uses it, add sockets, and loop: [`Io::wait`], handle the events, queue sends with
//! [`Io::send`], give every frame back with [`Io::recycle`]. What was queued goes out with the next `wait`, in the same
//! system call. Nothing allocates per datagram, if the event vector has room for [`Io::events_max`] events.
//!
//! # What this crate does not do
//!
//! It opens and tunes no sockets, parses no packets and retries no sends: a send that the socket buffer has no room
//! for is reported as `EAGAIN`. It has no runtime, no threads and no callbacks.
//!
//! # System calls at run time
//!
//! With io_uring, after `open`: `io_uring_enter`, `io_uring_register` and `close`, nothing else. The twin needs
//! `epoll_wait`, `epoll_ctl`, `ppoll`, `recvmmsg`, `sendmmsg` and `close`. Rings of packet sockets take `mmap`, `munmap` and
//! `recvmsg` besides.
//!
//! # Invariants
//!
//! - A buffer is either the kernel's, or the caller's ([`Received`]), or waits for the sends that refer to it. Only the
//!   one move-only handle says which, and the kernel gets a buffer back when handle and sends are all gone.
//! - So with a slot of a packet socket's ring, which the kernel writes to as soon as it has it back (`packet_ring.rs`).
//! - Memory that the kernel may still touch is freed only after the last operation ended; see `ring.rs` on dropping.
//! - `token.rs` alone packs and unpacks `user_data`.

mod backoff;
mod buf_ring;
mod cmsg;
mod config;
mod datagram;
mod error;
mod event;
mod frames;
mod io;
mod outgoing;
mod packet_ring;
mod probe;
mod ring;
mod rings;
mod slots;
mod syscalls;
mod table;
mod token;

pub use config::{Backend, Choice, IoConfig, ReceiveShape, RingShape};
pub use datagram::{ControlMessage, ControlMessages, Datagram};
pub use error::{AddError, OpenError, SendError, UringUnavailable, WaitError};
pub use event::Event;
pub use frames::Received;
pub use io::{Counts, Io};
pub use outgoing::{INLINE_BYTES_MAX, Outgoing, PARTS_MAX, Part, Source};
pub use table::SocketKey;
