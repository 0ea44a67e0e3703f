//! The relay, pure: which rule a datagram belongs to, and what is to be sent because of it.
//!
//! - [`compile`]: a rule and the state of the network, to the sockets it needs and the route a worker gets.
//! - [`engine`]: a worker's routes; a batch of datagrams, to runs that leave with one send each.
//! - [`explain`]: what the engine would do with one datagram, for a person who asks.
//!
//! No sockets, no clock, no allocation per datagram: whoever calls brings frames, time and counters.
#![forbid(unsafe_code)]

pub mod classes;
pub mod compile;
pub mod engine;
pub mod explain;
