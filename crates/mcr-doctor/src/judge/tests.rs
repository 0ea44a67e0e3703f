use mcr_netmon::{Link, LinkKind};
use mcr_proto::{counters::OutputDrop, message::RuleState, plan::OutputSlot, rule::RuleSpec};

use super::*;
use crate::{
    facts::InterfaceSettings,
    offload::Features,
    proc::Rights,
    survey::{OutputFacts, RuleFacts, Survey, Way},
};

/// The one finding of a check; none if there is none.
fn one(survey: &Survey, facts: &Facts, check: &str) -> Option<Finding> {
    let mut found = diagnose(survey, facts).findings.into_iter().filter(|finding| finding.check == check);
    let first = found.next();
    assert!(found.next().is_none(), "{check} twice");
    first
}

#[test]
fn a_word_with_anything_special_in_it_is_quoted_for_the_shell() {
    assert_eq!(quoted("eth0.5"), "eth0.5");
    assert_eq!(quoted("a b"), "'a b'");
    assert_eq!(quoted("10.0.0.9>232.1.1.1:5@eth0"), "'10.0.0.9>232.1.1.1:5@eth0'");
    assert_eq!(quoted("it's"), r"'it'\''s'");
    assert_eq!(quoted(""), "''");
}

#[test]
fn what_forbids_ebpf_is_told_by_what_the_daemon_may() {
    const BOTH: u64 = 1 << 12 | 1 << 39;
    let advice = |refusal: &str, rights: Rights| {
        let survey = Survey { no_bpf: Some(refusal.into()), ..Survey::default() };
        let facts = Facts { rights, ..Facts::default() };
        let [finding] = &diagnose(&survey, &facts).findings[..] else { panic!("one finding") };
        assert_eq!((finding.check.as_str(), finding.severity), ("bpf", Severity::Warning));
        finding.advice.clone().unwrap_or_default()
    };
    let able = Rights { capabilities: Some(BOTH), ..Rights::default() };
    let denied = "eBPF is not permitted (it takes CAP_BPF and CAP_NET_ADMIN)";
    for (refusal, rights, said) in [
        (denied, Rights { capabilities: Some(1 << 12), filtered: true, ..able.clone() }, "no CAP_BPF: start"),
        (denied, Rights { capabilities: Some(0), ..able.clone() }, "no CAP_NET_ADMIN and no CAP_BPF"),
        (denied, Rights { own_user_namespace: true, filtered: true, ..able.clone() }, "user namespace"),
        (denied, Rights { lockdown: Some("integrity".into()), ..able.clone() }, "locked down (integrity)"),
        (denied, Rights { filtered: true, ..able.clone() }, "seccomp filter"),
        (denied, able.clone(), "security module"),
        ("this kernel does not take the eBPF program: Invalid argument", able, "Linux 5.19"),
    ] {
        let advice = advice(refusal, rights);
        assert!(advice.contains(said), "{said}: {advice}");
    }
    assert!(diagnose(&Survey::default(), &Facts::default()).findings.is_empty(), "nobody asked for it");
}

#[test]
fn frames_that_the_cores_queues_had_no_room_for_are_told_with_what_helps() {
    const COMMAND: &str = "sysctl -w net.core.netdev_max_backlog=30000";
    let told = |drops: Option<(u64, u64)>, length: Option<i64>| {
        let facts = Facts { backlog_drops: drops, netdev_max_backlog: length, ..Facts::default() };
        one(&Survey::default(), &facts, "backlog_drops")
    };
    for (drops, length, severity, said, fix, advice) in [
        (
            Some((7, 2)),
            Some(1_000),
            Severity::Error,
            "dropped 7 frames since the host started, 2 of them just now",
            true,
            None,
        ),
        (Some((7, 0)), Some(1_000), Severity::Info, "dropped 7 frames since the host started", true, None),
        (Some((7, 2)), Some(30_000), Severity::Error, "2 of them just now", false, Some("overloaded")),
        (Some((7, 7)), None, Severity::Error, "7 of them just now", true, Some("first network namespace")),
    ] {
        let finding = told(drops, length).unwrap_or_else(|| panic!("{drops:?} of {length:?} is not told"));
        assert_eq!(
            (finding.severity, finding.fix.as_deref()),
            (severity, fix.then_some(COMMAND)),
            "{finding:?}"
        );
        assert!(finding.what.contains(said), "{finding:?}");
        assert_eq!(finding.advice.is_some(), advice.is_some(), "{finding:?}");
        assert!(finding.advice.unwrap_or_default().contains(advice.unwrap_or_default()));
    }
    // Long enough, or nothing lost, or not known.
    for (drops, length) in
        [(Some((7, 0)), Some(30_000)), (Some((0, 0)), Some(1_000)), (Some((0, 0)), None), (None, None)]
    {
        assert_eq!(told(drops, length), None, "{drops:?} of {length:?}");
    }
}

#[test]
fn io_uring_that_is_switched_off_is_told_where_workers_lack_it() {
    let told = |without: u32, disabled: Option<i64>, rules: Vec<RuleFacts>| {
        let survey = Survey { workers_without_uring: without, rules, ..Survey::default() };
        let facts = Facts { io_uring_disabled: disabled, ..Facts::default() };
        one(&survey, &facts, "io_uring")
    };
    let finding = told(2, Some(2), vec![rule()]).expect("workers lack it");
    assert_eq!(finding.fix.as_deref(), Some("sysctl -w kernel.io_uring_disabled=0"));
    assert!(finding.what.contains("io_uring_disabled = 2") && finding.advice.is_none(), "{finding:?}");
    // A kernel that has no such sysctl, or one that lets everybody.
    for disabled in [None, Some(0)] {
        let finding = told(1, disabled, vec![rule()]).expect("a worker lacks it");
        assert!(finding.fix.is_none() && finding.advice.is_some_and(|advice| advice.contains("seccomp")));
    }
    assert!(told(0, Some(1), Vec::new()).is_some(), "nobody has tried");
    assert_eq!(told(0, Some(1), vec![rule()]), None, "disabled for others");
    assert_eq!(told(0, Some(0), vec![rule()]), None);
}

/// From eth0, whose index is 1, to eth1, whose index is 2.
fn rule() -> RuleFacts {
    let output: mcr_proto::endpoint::Output = "239.2.2.2:6000@eth1".parse().expect("an output");
    let spec = RuleSpec::new("239.1.1.1:5000@eth0".parse().expect("an input"), vec![output.clone()]);
    let way =
        Way { index: 2, next_hop: output.address, gateway: false, local: false, neighbour: None, mac: None };
    let (state, none) = (RuleState::Active, [0; OutputDrop::COUNT]);
    let output =
        OutputFacts { slot: OutputSlot(0), output, state, way: Some(way), drops: none, recent: none };
    let name = "rule".to_owned();
    RuleFacts { name, spec, state, reason: None, datapath: None, back_to_source: None, outputs: vec![output] }
}

fn link(index: u32, name: &str) -> Link {
    Link {
        index,
        name: name.into(),
        kind: LinkKind::Ethernet,
        driver: None,
        mac: None,
        mtu: 1500,
        up: true,
        running: true,
        multicast: true,
        point_to_point: false,
        master: None,
        parent: None,
    }
}

/// No device of a network namespace merges packets by itself, so that there is nothing real to look at.
#[test]
fn an_input_that_merges_packets_itself_is_told_with_how_to_have_it_stop() {
    let survey =
        Survey { links: vec![link(1, "eth0"), link(2, "eth1")], rules: vec![rule()], ..Survey::default() };
    let merging = |indexes: &[u32]| {
        let set = |name: &str| [name.to_owned()].into_iter().collect();
        let features = Features { active: set("rx-lro"), changeable: set("rx-lro") };
        let settings = InterfaceSettings { features: Some(features), ..InterfaceSettings::default() };
        let interfaces = indexes.iter().map(|index| (*index, settings.clone())).collect();
        Facts { interfaces, ..Facts::default() }
    };
    let finding = one(&survey, &merging(&[1]), "lro").expect("an input merges");
    assert_eq!((finding.severity, finding.subject.as_str()), (Severity::Warning, "eth0"));
    assert_eq!(finding.fix.as_deref(), Some("ethtool -K eth0 large-receive-offload off"));
    assert_eq!(one(&survey, &merging(&[2]), "lro"), None, "an output may");
    assert_eq!(one(&survey, &merging(&[]), "lro"), None);
    let bare = Survey { rules: Vec::new(), ..survey };
    assert!(one(&bare, &merging(&[2]), "lro").is_some(), "any may become an input");
}
