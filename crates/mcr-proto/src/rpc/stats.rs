//! Counters as clients see them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    message::RuleState,
    rule::{Datapath, RuleId, RuleName},
};

/// Result of `stats.get`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// When the counters were read, in nanoseconds since 1970.
    pub time_ns: u64,
    /// What each rule relayed, in order of id.
    pub rules: Vec<RuleStats>,
    /// What each worker took in, per interface and data path; for one rule, those its input belongs to.
    pub inputs: Vec<InputStats>,
    /// What each reflector did; none if one rule was asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reflectors: Vec<crate::message::ReflectView>,
}

/// Counters of a rule, since it was added.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RuleStats {
    /// The daemon's number.
    pub id: RuleId,
    /// The name.
    pub name: RuleName,
    /// The state.
    pub state: RuleState,
    /// Datagrams that matched.
    pub datagrams: u64,
    /// Their payload bytes.
    pub bytes: u64,
    /// When the last one came, in nanoseconds since 1970; null if none did.
    pub last_seen_ns: Option<u64>,
    /// Different flows seen.
    pub flows: u64,
    /// Datagrams per second, over the last second.
    pub rate_pps: f64,
    /// Payload bits per second, over the last second.
    pub rate_bps: f64,
    /// In the order of the rule.
    pub outputs: Vec<OutputStats>,
}

/// Counters of an output, since its rule was added.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OutputStats {
    /// The output, in canonical form.
    pub output: String,
    /// Datagrams handed to the kernel, each once.
    pub copies: u64,
    /// Their payload bytes.
    pub bytes: u64,
    /// Copies not sent, by reason; every reason is there.
    pub drops: BTreeMap<String, u64>,
    /// The `send_error` drops by the name of the errno.
    pub send_errors: BTreeMap<String, u64>,
    /// Copies per second, over the last second.
    pub rate_pps: f64,
    /// Payload bits per second, over the last second.
    pub rate_bps: f64,
}

/// Counters of an input, since it was first used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InputStats {
    /// The worker that reads it.
    pub worker: u16,
    /// The interface.
    pub interface: String,
    /// The data path.
    pub datapath: Datapath,
    /// Whether a socket is open for it now.
    pub open: bool,
    /// Frames taken from the kernel; a superframe is one.
    pub frames: u64,
    /// Datagrams that came, those the kernel dropped included: `matched` plus all of `drops`.
    pub datagrams: u64,
    /// Payload bytes of the datagrams taken.
    pub bytes: u64,
    /// Datagrams that at least one rule took.
    pub matched: u64,
    /// Datagrams that no rule got, by reason; every reason is there.
    pub drops: BTreeMap<String, u64>,
    /// Datagrams per second, over the last second.
    pub rate_pps: f64,
    /// Payload bits per second, over the last second.
    pub rate_bps: f64,
}
