//! From what a socket delivered to an arrival, or to the reason why it is none.
//!
//! Pure and total: any bytes give an [`Arrival`] or a [`Rejected`], whose datagrams and bytes are to be counted. Which rule
//! wants the arrival is the engine's business, not decided here.
//!
//! Invariants: an arrival's payload lies inside what was received; its addresses carry neither flow information nor scope,
//! because the engine compares them with those of rules; a superframe is never taken for one datagram.

use std::net::SocketAddr;

use mcr_parse::{Link, Reject, Verdict};
use mcr_proto::{
    counters::InputDrop,
    message::ReceiverKind,
    plan::{InputSlot, SocketId},
};
use mcr_relay::engine::Arrival;
use mcr_socket::{
    packet::{AuxData, GsoType, LinkAddress, PacketType, VNET_HEADER_BYTES, VnetHeader},
    stamp::stamp_ns,
    udp::UdpControl,
};
use mcr_uring_io::Datagram;

/// The socket something was received on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// Its name.
    pub socket: SocketId,
    /// Where to count.
    pub input: InputSlot,
    /// How to read what comes.
    pub kind: ReceiverKind,
}

/// What was received is no arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rejected {
    /// Why.
    pub reason: InputDrop,
    /// How many datagrams it was; what could not be understood counts as one.
    pub datagrams: u32,
    /// Their payload bytes; 0 for what could not be understood.
    pub bytes: u32,
}

impl Rejected {
    fn unread(reason: InputDrop) -> Self {
        Self { reason, datagrams: 1, bytes: 0 }
    }
}

/// Reads what came on `origin` as frame number `frame` of a batch.
///
/// # Errors
/// [`Rejected`] if no rule can get it.
#[inline]
pub fn decode(datagram: &Datagram<'_>, origin: &Origin, frame: u32) -> Result<Arrival, Rejected> {
    // A frame that a ring's slot was too small for, and the socket had no room for either.
    if datagram.truncated && !datagram.ring_header.is_empty() {
        return Err(Rejected::unread(InputDrop::PoolEmpty));
    }
    // Cut control messages may have held the segment size or the VLAN tag: without them nobody knows what this is.
    if datagram.truncated || datagram.control_truncated {
        return Err(Rejected::unread(InputDrop::Malformed));
    }
    match origin.kind {
        ReceiverKind::Packet { ethernet, .. } => {
            let link = if ethernet { Link::Ethernet } else { Link::RawIp };
            decode_packet(datagram, origin, link, frame)
        }
        ReceiverKind::Udp { bound } => decode_udp(datagram, origin, bound, frame),
    }
}

#[inline]
fn decode_packet(
    datagram: &Datagram<'_>,
    origin: &Origin,
    link: Link,
    frame: u32,
) -> Result<Arrival, Rejected> {
    let (Some(vnet), Some(bytes)) =
        (VnetHeader::parse(datagram.payload), datagram.payload.get(VNET_HEADER_BYTES..))
    else {
        return Err(Rejected::unread(InputDrop::Malformed));
    };
    let verdict = mcr_parse::parse(bytes, link).map_err(|reject| Rejected::unread(drop_of(reject)))?;
    // At most 65,527, the largest UDP payload.
    let payload_bytes = verdict.payload_bytes as u32;
    let rejected =
        |reason, datagrams| Err::<Arrival, _>(Rejected { reason, datagrams, bytes: payload_bytes });
    // What is cut at the device is all there is, whatever the UDP length says.
    let is_whole = verdict.payload_offset() + verdict.payload_bytes == bytes.len();
    let Some(segment) = segment_of(&vnet, payload_bytes, is_whole) else {
        return Err(Rejected::unread(InputDrop::Malformed));
    };
    let aux = match datagram.ring_header {
        [] => AuxData::parse(datagram.control),
        header => AuxData::from_ring_header(header),
    };
    let aux = aux.unwrap_or_default();
    let arrival = Arrival {
        socket: origin.socket,
        input: origin.input,
        source: verdict.source,
        destination: verdict.destination,
        hop_limit: verdict.hop_limit,
        traffic_class: verdict.traffic_class,
        frame,
        offset: (VNET_HEADER_BYTES + verdict.payload_offset()) as u32,
        bytes: payload_bytes,
        segment,
        stamp_ns: stamp(datagram),
    };
    if !is_for_this_interface(datagram.name, &aux, &verdict) {
        return rejected(InputDrop::NoRule, arrival.datagrams());
    }
    if !are_checksums_valid(bytes, &verdict, is_checksum_trusted(&vnet, &aux)) {
        return rejected(InputDrop::Checksum, arrival.datagrams());
    }
    Ok(arrival)
}

#[inline]
fn decode_udp(
    datagram: &Datagram<'_>,
    origin: &Origin,
    bound: SocketAddr,
    frame: u32,
) -> Result<Arrival, Rejected> {
    let Some(source) = datagram.source() else { return Err(Rejected::unread(InputDrop::Malformed)) };
    let control = UdpControl::parse(datagram.control);
    // A group's socket is bound to the group; only one bound to any address has to be told which it was.
    let address = match control.destination {
        Some(address) if bound.ip().is_unspecified() => address,
        _ => bound.ip(),
    };
    let bytes = u32::try_from(datagram.payload.len()).map_err(|_| Rejected::unread(InputDrop::Malformed))?;
    // The kernel gives the segment size of a merged datagram; one that is alone has none, or its own length.
    let segment = control.segment_bytes.filter(|segment| (1..bytes).contains(&u32::from(*segment)));
    Ok(Arrival {
        socket: origin.socket,
        input: origin.input,
        source: SocketAddr::new(source.ip(), source.port()),
        destination: SocketAddr::new(address, bound.port()),
        // The socket always tells (IP_RECVTTL). If it did not, an unknown TTL must not be kept for ever in a loop.
        hop_limit: control.ttl.unwrap_or(1),
        traffic_class: control.tos.unwrap_or(0),
        frame,
        offset: 0,
        bytes,
        segment: segment.unwrap_or(0),
        stamp_ns: control.stamp_ns.unwrap_or(0),
    })
}

/// When the kernel received it, in nanoseconds since 1970, by the stamp that everybody sees who sees the frame; 0 if it has none.
#[inline]
pub(crate) fn stamp(datagram: &Datagram<'_>) -> u64 {
    let stamp_ns = match datagram.ring_header {
        [] => stamp_ns(datagram.control),
        header => AuxData::ring_stamp_ns(header),
    };
    stamp_ns.unwrap_or(0)
}

fn drop_of(reject: Reject) -> InputDrop {
    match reject {
        Reject::Malformed(_) => InputDrop::Malformed,
        Reject::NotUdp => InputDrop::NotUdp,
        Reject::Fragment => InputDrop::Fragment,
    }
}

/// The size of a superframe's datagrams, 0 for a frame of one; none if the header contradicts the payload.
#[inline]
fn segment_of(vnet: &VnetHeader, payload_bytes: u32, is_whole: bool) -> Option<u16> {
    match vnet.gso_type {
        GsoType::UdpL4 => {
            let fits = is_whole && (1..=payload_bytes).contains(&u32::from(vnet.gso_size));
            fits.then_some(vnet.gso_size)
        }
        // UFO (`UdpFragments`) is one datagram, sent in fragments if at all.
        _ => Some(0),
    }
}

/// False for a frame of this host's own, one to another host, and one of a VLAN: that belongs to the VLAN's interface.
#[inline]
fn is_for_this_interface(name: &[u8], aux: &AuxData, verdict: &Verdict) -> bool {
    let foreign = LinkAddress::parse(name)
        .is_some_and(|link| matches!(link.packet_type, PacketType::Outgoing | PacketType::OtherHost));
    // VLAN id 0 is a priority tag (IEEE 802.1Q, 9.6): no VLAN.
    let tagged = aux.vlan_tci().is_some_and(|tci| tci & 0x0fff != 0);
    !foreign && !tagged && verdict.tags.as_slice().iter().all(|tag| tag.vlan_id() == 0)
}

/// Whether the kernel or the NIC vouches for the UDP checksum, or left it to be completed: local and virtual senders do, and
/// every superframe comes so.
#[inline]
fn is_checksum_trusted(vnet: &VnetHeader, aux: &AuxData) -> bool {
    vnet.needs_csum
        || vnet.data_valid
        || vnet.gso_type != GsoType::None
        || aux.checksum_valid()
        || aux.checksum_not_ready()
}

/// Nobody vouches for that of the IPv4 header, which costs nothing to read.
#[inline]
fn are_checksums_valid(frame: &[u8], verdict: &Verdict, trusted: bool) -> bool {
    mcr_parse::ipv4_header_checksum_is_valid(frame, verdict)
        && (trusted || mcr_parse::udp_checksum_is_valid(frame, verdict))
}
