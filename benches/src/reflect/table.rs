//! Markdown tables of what reflectors did. Pure.

use std::fmt::Write as _;

use super::{
    Case, Peer,
    record::{Bursts, Idle, Rate, Result, Trial, TurnRound, Whose},
};
use crate::{
    record::Record,
    statistics::{Summary, ratios},
};

/// One table for each case, of those that there are results of.
pub(crate) fn of(records: &[Record]) -> String {
    let results: Vec<&Result> = records
        .iter()
        .filter_map(|record| match record {
            Record::Reflect(result) => Some(result),
            _ => None,
        })
        .collect();
    Case::ALL.into_iter().map(|case| table(&results, case)).collect()
}

/// What was measured of one peer in one case.
#[derive(Default)]
struct Row<'a> {
    rates: Vec<(u32, f64)>,
    sender_bound: bool,
    wrong: u64,
    bursts: Vec<&'a Bursts>,
    turn_rounds: Vec<&'a TurnRound>,
    idle: Vec<f64>,
}

impl<'a> Row<'a> {
    fn of(results: &[&'a Result], case: Case, peer: Peer) -> Self {
        let mut row = Self::default();
        let ours = |whose: &Whose| (whose.case.as_str(), whose.peer.as_str()) == (case.name(), peer.name());
        for result in results {
            match result {
                Result::Trial(Trial { whose, wrong, out_of_turn, .. }) if ours(whose) => {
                    row.wrong += wrong + out_of_turn;
                }
                Result::Rate(Rate { whose, loss_free_pps, sender_bound, .. }) if ours(whose) => {
                    row.rates.push((whose.round, *loss_free_pps));
                    row.sender_bound |= sender_bound;
                }
                Result::Bursts(bursts) if ours(&bursts.whose) => row.bursts.push(bursts),
                Result::TurnRound(turn_round) if ours(&turn_round.whose) => row.turn_rounds.push(turn_round),
                Result::Idle(Idle { whose, percent, .. }) if ours(whose) => row.idle.push(*percent),
                _ => {}
            }
        }
        row
    }

    fn is_empty(&self) -> bool {
        self.rates.is_empty() && self.bursts.is_empty() && self.turn_rounds.is_empty() && self.idle.is_empty()
    }
}

fn table(results: &[&Result], case: Case) -> String {
    let rows = Peer::ALL.map(|peer| (peer, Row::of(results, case, peer)));
    if rows.iter().all(|(_, row)| row.is_empty()) {
        return String::new();
    }
    let swapper = Row::of(results, case, Peer::Swapper);
    let mut text = format!(
        "\n### {}\n\nThousand frames a second without loss, each compared; bursts of 2,000 that came back whole; microseconds from \
         the tester and back at 10,000 a second (p50 / p99 / p99.9); percent of a core while idle.\n\n\
         | | best | median | all rounds | to swapper | bursts | turn-round | idle | rounds |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|--:|\n",
        case.title()
    );
    let mut notes = String::new();
    for (peer, row) in rows.iter().filter(|(_, row)| !row.is_empty()) {
        let ratio = ratios(&row.rates, &swapper.rates);
        let cells = [
            rate_cells(row),
            ratio.map_or_else(
                || "-".into(),
                |Summary { min, median, max, .. }| format!("{median:.2} ({min:.2}-{max:.2})"),
            ),
            burst_cell(&row.bursts),
            turn_round_cell(&row.turn_rounds),
            Summary::of(row.idle.iter().copied())
                .map_or_else(|| "-".into(), |idle| format!("{:.2}", idle.median)),
            row.rates.len().max(row.turn_rounds.len()).max(row.bursts.len()).max(row.idle.len()).to_string(),
        ];
        let _ = writeln!(text, "| {} | {} |", peer.title(), cells.join(" | "));
        if row.wrong > 0 {
            let _ = writeln!(
                notes,
                "\n{}: {} frames came back damaged, misaddressed or out of turn.",
                peer.title(),
                row.wrong
            );
        }
    }
    text + &notes
}

fn rate_cells(row: &Row<'_>) -> String {
    let Some(Summary { min, median, max, .. }) = Summary::of(row.rates.iter().map(|(_, rate)| *rate)) else {
        return "- | - | -".into();
    };
    let thousands = |rate: f64| format!("{:.0}", rate / 1000.0);
    // As fast as the tester: the truth is there or above.
    let least = if row.sender_bound { "≥ " } else { "" };
    let (min, median, max) = (thousands(min), thousands(median), thousands(max));
    format!("{least}{max} | {least}{median} | {min}-{max}")
}

fn burst_cell(bursts: &[&Bursts]) -> String {
    let all: u32 = bursts.iter().map(|bursts| bursts.bursts).sum();
    if all == 0 {
        return "-".into();
    }
    let whole: u32 = bursts.iter().map(|bursts| bursts.whole).sum();
    format!("{whole} of {all}")
}

fn turn_round_cell(turn_rounds: &[&TurnRound]) -> String {
    let percentiles: [fn(&TurnRound) -> f64; 3] = [|it| it.p50_us, |it| it.p99_us, |it| it.p99_9_us];
    let medians = percentiles
        .map(|value| Summary::of(turn_rounds.iter().map(|it| value(it))).map(|summary| summary.median));
    let [Some(p50), Some(p99), Some(p99_9)] = medians else { return "-".into() };
    let lost: u64 = turn_rounds.iter().map(|it| it.sent - it.back).sum();
    let cell = format!("{p50:.0} / {p99:.0} / {p99_9:.0}");
    if lost > 0 { format!("{cell}, {lost} lost") } else { cell }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whose(peer: &str, round: u32) -> Whose {
        Whose { case: "128".into(), peer: peer.into(), round }
    }

    fn rate(peer: &str, round: u32, loss_free_pps: f64) -> Record {
        let whose = whose(peer, round);
        Record::Reflect(Result::Rate(Rate { whose, loss_free_pps, sender_bound: false, trials: 5 }))
    }

    #[test]
    fn a_row_has_all_that_was_measured_and_the_ratio_of_the_same_rounds() {
        let mut records = vec![
            rate("mcrd-xdp", 0, 600_000.0),
            rate("swapper", 0, 300_000.0),
            rate("mcrd-xdp", 1, 400_000.0),
            rate("swapper", 1, 400_000.0),
        ];
        records.push(Record::Reflect(Result::Bursts(Bursts {
            whose: whose("mcrd-xdp", 0),
            bursts: 20,
            whole: 19,
            sent: 40_000,
            back: 39_999,
        })));
        records.push(Record::Reflect(Result::TurnRound(TurnRound {
            whose: whose("mcrd-xdp", 0),
            offered_pps: 10_000.0,
            sent: 1000,
            back: 1000,
            p50_us: 20.4,
            p99_us: 50.0,
            p99_9_us: 90.0,
            max_us: 100.0,
        })));
        let idle = Idle { whose: whose("mcrd-xdp", 0), foreign_pps: 0.0, percent: 0.251 };
        records.push(Record::Reflect(Result::Idle(idle)));
        let text = of(&records);
        let row = "| mcrd reflect, AF_XDP (copy mode) | 600 | 500 | 400-600 | 1.50 (1.00-2.00) | 19 of 20 | 20 / 50 / 90 | 0.25 | 2 |\n";
        assert!(text.contains(row), "{text}");
        assert!(text.contains("| swapper: recvmmsg, sendmmsg | 400 | 350 | 300-400 | 1.00"), "{text}");
        assert!(!text.contains("AF_PACKET"), "what was not measured has no row: {text}");
    }

    #[test]
    fn a_frame_that_came_back_wrong_is_told_of() {
        let trial = Trial {
            whose: whose("swapper", 0),
            offered_pps: 1.0,
            sent: 9,
            seconds: 1.0,
            back: 8,
            late: 0,
            wrong: 1,
            out_of_turn: 0,
            tester_lost: 0,
            reached: true,
            cut_short: false,
            passed: false,
        };
        let text = of(&[rate("swapper", 0, 1000.0), Record::Reflect(Result::Trial(trial))]);
        assert!(text.contains("sendmmsg: 1 frames came back damaged"), "{text}");
    }
}
