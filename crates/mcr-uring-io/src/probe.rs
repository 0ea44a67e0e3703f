//! Sets up a ring, or says why it cannot be: every feature needed is asked for here, before the first socket.

use std::io;

use io_uring::register::{Probe, Restriction};
use io_uring::squeue::Flags;
use io_uring::{IoUring, opcode};

use crate::buf_ring::BufRing;
use crate::{IoConfig, UringUnavailable};

/// The group number of our only provided-buffer ring.
pub(crate) const BUFFER_GROUP: u16 = 0;
/// IORING_REGISTER_FILES_UPDATE of include/uapi/linux/io_uring.h, the one register operation needed later on.
const REGISTER_FILES_UPDATE: u8 = 6;
/// What this crate submits.
const OPERATIONS: [(u8, &str); 4] = [
    (opcode::SendMsg::CODE, "sendmsg"),
    (opcode::RecvMsgMulti::CODE, "recvmsg"),
    (opcode::PollAdd::CODE, "poll"),
    (opcode::AsyncCancel2::CODE, "cancel"),
];

/// A ring, its buffer ring registered, enabled, and restricted if the config says so. The buffer ring must live until
/// the ring is closed.
pub(crate) fn open_ring(config: &IoConfig, buffers: &BufRing) -> Result<IoUring, UringUnavailable> {
    let ring = build(config)?;
    check_features(&ring)?;
    let submitter = ring.submitter();
    submitter.register_files_sparse(config.files_max.into()).map_err(step("register a file table"))?;
    // SAFETY: the address is that of a ring of so many entries (buf_ring.rs), and the caller keeps it until the io_uring
    // is closed (ring.rs on dropping).
    let registered = unsafe {
        submitter.register_buf_ring_with_flags(buffers.address(), buffers.entries(), BUFFER_GROUP, 0)
    };
    registered.map_err(step("register a ring of receive buffers"))?;
    if config.restricted {
        submitter.register_restrictions(&mut restrictions()).map_err(step("restrict the ring"))?;
        submitter.register_enable_rings().map_err(step("enable the ring"))?;
    }
    Ok(ring)
}

/// SINGLE_ISSUER came with 6.0 as multishot recvmsg did, which nothing else announces; so it is not optional.
fn build(config: &IoConfig) -> Result<IoUring, UringUnavailable> {
    let sends = u32::from(config.sends_max);
    let files = u32::from(config.files_max);
    // Each send, and an arming and a cancelling per socket, so that a batch never fills the queue half-way.
    let submissions = (sends + 2 * files + 1).next_power_of_two().min(32_768);
    // A completion per buffer, per send, and two per socket: overflow, though handled, would cost a detour.
    let completions = (u32::from(config.buffers) + sends + 2 * files + 1).next_power_of_two();
    let completions = completions.clamp(submissions, 65_536);
    let mut builder = IoUring::builder();
    builder.setup_single_issuer().setup_submit_all().setup_clamp().setup_cqsize(completions);
    if config.restricted {
        builder.setup_r_disabled();
    }
    // DEFER_TASKRUN (6.1): completions are made when we wait, not when the kernel likes.
    let deferred = builder.clone().setup_defer_taskrun().build(submissions);
    let built = match deferred {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            builder.setup_coop_taskrun().build(submissions)
        }
        other => other,
    };
    built.map_err(UringUnavailable::Setup)
}

fn check_features(ring: &IoUring) -> Result<(), UringUnavailable> {
    let parameters = ring.params();
    let features = [
        (parameters.is_feature_nodrop(), "overflow list (NODROP)"),
        (parameters.is_feature_ext_arg(), "timeout for waiting (EXT_ARG)"),
        (parameters.is_feature_fast_poll(), "internal polling (FAST_POLL)"),
    ];
    if let Some((_, feature)) = features.iter().find(|(there, _)| !there) {
        return Err(UringUnavailable::Feature(feature));
    }
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe).map_err(step("ask for the operations"))?;
    match OPERATIONS.iter().find(|(code, _)| !probe.is_supported(*code)) {
        Some((_, operation)) => Err(UringUnavailable::Feature(operation)),
        None => Ok(()),
    }
}

/// io_uring can do what seccomp forbids, therefore only our operations, and only on registered files.
fn restrictions() -> Vec<Restriction> {
    let fixed = Flags::FIXED_FILE.bits();
    let operations = OPERATIONS.iter().map(|(code, _)| Restriction::sqe_op(*code));
    let rest = [
        Restriction::sqe_flags_required(fixed),
        Restriction::sqe_flags_allowed(fixed | Flags::BUFFER_SELECT.bits()),
        Restriction::register_op(REGISTER_FILES_UPDATE),
    ];
    operations.chain(rest).collect()
}

fn step(step: &'static str) -> impl FnOnce(io::Error) -> UringUnavailable {
    move |source| UringUnavailable::Step { step, source }
}
