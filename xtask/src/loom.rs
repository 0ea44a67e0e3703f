//! Runs the tests that try every order of threads (loom), in a build of their own: `--cfg loom` changes what threads share things by.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, bail, ensure};

/// Crates whose objects are shared between threads, and the module that has these tests. Counters of mcr-metrics have one writer each
/// and are one word: there is no order to get wrong.
const CRATES: &[(&str, &str)] = &[("mcr-bufpool", "shared::")];

pub(crate) fn run() -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for (name, module) in CRATES {
        let output = Command::new("cargo")
            .args(["test", "--quiet", "--lib", "-p", name, "--target-dir", "target/loom", module])
            .env("RUSTFLAGS", "--cfg loom")
            .env("CARGO_INCREMENTAL", "0")
            .current_dir(&root)
            .stderr(Stdio::inherit())
            .output()
            .context("cannot start cargo")?;
        let said = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            bail!("{name} fails in some order of threads:\n{said}");
        }
        let passed = passed(&said);
        ensure!(passed > 0, "{name} has no test in {module}:\n{said}");
        println!("loom: {name}: {passed} tests pass in every order of threads");
    }
    Ok(())
}

/// Of `test result: ok. 3 passed; ..`.
fn passed(said: &str) -> u32 {
    let counts = said.lines().filter_map(|line| line.strip_prefix("test result: ok. ")?.split(' ').next());
    counts.filter_map(|count| count.parse::<u32>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_that_passed_are_counted() {
        let said = "\nrunning 3 tests\n...\ntest result: ok. 3 passed; 0 failed; 0 ignored\n\n";
        assert_eq!(passed(said), 3);
        assert_eq!(passed("running 0 tests\n\ntest result: ok. 0 passed; 0 failed\n"), 0);
    }
}
