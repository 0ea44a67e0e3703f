//! `mcr-soak MINUTES [SEED]`: a soak (`mcr_e2e::soak`), with lines of progress on standard error and one JSON object on standard output.
//! Exit code 1 if anything was out of bounds; `cargo xtask soak` builds what it needs and starts it.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for people at a terminal")]

use std::{process::ExitCode, time::Duration};

use mcr_e2e::soak::{Options, run};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let minutes = arguments.next().and_then(|minutes| minutes.parse::<f64>().ok());
    let seed = arguments.next().map_or(Some(1), |seed| seed.parse().ok());
    let (Some(minutes), Some(seed), None) = (minutes, seed, arguments.next()) else {
        eprintln!("usage: mcr-soak MINUTES [SEED]");
        return ExitCode::from(2);
    };
    let options = Options { trouble: Duration::from_secs_f64(minutes.max(0.0) * 60.0), seed };
    let report = run(&options, &mut |line| eprintln!("{line}"));
    println!("{}", report.json);
    if report.faults.is_empty() {
        return ExitCode::SUCCESS;
    }
    for fault in &report.faults {
        eprintln!("out of bounds: {fault}");
    }
    ExitCode::FAILURE
}
