//! The blocking client against a scripted daemon on a real socket.

mod common;

use std::{os::unix::net::UnixListener, time::Duration};

use common::{Daemon, Step, error, event, rule, welcome};
use mcr_client::{Client, ClientError, Options};
use mcr_proto::{
    message::{FaultKind, RuleRef, RuleState},
    rpc::{PROTOCOL, RuleParams, method},
    rule::{RuleId, RuleSpec},
};
use serde_json::json;

const SHORT: Options = Options { deadline: Duration::from_millis(100) };

fn connect(daemon: &Daemon) -> Client {
    Client::connect(&daemon.path, Options::default()).expect("a welcome")
}

#[test]
fn the_handshake_comes_first_and_names_the_protocol() {
    let daemon = Daemon::new(vec![welcome(), Step::Result(json!({"pong": true}))]);
    let mut client = connect(&daemon);
    assert_eq!(client.welcome().version, "9.9.9");
    client.ping().expect("pong");
    drop(client);
    let requests = daemon.requests();
    assert_eq!(requests[0].method, method::HELLO);
    assert_eq!(requests[0].params["protocol"], PROTOCOL);
    assert_eq!(requests[1].method, method::PING);
}

#[test]
fn every_method_sends_its_parameters_and_reads_its_result() {
    let mut added = rule("video");
    added["created"] = true.into();
    let daemon = Daemon::new(vec![
        welcome(),
        Step::Result(added),
        Step::Result(json!({"rules": [rule("a"), rule("b")]})),
        Step::Result(json!({"time_ns": 5, "rules": [], "inputs": []})),
        Step::Result(json!({"workers": []})),
        Step::Result(json!({"interfaces": []})),
        Step::Result(json!({"version": "9.9.9", "protocol": 1})),
        Step::Result(json!({})),
    ]);
    let mut client = connect(&daemon);
    let spec = RuleSpec::new("239.1.1.1:5000@eth0".parse().unwrap(), vec!["10.0.0.2:6000".parse().unwrap()]);
    let added = client.rule_add(&spec).expect("added");
    assert_eq!((added.created, added.rule.state), (true, RuleState::Unresolved));
    assert_eq!(client.rules(None).expect("rules").len(), 2);
    assert_eq!(client.stats(Some(&RuleRef::Id(RuleId(3)))).expect("stats").time_ns, 5);
    assert!(client.workers().expect("workers").is_empty());
    assert!(client.interfaces().expect("interfaces").is_empty());
    assert_eq!(client.version().expect("version").version, "9.9.9");
    client.rule_remove(&RuleRef::Name("video".parse().unwrap())).expect("removed");
    drop(client);
    let requests = daemon.requests();
    assert_eq!(requests[1].params["input"], "239.1.1.1:5000@eth0");
    assert_eq!(requests[3].params, json!({"rule": 3}));
    let params: RuleParams = serde_json::from_value(requests[7].params.clone()).unwrap();
    assert_eq!(params.rule, RuleRef::Name("video".parse().unwrap()));
}

#[test]
fn a_fault_keeps_kind_message_and_field_and_the_connection_goes_on() {
    let fault = error(FaultKind::Exists, "name taken", Some("name"), None);
    let daemon = Daemon::new(vec![welcome(), Step::Error(fault), Step::Result(json!({"pong": true}))]);
    let mut client = connect(&daemon);
    let Err(ClientError::Fault(fault)) = client.rules(None) else { panic!("not a fault") };
    assert_eq!(
        (fault.kind, fault.message.as_str(), fault.field.as_deref()),
        (FaultKind::Exists, "name taken", Some("name"))
    );
    client.ping().expect("still open");
}

#[test]
fn a_daemon_of_another_protocol_is_named_with_both_numbers() {
    let daemon = Daemon::new(vec![Step::Error(error(FaultKind::Protocol, "no", None, Some(7)))]);
    let error = Client::connect(&daemon.path, Options::default()).expect_err("refused");
    assert!(matches!(error, ClientError::Protocol { ours: PROTOCOL, theirs: 7 }), "{error}");
}

#[test]
fn a_refusal_before_the_handshake_is_read_although_the_daemon_has_closed() {
    let refusal = error(FaultKind::NotPermitted, "uid 5 may not", None, None);
    let daemon = Daemon::new(vec![Step::Refuse(refusal)]);
    let error = Client::connect(&daemon.path, Options::default()).expect_err("refused");
    assert_eq!(error.to_string(), "uid 5 may not");
    assert!(matches!(error, ClientError::NotPermitted { .. }));
}

#[test]
fn silence_is_a_timeout_and_the_connection_is_not_used_again() {
    let daemon = Daemon::new(vec![welcome(), Step::Silence]);
    let mut client = Client::connect(&daemon.path, SHORT).expect("a welcome");
    assert!(matches!(client.ping(), Err(ClientError::Timeout { .. })));
    assert!(matches!(client.ping(), Err(ClientError::Closed)));
}

#[test]
fn bytes_that_drip_do_not_extend_the_deadline() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mcrd.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let dripping = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        while std::io::Write::write_all(&mut stream, b" ").is_ok() {
            std::thread::park_timeout(Duration::from_millis(5));
        }
    });
    let error = Client::connect(&path, SHORT).expect_err("no line ever ends");
    assert!(matches!(error, ClientError::Timeout { .. }), "{error}");
    dripping.join().unwrap();
}

#[test]
fn a_daemon_that_never_accepts_is_a_timeout_not_a_hang() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mcrd.sock");
    let _listener = UnixListener::bind(&path).unwrap();
    let error = Client::connect(&path, SHORT).expect_err("nobody answers");
    assert!(matches!(error, ClientError::Timeout { .. }), "{error}");
}

#[test]
fn a_full_accept_queue_is_an_error_within_the_deadline() {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, bind, listen, socket};
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mcrd.sock");
    let listener = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
    listen(&listener, 0).unwrap();
    // A queue of length 0 holds one connection.
    let _queued = std::os::unix::net::UnixStream::connect(&path).unwrap();
    let error = Client::connect(&path, SHORT).expect_err("no room");
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error}");
}

#[test]
fn a_missing_socket_and_one_nobody_listens_at_are_unreachable() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mcrd.sock");
    assert!(matches!(Client::connect(&path, SHORT), Err(ClientError::Unreachable { .. })));
    drop(UnixListener::bind(&path).unwrap());
    assert!(matches!(Client::connect(&path, SHORT), Err(ClientError::Unreachable { .. })));
}

#[test]
fn a_daemon_that_dies_or_babbles_is_an_error() {
    let daemon = Daemon::new(vec![welcome(), Step::Raw(Vec::new())]);
    assert!(matches!(connect(&daemon).ping(), Err(ClientError::Closed)));
    let daemon = Daemon::new(vec![welcome(), Step::Raw(b"\xff\xfe{\n".to_vec())]);
    assert!(matches!(connect(&daemon).ping(), Err(ClientError::Malformed { .. })));
}

#[test]
fn events_are_kept_while_an_answer_is_waited_for_and_waited_for_afterwards() {
    let mut answer = event(1);
    answer.extend(common::line(&common::Response::success(3.into(), json!({"pong": true}))));
    answer.extend(event(2));
    let subscribed = Step::Result(json!({"kinds": ["rule", "interface", "worker"]}));
    let daemon = Daemon::new(vec![welcome(), subscribed, Step::Raw(answer), Step::Silence]);
    let mut client = connect(&daemon);
    client.subscribe(&mcr_proto::rpc::Subscribe::default()).unwrap();
    client.ping().unwrap();
    let mut next = || client.next_event(Some(Duration::from_millis(100))).unwrap().map(|event| event.seq);
    assert_eq!([next(), next(), next()], [Some(1), Some(2), None]);
}
