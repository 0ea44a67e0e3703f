//! Resource limits: for what remains possible, how much of it.

use nix::{
    libc::rlim_t,
    sys::{
        resource::{Resource, getrlimit, setrlimit},
        stat::{SFlag, fstat},
    },
};

use crate::{
    Role,
    error::{ConfineError, Step},
};

/// Sockets of a worker (1,024 at most), its channel, ring and memory, and those that are on their way.
const WORKER_FILES: rlim_t = 1_024 + 64;
/// A socket or two, channel, memory, and what may be on its way.
const REFLECTOR_FILES: rlim_t = 64;
/// Clients (256 at most, and 128 over HTTP), a segment of counters for each worker (128 at most), channel, listener and event loop.
const CONTROL_FILES: rlim_t = 256 + 128 + 128 + 64;

pub(crate) fn apply(role: Role) -> Result<(), ConfineError> {
    let files = match role {
        Role::UringWorker | Role::SyscallWorker => WORKER_FILES,
        Role::Reflector => REFLECTOR_FILES,
        Role::Control => CONTROL_FILES,
    };
    limit(Resource::RLIMIT_NOFILE, files, "open files")?;
    // No core file, into which what passed by would be written.
    limit(Resource::RLIMIT_CORE, 0, "core files")?;
    // No process or thread more.
    limit(Resource::RLIMIT_NPROC, 0, "processes")?;
    // No file may grow, but the log if that is one: what a panic says must get there.
    if !error_output_is_a_file() {
        limit(Resource::RLIMIT_FSIZE, 0, "the size of files")?;
    }
    Ok(())
}

/// Sets both limits, but never above what is allowed already.
fn limit(resource: Resource, most: rlim_t, what: &'static str) -> Result<(), ConfineError> {
    let step = Step::Limit { what };
    let (_, hard) = getrlimit(resource).map_err(ConfineError::at(step))?;
    let most = most.min(hard);
    setrlimit(resource, most, most).map_err(ConfineError::at(step))
}

fn error_output_is_a_file() -> bool {
    let kind = |mode| SFlag::from_bits_truncate(mode) & SFlag::S_IFMT;
    fstat(std::io::stderr()).is_ok_and(|stat| kind(stat.st_mode) == SFlag::S_IFREG)
}
