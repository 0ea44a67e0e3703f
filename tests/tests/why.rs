//! `mcrctl why`: what is foretold of a datagram is what becomes of it.
#![allow(clippy::unwrap_used)] // A test has no better answer to an error than to fail.

use mcr_e2e::{Bed, Cell, law, source};
use mcr_lab::require;
use mcr_proto::{
    message::{CounterValue, Diagnosis, Explanation, Verdict},
    rpc::rule_ref,
};
use serde_json::json;

const TO: &str = "239.1.1.1:5000";

fn why(bed: &mut Bed, datagram: &str) -> Explanation {
    bed.client.call("rule.why", &json!({ "datagram": datagram })).unwrap()
}

#[test]
fn a_datagram_fares_as_was_foretold_at_every_output() {
    let Some(()) = require::netns() else { return };
    let mut bed = Bed::new(Cell::PACKET_URING, 2);
    let outputs =
        ["239.2.2.2:6000@out0,ttl=9,dscp=ef", "10.3.0.2:6001,ttl=keep", "239.4.4.4:6002@out1,source=keep"];
    bed.add("rule", "239.1.1.1:5000@in0", &outputs);
    bed.add("other", "239.1.1.1:5001@in0", &["239.5.5.5:6003@out0"]);
    let source = bed.source(TO);
    let probe = format!("{} > {TO}@in0,ttl=33", source.address());
    let told = why(&mut bed, &probe);
    assert_eq!((told.verdict, told.rules.len()), (Verdict::Relayed, 1), "{told:?}");
    let rule = &told.rules[0];
    assert_eq!((rule.name.as_str(), rule.worker), ("rule", Some(0)));
    assert!(rule.outputs.iter().all(|output| output.sends && output.drop.is_none()), "{told:?}");
    let by: Vec<_> = rule.outputs.iter().map(|output| output.interface.as_deref().unwrap()).collect();
    assert_eq!(by, ["out0", "out1", "out1"]);
    assert_eq!(rule.outputs[0].mac.as_deref(), Some("01:00:5e:02:02:02"));
    assert_eq!(rule.outputs[0].dscp, Some(46));
    let mac = bed.line.sinks[1].link("dst1").unwrap().mac.unwrap();
    assert_eq!(rule.outputs[1].mac.clone().unwrap(), mac.map(|byte| format!("{byte:02x}")).join(":"));

    let sinks = [
        bed.sink(0, "239.2.2.2:6000@dst0"),
        bed.sink(1, "10.3.0.2:6001"),
        bed.sink(1, "239.4.4.4:6002@dst1"),
    ];
    source.ttl(33);
    let payloads = source::payloads(1, [100]);
    source.send(&payloads);
    for (sink, told) in sinks.iter().zip(&rule.outputs) {
        let seen = &sink.expect(&payloads)[0];
        assert_eq!(Some(seen.ttl), told.ttl, "{told:?}");
        let foretold = told.source.as_deref().unwrap();
        match foretold.strip_suffix(":0") {
            Some(address) => assert_eq!(seen.from.ip().to_string(), address),
            None => assert_eq!(seen.from.to_string(), foretold),
        }
    }
    // The counters that were named speak of it now.
    let told = why(&mut bed, &probe);
    let value =
        |name: &str| told.rules[0].counters.iter().find(|counter| counter.name == name).unwrap().value;
    assert_eq!((value("datagrams"), value("flows")), (1, 1));
    bed.finish();
}

#[test]
fn a_used_up_ttl_is_foretold_with_the_counter_it_ends_in() {
    let Some(()) = require::netns() else { return };
    let mut bed = Bed::new(Cell::PACKET_URING, 1);
    bed.add("rule", "239.1.1.1:5000@in0", &["239.2.2.2:6000@out0,ttl=keep"]);
    let told = why(&mut bed, "10.1.0.1:9 > 239.1.1.1:5000@in0,ttl=1");
    assert_eq!(told.verdict, Verdict::Dropped);
    assert!(told.reason.contains("hop_limit"), "{told:?}");
    assert_eq!(told.nearest, [], "the rule does want it");
    let source = bed.source(TO);
    source.ttl(1);
    source.send(&source::payloads(1, [100]));
    let stats = bed.at_rest();
    assert_eq!(law::input(&stats, "in0").drops["hop_limit"], 1);
}

#[test]
fn what_no_rule_takes_is_told_apart_from_what_one_nearly_does() {
    let Some(()) = require::netns() else { return };
    let mut bed = Bed::new(Cell::PACKET_URING, 1);
    bed.add("one", "10.1.0.1>239.1.1.1:5000@in0", &["239.2.2.2:6000@out0"]);
    bed.add("port", "239.1.1.1:5001@in0", &["239.2.2.2:6001@out0"]);
    bed.add("off", "239.7.7.7:5000@in0", &["239.2.2.2:6002@out0"]);
    bed.client.rule_enable(&rule_ref("off").unwrap(), false).unwrap();

    let told = why(&mut bed, "10.1.0.8:9 > 239.1.1.1:5000@in0");
    assert_eq!(told.verdict, Verdict::NoRule);
    let near = &told.nearest[0];
    assert_eq!(
        (near.name.as_str(), near.differs.as_slice()),
        ("one", &["it takes only what 10.1.0.1 sends, not 10.1.0.8".to_owned()][..])
    );

    let told = why(&mut bed, "10.1.0.1:9 > 239.7.7.7:5000@in0");
    assert_eq!(
        (told.nearest[0].name.as_str(), told.nearest[0].differs.as_slice()),
        ("off", &["it is disabled".to_owned()][..])
    );
    bed.client.rule_enable(&rule_ref("off").unwrap(), true).unwrap();
    assert_eq!(why(&mut bed, "10.1.0.1:9 > 239.7.7.7:5000@in0").verdict, Verdict::Relayed);

    let told = why(&mut bed, "10.1.0.1:9 > 239.1.1.1:5001@eth9");
    assert!(told.reason.contains("no interface eth9"), "{told:?}");
    assert!(told.nearest[0].differs[0].contains("listens on in0"), "{told:?}");
    assert_eq!(
        why(&mut bed, "10.1.0.1:9 > 239.9.9.9:9@out0").reason,
        "no rule has an input on out0, so nothing is received there"
    );

    let ended = bed.daemon.mcrctl(&["why", "10.1.0.8:9 > 239.1.1.1:5000@in0"]);
    assert!(
        ended.code == Some(0) && ended.stdout.contains("no rule: ") && ended.stdout.contains("nearest rules"),
        "{ended:?}"
    );
    bed.daemon.mcrctl(&["why", "239.1.1.1:5000@in0"]).says(2, &["has no sender"]);
}

#[test]
fn an_output_that_cannot_send_says_why_and_the_others_still_do() {
    let Some(()) = require::netns() else { return };
    let mut bed = Bed::new(Cell::PACKET_URING, 2);
    bed.add("rule", "239.1.1.1:5000@in0", &["239.2.2.2:6000@out0", "239.4.4.4:6000@gone0", "10.99.0.1:6000"]);
    let told = why(&mut bed, "10.1.0.1:9 > 239.1.1.1:5000@in0");
    let fates: Vec<_> =
        told.rules[0].outputs.iter().map(|output| (output.sends, output.drop.as_deref())).collect();
    assert_eq!(fates, [(true, None), (false, Some("no_route")), (false, Some("no_route"))], "{told:?}");
    assert!(told.rules[0].outputs[1].reason.as_deref().unwrap().contains("gone0"));
}

#[test]
fn on_the_udp_path_what_the_host_drops_first_is_told() {
    let Some(()) = require::netns() else { return };
    let mut bed = Bed::new(Cell::UDP_SYSCALLS, 1);
    bed.add("rule", "239.1.1.1:5000@in0", &["239.2.2.2:6000@out0"]);
    bed.line.relay.sysctl("net.ipv4.conf.in0.rp_filter", "1").unwrap();
    let checks =
        |told: Explanation| told.obstacles.into_iter().map(|finding| finding.check).collect::<Vec<_>>();
    assert_eq!(checks(why(&mut bed, "192.0.2.9:9 > 239.1.1.1:5000@in0")), ["rp_filter"]);
    assert_eq!(checks(why(&mut bed, "10.1.0.1:9 > 239.1.1.1:5000@in0")), [""; 0]);
}

#[test]
fn on_the_kernel_path_counters_are_those_of_the_kernel_and_doctor_sees_its_drops() {
    let Some(()) = require::netns() else { return };
    let mut bed = Bed::new(Cell::KERNEL, 2);
    bed.add("rule", "239.1.1.1:5000@in0", &["239.2.2.2:6000@out0,ttl=9"]);
    let source = bed.source(TO);
    let sink = bed.sink(0, "239.2.2.2:6000@dst0");
    let payloads = source::payloads(1, [100, 200, 300]);
    source.send(&payloads);
    sink.expect(&payloads);
    let told = why(&mut bed, &format!("{} > {TO}@in0", source.address()));
    assert_eq!((told.verdict, told.rules[0].worker), (Verdict::Relayed, None), "{told:?}");
    let output = &told.rules[0].outputs[0];
    assert_eq!((output.interface.as_deref(), output.ttl), (Some("out0"), Some(9)), "{told:?}");
    assert_eq!(output.mac.as_deref(), Some("01:00:5e:02:02:02"));
    let value = |counters: &[CounterValue], name: &str| {
        counters.iter().find(|counter| counter.name.ends_with(name)).map(|counter| counter.value)
    };
    assert_eq!(value(&told.rules[0].counters, "datagrams"), Some(3));
    assert_eq!(value(&told.rules[0].outputs[0].counters, "copies"), Some(3));
    let input = told.counters.iter().find(|counter| counter.name.starts_with("in0 (kernel"));
    assert_eq!(input.map(|counter| counter.value), Some(3), "{told:?}");

    bed.add("keeps", "239.1.1.1:5001@in0", &["239.2.2.3:6001@out0,ttl=keep"]);
    let source = bed.source("239.1.1.1:5001");
    source.ttl(1);
    source.send(&payloads);
    let stats = bed.at_rest();
    assert_eq!(law::input(&stats, "in0").drops["hop_limit"], 3);
    let diagnosis: Diagnosis = bed.client.call("doctor.run", &json!({})).unwrap();
    let found = diagnosis.findings.iter().find(|finding| finding.check == "hop_limit");
    assert!(found.is_some(), "{diagnosis:?}");
    bed.finish();
}
