//! The redirect to AF_XDP sockets: frames that a reflector wants go to the socket of the queue they came on, all others to the
//! stack, untouched.
//!
//! [`XskFilter`] attaches one program to one interface, through a BPF link: the program leaves with the process, however that ends. The
//! program runs in the driver (native) where that can be, else in the stack (generic).
//!
//! What is not here: the sockets (mcr-xdp), and the parser whose decisions the program repeats (mcr-reflect).
//!
//! Limits that the kernel sets: one XDP program per interface and mode, so an interface with another's program on it is refused; native mode on
//! veth takes an MTU of at most about 3,500 bytes; a VLAN tag that the NIC takes out before the driver sees the frame is unknown to XDP,
//! so receive VLAN offload must be off (`ethtool -K IF rxvlan off`) where tagged frames are to be answered with their tag.

mod selection;
mod trial;
mod verdict;

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use aya::{
    Ebpf,
    maps::{Array, MapData, MapError, PerCpuArray, XskMap},
    programs::{Xdp, XdpMode, links::FdLink},
};

pub use selection::{Oam, SERVICES_MAX, Selection, Signatures};
#[doc(hidden)]
pub use trial::Trial;
pub use verdict::{Counts, Verdict};

use crate::{error::os_error, loader};
use selection::RawSelection;

static XSK: &[u8] = aya::include_bytes_aligned!("../../bpf/xsk.bpf.o");

/// Queues that can have a socket (QUEUES_MAX in bpf/xsk.h).
pub const QUEUES_MAX: u32 = 256;

/// Where the program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attachment {
    /// In the driver, before the kernel has made a buffer of the frame.
    Native,
    /// In the stack, with any driver. Sockets must be bound for copying.
    Generic,
}

/// Why frames cannot be redirected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum XskError {
    /// This process, or any, may not load or attach programs.
    #[error("eBPF is not permitted (it takes CAP_BPF and CAP_NET_ADMIN)")]
    NotPermitted,
    /// The kernel does not take the program.
    #[error("this kernel does not take the XDP program (Linux 5.18 does): {reason}")]
    Load {
        /// What it said.
        reason: String,
    },
    /// The interface does not take it.
    #[error("no XDP program can be attached to interface {ifindex}: {reason}")]
    Attach {
        /// The interface.
        ifindex: u32,
        /// What the kernel said.
        reason: String,
    },
    /// Another XDP program is there.
    #[error("interface {ifindex} has an XDP program already")]
    Occupied {
        /// The interface.
        ifindex: u32,
    },
    /// The kernel has no BPF links for XDP, and a program attached otherwise could stay behind.
    #[error(
        "this kernel attaches XDP programs only so that they would stay when the process ends (Linux 5.9 does better)"
    )]
    NoLinks,
    /// There is no socket for so high a queue.
    #[error("queue {queue}: only {QUEUES_MAX} queues can have sockets")]
    Queue {
        /// The queue.
        queue: u32,
    },
    /// More ports than the program compares.
    #[error("{ports} ports of services: at most {SERVICES_MAX}")]
    Services {
        /// How many were asked for.
        ports: usize,
    },
    /// A map could not be written or read.
    #[error("cannot use an eBPF map: {reason}")]
    Map {
        /// What the kernel said.
        reason: String,
    },
}

/// The program on one interface, as long as this lives.
pub struct XskFilter {
    // First, so that nothing is redirected any more when the maps go.
    _link: FdLink,
    attachment: Attachment,
    program: Program,
}

/// The program and its maps, not attached.
struct Program {
    ebpf: Ebpf,
    sockets: XskMap<MapData>,
    selections: Array<MapData, RawSelection>,
    current: Array<MapData, u32>,
    counts: PerCpuArray<MapData, u64>,
    near_misses: PerCpuArray<MapData, u64>,
    /// Which of the two selections holds.
    slot: u32,
}

impl std::fmt::Debug for XskFilter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("XskFilter").field("attachment", &self.attachment).finish_non_exhaustive()
    }
}

impl XskFilter {
    /// Attaches to an interface of the calling thread's namespace: in the driver, or where that cannot be, in the stack. Nothing is redirected
    /// before a queue has a socket.
    ///
    /// # Errors
    /// [`XskError`]; nothing is attached then.
    pub fn attach(ifindex: u32, selection: &Selection) -> Result<Self, XskError> {
        match Self::attach_as(Attachment::Native, ifindex, selection) {
            Err(XskError::Attach { .. }) => Self::attach_as(Attachment::Generic, ifindex, selection),
            other => other,
        }
    }

    /// As [`XskFilter::attach`], in one way or not at all.
    ///
    /// # Errors
    /// [`XskError`]; nothing is attached then.
    pub fn attach_as(attachment: Attachment, ifindex: u32, selection: &Selection) -> Result<Self, XskError> {
        let mut program = Program::load(selection)?;
        let link = program.attach(attachment, ifindex)?;
        Ok(Self { _link: link, attachment, program })
    }

    /// Where the program runs.
    #[must_use]
    pub fn attachment(&self) -> Attachment {
        self.attachment
    }

    /// Redirects what is wanted of `queue` to a socket that is bound to that queue. It leaves by itself when its last descriptor is
    /// closed; the queue's frames go to the stack from then on.
    ///
    /// # Errors
    /// [`XskError::Queue`], or [`XskError::Map`] if this is no AF_XDP socket that can receive.
    pub fn add(&mut self, queue: u32, socket: BorrowedFd<'_>) -> Result<(), XskError> {
        if queue >= QUEUES_MAX {
            return Err(XskError::Queue { queue });
        }
        self.program.sockets.set(queue, socket.as_raw_fd(), 0).map_err(|error| map_error(&error))
    }

    /// Wants something else from now on. Each frame is judged by the old selection or by the new one, never by a mixture.
    ///
    /// # Errors
    /// [`XskError::Services`] or [`XskError::Map`]; the old selection holds then.
    pub fn select(&mut self, selection: &Selection) -> Result<(), XskError> {
        self.program.select(selection)
    }

    /// How many frames the program saw since it was attached, by what became of them.
    ///
    /// # Errors
    /// [`XskError::Map`].
    pub fn counts(&self) -> Result<Counts, XskError> {
        sum(&self.program.counts)
    }

    /// Those of them that went to the stack though they have the right port or a signature, or headers that cannot be read that far.
    ///
    /// # Errors
    /// [`XskError::Map`].
    pub fn near_misses(&self) -> Result<Counts, XskError> {
        sum(&self.program.near_misses)
    }
}

impl Program {
    fn load(selection: &Selection) -> Result<Self, XskError> {
        let mut ebpf = loader::load(XSK, &[]).map_err(|error| load_error(&error))?;
        program(&mut ebpf)?.load().map_err(|error| load_error(&error))?;
        let mut new = Self {
            sockets: map(&mut ebpf, "sockets")?,
            selections: map(&mut ebpf, "selections")?,
            current: map(&mut ebpf, "current")?,
            counts: map(&mut ebpf, "counts")?,
            near_misses: map(&mut ebpf, "near_misses")?,
            ebpf,
            slot: 0,
        };
        new.select(selection)?;
        Ok(new)
    }

    fn attach(&mut self, attachment: Attachment, ifindex: u32) -> Result<FdLink, XskError> {
        let mode = match attachment {
            Attachment::Native => XdpMode::Driver,
            Attachment::Generic => XdpMode::Skb,
        };
        let program = program(&mut self.ebpf)?;
        let link = program
            .attach_to_if_index(ifindex, mode)
            .and_then(|id| program.take_link(id))
            .map_err(|error| attach_error(&error, ifindex))?;
        // Otherwise it was attached by netlink, and is detached again here.
        link.try_into().map_err(|_| XskError::NoLinks)
    }

    fn select(&mut self, selection: &Selection) -> Result<(), XskError> {
        let raw = selection.raw()?;
        let other = 1 - self.slot;
        self.selections.set(other, raw, 0).map_err(|error| map_error(&error))?;
        // One word, written whole.
        self.current.set(0, other, 0).map_err(|error| map_error(&error))?;
        self.slot = other;
        Ok(())
    }
}

/// The counts of all CPUs together.
fn sum(map: &PerCpuArray<MapData, u64>) -> Result<Counts, XskError> {
    let mut counts = Counts::default();
    for &verdict in Verdict::ALL {
        let of_cpus = map.get(&(verdict as u32), 0).map_err(|error| map_error(&error))?;
        counts.add(verdict, of_cpus.iter().sum());
    }
    Ok(counts)
}

fn program(ebpf: &mut Ebpf) -> Result<&mut Xdp, XskError> {
    let missing = || XskError::Load { reason: "the object lacks its program".to_owned() };
    let program = ebpf.program_mut("xsk").ok_or_else(missing)?;
    program.try_into().map_err(|_| missing())
}

fn map<T: TryFrom<aya::maps::Map, Error = MapError>>(ebpf: &mut Ebpf, name: &str) -> Result<T, XskError> {
    let missing = |what: String| XskError::Load { reason: format!("map {name}: {what}") };
    let map = ebpf.take_map(name).ok_or_else(|| missing("the object lacks it".to_owned()))?;
    T::try_from(map).map_err(|error| missing(error.to_string()))
}

fn load_error(error: &(dyn std::error::Error + 'static)) -> XskError {
    match os_error(error) {
        Some(libc::EPERM) => XskError::NotPermitted,
        _ => XskError::Load { reason: reason(error) },
    }
}

fn attach_error(error: &(dyn std::error::Error + 'static), ifindex: u32) -> XskError {
    match os_error(error) {
        Some(libc::EPERM) => XskError::NotPermitted,
        Some(libc::EBUSY | libc::EEXIST) => XskError::Occupied { ifindex },
        _ => XskError::Attach { ifindex, reason: reason(error) },
    }
}

fn map_error(error: &MapError) -> XskError {
    XskError::Map { reason: reason(error) }
}

fn reason(error: &(dyn std::error::Error + 'static)) -> String {
    os_error(error).map_or_else(|| error.to_string(), |errno| io::Error::from_raw_os_error(errno).to_string())
}
