//! Tests that documents say to run: a command that names a package, a file or a test that is no more would run nothing, and pass.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::links::read;

/// The faults of these documents, which are named from `root`.
pub(super) fn faults(root: &Path, documents: &[PathBuf]) -> anyhow::Result<Vec<String>> {
    let mut faults = Vec::new();
    for document in documents {
        let text = read(&root.join(document))?;
        for command in commands(&text) {
            if let Some(missing) = missing(root, command) {
                faults.push(format!("{}: `{}`: no {missing}", document.display(), command.trim()));
            }
        }
    }
    Ok(faults)
}

/// What follows `cargo test` in prose and in blocks, up to its end.
fn commands(text: &str) -> Vec<&str> {
    let ends = |c: char| matches!(c, '`' | '#' | ')' | '|' | '\n');
    text.split("cargo test ").skip(1).filter_map(|rest| rest.split(ends).next()).collect()
}

/// The first part of a command that leads nowhere.
fn missing(root: &Path, command: &str) -> Option<String> {
    let words: Vec<_> = command.split_whitespace().collect();
    let value = |option: &str| words.iter().position(|word| *word == option).and_then(|at| words.get(at + 1));
    let package = value("-p")?;
    let folders = ["crates", "bins"].map(|parent| root.join(parent).join(package));
    let own = match *package {
        "mcr-e2e" => Some(root.join("tests")),
        "mcr-fuzz-replay" => Some(root.join("fuzz/replay")),
        "xtask" => Some(root.join("xtask")),
        _ => folders.into_iter().find(|folder| folder.exists()),
    };
    let Some(folder) = own else { return Some(format!("package {package}")) };
    let file = value("--test")?;
    let tests = folder.join("tests").join(file);
    let Ok(source) = fs::read_to_string(tests.with_extension("rs")) else {
        return (!tests.join("main.rs").exists()).then(|| format!("file of tests {file}"));
    };
    let named = |filter: &&str| source.lines().any(|line| line.contains("fn ") && line.contains(*filter));
    let filters = words.iter().enumerate().filter(|(at, word)| {
        !word.starts_with('-')
            && !(at
                .checked_sub(1)
                .is_some_and(|before| words[before].starts_with('-') && words[before] != "--"))
    });
    filters
        .map(|(_, filter)| filter)
        .find(|filter| !named(filter))
        .map(|filter| format!("test with {filter} in its name"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_would_run_no_test_is_a_fault() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let text = "`cargo test -p mcr-parse` and\n```sh\nX=1 cargo test -p mcr-e2e --test relay -- hops # some\n```";
        assert_eq!(commands(text), ["-p mcr-parse", "-p mcr-e2e --test relay -- hops "]);
        for (command, want) in [
            ("--workspace", None),
            ("-p mcr-parse", None),
            ("-p mcr-ebpf --test it", None),
            ("-p mcr-e2e --features stock-tools --test cookbook", None),
            ("-p mcr-e2e --test reflector a_million", None),
            ("-p mcr-e2e --test relay -- no_such_test", Some("test with no_such_test in its name")),
            ("-p mcr-e2e --test none", Some("file of tests none")),
            ("-p mcr-none", Some("package mcr-none")),
        ] {
            assert_eq!(missing(&root, command).as_deref(), want, "{command}");
        }
    }
}
