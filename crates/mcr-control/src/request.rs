//! A request line as a typed call, or the error to answer it with. Pure: bytes in, [`Incoming`] out.
//!
//! Everything a client can get wrong in what it writes is found here, with the field at fault; what only the daemon's state
//! can tell (names taken, rules unknown) is not.

use mcr_proto::{
    endpoint::{Input, Output},
    message::{EventKind, Fault, FaultKind, RuleRef},
    probe::Probe,
    reflect::Reflect,
    rpc::{
        ConfigLoad, ConfigPart, ConfigText, ErrorData, ErrorObject, Hello, LogSet, MoveParams,
        OptionalReflect, OptionalRule, ReflectParams, RuleParams, Subscribe, TraceParams, TraceStart,
        WhyParams, code, method,
    },
    rule::{DatapathChoice, RuleName, RuleSpec},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

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
            let MoveParams { rule, worker } = read(params, "worker")?;
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

fn enable(params: Map<String, Value>, enabled: bool) -> Result<Call, ErrorObject> {
    read(params, "rule").map(|RuleParams { rule }| Call::RuleEnable { rule, enabled })
}

/// A trace to start; of one that cannot be read, the field at fault is found by reading each by itself.
fn trace_start(params: Map<String, Value>) -> Result<Call, ErrorObject> {
    let params = Value::Object(params);
    TraceStart::deserialize(&params).map(Call::TraceStart).map_err(|error| {
        let alone = |key: &str, value: &Value| match key {
            "rule" | "name" | "id" | "drops" => json!({ key: value }),
            _ => json!({ "rule": 1, key: value }),
        };
        let mut all = params.as_object().into_iter().flatten();
        let faulty = all.find(|(key, value)| TraceStart::deserialize(&alone(key, value)).is_err());
        refusal(code::INVALID_PARAMS, error.to_string(), Some(faulty.map_or("rule", |(key, _)| key)))
    })
}

fn why(params: Map<String, Value>) -> Result<Call, ErrorObject> {
    let WhyParams { datagram } = read(params, "datagram")?;
    let probe = datagram.parse();
    probe.map(Call::Why).map_err(|error| refusal(code::INVALID_PARAMS, error.to_string(), Some("datagram")))
}

fn subscribe(params: Map<String, Value>) -> Result<Call, ErrorObject> {
    let Subscribe { kinds } = read(params, "kinds")?;
    if kinds.as_ref().is_some_and(|kinds| kinds.is_empty() || kinds.contains(&EventKind::Missed)) {
        let message = "`kinds` is a list of rule, interface and worker, or left out";
        return Err(refusal(code::INVALID_PARAMS, message, Some("kinds")));
    }
    let kinds = kinds.map(|mut kinds| {
        kinds.sort_unstable();
        kinds.dedup();
        kinds
    });
    Ok(Call::Subscribe(kinds))
}

/// Parameters of a type that has one field to be wrong in.
fn read<T: DeserializeOwned>(params: Map<String, Value>, field: &str) -> Result<T, ErrorObject> {
    serde_json::from_value(Value::Object(params))
        .map_err(|error| refusal(code::INVALID_PARAMS, error.to_string(), Some(field)))
}

fn none(params: &Map<String, Value>) -> Result<(), ErrorObject> {
    match params.keys().next() {
        None => Ok(()),
        Some(key) => {
            let message = format!("unknown parameter `{}`; the method takes none", shown(key));
            Err(refusal(code::INVALID_PARAMS, message, Some(key)))
        }
    }
}

/// A reflector; of one that cannot be read, the field at fault is found by reading each by itself.
fn reflect(params: Map<String, Value>) -> Result<Reflect, ErrorObject> {
    let params = Value::Object(params);
    Reflect::deserialize(&params).map_err(|error| {
        let whole = |key: &str, value: &Value| json!({ "interface": "lo", key: value });
        let faulty = params.as_object().into_iter().flatten().find_map(|(key, value)| {
            let error = Reflect::deserialize(&whole(key, value)).err()?;
            Some((key.clone(), format!("{}: {error}", shown(key))))
        });
        let (field, message) = faulty.unwrap_or_else(|| ("interface".into(), error.to_string()));
        refusal(code::INVALID_PARAMS, message, Some(&field))
    })
}

fn rule_spec(params: Map<String, Value>) -> Result<RuleSpec, ErrorObject> {
    let params = Value::Object(params);
    match RuleSpec::deserialize(&params) {
        Ok(spec) => match spec.check() {
            Ok(()) => Ok(spec),
            Err(error) => Err(refusal(code::INVALID_PARAMS, error.to_string(), Some(&error.field()))),
        },
        Err(error) => {
            let field = rule_fault(&params);
            let (field, message) = match field {
                Some((field, message)) => (Some(field), message),
                None => (None, error.to_string()),
            };
            Err(refusal(code::INVALID_PARAMS, message, field.as_deref()))
        }
    }
}

/// Which field of a rule that could not be read is at fault, and why: each is read by itself.
fn rule_fault(params: &Value) -> Option<(String, String)> {
    let params = params.as_object()?;
    for (key, value) in params {
        let error = match key.as_str() {
            "name" => fault_of::<Option<RuleName>>(value),
            "input" => fault_of::<Input>(value),
            "outputs" => match value.as_array() {
                Some(outputs) => {
                    let faulty = |(index, output)| Some((index, fault_of::<Output>(output)?));
                    if let Some((index, error)) = outputs.iter().enumerate().find_map(faulty) {
                        return Some((format!("outputs[{index}]"), format!("output {index}: {error}")));
                    }
                    None
                }
                None => fault_of::<Vec<Output>>(value),
            },
            "class" => fault_of::<Option<String>>(value),
            "datapath" => fault_of::<DatapathChoice>(value),
            "enabled" => fault_of::<bool>(value),
            _ => Some("no such field; a rule has name, input, outputs, class, datapath and enabled".into()),
        };
        if let Some(error) = error {
            return Some((key.clone(), format!("{}: {error}", shown(key))));
        }
    }
    let missing = ["input", "outputs"].into_iter().find(|key| !params.contains_key(*key))?;
    Some((missing.into(), format!("`{missing}` is missing")))
}

fn fault_of<T: DeserializeOwned>(value: &Value) -> Option<String> {
    T::deserialize(value).err().map(|error| error.to_string())
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

#[cfg(test)]
mod tests {
    use super::*;
    use mcr_proto::message::{Facility, LogLevel};
    use proptest::prelude::*;

    fn call(method: &str, params: Value) -> Result<Call, ErrorObject> {
        let line = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string();
        let incoming = parse_line(line.as_bytes());
        assert_eq!(incoming.id, Some(json!(1)));
        incoming.call
    }

    fn fault(method: &str, params: Value) -> (i64, Option<String>, String) {
        let error = call(method, params).expect_err("refused");
        (error.code, error.data.field, error.message)
    }

    #[test]
    fn every_method_reads_its_parameters() {
        let hello = Hello { protocol: 1, client: None };
        assert_eq!(call("hello", json!({"protocol": 1})), Ok(Call::Hello(hello)));
        let spec = json!({"input": "239.1.1.1:5000@eth0", "outputs": ["10.0.0.1:1", "10.0.0.2:2,ttl=3"]});
        let Ok(Call::RuleAdd(spec)) = call("rule.add", spec) else { panic!("no rule") };
        assert_eq!(spec.outputs.len(), 2);
        let name = RuleRef::Name("video".parse().unwrap());
        assert_eq!(call("rule.remove", json!({"rule": "video"})), Ok(Call::RuleRemove(name.clone())));
        assert_eq!(call("rule.list", json!({})), Ok(Call::RuleList(None)));
        let moved = Call::RuleMove { rule: name.clone(), worker: 1 };
        assert_eq!(call("rule.move", json!({"rule": "video", "worker": 1})), Ok(moved));
        for (method, enabled) in [("rule.enable", true), ("rule.disable", false)] {
            let want = Call::RuleEnable { rule: name.clone(), enabled };
            assert_eq!((want.method(), want.changes()), (method, true));
            assert_eq!(call(method, json!({"rule": "video"})), Ok(want));
        }
        let load = ConfigLoad { text: "".into(), file: None, replace: false };
        assert_eq!(call("config.load", json!({"text": ""})), Ok(Call::ConfigLoad(load)));
        let set = LogSet { level: LogLevel::Debug, facility: Some(Facility::Worker) };
        assert_eq!(call("log.set", json!({"level": "debug", "facility": "worker"})), Ok(Call::LogSet(set)));
        let kinds = Some(vec![EventKind::Rule, EventKind::Worker]);
        assert_eq!(
            call("event.subscribe", json!({"kinds": ["worker", "rule", "rule"]})),
            Ok(Call::Subscribe(kinds))
        );
        assert_eq!(call("stats.get", json!({"name": "video"})), Ok(Call::StatsGet(Some(name))));
        let Ok(Call::ReflectAdd(reflect)) = call("reflect.add", json!({"interface": "eth2", "mode": "mac"}))
        else {
            panic!("no reflector")
        };
        assert_eq!(
            (reflect.interface.as_str(), reflect.mode),
            ("eth2", mcr_proto::reflect::ReflectMode::Mac)
        );
        let gone = Call::ReflectRemove("eth2-3842".into());
        assert_eq!((gone.method(), gone.changes()), ("reflect.remove", true));
        assert_eq!(call("reflect.remove", json!({"name": "eth2-3842"})), Ok(gone));
        assert_eq!(call("reflect.list", json!({})), Ok(Call::ReflectList(None)));
        for (params, field) in [
            (json!({"interface": "eth2", "mode": "some"}), "mode"),
            (json!({"interface": "eth2", "prot": 1}), "prot"),
            (json!({"port": 7}), "interface"),
        ] {
            assert_eq!(fault("reflect.add", params).1.as_deref(), Some(field));
        }
        for (method, want) in [
            ("worker.list", Call::WorkerList),
            ("interface.list", Call::InterfaceList),
            ("config.get", Call::ConfigGet),
            ("config.save", Call::ConfigSave),
            ("log.get", Call::LogGet),
            ("event.subscribe", Call::Subscribe(None)),
            ("ping", Call::Ping),
            ("version", Call::Version),
        ] {
            assert_eq!(call(method, json!({})), Ok(want.clone()));
            assert_eq!(call(method, Value::Null), Ok(want.clone()));
            assert_eq!(want.method(), method);
        }
    }

    #[test]
    fn what_is_not_a_request_is_answered_with_the_right_code_and_no_id() {
        for (line, want) in [
            (&b"junk"[..], code::PARSE),
            (b"", code::PARSE),
            (b"{\"jsonrpc\":\"2.0\"", code::PARSE),
            (b"\"\xff\"", code::PARSE),
            (&[b'['; 100_000][..], code::PARSE),
            (b"[]", code::INVALID_REQUEST),
            (br#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#, code::INVALID_REQUEST),
            (b"7", code::INVALID_REQUEST),
            (br#"{"jsonrpc":"2.0","id":{},"method":"ping"}"#, code::INVALID_REQUEST),
        ] {
            let incoming = parse_line(line);
            assert_eq!(incoming.id, Some(Value::Null));
            assert_eq!(incoming.call.expect_err("refused").code, want, "{}", String::from_utf8_lossy(line));
        }
    }

    #[test]
    fn a_faulty_request_still_gives_its_id() {
        for (rest, want) in [
            (r#""method":"ping""#, code::INVALID_REQUEST),
            (r#""jsonrpc":"1.0","method":"ping""#, code::INVALID_REQUEST),
            (r#""jsonrpc":"2.0""#, code::INVALID_REQUEST),
            (r#""jsonrpc":"2.0","method":"ping","extra":1"#, code::INVALID_REQUEST),
            (r#""jsonrpc":"2.0","method":"ping","params":[]"#, code::INVALID_PARAMS),
            (r#""jsonrpc":"2.0","method":"pong""#, code::NO_METHOD),
        ] {
            let incoming = parse_line(format!("{{\"id\":\"x\",{rest}}}").as_bytes());
            assert_eq!(incoming.id, Some(json!("x")));
            assert_eq!(incoming.call.expect_err("refused").code, want, "{rest}");
        }
    }

    #[test]
    fn a_request_without_an_id_is_a_notification_and_one_with_null_is_not() {
        assert_eq!(parse_line(br#"{"jsonrpc":"2.0","method":"ping"}"#).id, None);
        assert_eq!(parse_line(br#"{"jsonrpc":"2.0","method":"nothing"}"#).id, None);
        assert_eq!(parse_line(b"{}").id, Some(Value::Null), "no request, so no notification");
        assert_eq!(parse_line(br#"{"jsonrpc":"2.0","method":"ping","id":null}"#).id, Some(Value::Null));
    }

    #[test]
    fn an_unknown_method_is_told_the_known_ones() {
        let (code, field, message) = fault("rule.ad", json!({}));
        assert_eq!((code, field.as_deref()), (code::NO_METHOD, Some("method")));
        assert!(message.contains("rule.ad") && message.contains("rule.add"), "{message}");
    }

    #[test]
    fn the_field_of_a_rule_at_fault_is_named() {
        let input = "239.1.1.1:5000@eth0";
        for (params, want) in [
            (json!({"input": "239.1.1.1:5000", "outputs": ["10.0.0.1:1"]}), "input"),
            (json!({"input": input, "outputs": ["10.0.0.1:1", "10.0.0.1"]}), "outputs[1]"),
            (json!({"input": input, "outputs": "10.0.0.1:1"}), "outputs"),
            (json!({"input": input, "outputs": []}), "outputs"),
            (json!({"input": input, "outputs": ["10.0.0.1:1", "10.0.0.1:1"]}), "outputs[1]"),
            (json!({"input": input, "outputs": [input]}), "outputs[0]"),
            (json!({"outputs": ["10.0.0.1:1"]}), "input"),
            (json!({"input": input}), "outputs"),
            (json!({"input": input, "outputs": ["10.0.0.1:1"], "name": "17"}), "name"),
            (json!({"input": input, "outputs": ["10.0.0.1:1"], "datapath": "fast"}), "datapath"),
            (json!({"input": input, "outputs": ["10.0.0.1:1"], "enabled": 1}), "enabled"),
            (json!({"input": input, "outputs": ["10.0.0.1:1"], "ttl": 1}), "ttl"),
        ] {
            let (code, field, message) = fault("rule.add", params.clone());
            assert_eq!((code, field.as_deref()), (code::INVALID_PARAMS, Some(want)), "{params} {message}");
        }
    }

    #[test]
    fn parameters_nobody_takes_are_refused() {
        assert_eq!(fault("ping", json!({"a": 1})).1.as_deref(), Some("a"));
        assert_eq!(fault("rule.remove", json!({})).1.as_deref(), Some("rule"));
        assert_eq!(fault("rule.list", json!({"rule": "a", "id": 1})).1.as_deref(), Some("rule"));
        assert_eq!(fault("hello", json!({"protocol": "one"})).1.as_deref(), Some("protocol"));
        assert_eq!(fault("log.set", json!({"level": "loud"})).1.as_deref(), Some("level"));
        assert_eq!(fault("config.load", json!({"file": "x"})).1.as_deref(), Some("text"));
        for kinds in [json!([]), json!(["missed"]), json!(["rules"]), json!("rule")] {
            assert_eq!(fault("event.subscribe", json!({"kinds": kinds})).1.as_deref(), Some("kinds"));
        }
    }

    #[test]
    fn a_long_name_is_cut_in_the_answer() {
        let (_, _, message) = fault(&"x".repeat(500_000), json!({}));
        assert!(message.len() < 500, "{}", message.len());
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_call_or_an_error_fit_for_one_line(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Err(error) = parse_line(&bytes).call {
                prop_assert!(!error.message.contains('\n'));
            }
        }

        #[test]
        fn a_rule_that_is_accepted_has_passed_its_check(
            port in any::<u16>(), out in any::<u16>(), group in 0u8..=255, name in ".{0,5}",
        ) {
            let params = json!({
                "name": name, "input": format!("{group}.1.1.1:{port}@eth0"), "outputs": [format!("239.1.1.1:{out}@eth0")],
            });
            if let Ok(Call::RuleAdd(spec)) = call("rule.add", params) {
                prop_assert!(spec.check().is_ok());
            }
        }
    }
}
