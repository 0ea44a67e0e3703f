//! How frames are got and sent: AF_XDP where that can be, else AF_PACKET; and what that takes to be opened, told and counted.

use std::{cell::Cell, io, ops::Range, os::fd::OwnedFd};

use mcr_proto::reflect::{Platform, Reflect};
use mcr_reflect::{
    BackEnd, Config,
    filter::{self, Scope},
    tag,
};
use mcr_socket::{
    OpenError,
    filter::Filter,
    packet::{self, PortOptions, RingShape},
};
use mcr_xdp::Opened;
use tracing::{info, warn};

use crate::xdp::{Redirect, RedirectError, Wanted, Wish};

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
        /// By queue, for its process; none when that has it.
        opened: Vec<Option<Opened>>,
        /// The queues of each process.
        shares: Vec<Range<u32>>,
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
            let wanted = Wanted {
                interface: interface.as_str(),
                ifindex,
                queues: reflect.queues,
                config,
                times,
                wish: Wish::Best,
            };
            match Redirect::open(&wanted) {
                Ok((redirect, opened)) => {
                    note_vlan_tags(interface.as_str());
                    let shares = shares(redirect.queues(), config);
                    let opened = opened.into_iter().map(Some).collect();
                    return Ok(Self::Xdp { redirect: Box::new(redirect), opened, shares });
                }
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

    /// How many processes share it. A packet socket has one: it gets the frames of all queues.
    pub(super) fn processes(&self) -> usize {
        match self {
            Self::Packet { .. } => 1,
            Self::Xdp { shares, .. } => shares.len(),
        }
    }

    /// The queues whose frames a process gets, where they are told apart.
    pub(super) fn queues(&self, process: usize) -> Range<u32> {
        match self {
            Self::Packet { .. } => 0..0,
            Self::Xdp { shares, .. } => shares.get(process).cloned().unwrap_or(0..0),
        }
    }

    /// Whether a process that died took with it what cannot be made again for it alone.
    pub(super) fn is_spent(&self) -> bool {
        match self {
            Self::Packet { ring, handed_over, .. } => ring.is_some() && *handed_over,
            Self::Xdp { .. } => false,
        }
    }

    /// Takes from a process that died what it had; the stack gets its queues' frames until another is ready.
    pub(super) fn take_back(&mut self, process: usize) {
        let queues = self.queues(process);
        if let Self::Xdp { redirect, .. } = self {
            queues.for_each(|queue| redirect.close(queue));
        }
    }

    /// What a process is told, and the descriptors it gets; made anew if another had them, with less room for frames where
    /// memory is short, if `less_will_do`.
    pub(super) fn hand_over(
        &mut self,
        process: usize,
        less_will_do: bool,
    ) -> Result<(BackEnd, Vec<(u32, OwnedFd)>), NoWay> {
        let queues = self.queues(process);
        match self {
            Self::Packet { socket, ring, handed_over, .. } => {
                let ring = ring.map(|shape| [shape.block_bytes, shape.blocks, shape.slot_bytes]);
                let failed = |error: io::Error| NoWay { why: error.to_string(), kind: error.kind() };
                let socket = socket.try_clone().map_err(failed)?;
                *handed_over = true;
                Ok((BackEnd::Packet { ring }, vec![(tag::SOCKET, socket)]))
            }
            Self::Xdp { redirect, opened, .. } => {
                let first = queues.clone().map_while(|queue| opened.get_mut(queue as usize)?.take());
                let mut sockets: Vec<_> = first.collect();
                if sockets.len() < queues.len() {
                    // Of one size, so all anew.
                    sockets.clear();
                    sockets =
                        redirect.reopen(queues.clone(), less_will_do).map_err(|problem| no_xdp(&problem))?;
                }
                let shape = sockets.first().map_or_else(mcr_xdp::Shape::default, |opened| opened.shape);
                let mut fds = Vec::new();
                for (place, opened) in (0..).zip(sockets) {
                    fds.push((tag::SOCKET + 2 * place, opened.socket));
                    fds.push((tag::MEMORY + 2 * place, opened.memory));
                }
                let back_end = BackEnd::Xdp {
                    queues: queues.end - queues.start,
                    frames: shape.frames,
                    frame_bytes: shape.frame_bytes,
                    entries: shape.receive_entries,
                    reserve_frames: shape.reserve_frames,
                    times: redirect.tells_times(),
                };
                Ok((back_end, fds))
            }
        }
    }

    /// A process is ready: its frames may come.
    pub(super) fn begin(&mut self, process: usize) -> Result<(), NoWay> {
        let mut queues = self.queues(process);
        match self {
            Self::Packet { .. } => Ok(()),
            Self::Xdp { redirect, .. } => {
                queues.try_for_each(|queue| redirect.begin(queue)).map_err(|problem| no_xdp(&problem))
            }
        }
    }
}

/// AF_XDP gets a frame as the driver has it; a tag that the NIC has taken out is nowhere to be found.
fn note_vlan_tags(interface: &str) {
    if mcr_xdp::takes_vlan_tags_out(interface).unwrap_or(false) {
        info!(
            interface,
            "a NIC with rxvlan on takes VLAN tags out of frames before AF_XDP sees them; where testers use tags: ethtool -K {interface} rxvlan off"
        );
    }
}

/// Each queue has a process of its own, unless one has to see all frames.
fn shares(queues: u32, config: &Config) -> Vec<Range<u32>> {
    let each = if config.counts_frames_together() { queues } else { 1 };
    (0..queues).step_by(each as usize).map(|first| first..first + each).collect()
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

#[cfg(test)]
mod tests {
    use mcr_reflect::{Limit, Limits};

    use super::*;

    #[test]
    fn each_queue_has_a_process_unless_limits_are_for_all_of_them() {
        let mut config = Config::new([2, 0, 0, 0, 0, 1], 1500);
        assert_eq!(shares(3, &config), [0..1, 1..2, 2..3]);
        config.limits = Limits { total: Some(Limit { pps: Some(9), bits_per_second: None }), source: None };
        assert_eq!(shares(3, &config).as_slice(), std::slice::from_ref(&(0..3)));
    }
}
