//! Checks and chores of the workspace, run as `cargo xtask`.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for people at a terminal")]

mod bench;
mod bpf;
mod dependencies;
mod dist;
mod docs;
mod fuzz;
mod instructions;
mod layers;
mod loom;
mod no_std;
mod published;
mod sanitize;
mod soak;

use std::{ffi::OsString, process::ExitCode};

use clap::{Parser, Subcommand};

/// Checks and chores of the workspace.
#[derive(Parser)]
#[command(bin_name = "cargo xtask", max_term_width = 100)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Check that each crate imports only crates of a lower floor, and that unsafe code is only where it may be
    Layers,
    /// Check the licences of all dependencies, which of them are there twice, and which where they should not be
    Dependencies,
    /// Make the tarball and the Debian package, in target/dist; for a musl target a tarball of static programs
    Dist {
        /// Install the package into a clean Debian root and try it there (needs root and debootstrap); unpack a tarball of static
        /// programs into an empty root and try it there (needs root)
        #[arg(long)]
        check: bool,
        /// Build for another target, which `rustup target add` has installed
        #[arg(long, value_name = "TRIPLE")]
        target: Option<String>,
    },
    /// Write the parts of docs/ that are made from code; check links and commands of all documents
    Docs {
        /// Write nothing, and fail if something would change
        #[arg(long)]
        check: bool,
    },
    /// Write the public interfaces of the published crates to docs/api
    Api {
        /// Write nothing, and fail if an interface differs from its text
        #[arg(long)]
        check: bool,
    },
    /// Check that each published crate's package is complete, builds alone (without the standard library, if it promises so), and could
    /// be published
    Package,
    /// Build the eBPF programs of crates/mcr-ebpf anew (needs clang and llvm-strip)
    Bpf {
        /// Build them aside and fail if they differ from those committed
        #[arg(long)]
        check: bool,
    },
    /// Compare MCR with other ways to relay UDP, or with itself at another revision (`compare REV`): `cargo xtask bench --help`
    #[command(disable_help_flag = true)]
    Bench {
        /// What the benchmark is told
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
        args: Vec<OsString>,
    },
    /// Count the instructions of hot functions (needs valgrind), and write them as the new baseline
    Instructions {
        /// Write nothing, and fail if a function costs more than its baseline
        #[arg(long)]
        check: bool,
    },
    /// Kills, flaps, loads, moves and hostile clients on a daemon that relays; at the end all must be counted, and nothing left
    Soak {
        /// How long
        #[arg(long, value_name = "N", default_value_t = 30.0)]
        minutes: f64,
        /// The same seed makes the same trouble, in the same order
        #[arg(long, value_name = "N", default_value_t = 1)]
        seed: u64,
    },
    /// Run the tests that try every order of threads
    Loom,
    /// Run the tests of crates with unsafe code under AddressSanitizer (needs a nightly toolchain)
    Sanitize {
        /// Crates to test; all with unsafe code without them
        #[arg(value_name = "CRATE")]
        crates: Vec<String>,
    },
    /// Run fuzz targets, all of them or one (needs a nightly toolchain and cargo-fuzz)
    Fuzz {
        /// Target to run; all without it
        #[arg(value_name = "TARGET")]
        target: Option<String>,
        /// How long each target runs
        #[arg(long, value_name = "N", default_value_t = 60)]
        seconds: u32,
        /// How long all targets together run
        #[arg(long, value_name = "N", conflicts_with = "seconds")]
        hours: Option<f64>,
        /// How many targets run at a time
        #[arg(long, value_name = "N", default_value_t = 1)]
        jobs: usize,
    },
}

fn main() -> ExitCode {
    let result = match Args::parse().command {
        Command::Layers => layers::run(),
        Command::Api { check } => published::api(check),
        Command::Dependencies => dependencies::run(),
        Command::Dist { check, target } => dist::run(check, target.as_deref()),
        Command::Docs { check } => docs::run(check),
        Command::Package => published::package(),
        Command::Bpf { check } => bpf::run(check),
        Command::Bench { args } => bench::run(&args),
        Command::Instructions { check } => instructions::run(check),
        Command::Soak { minutes, seed } => soak::run(minutes, seed),
        Command::Loom => loom::run(),
        Command::Sanitize { crates } => sanitize::run(&crates),
        Command::Fuzz { target, seconds, hours, jobs } => {
            fuzz::run(&fuzz::Campaign { target: target.as_deref(), seconds, hours, jobs })
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
