//! Confinement of the relay's processes.
//!
//! [`confine`] takes every right from a child that parses what strangers sent: what remains is its memory, the descriptors it
//! was given and the few system calls that its work takes. [`keep_only`] leaves the supervisor the capabilities that it
//! names. Both do all of their steps or fail with the name of the step; a process that gets an error must exit.
//!
//! Both act on the calling thread, and most of what they do the kernel keeps for each thread apart. So they insist on being
//! called while there is only one.
//!
//! What this crate does not do: decide who runs as whom, open or close anything, or log.
#![deny(unsafe_code)]

mod capabilities;
mod descriptors;
mod error;
mod filter;
mod ids;
mod landlock;
mod limits;
mod status;

pub use caps::Capability;

pub use crate::{
    error::{ConfineError, Step},
    landlock::Landlock,
};

/// A child's duty, which says what it may still do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Data plane on io_uring. The ring must be open, restricted to its operations and enabled.
    UringWorker,
    /// Data plane on epoll, `recvmmsg` and `sendmmsg`.
    SyscallWorker,
    /// A reflector of test packets: batches of frames on sockets that it was given, and waiting for them.
    Reflector,
    /// Control plane: an event loop on epoll, and stream clients.
    Control,
}

/// Whom a process runs as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ids {
    /// Real, effective and saved user.
    pub uid: u32,
    /// Real, effective and saved group.
    pub gid: u32,
}

/// How a child is to be confined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Its duty.
    pub role: Role,
    /// Whom it is to run as, without supplementary groups. None: it stays who it is, for want of the right to change.
    pub ids: Option<Ids>,
}

/// What a confined process is, for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Confined {
    /// Whom it runs as now.
    pub ids: Ids,
    /// Whether even the bounding set of capabilities is empty. Only a process with CAP_SETPCAP can empty it; without, and with
    /// no_new_privs, there is no way to use what it holds.
    pub bounding_empty: bool,
    /// What Landlock adds.
    pub landlock: Landlock,
}

impl std::fmt::Display for Confined {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { ids: Ids { uid, gid }, bounding_empty, landlock } = self;
        let bounding =
            if *bounding_empty { "" } else { " (bounding set left, as without rights it must be)" };
        write!(f, "confined: user {uid}, group {gid}, no capabilities{bounding}, seccomp, {landlock}")
    }
}

/// Takes every right from this process that its role does not need. There is no way back.
///
/// The order is that of what each step needs: the bounding set takes CAP_SETPCAP and the ids take CAP_SETUID, so both come before
/// the capabilities go; no_new_privs lets an ordinary user apply Landlock and seccomp; seccomp forbids all the others, so it
/// comes last.
///
/// # Errors
/// [`ConfineError`] names the step that failed. The process may be half confined then and must exit.
pub fn confine(policy: &Policy) -> Result<Confined, ConfineError> {
    status::expect_one_thread()?;
    limits::apply(policy.role)?;
    let bounding_empty = capabilities::cut_bounding(&[])?;
    if let Some(ids) = policy.ids {
        ids::become_only(ids)?;
    }
    capabilities::give_up(&[])?;
    status::seal()?;
    status::die_with_parent()?;
    let ids = status::verify(policy.ids, bounding_empty)?;
    let landlock = landlock::deny_all()?;
    filter::apply(policy.role)?;
    Ok(Confined { ids, bounding_empty, landlock })
}

/// Whether this thread can use `capability` now; what cannot be asked is not there.
#[must_use]
pub fn holds(capability: Capability) -> bool {
    caps::has_cap(None, caps::CapSet::Effective, capability).unwrap_or(false)
}

/// What [`keep_only`] could not do for want of a right or of a newer kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// Whether the bounding set was cut; only a process with CAP_SETPCAP can.
    pub bounding_cut: bool,
    /// Whether descriptors that were inherited will be closed at exec, so that no child gets them (Linux 5.11).
    pub inherited_sealed: bool,
}

/// Gives up every capability but those named, in all five sets, for good: also no_new_privs is set, and the process can be neither
/// traced nor dumped by others of its user. Descriptors above 2 that it inherited become close-on-exec.
///
/// The capabilities kept are permitted and effective, and in the bounding set, so that a child of uid 0 begins with them and
/// no more; none is inheritable or ambient.
///
/// # Errors
/// [`ConfineError`] names the step that failed. The process must exit.
pub fn keep_only(kept: &[Capability]) -> Result<Kept, ConfineError> {
    status::expect_one_thread()?;
    let inherited_sealed = descriptors::close_at_exec()?;
    let bounding_cut = capabilities::cut_bounding(kept)?;
    capabilities::give_up(kept)?;
    status::seal()?;
    Ok(Kept { bounding_cut, inherited_sealed })
}
