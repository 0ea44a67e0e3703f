//! From survey and facts to findings. Pure.

mod filter;
mod host;
mod interfaces;
mod rules;

use mcr_proto::message::{Diagnosis, Finding, Severity};

use crate::{facts::Facts, survey::Survey};

pub use filter::obstacles;

/// Everything that is wrong, worst first.
pub fn diagnose(survey: &Survey, facts: &Facts) -> Diagnosis {
    let mut findings = Vec::new();
    host::check(survey, facts, &mut findings);
    interfaces::check(survey, facts, &mut findings);
    rules::check(survey, facts, &mut findings);
    filter::check(survey, facts, &mut findings);
    let rules = u32::try_from(survey.rules.len()).unwrap_or(u32::MAX);
    let mut diagnosis = Diagnosis { findings, left_out: 0, unknown: facts.unknown.clone(), rules };
    diagnosis.settle();
    diagnosis
}

fn found(check: &str, severity: Severity, subject: &str, what: String, why: &str) -> Finding {
    Finding {
        check: check.into(),
        severity,
        subject: subject.into(),
        what,
        why: why.into(),
        fix: None,
        advice: None,
    }
}

/// A finding with the command that mends it.
fn mended(finding: Finding, command: String) -> Finding {
    Finding { fix: Some(command), ..finding }
}

/// A finding with what to do about it.
fn advised(finding: Finding, advice: impl Into<String>) -> Finding {
    Finding { advice: Some(advice.into()), ..finding }
}

/// A word for a shell.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:@,+=%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Some of them by name, and how many more.
fn some<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    const SHOWN: usize = 4;
    let names: Vec<_> = names.into_iter().collect();
    let shown = names.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests;
