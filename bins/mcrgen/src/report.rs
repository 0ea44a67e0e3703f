//! Reports and live lines for people.

use std::fmt::Write as _;

use mcr_gen::{Progress, RecvReport, SendReport};

/// Flows that a text report shows; JSON has all.
const FLOWS_SHOWN: usize = 20;

pub(crate) fn sent(report: &SendReport) -> String {
    let mut out = format!(
        "sent          {} datagrams, {}B in {:.3} s\nrate          {}\n",
        grouped(report.sent),
        scaled(report.bytes as f64),
        report.seconds,
        rate(report.rate_pps, report.rate_bps),
    );
    if let Some(offered) = report.offered_pps.filter(|_| !report.rate_reached) {
        let _ = writeln!(
            out,
            "not reached   {} datagrams/s were asked for; this sender was too slow",
            grouped(offered)
        );
    }
    if report.retries > 0 {
        let _ = writeln!(
            out,
            "retries       {} (the kernel had no room, and took it later)",
            grouped(report.retries)
        );
    }
    if report.refused > 0 {
        let _ = writeln!(
            out,
            "refused       {} (a host answered that nobody listens there)",
            grouped(report.refused)
        );
    }
    if report.flows.len() > 1 {
        let _ = writeln!(out, "flows         {}", grouped(report.flows.len() as u64));
    }
    out
}

pub(crate) fn received(report: &RecvReport) -> String {
    let mut out = format!(
        "received      {} datagrams, {}B in {:.3} s\nrate          {}\n",
        grouped(report.received),
        scaled(report.bytes as f64),
        report.seconds,
        rate(report.rate_pps, report.rate_bps),
    );
    let known_sent = report.received + report.lost;
    let share = if known_sent > 0 { report.lost as f64 * 100.0 / known_sent as f64 } else { 0.0 };
    let _ = writeln!(out, "lost          {} ({share:.4} %)", grouped(report.lost));
    for (name, count) in [
        ("duplicates", report.duplicates),
        ("reordered", report.reordered),
        ("corrupt", report.corrupt),
        ("foreign", report.foreign),
    ] {
        let _ = writeln!(out, "{name:<13} {}", grouped(count));
    }
    for (name, count) in [("late", report.late), ("untracked", report.untracked)] {
        if count > 0 {
            let _ = writeln!(out, "{name:<13} {}", grouped(count));
        }
    }
    if report.kernel_drops > 0 {
        let _ = writeln!(
            out,
            "kernel drops  {} (this receiver was too slow for its buffer of {}B; raise net.core.rmem_max)",
            grouped(report.kernel_drops),
            scaled(report.rcvbuf_bytes as f64),
        );
    }
    if let Some(us) = report.latency_us {
        let _ = writeln!(
            out,
            "latency us    min {:.1}  mean {:.1}  p50 {:.1}  p90 {:.1}  p99 {:.1}  p99.9 {:.1}  max {:.1}",
            us.min, us.mean, us.p50, us.p90, us.p99, us.p99_9, us.max,
        );
    }
    if report.flows.len() > 1 {
        write_flows(&mut out, report);
    }
    out
}

fn write_flows(out: &mut String, report: &RecvReport) {
    let widest = report.flows.iter().take(FLOWS_SHOWN).map(|flow| flow.sender.to_string().len()).max();
    let width = widest.unwrap_or(0).max("sender".len());
    let _ = writeln!(
        out,
        "\n{:>6}  {:<width$}  {:>12} {:>10} {:>10} {:>10} {:>8}",
        "flow", "sender", "received", "lost", "duplicates", "reordered", "corrupt",
    );
    for flow in report.flows.iter().take(FLOWS_SHOWN) {
        let _ = writeln!(
            out,
            "{:>6}  {:<width$}  {:>12} {:>10} {:>10} {:>10} {:>8}",
            flow.flow,
            flow.sender.to_string(),
            grouped(flow.received),
            grouped(flow.lost),
            grouped(flow.duplicates),
            grouped(flow.reordered),
            grouped(flow.corrupt),
        );
    }
    if let Some(more) = report.flows.len().checked_sub(FLOWS_SHOWN).filter(|more| *more > 0) {
        let _ = writeln!(out, "and {more} more; --json has them all");
    }
}

/// One line about a run under way, which did `rate_pps` lately.
pub(crate) fn live(word: &str, progress: &Progress, rate_pps: f64) -> String {
    let mut line =
        format!("{word} {}  {}/s", grouped(progress.datagrams()), grouped(rate_pps.round() as u64));
    for (name, count) in [("lost", progress.lost()), ("retries", progress.retries())] {
        if count > 0 {
            let _ = write!(line, "  {name} {}", grouped(count));
        }
    }
    line
}

fn rate(pps: f64, bps: f64) -> String {
    let pps = if pps < 100.0 { format!("{pps:.1}") } else { grouped(pps.round() as u64) };
    format!("{pps} datagrams/s, {}bit/s of payload", scaled(bps))
}

/// 1234567 as 1,234,567.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// With an SI prefix, before a unit.
fn scaled(number: f64) -> String {
    let steps = [(1e9, "G"), (1e6, "M"), (1e3, "k")];
    match steps.iter().find(|(step, _)| number >= *step) {
        Some((step, prefix)) => format!("{:.2} {prefix}", number / step),
        None => format!("{number:.0} "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_numbers_are_grouped_by_three() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn large_amounts_get_a_prefix() {
        assert_eq!([0.0, 999.0, 1500.0, 2.5e9].map(scaled), ["0 ", "999 ", "1.50 k", "2.50 G"]);
    }
}
