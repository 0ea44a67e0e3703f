//! The program itself against a scripted daemon on a real socket: what is printed where, and the exit code.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::{fs::PermissionsExt, net::UnixListener, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use mcr_proto::{
    message::FaultKind,
    rpc::{ErrorData, ErrorObject, code},
};
use serde_json::{Value, json};

type Request = mcr_proto::rpc::Request<Value, Value>;
type Response = mcr_proto::rpc::Response<Value, Value>;

/// A daemon that answers every request but `hello` by a function.
struct Daemon {
    directory: tempfile::TempDir,
    path: PathBuf,
}

type Answer = Result<Value, ErrorObject>;

impl Daemon {
    fn new(answer: impl Fn(&Request) -> Answer + Send + 'static) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("mcrd.sock");
        let listener = UnixListener::bind(&path).expect("a fresh path");
        // Ends with the test program; each client is served to its end before the next.
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let mut writer = stream.try_clone().expect("a duplicate");
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    let request: Request = serde_json::from_str(&line).expect("a request");
                    let id = request.id.clone().expect("an id");
                    let outcome = match request.method.as_str() {
                        "hello" => Ok(json!({"protocol": 1, "version": "9.9.9", "may_change": true})),
                        _ => answer(&request),
                    };
                    let response = match outcome {
                        Ok(result) => Response::success(id, result),
                        Err(error) => Response::failure(id, error),
                    };
                    let line = serde_json::to_string(&response).expect("plain data");
                    if writeln!(writer, "{line}").is_err() {
                        break;
                    }
                }
            }
        });
        Self { directory, path }
    }

    fn run(&self, arguments: &[&str]) -> Run {
        run(&self.path, arguments)
    }
}

/// What came of a run.
struct Run {
    code: Option<i32>,
    out: String,
    err: String,
}

fn command(socket: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mcrctl"));
    command.arg("--socket").arg(socket).args(arguments);
    command
}

fn run(socket: &Path, arguments: &[&str]) -> Run {
    command(socket, arguments).output().expect("the program runs").into()
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("text");
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

impl Run {
    /// Failed with this code, saying one line and nothing as data.
    fn failed(&self, code: i32, says: &str) {
        assert_eq!((self.code, self.out.as_str()), (Some(code), ""), "{}", self.err);
        assert_eq!(self.err.lines().count(), 1, "{}", self.err);
        assert!(self.err.starts_with("mcrctl: ") && self.err.contains(says), "{}", self.err);
    }
}

fn refuse(kind: FaultKind, message: &str) -> Answer {
    let data = ErrorData { kind, field: None, protocol: None };
    Err(ErrorObject { code: code::FAILED, message: message.into(), data })
}

fn rule(id: u64, state: &str, reason: Option<&str>) -> Value {
    let mut rule = json!({
        "id": id, "name": format!("r{id}"), "input": "239.1.1.1:5000@eth0",
        "outputs": ["10.0.0.2:6000", "239.2.2.2:6000@eth1"],
        "output_states": [{"state": state}, {"state": "paused", "reason": "interface eth1 is down"}],
        "enabled": true, "state": state, "worker": 1, "datapath": "udp", "datapath_wanted": "auto",
        "datapath_reason": "no rights for packet sockets",
    });
    if let Some(reason) = reason {
        rule["reason"] = reason.into();
    }
    rule
}

fn added(mut rule: Value, created: bool) -> Answer {
    rule["created"] = created.into();
    Ok(rule)
}

const ADD: &[&str] = &["add", "239.1.1.1:5000@eth0", "10.0.0.2:6000", "239.2.2.2:6000@eth1"];

#[test]
fn add_prints_the_name_and_notes_what_does_not_relay_yet() {
    let daemon = Daemon::new(|request| {
        assert_eq!(request.params["outputs"][1], "239.2.2.2:6000@eth1");
        added(rule(3, "unresolved", Some("interface eth0 does not exist")), true)
    });
    let run = daemon.run(ADD);
    assert_eq!((run.code, run.out.as_str()), (Some(0), "r3\n"));
    assert_eq!(
        run.err,
        "mcrctl: rule r3 added, unresolved: interface eth0 does not exist; \
         it starts relaying when the interface appears\n"
    );
}

#[test]
fn add_of_what_was_there_is_no_failure_and_says_so() {
    let daemon = Daemon::new(|_| added(rule(3, "active", None), false));
    let run = daemon.run(ADD);
    assert_eq!((run.code, run.out.as_str()), (Some(0), "r3\n"));
    let notes: Vec<_> = run.err.lines().collect();
    assert_eq!(notes[0], "mcrctl: rule r3 was there already, unchanged");
    assert!(
        notes[1].contains("239.2.2.2:6000@eth1") && notes[1].contains("interface eth1 is down"),
        "{}",
        notes[1]
    );
}

#[test]
fn what_is_typed_wrong_is_told_without_a_daemon() {
    let nowhere = Path::new("/nonexistent/mcrd.sock");
    for (arguments, says) in [
        (&["add", "239.1.1.1:5000", "10.0.0.2:1"][..], "names no interface"),
        (&["add", "239.1.1.1:5000@eth0", "10.0.0.2:1", "10.0.0.2"], "output 1:"),
        (&["add", "239.1.1.1:5000@eth0", "10.0.0.2:1,tll=3"], "did you mean `ttl`?"),
        (&["add", "239.1.1.1:5000@eth0", "239.1.1.1:5000@eth0"], "would loop"),
        (&["add", "239.1.1.1:5000@eth0", "10.0.0.2:1", "--name", "7"], "--name"),
        (&["add", "239.1.1.1:5000@eth0", "10.0.0.2:1", "--datapath", "fast"], "auto, kernel, packet or udp"),
        (&["remove", "a", "b c"], "rule:"),
        (&["show", ""], "rule:"),
    ] {
        run(nowhere, arguments).failed(2, says);
    }
    for arguments in [&[][..], &["no-such-verb"], &["add", "239.1.1.1:5000@eth0"], &["remove"]] {
        let run = run(nowhere, arguments);
        assert_eq!((run.code, run.out.as_str()), (Some(2), ""), "{arguments:?}");
    }
}

#[test]
fn an_unreachable_daemon_is_code_5_and_says_where_it_was_looked_for() {
    run(Path::new("/nonexistent/mcrd.sock"), &["ping"]).failed(5, "/nonexistent/mcrd.sock");
}

#[test]
fn each_kind_of_fault_has_its_code() {
    for (kind, code) in [
        (FaultKind::Invalid, 2),
        (FaultKind::Exists, 2),
        (FaultKind::NotPermitted, 3),
        (FaultKind::NotFound, 4),
        (FaultKind::Busy, 1),
        (FaultKind::Internal, 1),
    ] {
        let daemon = Daemon::new(move |_| refuse(kind, "told\nso"));
        daemon.run(&["show", "r1"]).failed(code, "told\\nso");
    }
}

#[test]
fn a_socket_closed_to_the_user_is_not_permitted() {
    let daemon = Daemon::new(|_| refuse(FaultKind::Internal, "never asked"));
    let program = daemon.directory.path().join("mcrctl");
    std::fs::copy(env!("CARGO_BIN_EXE_mcrctl"), &program).expect("room");
    for (path, mode) in [(daemon.directory.path(), 0o755), (&daemon.path, 0o600)] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("own files");
    }
    let mut command = Command::new(program);
    command.arg("--socket").arg(&daemon.path).arg("ping").uid(65_534).gid(65_534).current_dir("/");
    match command.output() {
        Ok(output) => Run::from(output).failed(3, "permission denied"),
        Err(error) => {
            assert!(
                std::env::var_os("MCR_REQUIRE").is_none_or(|value| value != "all"),
                "MCR_REQUIRE=all, but: {error}"
            );
            eprintln!("skipped: cannot become another user: {error}");
        }
    }
}

#[test]
fn remove_goes_on_after_a_rule_that_is_not_there_and_reports_it() {
    let (asked, requests) = std::sync::mpsc::channel();
    let daemon = Daemon::new(move |request| {
        asked.send(request.params["rule"].clone()).expect("the test listens");
        if request.params["rule"] == "b" { refuse(FaultKind::NotFound, "no rule b") } else { Ok(json!({})) }
    });
    daemon.run(&["remove", "a", "b", "7"]).failed(4, "no rule b");
    assert_eq!(requests.try_iter().collect::<Vec<_>>(), [json!("a"), json!("b"), json!(7)]);
}

#[test]
fn list_and_show_say_the_state_the_path_and_why() {
    let daemon = Daemon::new(|_| {
        Ok(
            json!({"rules": [rule(1, "active", None), rule(22, "unresolved", Some("interface eth0 does not exist"))]}),
        )
    });
    let list = daemon.run(&["list"]);
    assert_eq!((list.code, list.err.as_str()), (Some(0), ""));
    let lines: Vec<_> = list.out.lines().collect();
    let header: Vec<_> = lines[0].split_whitespace().collect();
    assert_eq!(header, ["ID", "NAME", "STATE", "PATH", "WORKER", "INPUT", "OUTPUTS", "WHY"]);
    assert!(lines[1].contains("r1") && lines[1].ends_with("no rights for packet sockets"), "{}", list.out);
    assert!(lines[2].trim_start().starts_with("239.2.2.2:6000@eth1 (paused)"), "{}", list.out);
    assert!(
        lines[3].starts_with("22") && lines[3].ends_with("interface eth0 does not exist"),
        "{}",
        list.out
    );
    let show = daemon.run(&["show", "r1"]);
    assert!(show.out.contains("udp (auto: no rights for packet sockets"), "{}", show.out);
    assert!(show.out.contains("239.2.2.2:6000@eth1  paused: interface eth1 is down"), "{}", show.out);
}

#[test]
fn an_empty_list_is_no_data_and_a_note() {
    let daemon = Daemon::new(|_| Ok(json!({"rules": []})));
    let run = daemon.run(&["list"]);
    assert_eq!((run.code, run.out.as_str()), (Some(0), ""));
    assert!(run.err.contains("mcrctl add"));
}

#[test]
fn json_is_the_result_as_one_document() {
    let daemon = Daemon::new(|request| match request.method.as_str() {
        "rule.list" => Ok(json!({"rules": [rule(1, "active", None)]})),
        "rule.add" => added(rule(1, "active", None), true),
        "rule.remove" => Ok(json!({})),
        "stats.get" => Ok(json!({"time_ns": 5, "rules": [], "inputs": [], "classes": []})),
        "worker.list" => Ok(json!({"workers": []})),
        "interface.list" => Ok(json!({"interfaces": []})),
        "ping" => Ok(json!({"pong": true})),
        _ => Ok(json!({"version": "9.9.9", "protocol": 1})),
    });
    let mut new = rule(1, "active", None);
    new["created"] = true.into();
    for (arguments, want) in [
        (&["list"][..], json!({"rules": [rule(1, "active", None)]})),
        (&["show", "r1"], json!({"rules": [rule(1, "active", None)]})),
        (ADD, new),
        (&["remove", "r1", "r2"], json!({})),
        (&["stats"], json!({"time_ns": 5, "rules": [], "inputs": [], "classes": []})),
        (&["workers"], json!({"workers": []})),
        (&["interfaces"], json!({"interfaces": []})),
        (&["ping"], json!({"pong": true})),
        (&["version"], json!({"version": "9.9.9", "protocol": 1})),
    ] {
        let run = daemon.run(&[&["--json"], arguments].concat());
        assert_eq!(run.code, Some(0), "{}", run.err);
        assert_eq!(serde_json::from_str::<Value>(&run.out).expect("one document"), want, "{arguments:?}");
    }
}

#[test]
fn workers_interfaces_ping_and_version_are_readable() {
    let daemon = Daemon::new(|request| match request.method.as_str() {
        "worker.list" => Ok(json!({"workers": [{
            "index": 0, "pid": 12, "state": "running", "core": null, "io": "uring", "restarts": 0, "rules": 3, "sockets": 4,
            "desired_generation": 6, "applied_generation": 5,
        }]})),
        "interface.list" => Ok(json!({"interfaces": [{
            "index": 2, "name": "eth0", "up": true, "running": false, "multicast": true, "mtu": 1500,
            "mac": "02:00:00:00:00:01", "addresses": ["10.0.0.1", "fe80::1"], "kind": "veth", "rules": 1,
        }]})),
        "ping" => Ok(json!({"pong": true})),
        _ => Ok(json!({"version": "9.9.9", "protocol": 1})),
    });
    let workers = daemon.run(&["workers"]).out;
    assert!(
        workers.contains("running") && workers.contains("uring") && workers.contains("5, 6 to come"),
        "{workers}"
    );
    let interfaces = daemon.run(&["interfaces"]).out;
    assert!(interfaces.contains("no carrier") && interfaces.contains("fe80::1"), "{interfaces}");
    assert_eq!(daemon.run(&["ping"]).out, "pong\n");
    let version = daemon.run(&["version"]).out;
    assert_eq!(version, format!("mcrctl {}\nmcrd 9.9.9, control protocol 1\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_reader_that_leaves_early_is_not_an_error() {
    let rules: Vec<_> = (1..2000).map(|id| rule(id, "active", None)).collect();
    let daemon = Daemon::new(move |_| Ok(json!({"rules": rules})));
    for arguments in [&["list"][..], &["--json", "list"], &["--help"]] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let output =
            command(&daemon.path, arguments).stdout(writer).stderr(Stdio::piped()).output().expect("runs");
        assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()), "{arguments:?}");
    }
}

#[test]
fn a_full_disk_is_an_error() {
    let daemon = Daemon::new(|_| Ok(json!({"pong": true})));
    let full = std::fs::File::options().write(true).open("/dev/full").expect("a Linux host");
    let output = command(&daemon.path, &["ping"]).stdout(full).stderr(Stdio::piped()).output().expect("runs");
    let run = Run::from(output);
    assert_eq!(run.code, Some(1));
    assert!(run.err.starts_with("mcrctl: standard output: "), "{}", run.err);
}

/// A daemon whose running rules are these, started with a configuration file that has those.
fn configured(startup: &str, running: &str) -> (Daemon, tempfile::TempDir, PathBuf) {
    let config = mcr_proto::config::parse(running, "running").expect("good");
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("mcr.toml");
    std::fs::write(&path, startup).expect("writable");
    let shown = path.clone();
    let daemon = Daemon::new(move |request| match request.method.as_str() {
        "config.get" => Ok(json!({
            "config": config, "toml": mcr_proto::config::to_toml(&config), "path": shown.display().to_string(),
        })),
        "config.save" => Ok(json!({"path": shown.display().to_string(), "rules": 2})),
        "config.load" => {
            assert!(request.params["text"].as_str().is_some_and(|text| text.contains("[[rule]]")));
            let changed = if request.params["replace"] == true { 1 } else { 0 };
            Ok(
                json!({"added": 2, "changed": changed, "removed": 0, "unchanged": 5, "warnings": ["workers: later"]}),
            )
        }
        other => panic!("{other} is not expected"),
    });
    (daemon, directory, path)
}

fn toml(name: &str, output: &str) -> String {
    format!("[[rule]]\nname = \"{name}\"\ninput = \"239.1.1.1:5000@eth0\"\noutputs = [\"{output}\"]\n")
}

#[test]
fn load_and_save_say_what_was_done_and_warnings_go_beside() {
    let (daemon, _directory, path) = configured(&toml("a", "10.0.0.1:1"), &toml("a", "10.0.0.1:1"));
    let file = path.to_str().expect("text");
    let run = daemon.run(&["load", file]);
    assert_eq!((run.code, run.out.as_str()), (Some(0), "2 added, 0 changed, 0 removed, 5 unchanged\n"));
    assert_eq!(run.err, "mcrctl: warning: workers: later\n");
    assert!(daemon.run(&["load", file, "--replace"]).out.contains("1 changed"));
    assert_eq!(daemon.run(&["save"]).out, format!("{file}: 2 rules saved\n"));
    assert_eq!(daemon.run(&["save", "--stdout"]).out, toml("a", "10.0.0.1:1"));
    std::fs::write(&path, "x = 1\n").expect("writable");
    daemon.run(&["load", file]).failed(2, "mcr.toml:1: key `x`");
    run_without_daemon(&["check", file]).failed(2, "mcr.toml:1: key `x`");
    run_without_daemon(&["check", "/no/such/file"]).failed(2, "/no/such/file: cannot read it");
}

fn run_without_daemon(arguments: &[&str]) -> Run {
    run(Path::new("/no/such/socket"), arguments)
}

#[test]
fn the_difference_is_a_line_for_each_rule() {
    let startup = toml("same", "10.0.0.1:1") + &toml("gone", "10.0.0.1:2") + &toml("other", "10.0.0.1:3");
    let running = toml("same", "10.0.0.1:1") + &toml("other", "10.0.0.1:4") + &toml("new", "10.0.0.1:5");
    let (daemon, _directory, _) = configured(&startup, &running);
    let run = daemon.run(&["show", "--diff"]);
    let want = "- gone: 239.1.1.1:5000@eth0 -> 10.0.0.1:2\n~ other: -10.0.0.1:3, +10.0.0.1:4\n+ new: 239.1.1.1:5000@eth0 -> 10.0.0.1:5\n";
    assert_eq!((run.code, run.out.as_str(), run.err.as_str()), (Some(0), want, ""));
    let json: Value = serde_json::from_str(&daemon.run(&["--json", "show", "--diff"]).out).expect("JSON");
    assert_eq!(
        (&json["running_only"][0]["name"], &json["startup_only"][0]["name"]),
        (&json!("new"), &json!("gone"))
    );
    assert_eq!(json["changed"][0]["running"]["outputs"], json!(["10.0.0.1:4"]));
    let (daemon, _directory, path) = configured(&startup, &startup);
    let run = daemon.run(&["show", "--diff"]);
    assert_eq!((run.code, run.out.as_str()), (Some(0), ""));
    assert!(run.err.contains(path.to_str().expect("text")), "{}", run.err);
}

#[test]
fn levels_of_the_log_are_shown_and_what_is_none_is_told_without_a_daemon() {
    let daemon = Daemon::new(|request| {
        let level = if request.method == "log.set" { request.params["level"].clone() } else { json!("info") };
        Ok(json!({"levels": {"rules": level, "worker": "warn"}}))
    });
    assert_eq!(daemon.run(&["log-level"]).out, "worker     warn\nrules      info\n");
    assert_eq!(daemon.run(&["log-level", "debug", "--facility", "rules"]).out, "rules      debug\n");
    run_without_daemon(&["log-level", "loud"]).failed(2, "`loud` is no level");
    run_without_daemon(&["log-level", "info", "--facility", "x"]).failed(2, "`x` is no facility");
}

#[test]
fn a_rule_that_is_enabled_or_moved_and_not_as_wished_is_explained() {
    let daemon = Daemon::new(|request| match request.method.as_str() {
        "rule.move" => Ok(rule(1, "active", None)),
        "rule.enable" => Ok(rule(1, "paused", Some("interface eth0 is down"))),
        "rule.disable" => Ok(rule(1, "disabled", None)),
        other => panic!("{other} is not expected"),
    });
    let quiet = |arguments: &[&str]| {
        let run = daemon.run(arguments);
        assert_eq!((run.code, run.out.as_str()), (Some(0), ""), "{}", run.err);
        run.err
    };
    assert_eq!(quiet(&["move", "r1", "1"]), "");
    assert!(quiet(&["move", "r1", "0"]).contains("worker 0 does not run; worker 1 carries r1"));
    assert!(quiet(&["enable", "r1"]).contains("paused: interface eth0 is down"));
    assert_eq!(quiet(&["disable", "r1"]), "");
}
