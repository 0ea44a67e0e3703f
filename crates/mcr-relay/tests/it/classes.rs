//! Which datagrams fall into which class, and what follows from it for sockets and data paths.

use mcr_proto::{
    config::{Class, PRIORITY_MAX},
    endpoint::{Codepoint, Rate},
    message::{ClassBy, RuleState},
    rule::{Datapath, DatapathChoice, RuleSpec},
};
use mcr_relay::{
    classes::{Classes, Lane},
    compile::{Abilities, Compiled, compile},
};

use crate::compile::{BPF, Host, ROOT, by, spec, video};

fn class(name: &str, dscp: &[u8], priority: u8) -> Class {
    let dscp = dscp.iter().map(|value| Codepoint::new(*value).unwrap()).collect();
    Class { name: name.into(), dscp, priority, rate: None, depth: None }
}

fn classes(defined: &[Class]) -> Classes {
    let mut classes = Classes::default();
    assert!(classes.define(defined));
    classes
}

fn in_class(name: &str, spec: RuleSpec) -> RuleSpec {
    RuleSpec { class: Some(name.into()), ..spec }
}

fn compiled(spec: &RuleSpec, abilities: Abilities, classes: &Classes) -> Compiled {
    compile(spec, &Host::new(), abilities, classes)
}

fn lanes(compiled: &Compiled) -> Vec<Lane> {
    compiled.receivers.iter().map(|key| key.lane()).collect()
}

#[test]
fn all_datagrams_of_a_rule_with_a_class_are_in_it() {
    let slow = Class { rate: Some(Rate::PacketsPerSecond(100)), depth: Some(64), ..class("slow", &[46], 3) };
    let classes = classes(&[slow]);
    for datapath in [DatapathChoice::Packet, DatapathChoice::Udp] {
        let compiled = compiled(&in_class("slow", by(datapath, video())), ROOT, &classes);
        let [lane] = lanes(&compiled)[..] else { panic!("{compiled:?}") };
        assert_eq!((lane.codepoints, lane.priority, lane.depth), (u64::MAX, 3, Some(64)));
        assert_eq!(lane.rate, Some(Rate::PacketsPerSecond(100)));
        let (id, by) = lane.classed().unwrap();
        assert_eq!((classes.input_class(id, by).name.as_str(), by), ("slow", ClassBy::Rule));
        assert_eq!(lane.of_worker().cap, Some((id.0, Rate::PacketsPerSecond(100))));
    }
}

#[test]
fn each_codepoint_of_a_rule_without_a_class_comes_through_one_socket() {
    let classes =
        classes(&[class("voice", &[46, 40], 0), class("none", &[], 1), class("video", &[34, 46], 2)]);
    let compiled = compiled(&by(DatapathChoice::Packet, video()), ROOT, &classes);
    let lanes = lanes(&compiled);
    let found: Vec<_> = lanes.iter().map(|lane| (lane.priority, lane.codepoints)).collect();
    let (voice, others) = (1 << 46 | 1 << 40, !(1 << 46 | 1 << 40 | 1 << 34));
    assert_eq!(found, [(0, voice), (2, 1 << 34), (PRIORITY_MAX, others)]);
    assert_eq!(lanes[0].classed().map(|(_, by)| by), Some(ClassBy::Dscp));
    assert_eq!(lanes[2].classed(), None);
    // One membership is enough for all.
    assert!(compiled.hold.is_some());
}

#[test]
fn a_udp_socket_takes_all_codepoints_and_its_rule_says_so() {
    let by_dscp = classes(&[class("voice", &[46], 0)]);
    let udp = by(DatapathChoice::Udp, video());
    let alone = compiled(&udp, ROOT, &by_dscp);
    assert_eq!(lanes(&alone), [Lane::NONE]);
    assert!(alone.datapath_reason.contains("classes by DSCP need the packet data path"), "{alone:?}");
    // With a class of its own there is nothing to say.
    assert_eq!(compiled(&in_class("voice", udp), ROOT, &by_dscp).datapath_reason, "asked for");
}

#[test]
fn a_rule_with_a_class_is_not_for_the_kernel_path_and_says_so() {
    let classes = classes(&[class("counted", &[], PRIORITY_MAX)]);
    let auto = compiled(&in_class("counted", video()), BPF, &classes);
    assert_eq!(auto.datapath, Some(Datapath::Packet));
    assert_eq!(auto.datapath_reason, "kernel cannot be used: class counted takes a socket of its own");
    let asked = compiled(&in_class("counted", by(DatapathChoice::Kernel, video())), BPF, &classes);
    assert_eq!((asked.state, asked.datapath), (RuleState::Failed, None));
    // Another rule of the same daemon stays where it is.
    assert_eq!(compiled(&video(), BPF, &classes).datapath, Some(Datapath::Kernel));
}

#[test]
fn classes_by_dscp_take_rules_without_a_class_off_the_kernel_path_unless_it_was_asked_for() {
    let by_dscp = classes(&[class("voice", &[46], PRIORITY_MAX)]);
    let auto = compiled(&video(), BPF, &by_dscp);
    assert_eq!((auto.datapath, auto.receivers.len()), (Some(Datapath::Packet), 2));
    assert!(auto.datapath_reason.contains("there are classes by DSCP"), "{auto:?}");
    let asked = compiled(&by(DatapathChoice::Kernel, video()), BPF, &by_dscp);
    assert_eq!(asked.datapath, Some(Datapath::Kernel));
    assert!(asked.datapath_reason.contains("classes by DSCP need the packet data path"), "{asked:?}");
}

#[test]
fn copies_are_marked_by_the_class_of_their_rule() {
    let classes = classes(&[0, 1, 2, 6, 7].map(|priority| class(&format!("p{priority}"), &[], priority)));
    let sender = |class: &str, output: &str| {
        let rule = in_class(class, spec("239.1.1.1:5000@eth0", &[output]));
        compiled(&rule, ROOT, &classes).outputs[0].sender.unwrap()
    };
    let priorities = ["p0", "p1", "p2", "p6", "p7"].map(|class| sender(class, "10.100.0.2:6000").priority);
    assert_eq!(priorities, [7, 6, 4, 4, 0]);
    // The socket bears the DSCP only where it must not set the priority with each send.
    assert_eq!(sender("p0", "10.100.0.2:6000,dscp=ef").dscp, Some(46));
    assert_eq!(sender("p7", "10.100.0.2:6000,dscp=ef").dscp, None);
}

#[test]
fn a_class_keeps_its_number_when_others_come_and_go() {
    let mut classes = classes(&[class("a", &[], 1), class("b", &[], 2)]);
    let number = |classes: &Classes, name: &str| classes.of_rule(name).class.unwrap();
    let (a, b) = (number(&classes, "a"), number(&classes, "b"));
    assert!(!classes.define(&[class("a", &[], 1), class("b", &[], 2)]), "nothing has changed");
    assert!(classes.define(&[class("c", &[], 0), class("b", &[], 5)]));
    assert_eq!((number(&classes, "b"), classes.of_rule("b").priority), (b, 5));
    assert!(![a, b].contains(&number(&classes, "c")));
    // What was counted under a name goes on being called so.
    assert_eq!(classes.input_class(a, ClassBy::Rule).name, "a");
}
