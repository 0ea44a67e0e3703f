//! Reflectors of test packets: an unprivileged process each, which this one gives a socket to and starts again when it ends.
//!
//! [`run`] is `mcrd reflect`: one reflector in the foreground. The daemon keeps any number beside its rules.
//! Neither reads a frame.

mod config;
mod entry;
mod guard;
mod run;
pub(crate) mod set;
mod way;

pub use self::{
    config::{ConfigFault, check},
    entry::{Report, State},
    run::{Occasion, ReflectError, ReflectOptions, run},
};
