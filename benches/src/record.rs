//! Results as lines of JSON: one for each trial, and one for what a search found, as the raw material of tables.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::reflect;

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(crate) enum Record {
    /// Where and how it was measured; the first line.
    Setup(Setup),
    /// How busy the two cores were before a round, with what is not measured.
    Load { round: u32, percent: f64 },
    /// A peer that could not be measured.
    Absent { case: String, peer: String, reason: String },
    /// One trial at a rate.
    Trial(Trial),
    /// What a search found.
    Rate(Rate),
    /// What a copy costs.
    Cost(Cost),
    /// How long datagrams take.
    Latency(Latency),
    /// What was delivered under more than can be carried.
    Overload(Overload),
    /// What foreign traffic costs.
    Foreign(Foreign),
    /// What a reflector did.
    Reflect(reflect::record::Result),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Setup {
    pub(crate) version: String,
    pub(crate) kernel: String,
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) trial_ms: u64,
    pub(crate) quick: bool,
    /// Receive steering (RPS) to the relay's core.
    pub(crate) steered: bool,
    /// Sent as XDP live frames.
    pub(crate) live: bool,
    /// Outputs take superframes whole.
    pub(crate) offload: bool,
}

/// Copies are those of all outputs together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Trial {
    pub(crate) case: String,
    pub(crate) peer: String,
    pub(crate) round: u32,
    pub(crate) offered_pps: f64,
    pub(crate) sent: u64,
    pub(crate) seconds: f64,
    pub(crate) copies_expected: u64,
    pub(crate) copies_received: u64,
    /// Of those received, the ones that came more than 10 ms after the end.
    pub(crate) copies_late: u64,
    /// At least 99 % of the offered rate was sent.
    pub(crate) reached: bool,
    /// Ended early, because more was lost than may be in the entire trial.
    pub(crate) cut_short: bool,
    pub(crate) passed: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Rate {
    pub(crate) case: String,
    pub(crate) peer: String,
    pub(crate) round: u32,
    /// Datagrams a second in; 0 if no rate was without loss.
    pub(crate) loss_free_pps: f64,
    /// Copies a second out.
    pub(crate) loss_free_copies: f64,
    pub(crate) sender_bound: bool,
    pub(crate) trials: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Cost {
    pub(crate) case: String,
    pub(crate) peer: String,
    pub(crate) round: u32,
    pub(crate) copies_received: u64,
    pub(crate) copies_expected: u64,
    pub(crate) seconds: f64,
    /// Time of the relay's core, whoever used it, for each copy.
    pub(crate) core_ns_per_copy: f64,
    /// Of it, time of the relay's own processes.
    pub(crate) process_ns_per_copy: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Latency {
    pub(crate) case: String,
    pub(crate) peer: String,
    pub(crate) round: u32,
    /// What the rate is: `1000`, `50000` or `half` of the loss-free rate.
    pub(crate) load: String,
    pub(crate) offered_pps: u64,
    pub(crate) reached: bool,
    pub(crate) sent: u64,
    pub(crate) received: u64,
    /// Of those not received, the ones that the receiver was too slow for.
    pub(crate) receiver_drops: u64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p99_9_us: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Overload {
    pub(crate) case: String,
    pub(crate) peer: String,
    pub(crate) round: u32,
    /// What the search of the same round found.
    pub(crate) loss_free_pps: f64,
    /// Twice as much, if the sender got so far.
    pub(crate) sent_pps: f64,
    /// Copies a second that came while it was sent.
    pub(crate) delivered_copies: f64,
    /// Of those of the loss-free rate.
    pub(crate) delivered_share: f64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Foreign {
    pub(crate) peer: String,
    pub(crate) round: u32,
    pub(crate) sent_pps: f64,
    /// Time of the relay's core for each foreign datagram.
    pub(crate) core_ns: f64,
    /// Of it, time of the relay's own processes.
    pub(crate) process_ns: f64,
}

/// Where lines go: each is written at once, so that what was measured outlasts whatever happens next.
#[derive(Debug, Default)]
pub(crate) struct Records {
    file: Option<File>,
    all: Vec<Record>,
}

impl Records {
    pub(crate) fn new(path: Option<&Path>) -> anyhow::Result<Self> {
        let create =
            |path: &Path| File::create(path).with_context(|| format!("cannot write {}", path.display()));
        Ok(Self { file: path.map(create).transpose()?, all: Vec::new() })
    }

    pub(crate) fn push(&mut self, record: Record) -> anyhow::Result<()> {
        if let Some(file) = &mut self.file {
            let mut line = serde_json::to_vec(&record)?;
            line.push(b'\n');
            file.write_all(&line).context("cannot write results")?;
        }
        self.all.push(record);
        Ok(())
    }

    pub(crate) fn all(&self) -> &[Record] {
        &self.all
    }
}

/// Reads what [`Records`] wrote.
pub(crate) fn read(path: &Path) -> anyhow::Result<Vec<Record>> {
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut records = Vec::new();
    for (number, line) in (1..).zip(BufReader::new(file).lines()) {
        let line = line.with_context(|| format!("cannot read {}", path.display()))?;
        if !line.trim().is_empty() {
            let record = serde_json::from_str(&line);
            records.push(record.with_context(|| format!("{}, line {number}", path.display()))?);
        }
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("results");
        let mut records = Records::new(Some(&path)).unwrap();
        records
            .push(Record::Absent {
                case: "1x1-1400".into(),
                peer: "socat".into(),
                reason: "not installed".into(),
            })
            .unwrap();
        let rate = Rate {
            case: "1x1-1400".into(),
            peer: "baseline".into(),
            round: 2,
            loss_free_pps: 250_000.5,
            loss_free_copies: 250_000.5,
            sender_bound: false,
            trials: 6,
        };
        records.push(Record::Rate(rate)).unwrap();
        assert_eq!(read(&path).unwrap(), records.all());
    }

    #[test]
    fn a_line_that_is_no_result_is_named_by_its_number() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("results");
        std::fs::write(&path, "\n{\"kind\":\"guess\"}\n").unwrap();
        assert!(format!("{:#}", read(&path).unwrap_err()).contains("line 2"));
    }
}
