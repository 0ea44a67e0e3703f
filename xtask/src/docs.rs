//! Documents: the parts that are made from code, links that must lead somewhere, and commands that our programs must understand.

mod commands;
mod links;
mod marks;
mod paths;
mod reference;
mod shapes;
mod tests_named;

use std::{
    env, fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, bail};
use clap::Parser as _;

use self::{reference::Reference, shapes::Shapes};
use crate::published;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
/// The document in which each method of the control protocol has its part.
const PROTOCOL: &str = "docs/protocol.md";
/// Documents with parts between marks.
const MARKED: [&str; 2] = [PROTOCOL, "docs/config.md"];

/// Writes what is made from code anew, or with `check` fails if it would change; then checks links and commands of all documents.
pub(crate) fn run(check: bool) -> anyhow::Result<()> {
    let root = Path::new(ROOT);
    let manual = manual()?;
    let mut made = vec![("docs/cli.md", read(&manual.join("cli.md"))?)];
    let described = published::rustdoc(manual.parent().context("target")?)?;
    let shapes = Shapes::read(&published::json_of(&described, "mcr-proto"))?;
    let reference = Reference::new(&shapes)?;
    for document in MARKED {
        let old = read(&root.join(document))?;
        let part = |name: &str| match name.strip_prefix("manual ") {
            Some(file) => read(&manual.join(file)),
            None => reference.part(name),
        };
        let text = marks::fill(&old, part).with_context(|| format!("cannot make {document}"))?;
        if document == PROTOCOL {
            every_method_has_its_part(&reference, &text)?;
        }
        made.push((document, text));
    }
    let mut changed = Vec::new();
    for (document, text) in &made {
        let file = root.join(document);
        if fs::read_to_string(&file).is_ok_and(|old| old == *text) {
            continue;
        }
        changed.push(*document);
        if !check {
            fs::write(&file, text).with_context(|| format!("cannot write {document}"))?;
        }
    }
    if check && !changed.is_empty() {
        bail!("{} is not what the code says; run `cargo xtask docs` and commit it", changed.join(", "));
    }
    let documents = documents(root)?;
    let mut faults = links::faults(root, &documents)?;
    faults.extend(paths::faults(root, &documents)?);
    faults.extend(tests_named::faults(root, &documents)?);
    faults.extend(misunderstood(root, &documents)?);
    if !faults.is_empty() {
        bail!("{}", faults.join("\n"));
    }
    match changed[..] {
        [] => println!("docs: current; links, files and commands of {} documents are right", documents.len()),
        _ => println!("docs: wrote {}", changed.join(", ")),
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
    let status = mcr_manual().arg(&folder).status().context("cannot run cargo")?;
    if !status.success() {
        bail!("mcr-manual failed");
    }
    Ok(folder)
}

/// The program that knows the programs' arguments: built if need be, or with MCR_BIN_DIR set the one that lies there.
fn mcr_manual() -> Command {
    if let Some(programs) = env::var_os("MCR_BIN_DIR") {
        return Command::new(Path::new(&programs).join("mcr-manual"));
    }
    let mut command = Command::new("cargo");
    command.current_dir(ROOT).args(["run", "--quiet", "--package", "mcr-manual", "--"]);
    command
}

fn every_method_has_its_part(reference: &Reference<'_>, text: &str) -> anyhow::Result<()> {
    let parts: Vec<_> = marks::names(text).collect();
    for method in reference.methods() {
        if !parts.contains(&format!("method {method}").as_str()) {
            bail!(
                "{PROTOCOL} says nothing of {method}: write a section with an example, and in it the lines \
                 `<!-- made: method {method} -->` and `<!-- end -->`"
            );
        }
    }
    Ok(())
}

/// All documents that are in git, named from the root.
fn documents(root: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let output = Command::new("git")
        .current_dir(root)
        .args(["ls-files", "--cached", "--others", "--exclude-standard", "*.md"])
        .output()
        .context("cannot run git")?;
    if !output.status.success() {
        bail!("git ls-files failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let list = String::from_utf8(output.stdout).context("names of documents")?;
    // One that was just removed is still in the index.
    Ok(list.lines().map(PathBuf::from).filter(|document| root.join(document).exists()).collect())
}

/// Commands in documents that the programs would refuse.
fn misunderstood(root: &Path, documents: &[PathBuf]) -> anyhow::Result<Vec<String>> {
    let mut faults = Vec::new();
    let mut asked = String::new();
    for document in documents {
        for (line, words) in commands::find(&read(&root.join(document))?) {
            let place = format!("{}:{line}", document.display());
            if words[0] != "cargo xtask" {
                asked += &format!("{place}\t{}\n", words.join("\t"));
            } else if let Err(error) = crate::Args::try_parse_from(&words)
                && error.exit_code() != 0
            {
                faults.push(format!("{place}: {}", error.to_string().trim_end()));
            }
        }
    }
    let mut programs = mcr_manual();
    programs.arg("--understand").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut programs = programs.spawn().context("cannot run cargo")?;
    programs
        .stdin
        .take()
        .context("a pipe")?
        .write_all(asked.as_bytes())
        .context("mcr-manual reads no more")?;
    let output = programs.wait_with_output().context("mcr-manual")?;
    if !output.status.success() {
        bail!("mcr-manual failed");
    }
    faults.extend(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned));
    Ok(faults)
}

fn read(file: &Path) -> anyhow::Result<String> {
    fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
}
