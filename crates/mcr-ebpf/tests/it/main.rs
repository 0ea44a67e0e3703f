//! The program in the kernel, between namespaces.
#![allow(clippy::unwrap_used)]

mod arrivals;
mod clsact;
mod flows;
mod frames;
mod life;
mod outputs;
mod rewrite;
mod rig;
mod spans;
mod swallow;
mod times;
mod trace;
