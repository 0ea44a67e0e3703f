//! Runs the fuzz targets, which are a workspace of their own under `fuzz/`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, bail};

/// Runs one target, or all, each for `seconds`; with `hours`, all together for so long.
///
/// What libFuzzer finds goes to `fuzz/corpus/TARGET`; it begins with that and with the committed `fuzz/seeds/TARGET`.
pub(crate) fn run(target: Option<&str>, seconds: u32, hours: Option<f64>) -> anyhow::Result<()> {
    let root = root();
    let known = targets(&root.join("fuzz/fuzz_targets"))?;
    let chosen = chosen(&known, target)?;
    let version = cargo(&root).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !version.is_ok_and(|status| status.success()) {
        bail!(
            "`cargo +nightly fuzz` cannot be run; install what it needs:\n  \
             rustup toolchain install nightly\n  cargo install cargo-fuzz"
        );
    }
    let seconds = hours.map_or(seconds, |hours| share(hours, chosen.len()));
    for target in chosen {
        println!("fuzzing {target} for {seconds} s");
        let (corpus, seeds) = (format!("fuzz/corpus/{target}"), format!("fuzz/seeds/{target}"));
        fs::create_dir_all(root.join(&corpus)).with_context(|| format!("cannot make {corpus}"))?;
        let mut command = cargo(&root);
        command.args(["run", target, &corpus, &seeds, "--", &format!("-max_total_time={seconds}")]);
        let status = command.status().context("cannot start cargo")?;
        if !status.success() {
            bail!("fuzz target {target} failed; its input is under fuzz/artifacts/{target}");
        }
    }
    Ok(())
}

/// Seconds for each of so many targets.
fn share(hours: f64, targets: usize) -> u32 {
    // Whole seconds, at least one; a float as large as that is cut to the largest.
    ((hours * 3600.0 / targets as f64) as u32).max(1)
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
        assert_eq!(share(1.0, 10), 360);
        assert_eq!(share(0.0001, 10), 1);
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
