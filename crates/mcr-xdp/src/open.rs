//! Opening a socket: all that takes rights.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::error::OpenError;
use crate::map::Map;
use crate::shape::Shape;
use crate::{memory, sys};

/// XDP_MAX_TX_SKB_BUDGET of linux/if_xdp.h: how many frames one system call sends in copy mode (Linux 6.17, 32 before).
const MAX_TX_SKB_BUDGET: libc::c_int = 9;

/// How a socket is bound to its queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Binding {
    /// Zero-copy if the driver can, else copying. The XDP program must be attached to the driver (native).
    #[default]
    Best,
    /// Copying. Must be chosen if the XDP program is attached to the stack (generic).
    Copy,
    /// Zero-copy or nothing.
    ZeroCopy,
}

/// What to open.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// The interface.
    pub ifindex: u32,
    /// Its queue: what arrives on another never comes here.
    pub queue: u32,
    /// The sizes.
    pub shape: Shape,
    /// How to bind.
    pub binding: Binding,
    /// Whether to try reserved huge pages; normal pages are the silent fallback.
    pub huge_pages: bool,
    /// For how long, in microseconds, a wait polls the driver itself before it sleeps (SO_PREFER_BUSY_POLL); 0 for not at all.
    pub busy_poll_us: u32,
}

impl Config {
    /// One queue of an interface, everything else by default.
    #[must_use]
    pub fn new(ifindex: u32, queue: u32) -> Self {
        let (shape, binding) = (Shape::default(), Binding::default());
        Self { ifindex, queue, shape, binding, huge_pages: true, busy_poll_us: 0 }
    }
}

/// A bound socket, in no process's memory yet: two descriptors and sizes, to be used here or passed on.
#[derive(Debug)]
pub struct Opened {
    /// The socket. It receives as soon as it is in an XSKMAP that an attached program redirects to.
    pub socket: OwnedFd,
    /// The memory of its frames.
    pub memory: OwnedFd,
    /// The sizes.
    pub shape: Shape,
    /// Whether the driver works on that memory directly.
    pub zero_copy: bool,
}

impl Opened {
    /// Opens and binds a socket in the network namespace of the calling thread. Takes CAP_NET_RAW; CAP_NET_ADMIN for busy polling
    /// above the system's limits, CAP_IPC_LOCK for more memory than RLIMIT_MEMLOCK.
    ///
    /// # Errors
    /// [`OpenError`] says at which step it ended; nothing is left open then.
    pub fn open(config: &Config) -> Result<Self, OpenError> {
        let shape = config.shape;
        shape.check()?;
        let bytes = shape.memory_bytes();
        let (memory, map) = memory::create(bytes, config.huge_pages)?;
        let socket = sys::socket().map_err(OpenError::Socket)?;
        register(socket.as_fd(), &map, &shape).map_err(|source| OpenError::Register { bytes, source })?;
        make_rings(socket.as_fd(), &shape)?;
        tune(socket.as_fd(), config);
        let (ifindex, queue) = (config.ifindex, config.queue);
        bind(socket.as_fd(), config).map_err(|source| OpenError::Bind { ifindex, queue, source })?;
        let zero_copy = sys::is_zero_copy(socket.as_fd())
            .map_err(|source| OpenError::Read { what: "options", source })?;
        Ok(Self { socket, memory, shape, zero_copy })
    }
}

/// The kernel pins the pages; that this process unmaps them afterwards changes nothing.
fn register(socket: BorrowedFd<'_>, map: &Map, shape: &Shape) -> io::Result<()> {
    let region = libc::xdp_umem_reg {
        addr: map.at::<u8>(0, shape.memory_bytes()).as_ptr() as u64,
        len: shape.memory_bytes() as u64,
        chunk_size: shape.frame_bytes,
        headroom: 0,
        flags: 0,
        tx_metadata_len: 0,
    };
    sys::set(socket, libc::SOL_XDP, libc::XDP_UMEM_REG, &region)
}

fn make_rings(socket: BorrowedFd<'_>, shape: &Shape) -> Result<(), OpenError> {
    for (ring, name, entries) in [
        ("fill", libc::XDP_UMEM_FILL_RING, shape.fill_entries),
        ("completion", libc::XDP_UMEM_COMPLETION_RING, shape.completion_entries),
        ("receive", libc::XDP_RX_RING, shape.receive_entries),
        ("transmit", libc::XDP_TX_RING, shape.transmit_entries),
    ] {
        sys::set(socket, libc::SOL_XDP, name, &entries).map_err(|source| OpenError::Ring {
            ring,
            entries,
            source,
        })?;
    }
    Ok(())
}

/// What makes it faster where the kernel allows it, and is no loss where not.
fn tune(socket: BorrowedFd<'_>, config: &Config) {
    // More frames for each system call. Refused by older kernels, and for rings of less than 32 entries.
    let _ = sys::set(socket, libc::SOL_XDP, MAX_TX_SKB_BUDGET, &config.shape.transmit_entries);
    // In copy mode what is under way counts against the send buffer; let it be as much as the ring holds, with the kernel's own
    // bookkeeping for each (roughly a page).
    let bytes =
        libc::c_int::try_from(u64::from(config.shape.transmit_entries) * 4096).unwrap_or(libc::c_int::MAX);
    if sys::set(socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &bytes).is_err() {
        let _ = sys::set(socket, libc::SOL_SOCKET, libc::SO_SNDBUF, &bytes);
    }
    if config.busy_poll_us > 0 {
        let on: libc::c_int = 1;
        let _ = sys::set(socket, libc::SOL_SOCKET, libc::SO_PREFER_BUSY_POLL, &on);
        let _ = sys::set(socket, libc::SOL_SOCKET, libc::SO_BUSY_POLL, &config.busy_poll_us);
        let budget: libc::c_int = 64;
        let _ = sys::set(socket, libc::SOL_SOCKET, libc::SO_BUSY_POLL_BUDGET, &budget);
    }
}

fn bind(socket: BorrowedFd<'_>, config: &Config) -> io::Result<()> {
    let how = match config.binding {
        Binding::Best => 0,
        Binding::Copy => libc::XDP_COPY,
        Binding::ZeroCopy => libc::XDP_ZEROCOPY,
    };
    sys::bind(socket, config.ifindex, config.queue, how | libc::XDP_USE_NEED_WAKEUP)
}
