//! `mcrd`: the relay daemon. Arguments in, a library call, exit code out.
#![forbid(unsafe_code)]

mod args;
mod check;
mod exit;
mod http;
mod log;
mod reflect;
mod role;
mod run;
mod user;

use std::process::ExitCode;

use clap::Parser;
use mcr_demo::Network;

use crate::{
    args::{Args, Command, DemoArgs, DemoNetwork},
    exit::Failure,
};

fn main() -> ExitCode {
    // clap ends usage errors with 2, as the contract has it.
    let result = match Args::parse().command {
        Command::Run(args) => run::run(args),
        Command::Check(args) => check::check(&args),
        Command::Demo(args) => demo(&args),
        Command::Reflect(args) => reflect::reflect(&args),
        Command::RoleWorker => role::worker(),
        Command::RoleControl => role::control(),
        Command::RoleReflector => role::reflector(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

fn demo(args: &DemoArgs) -> Result<(), Failure> {
    let network = match args.network {
        DemoNetwork::Auto => Network::Auto,
        DemoNetwork::Namespaces => Network::Namespaces,
        DemoNetwork::Loopback => Network::Loopback,
    };
    let options = mcr_demo::Options { seconds: args.seconds, json: args.json, network };
    mcr_demo::run(&options).map_err(|error| match error.is_silent() {
        true => Failure::silent(error.exit_code()),
        false => Failure::with_code(error.exit_code(), format!("demo: {error}")),
    })
}
