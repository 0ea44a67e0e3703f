//! Other people's tools at both ends: what socat sends, socat receives, byte for byte.

use std::{
    fs,
    io::{ErrorKind, Write},
    net::Ipv4Addr,
    process::{Child, Command, Stdio},
};

use mcr_e2e::{Bed, Cell, DaemonOptions, command, eventually, http, law, source, traffic_lock};
use mcr_lab::{Namespace, require};
use nix::sys::signal::Signal;
use tempfile::TempDir;

/// Seven MPEG transport stream packets.
const DATAGRAM_BYTES: usize = 1316;
const DATAGRAMS: usize = 2_000;

fn socat() -> Option<()> {
    match Command::new("socat").arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status() {
        Ok(_) => Some(()),
        Err(error) if error.kind() == ErrorKind::NotFound => require::skip("socat is not installed"),
        Err(error) => panic!("socat: {error}"),
    }
}

/// A receiver that is stopped by SIGTERM; `-u` makes socat write what it has received before it ends.
fn receive(namespace: &Namespace, from: &str, file: &str) -> Child {
    let mut command = namespace.command("socat");
    command.args(["-u", "-b", "65536", from, &format!("CREATE:{file}")]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command.spawn().expect("socat is there")
}

/// Whether a socket of the namespace is bound to this UDP port.
fn is_bound(namespace: &Namespace, port: u16) -> bool {
    let table = namespace.enter(|| fs::read_to_string("/proc/thread-self/net/udp")).unwrap_or_default();
    table.contains(&format!(":{port:04X} "))
}

#[test]
fn what_socat_sends_socat_receives() {
    let (Some(()), Some(())) = (require::netns(), socat()) else { return };
    let _lock = traffic_lock::take();
    for cell in [Cell::PACKET_URING, Cell::PACKET_SYSCALLS, Cell::UDP_URING, Cell::UDP_SYSCALLS] {
        relay_a_file(cell);
    }
}

fn relay_a_file(cell: Cell) {
    let mut bed = Bed::new(cell, 2);
    bed.add("tv", "239.1.1.1:5000@in0", &["239.2.2.2:6000@out0", "10.3.0.2:7000"]);
    let directory = TempDir::with_prefix("mcr-e2e-").expect("a temporary directory");
    let path = |name: &str| directory.path().join(name).display().to_string();
    let sent = source::payloads(1, [DATAGRAM_BYTES; DATAGRAMS]).concat();
    fs::write(path("sent"), &sent).expect("the directory is ours");

    let group =
        format!("UDP4-RECV:6000,rcvbuf=8388608,ip-add-membership=239.2.2.2:{}", Ipv4Addr::new(10, 2, 0, 2));
    let receivers = [
        receive(&bed.line.sinks[0], &group, &path("from-group")),
        receive(&bed.line.sinks[1], "UDP4-RECV:7000,rcvbuf=8388608", &path("to-host")),
    ];
    eventually("both listen", || is_bound(&bed.line.sinks[0], 6000) && is_bound(&bed.line.sinks[1], 7000));

    let mut sender = bed.line.source.command("socat");
    let block = DATAGRAM_BYTES.to_string();
    let to = "UDP4-DATAGRAM:239.1.1.1:5000,ip-multicast-if=10.1.0.1,ip-multicast-ttl=8";
    sender.args(["-u", "-b", &block, &format!("OPEN:{},rdonly", path("sent")), to]);
    let ended = command::run(&mut sender);
    assert_eq!(ended.code, Some(0), "{cell:?}: {ended:?}");

    for (receiver, name) in receivers.into_iter().zip(["from-group", "to-host"]) {
        let length = || fs::metadata(path(name)).map_or(0, |file| file.len());
        let waited =
            mcr_lab::wait_until(mcr_e2e::PATIENCE, "all of it came", || length() == sent.len() as u64);
        mcr_e2e::daemon::signal(receiver.id(), Signal::SIGTERM);
        let ended = command::finish(receiver, "socat");
        assert!(waited.is_ok(), "{cell:?}, {name}: {} of {} bytes came: {ended:?}", length(), sent.len());
        assert!(fs::read(path(name)).expect("it is ours") == sent, "{cell:?}, {name}: the bytes differ");
    }

    // What mcrctl says must agree.
    let ended = bed.daemon.mcrctl(&["stats", "tv", "--json"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let stats: serde_json::Value = serde_json::from_str(&ended.stdout).expect("JSON");
    let rule = &stats["rules"][0];
    assert_eq!(
        (&rule["datagrams"], &rule["bytes"]),
        (&DATAGRAMS.into(), &sent.len().into()),
        "{cell:?}: {stats}"
    );
    for output in rule["outputs"].as_array().expect("outputs") {
        assert_eq!(output["copies"], DATAGRAMS, "{cell:?}: {stats}");
    }
    let stats = bed.finish();
    assert_eq!(law::input(&stats, "in0").datagrams, DATAGRAMS as u64);
}

/// Gives a text to `promtool` and sees that it has nothing to say.
fn promtool(arguments: &[&str], input: &str) {
    let mut command = Command::new("promtool");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("promtool is there");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(input.as_bytes()).expect("promtool reads");
    drop(stdin);
    let ended = command::finish(child, "promtool");
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(ended.stderr, "", "{ended:?}");
}

#[test]
fn prometheus_own_tool_has_no_objection_to_metrics_and_alerts() {
    let Some(()) = require::netns() else { return };
    if let Err(error) =
        Command::new("promtool").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status()
    {
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        require::skip::<()>("promtool is not installed");
        return;
    }
    let _lock = traffic_lock::take();
    let arguments = ["--http", http::ADDRESS].map(str::to_owned).to_vec();
    let options = DaemonOptions { arguments, ..Cell::PACKET_URING.daemon(2) };
    let mut bed = Bed::with_daemon(Cell::PACKET_URING, 1, &options);
    bed.add("a", "239.1.1.1:5000@in0", &["239.2.2.2:6000@out0,ttl=16"]);
    bed.source("239.1.1.1:5000").send(&source::payloads(1, [100; 50]));
    bed.at_rest();
    let mut metrics = String::new();
    eventually("the metrics are those of now", || {
        metrics = http::get(&bed.line.relay, "/metrics").body;
        metrics.contains("mcr_rule_datagrams_total{rule=\"a\"} 50\n")
    });
    promtool(&["check", "metrics"], &metrics);
    promtool(
        &["check", "rules", concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/grafana/mcr-alerts.yml")],
        "",
    );
    bed.finish();
}
