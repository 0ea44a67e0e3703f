//! `mcrd demo`, as root and as anybody.

use std::{os::unix::process::CommandExt, process::Command};

use mcr_e2e::{
    command::{self, Ended},
    programs::{directory_for_everyone, program, program_for_everyone},
    traffic_lock,
};
use mcr_lab::require;

/// Asserts that nothing was lost and gives the data path.
fn lossless(ended: &Ended) -> String {
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let last = ended.stdout.lines().last().expect("an object");
    let report: serde_json::Value = serde_json::from_str(last).expect("JSON");
    let number = |key: &str| report[key].as_f64().unwrap_or_else(|| panic!("{key} in {report}"));
    assert_eq!(
        (number("relayed"), number("lost"), number("duplicated")),
        (number("sent"), 0.0, 0.0),
        "{report}"
    );
    assert!(number("rate_pps") >= 1_000.0, "{report}");
    assert!(
        (number("sent") - 2.0 * number("rate_pps")).abs() < 0.1 * number("sent"),
        "two seconds of it: {report}"
    );
    let latency = ["p50", "p99", "max"].map(|key| report["latency_us"][key].as_f64().expect("a number"));
    assert!(0.0 < latency[0] && latency[0] <= latency[1] && latency[1] <= latency[2], "{report}");
    report["datapath"].as_str().expect("a data path").to_owned()
}

#[test]
fn root_sees_it_lose_nothing() {
    let Some(()) = require::netns() else { return };
    let _lock = traffic_lock::take();
    let ended = command::run(Command::new(program("mcrd")).args(["demo", "--json", "--seconds", "2"]));
    let datapath = lossless(&ended);
    assert!(["kernel", "packet"].contains(&datapath.as_str()), "the first that the host allows: {ended:?}");
}

#[test]
fn an_ordinary_user_sees_it_lose_nothing() {
    let Some(()) = require::netns() else { return };
    let _lock = traffic_lock::take();
    let (_copy, mcrd) = program_for_everyone("mcrd");
    let home = directory_for_everyone();
    std::os::unix::fs::chown(home.path(), Some(65_534), Some(65_534)).expect("root may");
    let mut command = Command::new(mcrd);
    command.args(["demo", "--json", "--seconds", "2"]).uid(65_534).gid(65_534).current_dir("/");
    command.env("HOME", home.path()).env("TMPDIR", home.path());
    let ended = command::run(&mut command);
    let datapath = lossless(&ended);
    if ended.stderr.contains("loopback") {
        assert_eq!(datapath, "udp", "{ended:?}");
        let _: Option<()> =
            require::skip("user namespaces are forbidden here, so the demo was that of loopback");
    } else {
        assert_eq!(datapath, "packet", "{ended:?}");
    }
    let left = std::fs::read_dir(home.path()).expect("it is there").count();
    assert_eq!(left, 0, "it left files behind");
}

#[test]
fn without_namespaces_the_udp_path_loses_nothing_over_loopback() {
    let _lock = traffic_lock::take();
    let mut command = Command::new(program("mcrd"));
    command.args(["demo", "--json", "--seconds", "2", "--network", "loopback"]);
    let ended = command::run(&mut command);
    let datapath = lossless(&ended);
    assert!(["packet", "udp"].contains(&datapath.as_str()), "{ended:?}");
}

#[test]
fn people_get_a_table() {
    let Some(()) = require::netns() else { return };
    let _lock = traffic_lock::take();
    let ended = command::run(Command::new(program("mcrd")).args(["demo", "--seconds", "1"]));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    for word in ["sent", "relayed", "lost", "239.2.2.2:6000"] {
        assert!(ended.stdout.contains(word), "{word}: {ended:?}");
    }
    assert!(["kernel", "packet"].iter().any(|path| ended.stdout.contains(path)), "{ended:?}");
}
