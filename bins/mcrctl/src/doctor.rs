//! `doctor`: what the daemon finds wrong with its host, or what can be seen from here if there is no daemon.

use std::{
    io::{self, Write},
    time::Duration,
};

use mcr_client::ClientError;
use mcr_doctor::{Facts, Survey, diagnose};
use mcr_netmon::Monitor;
use mcr_proto::{
    message::{Diagnosis, Finding, Severity},
    rpc::method,
};
use serde::Serialize;
use serde_json::json;

use crate::{failure::Failure, run::Session, text::one_line};

/// For how long the host's counters are watched where there is no daemon to ask.
const WATCH: Duration = Duration::from_millis(400);

/// A diagnosis, and whose it is.
#[derive(Serialize)]
struct Shown {
    /// False if no daemon was reached.
    daemon: bool,
    #[serde(flatten)]
    diagnosis: Diagnosis,
}

impl Session<'_> {
    pub(crate) fn doctor(&mut self) -> Result<(), Failure> {
        let shown = match self.call::<Diagnosis>(method::DOCTOR_RUN, &json!({})) {
            Ok(diagnosis) => Shown { daemon: true, diagnosis },
            Err(Failure::Client(error @ ClientError::Unreachable { .. })) => {
                Shown { daemon: false, diagnosis: without_daemon(&error)? }
            }
            Err(failure) => return Err(failure),
        };
        if self.cli.json {
            self.json(&shown)?;
        } else {
            write(self.out, &shown)?;
        }
        let errors = count(&shown.diagnosis, Severity::Error);
        if errors == 0 {
            return Ok(());
        }
        let problems = if errors == 1 { "problem" } else { "problems" };
        Err(Failure::Failed(format!("{errors} {problems} of severity error")))
    }
}

/// What can be seen from here: this process's network namespace, with this process's rights.
fn without_daemon(error: &ClientError) -> Result<Diagnosis, Failure> {
    let monitor = Monitor::open()
        .map_err(|error| Failure::Failed(format!("cannot read the network's state: {error}")))?;
    let survey = Survey::of_host(monitor.snapshot());
    let mut diagnosis = diagnose(&survey, &Facts::gather(&survey, WATCH));
    diagnosis.findings.push(Finding {
        check: "daemon".into(),
        severity: Severity::Error,
        subject: "mcrd".into(),
        what: error.to_string(),
        why: "nothing is relayed, and what follows was seen without knowing the rules".into(),
        fix: None,
        advice: Some(
            "start it (`systemctl start mcrd`, or `mcrd run`), or name its socket with --socket".into(),
        ),
    });
    diagnosis.settle();
    Ok(diagnosis)
}

fn count(diagnosis: &Diagnosis, severity: Severity) -> usize {
    diagnosis.findings.iter().filter(|finding| finding.severity == severity).count()
}

fn write(out: &mut dyn Write, shown: &Shown) -> io::Result<()> {
    let Shown { daemon, diagnosis } = shown;
    for finding in &diagnosis.findings {
        writeln!(out, "{:<8} {}", finding.severity, one_line(&finding.what))?;
        let mut line = |name: &str, text: &str| writeln!(out, "         {name}: {}", one_line(text));
        line("where", &format!("{} ({})", finding.subject, finding.check))?;
        line("why", &finding.why)?;
        if let Some(fix) = &finding.fix {
            line("fix", fix)?;
        }
        if let Some(advice) = &finding.advice {
            line("do", advice)?;
        }
        writeln!(out)?;
    }
    for unknown in &diagnosis.unknown {
        writeln!(out, "not seen {}", one_line(unknown))?;
    }
    if diagnosis.left_out > 0 {
        writeln!(out, "{} more findings, none worse than these", diagnosis.left_out)?;
    }
    let found = [Severity::Error, Severity::Warning, Severity::Info]
        .map(|severity| (count(diagnosis, severity), severity));
    let found: Vec<_> = found
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, severity)| format!("{count} {severity}"))
        .collect();
    let found = if found.is_empty() { "nothing found wrong".into() } else { found.join(", ") };
    let rules = match diagnosis.rules {
        _ if !daemon => "seen without a daemon".into(),
        1 => "1 rule looked at".into(),
        rules => format!("{rules} rules looked at"),
    };
    writeln!(out, "{found}; {rules}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_says_what_where_why_and_how_to_mend_it() {
        let finding = Finding {
            check: "interface_down".into(),
            severity: Severity::Error,
            subject: "eth0".into(),
            what: "eth0 is down".into(),
            why: "rules that wait for it: video".into(),
            fix: Some("ip link set dev eth0 up".into()),
            advice: None,
        };
        let diagnosis = Diagnosis { findings: vec![finding], rules: 2, ..Diagnosis::default() };
        let mut out = Vec::new();
        write(&mut out, &Shown { daemon: true, diagnosis }).expect("memory");
        assert_eq!(
            String::from_utf8(out).expect("text"),
            "error    eth0 is down\n         where: eth0 (interface_down)\n         why: rules that wait for it: video\n         \
             fix: ip link set dev eth0 up\n\n1 error; 2 rules looked at\n"
        );
    }
}
