//! A peer that is a program: started on the relay's core, ended when dropped.

use std::{
    fs::{self, File},
    io,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, bail};
use mcr_lab::wait_until;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

use crate::cores;

/// How long a program may take to end after it was asked to.
const STOP_WITHIN: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    name: String,
    // Holds what it says, and whatever it needs files for.
    directory: TempDir,
}

impl Process {
    pub(crate) fn start(command: Command) -> anyhow::Result<Self> {
        Self::start_in(TempDir::with_prefix("mcr-bench-")?, command)
    }

    /// As [`Process::start`], with a directory that is removed when the process has ended.
    pub(crate) fn start_in(directory: TempDir, mut command: Command) -> anyhow::Result<Self> {
        let name =
            Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
        let log = File::create(log_path(&directory)).context("cannot write to a temporary directory")?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = match cores::on_relay_core(|| command.spawn())? {
            Ok(child) => child,
            Err(error) if error.kind() == io::ErrorKind::NotFound => bail!("{name} is not installed"),
            Err(error) => bail!("cannot start {name}: {error}"),
        };
        Ok(Self { child, name, directory })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Fails if it has ended, with the last line it has said.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        let Some(status) = self.child.try_wait()? else { return Ok(()) };
        let said = fs::read_to_string(log_path(&self.directory)).unwrap_or_default();
        bail!("{} has ended ({status}): {}", self.name, said.lines().last().unwrap_or("it said nothing"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let ended = |child: &mut Child| child.try_wait().is_ok_and(|status| status.is_some());
        if !ended(&mut self.child) {
            let _ = kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM);
            let _ = wait_until(STOP_WITHIN, "it has ended", || ended(&mut self.child));
        }
        // Does nothing to one that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn log_path(directory: &TempDir) -> std::path::PathBuf {
    directory.path().join("log")
}
