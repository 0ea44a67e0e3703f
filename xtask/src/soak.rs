//! Builds the programs and runs a soak (`mcr_e2e::soak`), which is a program of the end-to-end tests.

use std::process::Command;

use anyhow::{Context as _, bail};
use cargo_metadata::MetadataCommand;

/// Trouble for so many minutes. The programs are those of the development profile, which check their own arithmetic.
pub(crate) fn run(minutes: f64, seed: u64) -> anyhow::Result<()> {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
    let metadata =
        MetadataCommand::new().manifest_path(manifest).no_deps().exec().context("cargo metadata failed")?;
    let mut build = Command::new("cargo");
    build.args(["build", "--quiet", "--manifest-path", manifest]);
    build.args(["-p", "mcr-e2e", "-p", "mcrd", "-p", "mcrctl", "-p", "mcrgen", "--bins"]);
    if !build.status().context("cannot start cargo")?.success() {
        bail!("the build failed");
    }
    let programs = metadata.target_directory.join("debug");
    let mut soak = Command::new(programs.join("mcr-soak"));
    soak.args([minutes.to_string(), seed.to_string()]).env("MCR_BIN_DIR", &programs);
    let status = soak.status().context("cannot start mcr-soak")?;
    if !status.success() {
        bail!("the soak failed: {status}");
    }
    Ok(())
}
