//! One test with traffic at a time. Two on two cores would starve each other's receivers, and counts would not be exact.

use std::fs::File;

use nix::fcntl::{Flock, FlockArg};

use crate::programs;

/// Held while a test sends.
#[must_use = "traffic of others starts when this is dropped"]
#[derive(Debug)]
pub struct TrafficLock(#[expect(dead_code, reason = "held, not used")] Flock<File>);

/// Waits until no other test sends, in this program or another.
///
/// # Panics
/// If the file cannot be locked.
pub fn take() -> TrafficLock {
    let path = programs::directory().join("mcr-e2e.lock");
    let mut options = File::options();
    let file = options.create(true).append(true).open(&path);
    let file = file.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    match Flock::lock(file, FlockArg::LockExclusive) {
        Ok(lock) => TrafficLock(lock),
        Err((_, errno)) => panic!("{}: {errno}", path.display()),
    }
}
