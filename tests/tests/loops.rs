//! Own copies that come back: counted, not multiplied, and refused where that is certain.
#![allow(clippy::unwrap_used)] // A test has no better answer to an error than to fail.

use std::collections::BTreeMap;

use mcr_client::ClientError;
use mcr_e2e::{Bed, Daemon, DaemonOptions, in_packet_cells, in_worker_cells, law, source};
use mcr_lab::{Line, require, veth};
use mcr_proto::{
    message::{FaultKind, RuleState},
    rpc::rule_ref,
    rule::{Datapath, RuleSpec},
};

const COUNT: u64 = 200;

/// Joins the networks of input and output outside of the relay, by a bridge in the source, one in the sink, and a cable.
fn join(bed: &Bed) {
    let (source, sink) = (&bed.line.source, &bed.line.sinks[0]);
    veth((source, "x0"), (sink, "y0")).unwrap();
    for (namespace, ports) in [(source, ["src0", "x0"]), (sink, ["dst0", "y0"])] {
        namespace.bridge("br0").unwrap();
        for port in ports {
            namespace.set_master(port, Some("br0")).unwrap();
            namespace.set_up(port).unwrap();
        }
        namespace.set_up("br0").unwrap();
    }
    source.wait_running("x0").unwrap();
    sink.wait_running("y0").unwrap();
}

fn send(bed: &Bed, to: &str) {
    let sizes = (0..COUNT).map(|_| 100);
    bed.source(to).send(&source::payloads(1, sizes));
}

// The `kernel` path carries no rules that lead back to their input.
in_worker_cells! {
    fn a_group_relayed_to_itself_over_networks_that_are_joined_is_sent_once(cell) {
        let mut bed = Bed::new(cell, 1);
        join(&bed);
        bed.add("there", "239.1.1.1:5000@in0", &["239.1.1.1:5000@out0"]);
        bed.add("back", "239.1.1.1:5000@out0", &["239.1.1.1:5000@in0"]);
        bed.add("six", "[ff15::1]:5000@in0", &["[ff15::1]:5000@out0"]);
        send(&bed, "239.1.1.1:5000");
        send(&bed, "[ff15::1]:5000");
        let stats = bed.finish();
        for (rule, copies) in [("there", COUNT), ("six", COUNT), ("back", 0)] {
            assert_eq!(law::rule(&stats, rule).outputs[0].copies, copies, "{rule}");
        }
        let input = law::input(&stats, "in0");
        assert_eq!(input.matched, 2 * COUNT);
        // A UDP socket does not get the IPv4 ones: the kernel takes no datagram from outside that bears an address of its own.
        let back = if cell.datapath == Datapath::Packet { 2 * COUNT } else { COUNT };
        assert_eq!(input.drops, BTreeMap::from([("loop".to_owned(), back)]));
    }
}

in_packet_cells! {
    fn copies_that_keep_their_source_and_circles_of_several_rules_are_recognised_too(cell) {
        let mut bed = Bed::new(cell, 1);
        join(&bed);
        bed.add("keep", "239.1.1.1:5000@in0", &["239.1.1.1:5000@out0,source=keep"]);
        bed.add("one", "239.1.1.2:5000@in0", &["239.1.1.3:5000@out0"]);
        bed.add("two", "239.1.1.3:5000@in0", &["239.1.1.2:5000@out0"]);
        // Not a circle: what leaves by the first is meant for the second.
        bed.add("first", "239.1.1.4:5000@in0", &["239.1.1.5:5000@out0"]);
        bed.add("second", "239.1.1.5:5000@in0", &["239.1.1.6:5000@out0"]);
        for group in ["239.1.1.1:5000", "239.1.1.2:5000", "239.1.1.4:5000"] {
            send(&bed, group);
        }
        let stats = bed.at_rest();
        let copies = |rule| law::rule(&stats, rule).outputs[0].copies;
        assert_eq!(["keep", "one", "two", "first", "second"].map(copies), [COUNT, COUNT, 0, COUNT, COUNT]);
        let input = law::input(&stats, "in0");
        assert_eq!((input.matched, input.drops), (4 * COUNT, BTreeMap::from([("loop".to_owned(), 2 * COUNT)])));

        // Without the second rule there is no circle any more, and its group is anybody's.
        bed.remove("two");
        bed.add("other", "239.1.1.3:5000@in0", &["239.1.1.7:5000@out0"]);
        send(&bed, "239.1.1.2:5000");
        let stats = bed.finish();
        assert_eq!(law::rule(&stats, "other").outputs[0].copies, COUNT);
        assert_eq!(law::input(&stats, "in0").drops, BTreeMap::from([("loop".to_owned(), 2 * COUNT)]));
    }
}

in_worker_cells! {
    fn rules_that_would_feed_each_other_within_the_host_are_refused_by_name(cell) {
        let mut bed = Bed::new(cell, 1);
        bed.add("there", "239.1.1.1:5000@lo", &["239.1.1.2:5000@lo"]);
        let circle = cell.rule("back", "239.1.1.2:5000@lo", &["10.2.0.2:6000", "239.1.1.1:5000@lo"]);
        match bed.client.rule_add(&circle) {
            Err(ClientError::Fault(fault)) => {
                assert_eq!((fault.kind, fault.field.as_deref()), (FaultKind::Invalid, Some("outputs")));
                assert!(fault.message.contains("there"), "{}", fault.message);
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(bed.client.rules(None).unwrap().len(), 1);

        // Nor by being switched on, when another has come meanwhile.
        let rule = |name: &str| rule_ref(name).unwrap();
        bed.client.rule_enable(&rule("there"), false).unwrap();
        bed.client.rule_add(&circle).unwrap();
        match bed.client.rule_enable(&rule("there"), true) {
            Err(ClientError::Fault(fault)) => assert!(fault.message.contains("back"), "{}", fault.message),
            other => panic!("{other:?}"),
        }
        assert!(!bed.client.rules(Some(&rule("there"))).unwrap()[0].enabled);
        bed.finish();
    }
}

#[test]
fn a_rule_that_closes_a_circle_relays_when_its_addition_is_answered() {
    if require::netns().is_none() {
        return;
    }
    let line = Line::new().unwrap();
    let daemon = Daemon::start(&line.relay, &DaemonOptions::default());
    for number in 1..=10 {
        let (there, back) = (format!("239.1.1.{number}:5000@in0"), format!("239.1.1.{number}:5000@out0"));
        // The kernel path has it for a moment, until it is known for a circle.
        for (input, output) in [(&there, &back), (&back, &there)] {
            let spec = RuleSpec::new(input.parse().unwrap(), vec![output.parse().unwrap()]);
            let added = daemon.client().rule_add(&spec).unwrap();
            assert_eq!(added.rule.state, RuleState::Active, "{:?}", added.rule.reason);
        }
    }
    daemon.stop();
}
