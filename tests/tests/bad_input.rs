//! What users get wrong: each has its exit code, and one line that says what was wrong and where.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream, process::CommandExt},
    path::Path,
    process::Command,
};

use mcr_e2e::{
    Daemon, DaemonOptions, PATIENCE,
    command::{self, Ended},
    programs::{directory_for_everyone, program, program_for_everyone},
};
use mcr_lab::{Namespace, require};
use mcr_proto::{message::RuleState, rpc::PROTOCOL};

const INPUT: &str = "239.1.1.1:5000@lo";
const OUTPUT: &str = "127.0.0.1:6000";

/// A daemon in a namespace with nothing but `lo`, which is all that most of these need.
fn daemon() -> Option<Daemon> {
    require::netns()?;
    let namespace = Namespace::new().expect("a namespace");
    Some(Daemon::start(&namespace, &DaemonOptions::default()))
}

/// Writes a configuration and has `mcrd check` look at it.
fn check(text: &str) -> (Ended, String) {
    let directory = directory_for_everyone();
    let file = directory.path().join("mcr.toml");
    fs::write(&file, text).expect("it is ours");
    let ended = command::run(Command::new(program("mcrd")).arg("check").arg(&file));
    (ended, file.display().to_string())
}

#[test]
fn an_unknown_interface_is_accepted_with_a_note() {
    let Some(daemon) = daemon() else { return };
    let ended = daemon.mcrctl(&["add", "239.1.1.1:5000@nosuch0", OUTPUT, "--name", "early"]);
    ended.says(0, &["early", "nosuch0", "unresolved"]);
    assert_eq!(ended.stdout, "early\n");
    assert_eq!(daemon.client().rules(None).expect("it answers")[0].state, RuleState::Unresolved);
}

#[test]
fn rules_that_make_no_sense_are_usage_errors_and_are_not_added() {
    let Some(daemon) = daemon() else { return };
    let cases: &[(&[&str], &[&str])] = &[
        // Its own output would be its input again.
        (&[INPUT, INPUT], &["loop"]),
        (&["239.1.1.1:0@lo", OUTPUT], &["input", "port"]),
        (&[INPUT, "127.0.0.1:0"], &["output", "port"]),
        (&[INPUT, OUTPUT, OUTPUT], &["127.0.0.1:6000"]),
        (&["239.1.1.999:5000@lo", OUTPUT], &["input", "239.1.1.999"]),
        (&["0.0.0.0:5000@lo", OUTPUT], &["input", "0.0.0.0"]),
        (&[INPUT, "not-an-address:6000"], &["output", "not-an-address"]),
        (&["239.1.1.1:5000", OUTPUT], &["input", "interface"]),
        (&[INPUT, "127.0.0.1:6000,tll=5"], &["output", "tll", "ttl"]),
        (&[INPUT, "127.0.0.1:6000,ttl=0"], &["output", "ttl"]),
        (&[INPUT, "127.0.0.1:6000,dscp=best"], &["output", "dscp", "best"]),
        (&[INPUT, "127.0.0.1:6000,rate=fast"], &["output", "rate", "fast"]),
        (&[INPUT, "[::1]:6000,source=keep"], &["keep"]),
        (&[INPUT, "127.0.0.1:6000@a-name-that-is-too-long"], &["output"]),
        (&[INPUT, OUTPUT, "--name", "two words"], &["--name"]),
        (&[INPUT, OUTPUT, "--datapath", "fast"], &["--datapath", "fast"]),
    ];
    for (args, words) in cases {
        let args: Vec<_> = ["add"].iter().chain(*args).copied().collect();
        let ended = daemon.mcrctl(&args);
        assert_eq!(ended.code, Some(2), "{args:?}: {ended:?}");
        ended.says(2, words);
        assert_eq!(ended.stdout, "");
    }
    assert_eq!(daemon.client().rules(None).expect("it answers"), []);
}

#[test]
fn a_name_that_is_taken_is_a_usage_error_and_the_first_rule_stays() {
    let Some(daemon) = daemon() else { return };
    assert_eq!(daemon.mcrctl(&["add", INPUT, OUTPUT, "--name", "video"]).code, Some(0));
    daemon.mcrctl(&["add", INPUT, "127.0.0.1:7000", "--name", "video"]).says(2, &["video", "exists"]);
    // The same again is no error: whoever did not get the answer may ask again.
    assert_eq!(daemon.mcrctl(&["add", INPUT, OUTPUT, "--name", "video"]).code, Some(0));
    let rules = daemon.client().rules(None).expect("it answers");
    assert_eq!((rules.len(), rules[0].outputs.as_slice()), (1, [OUTPUT.to_owned()].as_slice()));
}

#[test]
fn a_rule_that_is_not_there_is_not_found() {
    let Some(daemon) = daemon() else { return };
    for args in [["remove", "ghost"], ["show", "ghost"], ["stats", "ghost"], ["remove", "4711"]] {
        daemon.mcrctl(&args).says(4, &[args[1]]);
    }
}

#[test]
fn unknown_verbs_and_options_are_usage_errors() {
    let nowhere = Path::new("/nonexistent/mcrd.sock");
    for args in [["frobnicate", ""], ["list", "--frobnicate"], ["add", INPUT], ["remove", "a b"]] {
        let args: Vec<_> = args.into_iter().filter(|arg| !arg.is_empty()).collect();
        let ended = command::mcrctl(nowhere, &args);
        assert_eq!(ended.code, Some(2), "{args:?}: {ended:?}");
        assert!(!ended.stderr.is_empty() && ended.stdout.is_empty(), "{ended:?}");
    }
    for args in [["frobnicate"].as_slice(), &["run", "--workers", "0"], &["run", "--io", "magic"], &[]] {
        let ended = command::run(Command::new(program("mcrd")).args(args));
        assert_eq!(ended.code, Some(2), "{args:?}: {ended:?}");
    }
    let ended = command::run(Command::new(program("mcrd")).args(["run", "--http", "localhost"]));
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.stderr.contains("localhost") && ended.stderr.contains("127.0.0.1:9650"), "{ended:?}");
    let long = format!("/tmp/{}", "x".repeat(200));
    let ended = command::run(Command::new(program("mcrd")).args(["run", "--socket", &long]));
    ended.says(2, &["at most 107 bytes"]);
}

#[test]
fn a_daemon_that_is_not_there_is_unreachable() {
    let directory = directory_for_everyone();
    let socket = directory.path().join("mcrd.sock");
    let path = socket.display().to_string();
    command::mcrctl(&socket, &["list"]).says(5, &[&path]);
    // A socket file that a killed daemon left behind is no daemon either.
    drop(std::os::unix::net::UnixListener::bind(&socket).expect("the directory is ours"));
    command::mcrctl(&socket, &["ping"]).says(5, &[&path]);
}

#[test]
fn a_user_without_rights_is_not_permitted() {
    let Some(daemon) = daemon() else { return };
    let (_directory, mcrctl) = program_for_everyone("mcrctl");
    let mut command = Command::new(mcrctl);
    command.arg("--socket").arg(daemon.socket()).arg("list").uid(65_534).gid(65_534);
    command::run(&mut command).says(3, &["mcrd.sock", "permi"]);

    // The mode of the socket is one lock; who asks is the other.
    fs::set_permissions(daemon.socket(), fs::Permissions::from_mode(0o666)).expect("it is ours");
    command::run(&mut command).says(3, &["65534"]);
}

#[test]
fn others_read_where_the_configuration_lets_them_and_change_nothing() {
    if require::netns().is_none() {
        return;
    }
    let namespace = Namespace::new().expect("a namespace");
    let config = Some("others_may_read = true\n".to_owned());
    let daemon = Daemon::start(&namespace, &DaemonOptions { config, ..DaemonOptions::default() });
    let (_directory, mcrctl) = program_for_everyone("mcrctl");
    let as_nobody = |args: &[&str]| {
        let mut command = Command::new(&mcrctl);
        command.arg("--socket").arg(daemon.socket()).args(args).uid(65_534).gid(65_534);
        command::run(&mut command)
    };
    assert_eq!(daemon.mcrctl(&["add", INPUT, OUTPUT, "--name", "video"]).code, Some(0));
    let listed = as_nobody(&["list"]);
    assert_eq!(listed.code, Some(0), "{listed:?}");
    assert!(listed.stdout.contains("video"), "{listed:?}");
    as_nobody(&["remove", "video"]).says(3, &["rule.remove", "not permitted"]);
    as_nobody(&["add", "239.1.1.2:5000@lo", OUTPUT]).says(3, &["rule.add", "not permitted"]);
    assert_eq!(daemon.client().rules(None).expect("it answers").len(), 1);
}

#[test]
fn another_protocol_is_refused_with_both_numbers_and_the_connection_closes() {
    let Some(daemon) = daemon() else { return };
    let mut stream = UnixStream::connect(daemon.socket()).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("it is not zero");
    let (theirs, ours) = (PROTOCOL + 4711, PROTOCOL);
    let hello = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"hello","params":{{"protocol":{theirs}}}}}"#);
    // A second request, which must not be answered.
    let second = r#"{"jsonrpc":"2.0","id":2,"method":"rule.list"}"#;
    // In one piece: the daemon closes as soon as it has read the first.
    stream.write_all(format!("{hello}\n{second}\n").as_bytes()).expect("it reads");
    let lines = BufReader::new(stream).lines().map_while(Result::ok);
    let lines: Vec<serde_json::Value> =
        lines.map(|line| serde_json::from_str(&line).expect("JSON")).collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    let error = &lines[0]["error"];
    let message = error["message"].as_str().expect("a message");
    assert!(message.contains(&ours.to_string()) && message.contains(&theirs.to_string()), "{message}");
    assert_eq!((&error["data"]["kind"], &error["data"]["protocol"]), (&"protocol".into(), &ours.into()));
    daemon.client().ping().expect("others are served as before");
}

#[test]
fn lines_that_are_no_requests_are_answered_with_an_error() {
    let Some(daemon) = daemon() else { return };
    let mut stream = UnixStream::connect(daemon.socket()).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("it is not zero");
    let mut answers = BufReader::new(stream.try_clone().expect("a descriptor")).lines();
    let mut ask = |line: &str| -> serde_json::Value {
        writeln!(stream, "{line}").expect("it reads");
        let answer = answers.next().expect("an answer").expect("in time");
        serde_json::from_str(&answer).expect("JSON")
    };
    let hello = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"hello","params":{{"protocol":{PROTOCOL}}}}}"#);
    assert_eq!(ask(&hello)["result"]["protocol"], PROTOCOL);
    let cases = [
        ("{", -32700),
        ("[]", -32600),
        (r#"{"jsonrpc":"2.0","id":2,"method":"no.such"}"#, -32601),
        (r#"{"jsonrpc":"2.0","id":3,"method":"rule.add","params":{"input":7}}"#, -32602),
        (
            r#"{"jsonrpc":"2.0","id":4,"method":"rule.add","params":{"input":"239.1.1.1:5000@lo","outputs":[],"x":1}}"#,
            -32602,
        ),
    ];
    for (line, code) in cases {
        assert_eq!(ask(line)["error"]["code"], code, "{line}");
    }
    assert_eq!(ask(r#"{"jsonrpc":"2.0","id":9,"method":"ping"}"#)["result"]["pong"], true);
}

#[test]
fn a_second_daemon_on_the_same_socket_says_who_has_it() {
    let Some(daemon) = daemon() else { return };
    let second = command::run(Command::new(program("mcrd")).args(["run", "--socket"]).arg(daemon.socket()));
    second.says(1, &["mcrd.sock", &format!("pid {}", daemon.pid())]);
    daemon.client().ping().expect("the first is untouched");
    daemon.stop();
}

#[test]
fn a_daemon_that_cannot_listen_says_where() {
    let directory = directory_for_everyone();
    let socket = directory.path().join("a/b/mcrd.sock");
    command::run(Command::new(program("mcrd")).args(["run", "--socket"]).arg(socket)).says(1, &["a/b"]);

    let (_copy, mcrd) = program_for_everyone("mcrd");
    let socket = directory.path().join("mcrd.sock");
    let mut command = Command::new(mcrd);
    command.args(["run", "--socket"]).arg(&socket).uid(65_534).gid(65_534);
    command::run(&mut command).says(3, &["mcrd.sock"]);
}

#[test]
fn a_configuration_error_names_file_line_and_key() {
    let rule = format!("[[rule]]\nname = \"a\"\ninput = \"{INPUT}\"\noutputs = [\"{OUTPUT}\"]\n");
    let cases = [
        (format!("{rule}colour = \"red\"\n"), 5, "colour"),
        (format!("worker = 2\n{rule}"), 1, "worker"),
        (format!("{rule}\n{rule}"), 7, "name"),
        (rule.replace(":5000", ":0"), 3, "input"),
        (rule.replace(":6000", ":6000,tll=3"), 4, "outputs"),
        (format!("workers = 0\n{rule}"), 1, "workers"),
        (format!("{rule}datapath = \"fast\"\n"), 5, "datapath"),
        (format!("{rule}[[rule]\n"), 5, ""),
    ];
    for (text, line, key) in cases {
        let (ended, file) = check(&text);
        ended.says(2, &[&format!("{file}:{line}:"), key]);
        assert_eq!(ended.stdout, "");
    }
    let (ended, _) = check(&rule);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    // A daemon does not start with it either.
    let directory = directory_for_everyone();
    let file = directory.path().join("mcr.toml");
    fs::write(&file, "worker = 2\n").expect("it is ours");
    let mut command = Command::new(program("mcrd"));
    command.arg("run").arg("--config").arg(&file).arg("--socket").arg(directory.path().join("mcrd.sock"));
    command::run(&mut command).says(2, &["mcr.toml:1:", "worker"]);
    let missing = directory.path().join("none.toml");
    command::run(Command::new(program("mcrd")).arg("check").arg(&missing)).says(2, &["none.toml"]);
}
