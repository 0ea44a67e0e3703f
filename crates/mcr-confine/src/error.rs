//! Which step failed, and why.

use std::{error::Error, fmt};

/// A step of confinement that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step}")]
pub struct ConfineError {
    /// Which.
    pub step: Step,
    /// What the kernel, or the check, said.
    pub source: Box<dyn Error + Send + Sync>,
}

impl ConfineError {
    /// For `map_err`.
    pub(crate) fn at<E: Into<Box<dyn Error + Send + Sync>>>(step: Step) -> impl FnOnce(E) -> Self {
        move |source| Self { step, source: source.into() }
    }
}

/// The steps, in the words that follow "cannot".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// The kernel keeps most of what is given up for each thread apart.
    BeAlone,
    /// A resource limit.
    Limit {
        /// Of what.
        what: &'static str,
    },
    /// Descriptors that were inherited.
    SealDescriptors,
    /// Supplementary groups.
    LeaveGroups,
    /// Real, effective and saved group.
    ChangeGroup {
        /// To which.
        gid: u32,
    },
    /// Real, effective and saved user.
    ChangeUser {
        /// To which.
        uid: u32,
    },
    /// The bounding set.
    CutBounding,
    /// The other four sets.
    GiveUpCapabilities,
    /// The signal at the parent's end.
    DieWithParent,
    /// no_new_privs.
    RefusePrivileges,
    /// Whether others of the same user may trace and dump the process.
    ForbidTracing,
    /// A look at what the steps before have done.
    Verify,
    /// Landlock.
    DenyPaths,
    /// seccomp.
    FilterSystemCalls,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BeAlone => f.write_str("make sure that there is one thread"),
            Self::Limit { what } => write!(f, "limit {what}"),
            Self::SealDescriptors => f.write_str("keep inherited descriptors from children"),
            Self::LeaveGroups => f.write_str("leave the supplementary groups"),
            Self::ChangeGroup { gid } => write!(f, "change to group {gid}"),
            Self::ChangeUser { uid } => write!(f, "change to user {uid}"),
            Self::CutBounding => f.write_str("cut the capability bounding set"),
            Self::GiveUpCapabilities => f.write_str("give up capabilities"),
            Self::DieWithParent => f.write_str("be ended with the parent"),
            Self::RefusePrivileges => f.write_str("refuse new privileges"),
            Self::ForbidTracing => f.write_str("forbid tracing"),
            Self::Verify => f.write_str("verify the confinement"),
            Self::DenyPaths => f.write_str("deny paths by Landlock"),
            Self::FilterSystemCalls => f.write_str("filter system calls by seccomp"),
        }
    }
}
