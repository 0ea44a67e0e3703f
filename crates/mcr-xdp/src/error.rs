//! Why a socket could not be had.

use std::io;

/// Sizes that the kernel would not take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ShapeError {
    /// The size of a frame.
    #[error("frames of {bytes} bytes: must be a power of two from 2048 to {page_bytes}, the size of a page")]
    FrameBytes {
        /// As asked for.
        bytes: u32,
        /// The size of a page here.
        page_bytes: u32,
    },
    /// The number of frames.
    #[error("{frames} frames: must be from 1 to {max}")]
    Frames {
        /// As asked for.
        frames: u32,
        /// The most there can be.
        max: u32,
    },
    /// The size of a ring.
    #[error("a {ring} ring of {entries} entries: must be a power of two, at most {max}")]
    Entries {
        /// Which ring.
        ring: &'static str,
        /// As asked for.
        entries: u32,
        /// The most there can be.
        max: u32,
    },
    /// All frames are in the reserve, and none could ever be received into.
    #[error("a reserve of {reserve} of {frames} frames leaves none to receive into")]
    Reserve {
        /// As asked for.
        reserve: u32,
        /// All of them.
        frames: u32,
    },
}

/// Why a socket could not be opened, or not be mapped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The sizes are not possible.
    #[error(transparent)]
    Shape(#[from] ShapeError),
    /// There is not that much memory, or it cannot be mapped.
    #[error("cannot have {bytes} bytes of shared memory")]
    Memory {
        /// How much was asked for.
        bytes: usize,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The memory that was passed is shorter than the shape says, or could be made shorter by its other holders.
    #[error(
        "the memory passed has {bytes} bytes, {want} are needed and a seal against shrinking (sealed: {sealed})"
    )]
    Unsealed {
        /// How much there is.
        bytes: u64,
        /// How much is needed.
        want: usize,
        /// Whether it is sealed.
        sealed: bool,
    },
    /// No AF_XDP socket: it takes CAP_NET_RAW and a kernel built with XDP_SOCKETS.
    #[error("cannot open an AF_XDP socket")]
    Socket(#[source] io::Error),
    /// The kernel did not take the memory. ENOBUFS: more than RLIMIT_MEMLOCK would be locked, without CAP_IPC_LOCK.
    #[error(
        "cannot register {bytes} bytes of memory with the kernel (at most RLIMIT_MEMLOCK without CAP_IPC_LOCK)"
    )]
    Register {
        /// How much was to be registered.
        bytes: usize,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A ring could not be made or mapped.
    #[error("cannot make or map the {ring} ring of {entries} entries")]
    Ring {
        /// Which ring.
        ring: &'static str,
        /// Its entries.
        entries: u32,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The queue cannot be bound. EBUSY: another socket has it, or had it until a moment ago: the kernel frees a
    /// queue some milliseconds after its socket was closed. EOPNOTSUPP: the driver cannot do what was asked for.
    #[error("cannot bind queue {queue} of interface {ifindex}")]
    Bind {
        /// The interface.
        ifindex: u32,
        /// Its queue.
        queue: u32,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The kernel does not say what the socket is.
    #[error("cannot read the socket's {what}")]
    Read {
        /// What was asked for.
        what: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}
