use super::*;
use crate::proc::Rights;

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
