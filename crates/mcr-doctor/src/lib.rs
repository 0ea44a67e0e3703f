//! What on this host breaks or slows relaying, and the command that mends it.
//!
//! Three steps, so that each can be had without the others. A [`Survey`] is what the daemon knows: its rules, where their copies
//! go, what was dropped; without a daemon it is the interfaces alone. [`Facts`] is what the host says when it is asked: sysctls,
//! memberships, bridges, offloads, the packet filter. [`diagnose`] is a function of both.
//!
//! Asking takes no right but for the packet filter (CAP_NET_ADMIN); what may not be seen is named in the diagnosis. It blocks, for
//! as long as [`Facts::gather`] is told to watch the host's own counters, and a little more.
//!
//! What it does not do: change anything, run programs, or look at another network namespace than the caller's.
#![forbid(unsafe_code)]

mod bridge;
mod facts;
mod firewall;
mod judge;
mod offload;
mod proc;
mod survey;

pub use facts::Facts;
pub use judge::{diagnose, obstacles};
pub use survey::{InputDrops, InputFacts, OutputDrops, OutputFacts, RuleFacts, Survey, Way};
