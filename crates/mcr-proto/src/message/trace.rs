//! Traces: asked for by control, carried out by workers, which show what they see in shared memory.

use serde::{Deserialize, Serialize};

use super::{RuleRef, RuleView};
use crate::{
    endpoint::IfName,
    plan::{InputSlot, RuleSlot, WorkerIndex},
};

/// Of which datagrams a trace is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Traced {
    /// Those that match a rule.
    Rule(RuleRef),
    /// Those that come in by an interface and are dropped before any rule gets them.
    Drops(IfName),
}

/// A trace as a client wants it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceWanted {
    /// Of which datagrams.
    pub what: Traced,
    /// How they are sampled.
    pub sampling: Sampling,
}

/// Which datagrams are recorded, and how much of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sampling {
    /// One in so many, the first included; at least 1.
    pub one_in: u32,
    /// No more than so many.
    pub count: Option<u64>,
    /// Bytes of each frame.
    pub snap_bytes: u16,
}

/// A trace as workers carry it out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceOrder {
    /// Its place in the workers' memory.
    pub place: u8,
    /// Its number, never used twice.
    pub id: u64,
    /// Of which datagrams.
    pub what: TraceOf,
    /// How they are sampled.
    pub sampling: Sampling,
}

/// Of which datagrams a trace is, as workers know them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum TraceOf {
    /// Those that match the rule of this slot.
    Rule(RuleSlot),
    /// Those that come in there and are dropped before any rule gets them.
    Drops(Vec<InputSlot>),
}

/// A trace that has begun, or is about to in these workers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tracing {
    /// Its number.
    pub id: u64,
    /// Its place in the workers' memory.
    pub place: u8,
    /// The workers that run and were told.
    pub workers: Vec<WorkerIndex>,
    /// The rule, if it is of one.
    pub rule: Option<Box<RuleView>>,
}
