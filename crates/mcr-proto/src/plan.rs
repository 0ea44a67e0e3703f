//! What a worker is told to do: routes, and the identities they are made of.
//!
//! A route is one rule compiled for one worker: no names, no interfaces, only sockets the worker already holds and
//! counter slots it may write. A plan is all routes of a worker under one generation number; it is sent as differences.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::endpoint::{Dscp, Rate, Ttl};

macro_rules! identity {
    ($(#[$meta:meta])* $name:ident($inner:ty)) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

identity! {
    /// A worker's place in the row, 0 to workers - 1; it keeps it over restarts.
    WorkerIndex(u16)
}
identity! {
    /// The number of a plan; a worker that reports it has applied everything up to it.
    Generation(u64)
}
identity! {
    /// A socket that a worker was given; never used twice within a worker's life.
    SocketId(u32)
}
identity! {
    /// The place of an input's counters in shared memory.
    InputSlot(u32)
}
identity! {
    /// The place of a rule's counters in shared memory; identifies the rule's route in a worker.
    RuleSlot(u32)
}
identity! {
    /// The place of an output's counters in shared memory.
    OutputSlot(u32)
}
identity! {
    /// The place of a flow's counters in a worker's shared memory, below [`FLOWS_MAX`](crate::counters::FLOWS_MAX).
    FlowSlot(u32)
}

/// One rule compiled for one worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The rule's counters, and the route's key: a second route with the same slot replaces the first.
    pub rule: RuleSlot,
    /// The receiving sockets, one for each class of its datagrams; those that come through another do not match.
    pub inputs: Vec<SocketId>,
    /// Only datagrams from this source match, if given.
    pub source: Option<IpAddr>,
    /// Destination address of the datagrams that match.
    pub address: IpAddr,
    /// Destination port of the datagrams that match.
    pub port: u16,
    /// Where each matching datagram is copied to.
    pub outputs: Vec<RouteOutput>,
}

/// How a receiving socket stands beside others, and what it may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lane {
    /// Lower ones are received from first.
    pub priority: u8,
    /// A number of the class and its rate, shared by all sockets with the same number; without it there is no cap.
    pub cap: Option<(u16, Rate)>,
}

impl Default for Lane {
    /// That of datagrams without a class.
    fn default() -> Self {
        Self { priority: crate::config::PRIORITY_MAX, cap: None }
    }
}

/// One output of a route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteOutput {
    /// The output's counters.
    pub slot: OutputSlot,
    /// Where the copies go.
    pub destination: SocketAddr,
    /// How the copies leave.
    pub via: Via,
    /// TTL or hop limit of the copies.
    pub ttl: Ttl,
    /// DSCP of the copies; ECN is never copied.
    pub dscp: Dscp,
    /// Cap on what is sent.
    pub rate: Option<Rate>,
}

/// How copies leave a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Via {
    /// A UDP socket: the kernel writes the headers.
    Udp(SocketId),
    /// A raw IP socket: the worker writes the headers, with the source address and port of the incoming datagram.
    Raw(SocketId),
    /// Not sendable now, the output's interface is missing or down: each copy is counted as `no_route`.
    Nowhere,
}

/// How copies that this host sends look when they come back.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Own {
    /// Their Ethernet sources: the interfaces they leave by.
    pub macs: Vec<[u8; 6]>,
    /// Their sources: the addresses of those interfaces.
    pub addresses: Vec<IpAddr>,
}

/// One difference between two plans.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PlanOp {
    /// Adds a route, or replaces the one with the same rule slot.
    Put(Route),
    /// Removes a rule's route; not an error when there is none.
    Remove(RuleSlot),
    /// Leaves to others what came by these sockets of a rule's route at other times: it is neither relayed nor counted. Ends with the
    /// route's next [`PlanOp::Put`].
    Limit {
        /// Whose route.
        rule: RuleSlot,
        /// What is its own; sockets that are not named are without a limit.
        spans: Vec<(SocketId, Span)>,
        /// Nothing that came at this time or later is to be taken to any route yet: the time may become another one.
        hold_ns: Option<u64>,
    },
    /// A rule's route goes on with what another relays or has relayed, so that its outputs' rates do not begin with a whole burst once
    /// more. Comes behind its [`PlanOp::Put`].
    Continue {
        /// Whose route.
        rule: RuleSlot,
        /// The rule of this worker that has been relaying, whose outputs to the same places at the same rates share theirs with these; none
        /// if that is another worker's, whose rates are not known here.
        from: Option<RuleSlot>,
    },
}

/// A time, by which datagrams are divided between two ways of one rule: both look at the stamp that the kernel gave a frame when it
/// received it, so each datagram goes one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Span {
    /// The first stamp inside, in nanoseconds since 1970; with 0, also what has no stamp, because nobody asked for them when it came.
    pub from_ns: u64,
    /// The first stamp behind it.
    pub until_ns: u64,
}

impl Span {
    /// Everything.
    pub const ALWAYS: Self = Self { from_ns: 0, until_ns: u64::MAX };
    /// Everything, too, as far as clocks go; but as a limit, so that whoever has it keeps the order of stamps.
    pub const IN_ORDER: Self = Self { from_ns: 0, until_ns: u64::MAX - 1 };
    /// Nothing.
    pub const NEVER: Self = Self { from_ns: u64::MAX, until_ns: u64::MAX };

    /// What came before a time, and what has no stamp.
    pub const fn until(at_ns: u64) -> Self {
        Self { from_ns: 0, until_ns: at_ns }
    }

    /// What came at a time or later.
    pub const fn from(at_ns: u64) -> Self {
        Self { from_ns: at_ns, until_ns: u64::MAX }
    }

    /// Whether a stamp is inside; 0 is none.
    pub const fn has(&self, stamp_ns: u64) -> bool {
        self.from_ns <= stamp_ns && stamp_ns < self.until_ns
    }
}

impl Default for Span {
    fn default() -> Self {
        Self::ALWAYS
    }
}
