//! Counters as two tables: rules with their outputs, and inputs.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use mcr_proto::{
    counters::OutputDrop,
    rpc::{ClassStats, FlowList, FlowStats, InputStats, OutputStats, RuleStats, Stats},
    rule::Datapath,
};

use crate::{
    reflect::reflectors,
    table::{
        Column::{Number, Text},
        write_table,
    },
    text::{bytes, duration, human, or_dash},
};

pub(crate) fn stats(out: &mut dyn Write, stats: &Stats) -> io::Result<()> {
    if !stats.rules.is_empty() {
        let columns = [
            Text("RULE"),
            Text("STATE"),
            Number("DATAGRAMS"),
            Number("BYTES"),
            Number("PPS"),
            Number("BIT/S"),
            Text("DROPPED"),
        ];
        let rows = stats
            .rules
            .iter()
            .flat_map(|rule| std::iter::once(rule_row(rule)).chain(rule.outputs.iter().map(output_row)));
        write_table(out, &columns, rows.collect())?;
    }
    let seen: Vec<_> = stats.rules.iter().filter(|rule| rule.idle_ns.is_some()).map(timing_row).collect();
    if !seen.is_empty() {
        let columns = [
            Text("RULE"),
            Number("LAST"),
            Number("GAP"),
            Number("JITTER"),
            Number("P50"),
            Number("P99"),
            Number("MEAN PPS"),
            Number("FLOWS"),
        ];
        writeln!(out)?;
        write_table(out, &columns, seen)?;
    }
    for list in stats.rules.iter().filter_map(|rule| rule.flow_list.as_ref()) {
        flows(out, list, stats.time_ns)?;
    }
    if !stats.rules.is_empty() && !stats.inputs.is_empty() {
        writeln!(out)?;
    }
    if !stats.inputs.is_empty() {
        let columns = [
            Text("INPUT"),
            Number("WORKER"),
            Text("PATH"),
            Number("DATAGRAMS"),
            Number("BYTES"),
            Number("PPS"),
            Number("BIT/S"),
            Number("MATCHED"),
            Text("DROPPED"),
        ];
        write_table(out, &columns, stats.inputs.iter().map(input_row).collect())?;
    }
    if !stats.reflectors.is_empty() {
        writeln!(out)?;
        reflectors(out, &stats.reflectors)?;
    }
    Ok(())
}

/// Who sends, and what of it has no line of its own.
fn flows(out: &mut dyn Write, list: &FlowList, now_ns: u64) -> io::Result<()> {
    if !list.flows.is_empty() {
        let columns = [
            Text("FLOW FROM"),
            Number("DATAGRAMS"),
            Number("BYTES"),
            Number("PPS"),
            Number("MEAN PPS"),
            Number("LAST"),
            Number("FIRST"),
        ];
        let row = |flow: &FlowStats| {
            vec![
                flow.source.to_string(),
                flow.datagrams.to_string(),
                bytes(flow.bytes),
                human(flow.rate_pps),
                human(flow.mean_pps),
                duration(now_ns.saturating_sub(flow.last_seen_ns)),
                duration(now_ns.saturating_sub(flow.first_seen_ns)),
            ]
        };
        writeln!(out)?;
        write_table(out, &columns, list.flows.iter().map(row).collect())?;
    }
    if list.left_out > 0 {
        writeln!(out, "and {} flows more", list.left_out)?;
    }
    if list.overflow_datagrams > 0 {
        writeln!(out, "and {} datagrams of flows that found no place in the table", list.overflow_datagrams)?;
    }
    Ok(())
}

/// What came in by class.
pub(crate) fn classes(out: &mut dyn Write, classes: &[ClassStats]) -> io::Result<()> {
    if classes.is_empty() {
        return Ok(());
    }
    let columns = [
        Text("CLASS"),
        Number("PRIORITY"),
        Number("DATAGRAMS"),
        Number("BYTES"),
        Number("PPS"),
        Number("BIT/S"),
        Number("MATCHED"),
        Text("DROPPED"),
    ];
    let row = |class: &ClassStats| {
        vec![
            class.name.clone().unwrap_or_else(|| "(none)".into()),
            class.priority.to_string(),
            class.datagrams.to_string(),
            bytes(class.bytes),
            human(class.rate_pps),
            human(class.rate_bps),
            class.matched.to_string(),
            drops(&class.drops, &BTreeMap::new()),
        ]
    };
    write_table(out, &columns, classes.iter().map(row).collect())
}

fn rule_row(rule: &RuleStats) -> Vec<String> {
    vec![
        rule.name.to_string(),
        rule.state.to_string(),
        rule.datagrams.to_string(),
        bytes(rule.bytes),
        human(rule.rate_pps),
        human(rule.rate_bps),
        // What a rule takes it hands to its outputs, all of it.
        String::new(),
    ]
}

fn timing_row(rule: &RuleStats) -> Vec<String> {
    let latency = rule.latency.as_ref();
    vec![
        rule.name.to_string(),
        or_dash(rule.idle_ns.map(duration)),
        or_dash(rule.gap_max_ns.map(duration)),
        or_dash(rule.jitter_ns.map(duration)),
        or_dash(latency.map(|latency| duration(latency.p50_ns))),
        or_dash(latency.map(|latency| duration(latency.p99_ns))),
        human(rule.mean_pps),
        rule.flows.to_string(),
    ]
}

fn output_row(output: &OutputStats) -> Vec<String> {
    vec![
        format!("  {}", output.output),
        String::new(),
        output.copies.to_string(),
        bytes(output.bytes),
        human(output.rate_pps),
        human(output.rate_bps),
        drops(&output.drops, &output.send_errors),
    ]
}

fn input_row(input: &InputStats) -> Vec<String> {
    let closed = if input.open { "" } else { " (closed)" };
    vec![
        match &input.class {
            Some(class) => format!("{} {class}{closed}", input.interface),
            None => format!("{}{closed}", input.interface),
        },
        // The kernel is counted behind the last worker.
        if input.datapath == Datapath::Kernel { "-".into() } else { input.worker.to_string() },
        input.datapath.to_string(),
        input.datagrams.to_string(),
        bytes(input.bytes),
        human(input.rate_pps),
        human(input.rate_bps),
        input.matched.to_string(),
        drops(&input.drops, &BTreeMap::new()),
    ]
}

/// The drops that there are, a reason a line; below those of sending the errors they are made of.
fn drops(drops: &BTreeMap<String, u64>, errors: &BTreeMap<String, u64>) -> String {
    let mut lines = Vec::new();
    for (reason, count) in drops.iter().filter(|(_, count)| **count > 0) {
        lines.push(format!("{reason} {count}"));
        if reason == OutputDrop::SendError.name() {
            let errors = errors.iter().filter(|(_, count)| **count > 0);
            lines.extend(errors.map(|(errno, count)| format!("  {errno} {count}")));
        }
    }
    if lines.is_empty() { "-".into() } else { lines.join("\n") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(counts: &[(&str, u64)]) -> BTreeMap<String, u64> {
        counts.iter().map(|(name, count)| ((*name).into(), *count)).collect()
    }

    #[test]
    fn drops_are_shown_where_there_are_any_and_errors_by_name() {
        let none = BTreeMap::new();
        assert_eq!(drops(&counts(&[("rate", 0), ("too_big", 0)]), &none), "-");
        assert_eq!(
            drops(
                &counts(&[("rate", 0), ("send_error", 5), ("too_big", 2)]),
                &counts(&[("EPERM", 1), ("ENETUNREACH", 4)])
            ),
            "send_error 5\n  ENETUNREACH 4\n  EPERM 1\ntoo_big 2"
        );
    }

    #[test]
    fn the_tables_are_readable_at_a_hundred_columns() {
        let output = |name: &str| OutputStats {
            output: name.into(),
            copies: 12_345_678,
            bytes: 17_283_949_200,
            drops: counts(&[("send_error", 3), ("rate", 0)]),
            send_errors: counts(&[("ENETUNREACH", 3)]),
            rate_pps: 250_000.0,
            rate_bps: 2.8e9,
        };
        let all = Stats {
            time_ns: 0,
            rules: vec![RuleStats {
                id: mcr_proto::rule::RuleId(1),
                name: "studio-video".parse().expect("a name"),
                state: mcr_proto::message::RuleState::Unresolved,
                datagrams: 12_345_678,
                bytes: 17_283_949_200,
                last_seen_ns: Some(1),
                idle_ns: Some(3_200_000_000),
                gap_max_ns: Some(86_400_000_000_000),
                jitter_ns: Some(999),
                flows: 1,
                rate_pps: 250_000.0,
                rate_bps: 2.8e9,
                mean_pps: 1234.5,
                mean_bps: 1e7,
                flow_list: Some(FlowList {
                    flows: vec![FlowStats {
                        source: "[2001:db8:ffff:ffff:ffff:ffff:ffff:ffff]:65535".parse().expect("an address"),
                        worker: 0,
                        datagrams: 2_345_678,
                        bytes: 1_400,
                        first_seen_ns: 0,
                        last_seen_ns: 0,
                        rate_pps: 250_000.0,
                        rate_bps: 2.8e9,
                        mean_pps: 1234.5,
                        mean_bps: 0.0,
                    }],
                    left_out: 7,
                    overflow_datagrams: 11,
                }),
                latency: Some(mcr_proto::rpc::Latency {
                    datagrams: 12_345_678,
                    mean_ns: 12_000,
                    p50_ns: 10_240,
                    p90_ns: 20_480,
                    p99_ns: 1_310_720,
                    p999_ns: u64::MAX,
                }),
                outputs: vec![output("239.2.2.2:6000@eth1,ttl=16"), output("10.100.0.2:6000")],
            }],
            inputs: vec![InputStats {
                worker: 0,
                interface: "eth0".into(),
                datapath: Datapath::Packet,
                class: Some("voice".into()),
                class_by: None,
                open: true,
                frames: 1,
                datagrams: 12_345_680,
                bytes: 17_283_949_200,
                matched: 12_345_678,
                drops: counts(&[("no_rule", 2), ("fragment", 0)]),
                rate_pps: 0.5,
                rate_bps: 8.0,
            }],
            reflectors: Vec::new(),
            classes: Vec::new(),
        };
        let mut out = Vec::new();
        stats(&mut out, &all).expect("memory");
        let text = String::from_utf8(out).expect("text");
        assert!(text.lines().all(|line| line.len() <= 100 && !line.ends_with(' ')), "{text}");
        assert!(
            text.contains("send_error 3") && text.contains("ENETUNREACH 3") && text.contains("no_rule 2"),
            "{text}"
        );
        assert!(!text.contains("fragment"), "{text}");
        let timing = text.lines().find(|line| line.contains("10.2us")).expect("the rule's times");
        let cells: Vec<_> = timing.split_whitespace().collect();
        assert_eq!(cells, ["studio-video", "3.20s", "24.0h", "999ns", "10.2us", "1.31ms", "1.23k", "1"]);
        let flow = text.lines().find(|line| line.contains(":65535")).expect("the flow");
        let cells: Vec<_> = flow.split_whitespace().skip(1).collect();
        assert_eq!(cells, ["2345678", "1.40kB", "250k", "1.23k", "0ns", "0ns"]);
        assert!(text.contains("\nand 7 flows more\nand 11 datagrams of flows"), "{text}");
    }
}
