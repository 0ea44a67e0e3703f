//! The daemon's command line: arguments in, one call of the client, a table or JSON out.
//!
//! Data goes to standard output, everything else to standard error. The exit code says what happened:
//! 0 done, 1 failed, 2 usage or configuration error, 3 not permitted, 4 not found, 5 daemon unreachable.

#![forbid(unsafe_code)]

mod args;
mod config;
mod doctor;
mod events;
mod failure;
mod reflect;
mod run;
mod stats;
mod table;
mod text;
mod trace;
mod why;

use std::{
    io::{self, BufWriter, Write},
    process::ExitCode,
};

use clap::Parser;

use crate::{args::Cli, failure::Failure};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help goes to standard output and is no failure; a reader that has left is none either.
            let _ = error.print();
            return u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from);
        }
    };
    let mut out = BufWriter::new(io::stdout().lock());
    let outcome = run::run(&cli, &mut out, &mut io::stderr().lock());
    match outcome.and_then(|()| out.flush().map_err(Failure::Output)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(failure) => {
            // What was already done is shown before the reason why there is no more.
            let _ = out.flush();
            let _ = writeln!(io::stderr(), "mcrctl: {}", text::one_line(&failure.to_string()));
            failure.exit_code()
        }
    }
}
