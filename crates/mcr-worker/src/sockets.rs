//! The sockets the worker was given, by the supervisor's name and by that of the I/O.

use std::os::fd::OwnedFd;

use hashbrown::HashMap;
use mcr_proto::{
    message::{self, ReceiverKind},
    plan::{InputSlot, Lane, PlanOp, Route, SocketId, Via},
};
use mcr_socket::packet::VNET_HEADER_BYTES;
use mcr_uring_io::{AddError, Io, ReceiveShape, RingShape, SocketKey};

use crate::arrival::Origin;

/// A failing socket is reported at most so often.
const REPORT_INTERVAL_NS: u64 = 1_000_000_000;

/// Room for the sender's address, and for the control messages mcr-socket asks for, with some to spare: auxdata takes 40 bytes;
/// TTL, TOS, packet info and segment size together 24 + 24 + 40 + 24; stamps, while rules change their ways, 64.
const PACKET_SHAPE: ReceiveShape = ReceiveShape { name_bytes: 20, control_bytes: 128 };
const UDP_SHAPE: ReceiveShape = ReceiveShape { name_bytes: 28, control_bytes: 224 };

#[derive(Debug)]
struct Receiver {
    origin: Origin,
    reported_ns: Option<u64>,
}

impl Receiver {
    fn ring_frames_max(&self) -> Option<usize> {
        match self.origin.kind {
            ReceiverKind::Packet { ring: Some(ring), .. } => {
                Some((ring_shape(ring).slots()? / 2).max(1) as usize)
            }
            _ => None,
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Role {
    Receiver(SocketKey),
    Sender(SocketKey),
}

#[derive(Debug, Default)]
pub(crate) struct Sockets {
    receivers: HashMap<SocketKey, Receiver>,
    by_id: HashMap<SocketId, Role>,
    /// Half of the slots of the smallest ring: the others are the kernel's while a batch is sent.
    ring_frames_max: Option<usize>,
    /// Announced, and not read before the plan that names them: what waits in them shall find its route.
    announced: Vec<Announced>,
}

/// A receiver to be.
#[derive(Debug)]
struct Announced {
    fd: OwnedFd,
    origin: Origin,
    lane: Lane,
}

/// Why a socket was not taken; it is closed then.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error("socket {0} is open already")]
    Taken(SocketId),
    #[error(transparent)]
    Add(#[from] AddError),
}

impl Sockets {
    /// Takes a receiver in that is read from the next plan on.
    pub(crate) fn announce(&mut self, fd: OwnedFd, origin: Origin, lane: Lane) -> Result<(), OpenError> {
        self.check_new(origin.socket)?;
        self.announced.push(Announced { fd, origin, lane });
        Ok(())
    }

    /// Reads those that were announced; what could not be done with each, if anything.
    pub(crate) fn open_announced(
        &mut self,
        io: &mut Io,
    ) -> impl Iterator<Item = (SocketId, Lane, Result<(), OpenError>)> {
        let announced = std::mem::take(&mut self.announced).into_iter();
        announced.map(|Announced { fd, origin, lane }| {
            (origin.socket, lane, self.open_receiver(io, fd, origin, lane))
        })
    }

    fn open_receiver(
        &mut self,
        io: &mut Io,
        fd: OwnedFd,
        origin: Origin,
        lane: Lane,
    ) -> Result<(), OpenError> {
        let key = match origin.kind {
            ReceiverKind::Packet { ring: Some(ring), .. } => io.add_ring(fd, ring_shape(ring))?,
            ReceiverKind::Packet { ring: None, .. } => io.add_receiver(fd, PACKET_SHAPE)?,
            ReceiverKind::Udp { .. } => io.add_receiver(fd, UDP_SHAPE)?,
        };
        io.prioritize(key, lane.priority);
        self.by_id.insert(origin.socket, Role::Receiver(key));
        let receiver = Receiver { origin, reported_ns: None };
        self.ring_frames_max = self.ring_frames_max.into_iter().chain(receiver.ring_frames_max()).min();
        self.receivers.insert(key, receiver);
        Ok(())
    }

    pub(crate) fn open_sender(&mut self, io: &mut Io, fd: OwnedFd, id: SocketId) -> Result<(), OpenError> {
        self.check_new(id)?;
        let key = io.add_sender(fd)?;
        self.by_id.insert(id, Role::Sender(key));
        Ok(())
    }

    /// The most frames to be taken from rings at a time.
    pub(crate) fn ring_frames_max(&self) -> usize {
        self.ring_frames_max.unwrap_or(usize::MAX)
    }

    /// False if there is no such socket.
    pub(crate) fn close(&mut self, io: &mut Io, id: SocketId) -> bool {
        let Some(role) = self.by_id.remove(&id) else {
            let before = self.announced.len();
            self.announced.retain(|announced| announced.origin.socket != id);
            return self.announced.len() < before;
        };
        let (Role::Receiver(key) | Role::Sender(key)) = role;
        if self.receivers.remove(&key).and_then(|closed| closed.ring_frames_max()).is_some() {
            self.ring_frames_max = self.receivers.values().filter_map(Receiver::ring_frames_max).min();
        }
        io.close(key);
        true
    }

    /// Ends receiving; what was taken still comes. False if there is no such receiver.
    pub(crate) fn stop(&self, io: &mut Io, id: SocketId) -> bool {
        let Some(Role::Receiver(key)) = self.by_id.get(&id) else { return false };
        io.stop(*key);
        true
    }

    #[inline]
    pub(crate) fn sender(&self, id: SocketId) -> Option<SocketKey> {
        match self.by_id.get(&id) {
            Some(Role::Sender(key)) => Some(*key),
            _ => None,
        }
    }

    #[inline]
    pub(crate) fn origin(&self, key: SocketKey) -> Option<Origin> {
        self.receivers.get(&key).map(|receiver| receiver.origin)
    }

    /// The name of a receiver that failed, if it is time to report it again.
    pub(crate) fn failed(&mut self, key: SocketKey, now_ns: u64) -> Option<SocketId> {
        let receiver = self.receivers.get_mut(&key)?;
        if receiver.reported_ns.is_some_and(|last| now_ns.saturating_sub(last) < REPORT_INTERVAL_NS) {
            return None;
        }
        receiver.reported_ns = Some(now_ns);
        Some(receiver.origin.socket)
    }

    /// The first socket that a plan's difference names and that is not open as what it is named for.
    pub(crate) fn missing(&self, op: &PlanOp) -> Option<SocketId> {
        let PlanOp::Put(Route { inputs, outputs, .. }) = op else { return None };
        let is_open = |input: &&SocketId| {
            matches!(self.by_id.get(*input), Some(Role::Receiver(_))) || self.is_announced(**input)
        };
        if let Some(input) = inputs.iter().find(|input| !is_open(input)) {
            return Some(*input);
        }
        outputs.iter().find_map(|output| match output.via {
            Via::Udp(id) | Via::Raw(id) if self.sender(id).is_none() => Some(id),
            _ => None,
        })
    }

    fn check_new(&self, id: SocketId) -> Result<(), OpenError> {
        let taken = self.by_id.contains_key(&id) || self.is_announced(id);
        if taken { Err(OpenError::Taken(id)) } else { Ok(()) }
    }

    fn is_announced(&self, id: SocketId) -> bool {
        self.announced.iter().any(|announced| announced.origin.socket == id)
    }
}

fn ring_shape(ring: message::RingShape) -> RingShape {
    let message::RingShape { block_bytes, blocks, slot_bytes } = ring;
    RingShape { block_bytes, blocks, slot_bytes, prefix_bytes: VNET_HEADER_BYTES as u16 }
}

/// Whether an input can be counted.
pub(crate) fn is_input_slot(input: InputSlot) -> bool {
    (input.0 as usize) < mcr_metrics::INPUT_SLOTS
}
