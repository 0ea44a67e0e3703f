//! Failures as a user sees them: one line on standard error, and the exit code that the contract gives it.

use std::{
    io::{self, ErrorKind, Write},
    process::ExitCode,
};

/// Why the program ends with something else than 0.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    /// Exit code 1.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self { code: 1, message: message.into() }
    }

    /// Exit code 2.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { code: 2, message: message.into() }
    }

    /// Exit code 3.
    pub(crate) fn not_permitted(message: impl Into<String>) -> Self {
        Self { code: 3, message: message.into() }
    }

    /// Any exit code.
    pub(crate) fn with_code(code: u8, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// Everything was said already.
    pub(crate) fn silent(code: u8) -> Self {
        Self { code, message: String::new() }
    }

    /// By the kind of an I/O error.
    pub(crate) fn io(message: impl Into<String>, error: &io::Error) -> Self {
        if error.kind() == ErrorKind::PermissionDenied {
            Self::not_permitted(message)
        } else {
            Self::failed(message)
        }
    }

    pub(crate) fn report(self) -> ExitCode {
        if !self.message.is_empty() {
            say(&self.message);
        }
        ExitCode::from(self.code)
    }
}

/// A line for a person, on standard error. A closed one is no reason to fail.
pub(crate) fn say(message: &str) {
    let _ = writeln!(io::stderr().lock(), "mcrd: {message}");
}
