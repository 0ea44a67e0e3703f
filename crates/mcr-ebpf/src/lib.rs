//! Relaying in the kernel: the eBPF program of a multicast relay, its loader and its maps.
//!
//! The program stands at the ingress of interfaces (by tcx links; before Linux 6.6 behind a filter of `clsact`). It looks datagrams up by interface, destination and source, and for each
//! output rewrites their headers and redirects a clone; superframes stay whole. [`KernelPath`] loads it, attaches it, tells it the
//! rules and reads what it counted.
//!
//! [`Swallow`] is a second, smaller program, for what packet sockets take: it keeps from the IP stack what nothing there wants.
//!
//! What is not here: which rules there are, memberships, next hops and their changes. Whoever calls brings [`Rule`]s with everything
//! resolved. The program is in C under `bpf/`, and so is the object that clang makes of it (`cargo xtask bpf`).
//!
//! What the program counts, and what not:
//! - Frames that no rule wants are not counted: they go on to the stack as if there were no program.
//! - A copy counts as sent when the kernel took it. Of clones it says when the device is missing or its queue full. Of the frame
//!   itself, which becomes the last copy where nothing local wants it, it says nothing; nor, of either, what a device drops later, or
//!   one that is down. Whoever follows the devices' states gives such outputs [`Way::Nowhere`].

mod arena;
mod batch;
mod clsact;
mod counts;
mod error;
mod flows;
mod grace;
mod group;
mod layout;
mod loader;
mod object;
mod path;
mod pool;
mod rule;
mod swallow;

pub use counts::{Delta, Times};
pub use error::{AttachError, LoadError, UpdateError};
pub use object::{Loaded, loaded, programs_at};
pub use path::{KernelPath, TraceCounts, TraceWhat, TracedCopy, TracedDatagram};
pub use rule::{Output, Rule, Way};
pub use swallow::{Senders, Swallow, SwallowError};

pub mod xsk;
