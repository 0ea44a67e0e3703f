//! The async client against a scripted daemon on a real socket.

mod common;

use std::time::Duration;

use common::{Daemon, Step, error, event, rule, welcome};
use mcr_client::{AsyncClient, ClientError, Options};
use mcr_proto::{message::FaultKind, rpc::PROTOCOL};
use serde_json::json;

#[tokio::test]
async fn calls_read_their_results_and_faults() {
    let mut added = rule("video");
    added["created"] = false.into();
    let daemon = Daemon::new(vec![
        welcome(),
        Step::Error(error(FaultKind::NotFound, "no rule 9", Some("rule"), None)),
        Step::Result(json!({"rules": [rule("a")]})),
        Step::Result(json!({"pong": true})),
    ]);
    let mut client = AsyncClient::connect(&daemon.path, Options::default()).await.expect("a welcome");
    assert!(client.welcome().may_change);
    assert!(
        matches!(client.stats(None).await, Err(ClientError::Fault(fault)) if fault.kind == FaultKind::NotFound)
    );
    assert_eq!(client.rules(None).await.expect("rules").len(), 1);
    client.ping().await.expect("pong");
    drop(client);
    assert_eq!(daemon.requests().len(), 4);
}

#[tokio::test]
async fn silence_is_a_timeout_and_the_connection_is_not_used_again() {
    let daemon = Daemon::new(vec![welcome(), Step::Silence]);
    let options = Options { deadline: Duration::from_millis(100) };
    let mut client = AsyncClient::connect(&daemon.path, options).await.expect("a welcome");
    assert!(matches!(client.ping().await, Err(ClientError::Timeout { .. })));
    assert!(matches!(client.ping().await, Err(ClientError::Closed)));
}

#[tokio::test]
async fn a_call_dropped_halfway_leaves_the_connection_closed() {
    let daemon = Daemon::new(vec![welcome(), Step::Silence]);
    let mut client = AsyncClient::connect(&daemon.path, Options::default()).await.expect("a welcome");
    let dropped = tokio::time::timeout(Duration::from_millis(50), client.ping()).await;
    assert!(dropped.is_err());
    assert!(matches!(client.ping().await, Err(ClientError::Closed)));
}

#[tokio::test]
async fn refusals_at_the_door_say_why() {
    let daemon = Daemon::new(vec![Step::Error(error(FaultKind::Protocol, "no", None, Some(2)))]);
    let outcome = AsyncClient::connect(&daemon.path, Options::default()).await;
    assert!(matches!(outcome, Err(ClientError::Protocol { ours: PROTOCOL, theirs: 2 })));
    let daemon = Daemon::new(vec![Step::Refuse(error(FaultKind::NotPermitted, "not you", None, None))]);
    let outcome = AsyncClient::connect(&daemon.path, Options::default()).await;
    assert!(matches!(outcome, Err(ClientError::NotPermitted { .. })));
    let outcome = AsyncClient::connect("/nonexistent/mcrd.sock", Options::default()).await;
    assert!(matches!(outcome, Err(ClientError::Unreachable { .. })));
}

#[tokio::test]
async fn events_come_after_a_subscription_and_dropping_the_wait_loses_none() {
    let mut events = common::line(&common::Response::success(2.into(), json!({"kinds": ["worker"]})));
    events.extend(event(1));
    let daemon = Daemon::new(vec![welcome(), Step::Raw(events), Step::Raw(event(2))]);
    let mut client = AsyncClient::connect(&daemon.path, Options::default()).await.expect("a welcome");
    client.subscribe(&mcr_proto::rpc::Subscribe::default()).await.expect("subscribed");
    assert_eq!(client.next_event().await.expect("an event").seq, 1);
    assert!(tokio::time::timeout(Duration::from_millis(20), client.next_event()).await.is_err());
    // The script's next step waits for a request, and says an event and no answer.
    assert!(matches!(client.ping().await, Err(ClientError::Closed)));
}
