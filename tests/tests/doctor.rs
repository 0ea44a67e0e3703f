//! `mcrctl doctor`: each condition is made, found, mended by the command that is printed, and found no more.
#![allow(clippy::unwrap_used)] // A test has no better answer to an error than to fail.

use std::{
    env, fs,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use etherparse::ip_number;
use mcr_e2e::{
    Bed, Cell, DaemonOptions, Wire, command, eventually,
    host_setting::{BACKLOG, HostSetting},
    law, programs, source, traffic_lock,
};
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
    fs::write(bed.daemon.log_path().with_file_name("rules.nft"), rules).unwrap();
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
fn offloads_that_would_help_and_are_off() {
    let Some(mut bed) = bed(Cell::PACKET_URING) else { return };
    bed.add("rule", INPUT, &[OUTPUT]);
    let relay = bed.line.relay.clone();
    let fixes = |bed: &mut Bed, check: &str| -> Vec<String> {
        let findings = diagnose(bed).findings.into_iter().filter(|finding| finding.check == check);
        findings
            .inspect(|finding| assert_eq!(finding.severity, Severity::Info))
            .filter_map(|finding| finding.fix)
            .collect()
    };
    // What an input does with what comes in, and an output with what it is given.
    for (check, ifname, feature) in [
        ("tx_udp_segmentation", "out0", "tx-udp-segmentation"),
        ("rx_udp_gro", "in0", "rx-udp-gro-forwarding"),
    ] {
        for ifname in ["in0", "out0"] {
            relay.set_offload(ifname, feature, true).unwrap();
        }
        assert_eq!(fixes(&mut bed, check), [""; 0]);
        for ifname in ["in0", "out0"] {
            relay.set_offload(ifname, feature, false).unwrap();
        }
        let [fix] = &fixes(&mut bed, check)[..] else { panic!("{check} is told of {ifname} alone") };
        assert_eq!(*fix, format!("ethtool -K {ifname} {feature} on"));
        does(&relay, fix);
        assert_eq!(fixes(&mut bed, check), [""; 0]);
    }
}

#[test]
fn a_querier_that_speaks_an_old_version() {
    let Some(mut bed) = bed(Cell::PACKET_URING) else { return };
    bed.add("any", INPUT, &[OUTPUT]);
    // RFC 2236, section 2: a general query, to be answered within 10 s.
    let mut query = [0x11, 100, 0, 0, 0, 0, 0, 0];
    query[2..4].copy_from_slice(&(!u16::from_be_bytes([0x11, 100])).to_be_bytes());
    let header = etherparse::Ipv4Header::new(8, 1, ip_number::IGMP, [10, 1, 0, 1], [224, 0, 0, 1]).unwrap();
    let macs = mcr_e2e::Macs::of((&bed.line.source, "src0"), (&bed.line.relay, "in0"));
    let builder = etherparse::PacketBuilder::ethernet2(macs.from, macs.towards([224, 0, 0, 1].into()));
    let mut frame = Vec::new();
    let headers = etherparse::IpHeaders::Ipv4(header, etherparse::Ipv4Extensions::default());
    builder.ip(headers).write(&mut frame, ip_number::IGMP, &query).unwrap();
    Wire::open(&bed.line.source, "src0", &[]).send(&frame);
    // It concerns those who name their sender.
    assert!(find(&mut bed, "igmp_querier_version").is_none());
    bed.add("one", "10.1.0.1>232.1.1.1:5000@in0", &["239.3.3.3:6000@out0"]);
    let finding = appears(&mut bed, "igmp_querier_version");
    assert_eq!((finding.subject.as_str(), finding.severity), ("in0", Severity::Warning));
    assert!(finding.what.contains("IGMPv2") && finding.why.contains("one"), "{finding:?}");
    assert!(!finding.why.contains("any"), "{finding:?}");
}

#[test]
fn io_uring_that_is_forbidden() {
    let Some(()) = require::netns() else { return };
    let options = DaemonOptions { no_uring: u32::try_from(libc::EPERM).ok(), ..DaemonOptions::default() };
    let mut bed = Bed::with_daemon(Cell::PACKET_SYSCALLS, 1, &options);
    bed.add("rule", INPUT, &[OUTPUT]);
    let finding = appears(&mut bed, "io_uring");
    assert_eq!((finding.severity, &finding.fix), (Severity::Warning, &None), "{finding:?}");
    assert!(finding.advice.unwrap().contains("seccomp"));
    // Whoever asked for system calls, or has io_uring, is told nothing.
    for io in ["syscalls", "auto"] {
        let mut bed = Bed::new(Cell { io, ..Cell::PACKET_URING }, 1);
        bed.add("rule", INPUT, &[OUTPUT]);
        assert!(find(&mut bed, "io_uring").is_none(), "{io}");
    }
}

#[test]
fn receive_buffers_that_a_daemon_without_rights_cannot_have() {
    const RMEM_MAX: &str = "/proc/sys/net/core/rmem_max";
    const ADVISED: u64 = 8 << 20;
    let Some(()) = require::netns() else { return };
    let _lock = traffic_lock::take();
    let setting = HostSetting::set(RMEM_MAX, ADVISED - 1);
    let options = DaemonOptions { user: Some(65_534), ..DaemonOptions::default() };
    let mut bed = Bed::with_daemon(Cell::UDP_URING, 1, &options);
    let relay = bed.line.relay.clone();
    // Older kernels do not show it in other namespaces than the first.
    let value = || relay.read_sysctl("net.core.rmem_max").ok().map(|value| value.parse::<u64>().unwrap());
    let found = find(&mut bed, "rmem_max");
    assert_eq!(found.is_some(), value().is_some_and(|value| value < ADVISED), "{found:?}");
    if let Some(finding) = &found {
        assert!(finding.what.contains(&format!("end at {} bytes", value().unwrap())), "{finding:?}");
        assert!(finding.advice.as_ref().unwrap().contains("first network namespace"));
        assert_eq!(finding.fix.as_deref(), Some("sysctl -w net.core.rmem_max=8388608"));
    }
    if let Some(setting) = setting {
        let fix = found.unwrap().fix.unwrap();
        let ended = command::run(Command::new("sh").args(["-c", &fix]));
        assert_eq!((ended.code, value()), (Some(0), Some(ADVISED)), "{ended:?}");
        vanishes(&mut bed, "rmem_max");
        drop(setting);
    }
    // With rights the daemon goes beyond it.
    let mut bed = Bed::new(Cell::PACKET_URING, 1);
    assert!(find(&mut bed, "rmem_max").is_none());
}

/// How many frames the cores' queues have dropped: the second number of each line.
fn dropped_by_cores() -> u64 {
    let text = fs::read_to_string("/proc/net/softnet_stat").unwrap();
    let dropped = |line: &str| u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap();
    text.lines().map(dropped).sum()
}

/// Whatever this host has dropped: to have it drop some, its queues would have to be cut for all who use it. Seen from where the test
/// runs, because their length is not to be seen from elsewhere than the host's first network namespace.
#[test]
fn what_the_cores_queues_have_dropped_is_told_as_the_kernel_counts_it() {
    const ADVISED: u64 = 30_000;
    let _lock = traffic_lock::take();
    let setting = HostSetting::set(BACKLOG, ADVISED - 1);
    let length = || fs::read_to_string(BACKLOG).ok().map(|length| length.trim().parse::<u64>().unwrap());
    let told = || -> Option<Finding> {
        let mut told = None;
        eventually("the host drops nothing while it is asked", || {
            let before = dropped_by_cores();
            let ended = command::mcrctl("/nonexistent/mcrd.sock".as_ref(), &["--json", "doctor"]);
            let shown: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
            let findings: Vec<Finding> = serde_json::from_value(shown["findings"].clone()).unwrap();
            told = findings.into_iter().find(|finding| finding.check == "backlog_drops");
            before == dropped_by_cores()
        });
        told
    };
    let (found, dropped) = (told(), dropped_by_cores());
    let is_short = length().is_some_and(|length| length < ADVISED);
    assert_eq!(found.is_some(), dropped > 0 && is_short, "{dropped} were dropped: {found:?}");
    if let (Some(finding), Some(setting)) = (found, setting) {
        assert_eq!(finding.severity, Severity::Info);
        assert!(finding.what.contains(&format!("have dropped {dropped} frames")), "{finding:?}");
        let ended = command::run(Command::new("sh").args(["-c", &finding.fix.unwrap()]));
        assert_eq!((ended.code, length()), (Some(0), Some(ADVISED)), "{ended:?}");
        assert_eq!(told(), None);
        drop(setting);
    }
}

#[test]
fn a_worker_that_does_not_keep_up() {
    let Some(()) = require::netns() else { return };
    let _lock = traffic_lock::take();
    let mut bed = Bed::new(Cell::PACKET_SYSCALLS, 1);
    let outputs: Vec<_> = (0..8).map(|index| format!("239.2.2.{index}:6000@out0,source=keep")).collect();
    bed.add("fan", INPUT, &outputs.iter().map(String::as_str).collect::<Vec<_>>());
    let (source, done) = (bed.source(TO), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            let payloads = source::payloads(1, [1200; 10]);
            // As fast as it can, until the daemon has told of it.
            while !done.load(Ordering::Relaxed) {
                source.send_superframe(&payloads);
            }
        });
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let finding = appears(&mut bed, "kernel_ring");
            assert_eq!((finding.severity, finding.subject.as_str()), (Severity::Error, "in0"));
            assert!(finding.what.contains("worker 0") && finding.what.contains("just now"), "{finding:?}");
        }));
        done.store(true, Ordering::Relaxed);
        outcome.unwrap();
    });
    let stats = bed.at_rest();
    assert!(law::input(&stats, "in0").drops["kernel_ring"] > 0);
    vanishes(&mut bed, "kernel_ring");
}
