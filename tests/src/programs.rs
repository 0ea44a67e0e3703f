//! Where the programs under test are.
//!
//! Those beside the test program are taken if no source is newer, as after `cargo test --workspace`, which builds them
//! for the tests of their own packages. Else they are built, with the same profile, so that `cargo test` alone never tests stale
//! ones. With MCR_BIN_DIR set, those that lie there are taken as they are.

use std::{
    env,
    fs::{self, Permissions},
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
    time::SystemTime,
};

use tempfile::TempDir;

const PROGRAMS: [&str; 3] = ["mcrd", "mcrctl", "mcrgen"];
const WORKSPACE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Kept as it turned out, so that each test says why there is nothing to test.
static DIRECTORY: LazyLock<Result<PathBuf, String>> =
    LazyLock::new(|| env::var_os("MCR_BIN_DIR").map_or_else(build, |directory| Ok(directory.into())));

/// The directory that holds the programs.
///
/// # Panics
/// If they cannot be built.
pub fn directory() -> &'static Path {
    match &*DIRECTORY {
        Ok(directory) => directory,
        Err(problem) => panic!("cannot build the programs: {problem}"),
    }
}

/// The path of a program.
pub fn program(name: &str) -> PathBuf {
    directory().join(name)
}

/// A copy of a program that every user may run, and the directory that holds it; the build may lie where they cannot go.
///
/// # Panics
/// If it cannot be copied.
pub fn program_for_everyone(name: &str) -> (TempDir, PathBuf) {
    let directory = directory_for_everyone();
    let copy = directory.path().join(name);
    // By another process: a descriptor for writing that a child of another test inherits would make the copy "busy".
    let copied = Command::new("cp").arg(program(name)).arg(&copy).status();
    assert!(copied.is_ok_and(|status| status.success()), "cannot copy {name}");
    fs::set_permissions(&copy, Permissions::from_mode(0o755)).expect("it is ours");
    (directory, copy)
}

/// A directory that everyone may enter.
///
/// # Panics
/// If it cannot be made.
pub fn directory_for_everyone() -> TempDir {
    let directory = TempDir::with_prefix("mcr-e2e-").expect("a temporary directory");
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).expect("it is ours");
    directory
}

/// Sees to it that they are beside this test program, which lies in `target/PROFILE/deps`, and newer than all sources.
fn build() -> Result<PathBuf, String> {
    let test = env::current_exe().expect("the test program has a path");
    let directory = test.parent().and_then(Path::parent).expect("target/PROFILE/deps").to_owned();
    let sources = newest_source(Path::new(WORKSPACE)).map_err(|error| format!("{WORKSPACE}: {error}"))?;
    if PROGRAMS.iter().all(|program| changed(&directory.join(program)).is_ok_and(|built| built > sources)) {
        return Ok(directory);
    }
    let profile = match directory.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(profile) => profile,
    };
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(WORKSPACE).args(["build", "--quiet", "--profile", profile]);
    cargo.args(PROGRAMS.iter().flat_map(|program| ["-p", program]));
    let built = cargo.output().map_err(|error| format!("cannot run cargo: {error}"))?;
    if built.status.success() {
        Ok(directory)
    } else {
        Err(String::from_utf8_lossy(&built.stderr).into_owned())
    }
}

/// When anything was changed last that a program may be made of: sources, objects and manifests of all crates and programs.
fn newest_source(workspace: &Path) -> io::Result<SystemTime> {
    let mut newest = changed(&workspace.join("Cargo.toml"))?.max(changed(&workspace.join("Cargo.lock"))?);
    for folder in ["crates", "bins"] {
        for member in fs::read_dir(workspace.join(folder))? {
            let member = member?.path();
            newest = newest.max(changed(&member.join("Cargo.toml"))?);
            for part in ["src", "bpf"].map(|part| member.join(part)).iter().filter(|part| part.is_dir()) {
                newest = newest.max(newest_within(part)?);
            }
        }
    }
    Ok(newest)
}

/// When a folder, or anything in it, was changed last. A file that is gone has changed its folder.
fn newest_within(folder: &Path) -> io::Result<SystemTime> {
    let mut newest = changed(folder)?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let within =
            if entry.file_type()?.is_dir() { newest_within(&entry.path())? } else { changed(&entry.path())? };
        newest = newest.max(within);
    }
    Ok(newest)
}

fn changed(path: &Path) -> io::Result<SystemTime> {
    fs::metadata(path)?.modified()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn whatever_changed_last_in_a_workspace_is_found() {
        let workspace = TempDir::new().expect("a temporary directory");
        let place = |name: &str| workspace.path().join(name);
        let old = SystemTime::now() - Duration::from_secs(1_000);
        let date = |name: &str, time: SystemTime| {
            let file = fs::File::open(place(name)).expect("it is there");
            file.set_modified(time).expect("it is ours");
        };
        fs::create_dir_all(place("crates/a/src/deep")).expect("it is ours");
        fs::create_dir_all(place("bins")).expect("it is ours");
        let files = [
            "Cargo.toml",
            "Cargo.lock",
            "crates/a/Cargo.toml",
            "crates/a/src/deep/x.rs",
            "crates/a/README.md",
        ];
        files.iter().for_each(|file| fs::write(place(file), "").expect("it is ours"));
        let sources = [&files[..4], &["crates/a/src", "crates/a/src/deep"]].concat();
        sources.iter().for_each(|name| date(name, old));
        let newest = || newest_source(workspace.path()).expect("all is there");
        assert_eq!(newest(), old, "what is read by people makes no program");
        for (seconds, name) in (1..).zip(&sources) {
            date(name, old + Duration::from_secs(seconds));
            assert_eq!(newest(), old + Duration::from_secs(seconds), "{name}");
        }
    }
}
