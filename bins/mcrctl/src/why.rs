//! `why`: what would become of a datagram.

use std::io::{self, Write};

use mcr_proto::{
    message::{CounterValue, ExplainedOutput, ExplainedRule, Explanation, Verdict},
    probe::Probe,
    rpc::{WhyParams, method},
};

use crate::{
    failure::Failure,
    run::Session,
    text::{one_line, or_dash},
};

impl Session<'_> {
    pub(crate) fn why(&mut self, datagram: &str) -> Result<(), Failure> {
        let probe: Probe = datagram.parse().map_err(|error| Failure::Usage(format!("datagram: {error}")))?;
        let explanation: Explanation =
            self.call(method::RULE_WHY, &WhyParams { datagram: probe.to_string() })?;
        if self.cli.json { self.json(&explanation) } else { Ok(write(self.out, &explanation)?) }
    }
}

fn write(out: &mut dyn Write, explanation: &Explanation) -> io::Result<()> {
    let verdict = match explanation.verdict {
        Verdict::Relayed => "relayed",
        Verdict::Dropped => "dropped",
        Verdict::NoRule => "no rule",
    };
    writeln!(out, "{}\n{verdict}: {}", explanation.datagram, explanation.reason)?;
    for rule in &explanation.rules {
        write_rule(out, rule)?;
    }
    if explanation.rules_left_out > 0 {
        writeln!(out, "\n{} more rules take it", explanation.rules_left_out)?;
    }
    for obstacle in &explanation.obstacles {
        writeln!(out, "\nobstacle {}\n  why: {}", obstacle.what, obstacle.why)?;
        if let Some(fix) = &obstacle.fix {
            writeln!(out, "  fix: {fix}")?;
        }
    }
    if explanation.rules.is_empty() && !explanation.nearest.is_empty() {
        writeln!(out, "\nnearest rules")?;
        for near in &explanation.nearest {
            writeln!(out, "  {} ({}): {}", near.name, near.input, one_line(&near.differs.join("; ")))?;
        }
    }
    if !explanation.counters.is_empty() {
        writeln!(out, "\ncounters of the input")?;
        for CounterValue { name, value } in &explanation.counters {
            writeln!(out, "  {name} {value}")?;
        }
    }
    Ok(())
}

fn write_rule(out: &mut dyn Write, rule: &ExplainedRule) -> io::Result<()> {
    let who = rule.worker.map_or_else(|| "in the kernel".into(), |worker| format!("on worker {worker}"));
    let path = or_dash(rule.datapath);
    writeln!(out, "\nrule {} {who}, path {path} ({})", rule.name, rule.datapath_reason)?;
    writeln!(out, "  {}", counters(&rule.counters))?;
    for output in &rule.outputs {
        write_output(out, output)?;
    }
    if rule.outputs_left_out > 0 {
        writeln!(out, "  {} more outputs", rule.outputs_left_out)?;
    }
    Ok(())
}

fn write_output(out: &mut dyn Write, output: &ExplainedOutput) -> io::Result<()> {
    let fate = if output.sends { "sends" } else { "drops" };
    writeln!(out, "  {fate} > {}", output.output)?;
    if output.sends {
        let mut line = format!("    by {}", or_dash(output.interface.as_ref()));
        if let Some(hop) = output.next_hop {
            line += &format!(" via {hop}");
        }
        if let Some(mac) = &output.mac {
            line += &format!(" to {mac}");
        }
        if let Some(source) = &output.source {
            line += &format!(", source {}", source.strip_suffix(":0").unwrap_or(source));
        }
        line += &format!(
            ", ttl {}, dscp {}",
            or_dash(output.ttl),
            output.dscp.map_or_else(|| "kept".into(), |dscp| dscp.to_string())
        );
        writeln!(out, "{line}")?;
    }
    if let Some(drop) = &output.drop {
        writeln!(out, "    counts as {drop}")?;
    }
    if let Some(reason) = &output.reason {
        writeln!(out, "    {}", one_line(reason))?;
    }
    writeln!(out, "    {}", counters(&output.counters))
}

fn counters(counters: &[CounterValue]) -> String {
    let shown = counters.iter().map(|CounterValue { name, value }| format!("{name} {value}"));
    format!("so far: {}", shown.collect::<Vec<_>>().join(", "))
}
