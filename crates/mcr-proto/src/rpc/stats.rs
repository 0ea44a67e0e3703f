//! Counters as clients see them.

use std::{collections::BTreeMap, net::SocketAddr};

use serde::{Deserialize, Serialize};

use crate::{
    message::{ClassBy, RuleState},
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
    /// What these inputs took in by class: in order of the configuration, then what is in none. Empty where no classes are
    /// configured.
    #[serde(default)]
    pub classes: Vec<ClassStats>,
    /// What each reflector did; none if one rule was asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reflectors: Vec<crate::message::ReflectView>,
}

/// Counters of a class, since it was first used: the sum of its inputs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClassStats {
    /// The class; null for datagrams that are in none.
    pub name: Option<String>,
    /// 0 is served first.
    pub priority: u8,
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
    /// Time since the last one came, in nanoseconds; null if none did.
    #[serde(default)]
    pub idle_ns: Option<u64>,
    /// The longest time between two arrivals while the rule was carried, in nanoseconds; null before the second.
    /// Where the kernel path carries the rule, to a few milliseconds.
    #[serde(default)]
    pub gap_max_ns: Option<u64>,
    /// How much the time between arrivals varies, in nanoseconds, smoothed as in RFC 3550; null before the third.
    /// Where the kernel path carries the rule, by samples.
    #[serde(default)]
    pub jitter_ns: Option<u64>,
    /// Different flows seen.
    pub flows: u64,
    /// Datagrams per second, over the last second.
    pub rate_pps: f64,
    /// Payload bits per second, over the last second.
    pub rate_bps: f64,
    /// Datagrams per second, since the first one came.
    #[serde(default)]
    pub mean_pps: f64,
    /// Payload bits per second, since the first datagram came.
    #[serde(default)]
    pub mean_bps: f64,
    /// Who sends; null unless this rule alone was asked for.
    #[serde(default)]
    pub flow_list: Option<FlowList>,
    /// How long the rule's datagrams took; null if no worker relayed any.
    #[serde(default)]
    pub latency: Option<Latency>,
    /// In the order of the rule.
    pub outputs: Vec<OutputStats>,
}

/// The flows of a rule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FlowList {
    /// Those of most datagrams, in that order; at most 256.
    pub flows: Vec<FlowStats>,
    /// How many flows are left out here.
    pub left_out: u64,
    /// Datagrams of flows that found no place in the table, and so are in none.
    pub overflow_datagrams: u64,
}

/// Counters of a flow, since its rule was given to the worker that has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FlowStats {
    /// Who sends: address and port.
    pub source: SocketAddr,
    /// The worker that has it.
    pub worker: u16,
    /// Datagrams.
    pub datagrams: u64,
    /// Their payload bytes.
    pub bytes: u64,
    /// When the first one came, in nanoseconds since 1970.
    pub first_seen_ns: u64,
    /// When the last one came, in nanoseconds since 1970.
    pub last_seen_ns: u64,
    /// Datagrams per second, over the last second.
    pub rate_pps: f64,
    /// Payload bits per second, over the last second.
    pub rate_bps: f64,
    /// Datagrams per second, since the first one came.
    pub mean_pps: f64,
    /// Payload bits per second, since the first datagram came.
    pub mean_bps: f64,
}

/// How long datagrams took, from where they were received to the kernel having taken, or refused, their last copy. The percentiles are
/// at most a quarter too large; one of more than 17 s is 18,446,744,073,709,551,615.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Of how many datagrams.
    pub datagrams: u64,
    /// Their mean, in nanoseconds.
    pub mean_ns: u64,
    /// Half of them took no longer, in nanoseconds.
    pub p50_ns: u64,
    /// Nine of ten took no longer.
    pub p90_ns: u64,
    /// 99 of 100 took no longer.
    pub p99_ns: u64,
    /// 999 of 1000 took no longer.
    pub p999_ns: u64,
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
    /// The class of its datagrams, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// What put them into the class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class_by: Option<ClassBy>,
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
