//! Runs the fuzz targets, which are a workspace of their own under `fuzz/`.
//!
//! They are built once, with AddressSanitizer (cargo-fuzz's default), and then run beside one another. What libFuzzer finds goes to
//! `fuzz/corpus/TARGET`; it begins with that and with the committed `fuzz/seeds/TARGET`. What a target says is in
//! `fuzz/artifacts/TARGET.log`, an input that it fails on in `fuzz/artifacts/TARGET/`.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, bail};

/// Memory a target may take; AddressSanitizer's own included.
const RSS_MIB_MAX: u32 = 2048;
/// How often is looked whether a target has ended.
const LOOK: Duration = Duration::from_millis(500);

/// What is to be run.
#[derive(Debug)]
pub(crate) struct Campaign<'a> {
    /// One target, or all.
    pub(crate) target: Option<&'a str>,
    /// How long each runs.
    pub(crate) seconds: u32,
    /// How long all run together; goes before `seconds`.
    pub(crate) hours: Option<f64>,
    /// How many run at a time.
    pub(crate) jobs: usize,
}

/// Runs one target, or all, and prints what came of each.
pub(crate) fn run(campaign: &Campaign<'_>) -> anyhow::Result<()> {
    let root = root();
    let known = targets(&root.join("fuzz/fuzz_targets"))?;
    let chosen = chosen(&known, campaign.target)?;
    let programs = build(&root, campaign.target)?;
    let seconds = campaign.hours.map_or(campaign.seconds, |hours| share(hours, chosen.len(), campaign.jobs));
    println!("{} targets, {seconds} s each, {} at a time", chosen.len(), campaign.jobs);
    println!("{:<18} {:>14} {:>9} {:>9} {:>9}", "target", "executions", "coverage", "corpus", "found");
    let (mut waiting, mut running, mut failed) = (chosen.into_iter(), Vec::new(), Vec::new());
    loop {
        while running.len() < campaign.jobs.max(1)
            && let Some(target) = waiting.next()
        {
            running.push((target, start(&root, &programs, target, seconds)?));
        }
        if running.is_empty() {
            break;
        }
        thread::sleep(LOOK);
        let mut still = Vec::new();
        for (target, mut child) in running {
            match child.try_wait().with_context(|| format!("cannot wait for {target}"))? {
                None => still.push((target, child)),
                Some(status) => {
                    let log = fs::read(log_of(&root, target)).unwrap_or_default();
                    let log = String::from_utf8_lossy(&log);
                    let summary = Summary::of(&log);
                    let found = if status.success() { "nothing" } else { "a fault" };
                    println!(
                        "{target:<18} {:>14} {:>9} {:>9} {found:>9}",
                        summary.executions, summary.coverage, summary.corpus
                    );
                    if !status.success() {
                        failed.push(target);
                    }
                }
            }
        }
        running = still;
    }
    if !failed.is_empty() {
        bail!(
            "failed: {}; each one's input and what it said is under fuzz/artifacts; `cargo +nightly fuzz run TARGET INPUT` tries it again",
            failed.join(", ")
        );
    }
    Ok(())
}

/// Builds the targets; where they are then.
fn build(root: &Path, target: Option<&str>) -> anyhow::Result<PathBuf> {
    let version = cargo(root).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !version.is_ok_and(|status| status.success()) {
        bail!(
            "`cargo +nightly fuzz` cannot be run; install what it needs:\n  \
             rustup toolchain install nightly\n  cargo install cargo-fuzz"
        );
    }
    let status = cargo(root).arg("build").args(target).status().context("cannot start cargo")?;
    if !status.success() {
        bail!("the fuzz targets cannot be built");
    }
    let about = Command::new("rustc").arg("-vV").output().context("cannot start rustc")?;
    let about = String::from_utf8_lossy(&about.stdout);
    let host = about.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc names no host")?;
    Ok(root.join("fuzz/target").join(host).join("release"))
}

/// Starts a target by itself: cargo would stand between, and may be waiting for something else.
fn start(root: &Path, programs: &Path, target: &str, seconds: u32) -> anyhow::Result<Child> {
    let (corpus, seeds) = (root.join("fuzz/corpus").join(target), root.join("fuzz/seeds").join(target));
    let artifacts = root.join("fuzz/artifacts").join(target);
    for directory in [&corpus, &seeds, &artifacts] {
        fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    }
    let log = File::create(log_of(root, target)).context("cannot write a log")?;
    let mut command = Command::new(programs.join(target));
    command.arg(&corpus).arg(&seeds).arg(format!("-artifact_prefix={}/", artifacts.display()));
    command.arg(format!("-max_total_time={seconds}")).arg(format!("-rss_limit_mb={RSS_MIB_MAX}"));
    command.arg("-print_final_stats=1").stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    command.spawn().with_context(|| format!("cannot start {target}"))
}

fn log_of(root: &Path, target: &str) -> PathBuf {
    root.join("fuzz/artifacts").join(format!("{target}.log"))
}

/// What libFuzzer says of a run.
#[derive(Debug, PartialEq, Eq)]
struct Summary<'a> {
    executions: &'a str,
    /// Edges.
    coverage: &'a str,
    /// Inputs, and their bytes.
    corpus: &'a str,
}

impl<'a> Summary<'a> {
    /// Of `#4 DONE cov: 123 ft: 456 corp: 7/89b ..` and `stat::number_of_executed_units: 4`.
    fn of(log: &'a str) -> Self {
        let word_after = |name: &str| {
            let line = log.lines().rev().find(|line| line.contains(name))?;
            line.split_once(name)?.1.split_whitespace().next()
        };
        Self {
            executions: word_after("stat::number_of_executed_units:").unwrap_or("-"),
            coverage: word_after(" cov: ").unwrap_or("-"),
            corpus: word_after(" corp: ").unwrap_or("-"),
        }
    }
}

/// Seconds for each of so many targets, some of them at a time.
fn share(hours: f64, targets: usize, jobs: usize) -> u32 {
    let rounds = targets.div_ceil(jobs.max(1)).max(1);
    // Whole seconds, at least one; a float as large as that is cut to the largest.
    ((hours * 3600.0 / rounds as f64) as u32).max(1)
}

fn root() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask).to_owned()
}

fn cargo(root: &Path) -> Command {
    let mut command = Command::new("cargo");
    command.args(["+nightly", "fuzz"]).current_dir(root);
    command
}

/// The names of the targets in a directory, sorted.
fn targets(directory: &Path) -> anyhow::Result<Vec<String>> {
    let cannot_read = || format!("cannot read {}", directory.display());
    let mut targets = Vec::new();
    for entry in fs::read_dir(directory).with_context(cannot_read)? {
        let path = entry.with_context(cannot_read)?.path();
        if let (Some(name), Some("rs")) =
            (path.file_stem().and_then(|name| name.to_str()), path.extension().and_then(|rs| rs.to_str()))
        {
            targets.push(name.to_owned());
        }
    }
    targets.sort();
    Ok(targets)
}

fn chosen<'a>(known: &'a [String], target: Option<&str>) -> anyhow::Result<Vec<&'a str>> {
    let chosen: Vec<_> = known
        .iter()
        .map(String::as_str)
        .filter(|known| target.is_none_or(|target| target == *known))
        .collect();
    match target {
        Some(target) if chosen.is_empty() => {
            bail!("there is no fuzz target {target}; there are: {}", known.join(", "))
        }
        _ => Ok(chosen),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_file_is_listed_in_the_manifest() {
        let root = root();
        let manifest = fs::read_to_string(root.join("fuzz/Cargo.toml")).unwrap();
        let listed = manifest.lines().filter(|line| line.starts_with("path = \"fuzz_targets/")).count();
        let known = targets(&root.join("fuzz/fuzz_targets")).unwrap();
        for target in &known {
            assert!(manifest.contains(&format!("path = \"fuzz_targets/{target}.rs\"")), "{target}");
        }
        assert_eq!(listed, known.len());
    }

    #[test]
    fn hours_are_shared_by_all_targets() {
        assert_eq!(share(1.0, 10, 1), 360);
        assert_eq!(share(1.0, 10, 4), 1200);
        assert_eq!(share(1.0, 10, 20), 3600);
        assert_eq!(share(0.0001, 10, 1), 1);
    }

    #[test]
    fn what_libfuzzer_says_last_is_what_counts() {
        let log = "#2\tINITED cov: 99 ft: 99 corp: 1/1b exec/s: 0 rss: 30Mb\n\
                   #50\tDONE   cov: 120 ft: 300 corp: 17/2048b lim: 4096 exec/s: 10 rss: 40Mb\n\
                   Done 50 runs in 5 second(s)\nstat::number_of_executed_units: 50\n";
        assert_eq!(Summary::of(log), Summary { executions: "50", coverage: "120", corpus: "17/2048b" });
        assert_eq!(Summary::of(""), Summary { executions: "-", coverage: "-", corpus: "-" });
    }

    #[test]
    fn an_unknown_target_is_refused_with_those_there_are() {
        let known = ["config".to_owned(), "endpoint".to_owned()];
        assert_eq!(chosen(&known, None).unwrap(), ["config", "endpoint"]);
        assert_eq!(chosen(&known, Some("endpoint")).unwrap(), ["endpoint"]);
        let refused = chosen(&known, Some("confg")).unwrap_err().to_string();
        assert_eq!(refused, "there is no fuzz target confg; there are: config, endpoint");
    }
}
