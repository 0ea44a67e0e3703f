//! The kernel data path as a user meets it: when it is taken, and when not; next hops, moves and ends.
#![allow(clippy::unwrap_used)] // A test has no better answer to an error than to fail.

use std::{cell::Cell as Count, fs};

use mcr_e2e::{
    Bed, Cell, Sink, Source,
    daemon::{self, Daemon, DaemonOptions},
    eventually, law,
    source::payloads,
    traffic_lock,
};
use mcr_ebpf::Loaded;
use mcr_lab::{Line, Namespace, Tun, require};
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
fn what_the_kernel_does_not_carry_goes_by_packets_and_the_list_says_what_it_is() {
    let Some(()) = require::netns() else { return };
    let _lock = traffic_lock::take();
    let mut bed = Bed::new(Cell::KERNEL, 2);
    let _tun = Tun::new(&bed.line.relay, "tin0").unwrap();
    bed.line.relay.set_up("tin0").unwrap();
    bed.line.relay.set_mtu("out1", 1400).unwrap();
    for (input, output, why, is_input) in [
        ("239.1.1.1:5000@tin0", OUTPUT, "frames of the input have no Ethernet header", true),
        ("239.1.1.1:5000@lo", OUTPUT, "the input is the loopback interface", true),
        (INPUT, "[ff15::2]:6000@out0", "it is translated between IPv4 and IPv6", false),
        ("[ff15::1]:5000@in0", OUTPUT, "it is translated between IPv4 and IPv6", false),
        (INPUT, "239.2.2.2:6000@out0,rate=100pps", "a rate cap", false),
        (INPUT, "10.2.0.1:6000", "it is to this host", false),
        (INPUT, "239.2.2.2:6000@lo", "it is by the loopback interface", false),
        (INPUT, "239.2.2.2:6000@out1", "its interface's MTU is below that of the input", false),
    ] {
        let mut rule = Cell::KERNEL.rule("rule", input, &[output]);
        rule.datapath = DatapathChoice::Auto;
        bed.client.rule_add(&rule).unwrap();
        bed.wait_active("rule");
        let listed = bed.client.rules(None).unwrap().remove(0);
        assert_eq!(listed.datapath, Some(Datapath::Packet), "{listed:?}");
        let reason = if is_input { why.to_owned() } else { format!("output {output}: {why}") };
        let said = format!("kernel cannot be used: {reason}");
        assert!(listed.datapath_reason.starts_with(&said), "{listed:?}");
        let shown = bed.daemon.mcrctl(&["list"]);
        assert!(shown.stdout.contains("packet") && shown.stdout.contains(&said), "{shown:?}");
        bed.remove("rule");
    }
    // Both ways between the families, as it was said.
    for (input, to, output, listen) in [
        (INPUT, TO, "[ff15::2]:6000@out0", "[ff15::2]:6000@dst0"),
        ("[ff15::1]:5000@in0", "[ff15::1]:5000", OUTPUT, LISTEN),
    ] {
        let mut rule = Cell::KERNEL.rule("rule", input, &[output]);
        rule.datapath = DatapathChoice::Auto;
        assert_eq!(bed.client.rule_add(&rule).unwrap().rule.datapath, Some(Datapath::Packet));
        let (sink, sent) = (bed.sink(0, listen), payloads(1, [100, 0, 1400]));
        bed.source(to).send(&sent);
        sink.expect(&sent);
        bed.at_rest();
        bed.remove("rule");
        // Whoever asks for the kernel is refused, and told the same.
        rule.datapath = DatapathChoice::Kernel;
        let refused = bed.client.rule_add(&rule).unwrap().rule;
        assert_eq!((refused.state, refused.datapath), (RuleState::Failed, None), "{refused:?}");
        assert!(refused.reason.unwrap().contains("it is translated between IPv4 and IPv6"));
        let diagnosis: Diagnosis = bed.client.call("doctor.run", &json!({})).unwrap();
        let failed = diagnosis.findings.iter().find(|finding| finding.check == "rule_failed");
        assert!(failed.unwrap().what.contains("between IPv4 and IPv6"), "{diagnosis:?}");
        bed.remove("rule");
    }
    bed.daemon.stop();
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

/// The ids of what a process holds of eBPF.
fn held(pid: u32) -> Loaded {
    let mut held = Loaded::default();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo")).unwrap() {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap_or_default();
        let id = |name: &str| -> Option<u32> {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.map(|id| id.trim().parse().unwrap())
        };
        held.programs.extend(id("prog_id"));
        held.maps.extend(id("map_id"));
        held.links.extend(id("link_id"));
    }
    held
}

#[test]
fn a_killed_daemon_leaves_no_program_map_or_link() {
    let Some(()) = require::netns() else { return };
    let _lock = traffic_lock::take();
    let mut bed = Bed::new(Cell::KERNEL, 1);
    assert_eq!(programs(&bed.line.relay, "in0"), 0);
    assert_eq!(held(bed.daemon.pid()), Loaded::default(), "an idle daemon has none");
    bed.add("rule", INPUT, &[OUTPUT]);
    assert_eq!(programs(&bed.line.relay, "in0"), 1);
    let held = held(bed.daemon.pid());
    assert!(!held.programs.is_empty() && held.maps.len() >= 7 && held.links.len() == 1, "{held:?}");
    let now = mcr_ebpf::loaded();
    assert!(held.programs.is_subset(&now.programs), "{held:?} {now:?}");
    assert!(held.maps.is_subset(&now.maps), "{held:?} {now:?}");
    assert!(held.links.is_subset(&now.links), "{held:?} {now:?}");
    daemon::signal(bed.daemon.pid(), Signal::SIGKILL);
    eventually("program, maps and link are gone", || {
        let now = mcr_ebpf::loaded();
        programs(&bed.line.relay, "in0") == 0
            && held.programs.is_disjoint(&now.programs)
            && held.maps.is_disjoint(&now.maps)
            && held.links.is_disjoint(&now.links)
    });
}

#[test]
fn without_tcx_links_a_filter_does_it_and_one_left_by_a_killed_daemon_relays_nothing() {
    let Some(()) = require::netns() else { return };
    let _lock = traffic_lock::take();
    let line = Line::new().unwrap();
    line.pin_neighbours().unwrap();
    let options = DaemonOptions { no_bpf_links: true, ..DaemonOptions::default() };
    let sink = Sink::open(&line.sinks[0], LISTEN);
    let source = Source::open(&line.source, "10.1.0.1:0", TO);
    let relays = |seed| {
        let daemon = Daemon::start(&line.relay, &options);
        let mut client = daemon.client();
        let added = client.rule_add(&auto(OUTPUT)).unwrap().rule;
        assert_eq!((added.state, added.datapath), (RuleState::Active, Some(Datapath::Kernel)), "{added:?}");
        assert!(held(daemon.pid()).links.is_empty());
        assert_eq!(programs(&line.relay, "in0"), 1);
        let sent = payloads(seed, [100, 200, 300]);
        source.send(&sent);
        sink.expect(&sent);
        assert_eq!(law::rule(&law::at_rest(&mut client), "rule").datagrams, 3);
        daemon
    };
    let killed = relays(1);
    let gone = held(killed.pid()).maps;
    daemon::signal(killed.pid(), Signal::SIGKILL);
    // One map stays with the filter: the array, which is empty then.
    eventually("its maps are gone", || gone.intersection(&mcr_ebpf::loaded().maps).count() == 1);
    assert_eq!(programs(&line.relay, "in0"), 1);
    source.send(&payloads(2, [400; 5]));
    // Nothing of that comes before what the next daemon relays.
    let daemon = relays(3);
    daemon.stop();
    assert_eq!(programs(&line.relay, "in0"), 0);
}

#[test]
fn an_output_that_is_made_again_is_sent_to_again_and_what_it_missed_is_counted() {
    let Some(()) = require::netns() else { return };
    let _lock = traffic_lock::take();
    let mut bed = Bed::new(Cell::KERNEL, 2);
    bed.add("rule", INPUT, &[OUTPUT, "239.2.2.3:6001@out1"]);
    let (steady, source) = (bed.sink(1, "239.2.2.3:6001@dst1"), bed.source(TO));
    let rounds: Vec<_> = (1..=3).map(|seed| payloads(seed, [100; 5])).collect();
    source.send(&rounds[0]);
    steady.expect(&rounds[0]);
    bed.line.relay.delete_link("out0").unwrap();
    eventually("the output is unresolved", || {
        bed.client.rules(None).unwrap()[0].output_states[0].state == RuleState::Unresolved
    });
    source.send(&rounds[1]);
    steady.expect(&rounds[1]);
    mcr_lab::veth((&bed.line.relay, "out0"), (&bed.line.sinks[0], "dst0")).unwrap();
    for (net, name, address) in
        [(&bed.line.relay, "out0", "10.2.0.1"), (&bed.line.sinks[0], "dst0", "10.2.0.2")]
    {
        net.set_up(name).unwrap();
        net.add_address(name, address.parse().unwrap(), 24).unwrap();
    }
    bed.wait_active("rule");
    let sink = bed.sink(0, LISTEN);
    source.send(&rounds[2]);
    sink.expect(&rounds[2]);
    steady.expect(&rounds[2]);
    let stats = bed.at_rest();
    let outputs = &law::rule(&stats, "rule").outputs;
    assert_eq!((outputs[0].copies, law::drops(&outputs[0])["no_route"]), (10, 5));
    assert_eq!((outputs[1].copies, law::drops(&outputs[1]).len()), (15, 0));
}

#[test]
fn a_route_that_changes_is_followed_and_one_or_a_next_hop_that_vanishes_is_counted() {
    let Some(()) = require::netns() else { return };
    let _lock = traffic_lock::take();
    let line = Line::with_outputs(2).unwrap();
    let far = Some(("192.0.2.0".parse().unwrap(), 24));
    let [via0, via1] = ["10.2.0.2", "10.3.0.2"].map(|via| via.parse().unwrap());
    for (sink, ifname) in line.sinks.iter().zip(["dst0", "dst1"]) {
        sink.add_address(ifname, "192.0.2.1".parse().unwrap(), 24).unwrap();
    }
    line.relay.add_route(far, Some(via0), "out0").unwrap();
    let daemon = Daemon::start(&line.relay, &Cell::KERNEL.daemon(1));
    let mut client = daemon.client();
    let added = client.rule_add(&Cell::KERNEL.rule("rule", INPUT, &["192.0.2.1:6000"])).unwrap().rule;
    assert_eq!(added.state, RuleState::Active, "{added:?}");
    let source = Source::open(&line.source, "10.1.0.1:0", TO);
    let sinks = [0, 1].map(|index| Sink::open(&line.sinks[index], "192.0.2.1:6000"));
    let sent = Count::new(0);
    let send = || {
        source.send(&payloads(1, [50]));
        sent.set(sent.get() + 1);
    };
    let arrives = |index: usize| {
        eventually(&format!("copies arrive at sink {index}"), || {
            send();
            !sinks[index].drain().is_empty()
        });
    };
    let mut is_counted = |reason: &str| {
        eventually(&format!("copies are counted as {reason}"), || {
            send();
            let stats = law::at_rest(&mut client);
            law::drops(&law::rule(&stats, "rule").outputs[0]).contains_key(reason)
        });
    };
    arrives(0);
    line.relay.delete_route(far, Some(via0), "out0").unwrap();
    is_counted("no_route");
    sinks[0].drain();
    line.relay.add_route(far, Some(via1), "out1").unwrap();
    arrives(1);
    sinks[0].expect_nothing_more();
    // Who has gone answers no more.
    line.sinks[1].delete_address("dst1", via1, 24).unwrap();
    line.relay.delete_neighbour("out1", via1).unwrap();
    is_counted("no_neighbour");
    line.sinks[1].add_address("dst1", via1, 24).unwrap();
    sinks[1].drain();
    arrives(1);
    let stats = law::at_rest(&mut client);
    assert_eq!(law::rule(&stats, "rule").datagrams, sent.get());
    daemon.stop();
}
