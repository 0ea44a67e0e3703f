//! A request line as a typed call, or the error to answer it with. Pure: bytes in, [`Incoming`] out.
//!
//! Everything a client can get wrong in what it writes is found here, with the field at fault; what only the daemon's state
//! can tell (names taken, rules unknown) is not.

mod params;
#[cfg(test)]
mod tests;

use mcr_proto::{
    message::{EventKind, Fault, FaultKind, RuleRef},
    probe::Probe,
    reflect::Reflect,
    rpc::{
        ConfigLoad, ConfigPart, ConfigText, ErrorData, ErrorObject, Hello, LogSet, MoveParams,
        OptionalReflect, OptionalRule, ReflectParams, RuleParams, TraceParams, TraceStart, code, method,
    },
    rule::RuleSpec,
};
use serde_json::{Map, Value};

use self::params::{enable, none, read, reflect, rule_spec, subscribe, trace_start, why};

/// The methods there are.
pub const METHODS: &[&str] = &[
    method::HELLO,
    method::RULE_ADD,
    method::RULE_REMOVE,
    method::RULE_LIST,
    method::RULE_MOVE,
    method::RULE_ENABLE,
    method::RULE_DISABLE,
    method::CONFIG_GET,
    method::CONFIG_CHECK,
    method::CONFIG_PART,
    method::CONFIG_LOAD,
    method::CONFIG_SAVE,
    method::STATS_GET,
    method::TRACE_START,
    method::TRACE_GET,
    method::TRACE_STOP,
    method::REFLECT_ADD,
    method::REFLECT_REMOVE,
    method::REFLECT_LIST,
    method::WORKER_LIST,
    method::INTERFACE_LIST,
    method::LOG_GET,
    method::LOG_SET,
    method::EVENT_SUBSCRIBE,
    method::DOCTOR_RUN,
    method::RULE_WHY,
    method::PING,
    method::VERSION,
];

/// A line that came.
#[derive(Debug, Clone, PartialEq)]
pub struct Incoming {
    /// What the response must carry: null if the line does not say. None for a notification, which gets no response.
    pub id: Option<Value>,
    /// What is asked, or why that cannot be told.
    pub call: Result<Call, ErrorObject>,
}

/// A request, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    /// The handshake.
    Hello(Hello),
    /// Add a rule, which has passed [`RuleSpec::check`].
    RuleAdd(Box<RuleSpec>),
    /// Remove a rule.
    RuleRemove(RuleRef),
    /// Have a rule carried by another worker.
    RuleMove {
        /// The rule.
        rule: RuleRef,
        /// The worker's place.
        worker: u16,
    },
    /// Switch a rule on or off.
    RuleEnable {
        /// The rule.
        rule: RuleRef,
        /// On or off.
        enabled: bool,
    },
    /// The running configuration.
    ConfigGet,
    /// Check a configuration.
    ConfigCheck(ConfigText),
    /// The beginning of the text of the next configuration to load.
    ConfigPart(ConfigPart),
    /// Load a configuration.
    ConfigLoad(ConfigLoad),
    /// Write the running configuration to the startup configuration's file.
    ConfigSave,
    /// One rule or all.
    RuleList(Option<RuleRef>),
    /// Counters of one rule or of all.
    StatsGet(Option<RuleRef>),
    /// Show what becomes of single datagrams.
    TraceStart(TraceStart),
    /// What a trace has shown.
    TraceGet(TraceParams),
    /// End a trace.
    TraceStop(TraceParams),
    /// Add a reflector.
    ReflectAdd(Box<Reflect>),
    /// Remove the reflector of this name.
    ReflectRemove(String),
    /// The reflector of this name, or all.
    ReflectList(Option<String>),
    /// The workers.
    WorkerList,
    /// The interfaces.
    InterfaceList,
    /// The levels of the log.
    LogGet,
    /// Set levels of the log.
    LogSet(LogSet),
    /// Events of these kinds from now on, or of all; no kind twice, and none that cannot be asked for.
    Subscribe(Option<Vec<EventKind>>),
    /// What on this host breaks or slows relaying.
    Doctor,
    /// What would become of a datagram.
    Why(Probe),
    /// Is the supervisor there?
    Ping,
    /// Versions.
    Version,
}

impl Call {
    /// The method's name.
    pub fn method(&self) -> &'static str {
        match self {
            Self::Hello(_) => method::HELLO,
            Self::RuleAdd(_) => method::RULE_ADD,
            Self::RuleRemove(_) => method::RULE_REMOVE,
            Self::RuleList(_) => method::RULE_LIST,
            Self::RuleMove { .. } => method::RULE_MOVE,
            Self::RuleEnable { enabled: true, .. } => method::RULE_ENABLE,
            Self::RuleEnable { enabled: false, .. } => method::RULE_DISABLE,
            Self::ConfigGet => method::CONFIG_GET,
            Self::ConfigCheck(_) => method::CONFIG_CHECK,
            Self::ConfigPart(_) => method::CONFIG_PART,
            Self::ConfigLoad(_) => method::CONFIG_LOAD,
            Self::ConfigSave => method::CONFIG_SAVE,
            Self::LogGet => method::LOG_GET,
            Self::LogSet(_) => method::LOG_SET,
            Self::Subscribe(_) => method::EVENT_SUBSCRIBE,
            Self::StatsGet(_) => method::STATS_GET,
            Self::TraceStart(_) => method::TRACE_START,
            Self::TraceGet(_) => method::TRACE_GET,
            Self::TraceStop(_) => method::TRACE_STOP,
            Self::ReflectAdd(_) => method::REFLECT_ADD,
            Self::ReflectRemove(_) => method::REFLECT_REMOVE,
            Self::ReflectList(_) => method::REFLECT_LIST,
            Self::WorkerList => method::WORKER_LIST,
            Self::InterfaceList => method::INTERFACE_LIST,
            Self::Doctor => method::DOCTOR_RUN,
            Self::Why(_) => method::RULE_WHY,
            Self::Ping => method::PING,
            Self::Version => method::VERSION,
        }
    }

    /// Whether it needs the right to change something, or to see payload.
    pub fn changes(&self) -> bool {
        matches!(
            self,
            Self::RuleAdd(_)
                | Self::RuleRemove(_)
                | Self::RuleMove { .. }
                | Self::RuleEnable { .. }
                | Self::TraceStart(_)
                | Self::TraceGet(_)
                | Self::TraceStop(_)
                | Self::ReflectAdd(_)
                | Self::ReflectRemove(_)
                | Self::ConfigPart(_)
                | Self::ConfigLoad(_)
                | Self::ConfigSave
                | Self::LogSet(_)
        )
    }
}

/// Reads one line, given without its newline.
pub fn parse_line(line: &[u8]) -> Incoming {
    let unreadable = |error| Incoming { id: Some(Value::Null), call: Err(error) };
    let request = match serde_json::from_slice(line) {
        Ok(Value::Object(request)) => request,
        Ok(Value::Array(_)) => {
            return unreadable(refusal(
                code::INVALID_REQUEST,
                "batches are not supported; send one request a line",
                None,
            ));
        }
        Ok(_) => return unreadable(refusal(code::INVALID_REQUEST, "a request is an object", None)),
        Err(error) => {
            return unreadable(refusal(code::PARSE, format!("the line is not JSON: {error}"), None));
        }
    };
    let id = request.get("id").cloned();
    if matches!(id, Some(Value::Object(_) | Value::Array(_) | Value::Bool(_))) {
        let message = "`id` is a number or a string";
        return unreadable(refusal(code::INVALID_REQUEST, message, Some("id")));
    }
    let call = read_request(request);
    // What is no request is no notification either, and is answered (JSON-RPC 2.0, section 5).
    let is_request = call.as_ref().map_or_else(|error| error.code != code::INVALID_REQUEST, |_| true);
    Incoming { id: if is_request { id } else { id.or(Some(Value::Null)) }, call }
}

fn read_request(mut request: Map<String, Value>) -> Result<Call, ErrorObject> {
    let invalid = |message: String, field: &str| Err(refusal(code::INVALID_REQUEST, message, Some(field)));
    if request.get("jsonrpc").and_then(Value::as_str) != Some("2.0") {
        return invalid("`jsonrpc` is not \"2.0\"".into(), "jsonrpc");
    }
    if let Some(key) =
        request.keys().find(|key| !matches!(key.as_str(), "jsonrpc" | "id" | "method" | "params"))
    {
        return invalid(
            format!("unknown field `{}`; a request has jsonrpc, id, method and params", shown(key)),
            key,
        );
    }
    let params = match request.remove("params") {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(params)) => params,
        Some(_) => return Err(refusal(code::INVALID_PARAMS, "`params` is an object", Some("params"))),
    };
    match request.get("method") {
        Some(Value::String(method)) => read_call(method, params),
        _ => invalid("`method` is missing or not a string".into(), "method"),
    }
}

fn read_call(name: &str, params: Map<String, Value>) -> Result<Call, ErrorObject> {
    match name {
        method::HELLO => read(params, "protocol").map(Call::Hello),
        method::RULE_ADD => rule_spec(params).map(|spec| Call::RuleAdd(spec.into())),
        method::RULE_REMOVE => read(params, "rule").map(|RuleParams { rule }| Call::RuleRemove(rule)),
        method::RULE_LIST => read(params, "rule").map(|OptionalRule { rule }| Call::RuleList(rule)),
        method::RULE_MOVE => {
            let MoveParams { rule, worker } = read(params, "rule")?;
            Ok(Call::RuleMove { rule, worker })
        }
        method::RULE_ENABLE => enable(params, true),
        method::RULE_DISABLE => enable(params, false),
        method::CONFIG_GET => none(&params).map(|()| Call::ConfigGet),
        method::CONFIG_CHECK => read(params, "text").map(Call::ConfigCheck),
        method::CONFIG_PART => read(params, "text").map(Call::ConfigPart),
        method::CONFIG_LOAD => read(params, "text").map(Call::ConfigLoad),
        method::CONFIG_SAVE => none(&params).map(|()| Call::ConfigSave),
        method::LOG_GET => none(&params).map(|()| Call::LogGet),
        method::LOG_SET => read(params, "level").map(Call::LogSet),
        method::EVENT_SUBSCRIBE => subscribe(params),
        method::STATS_GET => read(params, "rule").map(|OptionalRule { rule }| Call::StatsGet(rule)),
        method::TRACE_START => trace_start(params),
        method::TRACE_GET => read(params, "id").map(Call::TraceGet),
        method::TRACE_STOP => read(params, "id").map(Call::TraceStop),
        method::REFLECT_ADD => reflect(params).map(|reflect| Call::ReflectAdd(reflect.into())),
        method::REFLECT_REMOVE => {
            read(params, "name").map(|ReflectParams { name }| Call::ReflectRemove(name))
        }
        method::REFLECT_LIST => read(params, "name").map(|OptionalReflect { name }| Call::ReflectList(name)),
        method::WORKER_LIST => none(&params).map(|()| Call::WorkerList),
        method::INTERFACE_LIST => none(&params).map(|()| Call::InterfaceList),
        method::DOCTOR_RUN => none(&params).map(|()| Call::Doctor),
        method::RULE_WHY => why(params),
        method::PING => none(&params).map(|()| Call::Ping),
        method::VERSION => none(&params).map(|()| Call::Version),
        _ => {
            let message = format!("no method `{}`; there are {}", shown(name), METHODS.join(", "));
            let fault = Fault::new(FaultKind::Unsupported, message).at("method");
            Err(ErrorObject { code: code::NO_METHOD, ..fault.into() })
        }
    }
}

fn refusal(code: i64, message: impl Into<String>, field: Option<&str>) -> ErrorObject {
    let data = ErrorData { kind: FaultKind::Invalid, field: field.map(shown), protocol: None };
    ErrorObject { code, message: message.into(), data }
}

/// The longest part of a client's text that a message repeats, in characters.
const SHOWN_MAX: usize = 64;

/// A client's text, fit for one line of a message.
fn shown(text: &str) -> String {
    text.chars().take(SHOWN_MAX).flat_map(char::escape_debug).collect()
}
