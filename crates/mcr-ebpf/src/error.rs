//! Why the kernel path cannot be used, or not for this.

use std::io;

/// Why the programs could not be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// This process, or any, may not load programs.
    #[error("eBPF is not permitted (it takes CAP_BPF and CAP_NET_ADMIN)")]
    NotPermitted,
    /// The kernel lacks something the programs use.
    #[error("this kernel does not take the eBPF program: {reason}")]
    Kernel {
        /// What it said, in short.
        reason: String,
    },
    /// Something else failed.
    #[error("cannot load the eBPF program: {reason}")]
    Failed {
        /// What.
        reason: String,
    },
}

/// Why a program could not be attached.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// There is no such interface (any more).
    #[error("no interface with index {ifindex}")]
    NoInterface {
        /// The index.
        ifindex: u32,
    },
    /// The kernel refused.
    #[error("cannot attach the eBPF program: {reason}")]
    Refused {
        /// What it said.
        reason: String,
    },
}

/// Why a rule could not be carried.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpdateError {
    /// No place for so many.
    #[error("no room for more {what} in the kernel: {max} is the limit")]
    Full {
        /// Of what.
        what: &'static str,
        /// How many there may be.
        max: u32,
    },
    /// An output is of the other family.
    #[error("the kernel data path does not translate between IPv4 and IPv6")]
    Family,
    /// A map could not be written.
    #[error("cannot write an eBPF map: {reason}")]
    Map {
        /// What the kernel said.
        reason: String,
    },
    /// More room was needed, and could not be had.
    #[error("no more room in the kernel")]
    Grow(#[source] Box<LoadError>),
}

impl LoadError {
    pub(crate) fn of(error: &aya::EbpfError) -> Self {
        Self::from_chain(error)
    }

    pub(crate) fn from_chain(error: &(dyn std::error::Error + 'static)) -> Self {
        match os_error(error) {
            Some(libc::EPERM) => Self::NotPermitted,
            Some(errno @ (libc::EINVAL | libc::EACCES | libc::E2BIG | libc::EOPNOTSUPP | libc::ENOSYS)) => {
                Self::Kernel { reason: io::Error::from_raw_os_error(errno).to_string() }
            }
            Some(errno) => Self::Failed { reason: io::Error::from_raw_os_error(errno).to_string() },
            None => Self::Failed { reason: error.to_string() },
        }
    }
}

/// The kernel's answer at the bottom of a chain of errors.
pub(crate) fn os_error(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(errno) = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
            return Some(errno);
        }
        next = error.source();
    }
    None
}
