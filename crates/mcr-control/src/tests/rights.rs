//! Other users than root. A process has one user for all its threads, so they are this program, run again.

use std::{
    env,
    fs::{self, Permissions},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    process::Command,
};

use serde_json::{Value, json};

use super::stage::{Stage, Talk, holding, rule};
use crate::{limits::Limits, peer::Admission};

const SOCKET: &str = "MCR_CONTROL_TEST_SOCKET";
const NOBODY: u32 = 65_534;

/// The other user's part: says hello, asks to read, asks to change, prints the responses.
#[test]
#[ignore = "run by the other tests as another user"]
fn another_users_client() {
    let Ok(path) = env::var(SOCKET) else { return };
    let stream = std::os::unix::net::UnixStream::connect(path).unwrap();
    let mut talk = Talk::over(stream);
    for (method, params) in [
        ("hello", json!({"protocol": 1})),
        ("rule.list", json!({})),
        ("rule.remove", json!({"rule": "r1"})),
        ("trace.start", json!({"rule": "r1"})),
        ("trace.get", json!({"id": 1})),
    ] {
        let line = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        if talk.try_send(format!("{line}\n")).is_err() && method != "hello" {
            break;
        }
        let Some(response) = talk.response() else { break };
        println!("\nRESPONSE {response}");
    }
}

/// What that user is told; None where it cannot be tried.
fn told(admission: Admission, gid: u32) -> Option<Vec<Value>> {
    if !nix::unistd::geteuid().is_root() {
        return skip("only root can become another user");
    }
    let stage = Stage::with_admission(Limits::default(), admission, holding(vec![rule(1)], Vec::new(), 10));
    // The socket is open to all here, so that the peer's credentials alone decide.
    fs::set_permissions(stage.directory.path(), Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(&stage.path, Permissions::from_mode(0o777)).unwrap();
    // The build directory may be closed to others; a copy beside the socket is not.
    let program = stage.directory.path().join("client");
    fs::copy(env::current_exe().unwrap(), &program).unwrap();
    let output = Command::new(&program)
        .args(["--exact", "--ignored", "--nocapture", "tests::rights::another_users_client"])
        .env(SOCKET, &stage.path)
        .current_dir(stage.directory.path())
        .uid(NOBODY)
        .gid(gid)
        .output();
    stage.stop();
    let output = match output {
        Ok(output) => output,
        Err(error) => return skip(&format!("the client cannot be run as another user: {error}")),
    };
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    let responses = text.lines().filter_map(|line| line.strip_prefix("RESPONSE "));
    Some(responses.map(|json| serde_json::from_str(json).unwrap()).collect())
}

fn skip<T>(reason: &str) -> Option<T> {
    assert!(env::var_os("MCR_REQUIRE").is_none_or(|value| value != "all"), "MCR_REQUIRE=all, but: {reason}");
    eprintln!("skipped: {reason}");
    None
}

const CLOSED: Admission = Admission { owner_uid: 0, group_gid: Some(4242), others_may_read: false };

#[test]
fn a_stranger_is_told_so_and_closed() {
    let Some(responses) = told(CLOSED, NOBODY) else { return };
    assert_eq!(responses.len(), 1);
    assert_eq!(responses[0]["error"]["data"]["kind"], "not_permitted");
    assert!(responses[0]["error"]["message"].as_str().unwrap().contains("65534"));
}

#[test]
fn a_stranger_who_may_read_may_not_change() {
    let Some(responses) = told(Admission { others_may_read: true, ..CLOSED }, NOBODY) else { return };
    assert_eq!(responses[0]["result"]["may_change"], false);
    assert_eq!(responses[1]["result"]["rules"].as_array().map(Vec::len), Some(1));
    for response in &responses[2..] {
        assert_eq!(response["error"]["data"]["kind"], "not_permitted");
    }
    assert_eq!(responses.len(), 5, "payload is not for everyone");
}

#[test]
fn the_group_and_the_owner_may_change() {
    for (admission, gid) in [(CLOSED, 4242), (Admission { owner_uid: NOBODY, ..CLOSED }, NOBODY)] {
        let Some(responses) = told(admission, gid) else { return };
        assert_eq!(responses[0]["result"]["may_change"], true);
        assert_eq!(responses[2]["result"], json!({}));
    }
}
