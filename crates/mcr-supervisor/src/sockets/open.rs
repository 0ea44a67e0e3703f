//! Opening sockets for what they are to receive or send, with room by their class.

use std::os::fd::OwnedFd;

use mcr_proto::message::{self, ReceiverKind};
use mcr_relay::{
    classes::Lane,
    compile::{ReceiverKey, SenderKey},
};
use mcr_socket::{
    Family, OpenError,
    filter::{Codepoints, Filter, FilterLink, LiveFilter},
    packet::{self, PacketOptions, RingShape},
    raw::{self, RawOutput},
    udp::{self, UdpInput, UdpOutput},
};

/// Room for a burst of some 10,000 full-size datagrams at one input; taken only while they wait.
const RECEIVE_BUFFER_BYTES: usize = 32 << 20;
/// The ring of a packet socket: some 10,000 frames of 1,500 bytes. With half of it a worker that has to wait for its processor, as behind
/// ksoftirqd, loses at 0.88 of the rate. Its memory is taken from the start, and resident in the worker
/// that maps it.
const RING_BYTES: u32 = 16 << 20;
/// Most of a class with a depth.
const DEEP_RING_BYTES_MAX: u32 = 128 << 20;
/// What a waiting datagram of 1,500 bytes takes of a receive buffer; the kernel gives twice what it is asked for (socket(7)).
const WAITING_BYTES: usize = 1152;
/// Room for what devices have not taken yet.
const SEND_BUFFER_BYTES: usize = 4 << 20;

pub(super) fn receiver(key: &ReceiverKey, ifname: &str) -> Result<(OwnedFd, ReceiverKind), OpenError> {
    match *key {
        ReceiverKey::Packet { ifindex, ethernet, lane } => packet_receiver(ifindex, ethernet, lane, ifname),
        ReceiverKey::Udp { ifindex, bound, source, lane } => {
            let sources = source.filter(|_| bound.ip().is_multicast());
            let options = UdpInput {
                address: bound,
                ifindex,
                ifname,
                sources: sources.as_slice(),
                receive_buffer_bytes: receive_buffer_bytes(lane),
                gro: true,
            };
            Ok((udp::open_input(&options)?, ReceiverKind::Udp { bound }))
        }
    }
}

/// The filter of a packet socket; others have none.
pub(super) fn filter(key: &ReceiverKey) -> Option<LiveFilter> {
    let ReceiverKey::Packet { ethernet, lane, .. } = *key else { return None };
    let link = if ethernet { FilterLink::Ethernet } else { FilterLink::RawIp };
    Some(LiveFilter::marked(link, codepoints(lane)))
}

pub(super) fn sender(key: &SenderKey) -> Result<OwnedFd, OpenError> {
    let family = if key.ipv6 { Family::V6 } else { Family::V4 };
    let (ifindex, multicast_loop, send_buffer_bytes) = (key.ifindex, key.multicast_loop, SEND_BUFFER_BYTES);
    if key.raw {
        let priority = key.priority;
        return raw::open_output(&RawOutput { family, ifindex, multicast_loop, priority, send_buffer_bytes });
    }
    let source = key.source.map(|(address, port)| (address, port.unwrap_or(0)).into());
    let hop_limit = key.hop_limit;
    let report_full_queue = key.multicast;
    udp::open_output(&UdpOutput {
        family,
        ifindex,
        source,
        hop_limit,
        multicast_loop,
        report_full_queue,
        dscp: key.dscp,
        priority: key.priority,
        send_buffer_bytes,
    })
}

fn codepoints(lane: Lane) -> Codepoints {
    (0..64).filter(|codepoint| lane.codepoints >> codepoint & 1 == 1).collect()
}

/// Room for as many full-size datagrams as the lane may have waiting.
fn receive_buffer_bytes(lane: Lane) -> usize {
    lane.depth.map_or(RECEIVE_BUFFER_BYTES, |depth| depth as usize * WAITING_BYTES)
}

/// With a ring if the kernel has the memory for one, else without.
fn packet_receiver(
    ifindex: u32,
    ethernet: bool,
    lane: Lane,
    ifname: &str,
) -> Result<(OwnedFd, ReceiverKind), OpenError> {
    let filter = Filter::drop_all();
    let receive_buffer_bytes = receive_buffer_bytes(lane);
    let ring = packet::mtu(ifname).ok().map(|mtu| match lane.depth {
        Some(frames) => RingShape::for_frames(mtu, frames, DEEP_RING_BYTES_MAX),
        None => RingShape::for_mtu(mtu, RING_BYTES),
    });
    let options = PacketOptions { ifindex, vnet_hdr: true, receive_buffer_bytes, ring, filter: &filter };
    if let Some(RingShape { block_bytes, blocks, slot_bytes }) = ring
        && let Ok(fd) = packet::open(&options)
    {
        let ring = Some(message::RingShape { block_bytes, blocks, slot_bytes });
        return Ok((fd, ReceiverKind::Packet { ethernet, ring }));
    }
    let fd = packet::open(&PacketOptions { ring: None, ..options })?;
    Ok((fd, ReceiverKind::Packet { ethernet, ring: None }))
}
