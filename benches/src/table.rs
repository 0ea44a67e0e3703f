//! Markdown tables of results. Pure but for reading the file.

use std::{collections::BTreeSet, fmt::Write as _, path::Path};

use crate::{
    burden,
    case::Case,
    latency::{HALF, NO_RELAY, RATES},
    peer::Peer,
    record::{self, Cost, Foreign, Latency, Overload, Rate, Record, Setup},
    reflect,
    rounds::LOAD_MAX,
    statistics::{Summary, ratios},
};

/// Tables of a file that `peers --json` wrote.
pub(crate) fn of_file(path: &Path) -> anyhow::Result<String> {
    record::read(path).map(|records| of(&records))
}

/// Tables of results: for each case rates and costs, then delays.
pub(crate) fn of(records: &[Record]) -> String {
    let mut text = String::new();
    for record in records {
        if let Record::Setup(setup) = record {
            text.push_str(&head(setup));
        }
    }
    text.push_str(&loads(records));
    for case in Case::ALL {
        text.push_str(&rates(records, case));
    }
    for case in Case::ALL {
        text.push_str(&delays(records, case));
    }
    for case in Case::ALL {
        text.push_str(&overloads(records, case));
    }
    text.push_str(&foreign(records));
    text.push_str(&reflect::table::of(records));
    text
}

fn head(setup: &Setup) -> String {
    let Setup { version, kernel, processor, cores, trial_ms, quick, steered, live, offload } = setup;
    let quick = if *quick { " **A quick run: these are no numbers to quote.**" } else { "" };
    let live = if *live { ", XDP live frames" } else { "" };
    let steered = if *steered { "" } else { ", without receive steering" };
    let offload = if *offload { ", outputs that cut superframes" } else { "" };
    format!(
        "MCR {version}, Linux {kernel}, {processor}, {cores} cores, {trial_ms} ms a trial{live}{steered}{offload}.{quick}\n"
    )
}

/// Says so if the machine was not left alone.
fn loads(records: &[Record]) -> String {
    let load = |record: &Record| match record {
        Record::Load { percent, .. } => Some(*percent),
        _ => None,
    };
    match Summary::of(records.iter().filter_map(load)) {
        Some(Summary { max, .. }) if max > LOAD_MAX => {
            format!("**Other programs used up to {max:.0} % of a core: the numbers mean little.**\n")
        }
        _ => String::new(),
    }
}

/// What was measured of one peer in one case.
struct Row<'a> {
    rates: Vec<(u32, f64)>,
    sender_bound: bool,
    costs: Vec<&'a Cost>,
    absent: Option<&'a str>,
}

impl<'a> Row<'a> {
    fn of(records: &'a [Record], case: Case, peer: Peer) -> Self {
        let mut row = Self { rates: Vec::new(), sender_bound: false, costs: Vec::new(), absent: None };
        let ours = |at_case: &str, at_peer: &str| (at_case, at_peer) == (case.name(), peer.name());
        for record in records {
            match record {
                Record::Rate(Rate { case, peer, round, loss_free_copies, sender_bound, .. })
                    if ours(case, peer) =>
                {
                    row.rates.push((*round, *loss_free_copies));
                    row.sender_bound |= sender_bound;
                }
                Record::Cost(cost) if ours(&cost.case, &cost.peer) => row.costs.push(cost),
                Record::Absent { case, peer, reason } if ours(case, peer) => row.absent = Some(reason),
                _ => {}
            }
        }
        row
    }

    fn is_empty(&self) -> bool {
        self.rates.is_empty() && self.costs.is_empty() && self.absent.is_none()
    }
}

fn rates(records: &[Record], case: Case) -> String {
    let row = |peer| (peer, Row::of(records, case, peer));
    let rows: Vec<_> = Peer::ALL.into_iter().map(row).filter(|(_, row)| !row.is_empty()).collect();
    if rows.is_empty() {
        return String::new();
    }
    let (baseline, kernel) = (row(Peer::Baseline).1, row(Peer::Kernel).1);
    let mut text = format!(
        "\n### {}\n\nThousand copies a second without loss; time of the relay's core for a copy.\n\n\
         | | best | median | all rounds | to baseline | to kernel | ns a copy | rounds |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|\n",
        case.title()
    );
    let mut notes = String::new();
    for (peer, row) in rows {
        if let (Some(reason), false) = (row.absent, row.rates.is_empty()) {
            let _ = writeln!(notes, "\n{} failed after {} rounds: {reason}", peer.title(), row.rates.len());
        }
        let cells = match Summary::of(row.rates.iter().map(|(_, rate)| *rate)) {
            None if row.costs.is_empty() => {
                format!("not measured: {} | | | | | | ", plain(row.absent.unwrap_or("no reason given")))
            }
            summary => [
                summary.map_or_else(|| "- | - | -".into(), |summary| rate_cells(&summary, row.sender_bound)),
                ratio_cell(ratios(&row.rates, &baseline.rates)),
                ratio_cell(ratios(&row.rates, &kernel.rates)),
                cost_cell(&row.costs),
                row.rates.len().max(row.costs.len()).to_string(),
            ]
            .join(" | "),
        };
        let _ = writeln!(text, "| {} | {cells} |", peer.title());
    }
    text + &notes
}

fn rate_cells(summary: &Summary, sender_bound: bool) -> String {
    let thousands = |rate: f64| format!("{:.0}", rate / 1000.0);
    // As fast as the sender: the truth is there or above.
    let least = if sender_bound { "≥ " } else { "" };
    let Summary { min, median, max, .. } = *summary;
    format!(
        "{least}{} | {least}{} | {}-{}",
        thousands(max),
        thousands(median),
        thousands(min),
        thousands(max)
    )
}

fn ratio_cell(ratio: Option<Summary>) -> String {
    ratio.map_or_else(
        || "-".into(),
        |Summary { min, median, max, .. }| format!("{median:.2} ({min:.2}-{max:.2})"),
    )
}

/// Costs at a rate that was not carried are none.
fn cost_cell(costs: &[&Cost]) -> String {
    let carried = |cost: &&&Cost| cost.copies_received as f64 >= cost.copies_expected as f64 * 0.99;
    match Summary::of(costs.iter().filter(carried).map(|cost| cost.core_ns_per_copy)) {
        Some(summary) => format!("{:.0}", summary.median),
        None => "-".into(),
    }
}

fn delays(records: &[Record], case: Case) -> String {
    let ours: Vec<&Latency> = records
        .iter()
        .filter_map(|record| match record {
            Record::Latency(latency) if latency.case == case.name() => Some(latency),
            _ => None,
        })
        .collect();
    if ours.is_empty() {
        return String::new();
    }
    let measured: BTreeSet<&str> = ours.iter().map(|latency| latency.peer.as_str()).collect();
    let mut text = format!(
        "\n### Delay: {}\n\nMicroseconds from source to sink: p50 / p99 / p99.9, and what the relay adds to the p50 of one cable \
         without a relay; medians of all rounds.\n\n\
         | | 1,000 a second | 50,000 a second | half of the loss-free rate |\n|---|--:|--:|--:|\n",
        case.title()
    );
    let peers = Peer::ALL.map(|peer| (peer.name(), peer.title()));
    for (name, title) in
        [(NO_RELAY, "no relay")].into_iter().chain(peers).filter(|(name, _)| measured.contains(name))
    {
        let loads = RATES.map(|rate| rate.to_string()).into_iter().chain([HALF.to_owned()]);
        let cells: Vec<_> = loads.map(|load| delay_cell(&ours, name, &load)).collect();
        let _ = writeln!(text, "| {title} | {} |", cells.join(" | "));
    }
    text
}

fn delay_cell(all: &[&Latency], peer: &str, load: &str) -> String {
    let of = |peer: &str| -> Vec<&Latency> {
        let at = |latency: &&&Latency| (latency.peer.as_str(), latency.load.as_str()) == (peer, load);
        all.iter().filter(at).copied().collect()
    };
    let median = |of: &[&Latency], value: fn(&Latency) -> f64| {
        Summary::of(of.iter().map(|latency| value(latency))).map(|summary| summary.median)
    };
    let ours = of(peer);
    if ours.is_empty() {
        return "-".into();
    }
    let reached: Vec<_> = ours.into_iter().filter(|latency| latency.reached).collect();
    let percentiles: [fn(&Latency) -> f64; 3] = [|it| it.p50_us, |it| it.p99_us, |it| it.p99_9_us];
    let Some(values) =
        percentiles.map(|value| median(&reached, value)).into_iter().collect::<Option<Vec<_>>>()
    else {
        return "rate not reached".into();
    };
    let mut cell = values.iter().map(|value| format!("{value:.0}")).collect::<Vec<_>>().join(" / ");
    if let (true, Some(bare)) = (peer != NO_RELAY, median(&of(NO_RELAY), |it| it.p50_us)) {
        let _ = write!(cell, " ({:+.0})", values[0] - bare);
    }
    let lost = reached.iter().map(|latency| latency.sent.saturating_sub(latency.received)).sum::<u64>();
    let sent = reached.iter().map(|latency| latency.sent).sum::<u64>();
    // A delay of what came through flatters who lost the rest.
    if lost as f64 > sent as f64 * 0.001 {
        let _ = write!(cell, ", {:.1} % lost", lost as f64 * 100.0 / sent as f64);
    }
    cell
}

fn overloads(records: &[Record], case: Case) -> String {
    let of = |peer: Peer| -> Vec<&Overload> {
        let all = records.iter().filter_map(|record| match record {
            Record::Overload(overload) => Some(overload),
            _ => None,
        });
        all.filter(|it| (it.case.as_str(), it.peer.as_str()) == (case.name(), peer.name())).collect()
    };
    let mut rows = String::new();
    for (peer, all) in Peer::ALL.map(|peer| (peer, of(peer))) {
        let summary = |value: fn(&Overload) -> f64| Summary::of(all.iter().map(|overload| value(overload)));
        let (Some(offered), Some(share)) =
            (summary(|it| it.sent_pps / it.loss_free_pps), summary(|it| it.delivered_share * 100.0))
        else {
            continue;
        };
        let _ = writeln!(
            rows,
            "| {} | {:.2} | {:.0} ({:.0}-{:.0}) |",
            peer.title(),
            offered.median,
            share.median,
            share.min,
            share.max
        );
    }
    if rows.is_empty() {
        return rows;
    }
    format!(
        "\n### Overload: {}\n\nWhat was offered, in loss-free rates, and what of that rate was delivered meanwhile, in percent; medians, \
         and all rounds.\n\n| | offered | delivered |\n|---|--:|--:|\n{rows}",
        case.title()
    )
}

fn foreign(records: &[Record]) -> String {
    let of = |peer: &str| -> Vec<&Foreign> {
        let all = records.iter().filter_map(|record| match record {
            Record::Foreign(foreign) => Some(foreign),
            _ => None,
        });
        all.filter(|it| it.peer == peer).collect()
    };
    let median = |peer: &str, value: fn(&Foreign) -> f64| {
        Summary::of(of(peer).iter().map(|foreign| value(foreign))).map(|summary| summary.median)
    };
    let Some(bare) = median(burden::NO_RELAY, |it| it.core_ns) else { return String::new() };
    let mut text = "\n### Foreign traffic\n\nDatagrams of 100 B to a group that no rule wants, at the relay's input: thousands a second that \
        were sent, nanoseconds of the relay's core for each, and what of that the relay adds; medians of all rounds.\n\n\
        | | sent | ns a datagram | added |\n|---|--:|--:|--:|\n"
        .to_owned();
    let peers = Peer::ALL.map(|peer| (peer.name(), peer.title()));
    for (name, title) in [(burden::NO_RELAY, "no relay")].into_iter().chain(peers) {
        let (Some(sent), Some(core)) = (median(name, |it| it.sent_pps), median(name, |it| it.core_ns)) else {
            continue;
        };
        let added = if name == burden::NO_RELAY { "-".to_owned() } else { format!("{:+.0}", core - bare) };
        let _ = writeln!(text, "| {title} | {:.0} | {core:.0} | {added} |", sent / 1000.0);
    }
    text
}

/// What a program said, fit for a cell.
fn plain(text: &str) -> String {
    text.replace(['|', '\n'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(peer: &str, round: u32, copies: f64, sender_bound: bool) -> Record {
        Record::Rate(Rate {
            case: "1x1-1400".into(),
            peer: peer.into(),
            round,
            loss_free_pps: copies,
            loss_free_copies: copies,
            sender_bound,
            trials: 5,
        })
    }

    fn cost(peer: &str, received: u64, core_ns_per_copy: f64) -> Record {
        Record::Cost(Cost {
            case: "1x1-1400".into(),
            peer: peer.into(),
            round: 0,
            copies_received: received,
            copies_expected: 1000,
            seconds: 1.0,
            core_ns_per_copy,
            process_ns_per_copy: 1.0,
        })
    }

    fn delay(peer: &str, load: &str, p50_us: f64, received: u64) -> Record {
        Record::Latency(Latency {
            case: "1x1-1400".into(),
            peer: peer.into(),
            round: 0,
            load: load.into(),
            offered_pps: 1000,
            reached: true,
            sent: 1000,
            received,
            receiver_drops: 0,
            p50_us,
            p99_us: p50_us * 2.0,
            p99_9_us: p50_us * 3.0,
        })
    }

    #[test]
    fn a_row_has_best_median_spread_ratios_of_the_same_rounds_and_cost() {
        let records = [
            rate("mcrd-packet", 0, 400_000.0, false),
            rate("baseline", 0, 200_000.0, false),
            rate("mcrd-packet", 1, 600_000.0, false),
            rate("baseline", 1, 200_000.0, false),
            cost("mcrd-packet", 1000, 1234.4),
        ];
        let text = of(&records);
        assert!(text.contains("### 1 stream, 1400 B, 1 output\n"), "{text}");
        let row = "| mcrd packet, io_uring | 600 | 500 | 400-600 | 2.50 (2.00-3.00) | - | 1234 | 2 |\n";
        assert!(text.contains(row), "{text}");
        assert!(!text.contains("socat"), "what was not asked for is not named: {text}");
    }

    #[test]
    fn a_rate_that_the_sender_limits_is_a_least_one() {
        let text = of(&[rate("kernel", 0, 1_100_000.0, true), rate("kernel", 1, 1_000_000.0, false)]);
        assert!(text.contains("| ≥ 1100 | ≥ 1050 | 1000-1100 |"), "{text}");
    }

    #[test]
    fn a_peer_that_is_not_there_is_named_with_the_reason() {
        let absent = Record::Absent {
            case: "1x1-1400".into(),
            peer: "socat".into(),
            reason: "socat is not | installed".into(),
        };
        let text = of(&[absent]);
        assert!(text.contains("| socat | not measured: socat is not   installed | | | | | |  |\n"), "{text}");
    }

    #[test]
    fn a_peer_that_fails_in_a_later_round_keeps_its_row_and_gets_a_note() {
        let absent =
            Record::Absent { case: "1x1-1400".into(), peer: "socat".into(), reason: "it has ended".into() };
        let text = of(&[rate("socat", 0, 87_000.0, false), absent]);
        assert!(text.contains("| socat | 87 |"), "{text}");
        assert!(text.ends_with("\nsocat failed after 1 rounds: it has ended\n"), "{text}");
    }

    #[test]
    fn a_cost_at_a_rate_that_was_not_carried_is_left_out() {
        let text = of(&[rate("socat", 0, 40_000.0, false), cost("socat", 800, 9999.0)]);
        assert!(text.contains("| socat | 40 | 40 | 40-40 | - | - | - | 1 |"), "{text}");
    }

    #[test]
    fn what_a_relay_adds_is_told_beside_its_percentiles_and_loss_is_not_hidden() {
        let records = [
            delay("no-relay", "1000", 20.0, 1000),
            delay("baseline", "1000", 35.0, 1000),
            delay("baseline", "half", 50.0, 900),
        ];
        let text = of(&records);
        assert!(text.contains("| no relay | 20 / 40 / 60 | - | - |\n"), "{text}");
        assert!(text.contains("| 35 / 70 / 105 (+15) | - | 50 / 100 / 150, 10.0 % lost |\n"), "{text}");
    }

    #[test]
    fn a_machine_that_was_not_left_alone_is_told_of() {
        assert_eq!(of(&[Record::Load { round: 0, percent: 4.0 }]), "");
        let text = of(&[Record::Load { round: 0, percent: 1.0 }, Record::Load { round: 1, percent: 61.2 }]);
        assert!(text.contains("up to 61 % of a core"), "{text}");
    }

    #[test]
    fn a_quick_run_says_that_it_is_one() {
        let setup = Setup {
            version: "1".into(),
            kernel: "6".into(),
            processor: "p".into(),
            cores: 2,
            trial_ms: 500,
            quick: true,
            steered: true,
            live: false,
            offload: false,
        };
        assert!(of(&[Record::Setup(setup)]).contains("no numbers to quote"));
    }
}
