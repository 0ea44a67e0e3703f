use super::*;
use mcr_proto::message::{Facility, LogLevel};
use proptest::prelude::*;
use serde_json::json;

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
    assert_eq!((reflect.interface.as_str(), reflect.mode), ("eth2", mcr_proto::reflect::ReflectMode::Mac));
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
fn of_several_parameters_the_one_at_fault_is_named() {
    for (method, params, want) in [
        ("log.set", json!({"level": "info", "facility": "x"}), "facility"),
        ("log.set", json!({"level": "x", "facility": "rules"}), "level"),
        ("log.set", json!({"facility": "rules"}), "level"),
        ("log.set", json!({"level": "info", "more": 1}), "more"),
        ("rule.move", json!({"rule": "a", "worker": "1"}), "worker"),
        ("rule.move", json!({"rule": "a b", "worker": 1}), "rule"),
        ("rule.move", json!({"worker": 1}), "rule"),
        ("rule.move", json!({"rule": "a"}), "worker"),
        ("config.load", json!({"text": "", "replace": 1}), "replace"),
        ("config.check", json!({"text": "", "file": 1}), "file"),
        ("hello", json!({"protocol": 1, "client": 1}), "client"),
        ("rule.list", json!({"rule": -1}), "rule"),
    ] {
        let (code, field, message) = fault(method, params.clone());
        assert_eq!((code, field.as_deref()), (code::INVALID_PARAMS, Some(want)), "{params} {message}");
    }
    let (.., message) = fault("rule.list", json!({"rule": -1}));
    assert!(message.contains("a name or a number"), "{message}");
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
