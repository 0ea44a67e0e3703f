//! What a test needs from the machine it runs on.
//!
//! A test that lacks something returns early with a printed reason:
//! `let Some(()) = require::netns() else { return };`. Under `MCR_REQUIRE=all` the same is a failure, so that a
//! run that must cover everything cannot pass by skipping.

use std::env;
use std::fmt::Display;

use crate::namespace::Namespace;

/// The right to make network namespaces.
pub fn netns() -> Option<()> {
    match Namespace::new() {
        Ok(_) => Some(()),
        Err(error) => skip(error),
    }
}

/// Says why the calling test does not run, and gives `None`.
///
/// # Panics
/// Under `MCR_REQUIRE=all`.
#[allow(clippy::print_stderr)] // A skipped test must say so where the test's own output goes.
pub fn skip<T>(reason: impl Display) -> Option<T> {
    assert!(env::var_os("MCR_REQUIRE").is_none_or(|v| v != "all"), "MCR_REQUIRE=all, but: {reason}");
    eprintln!("skipped: {reason}");
    None
}
