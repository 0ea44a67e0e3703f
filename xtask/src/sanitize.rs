//! Runs the tests of crates with unsafe code under AddressSanitizer, which also finds leaks.
//!
//! Only the crate and its Rust dependencies are instrumented; the standard library is as it comes, which needs no more than a nightly
//! compiler. ThreadSanitizer would need the standard library built for it (`-Zbuild-std`), so threads are left to loom.

use std::{path::Path, process::Command};

use anyhow::{Context as _, bail};

/// The test of what is leaked on purpose: the leak it makes is no finding.
const LEAKS: &str = "memory_is_leaked_rather_than_freed";

/// Crates whose tests run under it: those that may have unsafe code. Not mcr-confine, whose children forbid themselves what the
/// sanitizer needs, nor the benchmark.
const CRATES: &[&str] = &[
    "mcr-bufpool",
    "mcr-fdpass",
    "mcr-lab",
    "mcr-metrics",
    "mcr-socket",
    "mcr-uring-io",
    "mcr-xdp",
    "mcr-ebpf",
];

/// Tests the crates named, or all of [`CRATES`].
pub(crate) fn run(crates: &[String]) -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let nightly = Command::new("cargo").args(["+nightly", "--version"]).output();
    if !nightly.is_ok_and(|output| output.status.success()) {
        bail!("sanitizers need a nightly compiler:\n  rustup toolchain install nightly");
    }
    let about = Command::new("rustc").arg("-vV").output().context("cannot start rustc")?;
    let about = String::from_utf8_lossy(&about.stdout);
    let host = about.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc names no host")?;
    let chosen: Vec<_> =
        if crates.is_empty() { CRATES.to_vec() } else { crates.iter().map(String::as_str).collect() };
    println!("AddressSanitizer: {}", chosen.join(", "));
    let mut cargo = Command::new("cargo");
    // All in one run, so that what they depend on is built once.
    cargo.args(["+nightly", "test", "--quiet", "--no-fail-fast", "--lib", "--tests"]);
    cargo.args(chosen.iter().flat_map(|name| ["-p", name]));
    let status = cargo
        // With a target named, build scripts and macros, which run in the compiler, are not instrumented.
        .args(["--target", host, "--target-dir", "target/sanitize"])
        .env("RUSTFLAGS", "-Zsanitizer=address")
        .env("CARGO_INCREMENTAL", "0")
        .args(["--", "--skip", LEAKS])
        .current_dir(&root)
        .status()
        .context("cannot start cargo")?;
    if !status.success() {
        bail!("some test failed under AddressSanitizer");
    }
    Ok(())
}
