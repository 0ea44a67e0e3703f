//! Rights for an ordinary user: root in a user namespace of one's own.

use std::fs;
use std::io;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};

use crate::error::LabError;

/// Moves the process into a new user namespace in which its user and group are root, so that it may make
/// network namespaces and everything in them. user_namespaces(7) has the rules.
///
/// Call it first thing in `main`: the kernel allows it only to a process with a single thread. There is no way
/// back, and on an error after the first step the process is left in a namespace without rights, so a program
/// that wants to fall back does this in a child process.
///
/// # Errors
/// [`LabError::NotSingleThreaded`]; [`LabError::UserNamespaceForbidden`] where sysctls
/// (`user.max_user_namespaces`, `kernel.unprivileged_userns_clone`) or a security module forbid it.
pub fn enter_user_namespace() -> Result<(), LabError> {
    let (user, group) = (geteuid(), getegid());
    match unshare(CloneFlags::CLONE_NEWUSER) {
        Ok(()) => {}
        Err(Errno::EINVAL) => return Err(LabError::NotSingleThreaded),
        Err(errno) => return Err(forbidden("unshare", errno.into())),
    }
    // Without "deny" here an ordinary user may not write gid_map (user_namespaces(7)).
    write("write setgroups", "/proc/self/setgroups", "deny")?;
    write("write uid_map", "/proc/self/uid_map", &format!("0 {user} 1"))?;
    write("write gid_map", "/proc/self/gid_map", &format!("0 {group} 1"))
}

fn write(step: &'static str, path: &str, text: &str) -> Result<(), LabError> {
    fs::write(path, text).map_err(|e| forbidden(step, e))
}

fn forbidden(step: &'static str, source: io::Error) -> LabError {
    LabError::UserNamespaceForbidden { step, source }
}
