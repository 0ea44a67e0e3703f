//! The daemon: `mcrd run`, as a user would start it, but for a socket of its own.

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use mcr_client::Client;
use mcr_proto::{
    message::RuleState,
    rpc::{RuleAdded, RuleStats},
    rule::RuleSpec,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

use crate::{DemoError, stage::Stage};

/// How long it may take to start, and to stop.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct Daemon {
    process: Child,
    client: Client,
    // Holds the socket; removed with it.
    _directory: TempDir,
}

/// Starts the daemon and connects to it.
pub(crate) fn start(stage: &Stage) -> Result<Daemon, DemoError> {
    let directory =
        TempDir::with_prefix("mcr-demo-").map_err(|error| DemoError::part("make a directory", error))?;
    let socket = directory.path().join("mcrd.sock");
    let mut command = match stage.relay() {
        Some(relay) => relay.command("/proc/self/exe"),
        None => Command::new("/proc/self/exe"),
    };
    command.args(["run", "--workers", "1", "--log", "warn", "--with-parent", "--socket"]).arg(&socket);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let mut process = command.spawn().map_err(|error| DemoError::part("start mcrd run", error))?;
    match connect(&mut process, &socket) {
        Ok(client) => Ok(Daemon { process, client, _directory: directory }),
        Err(error) => {
            end(&mut process);
            Err(error)
        }
    }
}

fn connect(process: &mut Child, socket: &PathBuf) -> Result<Client, DemoError> {
    let started = Instant::now();
    loop {
        match Client::connect(socket, mcr_client::Options::default()) {
            Ok(client) => return Ok(client),
            Err(error) if started.elapsed() >= PATIENCE => {
                return Err(DemoError::part("connect to mcrd", error));
            }
            Err(_) => {}
        }
        if let Ok(Some(status)) = process.try_wait() {
            return Err(DemoError::part("start mcrd run", status));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

impl Daemon {
    /// Adds the rule and makes sure that it relays. A daemon that has only just started says that its worker is busy.
    pub(crate) fn add(&mut self, rule: RuleSpec) -> Result<RuleAdded, DemoError> {
        let started = Instant::now();
        loop {
            match self.client.rule_add(&rule) {
                Ok(added) if added.rule.state == RuleState::Active => return Ok(added),
                Ok(added) => {
                    return Err(DemoError::part("add the rule", added.rule.reason.unwrap_or_default()));
                }
                Err(error) if started.elapsed() >= PATIENCE => {
                    return Err(DemoError::part("add the rule", error));
                }
                Err(_) => {}
            }
        }
    }

    /// What the daemon counted.
    pub(crate) fn rule_stats(&mut self) -> Result<RuleStats, DemoError> {
        let stats = self.client.stats(None).map_err(|error| DemoError::part("read the counters", error))?;
        stats.rules.into_iter().next().ok_or_else(|| DemoError::part("read the counters", "the rule is gone"))
    }

    /// Stops the daemon, which must end content.
    pub(crate) fn stop(mut self) -> Result<(), DemoError> {
        let status = end(&mut self.process)
            .ok_or_else(|| DemoError::part("stop mcrd run", "it did not stop in time"))?;
        if status.success() { Ok(()) } else { Err(DemoError::part("stop mcrd run", status)) }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        end(&mut self.process);
    }
}

/// Ends a process in order, or else at once; none if it had to be killed.
fn end(process: &mut Child) -> Option<std::process::ExitStatus> {
    let started = Instant::now();
    let pid = i32::try_from(process.id()).ok()?;
    if let Ok(Some(status)) = process.try_wait() {
        return Some(status);
    }
    // Not reaped yet, so the pid is still this child's.
    let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    while started.elapsed() < PATIENCE {
        if let Ok(Some(status)) = process.try_wait() {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let _ = process.kill();
    let _ = process.wait();
    None
}
