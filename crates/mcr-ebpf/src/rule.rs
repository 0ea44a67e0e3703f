//! What the programs are told: rules, as the supervisor resolved them. Plain data.

use std::net::{IpAddr, SocketAddr};

use mcr_proto::{
    counters::OutputDrop,
    endpoint::{Dscp, Ttl},
    plan::{OutputSlot, Span},
};

/// A rule with everything resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The interface its datagrams arrive on.
    pub ifindex: u32,
    /// The group or address, and the port, they are sent to.
    pub destination: SocketAddr,
    /// Only datagrams from this source match, if given.
    pub source: Option<IpAddr>,
    /// Whether something on this host wants the datagrams, too: then frames go on to the stack.
    pub local: bool,
    /// Only what came then is for this rule; the rest is not seen by it.
    pub span: Span,
    /// Where copies go.
    pub outputs: Vec<Output>,
}

/// One output of a rule; of the same family as its input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// The output's counters: no other output of any rule has the same.
    pub slot: OutputSlot,
    /// Where the copies go.
    pub destination: SocketAddr,
    /// Source address and port of the copies; without one they keep the incoming ones.
    pub source: Option<SocketAddr>,
    /// TTL or hop limit of the copies.
    pub ttl: Ttl,
    /// DSCP of the copies; ECN is never copied.
    pub dscp: Dscp,
    /// How they leave.
    pub way: Way,
}

/// How copies leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// By a device.
    Device {
        /// Its index.
        ifindex: u32,
        /// Its largest IP packet; larger datagrams are counted as `too_big`.
        mtu: u32,
        /// The next hop's hardware address; zeroes for a device whose frames have none.
        to: [u8; 6],
        /// The device's own.
        from: [u8; 6],
    },
    /// Not at all for now: each copy is counted with this reason.
    Nowhere(OutputDrop),
}
