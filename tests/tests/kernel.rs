//! The kernel data path as a user meets it: when it is taken, and when not; next hops, moves and ends.
#![allow(clippy::unwrap_used)] // A test has no better answer to an error than to fail.

use mcr_e2e::{
    Bed, Cell, Sink, Source,
    daemon::{self, Daemon, DaemonOptions},
    eventually, law,
    source::payloads,
    traffic_lock,
};
use mcr_lab::{Line, Namespace, require};
use mcr_proto::{
    message::{Diagnosis, RuleState},
    rpc::rule_ref,
    rule::{Datapath, DatapathChoice, RuleSpec},
};
use nix::sys::signal::Signal;
use serde_json::json;

const INPUT: &str = "239.1.1.1:5000@in0";
const TO: &str = "239.1.1.1:5000";
const OUTPUT: &str = "239.2.2.2:6000@out0";
const LISTEN: &str = "239.2.2.2:6000@dst0";

fn auto(output: &str) -> RuleSpec {
    let mut rule = Cell::KERNEL.rule("rule", INPUT, &[output]);
    rule.datapath = DatapathChoice::Auto;
    rule
}

/// How many programs stand at an interface's ingress.
fn programs(net: &Namespace, ifname: &str) -> usize {
    net.enter(|| mcr_ebpf::programs_at(ifname)).unwrap()
}

#[test]
fn auto_is_the_kernel_and_says_why_it_is_not() {
    let Some(()) = require::netns() else { return };
    let _lock = traffic_lock::take();
    let mut bed = Bed::new(Cell::KERNEL, 1);
    let added = bed.client.rule_add(&auto(OUTPUT)).unwrap().rule;
    assert_eq!((added.state, added.datapath), (RuleState::Active, Some(Datapath::Kernel)), "{added:?}");
    assert_eq!(added.datapath_reason, "fastest that this host allows");
    bed.remove("rule");
    let looped = format!("{OUTPUT},loop=on");
    let added = bed.client.rule_add(&auto(&looped)).unwrap().rule;
    assert_eq!((added.state, added.datapath), (RuleState::Active, Some(Datapath::Packet)), "{added:?}");
    assert_eq!(added.datapath_reason, format!("kernel cannot be used: output {looped}: loop=on"));
    bed.finish();
}

#[test]
fn without_the_right_to_load_programs_rules_go_by_packets_and_say_so() {
    let Some(()) = require::netns() else { return };
    let _lock = traffic_lock::take();
    let relays = |options: DaemonOptions, reason: &str, advice: Option<&str>| {
        let line = Line::new().unwrap();
        line.pin_neighbours().unwrap();
        let daemon = Daemon::start(&line.relay, &options);
        let mut client = daemon.client();
        let added = client.rule_add(&auto(OUTPUT)).unwrap().rule;
        assert_eq!((added.state, added.datapath), (RuleState::Active, Some(Datapath::Packet)), "{added:?}");
        assert!(added.datapath_reason.contains(reason), "{added:?}");
        let sink = Sink::open(&line.sinks[0], LISTEN);
        let sent = payloads(1, [100, 200]);
        Source::open(&line.source, "10.1.0.1:0", TO).send(&sent);
        sink.expect(&sent);
        client.rule_remove(&rule_ref("rule").unwrap()).unwrap();
        let asked = client.rule_add(&Cell::KERNEL.rule("asked", INPUT, &[OUTPUT])).unwrap().rule;
        assert_eq!(asked.state, RuleState::Failed, "{asked:?}");
        assert!(asked.reason.unwrap().contains(reason));
        let diagnosis: Diagnosis = client.call("doctor.run", &json!({})).unwrap();
        let found = diagnosis.findings.iter().find(|finding| finding.check == "bpf");
        assert_eq!(found.is_some(), advice.is_some(), "{diagnosis:?}");
        if let (Some(found), Some(advice)) = (found, advice) {
            assert!(found.what.contains(reason), "{found:?}");
            assert!(found.advice.as_ref().unwrap().contains(advice), "{found:?}");
        }
        daemon.stop();
    };
    relays(
        DaemonOptions { arguments: vec!["--no-ebpf".into()], ..DaemonOptions::default() },
        "eBPF is switched off",
        None,
    );
    // Capabilities are a thread's own, and what it starts inherits its bounding set.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            caps::drop(None, caps::CapSet::Bounding, caps::Capability::CAP_BPF).unwrap();
            relays(DaemonOptions::default(), "eBPF is not permitted", Some("the daemon has no CAP_BPF"));
        });
    });
    let errno = u32::try_from(libc::EPERM).ok();
    relays(
        DaemonOptions { no_bpf: errno, ..DaemonOptions::default() },
        "eBPF is not permitted",
        Some("seccomp filter"),
    );
}

#[test]
fn a_next_hop_is_found_out_counted_until_then_and_followed() {
    let Some(()) = require::netns() else { return };
    let _lock = traffic_lock::take();
    let line = Line::new().unwrap();
    let daemon = Daemon::start(&line.relay, &Cell::KERNEL.daemon(1));
    let mut client = daemon.client();
    let source = Source::open(&line.source, "10.1.0.1:0", TO);
    // Nobody has this address yet.
    let rule = Cell::KERNEL.rule("rule", INPUT, &["10.2.0.77:6000"]);
    assert_eq!(client.rule_add(&rule).unwrap().rule.state, RuleState::Active);
    source.send(&payloads(1, [100; 3]));
    let stats = law::at_rest(&mut client);
    let rule = law::rule(&stats, "rule");
    assert_eq!((rule.datagrams, law::drops(&rule.outputs[0])["no_neighbour"]), (3, 3));
    line.sinks[0].add_address("dst0", "10.2.0.77".parse().unwrap(), 24).unwrap();
    let sink = Sink::open(&line.sinks[0], "10.2.0.77:6000");
    // It is asked for once a second.
    let mut sent = 0;
    eventually("the next hop was found out", || {
        source.send(&payloads(2, [50]));
        sent += 1;
        !sink.drain().is_empty()
    });
    line.sinks[0].set_mac("dst0", [2, 0, 0, 0, 7, 7]).unwrap();
    line.relay.add_neighbour("out0", "10.2.0.77".parse().unwrap(), [2, 0, 0, 0, 7, 7]).unwrap();
    eventually("the new hardware address is followed", || {
        source.send(&payloads(3, [60]));
        sent += 1;
        sink.drain().iter().any(|received| received.payload.len() == 60)
    });
    let stats = law::at_rest(&mut client);
    let rule = law::rule(&stats, "rule");
    assert_eq!(rule.datagrams, 3 + sent);
    daemon.stop();
}

#[test]
fn an_input_that_is_made_again_is_relayed_again() {
    let Some(()) = require::netns() else { return };
    let _lock = traffic_lock::take();
    let mut bed = Bed::new(Cell::KERNEL, 1);
    bed.add("rule", INPUT, &[OUTPUT]);
    let sink = bed.sink(0, LISTEN);
    let first = payloads(1, [100]);
    bed.source(TO).send(&first);
    sink.expect(&first);
    bed.line.relay.delete_link("in0").unwrap();
    mcr_lab::veth((&bed.line.source, "src0"), (&bed.line.relay, "in0")).unwrap();
    for (net, name, address) in [(&bed.line.source, "src0", "10.1.0.1"), (&bed.line.relay, "in0", "10.1.0.2")]
    {
        net.set_up(name).unwrap();
        net.add_address(name, address.parse().unwrap(), 24).unwrap();
    }
    bed.line.source.wait_running("src0").unwrap();
    bed.line.source.add_multicast_route("src0").unwrap();
    bed.wait_active("rule");
    let second = payloads(2, [200]);
    Source::open(&bed.line.source, "10.1.0.1:0", TO).send(&second);
    sink.expect(&second);
    let stats = bed.at_rest();
    assert_eq!(law::rule(&stats, "rule").datagrams, 2);
}

#[test]
fn a_listener_of_the_relay_host_gets_its_datagrams_too() {
    let Some(()) = require::netns() else { return };
    let _lock = traffic_lock::take();
    let mut bed = Bed::new(Cell::KERNEL, 1);
    bed.add("rule", INPUT, &[OUTPUT]);
    let (sink, source) = (bed.sink(0, LISTEN), bed.source(TO));
    let local = Sink::open(&bed.line.relay, "239.1.1.1:5000@in0");
    let mut sent = 0;
    eventually("the listener was noticed", || {
        source.send(&payloads(1, [80]));
        sent += 1;
        !local.drain().is_empty()
    });
    let both = payloads(2, [100, 1400, 0]);
    source.send(&both);
    local.expect(&both);
    eventually("all copies have come", || {
        let stats = law::read(&mut bed.client);
        law::rule(&stats, "rule").outputs[0].copies == sent + 3
    });
    drop((sink, local));
    bed.finish();
}

#[test]
fn a_killed_daemon_leaves_no_program() {
    let Some(()) = require::netns() else { return };
    let _lock = traffic_lock::take();
    let mut bed = Bed::new(Cell::KERNEL, 1);
    assert_eq!(programs(&bed.line.relay, "in0"), 0, "an idle daemon has none");
    bed.add("rule", INPUT, &[OUTPUT]);
    assert_eq!(programs(&bed.line.relay, "in0"), 1);
    daemon::signal(bed.daemon.pid(), Signal::SIGKILL);
    eventually("the program is gone", || programs(&bed.line.relay, "in0") == 0);
}
