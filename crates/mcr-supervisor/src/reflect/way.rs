//! How frames are got and sent: AF_XDP where that can be, else AF_PACKET; and what that takes to be opened, told and counted.

use std::{cell::Cell, io, os::fd::OwnedFd};

use mcr_proto::reflect::{Platform, Reflect};
use mcr_reflect::{
    BackEnd, Config,
    filter::{self, Scope},
};
use mcr_socket::{
    OpenError,
    filter::Filter,
    packet::{self, PortOptions, RingShape},
};
use mcr_xdp::Opened;
use tracing::{info, warn};

use crate::xdp::{Redirect, RedirectError, Wish};

/// Tags of descriptors, as `mcr-reflector` knows them.
const TAG_SOCKET: u32 = 2;
const TAG_MEMORY: u32 = 3;
/// Room for a burst of 2,000 long frames, which the kernel counts with what it keeps of each.
const RECEIVE_BUFFER_BYTES: usize = 16 * 1024 * 1024;
const SEND_BUFFER_BYTES: usize = 8 * 1024 * 1024;
/// Slots of a receive ring: some milliseconds at the highest rate, while the process waits for its processor.
const RING_SLOTS: u32 = 8192;
/// Longer frames than any network has take slots of no sensible size.
const MTU_RING_MAX: u32 = 16 << 10;
/// Ethernet header and two tags, what a reply may be longer than its request, and a byte by which a frame too long is known.
const SPARE_BYTES: u32 = 14 + 8 + 128 + 1;

/// An open way.
#[derive(Debug)]
pub(super) enum Way {
    Packet {
        socket: OwnedFd,
        ring: Option<RingShape>,
        /// A process reads the ring, or did.
        handed_over: bool,
        /// What the kernel counted up to when it was last asked: asking sets it to 0.
        dropped: Cell<u64>,
    },
    Xdp {
        redirect: Box<Redirect>,
        /// For the process; empty when it has them.
        opened: Vec<Opened>,
    },
}

/// Why there is no way.
#[derive(Debug)]
pub(super) struct NoWay {
    pub(super) why: String,
    pub(super) kind: io::ErrorKind,
}

impl Way {
    /// Opens the way that is asked for, on an interface of the calling thread's namespace.
    pub(super) fn open(reflect: &Reflect, ifindex: u32, config: &Config) -> Result<Self, NoWay> {
        let interface = reflect.interface;
        let times = reflect.latency || tells_time(config);
        if reflect.platform != Platform::Packet {
            match Redirect::open(interface.as_str(), ifindex, config, times, Wish::Best) {
                Ok((redirect, opened)) => return Ok(Self::Xdp { redirect: Box::new(redirect), opened }),
                Err(problem) if reflect.platform == Platform::Xdp => return Err(no_xdp(&problem)),
                Err(problem) => info!(%interface, "AF_PACKET instead of AF_XDP: {problem}"),
            }
        }
        Self::open_packet(reflect, ifindex, config, times).map_err(|problem| no_packet(&problem))
    }

    fn open_packet(reflect: &Reflect, ifindex: u32, config: &Config, times: bool) -> Result<Self, OpenError> {
        let filter = packet_filter(reflect, config);
        let mtu = u32::try_from(config.mtu).unwrap_or(u32::MAX);
        let wanted = (mtu <= MTU_RING_MAX).then(|| RingShape::with_slots(mtu + SPARE_BYTES, RING_SLOTS));
        let options = |ring| PortOptions {
            ifindex,
            receive_buffer_bytes: RECEIVE_BUFFER_BYTES,
            send_buffer_bytes: SEND_BUFFER_BYTES,
            timestamps: times,
            ring,
            filter: &filter,
        };
        let (socket, ring) = match packet::open_port(&options(wanted)) {
            Ok(socket) => (socket, wanted),
            // The kernel wants memory for it in large pieces; the other way needs none.
            Err(problem @ OpenError::Call { .. }) if wanted.is_some() => {
                info!(interface = %reflect.interface, "no receive ring: {problem}");
                (packet::open_port(&options(None))?, None)
            }
            Err(problem) => return Err(problem),
        };
        Ok(Self::Packet { socket, ring, handed_over: false, dropped: Cell::new(0) })
    }

    /// Its name in statistics.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Packet { .. } => "packet",
            Self::Xdp { redirect, .. } => redirect.platform().name(),
        }
    }

    /// Frames that the kernel dropped for want of room.
    pub(super) fn dropped(&self) -> u64 {
        match self {
            Self::Packet { socket, dropped, .. } => {
                let more = packet::take_statistics(socket).map_or(0, |counted| counted.dropped.into());
                dropped.set(dropped.get() + more);
                dropped.get()
            }
            Self::Xdp { redirect, .. } => redirect.dropped(),
        }
    }

    /// Frames that did not come to the process though the reason is to be told, by the names of the reasons.
    pub(super) fn passed(&self, reflect: &Reflect) -> Vec<(&'static str, u64)> {
        match self {
            Self::Packet { .. } => Vec::new(),
            Self::Xdp { redirect, .. } => redirect.passed(reflect.explain),
        }
    }

    /// Has the kernel pick out what other options want.
    pub(super) fn select(&mut self, reflect: &Reflect, config: &Config) {
        let problem = match self {
            Self::Packet { socket, .. } => {
                mcr_socket::filter::attach(socket, &packet_filter(reflect, config))
                    .err()
                    .map(|e| e.to_string())
            }
            Self::Xdp { redirect, .. } => redirect.select(config).err().map(|problem| problem.to_string()),
        };
        if let Some(problem) = problem {
            // The process judges by itself; the filter only saves it work, or keeps from it what it should see now.
            warn!(interface = %reflect.interface, "the filter stays as it was: {problem}");
        }
    }

    /// Whether a process that died took what it had with it, so that the next one needs a new way.
    pub(super) fn is_spent(&self) -> bool {
        match self {
            Self::Packet { ring, handed_over, .. } => ring.is_some() && *handed_over,
            Self::Xdp { opened, .. } => opened.is_empty(),
        }
    }

    /// What the process is told, and the descriptors it gets.
    pub(super) fn hand_over(&mut self) -> io::Result<(BackEnd, Vec<(u32, OwnedFd)>)> {
        match self {
            Self::Packet { socket, ring, handed_over, .. } => {
                let ring = ring.map(|shape| [shape.block_bytes, shape.blocks, shape.slot_bytes]);
                let socket = socket.try_clone()?;
                *handed_over = true;
                Ok((BackEnd::Packet { ring }, vec![(TAG_SOCKET, socket)]))
            }
            Self::Xdp { opened, .. } => {
                let Some(first) = opened.first() else { return Err(io::ErrorKind::NotFound.into()) };
                let shape = first.shape;
                // At most 256 queues (mcr-ebpf).
                let queues = opened.len() as u32;
                let back_end = BackEnd::Xdp {
                    queues,
                    frames: shape.frames,
                    frame_bytes: shape.frame_bytes,
                    entries: shape.receive_entries,
                    reserve_frames: shape.reserve_frames,
                };
                let pairs = (0..).zip(opened.drain(..)).flat_map(|(queue, opened)| {
                    [(TAG_SOCKET + 2 * queue, opened.socket), (TAG_MEMORY + 2 * queue, opened.memory)]
                });
                Ok((back_end, pairs.collect()))
            }
        }
    }

    /// The process is ready: frames may come.
    pub(super) fn begin(&mut self) -> Result<(), NoWay> {
        match self {
            Self::Packet { .. } => Ok(()),
            Self::Xdp { redirect, .. } => redirect.begin().map_err(|problem| no_xdp(&problem)),
        }
    }
}

fn packet_filter(reflect: &Reflect, config: &Config) -> Filter {
    let scope = if reflect.explain { Scope::Everything } else { Scope::NearMisses };
    let program = filter::program(config, scope);
    Filter::from_instructions(program.iter().map(|step| (step.code, step.jt, step.jf, step.k)))
}

fn tells_time(config: &Config) -> bool {
    config.twamp.is_some() || config.stamp.is_some() || config.oam.is_some()
}

fn no_xdp(problem: &RedirectError) -> NoWay {
    let kind =
        if problem.is_not_permitted() { io::ErrorKind::PermissionDenied } else { io::ErrorKind::Unsupported };
    let mut why = format!("AF_XDP cannot be used: {problem}");
    let mut next = std::error::Error::source(problem);
    while let Some(source) = next {
        why = format!("{why}: {source}");
        next = source.source();
    }
    NoWay { why, kind }
}

fn no_packet(problem: &OpenError) -> NoWay {
    let kind = match problem {
        OpenError::NotPermitted { .. } => io::ErrorKind::PermissionDenied,
        OpenError::NoInterface { .. } => io::ErrorKind::NotFound,
        _ => io::ErrorKind::Other,
    };
    NoWay { why: problem.to_string(), kind }
}
