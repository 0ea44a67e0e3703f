//! Waiting for a condition, with a deadline.

use std::thread;
use std::time::{Duration, Instant};

use crate::error::LabError;

/// Between two looks: far below what a test notices, far above what a core notices.
const PAUSE: Duration = Duration::from_millis(1);

/// Waits until `condition` is true, or fails with `what` (as in "the rule is active") after `timeout`.
pub fn wait_until(
    timeout: Duration,
    what: &str,
    mut condition: impl FnMut() -> bool,
) -> Result<(), LabError> {
    let started = Instant::now();
    loop {
        if condition() {
            return Ok(());
        }
        let waited = started.elapsed();
        if waited >= timeout {
            return Err(LabError::Timeout { what: what.to_owned(), waited });
        }
        thread::sleep(PAUSE);
    }
}
