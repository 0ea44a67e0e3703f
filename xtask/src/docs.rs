//! The parts of `docs/` that are made from code: the command line reference.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Writes `docs/cli.md` anew; with `check`, fails if it would change.
pub(crate) fn run(check: bool) -> anyhow::Result<()> {
    let made = manual()?;
    let text = fs::read_to_string(made.join("cli.md")).context("cannot read the reference")?;
    let committed = Path::new(ROOT).join("docs/cli.md");
    let is_current = fs::read_to_string(&committed).is_ok_and(|old| old == text);
    match (is_current, check) {
        (true, _) => println!("docs: current"),
        (false, true) => {
            bail!("docs/cli.md is not what the programs say; run `cargo xtask docs` and commit it")
        }
        (false, false) => {
            fs::write(&committed, text).context("cannot write docs/cli.md")?;
            println!("docs: wrote docs/cli.md");
        }
    }
    Ok(())
}

/// Has man pages, completions and the reference made; the folder that they are in.
pub(crate) fn manual() -> anyhow::Result<PathBuf> {
    let metadata = cargo_metadata::MetadataCommand::new()
        .manifest_path(Path::new(ROOT).join("Cargo.toml"))
        .no_deps()
        .exec()
        .context("cargo metadata failed")?;
    let folder = metadata.target_directory.as_std_path().join("manual");
    // Pages of verbs that are no more would be packaged.
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("cannot empty {}", folder.display()))?;
    }
    let status = Command::new("cargo")
        .current_dir(ROOT)
        .args(["run", "--quiet", "--package", "mcr-manual", "--"])
        .arg(&folder)
        .status()
        .context("cannot run cargo")?;
    if !status.success() {
        bail!("mcr-manual failed");
    }
    Ok(folder)
}
