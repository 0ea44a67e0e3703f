//! What `doctor` finds and what `why` answers. Plain values: they travel between processes and to clients as they are.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::rule::{Datapath, RuleId, RuleName};

/// Findings that one diagnosis holds at most; further ones are counted.
pub const FINDINGS_MAX: usize = 200;
/// Rules of one kind (those that match, those that nearly do) that an explanation holds at most; further ones are counted.
pub const EXPLAINED_RULES_MAX: usize = 16;
/// Outputs of one rule that an explanation holds at most; further ones are counted.
pub const EXPLAINED_OUTPUTS_MAX: usize = 32;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Datagrams are lost, or a rule does not relay.
    Error,
    /// That may come, or relaying is slower than it could be.
    Warning,
    /// Worth knowing.
    Info,
}

impl std::fmt::Display for Severity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
        })
    }
}

/// Something on the host that breaks or slows relaying.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Which check found it, as in `rp_filter`; stable.
    pub check: String,
    /// How bad it is.
    pub severity: Severity,
    /// What it is about: an interface, a rule, a program; `host` if the whole of it.
    pub subject: String,
    /// What is so.
    pub what: String,
    /// Why that matters.
    pub why: String,
    /// A command for a shell of the daemon's host that mends it as it stands; null where no single command can.
    pub fix: Option<String>,
    /// What to do, where there is no such command.
    pub advice: Option<String>,
}

/// What a diagnosis came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diagnosis {
    /// Worst first.
    pub findings: Vec<Finding>,
    /// Findings that there was no room for, none of them worse than those that are there.
    pub left_out: u32,
    /// What could not be looked at, and why.
    pub unknown: Vec<String>,
    /// Rules that were looked at.
    pub rules: u32,
}

impl Diagnosis {
    /// Puts the worst findings first and leaves out those beyond [`FINDINGS_MAX`].
    pub fn settle(&mut self) {
        self.findings.sort_by(|one, other| {
            let key = |finding: &Finding| (finding.severity, finding.check.clone(), finding.subject.clone());
            key(one).cmp(&key(other))
        });
        let over = self.findings.len().saturating_sub(FINDINGS_MAX);
        self.findings.truncate(FINDINGS_MAX);
        self.left_out = self.left_out.saturating_add(u32::try_from(over).unwrap_or(u32::MAX));
    }

    /// Whether anything is broken.
    pub fn has_errors(&self) -> bool {
        self.findings.iter().any(|finding| finding.severity == Severity::Error)
    }
}

/// What would become of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// At least one output would send it.
    Relayed,
    /// A rule takes it and no output would send it, or it ends at the input.
    Dropped,
    /// No rule takes it.
    NoRule,
}

/// What would become of a datagram, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The datagram that was asked for, in canonical form.
    pub datagram: String,
    /// What would become of it.
    pub verdict: Verdict,
    /// Why, in a sentence.
    pub reason: String,
    /// The rules that take it.
    pub rules: Vec<ExplainedRule>,
    /// Rules that take it beyond those.
    pub rules_left_out: u32,
    /// The rules that nearly do, the nearest first.
    pub nearest: Vec<NearRule>,
    /// What on this host may keep it from the relay.
    pub obstacles: Vec<Finding>,
    /// The counters of the input that speak of datagrams like it, as they stand.
    pub counters: Vec<CounterValue>,
}

/// A rule that takes the datagram.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainedRule {
    /// The daemon's number.
    pub id: RuleId,
    /// Its name.
    pub name: RuleName,
    /// The worker that carries it; null where the kernel does it alone.
    pub worker: Option<u16>,
    /// The data path.
    pub datapath: Option<Datapath>,
    /// Why this one.
    pub datapath_reason: String,
    /// What each output does, in the order of the rule.
    pub outputs: Vec<ExplainedOutput>,
    /// Outputs beyond those.
    pub outputs_left_out: u32,
    /// Its counters, as they stand.
    pub counters: Vec<CounterValue>,
}

/// What an output does with the datagram.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainedOutput {
    /// The output, in canonical form.
    pub output: String,
    /// Whether a copy leaves.
    pub sends: bool,
    /// The counter that a copy which does not leave ends in.
    pub drop: Option<String>,
    /// Why none leaves.
    pub reason: Option<String>,
    /// The interface it leaves by.
    pub interface: Option<String>,
    /// Its source address and port; port 0 stands for one that the kernel chooses.
    pub source: Option<String>,
    /// Its destination address and port.
    pub destination: String,
    /// The next hop on the link, if not the destination itself.
    pub next_hop: Option<IpAddr>,
    /// The link-layer address it goes to.
    pub mac: Option<String>,
    /// Its TTL or hop limit.
    pub ttl: Option<u8>,
    /// Its DSCP.
    pub dscp: Option<u8>,
    /// Its counters, as they stand.
    pub counters: Vec<CounterValue>,
}

/// A rule that does not take the datagram.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NearRule {
    /// The daemon's number.
    pub id: RuleId,
    /// Its name.
    pub name: RuleName,
    /// Its input, in canonical form.
    pub input: String,
    /// What keeps it from taking the datagram.
    pub differs: Vec<String>,
}

/// A counter by name, as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterValue {
    /// As in `mcrctl stats`.
    pub name: String,
    /// Its value.
    pub value: u64,
}
