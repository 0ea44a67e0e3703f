//! The control protocol: JSON-RPC 2.0, one object a line, and the types of every method's parameters and result.
//!
//! The first request on a connection is `hello` with the protocol's number; everything else comes after it. Error objects
//! carry `data.kind` (a [`FaultKind`]) and, where one field is at fault, `data.field`.

mod config;
mod doctor;
mod events;
mod hosts;
mod logs;
mod reflect;
mod rules;
mod stats;
mod trace;

use serde::{Deserialize, Serialize};

pub use self::{
    config::{
        ConfigChecked, ConfigLoad, ConfigLoaded, ConfigPart, ConfigPartTaken, ConfigSaved, ConfigShown,
        ConfigText,
    },
    doctor::WhyParams,
    events::{EVENT, Event, Subscribe, Subscribed},
    hosts::{InterfaceInfo, InterfaceList, WorkerInfo, WorkerList},
    logs::{LogSet, LogShown},
    reflect::{OptionalReflect, ReflectAdded, ReflectList, ReflectParams},
    rules::{MoveParams, OptionalRule, RuleAdded, RuleInfo, RuleList, RuleParams, StateInfo, rule_ref},
    stats::{ClassStats, FlowList, FlowStats, InputStats, Latency, OutputStats, RuleStats, Stats},
    trace::{
        TRACE_SECONDS, TRACE_SECONDS_MAX, TRACE_SNAP_BYTES_MAX, TraceClock, TraceLink, TraceOutput,
        TraceParams, TraceRecord, TraceRecords, TraceStart, TraceStarted, TraceSuperframe, one_in,
    },
};

use crate::message::{Fault, FaultKind};

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
    /// Have a rule carried by another worker: [`super::MoveParams`] to [`super::RuleInfo`].
    pub const RULE_MOVE: &str = "rule.move";
    /// Switch a rule on: [`super::RuleParams`] to [`super::RuleInfo`].
    pub const RULE_ENABLE: &str = "rule.enable";
    /// Switch a rule off: [`super::RuleParams`] to [`super::RuleInfo`].
    pub const RULE_DISABLE: &str = "rule.disable";
    /// Rules, all or one: [`super::OptionalRule`] to [`super::RuleList`].
    pub const RULE_LIST: &str = "rule.list";
    /// The running configuration: to [`super::ConfigShown`].
    pub const CONFIG_GET: &str = "config.get";
    /// Check a configuration: [`super::ConfigText`] to [`super::ConfigChecked`].
    pub const CONFIG_CHECK: &str = "config.check";
    /// The beginning of a text that is too long for one line: [`super::ConfigPart`] to [`super::ConfigPartTaken`].
    pub const CONFIG_PART: &str = "config.part";
    /// Make a configuration the running one, or a part of it: [`super::ConfigLoad`] to [`super::ConfigLoaded`].
    pub const CONFIG_LOAD: &str = "config.load";
    /// Write the running configuration to the startup configuration's file: to [`super::ConfigSaved`].
    pub const CONFIG_SAVE: &str = "config.save";
    /// Counters, all or of one rule: [`super::OptionalRule`] to [`super::Stats`].
    pub const STATS_GET: &str = "stats.get";
    /// Show what becomes of single datagrams: [`super::TraceStart`] to [`super::TraceStarted`].
    pub const TRACE_START: &str = "trace.start";
    /// What a trace has shown since the last time: [`super::TraceParams`] to [`super::TraceRecords`].
    pub const TRACE_GET: &str = "trace.get";
    /// End a trace: [`super::TraceParams`] to an empty object.
    pub const TRACE_STOP: &str = "trace.stop";
    /// Add a reflector: [`crate::reflect::Reflect`] to [`super::ReflectAdded`].
    pub const REFLECT_ADD: &str = "reflect.add";
    /// Remove a reflector: [`super::ReflectParams`] to an empty object.
    pub const REFLECT_REMOVE: &str = "reflect.remove";
    /// Reflectors with their counters, all or one: [`super::OptionalReflect`] to [`super::ReflectList`].
    pub const REFLECT_LIST: &str = "reflect.list";
    /// Workers: to [`super::WorkerList`].
    pub const WORKER_LIST: &str = "worker.list";
    /// Interfaces: to [`super::InterfaceList`].
    pub const INTERFACE_LIST: &str = "interface.list";
    /// The levels of the log: to [`super::LogShown`].
    pub const LOG_GET: &str = "log.get";
    /// Set the level of the log, or of one facility: [`super::LogSet`] to [`super::LogShown`].
    pub const LOG_SET: &str = "log.set";
    /// Get [`super::Event`]s from now on: [`super::Subscribe`] to [`super::Subscribed`].
    pub const EVENT_SUBSCRIBE: &str = "event.subscribe";
    /// What on the daemon's host breaks or slows relaying: to [`crate::message::Diagnosis`].
    pub const DOCTOR_RUN: &str = "doctor.run";
    /// What would become of a datagram, and why: [`super::WhyParams`] to [`crate::message::Explanation`].
    pub const RULE_WHY: &str = "rule.why";
    /// Is the daemon there, supervisor included? To [`super::Pong`].
    pub const PING: &str = "ping";
    /// Versions: to [`super::Version`].
    pub const VERSION: &str = "version";
}

/// A request line: `I` is the type of its id, `P` of its parameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request<I, P> {
    /// Always `"2.0"`.
    pub jsonrpc: String,
    /// Chosen by the client, a number or a string; a request without one is a notification and gets no response.
    #[serde(default = "Option::default", skip_serializing_if = "Option::is_none")]
    pub id: Option<I>,
    /// One of [`method`].
    pub method: String,
    /// The method's parameters, an object.
    #[serde(default)]
    pub params: P,
}

/// A response line: `I` is the type of the request's id, `R` of the result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Response<I, R> {
    /// Always `"2.0"`.
    pub jsonrpc: String,
    /// The request's id; null if it could not be read.
    pub id: I,
    /// What the method returned.
    #[serde(default = "Option::default", skip_serializing_if = "Option::is_none")]
    pub result: Option<R>,
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

impl<I, P> Request<I, P> {
    /// A request with the given id.
    pub fn new(id: I, method: &str, params: P) -> Self {
        Self { jsonrpc: "2.0".into(), id: Some(id), method: method.into(), params }
    }
}

impl<I, R> Response<I, R> {
    /// A successful response.
    pub fn success(id: I, result: R) -> Self {
        Self { jsonrpc: "2.0".into(), id, result: Some(result), error: None }
    }

    /// A failed one.
    pub fn failure(id: I, error: ErrorObject) -> Self {
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
