//! Senders that are faster than what they measure: frames made beforehand, no stamps, no wait but by spinning on a core of their own.
//!
//! [`packet`] carries every case. [`live`], a network card made of software, is faster, and carries one stream of single frames.

mod live;
mod packet;

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    sync::atomic::{AtomicBool, AtomicU64},
    time::Duration,
};

use anyhow::Context as _;
use mcr_parse::{
    Tags, UdpChecksum,
    build::{ETHER_TYPE_IPV4, Ipv4Udp, ethernet, ipv4_udp},
    checksum::Parts,
    multicast_mac,
};

use crate::{args::SenderKind, case::Case, cores, lab::Lab};

const SOURCE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 1, 0, 1), 5000);
const IFNAME: &str = "src0";

/// How the run is seen, and ended, from outside.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    pub(crate) stop: AtomicBool,
    /// Datagrams handed over so far.
    pub(crate) sent: AtomicU64,
}

/// What was sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Sent {
    pub(crate) datagrams: u64,
    pub(crate) seconds: f64,
}

/// Sends the streams of a case in turn at `rate_pps` for `duration`, or less if it falls behind, from the sender's core.
pub(crate) fn run(
    lab: &Lab,
    case: Case,
    rate_pps: f64,
    duration: Duration,
    watch: &Watch,
) -> anyhow::Result<Sent> {
    lab.line.source.set_offload(IFNAME, "tx-udp-segmentation", case.superframes())?;
    // Frames by XDP are taken by an interface that polls, which a veth does for the sake of GRO.
    lab.line.relay.set_offload("in0", "rx-gro", is_live(lab, case))?;
    lab.line.source.try_enter(|| {
        cores::pin(cores::SENDER)?;
        if is_live(lab, case) {
            live::run(&lab.line.source, case, rate_pps, duration, watch)
        } else {
            packet::run(&lab.line.source, case, rate_pps, duration, watch)
        }
    })?
}

/// Whether a case is sent as live frames: these are all of one stream.
fn is_live(lab: &Lab, case: Case) -> bool {
    lab.sender == SenderKind::Live && case.streams() == 1 && case.outputs() == 1 && !case.superframes()
}

/// Writes what goes before a payload to a group: Ethernet, IPv4 and UDP headers, which fill `head`.
fn write_headers(
    head: &mut [u8],
    mac: [u8; 6],
    to: SocketAddrV4,
    payload: &[u8],
    (dont_fragment, checksum): (bool, UdpChecksum),
) -> anyhow::Result<()> {
    let group = multicast_mac((*to.ip()).into()).context("a stream goes to a group")?;
    let at = ethernet(head, group, mac, &Tags::default(), ETHER_TYPE_IPV4)?;
    let fields = Ipv4Udp { dont_fragment, ..Ipv4Udp::new(SOURCE, to) };
    ipv4_udp(&mut head[at..], &fields, Parts::of(&[payload]), checksum)?;
    Ok(())
}

/// Has a socket in the relay's place receive what `send` sends.
#[cfg(test)]
fn arrives(line: &mcr_lab::Line, case: Case, datagrams: usize, send: impl FnOnce()) {
    let group = case.inputs()[0];
    let receiver = line.relay.enter(|| std::net::UdpSocket::bind(group)).unwrap();
    receiver.join_multicast_v4(group.ip(), &Ipv4Addr::new(10, 1, 0, 2)).unwrap();
    receiver.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    send();
    let mut bytes = [0; 2048];
    for _ in 0..datagrams {
        let (length, from) = receiver.recv_from(&mut bytes).unwrap();
        assert_eq!((length, from), (case.payload_bytes(), SOURCE.into()));
    }
}
