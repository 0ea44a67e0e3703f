//! `mcrctl doctor`: each condition is made, found, mended by the command that is printed, and found no more.
#![allow(clippy::unwrap_used)] // A test has no better answer to an error than to fail.

use std::{
    env,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use mcr_e2e::{Bed, Cell, command, eventually, programs, source};
use mcr_lab::{Namespace, require};
use mcr_proto::message::{Diagnosis, Finding, Severity};
use serde_json::json;

const INPUT: &str = "239.1.1.1:5000@in0";
const TO: &str = "239.1.1.1:5000";
const OUTPUT: &str = "239.2.2.2:6000@out0";

fn bed(cell: Cell) -> Option<Bed> {
    require::netns()?;
    Some(Bed::new(cell, 1))
}

fn diagnose(bed: &mut Bed) -> Diagnosis {
    bed.client.call("doctor.run", &json!({})).unwrap()
}

/// The finding of a check that is not merely informative.
fn find(bed: &mut Bed, check: &str) -> Option<Finding> {
    let found = diagnose(bed).findings.into_iter().find(|finding| finding.check == check);
    found.filter(|finding| finding.severity != Severity::Info)
}

#[track_caller]
fn appears(bed: &mut Bed, check: &str) -> Finding {
    let mut found = None;
    eventually(&format!("{check} is found"), || {
        found = find(bed, check);
        found.is_some()
    });
    found.unwrap()
}

#[track_caller]
fn vanishes(bed: &mut Bed, check: &str) {
    eventually(&format!("{check} is found no more"), || find(bed, check).is_none());
}

/// Runs a command as a user would who copies it from the screen.
fn shell(namespace: &Namespace, line: &str) -> command::Ended {
    let path =
        format!("{}:{}", programs::program("mcrctl").parent().unwrap().display(), env::var("PATH").unwrap());
    command::run(namespace.command("sh").args(["-c", line]).env("PATH", path))
}

#[track_caller]
fn does(namespace: &Namespace, line: &str) {
    let ended = shell(namespace, line);
    assert_eq!(ended.code, Some(0), "{line}: {ended:?}");
}

/// Waits for a finding, runs its command, and waits until it is gone.
#[track_caller]
fn mended(bed: &mut Bed, check: &str, severity: Severity) -> Finding {
    let finding = appears(bed, check);
    assert_eq!(finding.severity, severity, "{finding:?}");
    let fix = finding.fix.clone().unwrap_or_else(|| panic!("{finding:?} has no command"));
    does(&bed.line.relay.clone(), &fix);
    vanishes(bed, check);
    finding
}

#[test]
fn a_healthy_host_has_no_errors_and_the_exit_code_says_so() {
    let Some(mut bed) = bed(Cell::PACKET_URING) else { return };
    bed.add("rule", INPUT, &[OUTPUT]);
    let diagnosis = diagnose(&mut bed);
    assert!(!diagnosis.has_errors() && diagnosis.unknown.is_empty() && diagnosis.rules == 1, "{diagnosis:?}");
    let ended = bed.daemon.mcrctl(&["doctor"]);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{ended:?}");
    assert!(ended.stdout.contains("1 rule looked at"), "{ended:?}");
    bed.line.relay.set_down("out0").unwrap();
    eventually("the exit code tells of it", || bed.daemon.mcrctl(&["doctor"]).code == Some(1));
    let ended = bed.daemon.mcrctl(&["--json", "doctor"]);
    let shown: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!((&shown["daemon"], ended.code), (&json!(true), Some(1)));
    assert!(
        shown["findings"].as_array().unwrap().iter().any(|finding| finding["check"] == "interface_down"),
        "{shown}"
    );
}

#[test]
fn without_a_daemon_the_host_is_looked_at_all_the_same() {
    let Some(bed) = bed(Cell::PACKET_URING) else { return };
    let relay = bed.line.relay.clone();
    bed.daemon.stop();
    relay.sysctl("net.ipv4.conf.in0.rp_filter", "1").unwrap();
    let ended = shell(&relay, "mcrctl --socket /nonexistent/mcrd.sock --json doctor");
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let shown: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(shown["daemon"], json!(false));
    let found =
        |check: &str| shown["findings"].as_array().unwrap().iter().any(|finding| finding["check"] == check);
    assert!(found("daemon") && found("rp_filter"), "{shown}");
}

#[test]
fn a_source_filter_that_drops_what_the_udp_path_waits_for() {
    let Some(mut bed) = bed(Cell::UDP_SYSCALLS) else { return };
    bed.add("any", INPUT, &[OUTPUT]);
    let relay = bed.line.relay.clone();
    relay.sysctl("net.ipv4.conf.in0.rp_filter", "1").unwrap();
    mended(&mut bed, "rp_filter", Severity::Warning);
    // A sender that no route by this interface leads to is lost for certain.
    bed.add("one", "192.0.2.9>232.1.1.1:5000@in0", &["239.3.3.3:6000@out0"]);
    relay.sysctl("net.ipv4.conf.all.rp_filter", "1").unwrap();
    let finding = mended(&mut bed, "rp_filter", Severity::Error);
    assert!(finding.why.contains("one"), "{finding:?}");
    assert_eq!(relay.read_sysctl("net.ipv4.conf.all.rp_filter").unwrap(), "0");
}

#[test]
fn old_membership_protocols_that_cannot_name_a_sender() {
    let Some(mut bed) = bed(Cell::PACKET_URING) else { return };
    bed.add("four", "10.1.0.1>232.1.1.1:5000@in0", &[OUTPUT]);
    bed.add("six", "[fd00:1::1]>[ff35::1]:5000@in0", &["[ff15::2]:6000@out0"]);
    let relay = bed.line.relay.clone();
    relay.sysctl("net.ipv4.conf.in0.force_igmp_version", "2").unwrap();
    mended(&mut bed, "igmp_version", Severity::Error);
    relay.sysctl("net.ipv4.conf.all.force_igmp_version", "1").unwrap();
    mended(&mut bed, "igmp_version", Severity::Error);
    relay.sysctl("net.ipv6.conf.in0.force_mld_version", "1").unwrap();
    mended(&mut bed, "mld_version", Severity::Error);
}

#[test]
fn too_few_memberships_a_socket() {
    let Some(mut bed) = bed(Cell::PACKET_URING) else { return };
    bed.line.relay.sysctl("net.ipv4.igmp_max_memberships", "3").unwrap();
    mended(&mut bed, "igmp_max_memberships", Severity::Warning);
}

#[test]
fn a_bridge_that_snoops_while_nobody_asks() {
    let Some(mut bed) = bed(Cell::PACKET_URING) else { return };
    let relay = bed.line.relay.clone();
    relay.bridge("br0").unwrap();
    relay.set_up("br0").unwrap();
    bed.add_in_any_state("rule", "239.1.1.1:5000@br0", &[OUTPUT]);
    let finding = mended(&mut bed, "bridge_querier", Severity::Warning);
    assert_eq!(finding.subject, "br0");
}

#[test]
fn interfaces_that_are_missing_down_dark_or_without_multicast() {
    let Some(mut bed) = bed(Cell::PACKET_URING) else { return };
    bed.add("rule", INPUT, &[OUTPUT]);
    let relay = bed.line.relay.clone();
    relay.set_down("in0").unwrap();
    mended(&mut bed, "interface_down", Severity::Error);
    does(&relay, "ip link set dev in0 multicast off");
    mended(&mut bed, "no_multicast", Severity::Error);
    bed.line.sinks[0].set_down("dst0").unwrap();
    assert_eq!(appears(&mut bed, "no_carrier").subject, "out0");
    bed.line.sinks[0].set_up("dst0").unwrap();
    vanishes(&mut bed, "no_carrier");
    relay.rename_link("out0", "other0").unwrap();
    assert_eq!(appears(&mut bed, "interface_missing").subject, "out0");
    relay.rename_link("other0", "out0").unwrap();
    vanishes(&mut bed, "interface_missing");
    bed.add("six", "[ff15::1]:5000@in0", &["[ff15::2]:6000@out0"]);
    relay.sysctl("net.ipv6.conf.in0.disable_ipv6", "1").unwrap();
    mended(&mut bed, "no_ipv6", Severity::Error);
}

#[test]
fn a_membership_that_the_kernel_forgot() {
    let Some(mut bed) = bed(Cell::PACKET_URING) else { return };
    bed.add("six", "[ff15::1]:5000@in0", &["[ff15::2]:6000@out0"]);
    // Below 1280 bytes there is no IPv6 on a link, and what was joined on it is gone for good.
    bed.line.relay.set_mtu("in0", 1000).unwrap();
    bed.line.relay.set_mtu("in0", 1500).unwrap();
    mended(&mut bed, "membership_lost", Severity::Error);
}

#[test]
fn an_output_whose_packets_are_smaller_than_the_inputs() {
    let Some(mut bed) = bed(Cell::PACKET_URING) else { return };
    bed.add("rule", INPUT, &["239.2.2.2:6000@out0,source=keep"]);
    bed.line.relay.set_mtu("out0", 1000).unwrap();
    appears(&mut bed, "mtu");
    let (source, done) = (bed.source(TO), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            // A few hundred a second, until the daemon has had enough of them.
            while !done.load(Ordering::Relaxed) {
                source.send(&source::payloads(1, [1400]));
                thread::sleep(Duration::from_millis(5));
            }
        });
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let finding = mended(&mut bed, "too_big", Severity::Error);
            assert!(finding.what.contains("just now"), "{finding:?}");
            vanishes(&mut bed, "mtu");
        }));
        done.store(true, Ordering::Relaxed);
        outcome.unwrap();
    });
}

#[test]
fn a_ttl_that_is_used_up_before_it_is_kept() {
    let Some(mut bed) = bed(Cell::PACKET_URING) else { return };
    bed.add("rule", INPUT, &["239.2.2.2:6000@out0,ttl=keep"]);
    let (source, payloads) = (bed.source(TO), source::payloads(1, [100]));
    source.ttl(1);
    source.send(&payloads);
    mended(&mut bed, "hop_limit", Severity::Error);
    let sink = bed.sink(0, "239.2.2.2:6000@dst0");
    source.send(&payloads);
    assert_eq!(sink.expect(&payloads)[0].ttl, 16);
}

#[test]
fn datagrams_that_come_in_fragments() {
    let Some(mut bed) = bed(Cell::PACKET_URING) else { return };
    bed.add("rule", INPUT, &[OUTPUT]);
    let (source, payloads) = (bed.source(TO), source::payloads(1, [3000]));
    source.send(&payloads);
    mended(&mut bed, "fragments", Severity::Error);
    let sink = bed.sink(0, "239.2.2.2:6000@dst0");
    source.send(&payloads);
    sink.expect(&payloads);
}

#[test]
fn a_packet_filter_in_the_way_of_datagrams_queries_and_copies() {
    let Some(mut bed) = bed(Cell::UDP_SYSCALLS) else { return };
    let relay = bed.line.relay.clone();
    // As people write them: new flows are refused unless they are named; sets, ranges, jumps and maps.
    let rules = r#"
table inet filter {
    chain services {
        udp dport { 53, 7000-7999 } accept
    }
    chain input {
        type filter hook input priority 0; policy drop;
        ct state vmap { established : accept, related : accept, invalid : drop }
        iifname "lo" accept
        tcp dport 22 accept
        ip6 nexthdr icmpv6 accept
        jump services
    }
    chain output {
        type filter hook output priority 0; policy accept;
        ip daddr 239.0.0.0/8 udp dport 6000-6010 counter drop
    }
}
"#;
    std::fs::write(bed.daemon.log_path().with_file_name("rules.nft"), rules).unwrap();
    does(&relay, &format!("nft -f {}", bed.daemon.log_path().with_file_name("rules.nft").display()));
    bed.add("rule", INPUT, &[OUTPUT]);
    bed.add("open", "239.1.1.1:7500@in0", &["10.2.0.2:6000"]);
    let dropped = diagnose(&mut bed).findings;
    let dropped: Vec<_> = dropped.iter().filter(|finding| finding.check.starts_with("firewall")).collect();
    let of = |check: &str| -> Vec<&str> {
        let found = dropped.iter().filter(|finding| finding.check == check);
        found.map(|finding| finding.subject.as_str()).collect()
    };
    assert_eq!(of("firewall_input"), ["rule"], "{dropped:?}");
    assert_eq!(of("firewall_membership"), ["in0"]);
    assert_eq!(of("firewall_output"), ["rule > 239.2.2.2:6000@out0"]);
    for check in ["firewall_input", "firewall_membership", "firewall_output"] {
        mended(&mut bed, check, Severity::Error);
    }
    let sink = bed.sink(0, "239.2.2.2:6000@dst0");
    let payloads = source::payloads(1, [100]);
    bed.source(TO).send(&payloads);
    sink.expect(&payloads);
}

#[test]
fn an_output_without_a_route_or_without_an_answer() {
    let Some(mut bed) = bed(Cell::PACKET_URING) else { return };
    bed.add("far", INPUT, &["10.99.0.1:6000", "10.2.0.77:6000"]);
    let finding = appears(&mut bed, "no_route");
    assert!(finding.advice.unwrap().contains("ip route add 10.99.0.1/32 via GATEWAY"));
    does(&bed.line.relay.clone(), "ip route add 10.99.0.1/32 via 10.2.0.2");
    vanishes(&mut bed, "no_route");
    let (source, payloads) = (bed.source(TO), source::payloads(1, [100]));
    eventually("the next hop does not answer", || {
        source.send(&payloads);
        find(&mut bed, "no_neighbour").is_some()
    });
    bed.line.sinks[0].add_address("dst0", "10.2.0.77".parse().unwrap(), 24).unwrap();
    eventually("it answers", || {
        source.send(&payloads);
        find(&mut bed, "no_neighbour").is_none()
    });
}

#[test]
fn rules_that_feed_each_other() {
    let Some(mut bed) = bed(Cell::PACKET_URING) else { return };
    bed.add("there", INPUT, &[OUTPUT]);
    bed.add("alone", "239.1.1.1:5001@in0", &["239.2.2.2:6001@out0"]);
    assert!(find(&mut bed, "loop").is_none());
    bed.add("back", "239.2.2.2:6000@out0", &["239.1.1.1:5000@in0"]);
    let finding = mended(&mut bed, "loop", Severity::Warning);
    assert!(finding.what.contains("there > back"), "{finding:?}");
}

#[test]
fn a_device_that_could_cut_segments_and_does_not() {
    let Some(mut bed) = bed(Cell::PACKET_URING) else { return };
    bed.add("rule", INPUT, &[OUTPUT]);
    let relay = bed.line.relay.clone();
    let fixes = |bed: &mut Bed| -> Vec<String> {
        let findings = diagnose(bed).findings.into_iter();
        findings
            .filter(|finding| finding.check == "tx_udp_segmentation")
            .filter_map(|finding| finding.fix)
            .collect()
    };
    assert_eq!(fixes(&mut bed), [""; 0]);
    relay.set_offload("out0", "tx-udp-segmentation", false).unwrap();
    assert_eq!(fixes(&mut bed), ["ethtool -K out0 tx-udp-segmentation on"]);
    if Command::new("ethtool").arg("--version").output().is_ok() {
        does(&relay, &fixes(&mut bed)[0]);
    } else {
        relay.set_offload("out0", "tx-udp-segmentation", true).unwrap();
    }
    assert_eq!(fixes(&mut bed), [""; 0]);
}
