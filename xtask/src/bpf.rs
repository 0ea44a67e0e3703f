//! Builds the eBPF programs: each `crates/mcr-ebpf/bpf/NAME.c` to `NAME.bpf.o` beside it. The objects are committed, so that MCR
//! builds where no clang is; whoever changes a program commits its object as well.
//!
//! The same source gives the same object on every machine, whatever its paths, but only with the same major version of clang: it
//! stands in `bpf/CLANG_VERSION`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail};

const PROGRAMS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../crates/mcr-ebpf/bpf");

/// Builds all programs; with `check` aside, to compare them with those there are.
pub(crate) fn run(check: bool) -> anyhow::Result<()> {
    let directory = Path::new(PROGRAMS);
    let wanted = fs::read_to_string(directory.join("CLANG_VERSION")).context("cannot read CLANG_VERSION")?;
    let found = clang_major()?;
    if found != wanted.trim() {
        bail!(
            "the programs are built with clang {}, and this is clang {found}; install that version \
             (or, to move on to this one, write {found} to crates/mcr-ebpf/bpf/CLANG_VERSION)",
            wanted.trim()
        );
    }
    let mut stale = Vec::new();
    for source in sources(directory)? {
        let object = source.with_extension("bpf.o");
        let fresh = object.with_extension("o.new");
        let built = build(directory, &source, &fresh);
        let differs = built.is_ok() && fs::read(&fresh).ok() != fs::read(&object).ok();
        if built.is_err() || check {
            // What could not be built may have left nothing.
            let _ = fs::remove_file(&fresh);
        } else {
            fs::rename(&fresh, &object).with_context(|| format!("cannot write {}", object.display()))?;
        }
        built?;
        if differs {
            stale.push(file_name(&object));
        }
    }
    match (stale.is_empty(), check) {
        (true, _) => println!("bpf: the objects are those of their sources"),
        (false, false) => println!("bpf: built {}", stale.join(", ")),
        (false, true) => bail!(
            "bpf: {} is not what its source gives; run `cargo xtask bpf` and commit it",
            stale.join(", ")
        ),
    }
    Ok(())
}

/// Compiles one program and takes out what only debuggers want; the types (BTF) stay, because they describe the maps.
fn build(directory: &Path, source: &Path, object: &Path) -> anyhow::Result<()> {
    let mut compile = Command::new("clang");
    compile
        .current_dir(directory)
        .args(["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-std=gnu11", "-Wall", "-Wextra", "-Werror"])
        // Paths would make the object differ from machine to machine.
        .args(["-fdebug-compilation-dir=.", "-nostdinc"])
        .args(["-c", &file_name(source), "-o"])
        .arg(object);
    succeed(compile)?;
    let mut strip = Command::new("llvm-strip");
    strip.arg("-g").arg(object);
    succeed(strip)
}

fn succeed(mut command: Command) -> anyhow::Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command
        .status()
        .with_context(|| format!("cannot start {program}; on Debian: apt-get install clang llvm"))?;
    if !status.success() {
        bail!("{program} failed");
    }
    Ok(())
}

fn clang_major() -> anyhow::Result<String> {
    let output = Command::new("clang")
        .arg("-dumpversion")
        .output()
        .context("cannot start clang; on Debian: apt-get install clang llvm")?;
    let version = String::from_utf8_lossy(&output.stdout);
    Ok(version.trim().split('.').next().unwrap_or_default().to_owned())
}

fn sources(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    let mut sources = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "c") {
            sources.push(path);
        }
    }
    sources.sort();
    Ok(sources)
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
