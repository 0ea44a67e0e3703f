//! Landlock: no path, no TCP, and no way to processes outside, for whatever seccomp should have let through.

use std::fmt;

use ::landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, LandlockStatus, RestrictionStatus, Ruleset,
    RulesetAttr, RulesetStatus, Scope,
};

use crate::error::{ConfineError, Step};

/// The newest version of the interface that is asked for; of what it can do, the kernel does what it knows.
const NEWEST: ABI = ABI::V9;

/// What Landlock does for this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Landlock {
    /// It denies every path, and what else this version of the kernel's interface can: TCP from 4, abstract sockets and signals
    /// to other processes from 6.
    Enforced {
        /// The version.
        abi: i32,
    },
    /// The kernel has it, and it is not enabled (`lsm=` on the kernel's command line).
    NotEnabled,
    /// The kernel does not have it.
    NotSupported,
}

impl fmt::Display for Landlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Enforced { abi } => write!(f, "Landlock (ABI {abi})"),
            Self::NotEnabled => f.write_str("no Landlock (not enabled in this kernel)"),
            Self::NotSupported => f.write_str("no Landlock (not supported by this kernel)"),
        }
    }
}

pub(crate) fn deny_all() -> Result<Landlock, ConfineError> {
    let failed = || ConfineError::at(Step::DenyPaths);
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))
        .and_then(|ruleset| ruleset.handle_access(AccessNet::from_all(NEWEST)))
        .and_then(|ruleset| ruleset.scope(Scope::from_all(NEWEST)))
        .and_then(Ruleset::create)
        .map_err(failed())?;
    // No rule is added: nothing of what is handled is allowed.
    ruleset.restrict_self().map_err(failed()).and_then(|status| outcome(&status))
}

fn outcome(status: &RestrictionStatus) -> Result<Landlock, ConfineError> {
    match (&status.ruleset, status.landlock) {
        (_, LandlockStatus::NotImplemented) => Ok(Landlock::NotSupported),
        (_, LandlockStatus::NotEnabled) => Ok(Landlock::NotEnabled),
        (RulesetStatus::NotEnforced, _) => {
            Err(ConfineError::at(Step::DenyPaths)("the kernel has it, and nothing is enforced"))
        }
        (_, LandlockStatus::Available { effective_abi, .. }) => {
            Ok(Landlock::Enforced { abi: effective_abi as i32 })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io::ErrorKind, net::TcpListener, thread};

    use super::*;

    #[test]
    fn no_path_and_no_tcp_port_is_left_where_the_kernel_can_deny_it() {
        // Restricts the thread that asks for it, and no other.
        let thread =
            thread::spawn(|| (deny_all(), std::fs::read("/etc/passwd"), TcpListener::bind("127.0.0.1:0")));
        let (outcome, file, port) = thread.join().expect("it does not panic");
        let Landlock::Enforced { abi } = outcome.expect("it works, or is not there") else {
            assert!(std::env::var("MCR_REQUIRE").as_deref() != Ok("all"), "this kernel has no Landlock");
            return;
        };
        let denied = |kind: Option<ErrorKind>| kind == Some(ErrorKind::PermissionDenied);
        assert!(denied(file.err().map(|error| error.kind())));
        assert!(abi < 4 || denied(port.err().map(|error| error.kind())));
        assert!(std::fs::read("/etc/passwd").is_ok(), "other threads are as they were");
    }
}
