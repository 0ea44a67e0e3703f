//! Frames handed to the interface by a packet socket: many streams in turn, superframes, or superframes that the interface cuts.
//!
//! To the relay they look like those of a UDP socket on a host whose network card computes checksums and cuts superframes: the
//! virtio-net header in front of each says so (PACKET_VNET_HDR in packet(7)).

use std::{
    io::IoSlice,
    net::SocketAddrV4,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use mcr_lab::Namespace;
use mcr_parse::UdpChecksum;
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, MultiHeaders, sendmmsg, setsockopt, sockopt},
};

use super::{IFNAME, Sent, Watch, write_headers};
use crate::{case::Case, sys};

/// Messages that one system call hands over when the schedule is behind.
const BATCH_MAX: usize = 32;
/// Messages go in bursts of what is due in this time: a source on a busy machine sends no more evenly, and a sender that
/// woke the other core for each datagram would be slower than some relays.
const BURST: Duration = Duration::from_micros(50);
/// A superframe holds at most this many bytes, and datagrams (UDP_MAX_SEGMENTS before Linux 6.9).
const SUPERFRAME_BYTES_MAX: usize = 65_000;
const SUPERFRAME_DATAGRAMS_MAX: usize = 64;

// linux/virtio_net.h
const VNET_BYTES: usize = 10;
const NEEDS_CSUM: u8 = 1;
const GSO_UDP_L4: u8 = 5;
const ETHERNET_BYTES: usize = 14;
const IPV4_BYTES: usize = 20;
const HEAD_BYTES: usize = VNET_BYTES + ETHERNET_BYTES + IPV4_BYTES + 8;
/// Of the checksum in a UDP header.
const CHECKSUM_OFFSET: u16 = 6;

/// Datagrams that one message of a case carries. Where they are not to arrive as one superframe, but are of one stream, they
/// are the burst of what is due, which the interface cuts into frames: a sender of single frames is slower than some relays.
fn per_message(case: Case, rate_pps: f64) -> usize {
    let largest = (SUPERFRAME_BYTES_MAX / case.payload_bytes()).min(SUPERFRAME_DATAGRAMS_MAX);
    match (case.superframes(), case.streams()) {
        (true, _) => largest,
        (false, 1) => ((rate_pps * BURST.as_secs_f64()) as usize).clamp(1, BATCH_MAX.min(largest)),
        (false, _) => 1,
    }
}

/// A packet socket that sends by the source's interface, and that interface's address.
fn open(source: &Namespace, case: Case) -> anyhow::Result<(OwnedFd, [u8; 6])> {
    let link = source.link(IFNAME)?;
    let socket =
        source.try_enter(|| sys::packet_sender(link.index))?.context("cannot open a packet socket")?;
    setsockopt(&socket, sockopt::SndBufForce, &(8 << 20))?;
    let set =
        |name, value: i32| sys::set_option(socket.as_fd(), libc::SOL_PACKET, name, &value.to_ne_bytes());
    set(libc::PACKET_VNET_HDR, 1).context("cannot send superframes by a packet socket")?;
    // What bypasses the queue is never cut: the kernel drops it instead (__dev_direct_xmit).
    let is_cut = case.streams() == 1 && !case.superframes();
    set(libc::PACKET_QDISC_BYPASS, i32::from(!is_cut)).context("cannot bypass the queue of the interface")?;
    Ok((socket, link.mac.context("the source's interface has no address")?))
}

pub(super) fn run(
    source: &Namespace,
    case: Case,
    rate_pps: f64,
    duration: Duration,
    watch: &Watch,
) -> anyhow::Result<Sent> {
    let mut packet = Packet::new(source, case, rate_pps)?;
    let per_message = packet.per_message as u64;
    let messages_pps = rate_pps / per_message as f64;
    let messages = (messages_pps * duration.as_secs_f64()).ceil() as u64;
    let burst = ((messages_pps * BURST.as_secs_f64()) as u64).clamp(1, BATCH_MAX as u64);
    let started = Instant::now();
    let mut done = 0;
    while done < messages && !watch.stop.load(Relaxed) {
        let elapsed = started.elapsed();
        if elapsed >= duration {
            break;
        }
        let due = ((elapsed.as_secs_f64() * messages_pps) as u64 + 1).min(messages);
        if due < messages.min(done + burst) {
            std::hint::spin_loop();
            continue;
        }
        done += packet.send(done, due - done)?;
        watch.sent.store(done * per_message, Relaxed);
    }
    // The last message has its interval after it.
    let seconds = started.elapsed().as_secs_f64().max(done as f64 / messages_pps);
    Ok(Sent { datagrams: done * per_message, seconds })
}

struct Packet {
    socket: OwnedFd,
    per_message: usize,
    payload: Vec<u8>,
    heads: Vec<[u8; HEAD_BYTES]>,
    headers: MultiHeaders<()>,
}

impl Packet {
    fn new(source: &Namespace, case: Case, rate_pps: f64) -> anyhow::Result<Self> {
        let (socket, mac) = open(source, case)?;
        let per_message = per_message(case, rate_pps);
        let payload = vec![0; per_message * case.payload_bytes()];
        let segment_bytes = (per_message > 1).then_some(case.payload_bytes() as u16);
        let head = |group| head(mac, group, &payload, segment_bytes);
        let heads = case.inputs().into_iter().map(head).collect::<anyhow::Result<_>>()?;
        Ok(Self { socket, per_message, payload, heads, headers: MultiHeaders::preallocate(BATCH_MAX, None) })
    }

    /// Hands over at most `messages`, of which the first is number `first` of all; says how many are done with.
    fn send(&mut self, first: u64, messages: u64) -> anyhow::Result<u64> {
        let messages = (messages as usize).min(if self.per_message > 1 { 1 } else { BATCH_MAX });
        let streams = self.heads.len();
        let first = (first % streams as u64) as usize;
        let slices: [[IoSlice<'_>; 2]; BATCH_MAX] = std::array::from_fn(|at| {
            [IoSlice::new(&self.heads[(first + at) % streams]), IoSlice::new(&self.payload)]
        });
        let to = &[None; BATCH_MAX][..messages];
        match sendmmsg(self.socket.as_raw_fd(), &mut self.headers, &slices, to, [], MsgFlags::empty()) {
            // The call stops at a message that the relay's core had no room for: sent, and lost.
            Ok(taken) => Ok((taken.count() + 1).min(messages) as u64),
            Err(Errno::ENOBUFS) => Ok(1),
            Err(Errno::EINTR | Errno::EAGAIN) => Ok(0),
            Err(errno) => Err(errno).context("cannot send"),
        }
    }
}

/// What goes before a payload: virtio-net, Ethernet, IPv4 and UDP headers.
fn head(
    mac: [u8; 6],
    to: SocketAddrV4,
    payload: &[u8],
    segment_bytes: Option<u16>,
) -> anyhow::Result<[u8; HEAD_BYTES]> {
    let mut head = [0; HEAD_BYTES];
    let (vnet, frame) = head.split_at_mut(VNET_BYTES);
    let udp_at = (ETHERNET_BYTES + IPV4_BYTES) as u16;
    vnet[0] = NEEDS_CSUM;
    vnet[1] = if segment_bytes.is_some() { GSO_UDP_L4 } else { 0 };
    let header_bytes = frame.len() as u16;
    for (field, value) in
        [(2, header_bytes), (4, segment_bytes.unwrap_or(0)), (6, udp_at), (8, CHECKSUM_OFFSET)]
    {
        vnet[field..field + 2].copy_from_slice(&value.to_ne_bytes());
    }
    // As UDP sockets do: the kernel refuses to route a superframe that must not be cut.
    write_headers(frame, mac, to, payload, (segment_bytes.is_none(), UdpChecksum::Partial))?;
    Ok(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_superframe_of_whole_payloads_fits_a_udp_datagram() {
        let datagrams = per_message(Case::Superframes, 1.0);
        assert!(datagrams > 40 && datagrams * 1400 <= 65_507);
        assert_eq!(per_message(Case::Streams50, 1e6), 1);
    }

    #[test]
    fn what_is_due_of_one_stream_goes_as_one_message() {
        assert_eq!([1e3, 1e5, 1e9].map(|rate| per_message(Case::One, rate)), [1, 5, 32]);
    }

    #[test]
    fn an_interface_without_segmentation_sends_a_message_as_frames() {
        let Some(()) = mcr_lab::require::netns() else { return };
        let line = mcr_lab::Line::new().unwrap();
        line.source.set_offload(IFNAME, "tx-udp-segmentation", false).unwrap();
        let mut sender = Packet::new(&line.source, Case::FanOut, 1e9).unwrap();
        let frames = || line.relay.link_stats("in0").unwrap().rx_packets;
        let before = frames();
        assert_eq!(sender.send(0, 1).unwrap(), 1);
        mcr_lab::wait_until(Duration::from_secs(5), "32 frames come", || frames() == before + 32).unwrap();
    }

    #[test]
    fn superframes_arrive_at_a_socket_with_their_boundaries_and_a_checksum_that_holds() {
        let Some(()) = mcr_lab::require::netns() else { return };
        let line = mcr_lab::Line::new().unwrap();
        let mut sender = Packet::new(&line.source, Case::Superframes, 1.0).unwrap();
        let datagrams = sender.per_message;
        crate::sender::arrives(&line, Case::Superframes, datagrams, || {
            assert_eq!(sender.send(0, 1).unwrap(), 1)
        });
    }
}
