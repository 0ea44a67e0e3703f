//! mcrgen: arguments in, a call of mcr-gen, a report and an exit code out.

#![forbid(unsafe_code)]

mod args;
mod report;
mod watch;

use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::Parser;
use mcr_gen::{Ended, OpenError, Progress, Receiver, SendError, Sender};
use serde::Serialize;

use crate::args::{Cli, RecvArgs, SendArgs, Verb};

/// Exit codes, shared by all programs of MCR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Exit {
    Done = 0,
    Failed = 1,
    Usage = 2,
    NotPermitted = 3,
    NotFound = 4,
}

fn main() -> ExitCode {
    let exit = match Cli::try_parse() {
        Ok(cli) => run(cli).unwrap_or_else(|error| {
            say(&format!("{error:#}"));
            exit_of(&error)
        }),
        Err(error) if error.use_stderr() => {
            say(&args::one_line(&error));
            Exit::Usage
        }
        // Help and version come this way, as "errors" for stdout.
        Err(text) => {
            print(&format!("{}\n", text.to_string().trim_end())).map_or(Exit::Failed, |()| Exit::Done)
        }
    };
    ExitCode::from(exit as u8)
}

fn run(cli: Cli) -> anyhow::Result<Exit> {
    let progress = Arc::new(Progress::new());
    watch::end_on_signals(&progress)?;
    match cli.verb {
        Verb::Send(args) => send(&args, &progress),
        Verb::Recv(args) => receive(&args, &progress),
    }
}

fn send(args: &SendArgs, progress: &Progress) -> anyhow::Result<Exit> {
    let sender = Sender::open(&args.options())?;
    let sent = watch::watched("sent", progress, || sender.run(progress))?;
    print(&if args.json { json(&sent)? } else { report::sent(&sent) })?;
    Ok(Exit::Done)
}

fn receive(args: &RecvArgs, progress: &Progress) -> anyhow::Result<Exit> {
    let options = args.options();
    let receiver = Receiver::open(&options)?;
    // Scripts wait for this line before they start a sender.
    say(&format!("listening at {}", options.endpoint));
    let received = watch::watched("received", progress, || receiver.run(progress))?;
    print(&if args.json { json(&received)? } else { report::received(&received) })?;
    match options.count {
        Some(count) if received.ended != Ended::Count => {
            say(&format!("only {} of {count} datagrams came", received.received));
            Ok(Exit::Failed)
        }
        _ => Ok(Exit::Done),
    }
}

fn json(report: &impl Serialize) -> anyhow::Result<String> {
    let mut line = serde_json::to_string(report).context("cannot write the report as JSON")?;
    line.push('\n');
    Ok(line)
}

fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        // Whoever read it has read enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("cannot write the report"),
    }
}

fn say(line: &str) {
    // Where stderr is closed there is nobody to tell.
    let _ = writeln!(io::stderr(), "mcrgen: {line}");
}

fn exit_of(error: &anyhow::Error) -> Exit {
    let (not_found, not_permitted, usage) = if let Some(error) = error.downcast_ref::<SendError>() {
        (error.is_not_found(), error.is_not_permitted(), error.is_usage())
    } else if let Some(error) = error.downcast_ref::<OpenError>() {
        (error.is_not_found(), error.is_not_permitted(), matches!(error, OpenError::Family { .. }))
    } else {
        (false, false, false)
    };
    match (not_found, not_permitted, usage) {
        (true, _, _) => Exit::NotFound,
        (_, true, _) => Exit::NotPermitted,
        (_, _, true) => Exit::Usage,
        _ => Exit::Failed,
    }
}
