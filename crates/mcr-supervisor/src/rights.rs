//! What the supervisor keeps of root's rights. It gives up the rest as soon as it listens, before it has started anything.

use mcr_confine::{Capability, ConfineError, Kept, holds, keep_only};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tracing::{debug, info};

/// As much as 128 queues take.
const MEMLOCK_BYTES_MAX: u64 = 1 << 30;

/// A child of uid 0 begins with the same, by the bounding set, and gives them up before it reads anything of a stranger's.
const KEPT: [Capability; 8] = [
    // Packet and raw sockets.
    Capability::CAP_NET_RAW,
    // Buffers beyond net.core.rmem_max, the kernel data path's programs on devices.
    Capability::CAP_NET_ADMIN,
    // Those programs themselves, and their maps.
    Capability::CAP_BPF,
    // Rules that listen on ports below 1024, as those of PTP and NTP.
    Capability::CAP_NET_BIND_SERVICE,
    // Children change to another user and leave all groups: they begin with what this process has.
    Capability::CAP_SETUID,
    Capability::CAP_SETGID,
    // Children empty their bounding sets.
    Capability::CAP_SETPCAP,
    // A child that does not stop is killed, though it runs as another user.
    Capability::CAP_KILL,
];

/// As many descriptors as this process may have: memberships and inputs of many rules take more than the usual 1,024.
pub(crate) fn raise_file_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(problem) = raised {
        info!("the limit of open files stays as it is: {problem}");
    }
}

pub(crate) fn give_up_all_but_few() -> Result<(), ConfineError> {
    let mut kept = KEPT.to_vec();
    // The memory of AF_XDP frames is locked, and the usual limit is less than what one queue takes. To raise it takes a right that goes now.
    if let Err(errno) = setrlimit(Resource::RLIMIT_MEMLOCK, MEMLOCK_BYTES_MAX, MEMLOCK_BYTES_MAX) {
        debug!("the limit of locked memory stays as it is: {errno}");
        // Containers have this one more often than the other.
        if holds(Capability::CAP_IPC_LOCK) {
            kept.push(Capability::CAP_IPC_LOCK);
        }
    }
    let Kept { bounding_cut, inherited_sealed } = keep_only(&kept)?;
    debug!(bounding_cut, "rights given up but those to open sockets and to start children");
    if !inherited_sealed {
        info!(
            "this kernel cannot keep inherited descriptors from children (Linux 5.11 can): start mcrd without any"
        );
    }
    Ok(())
}

/// How much memory may be locked.
pub(crate) fn lockable_bytes() -> u64 {
    if holds(Capability::CAP_IPC_LOCK) {
        return u64::MAX;
    }
    getrlimit(Resource::RLIMIT_MEMLOCK).map_or(0, |(soft, _)| soft)
}
