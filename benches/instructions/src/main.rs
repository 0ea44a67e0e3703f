//! Runs one hot function as often as it is told. `cargo xtask instructions` has valgrind count the instructions of two such runs of
//! different length; their difference is what the function costs, whatever else the machine is doing.
//!
//! `mcr-instructions` lists the cases, `mcr-instructions CASE TIMES` runs one.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "a program for people at a terminal")]

mod batch;
mod cases;

use anyhow::{Context as _, bail};

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let Some(name) = arguments.next() else {
        for (name, _) in cases::CASES {
            println!("{name}");
        }
        return Ok(());
    };
    let times = arguments.next().context("how often?")?.parse().context("how often?")?;
    let Some((_, run)) = cases::CASES.iter().find(|(case, _)| *case == name) else {
        bail!("there is no case {name}");
    };
    run(times);
    Ok(())
}
