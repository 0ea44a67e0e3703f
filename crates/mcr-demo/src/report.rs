//! What came of it, for people and for programs.

use comfy_table::{Table, presets};
use mcr_proto::{
    rpc::{RuleAdded, RuleStats},
    rule::Datapath,
};
use serde::Serialize;

use crate::{DemoError, stage::Stage, traffic::Traffic};

/// What came of it. Serialises to the object that `--json` ends with.
#[derive(Debug, Serialize)]
pub(crate) struct Outcome {
    /// Datagrams sent.
    sent: u64,
    /// Datagrams that came out at every output.
    relayed: u64,
    /// Copies that should have come and did not, over all outputs.
    lost: u64,
    /// Copies that came again.
    duplicated: u64,
    /// Copies that were not as they were sent.
    corrupt: u64,
    /// Datagrams a second at the sender.
    rate_pps: f64,
    /// From sender to receiver, over all outputs.
    latency_us: Latency,
    /// The data path used.
    datapath: Option<Datapath>,
    /// Datagrams that the daemon says it matched.
    matched: u64,
    /// Each output.
    outputs: Vec<OutputOutcome>,
}

#[derive(Debug, Clone, Copy, Default, Serialize)]
struct Latency {
    p50: f64,
    p99: f64,
    max: f64,
}

#[derive(Debug, Serialize)]
struct OutputOutcome {
    output: String,
    /// What the daemon says it sent.
    copies: u64,
    received: u64,
    lost: u64,
    duplicated: u64,
    corrupt: u64,
    rate_pps: f64,
    latency_us: Latency,
}

impl Outcome {
    pub(crate) fn new(stage: &Stage, rule: &RuleAdded, traffic: Traffic, counted: RuleStats) -> Self {
        let Traffic { sent, received } = traffic;
        let outputs: Vec<_> = stage
            .rule
            .outputs
            .iter()
            .zip(&received)
            .zip(&counted.outputs)
            .map(|((output, report), counted)| OutputOutcome {
                output: output.to_string(),
                copies: counted.copies,
                received: report.received,
                lost: report.missing_of(&sent),
                duplicated: report.duplicates,
                corrupt: report.corrupt,
                rate_pps: report.rate_pps,
                latency_us: report.latency_us.map_or_else(Latency::default, |latency| Latency {
                    p50: latency.p50,
                    p99: latency.p99,
                    max: latency.max,
                }),
            })
            .collect();
        // The slower output's percentiles: those of both together cannot be had from these.
        let worst =
            |of: fn(&Latency) -> f64| outputs.iter().map(|output| of(&output.latency_us)).fold(0.0, f64::max);
        Self {
            sent: sent.sent,
            relayed: outputs.iter().map(|output| output.received).min().unwrap_or(0),
            lost: outputs.iter().map(|output| output.lost).sum(),
            duplicated: outputs.iter().map(|output| output.duplicated).sum(),
            corrupt: outputs.iter().map(|output| output.corrupt).sum(),
            rate_pps: sent.rate_pps,
            latency_us: Latency { p50: worst(|l| l.p50), p99: worst(|l| l.p99), max: worst(|l| l.max) },
            datapath: rule.rule.datapath,
            matched: counted.datagrams,
            outputs,
        }
    }

    pub(crate) fn json(&self) -> String {
        serde_json::to_string(self).expect("plain data")
    }

    pub(crate) fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED);
        table.set_header([
            "output",
            "sent",
            "relayed",
            "lost",
            "twice",
            "per second",
            "p50 us",
            "p99 us",
            "max us",
        ]);
        for output in &self.outputs {
            table.add_row([
                output.output.clone(),
                self.sent.to_string(),
                output.received.to_string(),
                output.lost.to_string(),
                output.duplicated.to_string(),
                format!("{:.0}", output.rate_pps),
                format!("{:.0}", output.latency_us.p50),
                format!("{:.0}", output.latency_us.p99),
                format!("{:.0}", output.latency_us.max),
            ]);
        }
        let path = self.datapath.map_or_else(|| "none".to_owned(), |path| path.to_string());
        format!("{table}\ndata path: {path}; the daemon counted {} datagrams in", self.matched)
    }

    /// Fails unless every datagram came out everywhere, once and whole.
    pub(crate) fn verdict(&self) -> Result<(), DemoError> {
        let Self { lost, duplicated, corrupt, .. } = *self;
        let expected = self.sent * self.outputs.len() as u64;
        if self.sent > 0 && lost + duplicated + corrupt == 0 {
            return Ok(());
        }
        Err(DemoError::Imperfect { expected, lost, duplicated, corrupt })
    }
}
