#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod classify;
mod config;
mod counters;
pub mod filter;
mod guard;
mod headers;
mod latency;
mod layout;
mod outcome;
mod process;
mod reflector;
mod rewrite;
mod standard;
mod table;
mod time;

pub use crate::{
    config::{
        Allow, Config, ConfigError, Echo, Limit, Limits, Mode, Oam, Prefix, Sequence, Signatures, Stamp,
        Twamp,
    },
    counters::{Count, Counters},
    headers::Mac,
    latency::Latency,
    layout::Layout,
    outcome::{Kind, Outcome, Reason},
    process::{BackEnd, FromReflector, ToReflector, tag},
    reflector::{Meta, Reflector, Traffic},
    time::{Now, WallTime},
};
