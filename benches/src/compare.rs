//! `compare`: two builds of mcrd in turn, A B A B. What disturbs the machine disturbs both of a pair, so the ratios of pairs say more
//! than the numbers themselves.

use std::{fmt::Write as _, fs::File, io::Write as _};

use anyhow::Context as _;
use serde::Serialize;

use crate::{
    args::{Compare, Measure, Peers, SenderKind},
    case::Case,
    cores, interrupt,
    peer::Peer,
    record::Record,
    rounds::Rounds,
    run::{Bench, Turn},
    statistics::{Summary, ratios},
};

/// One line of results: what a build did, or how the two compare.
#[derive(Serialize)]
#[serde(untagged)]
enum Line<'a> {
    Of {
        build: &'static str,
        #[serde(flatten)]
        record: &'a Record,
    },
    Ratio(&'a Ratio),
}

/// How B compares to A, over the pairs of one peer in one case.
#[derive(Debug, PartialEq, Serialize)]
struct Ratio {
    kind: &'static str,
    case: String,
    peer: String,
    /// `loss_free_copies`, of which more is better, or `core_ns_per_copy`, of which less is.
    what: &'static str,
    pairs: usize,
    a_median: f64,
    b_median: f64,
    ratio_min: f64,
    ratio_median: f64,
    ratio_max: f64,
}

/// Measures, writes lines, prints ratios.
pub(crate) fn run(args: &Compare) -> anyhow::Result<()> {
    interrupt::arm()?;
    let _cores = cores::take()?;
    cores::pin(cores::watcher())?;
    let of = |bin_dir: &std::path::Path| Peers {
        common: Rounds { rounds: args.rounds, minutes: None, json: None, bin_dir: Some(bin_dir.to_owned()) },
        quick: args.quick,
        trial_ms: args.trial_ms,
        peers: args.peers.clone(),
        cases: args.cases.clone(),
        measure: vec![Measure::Rate, Measure::Cost],
        fixed_rounds: None,
        sender: SenderKind::Packet,
        no_steering: false,
        offload: false,
    };
    let (a, b) = (of(&args.a), of(&args.b));
    let mut builds = [("a", Bench::new(&a)?), ("b", Bench::new(&b)?)];
    let mut written = [0; 2];
    let create = |path: &std::path::PathBuf| {
        File::create(path).with_context(|| format!("cannot write {}", path.display()))
    };
    let mut file = args.json.as_ref().map(create).transpose()?;
    for round in 0..args.rounds {
        for (&case, &peer) in
            args.cases.iter().flat_map(|case| args.peers.iter().map(move |peer| (case, peer)))
        {
            for ((build, bench), written) in builds.iter_mut().zip(&mut written) {
                eprint!("{build} ");
                bench.turn(Turn { case, peer, round })?;
                for record in &bench.records()[*written..] {
                    write_line(&mut file, &Line::Of { build, record })?;
                }
                *written = bench.records().len();
            }
        }
    }
    let [(_, a), (_, b)] = &builds;
    let all = all(a.records(), b.records(), args);
    for ratio in &all {
        write_line(&mut file, &Line::Ratio(ratio))?;
    }
    print!("{}", table(&all));
    Ok(())
}

fn write_line(file: &mut Option<File>, line: &Line<'_>) -> anyhow::Result<()> {
    let Some(file) = file else { return Ok(()) };
    let mut bytes = serde_json::to_vec(line)?;
    bytes.push(b'\n');
    file.write_all(&bytes).context("cannot write results")
}

fn all(a: &[Record], b: &[Record], args: &Compare) -> Vec<Ratio> {
    let mut all = Vec::new();
    for &case in &args.cases {
        for &peer in &args.peers {
            for what in ["loss_free_copies", "core_ns_per_copy"] {
                let [a, b] = [a, b].map(|records| values(records, case, peer, what));
                let middle = |values: &[(u32, f64)]| Summary::of(values.iter().map(|(_, value)| *value));
                if let (Some(ratio), Some(a), Some(b)) = (ratios(&b, &a), middle(&a), middle(&b)) {
                    all.push(Ratio {
                        kind: "ratio",
                        case: case.name().into(),
                        peer: peer.name().into(),
                        what,
                        pairs: ratio.rounds,
                        a_median: a.median,
                        b_median: b.median,
                        ratio_min: ratio.min,
                        ratio_median: ratio.median,
                        ratio_max: ratio.max,
                    });
                }
            }
        }
    }
    all
}

/// Each round's value.
fn values(records: &[Record], case: Case, peer: Peer, what: &str) -> Vec<(u32, f64)> {
    let ours = |at_case: &str, at_peer: &str| (at_case, at_peer) == (case.name(), peer.name());
    let value = |record: &Record| match record {
        Record::Rate(rate) if what == "loss_free_copies" && ours(&rate.case, &rate.peer) => {
            Some((rate.round, rate.loss_free_copies))
        }
        Record::Cost(cost) if what == "core_ns_per_copy" && ours(&cost.case, &cost.peer) => {
            Some((cost.round, cost.core_ns_per_copy))
        }
        _ => None,
    };
    records.iter().filter_map(value).collect()
}

fn table(ratios: &[Ratio]) -> String {
    let mut text = String::from(
        "| case | peer | what | A, median | B, median | B / A, median | of all pairs |\n|---|---|---|---|---|---|---|\n",
    );
    for ratio in ratios {
        let Ratio { case, peer, what, pairs, a_median, b_median, ratio_min, ratio_median, ratio_max, .. } =
            ratio;
        let _ = writeln!(
            text,
            "| {case} | {peer} | {what} | {a_median:.0} | {b_median:.0} | {ratio_median:.3} | {ratio_min:.3} to {ratio_max:.3} ({pairs}) |"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::record::Rate;

    fn rate(round: u32, copies: f64) -> Record {
        Record::Rate(Rate {
            case: Case::One.name().into(),
            peer: Peer::McrdPacket.name().into(),
            round,
            loss_free_pps: copies,
            loss_free_copies: copies,
            sender_bound: false,
            trials: 1,
        })
    }

    #[test]
    fn pairs_are_of_one_round_and_the_ratio_is_that_of_the_second_build_to_the_first() {
        let args = Compare {
            a: PathBuf::new(),
            b: PathBuf::new(),
            rounds: 3,
            quick: true,
            trial_ms: 100,
            json: None,
            peers: vec![Peer::McrdPacket, Peer::McrdUdp],
            cases: vec![Case::One],
        };
        let a = [rate(0, 100.0), rate(1, 200.0), rate(2, 400.0)];
        let b = [rate(0, 110.0), rate(1, 180.0), rate(2, 400.0)];
        let all = all(&a, &b, &args);
        let [ratio] = &all[..] else { panic!("{all:?}") };
        assert_eq!((ratio.pairs, ratio.a_median, ratio.b_median), (3, 200.0, 180.0));
        assert_eq!((ratio.ratio_min, ratio.ratio_median, ratio.ratio_max), (0.9, 1.0, 1.1));
        assert!(table(&all).contains("| 1.000 | 0.900 to 1.100 (3) |"), "{}", table(&all));
    }

    #[test]
    fn a_line_says_which_build_it_is_of() {
        let record = rate(0, 1.0);
        let line = serde_json::to_string(&Line::Of { build: "a", record: &record }).unwrap();
        assert!(line.starts_with(r#"{"build":"a","kind":"rate""#), "{line}");
    }
}
