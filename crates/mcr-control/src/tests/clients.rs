//! Clients of all kinds: polite, many, rude, slow.

use std::{io::Write, net::Shutdown, time::Duration};

use mcr_proto::message::{Reply, Request, RuleRef};
use serde_json::{Value, json};

use super::stage::{Stage, holding, rule};
use crate::limits::Limits;

fn stage(limits: Limits) -> Stage {
    Stage::new(limits, holding((1..=50).map(rule).collect(), Vec::new(), 100))
}

#[test]
fn hello_is_answered_with_versions_and_rights() {
    let stage = stage(Limits::default());
    let mut client = stage.connect();
    let welcome = client.call("hello", json!({"protocol": 1, "client": "test"}));
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(welcome["result"], json!({"protocol": 1, "version": version, "may_change": true}));
    assert_eq!(client.call("version", json!({}))["result"], json!({"version": version, "protocol": 1}));
    assert_eq!(client.call("ping", json!({}))["result"], json!({"pong": true}));
    stage.stop();
}

#[test]
fn anything_before_hello_is_refused_and_the_connection_closed() {
    let stage = stage(Limits::default());
    for line in [
        r#"{"jsonrpc":"2.0","id":7,"method":"ping"}"#,
        r#"{"jsonrpc":"2.0","id":7,"method":"nothing"}"#,
        r#"{"jsonrpc":"2.0","id":7,"method":"hello"}"#,
    ] {
        let mut client = stage.connect();
        let response = client.line(line);
        assert_eq!(
            (&response["id"], &response["error"]["data"]["kind"]),
            (&json!(7), &json!("protocol")),
            "{response}"
        );
        assert!(response["error"]["message"].as_str().unwrap().contains("hello"));
        assert_eq!(client.response(), None);
    }
    stage.stop();
}

#[test]
fn another_protocol_is_refused_with_both_numbers_and_the_connection_closed() {
    let stage = stage(Limits::default());
    let mut client = stage.connect();
    let error = client.call("hello", json!({"protocol": 99}))["error"].take();
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("protocol 1,") && message.contains("99"), "{message}");
    assert_eq!(error["data"], json!({"kind": "protocol", "protocol": 1}));
    assert_eq!(client.response(), None);
    stage.stop();
}

#[test]
fn a_hello_without_an_id_is_still_answered() {
    let stage = stage(Limits::default());
    let mut client = stage.connect();
    let response = client.line(r#"{"jsonrpc":"2.0","method":"hello","params":{"protocol":1}}"#);
    assert_eq!((&response["id"], &response["result"]["protocol"]), (&Value::Null, &json!(1)));
    stage.stop();
}

#[test]
fn junk_is_answered_with_the_right_code_and_the_conversation_goes_on() {
    let stage = stage(Limits::default());
    let mut client = stage.client();
    let deep = "[".repeat(100_000);
    for (line, code) in [
        (&b"GET / HTTP/1.1"[..], -32700),
        (b"\xff\xfe\xfd", -32700),
        (b"\"\xc3\x28\"", -32700),
        (b"\0\0\0\0", -32700),
        (deep.as_bytes(), -32700),
        (br#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#, -32600),
        (b"null", -32600),
        (b"{}", -32600),
        (br#"{"jsonrpc":"2.0","id":1,"method":"ping","params":[1]}"#, -32602),
        (br#"{"jsonrpc":"2.0","id":1,"method":"no.such"}"#, -32601),
    ] {
        client.send([line, b"\n"].concat());
        let response = client.response().expect("an answer to junk");
        assert_eq!(response["error"]["code"], code, "{response}");
        assert!(response["error"]["data"]["kind"].is_string());
        assert_eq!(client.call("ping", json!({}))["result"]["pong"], true);
    }
    stage.stop();
}

#[test]
fn blank_lines_are_passed_over_and_carriage_returns_do_no_harm() {
    let stage = stage(Limits::default());
    let mut client = stage.client();
    client.send("\n  \r\n\n{\"jsonrpc\":\"2.0\",\"id\":\"a\",\"method\":\"ping\"}\r\n");
    assert_eq!(client.response().unwrap()["id"], "a");
    stage.stop();
}

#[test]
fn a_notification_is_carried_out_and_not_answered() {
    let (asked, requests) = std::sync::mpsc::channel();
    let stage = Stage::new(Limits::default(), move |request| {
        asked.send(request).expect("the test listens");
        Some(Ok(Reply::Done))
    });
    let mut client = stage.client();
    client.send("{\"jsonrpc\":\"2.0\",\"method\":\"rule.remove\",\"params\":{\"rule\":\"r9\"}}\n");
    client.send("{\"jsonrpc\":\"2.0\",\"method\":\"no.such\"}\n");
    assert_eq!(client.call("ping", json!({}))["result"]["pong"], true);
    let removed = Request::RuleRemove(RuleRef::Name("r9".parse().unwrap()));
    assert_eq!(requests.try_iter().collect::<Vec<_>>(), [removed, Request::Ping]);
    stage.stop();
}

#[test]
fn requests_sent_together_are_answered_in_order_also_after_the_client_has_stopped_sending() {
    let stage = stage(Limits::default());
    let mut client = stage.client();
    let lines: String =
        (0..100).map(|id| format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"ping\"}}\n")).collect();
    client.send(lines);
    client.stream.shutdown(Shutdown::Write).unwrap();
    for id in 0..100 {
        assert_eq!(client.response().unwrap()["id"], id);
    }
    assert_eq!(client.response(), None);
    stage.stop();
}

#[test]
fn a_line_over_the_cap_is_answered_once_and_the_connection_closed() {
    let stage = stage(Limits { line_bytes_max: 1000, ..Limits::default() });
    let mut client = stage.client();
    let padding = " ".repeat(1000 - r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#.len());
    let fits = client.line(&format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"{padding}}}"));
    assert_eq!(fits["result"]["pong"], true);
    // What comes behind the cap may find the connection closed already.
    let _ = client.stream.write_all(&[b'x'; 100_000]);
    assert_eq!(client.response().expect("one answer")["error"]["data"]["kind"], "limit");
    assert_eq!(client.response(), None);
    stage.stop();
}

#[test]
fn half_a_line_is_waited_for_only_so_long() {
    let stage = stage(Limits { half_line: Duration::from_millis(50), ..Limits::default() });
    let mut idle = stage.client();
    let mut client = stage.client();
    client.send("{\"jsonrpc\":");
    let response = client.response().expect("told why");
    assert_eq!((&response["id"], &response["error"]["code"]), (&Value::Null, &json!(-32700)));
    assert_eq!(client.response(), None);
    assert_eq!(idle.call("ping", json!({}))["result"]["pong"], true, "an idle client may stay");
    stage.stop();
}

#[test]
fn a_dripping_line_is_half_a_line() {
    let stage = stage(Limits { half_line: Duration::from_millis(50), ..Limits::default() });
    let mut client = stage.client();
    while client.stream.write_all(b" x").is_ok() {
        std::thread::park_timeout(Duration::from_millis(5));
    }
    client.wait_for_end();
    stage.stop();
}

#[test]
fn a_last_line_without_its_newline_is_not_carried_out() {
    let stage = Stage::new(Limits::default(), |request| panic!("asked {request:?}"));
    let mut client = stage.client();
    client.send(r#"{"jsonrpc":"2.0","id":1,"method":"rule.remove","params":{"rule":"r1"}}"#);
    client.stream.shutdown(Shutdown::Write).unwrap();
    let response = client.response().expect("told so");
    assert!(response["error"]["message"].as_str().unwrap().contains("newline"));
    assert_eq!(client.response(), None);
    stage.stop();
}

#[test]
fn a_client_that_does_not_read_is_closed_and_others_are_served() {
    let stage = stage(Limits { unread_response: Duration::from_millis(50), ..Limits::default() });
    let mut client = stage.client();
    // Sent until control has closed: it takes no more once its responses are stuck.
    while client.stream.write_all(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"rule.list\"}\n").is_ok() {}
    assert!(stage.client().call("ping", json!({}))["result"].is_object());
    stage.stop();
}

#[test]
fn one_client_too_many_is_told_so_and_a_place_freed_is_given_again() {
    let stage = stage(Limits { clients_max: 2, ..Limits::default() });
    let first = stage.client();
    let _second = stage.client();
    let mut third = stage.connect();
    let refused = third.response().expect("told why");
    assert_eq!((&refused["id"], &refused["error"]["data"]["kind"]), (&Value::Null, &json!("limit")));
    assert_eq!(third.response(), None);
    drop(first);
    let deadline = std::time::Instant::now() + super::stage::PATIENCE;
    loop {
        let mut again = stage.connect();
        // Refused ones may be closed before they can write.
        let _ = again
            .stream
            .write_all(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"hello\",\"params\":{\"protocol\":1}}\n");
        if again.response().is_some_and(|response| response["result"].is_object()) {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "the place is not given again");
    }
    stage.stop();
}

#[test]
fn many_clients_at_once_each_get_their_own_answers() {
    let stage = stage(Limits::default());
    std::thread::scope(|scope| {
        for number in 1..=200u32 {
            let stage = &stage;
            scope.spawn(move || {
                let mut client = stage.client();
                for round in 0..5 {
                    let wanted = (number + round) % 50 + 1;
                    let response = client.call("rule.list", json!({"rule": wanted}));
                    assert_eq!(response["result"]["rules"][0]["name"], format!("r{wanted}"));
                }
            });
        }
    });
    stage.stop();
}

#[test]
fn clients_see_the_end_when_the_daemon_stops() {
    let stage = stage(Limits::default());
    let mut client = stage.client();
    stage.stop();
    client.wait_for_end();
}
