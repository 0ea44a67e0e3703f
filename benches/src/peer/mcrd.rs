//! mcrd as a user runs it, with one worker and a rule for each stream.

use std::{path::Path, time::Duration};

use anyhow::{anyhow, bail, ensure};
use mcr_client::{Client, Options};
use mcr_lab::wait_until;
use mcr_proto::{
    message::{RuleState, WorkerState},
    rule::{Datapath, DatapathChoice, RuleSpec},
};
use tempfile::TempDir;

use super::process::Process;
use crate::{
    case::{self, Case},
    cores,
    lab::{Lab, output_name},
};

const START_WITHIN: Duration = Duration::from_secs(10);

pub(super) fn start(
    lab: &Lab,
    case: Case,
    bin_dir: &Path,
    datapath: Datapath,
    options: &[&str],
) -> anyhow::Result<Process> {
    let directory = TempDir::with_prefix("mcr-bench-")?;
    let socket = directory.path().join("mcrd.sock");
    let mut command = lab.line.relay.command(bin_dir.join("mcrd"));
    command
        .args(["run", "--with-parent", "--log", "warn", "--workers", "1", "--socket"])
        .arg(&socket)
        .args(options);
    let mut process = Process::start_in(directory, command)?;
    let mut client = connect(&mut process)?;
    for stream in 0..case.rules() {
        add(&mut client, case, stream, datapath)?;
    }
    // A worker pins itself to a core of those it was started with; this makes sure of all threads there are.
    cores::confine(process.id())?;
    Ok(process)
}

/// Waits until the worker runs.
fn connect(process: &mut Process) -> anyhow::Result<Client> {
    let socket = process.directory().join("mcrd.sock");
    let mut outcome = None;
    let waited = wait_until(START_WITHIN, "mcrd's worker runs", || {
        outcome = match process.check() {
            Ok(()) => running(&socket).map(Ok),
            Err(ended) => Some(Err(ended)),
        };
        outcome.is_some()
    });
    outcome.unwrap_or_else(|| Err(waited.err().map_or_else(|| anyhow!("mcrd does not answer"), Into::into)))
}

/// A client of a daemon whose workers all run.
fn running(socket: &Path) -> Option<Client> {
    let mut client = Client::connect(socket, Options::default()).ok()?;
    let workers = client.workers().ok()?;
    let all = !workers.is_empty() && workers.iter().all(|worker| worker.state == WorkerState::Running);
    all.then_some(client)
}

fn add(client: &mut Client, case: Case, stream: u16, datapath: Datapath) -> anyhow::Result<()> {
    let input = format!("{}:{}@in0", case::group(case::INPUT_BYTE, stream), case::INPUT_PORT);
    let to = case::group(case::OUTPUT_BYTE, stream);
    let outputs: Result<Vec<_>, _> = (0..case.outputs())
        .map(|output| format!("{to}:{}@{}", case::OUTPUT_PORT, output_name(output)).parse())
        .collect();
    let mut rule = RuleSpec::new(input.parse()?, outputs?);
    rule.datapath = match datapath {
        Datapath::Packet => DatapathChoice::Packet,
        Datapath::Udp => DatapathChoice::Udp,
        Datapath::Kernel => DatapathChoice::Kernel,
    };
    let added = client.rule_add(&rule)?.rule;
    if added.state != RuleState::Active {
        bail!("the rule for {input} is {:?}: {}", added.state, added.reason.unwrap_or_default());
    }
    ensure!(added.datapath == Some(datapath), "the rule for {input} is carried by {:?}", added.datapath);
    Ok(())
}
