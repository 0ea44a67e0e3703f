//! HTTP of a real daemon, confined, with real traffic: metrics, health, the API, and who may do what.

use std::{
    collections::BTreeSet, fs, net::TcpListener, os::unix::fs::PermissionsExt, path::Path, process::Command,
};

use mcr_e2e::{
    Bed, Cell, Daemon, DaemonOptions, command, daemon, eventually, http, law, programs,
    prometheus::Metrics,
    reflector::{Cable, REFLECTOR_IF, Tester, load, probe},
    source, traffic_lock,
};
use mcr_lab::{Namespace, require};
use mcr_proto::{
    message::{RuleState, WorkerState},
    rpc::Stats,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

const TOKEN: &str = "a-token-of-the-tests";

fn options() -> DaemonOptions {
    let arguments = ["--http", http::ADDRESS].map(str::to_owned).to_vec();
    DaemonOptions { workers: 2, arguments, ..Cell::PACKET_URING.daemon(2) }
}

/// Waits until `/metrics` says what `stats` says, for it is made anew only now and then.
fn metrics_of(bed: &Bed, stats: &Stats) -> Metrics {
    let mut metrics = Metrics::default();
    let all: u64 = stats.rules.iter().map(|rule| rule.datagrams).sum();
    eventually("the metrics are those of now", || {
        metrics = Metrics::read(&http::get(&bed.line.relay, "/metrics").body);
        metrics.sum("mcr_rule_datagrams_total") == all as f64
    });
    metrics
}

#[test]
fn metrics_are_the_counters_to_the_last_datagram() {
    let Some(()) = require::netns() else { return };
    let _lock = traffic_lock::take();
    let mut bed = Bed::with_daemon(Cell::PACKET_URING, 2, &options());
    bed.add("plain", "239.1.1.1:5000@in0", &["239.2.2.2:6000@out0", "10.3.0.2:7000"]);
    bed.add("capped", "239.1.1.2:5000@in0", &["239.2.2.3:6000@out0,rate=10pps,ttl=9"]);
    let _sinks = [bed.sink(0, "239.2.2.2:6000@dst0"), bed.sink(1, "10.3.0.2:7000")];
    bed.source("239.1.1.1:5000").send(&source::payloads(1, [700; 500]));
    bed.source("239.1.1.2:5000").send(&source::payloads(2, [100; 300]));
    let stats = bed.at_rest();
    let metrics = metrics_of(&bed, &stats);
    let same = |series: &str, count: u64| {
        assert!(
            (metrics.value(series) - count as f64).abs() < 0.5,
            "{series}: {} is not {count}",
            metrics.value(series)
        );
    };
    same("mcr_rule_datagrams_total{rule=\"plain\"}", 500);
    same("mcr_rule_bytes_total{rule=\"plain\"}", 500 * 700);
    same("mcr_rule_flows_total{rule=\"plain\"}", 1);
    assert!(metrics.value("mcr_rule_latency_seconds_sum{rule=\"plain\"}") > 0.0);
    assert!(metrics.value("mcr_rule_gap_max_seconds{rule=\"plain\"}") > 0.0);
    eventually("all are timed", || {
        let metrics = Metrics::read(&http::get(&bed.line.relay, "/metrics").body);
        let timed = |rule: &str| metrics.value(&format!("mcr_rule_latency_seconds_count{{rule=\"{rule}\"}}"));
        // 300 datagrams matched, whether they were sent or over the rate.
        timed("plain") == 500.0 && timed("capped") == 300.0
    });
    same("mcr_rules{state=\"active\"}", 2);
    same("mcr_output_copies_total{rule=\"plain\",output=\"10.3.0.2:7000\"}", 500);
    let capped = law::rule(&stats, "capped");
    let output = &capped.outputs[0];
    assert!(output.drops["rate"] > 0, "{output:?}");
    for (reason, count) in &output.drops {
        same(
            &format!(
                "mcr_output_drops_total{{rule=\"capped\",output=\"{}\",reason=\"{reason}\"}}",
                output.output
            ),
            *count,
        );
    }
    for input in &stats.inputs {
        let labels = format!(
            "worker=\"{}\",interface=\"{}\",datapath=\"{}\"",
            input.worker, input.interface, input.datapath
        );
        same(&format!("mcr_input_datagrams_total{{{labels}}}"), input.datagrams);
        same(&format!("mcr_input_matched_total{{{labels}}}"), input.matched);
        for (reason, count) in &input.drops {
            same(&format!("mcr_input_drops_total{{{labels},reason=\"{reason}\"}}"), *count);
        }
    }
    for worker in ["0", "1"] {
        same(&format!("mcr_worker_up{{worker=\"{worker}\"}}"), 1);
        same(&format!("mcr_worker_restarts_total{{worker=\"{worker}\"}}"), 0);
        let age = metrics.value(&format!("mcr_worker_heartbeat_age_seconds{{worker=\"{worker}\"}}"));
        assert!((0.0..2.0).contains(&age), "{age}");
    }
    same("mcr_interface_up{interface=\"in0\"}", 1);
    // The law, as a query would have it.
    let sums = ["mcr_input_datagrams_total", "mcr_input_matched_total", "mcr_input_drops_total"]
        .map(|name| metrics.sum(name));
    assert!((sums[0] - sums[1] - sums[2]).abs() < 0.5, "{sums:?}");
    bed.finish();
}

#[test]
fn reflectors_are_in_the_metrics_and_the_api_to_the_last_frame() {
    let Some(()) = require::netns() else { return };
    let _lock = traffic_lock::take();
    let cable = Cable::new();
    let config = format!("[[reflect]]\nname = \"bench\"\ninterface = \"{REFLECTOR_IF}\"\nlatency = true\n");
    let daemon = Daemon::start(&cable.reflector, &DaemonOptions { config: Some(config), ..options() });
    let mut client = daemon.client();
    let mut tester = Tester::open(&cable);
    eventually("it reflects", || client.reflectors(Some("bench")).unwrap()[0].state == RuleState::Active);
    assert_eq!(load(&mut tester, 128, 2_000, 64, &[]).back, 2_000);
    // Not for the reflector's port, and seen by it.
    let mut other = probe(128, 1);
    other[36..38].copy_from_slice(&4_000_u16.to_be_bytes());
    (0..7).for_each(|_| tester.send(&other));
    let mut metrics = Metrics::default();
    let is = |metrics: &Metrics, series: &str, count: u64| (metrics.value(series) - count as f64).abs() < 0.5;
    eventually("the metrics are those of now", || {
        metrics = Metrics::read(&http::get(&cable.reflector, "/metrics").body);
        is(&metrics, "mcr_reflector_reflected_total{reflector=\"bench\"}", 2_000)
            && metrics.sum("mcr_reflector_rejected_total") > 6.5
    });
    let bench = &client.reflectors(Some("bench")).unwrap()[0];
    for (reason, count) in &bench.rejected {
        let series = format!("mcr_reflector_rejected_total{{reflector=\"bench\",reason=\"{reason}\"}}");
        assert!(is(&metrics, &series, *count), "{series}: {} is not {count}", metrics.value(&series));
    }
    assert!(is(&metrics, "mcr_reflector_received_total{reflector=\"bench\"}", 2_007), "{bench:?}");
    assert!((metrics.sum("mcr_reflector_signatures_total") - 2_000.0).abs() < 0.5, "{bench:?}");
    assert!(metrics.sum("mcr_reflector_drops_total") < 0.5, "{bench:?}");
    let median = "mcr_reflector_turn_round_seconds{reflector=\"bench\",percentile=\"50\"}";
    assert!((1e-7..1.0).contains(&metrics.value(median)), "{bench:?}");
    let shown = http::get(&cable.reflector, "/api/stats").json();
    assert_eq!(shown["reflectors"][0]["counters"]["reflected"], json!(2_000), "{shown}");
    daemon.stop();
}

#[test]
fn it_is_ready_only_while_workers_run_and_rules_relay() {
    let Some(()) = require::netns() else { return };
    let _lock = traffic_lock::take();
    let mut bed = Bed::with_daemon(Cell::UDP_SYSCALLS, 1, &options());
    let ready = |bed: &Bed| {
        let response = http::get(&bed.line.relay, "/readyz");
        (response.status, response.json())
    };
    assert_eq!(http::get(&bed.line.relay, "/healthz").status, 200);
    eventually("it is ready", || ready(&bed).0 == 200);
    bed.add_in_any_state("later", "239.1.1.1:5000@nic9", &["239.2.2.2:6000@out0"]);
    eventually("a rule without its interface makes it unready", || ready(&bed).0 == 503);
    let problem = ready(&bed).1["problems"][0].take();
    assert_eq!((&problem["rule"], &problem["state"]), (&json!("later"), &json!("unresolved")), "{problem}");
    assert!(problem["reason"].as_str().is_some_and(|reason| reason.contains("nic9")), "{problem}");
    assert_eq!(bed.daemon.mcrctl(&["remove", "later"]).code, Some(0));
    eventually("it is ready again", || ready(&bed).0 == 200);

    // The first times it is back before anybody looks; each time it waits longer.
    eventually("a dead worker makes it unready", || {
        let worker = bed.client.workers().expect("it answers").swap_remove(1);
        if let (WorkerState::Running, Some(pid)) = (worker.state, worker.pid) {
            // It may have ended since it was listed.
            let _ = kill(Pid::from_raw(i32::try_from(pid).expect("a process number")), Signal::SIGKILL);
        }
        ready(&bed).0 == 503
    });
    eventually("it comes back", || ready(&bed).0 == 200);
    eventually("the restart is counted", || {
        let metrics = Metrics::read(&http::get(&bed.line.relay, "/metrics").body);
        metrics.sum("mcr_worker_restarts_total") > 0.5
    });
    // Control is served by whoever takes its place: the listener is the supervisor's.
    let control = bed.daemon.control();
    daemon::signal(control.pid, Signal::SIGKILL);
    eventually("control is another", || !control.is_alive());
    assert_eq!(http::get(&bed.line.relay, "/healthz").status, 200, "it waits in the listener's queue");
}

/// A file with the token that only its owner reads.
fn token_file(directory: &Path, text: &str, mode: u32) -> String {
    let path = directory.join("token");
    fs::write(&path, text).expect("the directory is ours");
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("the file is ours");
    path.display().to_string()
}

#[test]
fn rules_are_changed_with_the_token_and_only_with_it() {
    let Some(()) = require::netns() else { return };
    let directory = programs::directory_for_everyone();
    let file = token_file(directory.path(), &format!("{TOKEN}\n"), 0o600);
    let namespace = Namespace::new().expect("a namespace");
    let config = format!(
        "[http]\nlisten = \"{}\"\ntoken_file = \"{file}\"\n[[rule]]\nname = \"a\"\ninput = \"239.1.1.1:5000@lo\"\noutputs = [\"127.0.0.1:6000\"]\n",
        http::ADDRESS
    );
    let daemon = Daemon::start(
        &namespace,
        &DaemonOptions { workers: 2, config: Some(config), ..DaemonOptions::default() },
    );
    let post = |path: &str, headers: &str, body: &str| {
        http::request(&namespace, http::ADDRESS, "POST", path, headers, body)
    };
    let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
    assert_eq!(http::get(&namespace, "/api/version").json()["may_change"], true);
    assert_eq!(post("/api/rules/a/disable", "", "").status, 401);
    assert_eq!(
        post("/api/rules/a/disable", "Authorization: Bearer a-token-of-the-testz\r\n", "").status,
        401
    );
    let state = || http::get(&namespace, "/api/rules").json()["rules"][0].take();
    assert_eq!(state()["enabled"], true);
    let disabled = post("/api/rules/a/disable", &bearer, "");
    assert_eq!(
        (disabled.status, &disabled.json()["state"], &state()["state"]),
        (200, &json!("disabled"), &json!("disabled"))
    );
    assert_eq!(post("/api/rules/a/enable", &bearer, "").status, 200);
    let other = 1 - state()["worker"].as_u64().expect("a number");
    let headers = format!("{bearer}Content-Type: application/json\r\n");
    let moved = post("/api/rules/a/move", &headers, &json!({"worker": other}).to_string());
    assert_eq!((moved.status, &moved.json()["worker"]), (200, &json!(other)), "{moved:?}");
    assert_eq!(post("/api/rules/nobody/remove", &bearer, "").status, 404);
    assert_eq!(post("/api/rules/a/remove", &bearer, "").status, 200);
    assert_eq!(http::get(&namespace, "/api/rules").json()["rules"], json!([]));
    assert!(!daemon.log().contains(TOKEN), "a token is no matter for the log");
    daemon.stop();
}

#[test]
fn without_a_token_it_only_shows_and_without_http_it_is_not_there() {
    let Some(()) = require::netns() else { return };
    let namespace = Namespace::new().expect("a namespace");
    let daemon = Daemon::start(&namespace, &options());
    let refused = http::request(
        &namespace,
        http::ADDRESS,
        "POST",
        "/api/rules/a/remove",
        "Authorization: Bearer x\r\n",
        "",
    );
    assert_eq!(refused.status, 403);
    assert!(refused.body.contains("--http-token-file"), "{refused:?}");
    daemon.stop();
    let daemon = Daemon::start(&namespace, &DaemonOptions::default());
    assert!(namespace.enter(|| std::net::TcpStream::connect(http::ADDRESS)).is_err());
    daemon.stop();
}

#[test]
fn what_http_cannot_be_started_with_is_said_before_anything_starts() {
    let directory = programs::directory_for_everyone();
    let run = |arguments: &[&str]| {
        let mut mcrd = Command::new(programs::program("mcrd"));
        mcrd.args(["run", "--log", "error", "--socket"])
            .arg(directory.path().join("mcrd.sock"))
            .args(arguments);
        command::run(&mut mcrd)
    };
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("it is bound").to_string();
    run(&["--http", &address]).says(1, &[&address, "--http"]);
    run(&["--http-token-file", "/nonexistent"]).says(2, &["--http"]);
    let with_token = |text: &str, mode| {
        let file = token_file(directory.path(), text, mode);
        run(&["--http", "127.0.0.1:0", "--http-token-file", &file])
    };
    run(&["--http", "127.0.0.1:0", "--http-token-file", "/nonexistent"]).says(2, &["/nonexistent", "token"]);
    with_token(TOKEN, 0o644).says(2, &["everyone can read", "chmod"]);
    with_token("short", 0o600).says(2, &["16", "openssl rand"]);
    with_token("a token that has spaces in it", 0o600).says(2, &["no space"]);
    let usage = run(&["--http", "9650"]);
    assert_eq!(usage.code, Some(2), "{usage:?}");
    let usage = run(&["--http", "127.0.0.1:0", "--http-name", "http://relay1"]);
    assert_eq!(usage.code, Some(2), "{usage:?}");
}

#[test]
fn a_listener_that_others_reach_is_warned_of() {
    let Some(()) = require::netns() else { return };
    let namespace = Namespace::new().expect("a namespace");
    let arguments = ["--http", "0.0.0.0:9650"].map(str::to_owned).to_vec();
    let daemon = Daemon::start(&namespace, &DaemonOptions { arguments, ..DaemonOptions::default() });
    assert!(daemon.log().contains("can be reached from other hosts"), "{}", daemon.log());
    daemon.stop();
}

/// The names of metrics in a query: words that begin as ours do.
fn used(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("mcr_")).map(str::to_owned).collect()
}

#[test]
fn the_board_and_the_alerts_use_metrics_that_there_are() {
    let Some(()) = require::netns() else { return };
    let namespace = Namespace::new().expect("a namespace");
    let daemon = Daemon::start(&namespace, &options());
    let names = Metrics::names(&http::get(&namespace, "/metrics").body);
    daemon.stop();
    let packaging = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/grafana");
    let read = |name: &str| {
        fs::read_to_string(packaging.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    };
    let board: Value = serde_json::from_str(&read("mcr-dashboard.json")).expect("the board is JSON");
    let mut queries = Vec::new();
    expressions(&board, &mut queries);
    assert!(queries.len() > 10, "the board asks for something: {queries:?}");
    let alerts = read("mcr-alerts.yml");
    for (what, text) in [("board", queries.join("\n")), ("alerts", alerts.clone())] {
        let unknown: Vec<_> = used(&text).into_iter().filter(|name| !names.contains(name)).collect();
        assert!(unknown.is_empty(), "the {what} asks for {unknown:?}; there are {names:?}");
    }
    for alert in ["McrNoSignal", "McrLoss", "McrWorkerRestarts", "McrRuleNotActive"] {
        assert!(alerts.contains(&format!("alert: {alert}\n")), "{alert}");
    }
    let operations = fs::read_to_string(packaging.join("../../docs/operations.md")).expect("it is there");
    let unsaid: Vec<_> = names.iter().filter(|name| !operations.contains(name.as_str())).collect();
    assert!(unsaid.is_empty(), "docs/operations.md does not speak of {unsaid:?}");
}

/// Every `expr`, and every query of a variable, wherever it is.
fn expressions(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                match member {
                    Value::String(text) if name == "expr" || name == "query" || name == "definition" => {
                        found.push(text.clone())
                    }
                    _ => expressions(member, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| expressions(item, found)),
        _ => {}
    }
}
