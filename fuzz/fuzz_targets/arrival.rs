//! What sockets deliver, read by `mcr_worker::arrival`: any bytes are an arrival or are rejected, an arrival lies inside what was
//! received, and of a packet's arrival an independent parser says the same.
#![no_main]

use std::net::{IpAddr, SocketAddr};

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use libfuzzer_sys::fuzz_target;
use mcr_proto::{
    message::ReceiverKind,
    plan::{InputSlot, SocketId},
};
use mcr_uring_io::Datagram;
use mcr_worker::arrival::{Origin, decode};

/// Bytes of a virtio-net header.
const VNET_BYTES: usize = 10;

fuzz_target!(|input: &[u8]| {
    let Some((&[choice, name_bytes, control_bytes], rest)) = input.split_first_chunk() else { return };
    let (name, rest) = rest.split_at(usize::from(name_bytes).min(rest.len()));
    let (control, payload) = rest.split_at(usize::from(control_bytes).min(rest.len()));
    let kind = match choice & 3 {
        0 => ReceiverKind::Packet { ethernet: true, ring: None },
        1 => ReceiverKind::Packet { ethernet: false, ring: None },
        2 => ReceiverKind::Udp { bound: ([239, 1, 1, 1], 5000).into() },
        _ => ReceiverKind::Udp { bound: ([0u16; 8], 5000).into() },
    };
    let (truncated, control_truncated) = (choice & 4 != 0, choice & 8 != 0);
    // A frame of a ring has its slot's header instead of control messages.
    let (control, ring_header) = if choice & 16 != 0 { (&[][..], control) } else { (control, &[][..]) };
    let datagram = Datagram { name, control, payload, truncated, control_truncated, ring_header };
    let origin = Origin { socket: SocketId(1), input: InputSlot(2), kind };
    match decode(&datagram, &origin, 0) {
        Ok(arrival) => {
            assert!(!truncated && !control_truncated);
            let (segment, datagrams) = (u32::from(arrival.segment), arrival.datagrams());
            assert!(segment == 0 && datagrams == 1 || (datagrams - 1) * segment < arrival.bytes);
            assert!(segment == 0 || arrival.bytes <= datagrams * segment);
            let start = arrival.offset as usize;
            let relayed = &payload[start..start + arrival.bytes as usize];
            if let ReceiverKind::Packet { ethernet, .. } = kind {
                let (source, destination) = (arrival.source, arrival.destination);
                agree(&payload[VNET_BYTES..], ethernet, source, destination, relayed);
            }
        }
        Err(rejected) => {
            assert!(rejected.datagrams >= 1);
            assert!(rejected.bytes as usize <= payload.len());
        }
    }
});

/// Where etherparse reads a UDP datagram as well, it must be the same one. It knows no 0x9100 tags and fewer extension headers,
/// so that it finds none is no contradiction.
fn agree(frame: &[u8], ethernet: bool, source: SocketAddr, destination: SocketAddr, relayed: &[u8]) {
    let sliced = if ethernet { SlicedPacket::from_ethernet(frame) } else { SlicedPacket::from_ip(frame) };
    let Ok(sliced) = sliced else { return };
    let Some(TransportSlice::Udp(udp)) = sliced.transport else { return };
    let (from, to): (IpAddr, IpAddr) = match sliced.net {
        Some(NetSlice::Ipv4(ip)) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
        Some(NetSlice::Ipv6(ip)) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
        _ => return,
    };
    assert_eq!(source, SocketAddr::new(from, udp.source_port()));
    assert_eq!(destination, SocketAddr::new(to, udp.destination_port()));
    // A UDP length of 0 is a jumbogram to etherparse and malformed here, so lengths agree.
    assert_eq!(relayed, udp.payload());
}
