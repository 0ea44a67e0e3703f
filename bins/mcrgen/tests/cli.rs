//! The program as its users see it: reports, exit codes, signals. Each test has a namespace of its own.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use mcr_lab::{Namespace, require, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const MCRGEN: &str = env!("CARGO_BIN_EXE_mcrgen");
const DEADLINE: Duration = Duration::from_secs(20);

fn mcrgen(inside: &Namespace, line: &str) -> Command {
    let mut command = inside.command(MCRGEN);
    command.args(line.split_whitespace());
    command
}

fn output(inside: &Namespace, line: &str) -> Output {
    mcrgen(inside, line).output().expect("mcrgen starts")
}

/// A receiver that has said it listens.
fn listening(inside: &Namespace, line: &str) -> Child {
    let mut child =
        mcrgen(inside, line).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("mcrgen starts");
    let mut said = String::new();
    let stderr = child.stderr.as_mut().expect("piped");
    BufReader::with_capacity(1, stderr).read_line(&mut said).expect("a line");
    assert!(said.starts_with("mcrgen: listening at "), "{said}");
    child
}

/// Waits for `child` and gives its exit code, stdout and stderr.
fn end(mut child: Child) -> (Option<i32>, String, String) {
    let ended = wait_until(DEADLINE, "mcrgen ends", || child.try_wait().expect("a child").is_some());
    ended.expect("in time");
    let (mut out, mut err) = (String::new(), String::new());
    child.stdout.take().expect("piped").read_to_string(&mut out).expect("UTF-8");
    child.stderr.take().expect("piped").read_to_string(&mut err).expect("UTF-8");
    (child.wait().expect("a child").code(), out, err)
}

fn json(text: &[u8]) -> serde_json::Value {
    serde_json::from_slice(text).expect("one JSON object and nothing else")
}

fn terminate(child: &Child) {
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).expect("it is our child");
}

#[test]
fn what_is_sent_is_received_and_both_say_so_in_json() {
    let Some(()) = require::netns() else { return };
    let alone = Namespace::new().expect("a namespace");
    let receiver = listening(&alone, "recv 239.1.1.1:5000@lo --count 300 --seconds 10 --json");
    let sent = output(&alone, "send 239.1.1.1:5000@lo --rate 5k --count 300 --flows 3 --json");
    assert_eq!(sent.status.code(), Some(0), "{sent:?}");
    let sent = json(&sent.stdout);
    assert_eq!((sent["sent"].as_u64(), sent["flows"].as_array().map(Vec::len)), (Some(300), Some(3)));

    let (code, out, err) = end(receiver);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    let received = json(out.as_bytes());
    for (key, want) in [("received", 300), ("lost", 0), ("duplicates", 0), ("reordered", 0), ("corrupt", 0)] {
        assert_eq!(received[key].as_u64(), Some(want), "{key} in {received}");
    }
    assert_eq!((received["foreign"].as_u64(), received["kernel_drops"].as_u64()), (Some(0), Some(0)));
    assert!(received["latency_us"]["p99_9"].as_f64().is_some_and(|us| us > 0.0), "{received}");
}

#[test]
fn text_reports_are_for_people() {
    let Some(()) = require::netns() else { return };
    let alone = Namespace::new().expect("a namespace");
    let receiver = listening(&alone, "recv [::1]:5000 --count 2000 --seconds 10");
    let sent = output(&alone, "send [::1]:5000 --rate 20000 --count 2000 --flows 2 --size 100");
    let sent = String::from_utf8(sent.stdout).expect("UTF-8");
    assert!(sent.starts_with("sent          2,000 datagrams, 200.00 kB in "), "{sent}");
    let (code, out, _) = end(receiver);
    assert_eq!(code, Some(0));
    assert!(
        out.contains("received      2,000 datagrams") && out.contains("lost          0 (0.0000 %)"),
        "{out}"
    );
    assert!(out.contains("p99.9") && out.contains("\n     1  [::1]:"), "{out}");
}

#[test]
fn fewer_than_the_count_is_a_failure() {
    let Some(()) = require::netns() else { return };
    let alone = Namespace::new().expect("a namespace");
    let ended = output(&alone, "recv 127.0.0.1:5000 --count 5 --seconds 0.1 --json");
    assert_eq!(ended.status.code(), Some(1));
    assert_eq!(json(&ended.stdout)["received"].as_u64(), Some(0));
    assert!(String::from_utf8_lossy(&ended.stderr).contains("only 0 of 5 datagrams came"), "{ended:?}");
}

#[test]
fn a_signal_ends_both_ends_with_their_reports() {
    let Some(()) = require::netns() else { return };
    let alone = Namespace::new().expect("a namespace");
    let receiver = listening(&alone, "recv 127.0.0.1:5000 --json");
    let sender = mcrgen(&alone, "send 127.0.0.1:5000 --rate 100 --seconds 1000 --json")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("mcrgen starts");
    // It blocks the signal before it sends, so once it has sent the signal cannot kill it unreported.
    wait_until(DEADLINE, "something was sent", || udp_out(sender.id()) > 0).expect("in time");
    terminate(&sender);
    let (code, out, err) = end(sender);
    assert_eq!((code, err.as_str()), (Some(0), ""));
    let sent = json(out.as_bytes());
    assert_eq!(sent["stopped"].as_bool(), Some(true));
    terminate(&receiver);
    let (code, out, _) = end(receiver);
    let received = json(out.as_bytes());
    assert_eq!((code, received["ended"].as_str()), (Some(0), Some("stopped")));
    assert_eq!(received["received"], sent["sent"]);
}

/// Datagrams sent in the network namespace of process `pid`.
fn udp_out(pid: u32) -> u64 {
    let snmp = std::fs::read_to_string(format!("/proc/{pid}/net/snmp")).unwrap_or_default();
    let mut lines = snmp.lines().filter_map(|line| line.strip_prefix("Udp: "));
    let (Some(names), Some(values)) = (lines.next(), lines.next()) else { return 0 };
    let mut pairs = names.split(' ').zip(values.split(' '));
    pairs.find(|(name, _)| *name == "OutDatagrams").and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
}

#[test]
fn errors_are_one_line_with_the_exit_code_of_their_kind() {
    let Some(()) = require::netns() else { return };
    let alone = Namespace::new().expect("a namespace");
    for (line, code, says) in [
        ("send 10.9.9.9:5000 --count 1", 1, "Network is unreachable"),
        ("recv 239.1.1.1:5000@nosuch0", 4, "mcrctl interfaces"),
        ("send 239.1.1.1:5000@nosuch0 --count 1", 4, "mcrctl interfaces"),
        ("send 10.9.9.9:5000 --count 1", 1, "name the interface"),
        ("recv 10.9.9.9:5000", 1, "no address of this host"),
        ("send 127.0.0.1:5000", 2, "--count"),
        ("send 127.0.0.1:5000 --count 1 --size 31", 2, "32 to 65507"),
        ("send 127.0.0.1:5000 --count 1 --source ::1", 2, "different IP versions"),
        ("recv 127.0.0.1", 2, "127.0.0.1"),
        ("", 2, "mcrgen"),
    ] {
        let ended = output(&alone, line);
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(code), "{line}: {said}");
        assert!(said.starts_with("mcrgen: ") && said.contains(says), "{line}: {said}");
        assert_eq!((said.lines().count(), ended.stdout.len()), (1, 0), "{line}: {said}");
    }
}

#[test]
fn a_missing_right_has_its_own_exit_code() {
    let Some(()) = require::netns() else { return };
    let alone = Namespace::new().expect("a namespace");
    let run = || {
        Command::new(MCRGEN).args(["recv", "127.0.0.1:53", "--seconds", "1"]).uid(65_534).gid(65_534).output()
    };
    let ended = match alone.enter(run) {
        Ok(ended) => ended,
        Err(error) => {
            return require::skip(format!("nobody cannot start {MCRGEN}: {error}")).unwrap_or_default();
        }
    };
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(3), "{said}");
    assert!(said.contains("CAP_NET_BIND_SERVICE"), "{said}");
}

#[test]
fn help_is_no_error_and_shows_examples() {
    for line in [&["--help"][..], &["send", "--help"], &["recv", "--help"], &["--version"]] {
        let ended = Command::new(MCRGEN).args(line).output().expect("mcrgen starts");
        assert_eq!((ended.status.code(), ended.stderr.len()), (Some(0), 0), "{line:?}");
        let said = String::from_utf8_lossy(&ended.stdout);
        assert!(line == ["--version"] || said.contains("mcrgen send 239.1.1.1:5000@eth0"), "{said}");
    }
}
