#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod codec;
pub mod config;
pub mod counters;
pub mod endpoint;
pub mod message;
pub mod plan;
pub mod probe;
pub mod reflect;
pub mod rpc;
pub mod rule;
