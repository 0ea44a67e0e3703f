//! Runs the tests that try every order of threads (loom), in builds of their own: `--cfg loom` changes what threads share things by.

use std::{path::Path, process::Command};

use anyhow::{Context as _, bail};

/// Crates whose objects are shared between threads. Counters of mcr-metrics have one writer each and are one word: there is no order to
/// get wrong.
const CRATES: &[&str] = &["mcr-bufpool"];

pub(crate) fn run() -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for name in CRATES {
        println!("every order of threads: {name}");
        let status = Command::new("cargo")
            // Optimised, because there are many orders.
            .args([
                "test",
                "--release",
                "--quiet",
                "--lib",
                "-p",
                name,
                "--target-dir",
                "target/loom",
                "shared::",
            ])
            .env("RUSTFLAGS", "--cfg loom")
            .current_dir(&root)
            .status()
            .context("cannot start cargo")?;
        if !status.success() {
            bail!("{name} fails in some order of threads");
        }
    }
    Ok(())
}
