//! Reflectors of test packets: unprivileged processes, which this one gives sockets to and starts again when they end.
//!
//! [`run`] is `mcrd reflect`: one reflector in the foreground. The daemon keeps any number beside its rules.
//! Neither reads a frame.

mod config;
mod entry;
mod guard;
mod health;
mod run;
pub(crate) mod set;
mod way;
mod worker;

pub use self::{
    config::{ConfigFault, check},
    entry::{Report, State, WorkerReport},
    run::{Occasion, ReflectError, ReflectOptions, run},
};

/// Whether an interface takes VLAN tags out of frames before AF_XDP sees them.
///
/// # Errors
/// The driver does not say, or there is no such interface.
pub fn takes_vlan_tags_out(interface: &str) -> std::io::Result<bool> {
    mcr_xdp::takes_vlan_tags_out(interface)
}
