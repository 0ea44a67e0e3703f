//! From an inherited descriptor to a reflector that is ready.

use std::os::fd::OwnedFd;

use mcr_confine::{Ids, Policy, Role, confine};
use mcr_fdpass::{Channel, Received, RecvError, Tag};
use mcr_metrics::{Access, Numbers};
use mcr_proto::codec;
use mcr_reflect::{BackEnd, Count, FromReflector, Layout, Reflector, ToReflector, Traffic, tag};
use mcr_socket::packet::RingShape;
use mcr_xdp::{Opened, Shape};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use crate::{
    Confinement, ReflectorError,
    counts::Counts,
    event_loop::Reflecting,
    packet::{Packet, PacketRing},
    xdp::Xdp,
};

/// Waits for the first message and does what it says; none if the supervisor is gone before it says anything.
pub(crate) fn start(
    channel: OwnedFd,
    confinement: Confinement,
) -> Result<Option<Reflecting>, ReflectorError> {
    let channel = Channel::from(channel);
    channel.set_nonblocking(false).map_err(ReflectorError::Channel)?;
    let mut body = Vec::new();
    let mut received = match channel.recv(&mut body) {
        Ok(received) => received,
        Err(RecvError::Closed) => return Ok(None),
        Err(error) => return Err(ReflectorError::NotStarted { why: error.to_string() }),
    };
    let message =
        codec::decode(&body).map_err(|error| ReflectorError::NotStarted { why: error.to_string() })?;
    let ToReflector::Start { config, back_end, latency_every, ids, core } = message else {
        return Err(ReflectorError::NotStarted { why: "the first message is another".into() });
    };
    let numbers = Numbers::attach(descriptor(&mut received, tag::COUNTERS)?, Layout::LEN, Access::Write)?;
    let counts = Counts::new(numbers);
    let back_end: Box<dyn crate::BackEnd> = match back_end {
        BackEnd::Packet { ring: None } => {
            Box::new(Packet::new(descriptor(&mut received, tag::SOCKET)?, config.mtu))
        }
        BackEnd::Packet { ring: Some([block_bytes, blocks, slot_bytes]) } => {
            let shape = RingShape { block_bytes, blocks, slot_bytes };
            Box::new(PacketRing::new(descriptor(&mut received, tag::SOCKET)?, shape)?)
        }
        BackEnd::Xdp { queues, frames, frame_bytes, entries, reserve_frames, times } => {
            let shape = Shape { frames, frame_bytes, reserve_frames, ..Shape::with_entries(entries) };
            let mut opened = Vec::new();
            for queue in 0..queues {
                let socket = descriptor(&mut received, tag::SOCKET + 2 * queue)?;
                let memory = descriptor(&mut received, tag::MEMORY + 2 * queue)?;
                opened.push(Opened { socket, memory, shape, zero_copy: false });
            }
            Box::new(Xdp::new(opened, times)?)
        }
    };
    let mut reflector = Reflector::new(config)?;
    // What a process before this one counted in the same row goes on, for peers that take it to grow.
    let sent = counts.read(Count::Reflected);
    reflector.resume(Traffic { received: sent, sent });
    if let Some(core) = core {
        // To run elsewhere is slower, not wrong.
        let mut cores = CpuSet::new();
        let _ = cores.set(core as usize).and_then(|()| sched_setaffinity(Pid::from_raw(0), &cores));
    }
    channel.set_nonblocking(true).map_err(ReflectorError::Channel)?;
    let log = |error: bool, text: String| tell(&channel, &FromReflector::Log { error, text });
    if confinement == Confinement::Process {
        let ids = ids.map(|(uid, gid)| Ids { uid, gid });
        match confine(&Policy { role: Role::Reflector, ids }) {
            Ok(confined) => log(false, confined.to_string()),
            Err(error) => {
                log(true, error.to_string());
                return Err(ReflectorError::Confine(error));
            }
        }
    }
    tell(&channel, &FromReflector::Ready);
    Ok(Some(Reflecting::new(reflector, back_end, counts, channel, latency_every)))
}

fn descriptor(received: &mut Received, tag: u32) -> Result<OwnedFd, ReflectorError> {
    let missing = || ReflectorError::NotStarted { why: format!("descriptor {tag} is missing") };
    received.take(Tag(tag)).ok_or_else(missing)
}

/// Says something to the supervisor. One that does not listen, or is gone, is noticed when it is heard next.
pub(crate) fn tell(channel: &Channel, message: &FromReflector) {
    if let Ok(body) = codec::encode(message) {
        let _ = channel.send(&body, &[]);
    }
}
