//! Who sends what to a rule: each sender's datagrams are counted by themselves, and come to what the rule counted.
#![allow(clippy::unwrap_used)] // A test has no better answer to an error than to fail.

use std::process::Command;

use mcr_e2e::{Bed, Source, in_every_cell, law, programs, source};
use mcr_proto::rpc::{FlowList, RuleParams, method, rule_ref};

/// Who sends to the only rule.
fn flows(bed: &mut Bed) -> FlowList {
    bed.at_rest();
    let stats = bed.client.stats(Some(&rule_ref("rule").unwrap())).unwrap();
    let rule = law::rule(&stats, "rule").clone();
    let list = rule.flow_list.expect("one rule was asked for");
    let sum = list.flows.iter().map(|flow| flow.datagrams).sum::<u64>() + list.overflow_datagrams;
    assert!(sum <= rule.datagrams && list.left_out == 0, "{list:?} of {}", rule.datagrams);
    list
}

/// Sender and datagrams of each, the most first.
fn senders(list: &FlowList) -> Vec<(String, u64, u64)> {
    list.flows.iter().map(|flow| (flow.source.to_string(), flow.datagrams, flow.bytes)).collect()
}

fn sent(source: &Source, datagrams: u64) -> (String, u64, u64) {
    (source.address().to_string(), datagrams, datagrams * 300)
}

in_every_cell! {
    fn each_sender_is_counted_by_itself(cell) {
        let mut bed = Bed::new(cell, 1);
        bed.add("rule", "239.1.1.1:5000@in0", &["239.2.2.2:6000@out0"]);
        assert_eq!(flows(&mut bed).flows, []);
        let sink = bed.sink(0, "239.2.2.2:6000@dst0");
        let sources: Vec<_> = (0..3).map(|_| bed.source("239.1.1.1:5000")).collect();
        // In turn, so that each datagram is of another flow than the one before.
        for round in 0..20_u64 {
            for (source, every) in sources.iter().zip([1, 2, 4]) {
                if round % every == 0 {
                    let payloads = source::payloads(round, [300; 2]);
                    source.send(&payloads);
                    sink.expect(&payloads);
                }
            }
        }
        let list = flows(&mut bed);
        assert_eq!(senders(&list), [sent(&sources[0], 40), sent(&sources[1], 20), sent(&sources[2], 10)]);
        let stats = bed.at_rest();
        let rule = law::rule(&stats, "rule");
        assert_eq!((rule.datagrams, rule.flows, &rule.flow_list), (70, 3, &None), "all rules: no lists");
        for flow in &list.flows {
            assert!(flow.first_seen_ns <= flow.last_seen_ns && Some(flow.last_seen_ns) <= rule.last_seen_ns, "{flow:?}");
            assert!(flow.mean_pps > 0.0 && flow.mean_pps <= 40.0, "{flow:?}");
        }
        let mut mcrctl = Command::new(programs::program("mcrctl"));
        let shown = mcrctl.arg("--socket").arg(bed.daemon.socket()).args(["stats", "rule"]).output().unwrap();
        let shown = String::from_utf8(shown.stdout).unwrap();
        for source in &sources {
            assert!(shown.lines().any(|line| line.starts_with(&source.address().to_string())), "{shown}");
        }
        bed.finish();
    }

    fn a_rule_that_is_switched_off_forgets_its_flows_and_begins_anew(cell) {
        let mut bed = Bed::new(cell, 1);
        bed.add("rule", "239.1.1.1:5000@in0", &["239.2.2.2:6000@out0"]);
        bed.add("other", "239.1.1.2:5000@in0", &["239.2.2.2:6001@out0"]);
        let (sink, other_sink) = (bed.sink(0, "239.2.2.2:6000@dst0"), bed.sink(0, "239.2.2.2:6001@dst0"));
        let (source, other) = (bed.source("239.1.1.1:5000"), bed.source("239.1.1.2:5000"));
        let params = RuleParams { rule: rule_ref("rule").unwrap() };
        for round in 0..2 {
            let payloads = source::payloads(round, [300; 5]);
            source.send(&payloads);
            sink.expect(&payloads);
            other.send(&payloads);
            other_sink.expect(&payloads);
            assert_eq!(senders(&flows(&mut bed)), [sent(&source, 5)]);
            let _: serde_json::Value = bed.client.call(method::RULE_DISABLE, &params).unwrap();
            assert_eq!(flows(&mut bed).flows, []);
            let _: serde_json::Value = bed.client.call(method::RULE_ENABLE, &params).unwrap();
            bed.wait_active("rule");
        }
        let stats = bed.client.stats(Some(&rule_ref("other").unwrap())).unwrap();
        let rule = law::rule(&stats, "other");
        assert_eq!(senders(rule.flow_list.as_ref().unwrap()), [sent(&other, 10)]);
        bed.finish();
    }
}
