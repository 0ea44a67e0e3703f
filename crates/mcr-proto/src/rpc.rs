//! The control protocol: JSON-RPC 2.0, one object a line, and the types of every method's parameters and result.
//!
//! The first request on a connection is `hello` with the protocol's number; everything else comes after it. Error objects
//! carry `data.kind` (a [`FaultKind`]) and, where one field is at fault, `data.field`.

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use serde_json::Value;

use crate::{
    message::{Fault, FaultKind, IoChoice, RuleRef, RuleState, WorkerState},
    rule::{Datapath, DatapathChoice, RuleId, RuleName, RuleSpec},
};

/// The protocol's number; client and daemon must have the same.
pub const PROTOCOL: u32 = 1;

/// The longest request line the daemon accepts, in bytes, without the newline.
pub const LINE_BYTES_MAX: usize = 1024 * 1024;

/// The longest response line the daemon sends, in bytes, without the newline. Requests come from anyone, responses from
/// the daemon alone: room for the counters of all rules there can reasonably be.
pub const RESPONSE_BYTES_MAX: usize = 64 * LINE_BYTES_MAX;

/// The methods' names.
pub mod method {
    /// Handshake: [`super::Hello`] to [`super::Welcome`].
    pub const HELLO: &str = "hello";
    /// Add a rule: [`crate::rule::RuleSpec`] to [`super::RuleAdded`].
    pub const RULE_ADD: &str = "rule.add";
    /// Remove a rule: [`super::RuleParams`] to an empty object.
    pub const RULE_REMOVE: &str = "rule.remove";
    /// Rules, all or one: [`super::OptionalRule`] to [`super::RuleList`].
    pub const RULE_LIST: &str = "rule.list";
    /// Counters, all or of one rule: [`super::OptionalRule`] to [`super::Stats`].
    pub const STATS_GET: &str = "stats.get";
    /// Workers: to [`super::WorkerList`].
    pub const WORKER_LIST: &str = "worker.list";
    /// Interfaces: to [`super::InterfaceList`].
    pub const INTERFACE_LIST: &str = "interface.list";
    /// Is the daemon there, supervisor included? To [`super::Pong`].
    pub const PING: &str = "ping";
    /// Versions: to [`super::Version`].
    pub const VERSION: &str = "version";
}

/// A request line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Always `"2.0"`.
    pub jsonrpc: String,
    /// Chosen by the client, a number or a string; a request without one is a notification and gets no response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Value>,
    /// One of [`method`].
    pub method: String,
    /// The method's parameters, an object.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub params: Value,
}

/// A response line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Response {
    /// Always `"2.0"`.
    pub jsonrpc: String,
    /// The request's id; null if it could not be read.
    pub id: Value,
    /// What the method returned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
    /// Why it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorObject>,
}

/// A JSON-RPC error.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ErrorObject {
    /// A JSON-RPC code: -32700 not JSON, -32600 not a request, -32601 no such method, -32602 invalid parameters, -32000 any other.
    pub code: i64,
    /// For a person.
    pub message: String,
    /// For a program.
    pub data: ErrorData,
}

/// What a program needs to know of an error.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ErrorData {
    /// The kind of failure.
    pub kind: FaultKind,
    /// The field at fault, if one is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    /// The protocol's number that the daemon speaks, if the client named another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<u32>,
}

/// JSON-RPC's own error codes, and ours.
pub mod code {
    /// The line is not JSON.
    pub const PARSE: i64 = -32700;
    /// The JSON is not a request.
    pub const INVALID_REQUEST: i64 = -32600;
    /// No such method.
    pub const NO_METHOD: i64 = -32601;
    /// The parameters do not fit.
    pub const INVALID_PARAMS: i64 = -32602;
    /// Everything else; `data.kind` says what.
    pub const FAILED: i64 = -32000;
}

impl From<Fault> for ErrorObject {
    fn from(fault: Fault) -> Self {
        let code = if fault.kind == FaultKind::Invalid { code::INVALID_PARAMS } else { code::FAILED };
        Self {
            code,
            message: fault.message,
            data: ErrorData { kind: fault.kind, field: fault.field, protocol: None },
        }
    }
}

impl Request {
    /// A request with the given number.
    pub fn new(id: u64, method: &str, params: Value) -> Self {
        Self { jsonrpc: "2.0".into(), id: Some(id.into()), method: method.into(), params }
    }
}

impl Response {
    /// A successful response.
    pub fn success(id: Value, result: Value) -> Self {
        Self { jsonrpc: "2.0".into(), id, result: Some(result), error: None }
    }

    /// A failed one.
    pub fn failure(id: Value, error: ErrorObject) -> Self {
        Self { jsonrpc: "2.0".into(), id, result: None, error: Some(error) }
    }
}

/// Parameters of `hello`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hello {
    /// The number the client speaks.
    pub protocol: u32,
    /// What the client calls itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
}

/// Result of `hello`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The number the daemon speaks.
    pub protocol: u32,
    /// The daemon's version.
    pub version: String,
    /// Whether this client may change anything, or only read.
    pub may_change: bool,
}

/// Parameters that name a rule: `{"rule": NAME-or-ID}`; `{"name": NAME}` and `{"id": ID}` say the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleParams {
    /// The rule.
    pub rule: RuleRef,
}

/// Parameters that may name a rule; without one, all are meant.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OptionalRule {
    /// The rule.
    pub rule: Option<RuleRef>,
}

#[derive(Deserialize, Serialize, Default)]
#[serde(deny_unknown_fields, default)]
struct RuleFields {
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<NameOrId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<RuleName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<RuleId>,
}

#[derive(Deserialize, Serialize)]
#[serde(untagged)]
enum NameOrId {
    Id(RuleId),
    Text(String),
}

impl RuleFields {
    fn into_ref<E: serde::de::Error>(self) -> Result<Option<RuleRef>, E> {
        match (self.rule, self.name, self.id) {
            (None, None, None) => Ok(None),
            (Some(NameOrId::Id(id)), None, None) | (None, None, Some(id)) => Ok(Some(RuleRef::Id(id))),
            (Some(NameOrId::Text(text)), None, None) => rule_ref(&text).map(Some).map_err(E::custom),
            (None, Some(name), None) => Ok(Some(RuleRef::Name(name))),
            _ => Err(E::custom("give one of `rule`, `name` and `id`")),
        }
    }

    fn from_ref(rule: Option<&RuleRef>) -> Self {
        let rule = rule.map(|rule| match rule {
            RuleRef::Id(id) => NameOrId::Id(*id),
            RuleRef::Name(name) => NameOrId::Text(name.to_string()),
        });
        Self { rule, name: None, id: None }
    }
}

/// A rule as typed on a command line: all digits is an id, anything else a name.
///
/// # Errors
/// The text is neither, with the reason.
pub fn rule_ref(text: &str) -> Result<RuleRef, String> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text
            .parse()
            .map(|id| RuleRef::Id(RuleId(id)))
            .map_err(|_| format!("rule id {text} is too large"));
    }
    text.parse().map(RuleRef::Name).map_err(|error| format!("{error}"))
}

impl<'de> Deserialize<'de> for RuleParams {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let rule = RuleFields::deserialize(deserializer)?.into_ref()?;
        rule.map(|rule| Self { rule }).ok_or_else(|| D::Error::custom("missing `rule`: a rule's name or id"))
    }
}

impl Serialize for RuleParams {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        RuleFields::from_ref(Some(&self.rule)).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for OptionalRule {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self { rule: RuleFields::deserialize(deserializer)?.into_ref()? })
    }
}

impl Serialize for OptionalRule {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        RuleFields::from_ref(self.rule.as_ref()).serialize(serializer)
    }
}

/// Result of `rule.add`: the rule, and whether it is new.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleAdded {
    /// As it stands now.
    #[serde(flatten)]
    pub rule: RuleInfo,
    /// False if an identical one of this name was there.
    pub created: bool,
}

/// A rule as clients see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleInfo {
    /// The daemon's number.
    pub id: RuleId,
    /// The user's name, or one made from the number.
    pub name: RuleName,
    /// The input, in canonical form.
    pub input: String,
    /// The outputs, in canonical form.
    pub outputs: Vec<String>,
    /// Each output's state, in the same order.
    pub output_states: Vec<StateInfo>,
    /// The class, if the rule names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// Switched on by the user.
    pub enabled: bool,
    /// Its state.
    pub state: RuleState,
    /// Why it is in this state, if not active.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The worker that carries it.
    pub worker: u16,
    /// The data path in use; null while there is none.
    pub datapath: Option<Datapath>,
    /// The data path the rule asks for.
    pub datapath_wanted: DatapathChoice,
    /// Why this data path.
    pub datapath_reason: String,
}

/// A state and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateInfo {
    /// The state.
    pub state: RuleState,
    /// Why, if not active.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl RuleInfo {
    /// The specification this rule was made from, for adding it again elsewhere.
    ///
    /// # Errors
    /// A text that is not in the grammar, which a daemon of the same version does not send.
    pub fn spec(&self) -> Result<RuleSpec, crate::endpoint::EndpointError> {
        Ok(RuleSpec {
            name: Some(self.name.clone()),
            input: self.input.parse()?,
            outputs: self.outputs.iter().map(|output| output.parse()).collect::<Result<_, _>>()?,
            class: self.class.clone(),
            datapath: self.datapath_wanted,
            enabled: self.enabled,
        })
    }
}

/// Result of `rule.list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleList {
    /// In order of id.
    pub rules: Vec<RuleInfo>,
}

/// Result of `stats.get`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stats {
    /// When the counters were read, in nanoseconds since 1970.
    pub time_ns: u64,
    /// What each rule relayed, in order of id.
    pub rules: Vec<RuleStats>,
    /// What each worker took in, per interface and data path; for one rule, those its input belongs to.
    pub inputs: Vec<InputStats>,
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

/// Result of `worker.list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerList {
    /// In order of index.
    pub workers: Vec<WorkerInfo>,
}

/// A worker as clients see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerInfo {
    /// Its place.
    pub index: u16,
    /// Its process, if one runs.
    pub pid: Option<u32>,
    /// Its state.
    pub state: WorkerState,
    /// The core it is pinned to.
    pub core: Option<u16>,
    /// The I/O back end in use.
    pub io: Option<IoChoice>,
    /// How often it was started again.
    pub restarts: u32,
    /// Rules it carries.
    pub rules: u32,
    /// Sockets it holds.
    pub sockets: u32,
    /// The plan it should have.
    pub desired_generation: u64,
    /// The plan it has.
    pub applied_generation: u64,
}

/// Result of `interface.list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceList {
    /// In order of index.
    pub interfaces: Vec<InterfaceInfo>,
}

/// An interface as clients see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceInfo {
    /// The kernel's number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Administratively up.
    pub up: bool,
    /// Carrier present.
    pub running: bool,
    /// Can multicast.
    pub multicast: bool,
    /// Largest IP packet, in bytes.
    pub mtu: u32,
    /// Link-layer address, as `aa:bb:cc:dd:ee:ff`.
    pub mac: Option<String>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The driver's kind, such as `veth`, if the kernel says.
    pub kind: Option<String>,
    /// Rules that use it.
    pub rules: u32,
}

/// Result of `ping`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pong {
    /// True: the supervisor answered.
    pub pong: bool,
}

/// Result of `version`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// The daemon's version.
    pub version: String,
    /// The control protocol's number.
    pub protocol: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_named_in_any_of_three_ways() {
        let by = |text: &str| serde_json::from_str::<RuleParams>(text).map(|params| params.rule);
        let name = RuleRef::Name("video".parse().expect("a name"));
        assert_eq!(by(r#"{"rule":"video"}"#).expect("name"), name);
        assert_eq!(by(r#"{"name":"video"}"#).expect("name"), name);
        for text in [r#"{"rule":7}"#, r#"{"rule":"7"}"#, r#"{"id":7}"#] {
            assert_eq!(by(text).expect("id"), RuleRef::Id(RuleId(7)));
        }
    }

    #[test]
    fn a_rule_named_twice_or_not_at_all_is_refused() {
        for text in [r#"{}"#, r#"{"rule":"a","id":1}"#, r#"{"rule":"a","x":1}"#, r#"{"rule":"a b"}"#] {
            assert!(serde_json::from_str::<RuleParams>(text).is_err(), "{text}");
        }
        assert_eq!(serde_json::from_str::<OptionalRule>("{}").expect("none"), OptionalRule::default());
    }

    #[test]
    fn rule_parameters_read_back_as_they_were_written() {
        for rule in [RuleRef::Id(RuleId(3)), RuleRef::Name("a.b".parse().expect("a name"))] {
            let params = RuleParams { rule };
            let text = serde_json::to_string(&params).expect("plain data");
            assert_eq!(serde_json::from_str::<RuleParams>(&text).expect("own text"), params);
        }
    }
}
