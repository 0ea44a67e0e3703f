//! How frames are got and sent: AF_XDP where that can be, else AF_PACKET; and what that takes to be opened, told and counted.

use std::{io, os::fd::OwnedFd};

use mcr_proto::reflect::{Platform, Reflect};
use mcr_reflect::{
    BackEnd, Config,
    filter::{self, Scope},
};
use mcr_socket::{
    OpenError,
    filter::Filter,
    packet::{self, PortOptions},
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

/// An open way.
#[derive(Debug)]
pub(super) enum Way {
    Packet {
        socket: OwnedFd,
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
        let options = PortOptions {
            ifindex,
            receive_buffer_bytes: RECEIVE_BUFFER_BYTES,
            send_buffer_bytes: SEND_BUFFER_BYTES,
            timestamps: times,
            filter: &packet_filter(reflect, config),
        };
        packet::open_port(&options)
            .map(|socket| Self::Packet { socket })
            .map_err(|problem| no_packet(&problem))
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
            Self::Packet { socket } => mcr_socket::dropped(socket).unwrap_or(0),
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
            Self::Packet { socket } => mcr_socket::filter::attach(socket, &packet_filter(reflect, config))
                .err()
                .map(|e| e.to_string()),
            Self::Xdp { redirect, .. } => redirect.select(config).err().map(|problem| problem.to_string()),
        };
        if let Some(problem) = problem {
            // The process judges by itself; the filter only saves it work, or keeps from it what it should see now.
            warn!(interface = %reflect.interface, "the filter stays as it was: {problem}");
        }
    }

    /// Whether a process that died took what it had with it, so that the next one needs a new way.
    pub(super) fn is_spent(&self) -> bool {
        matches!(self, Self::Xdp { opened, .. } if opened.is_empty())
    }

    /// What the process is told, and the descriptors it gets.
    pub(super) fn hand_over(&mut self) -> io::Result<(BackEnd, Vec<(u32, OwnedFd)>)> {
        match self {
            Self::Packet { socket } => Ok((BackEnd::Packet, vec![(TAG_SOCKET, socket.try_clone()?)])),
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
