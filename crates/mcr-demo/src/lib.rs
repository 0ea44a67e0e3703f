//! `mcrd demo`: the relay at work with nothing configured and no rights.
//!
//! Real all through: namespaces with veth pairs between them, `mcrd run` with its control process and worker, a rule added
//! over the control socket, the traffic generator's sender and receivers. Nothing of the host is touched, nothing is left.
//! Where namespaces are forbidden, the same runs over loopback by the `udp` data path, and says so.
#![forbid(unsafe_code)]

mod daemon;
mod report;
mod stage;
mod traffic;

use std::{
    io::{self, Write},
    process::Command,
};

use mcr_lab::LabError;

use crate::{report::Outcome, stage::Stage};

/// What to show.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How long to send.
    pub seconds: u32,
    /// End with a JSON object instead of a table.
    pub json: bool,
    /// Which network to use.
    pub network: Network,
}

/// Which network the demo uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// Namespaces if they can be had, else loopback.
    Auto,
    /// Namespaces of its own.
    Namespaces,
    /// The host's loopback interface.
    Loopback,
}

impl Network {
    /// The argument of the hidden option `--network` that asks for it.
    pub fn argument(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Namespaces => "namespaces",
            Self::Loopback => "loopback",
        }
    }
}

/// What a demo that could not have namespaces ends with, so that its parent takes loopback instead.
const NO_NAMESPACES: u8 = 77;

/// Why the demo ended otherwise than it should.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DemoError {
    /// Namespaces are forbidden here.
    #[error("network namespaces cannot be had here: {0}")]
    NoNamespaces(#[source] LabError),
    /// Some part did not work.
    #[error("{what}: {why}")]
    Part {
        /// Which.
        what: &'static str,
        /// Why.
        why: String,
    },
    /// It ran, and datagrams are missing or came twice.
    #[error("{lost} of {expected} datagrams were lost, {duplicated} came twice, {corrupt} were damaged")]
    Imperfect {
        /// Copies that should have come.
        expected: u64,
        /// Copies that did not.
        lost: u64,
        /// Copies that came again.
        duplicated: u64,
        /// Copies that were not as they were sent.
        corrupt: u64,
    },
    /// The part of the demo in its own namespaces ended; it has said why.
    #[error("the demo failed")]
    Failed {
        /// Its exit code.
        code: u8,
    },
}

impl DemoError {
    pub(crate) fn part(what: &'static str, why: impl ToString) -> Self {
        Self::Part { what, why: why.to_string() }
    }

    /// The exit code it deserves.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NoNamespaces(_) => NO_NAMESPACES,
            Self::Failed { code } => *code,
            _ => 1,
        }
    }

    /// Whether everything was said already.
    pub fn is_silent(&self) -> bool {
        matches!(self, Self::Failed { .. })
    }
}

/// Runs the demo. Must be called while the process has one thread only: a user namespace is not to be had otherwise.
///
/// # Errors
/// Also if a single datagram was lost.
pub fn run(options: &Options) -> Result<(), DemoError> {
    match options.network {
        Network::Auto => choose(options),
        Network::Namespaces => show(options, Stage::namespaces()?),
        Network::Loopback => show(options, Stage::loopback()?),
    }
}

/// Tries namespaces in a process of their own: one that failed to get them cannot go back to where it was.
fn choose(options: &Options) -> Result<(), DemoError> {
    let mut command = Command::new("/proc/self/exe");
    command.args([
        "demo",
        "--network",
        Network::Namespaces.argument(),
        "--seconds",
        &options.seconds.to_string(),
    ]);
    if options.json {
        command.arg("--json");
    }
    let status = command.status().map_err(|error| DemoError::part("start the demo in namespaces", error))?;
    match status.code() {
        Some(0) => Ok(()),
        Some(code) if code == i32::from(NO_NAMESPACES) => {
            say("so this shows the udp data path over loopback instead");
            show(options, Stage::loopback()?)
        }
        code => Err(DemoError::Failed { code: code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1) }),
    }
}

fn show(options: &Options, mut stage: Stage) -> Result<(), DemoError> {
    let mut daemon = daemon::start(&stage)?;
    let rule = daemon.add(stage.rule.clone())?;
    if !options.json {
        say(&stage.description);
    }
    let traffic = traffic::run(&mut stage, options.seconds)?;
    let outcome = Outcome::new(&stage, &rule, traffic, daemon.rule_stats()?);
    daemon.stop()?;
    let text = if options.json { outcome.json() } else { outcome.table() };
    // Whoever closed standard output still learns from the exit code.
    let _ = writeln!(io::stdout().lock(), "{text}");
    outcome.verdict()
}

/// A line for a person. A closed standard error is no reason to fail.
pub(crate) fn say(text: &str) {
    let _ = writeln!(io::stderr().lock(), "mcrd demo: {text}");
}
