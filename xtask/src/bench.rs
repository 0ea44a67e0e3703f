//! Builds the release programs and runs the namespace benchmark, which is a program of its own (`benches/`).

use std::{ffi::OsString, process::Command};

use anyhow::{Context as _, bail};
use cargo_metadata::MetadataCommand;

/// Runs `mcr-bench` with `args`. What it compares is built with it, so that no stale program is measured.
pub(crate) fn run(args: &[OsString]) -> anyhow::Result<()> {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
    let metadata =
        MetadataCommand::new().manifest_path(manifest).no_deps().exec().context("cargo metadata failed")?;
    let mut build = Command::new("cargo");
    build.args(["build", "--quiet", "--release", "--manifest-path", manifest, "-p", "mcr-bench"]);
    if args.first().is_some_and(|verb| verb == "peers" || verb == "reflect") {
        build.args(["-p", "mcrd"]);
    }
    succeed(&mut build, "the build")?;
    let program = metadata.target_directory.join("release/mcr-bench");
    succeed(Command::new(program).args(args), "the benchmark")
}

fn succeed(command: &mut Command, what: &str) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("cannot start {what}"))?;
    if !status.success() {
        bail!("{what} failed: {status}");
    }
    Ok(())
}
