//! Counts the instructions of hot functions with valgrind, and compares them with those committed in
//! `benches/instructions/baseline.json`. Counts repeat where times do not, so a small bound catches what a benchmark on a busy machine
//! cannot. They say nothing of caches, of the kernel or of waiting: the benchmarks do.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
const BASELINE: &str = "benches/instructions/baseline.json";
/// How much more than committed a function may cost.
const BOUND_PERCENT: f64 = 5.0;
/// Below this, one instruction is more than the bound.
const SLACK: f64 = 2.0;
const TIMES: u32 = 10_000;

/// What was counted, and by what: other compilers make other code.
#[derive(Debug, Serialize, Deserialize, PartialEq)]
struct Baseline {
    rustc: String,
    instructions: BTreeMap<String, f64>,
}

/// Counts all cases; with `check`, fails if one costs more than its baseline allows, else writes them as the new baseline.
pub(crate) fn run(check: bool) -> anyhow::Result<()> {
    let program = build()?;
    let names = output(Command::new(&program))?;
    let mut instructions = BTreeMap::new();
    for name in names.lines() {
        let more = count(&program, name, 2 * TIMES)?;
        let fewer = count(&program, name, TIMES)?;
        instructions.insert(name.to_owned(), (more - fewer) as f64 / f64::from(TIMES));
    }
    let rustc = output({
        let mut rustc = Command::new("rustc");
        rustc.arg("--version");
        rustc
    })?;
    let counted = Baseline { rustc: rustc.trim().to_owned(), instructions };
    let path = Path::new(ROOT).join(BASELINE);
    if !check {
        let text = serde_json::to_string_pretty(&counted).context("plain data")?;
        fs::write(&path, text + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    }
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    compare(&serde_json::from_str(&text).with_context(|| format!("{}", path.display()))?, &counted)
}

fn compare(baseline: &Baseline, counted: &Baseline) -> anyhow::Result<()> {
    if baseline.rustc != counted.rustc {
        bail!(
            "the baseline is of {}, and this is {}; write a new one with `cargo xtask instructions`",
            baseline.rustc,
            counted.rustc
        );
    }
    let mut faults = Vec::new();
    println!("{:<20} {:>12} {:>12}", "instructions", "baseline", "now");
    for (name, now) in &counted.instructions {
        let before = baseline.instructions.get(name);
        println!(
            "{name:<20} {:>12} {now:>12.1}",
            before.map_or_else(|| "-".to_owned(), |n| format!("{n:.1}"))
        );
        match before {
            None => faults.push(format!("{name} has no baseline")),
            Some(before) if *now > before * (1.0 + BOUND_PERCENT / 100.0) + SLACK => {
                faults.push(format!("{name} takes {now:.1} instructions, {before:.1} before"));
            }
            Some(_) => {}
        }
    }
    let gone = baseline.instructions.keys().filter(|name| !counted.instructions.contains_key(*name));
    faults.extend(gone.map(|name| format!("{name} is no case any more")));
    if !faults.is_empty() {
        bail!(
            "{}\nif that is meant, write a new baseline with `cargo xtask instructions`",
            faults.join("\n")
        );
    }
    Ok(())
}

fn build() -> anyhow::Result<std::path::PathBuf> {
    let metadata = cargo_metadata::MetadataCommand::new()
        .manifest_path(Path::new(ROOT).join("Cargo.toml"))
        .no_deps()
        .exec()
        .context("cargo metadata failed")?;
    let status = Command::new("cargo")
        .current_dir(ROOT)
        .args(["build", "--quiet", "--release", "--package", "mcr-instructions"])
        .status()
        .context("cannot run cargo build")?;
    if !status.success() {
        bail!("cargo build failed");
    }
    Ok(metadata.target_directory.join("release/mcr-instructions").into())
}

/// All instructions of one run.
fn count(program: &Path, case: &str, times: u32) -> anyhow::Result<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .args([case, &times.to_string()])
        .output()
        .context("cannot run valgrind; it is Debian's package of that name")?;
    let text = String::from_utf8_lossy(&output.stderr);
    // "==123== Collected : 1234567"
    let collected =
        text.lines().find_map(|line| line.split_once("Collected : ")).map(|(_, count)| count.trim());
    match collected.and_then(|count| count.parse().ok()) {
        Some(count) if output.status.success() => Ok(count),
        _ => bail!("valgrind failed on {case}:\n{text}"),
    }
}

fn output(mut command: Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    String::from_utf8(output.stdout).context("not text")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(cases: &[(&str, f64)]) -> Baseline {
        let instructions = cases.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
        Baseline { rustc: "rustc 1".to_owned(), instructions }
    }

    #[test]
    fn a_case_may_cost_a_little_more_and_no_more_than_that() {
        let baseline = counts(&[("parse", 100.0)]);
        assert!(compare(&baseline, &counts(&[("parse", 106.0)])).is_ok());
        assert!(compare(&baseline, &counts(&[("parse", 108.0)])).is_err());
        assert!(compare(&baseline, &counts(&[("parse", 50.0)])).is_ok());
    }

    #[test]
    fn a_case_without_a_baseline_and_a_baseline_without_a_case_are_faults() {
        let both = counts(&[("parse", 100.0), ("pool", 10.0)]);
        let one = counts(&[("parse", 100.0)]);
        assert!(compare(&one, &both).is_err());
        assert!(compare(&both, &one).is_err());
    }

    #[test]
    fn counts_of_another_compiler_are_not_compared() {
        let other = Baseline { rustc: "rustc 2".to_owned(), ..counts(&[("parse", 100.0)]) };
        assert!(compare(&other, &counts(&[("parse", 100.0)])).is_err());
    }
}
