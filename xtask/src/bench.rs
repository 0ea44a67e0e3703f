//! Builds the release programs and runs the namespace benchmark, which is a program of its own (`benches/`).

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail};
use cargo_metadata::MetadataCommand;

const MANIFEST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");

/// Runs `mcr-bench` with `args`. What it compares is built with it, so that no stale program is measured.
pub(crate) fn run(args: &[OsString]) -> anyhow::Result<()> {
    let mut build = Command::new("cargo");
    build.args(["build", "--quiet", "--release", "--manifest-path", MANIFEST, "-p", "mcr-bench"]);
    let verb = args.first().and_then(|verb| verb.to_str()).unwrap_or_default();
    if matches!(verb, "peers" | "reflect" | "compare") {
        build.args(["-p", "mcrd"]);
    }
    succeed(&mut build, "the build")?;
    let release = target_directory()?.join("release");
    let mut bench = Command::new(release.join("mcr-bench"));
    match (verb, args.get(1).filter(|rev| !rev.to_string_lossy().starts_with('-'))) {
        // `--a` and `--b`, if given, say where two builds are already.
        ("compare", Some(rev)) => {
            let before = build_of(&rev.to_string_lossy())?;
            bench.arg("compare").arg("--a").arg(before).arg("--b").arg(release).args(&args[2..]);
        }
        _ => {
            bench.args(args);
        }
    }
    succeed(&mut bench, "the benchmark")
}

/// The programs of another revision, built from a work tree of its own in `target/compare`.
fn build_of(rev: &str) -> anyhow::Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let git = |args: &[&str]| {
        let output =
            Command::new("git").args(args).current_dir(&root).output().context("cannot start git")?;
        if !output.status.success() {
            bail!("git {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "--verify", &format!("{rev}^{{commit}}")])?;
    let compare = target_directory()?.join("compare");
    let tree = compare.join("tree");
    let path = tree.to_str().context("the target directory's path is not text")?;
    if tree.exists() {
        git(&["worktree", "remove", "--force", path])?;
    }
    git(&["worktree", "prune"])?;
    git(&["worktree", "add", "--detach", path, &commit])?;
    let mut build = Command::new("cargo");
    build.args(["build", "--quiet", "--release", "-p", "mcrd", "--target-dir"]).arg(compare.join("target"));
    let built = succeed(build.current_dir(&tree), &format!("the build of {rev}"));
    // What was built stays, so that the next comparison has less to build.
    git(&["worktree", "remove", "--force", path])?;
    built?;
    println!("A is {rev} ({}), B is what is here now", &commit[..12.min(commit.len())]);
    Ok(compare.join("target/release"))
}

fn target_directory() -> anyhow::Result<PathBuf> {
    let metadata =
        MetadataCommand::new().manifest_path(MANIFEST).no_deps().exec().context("cargo metadata failed")?;
    Ok(metadata.target_directory.into())
}

fn succeed(command: &mut Command, what: &str) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("cannot start {what}"))?;
    if !status.success() {
        bail!("{what} failed: {status}");
    }
    Ok(())
}
