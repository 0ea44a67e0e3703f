//! The namespace benchmark: MCR and other ways to relay UDP, each on one core, in the same network, in turn.
//!
//! Source, relay and sink are network namespaces joined by veth. [`lab`] makes them and steers the work of the
//! relay to a core of its own; [`peer`] starts what is compared; [`trial`] sends at a rate and counts;
//! [`search`] bisects for the loss-free rate; [`latency`] and [`cost`] measure at fixed rates,
//! [`burden`] above what can be carried, and with what is not to be. Each trial becomes a
//! line of JSON ([`record`]), and [`table`] makes tables of those lines, now or later. [`reflect`] does the same for reflectors, at the
//! end of one cable.
//!
//! What it does not do: judge. It says best, median and spread, and what was not installed.

#![deny(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for people at a terminal")]

mod args;
mod baseline;
mod bpf;
mod burden;
mod case;
mod compare;
mod cores;
mod cost;
mod interrupt;
mod lab;
mod latency;
mod peer;
mod record;
mod reflect;
mod rounds;
mod run;
mod search;
mod sender;
mod statistics;
mod swapper;
mod sys;
mod table;
mod trial;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let result = match args::Args::parse().command {
        args::Command::Peers(peers) => run::run(&peers),
        args::Command::Reflect(reflect) => reflect::run(&reflect),
        args::Command::Compare(compare) => compare::run(&compare),
        args::Command::Table { file } => table::of_file(&file).map(|text| print!("{text}")),
        args::Command::Baseline { inputs, outputs } => baseline::run(inputs, &outputs),
        args::Command::Swapper { interface } => swapper::run(&interface),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
