//! Why a test network could not be made.

use std::error::Error;
use std::io;
use std::time::Duration;

/// Why an operation on a test network failed; the text names what was tried, the source is the kernel's errno.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LabError {
    /// A namespace could not be made, opened or entered.
    #[error("network namespace: cannot {step}: {source}")]
    Namespace {
        /// What was tried.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel refused a netlink request.
    #[error("cannot {what}: {source}")]
    Request {
        /// What was tried, e.g. `add address 10.1.0.1/24 to src0`.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel's answer to a netlink request was not understood.
    #[error("cannot {what}: the kernel's answer was not understood: {reason}")]
    Answer {
        /// What was tried.
        what: String,
        /// What was wrong with the answer.
        reason: String,
    },
    /// A sysctl could not be written or read.
    #[error("sysctl {key}: {source}")]
    Sysctl {
        /// The key, with dots.
        key: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel, or the system's policy, forbids user namespaces to this user.
    #[error("user namespaces are not permitted here: cannot {step}: {source}")]
    UserNamespaceForbidden {
        /// What was tried.
        step: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// A user namespace can be entered only by a process with one thread.
    #[error("a user namespace can be entered only while the process has a single thread")]
    NotSingleThreaded,
    /// A system call could not be forbidden.
    #[error("cannot forbid a system call: {source}")]
    Forbid {
        /// What the kernel, or the library that writes the filter, said.
        source: Box<dyn Error + Send + Sync>,
    },
    /// A condition did not come true in time.
    #[error("{what}: not within {waited:?}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        waited: Duration,
    },
}
