//! Parameters and results of the `trace` methods.

use std::net::SocketAddr;

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

use super::rules::{NameOrId, RuleFields};
use crate::{
    endpoint::IfName,
    message::{Sampling, TraceWanted, Traced},
    rule::{Datapath, RuleId, RuleName},
};

/// The most bytes of a frame that are recorded.
pub const TRACE_SNAP_BYTES_MAX: u16 = 1920;
/// How long a trace goes on if nothing is said, in seconds.
pub const TRACE_SECONDS: u32 = 60;
/// How long a trace can go on, in seconds.
pub const TRACE_SECONDS_MAX: u32 = 3600;

/// Parameters of `trace.start`: a rule, named as in [`super::RuleParams`], or `"drops": INTERFACE`; and which datagrams of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceStart {
    /// What is traced.
    pub trace: TraceWanted,
    /// Ends after so many seconds.
    pub seconds: u32,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct StartFields {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rule: Option<NameOrId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<RuleName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<RuleId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    drops: Option<IfName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sample: Option<OneIn>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seconds: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    snap_bytes: Option<u16>,
}

#[derive(Deserialize, Serialize)]
#[serde(untagged)]
enum OneIn {
    Number(u32),
    Text(String),
}

/// One in how many: `1/N`, or `N`.
///
/// # Errors
/// The text is neither, with the reason.
pub fn one_in(text: &str) -> Result<u32, String> {
    let number = text.strip_prefix("1/").unwrap_or(text).parse();
    number
        .ok()
        .filter(|number| *number > 0)
        .ok_or_else(|| format!("`{text}` is no sample; write 1/N, as in 1/100"))
}

impl<'de> Deserialize<'de> for TraceStart {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fields = StartFields::deserialize(deserializer)?;
        let StartFields { rule, name, id, drops, count, sample, seconds, snap_bytes } = fields;
        let rule = RuleFields { rule, name, id }.into_ref::<D::Error>()?;
        let what = match (rule, drops) {
            (Some(rule), None) => Traced::Rule(rule),
            (None, Some(interface)) => Traced::Drops(interface),
            _ => return Err(D::Error::custom("give `rule`, a rule's name or id, or `drops`, an interface")),
        };
        let one_in = match sample {
            None => Ok(1),
            Some(OneIn::Number(number)) => one_in(&number.to_string()),
            Some(OneIn::Text(text)) => one_in(&text),
        };
        let bounded = |what: &str, value: u32, max: u32| match value {
            0 => Err(D::Error::custom(format!("`{what}` is 0, at least 1 is possible"))),
            value if value > max => {
                Err(D::Error::custom(format!("`{what}` is {value}, at most {max} are possible")))
            }
            value => Ok(value),
        };
        if count == Some(0) {
            return Err(D::Error::custom("`count` is 0, at least 1 is possible"));
        }
        let snap_bytes = snap_bytes.unwrap_or(0);
        if snap_bytes > TRACE_SNAP_BYTES_MAX {
            bounded("snap_bytes", snap_bytes.into(), TRACE_SNAP_BYTES_MAX.into())?;
        }
        let sampling = Sampling { one_in: one_in.map_err(D::Error::custom)?, count, snap_bytes };
        let seconds = bounded("seconds", seconds.unwrap_or(TRACE_SECONDS), TRACE_SECONDS_MAX)?;
        Ok(Self { trace: TraceWanted { what, sampling }, seconds })
    }
}

impl Serialize for TraceStart {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { trace: TraceWanted { what, sampling }, seconds } = self;
        let (rule, drops) = match what {
            Traced::Rule(rule) => (Some(rule), None),
            Traced::Drops(interface) => (None, Some(*interface)),
        };
        let RuleFields { rule, name, id } = RuleFields::from_ref(rule);
        StartFields {
            rule,
            name,
            id,
            drops,
            count: sampling.count,
            sample: Some(OneIn::Text(format!("1/{}", sampling.one_in))),
            seconds: Some(*seconds),
            snap_bytes: Some(sampling.snap_bytes),
        }
        .serialize(serializer)
    }
}

/// Result of `trace.start`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceStarted {
    /// The trace's number, for `trace.get` and `trace.stop`.
    pub id: u64,
    /// The rule's name, if it is of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleName>,
    /// Ends after so many seconds.
    pub seconds: u32,
}

/// Parameters of `trace.get` and `trace.stop`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TraceParams {
    /// What `trace.start` said.
    pub id: u64,
}

/// Result of `trace.get`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceRecords {
    /// What has come since the last time, in order; at most some thousand.
    pub records: Vec<TraceRecord>,
    /// Datagrams so far that the trace is about, those between the samples included.
    pub seen: u64,
    /// Datagrams so far that should have been among the records and are not: too many came at once, or they were not read in time.
    pub missed: u64,
    /// Whether the trace has ended, and nothing of it is left.
    pub done: bool,
    /// Why it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What became of one datagram.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceRecord {
    /// Counted from 1; what is missed is left out.
    pub number: u64,
    /// When it was received, in nanoseconds since 1970.
    pub time_ns: u64,
    /// Who says so.
    pub clock: TraceClock,
    /// The worker that took it.
    pub worker: u16,
    /// The interface it came in by.
    pub interface: String,
    /// The data path it came in by.
    pub datapath: Datapath,
    /// Who sent it; none if that could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SocketAddr>,
    /// What it was sent to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<SocketAddr>,
    /// TTL or hop limit it came with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u8>,
    /// DSCP it came with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dscp: Option<u8>,
    /// Payload bytes.
    pub bytes: u32,
    /// Where in a superframe it came, if in one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub superframe: Option<TraceSuperframe>,
    /// The rule it matched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleName>,
    /// The counter it ended in, if no output got it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drop: Option<String>,
    /// What became of each copy.
    pub outputs: Vec<TraceOutput>,
    /// What `frame` begins with.
    pub link: TraceLink,
    /// Bytes of the frame; `frame` may have fewer.
    pub frame_bytes: u32,
    /// The beginning of the frame in hexadecimal digits, if it was asked for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub frame: String,
}

/// Who says when a datagram was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TraceClock {
    /// The kernel, when it came from the interface.
    Kernel,
    /// The worker, when it took it.
    Worker,
}

/// A datagram's place in a superframe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceSuperframe {
    /// Counted from 0.
    pub index: u16,
    /// How many came in it.
    pub datagrams: u16,
}

/// What the bytes of a record begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TraceLink {
    /// An Ethernet header.
    Ethernet,
    /// An IP header.
    Ip,
}

/// What became of one copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceOutput {
    /// The output, in canonical form.
    pub output: String,
    /// `sent`; or the counter of the output it ended in; or `unknown`, if what is known of it was not read in time.
    pub outcome: String,
    /// What the kernel said of a send that failed, as in errno(3).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno: Option<String>,
    /// When that was known, in nanoseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_ns: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::RuleRef;

    fn start(text: &str) -> Result<TraceStart, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn a_trace_is_of_a_rule_or_of_drops_and_everything_else_has_a_default() {
        let by_default = start(r#"{"rule":"video"}"#).expect("a rule");
        assert_eq!(by_default.trace.what, Traced::Rule(RuleRef::Name("video".parse().expect("a name"))));
        assert_eq!(by_default.trace.sampling, Sampling { one_in: 1, count: None, snap_bytes: 0 });
        assert_eq!(by_default.seconds, TRACE_SECONDS);
        assert_eq!(start(r#"{"id":3}"#).expect("a rule").trace.what, Traced::Rule(RuleRef::Id(RuleId(3))));
        let drops = Traced::Drops("eth0".parse().expect("a name"));
        assert_eq!(start(r#"{"drops":"eth0"}"#).expect("drops").trace.what, drops);
        let sampled = r#"{"rule":1,"count":5,"sample":"1/10","seconds":3600,"snap_bytes":1920}"#;
        let sampled = start(sampled).expect("all of it");
        assert_eq!(sampled.trace.sampling, Sampling { one_in: 10, count: Some(5), snap_bytes: 1920 });
        assert_eq!(start(r#"{"rule":1,"sample":10}"#).expect("a number").trace.sampling.one_in, 10);
        let text = serde_json::to_string(&sampled).expect("plain data");
        assert_eq!(start(&text), Ok(sampled));
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_the_reason() {
        for (text, why) in [
            (r#"{}"#, "give `rule`"),
            (r#"{"rule":"a","drops":"eth0"}"#, "give `rule`"),
            (r#"{"rule":"a","count":0}"#, "`count`"),
            (r#"{"rule":"a","seconds":0}"#, "`seconds`"),
            (r#"{"rule":"a","seconds":3601}"#, "at most 3600"),
            (r#"{"rule":"a","snap_bytes":1921}"#, "at most 1920"),
            (r#"{"rule":"a","sample":"1/0"}"#, "`1/0`"),
            (r#"{"rule":"a","sample":"2/3"}"#, "`2/3`"),
            (r#"{"rule":"a","x":1}"#, "unknown field"),
        ] {
            let error = start(text).expect_err(text);
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
