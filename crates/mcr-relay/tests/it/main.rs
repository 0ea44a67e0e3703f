//! The engine against a model that relays datagram by datagram, and the compiler sentence by sentence.

#![allow(clippy::unwrap_used, reason = "what a test cannot make, it cannot test")]

mod classes;
mod compile;
mod engine;
mod model;
mod properties;
mod scenario;
