//! Programs started inside a namespace.
//!
//! `pre_exec` is unsafe because its closure runs between fork and exec.
//! Starting the program from a thread that is inside the namespace would need no unsafe, but the thread ends
//! before the program does, and a program that asked for PR_SET_PDEATHSIG would be killed by that.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;

use nix::sched::{CloneFlags, setns};

/// A command whose process is in the namespace of `fd` before it becomes `program`.
#[allow(unsafe_code)]
pub(crate) fn command(fd: Arc<OwnedFd>, program: &OsStr) -> Command {
    let mut command = Command::new(program);
    let enter = move || setns(&*fd, CloneFlags::CLONE_NEWNET).map_err(Into::into);
    // SAFETY: the closure runs in the forked child, where only async-signal-safe calls are allowed: it makes
    // one setns system call on a descriptor that the closure itself owns, allocates nothing and takes no lock
    // (an errno becomes an io::Error without allocating).
    unsafe { command.pre_exec(enter) };
    command
}
