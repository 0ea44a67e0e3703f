//! One error per operation.

use std::io;

/// Why no `Io` could be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The number of buffers does not suit a provided-buffer ring.
    #[error("{buffers} buffers: it must be a power of two, at most 32768")]
    Buffers {
        /// What the config says.
        buffers: u16,
    },
    /// A field of the config is zero.
    #[error("{field} must not be 0")]
    Zero {
        /// The field.
        field: &'static str,
    },
    /// The buffers do not fit the address space.
    #[error("the buffers are too large")]
    TooLarge,
    /// The kernel refused the memory of the buffers.
    #[error("cannot map {bytes} bytes of receive buffers")]
    Memory {
        /// The size of the mapping.
        bytes: usize,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The config insists on io_uring.
    #[error("io_uring cannot be used")]
    Uring(#[from] UringUnavailable),
    /// No epoll instance could be made.
    #[error("cannot create an epoll instance")]
    Epoll(#[source] io::Error),
}

/// Why io_uring cannot be used here.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UringUnavailable {
    /// `io_uring_setup` failed: ENOSYS without support, EPERM if forbidden (sysctl `kernel.io_uring_disabled`, seccomp),
    /// EINVAL on kernels before 6.0, which do not know all the flags.
    #[error("io_uring_setup: {0}")]
    Setup(#[source] io::Error),
    /// The kernel's io_uring lacks a feature.
    #[error("this kernel's io_uring has no {0}")]
    Feature(&'static str),
    /// One of the steps that prepare a ring failed.
    #[error("io_uring: cannot {step}: {source}")]
    Step {
        /// What was tried.
        step: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// Why a socket was not added; it is closed then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AddError {
    /// There are `files_max` sockets already, counting closed ones with operations still in flight.
    #[error("all {files_max} places for sockets are taken")]
    Full {
        /// The config's limit.
        files_max: u16,
    },
    /// The shape asks for more than 128 bytes of name or 256 of control messages.
    #[error("{name_bytes} bytes of name, {control_bytes} of control messages: more than 128 or 256")]
    Shape {
        /// What was asked for.
        name_bytes: u16,
        /// What was asked for.
        control_bytes: u16,
    },
    /// The packet socket's ring could not be mapped: EINVAL if it has none, or one of another shape.
    #[error("cannot map the socket's ring")]
    Map(#[source] io::Error),
    /// The kernel refused it.
    #[error("cannot register the socket")]
    Register(#[source] io::Error),
}

/// Why a message was not queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// All send slots are taken; `wait` frees those whose `Sent` event it reports.
    #[error("all send slots are taken")]
    Full,
    /// More than [`PARTS_MAX`](crate::PARTS_MAX) parts.
    #[error("a message has at most 64 parts")]
    TooManyParts,
    /// The inline parts hold more than [`INLINE_BYTES_MAX`](crate::INLINE_BYTES_MAX) bytes.
    #[error("the inline parts of a message hold at most 128 bytes")]
    InlineTooLong,
    /// A part's range is not within its datagram's payload.
    #[error("a part lies outside its datagram's payload")]
    PartOutOfRange,
    /// The key names no socket that can send: closed, a watch, or never one of this `Io`.
    #[error("no such socket to send on")]
    UnknownSocket,
    /// Hop limit or traffic class are given, but neither destination nor source, which tell IPv4 from IPv6.
    #[error("hop limit and traffic class need a destination or a source, to tell IPv4 from IPv6")]
    FamilyUnknown,
}

/// Why waiting failed. What was queued stays queued.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WaitError {
    /// The kernel refused: of io_uring_enter mostly EAGAIN or ENOMEM for want of memory.
    #[error("cannot submit or wait")]
    Enter(#[source] io::Error),
}
