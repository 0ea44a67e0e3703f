//! Where the programs under test are.
//!
//! They are built once per test program, with the same profile, so that `cargo test` alone never tests stale ones. With
//! MCR_BIN_DIR set, those that lie there are taken as they are.

use std::{
    env,
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
};

use tempfile::TempDir;

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

/// Builds them beside this test program, which lies in `target/PROFILE/deps`.
fn build() -> Result<PathBuf, String> {
    let test = env::current_exe().expect("the test program has a path");
    let directory = test.parent().and_then(Path::parent).expect("target/PROFILE/deps").to_owned();
    let profile = match directory.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(profile) => profile,
    };
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
    cargo.args(["build", "--quiet", "--profile", profile, "-p", "mcrd", "-p", "mcrctl", "-p", "mcrgen"]);
    let built = cargo.output().map_err(|error| format!("cannot run cargo: {error}"))?;
    if built.status.success() {
        Ok(directory)
    } else {
        Err(String::from_utf8_lossy(&built.stderr).into_owned())
    }
}
