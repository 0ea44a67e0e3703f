//! `arrival::decode` against frames that etherparse built, and against any bytes at all.

use std::net::{IpAddr, SocketAddr};

use etherparse::{EtherType, PacketBuilder};
use mcr_proto::{
    counters::InputDrop,
    message::ReceiverKind,
    plan::{InputSlot, SocketId},
};
use mcr_relay::engine::Arrival;
use mcr_uring_io::Datagram;
use mcr_worker::arrival::{Origin, Rejected, decode};
use proptest::prelude::*;

const NEEDS_CSUM: u8 = 1;
const DATA_VALID: u8 = 2;
const UDP_L4: u8 = 5;
const UFO: u8 = 3;
const MULTICAST: u8 = 2;
const OTHERHOST: u8 = 3;
const OUTGOING: u8 = 4;
const TP_STATUS_CSUMNOTREADY: u32 = 1 << 3;
const TP_STATUS_VLAN_VALID: u32 = 1 << 4;
const TP_STATUS_CSUM_VALID: u32 = 1 << 7;

/// What a packet socket delivers, piece by piece.
#[derive(Debug, Clone)]
struct Delivered {
    vnet: [u8; 10],
    frame: Vec<u8>,
    packet_type: u8,
    status: u32,
    tci: u16,
    ethernet: bool,
    truncated: bool,
}

impl Delivered {
    fn new(frame: Vec<u8>) -> Self {
        Self {
            vnet: [0; 10],
            frame,
            packet_type: MULTICAST,
            status: 0,
            tci: 0,
            ethernet: true,
            truncated: false,
        }
    }

    fn gso(mut self, kind: u8, size: u16) -> Self {
        self.vnet[1] = kind;
        self.vnet[4..6].copy_from_slice(&size.to_ne_bytes());
        self
    }

    fn decode(&self) -> Result<Arrival, Rejected> {
        let payload = [&self.vnet[..], &self.frame].concat();
        let mut name = [0; 20];
        name[..2].copy_from_slice(&(libc::AF_PACKET as u16).to_ne_bytes());
        name[10] = self.packet_type;
        let mut aux = [self.status, 0, 0].map(u32::to_ne_bytes).concat();
        aux.extend([0, 0, self.tci, 0x8100].map(u16::to_ne_bytes).concat());
        let control = control_message(libc::SOL_PACKET, libc::PACKET_AUXDATA, &aux);
        let datagram = Datagram {
            name: &name,
            control: &control,
            ring_header: &[],
            payload: &payload,
            truncated: self.truncated,
            control_truncated: false,
        };
        let kind = ReceiverKind::Packet { ethernet: self.ethernet, ring: None };
        let decoded = decode(&datagram, &origin(kind), 7);
        check(&datagram, &decoded);
        // A ring says the same in its own header (struct tpacket2_hdr).
        let mut ring_header = [self.status, 0, 0, 0, 0, 0].map(u32::to_ne_bytes).concat();
        ring_header.extend([self.tci, 0x8100, 0, 0].map(u16::to_ne_bytes).concat());
        if !self.truncated {
            let datagram = Datagram { control: &[], ring_header: &ring_header, ..datagram };
            assert_eq!(decode(&datagram, &origin(kind), 7), decoded);
        }
        decoded
    }

    fn reason(&self) -> Option<InputDrop> {
        self.decode().err().map(|rejected| rejected.reason)
    }
}

fn origin(kind: ReceiverKind) -> Origin {
    Origin { socket: SocketId(3), input: InputSlot(4), kind }
}

fn control_message(level: i32, kind: i32, data: &[u8]) -> Vec<u8> {
    let mut bytes = (16 + data.len()).to_ne_bytes().to_vec();
    bytes.extend(level.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(data);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

/// What holds whatever was decoded.
fn check(datagram: &Datagram<'_>, decoded: &Result<Arrival, Rejected>) {
    match decoded {
        Ok(arrival) => {
            assert!((arrival.offset + arrival.bytes) as usize <= datagram.payload.len());
            let (segment, datagrams) = (u32::from(arrival.segment), arrival.datagrams());
            if segment > 0 {
                assert!((datagrams - 1) * segment < arrival.bytes && arrival.bytes <= datagrams * segment);
            } else {
                assert_eq!(datagrams, 1);
            }
            assert_eq!((arrival.socket, arrival.input, arrival.frame), (SocketId(3), InputSlot(4), 7));
            for address in [arrival.source, arrival.destination] {
                assert_eq!(address, SocketAddr::new(address.ip(), address.port()), "no scope, no flow label");
            }
        }
        Err(rejected) => {
            assert!(rejected.datagrams >= 1);
            assert!(rejected.bytes as usize <= datagram.payload.len());
        }
    }
}

fn built(source: SocketAddr, destination: SocketAddr, hop_limit: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]);
    let builder = match (source.ip(), destination.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => builder.ipv4(from.octets(), to.octets(), hop_limit),
        (IpAddr::V6(from), IpAddr::V6(to)) => builder.ipv6(from.octets(), to.octets(), hop_limit),
        _ => panic!("one family"),
    };
    let builder = builder.udp(source.port(), destination.port());
    builder.write(&mut frame, payload).expect("room");
    frame
}

fn usual(payload: &[u8]) -> Vec<u8> {
    built("10.0.0.9:4000".parse().expect("address"), "239.1.1.1:5000".parse().expect("address"), 17, payload)
}

/// The frame with the first byte of its payload changed.
fn damaged() -> Vec<u8> {
    let mut frame = usual(&[7; 100]);
    let last = frame.len() - 1;
    frame[last] ^= 0x10;
    frame
}

#[test]
fn a_frame_that_the_ring_had_no_room_for_is_counted_as_such() {
    let datagram = Datagram {
        name: &[],
        control: &[],
        ring_header: &[0; 32],
        payload: &[0; 200],
        truncated: true,
        control_truncated: false,
    };
    let kind = ReceiverKind::Packet { ethernet: true, ring: None };
    let decoded = decode(&datagram, &origin(kind), 7);
    assert_eq!(decoded, Err(Rejected { reason: InputDrop::PoolEmpty, datagrams: 1, bytes: 0 }));
}

#[test]
fn a_superframe_is_as_many_datagrams_as_its_header_says() {
    let mut frame = Delivered::new(usual(&[1; 7000])).gso(UDP_L4, 1400);
    frame.vnet[0] = NEEDS_CSUM;
    let arrival = frame.decode().expect("an arrival");
    assert_eq!((arrival.segment, arrival.bytes, arrival.datagrams()), (1400, 7000, 5));
    let arrival = frame.clone().gso(UDP_L4 | 0x80, 1500).decode().expect("an arrival");
    assert_eq!(arrival.datagrams(), 5);
}

#[test]
fn a_superframe_whose_segment_size_contradicts_its_payload_is_malformed() {
    for size in [0, 7001] {
        let frame = Delivered::new(usual(&[1; 7000])).gso(UDP_L4, size);
        let rejected = frame.decode().expect_err("not to be relayed");
        assert_eq!(
            rejected,
            Rejected { reason: InputDrop::Malformed, datagrams: 1, bytes: 0 },
            "size {size}"
        );
    }
}

#[test]
fn a_ufo_frame_is_one_datagram() {
    let arrival = Delivered::new(usual(&[1; 7000])).gso(UFO, 1480).decode().expect("an arrival");
    assert_eq!((arrival.segment, arrival.bytes, arrival.datagrams()), (0, 7000, 1));
}

#[test]
fn a_wrong_checksum_is_judged_only_where_nobody_vouches_for_it() {
    let plain = Delivered::new(damaged());
    assert_eq!(plain.reason(), Some(InputDrop::Checksum));
    for flags in [NEEDS_CSUM, DATA_VALID] {
        let mut vouched = plain.clone();
        vouched.vnet[0] = flags;
        assert_eq!(vouched.reason(), None);
    }
    for status in [TP_STATUS_CSUMNOTREADY, TP_STATUS_CSUM_VALID] {
        assert_eq!(Delivered { status, ..plain.clone() }.reason(), None);
    }
}

#[test]
fn a_wrong_ipv4_header_checksum_is_a_wrong_checksum() {
    let mut frame = usual(b"payload");
    frame[24] ^= 1;
    assert_eq!(Delivered::new(frame).reason(), Some(InputDrop::Checksum));
}

#[test]
fn a_frame_of_a_vlan_belongs_to_no_rule_of_this_interface_but_a_priority_tag_does() {
    let plain = Delivered::new(usual(b"payload"));
    let tagged = |tci| Delivered { status: TP_STATUS_VLAN_VALID, tci, ..plain.clone() };
    assert_eq!(tagged(0xa005).reason(), Some(InputDrop::NoRule));
    assert_eq!(tagged(0xa000).reason(), None);
    assert_eq!(Delivered { tci: 5, ..plain.clone() }.reason(), None);

    let mut in_frame = plain.clone();
    in_frame.frame.splice(12..12, [0x81, 0x00, 0x00, 0x05]);
    assert_eq!(in_frame.reason(), Some(InputDrop::NoRule));
    in_frame.frame[15] = 0;
    assert_eq!(in_frame.reason(), None);
}

#[test]
fn own_frames_and_those_to_other_hosts_belong_to_no_rule_with_all_their_datagrams() {
    for packet_type in [OUTGOING, OTHERHOST] {
        let frame = Delivered { packet_type, ..Delivered::new(usual(&[1; 1000])).gso(UDP_L4, 300) };
        let want = Rejected { reason: InputDrop::NoRule, datagrams: 4, bytes: 1000 };
        assert_eq!(frame.decode(), Err(want));
    }
}

#[test]
fn what_is_not_a_whole_udp_datagram_is_rejected_for_its_own_reason() {
    let mut tcp = Vec::new();
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 0, 9], [10, 0, 0, 1], 64);
    builder.tcp(1, 2, 3, 4).write(&mut tcp, &[]).expect("room");
    assert_eq!(Delivered::new(tcp).reason(), Some(InputDrop::NotUdp));

    let mut arp = usual(b"payload");
    arp[12..14].copy_from_slice(&EtherType::ARP.0.to_be_bytes());
    assert_eq!(Delivered::new(arp).reason(), Some(InputDrop::NotUdp));

    let mut fragment = usual(b"payload");
    fragment[20] = 0x20;
    assert_eq!(Delivered::new(fragment).reason(), Some(InputDrop::Fragment));

    let mut short = usual(b"payload");
    short.truncate(40);
    assert_eq!(Delivered::new(short).reason(), Some(InputDrop::Malformed));

    let truncated = Delivered { truncated: true, ..Delivered::new(usual(b"payload")) };
    let want = Rejected { reason: InputDrop::Malformed, datagrams: 1, bytes: 0 };
    assert_eq!(truncated.decode(), Err(want));
}

#[test]
fn an_interface_without_link_layer_gives_frames_that_begin_with_ip() {
    let frame = usual(b"payload").split_off(14);
    let arrival = Delivered { ethernet: false, ..Delivered::new(frame) }.decode().expect("an arrival");
    assert_eq!((arrival.offset, arrival.bytes), (10 + 28, 7));
}

/// What a UDP socket delivers.
fn decode_udp(
    bound: &str,
    name: &[u8],
    control: &[u8],
    payload: &[u8],
    control_truncated: bool,
) -> Result<Arrival, Rejected> {
    let datagram = Datagram { name, control, payload, truncated: false, ring_header: &[], control_truncated };
    let kind = ReceiverKind::Udp { bound: bound.parse().expect("address") };
    let decoded = decode(&datagram, &origin(kind), 7);
    check(&datagram, &decoded);
    decoded
}

fn sockaddr_in6(scope: u32) -> Vec<u8> {
    let mut name = vec![0; 28];
    name[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
    name[2..4].copy_from_slice(&4000u16.to_be_bytes());
    name[4..8].copy_from_slice(&[0, 1, 2, 3]);
    name[8..10].copy_from_slice(&[0xfe, 0x80]);
    name[23] = 9;
    name[24..].copy_from_slice(&scope.to_ne_bytes());
    name
}

#[test]
fn a_merged_datagram_of_a_udp_socket_is_cut_as_the_kernel_says_and_its_addresses_have_no_scope() {
    let control = [
        control_message(libc::SOL_IPV6, libc::IPV6_HOPLIMIT, &17i32.to_ne_bytes()),
        control_message(libc::SOL_IPV6, libc::IPV6_TCLASS, &0xb8i32.to_ne_bytes()),
        control_message(libc::SOL_UDP, libc::UDP_GRO, &300i32.to_ne_bytes()),
    ]
    .concat();
    let name = sockaddr_in6(7);
    let arrival = decode_udp("[ff3e::1%7]:5000", &name, &control, &[0; 1000], false).expect("an arrival");
    assert_eq!(arrival.source, "[fe80::9]:4000".parse().expect("address"));
    assert_eq!(arrival.destination, "[ff3e::1]:5000".parse().expect("address"));
    assert_eq!((arrival.hop_limit, arrival.traffic_class), (17, 0xb8));
    assert_eq!((arrival.segment, arrival.bytes, arrival.datagrams()), (300, 1000, 4));
    // As long as the payload: nothing was merged.
    let arrival = decode_udp("[ff3e::1]:5000", &name, &control, &[0; 300], false).expect("an arrival");
    assert_eq!((arrival.segment, arrival.datagrams()), (0, 1));
}

#[test]
fn a_socket_bound_to_any_address_learns_each_datagrams_own() {
    let control = control_message(libc::SOL_IPV6, libc::IPV6_PKTINFO, &{
        let mut info = [0; 20];
        info[..2].copy_from_slice(&[0xff, 0x3e]);
        info
    });
    let name = sockaddr_in6(0);
    let arrival = decode_udp("[::]:5000", &name, &control, b"", false).expect("an arrival");
    assert_eq!(arrival.destination, "[ff3e::]:5000".parse().expect("address"));
    assert_eq!((arrival.bytes, arrival.datagrams()), (0, 1));
    let arrival = decode_udp("[ff3e::1]:5000", &name, &control, b"", false).expect("an arrival");
    assert_eq!(arrival.destination, "[ff3e::1]:5000".parse().expect("address"));
}

#[test]
fn lost_control_messages_or_a_lost_sender_make_a_datagram_malformed() {
    let want = Err(Rejected { reason: InputDrop::Malformed, datagrams: 1, bytes: 0 });
    assert_eq!(decode_udp("[ff3e::1]:5000", &sockaddr_in6(0), &[], b"x", true), want);
    assert_eq!(decode_udp("[ff3e::1]:5000", &[], &[], b"x", false), want);
}

fn addresses() -> impl Strategy<Value = (SocketAddr, SocketAddr)> {
    prop_oneof![
        any::<([u8; 4], u16, [u8; 4], u16)>().prop_map(|(a, p, b, q)| ((a, p).into(), (b, q).into())),
        any::<([u16; 8], u16, [u16; 8], u16)>().prop_map(|(a, p, b, q)| ((a, p).into(), (b, q).into())),
    ]
}

proptest! {
    #[test]
    fn a_frame_built_by_another_is_read_as_it_was_meant(
        (source, destination) in addresses(),
        hop_limit in any::<u8>(),
        payload in prop::collection::vec(any::<u8>(), 0..1500),
        segment in 1u16..1600,
        superframe in any::<bool>(),
        padding in 0usize..20,
    ) {
        let mut frame = built(source, destination, hop_limit, &payload);
        let ip = if source.is_ipv4() { 20 } else { 40 };
        frame.resize(frame.len() + padding, 0xaa);
        let mut delivered = Delivered::new(frame);
        let segment = segment.min(payload.len() as u16);
        let superframe = superframe && segment > 0;
        if superframe {
            delivered = delivered.gso(UDP_L4, segment);
        }
        if superframe && padding > 0 {
            // A device would cut up what is behind the datagrams, too.
            prop_assert_eq!(delivered.reason(), Some(InputDrop::Malformed));
            return Ok(());
        }
        let want = Arrival {
            socket: SocketId(3),
            input: InputSlot(4),
            source,
            destination,
            hop_limit,
            traffic_class: 0,
            frame: 7,
            offset: 10 + 14 + ip + 8,
            bytes: payload.len() as u32,
            segment: if superframe { segment } else { 0 },
            stamp_ns: 0,
        };
        prop_assert_eq!(delivered.decode(), Ok(want));
    }

    #[test]
    fn any_change_of_one_bit_of_the_payload_is_seen(
        (source, destination) in addresses(),
        payload in prop::collection::vec(any::<u8>(), 1..200),
        bit in any::<prop::sample::Index>(),
    ) {
        let mut frame = built(source, destination, 9, &payload);
        let bit = bit.index(payload.len() * 8);
        let start = frame.len() - payload.len();
        frame[start + bit / 8] ^= 1 << (bit % 8);
        prop_assert_eq!(Delivered::new(frame).reason(), Some(InputDrop::Checksum));
    }

    #[test]
    fn any_bytes_at_all_are_an_arrival_or_are_rejected(
        payload in prop::collection::vec(any::<u8>(), 0..200),
        name in prop::collection::vec(any::<u8>(), 0..32),
        control in prop::collection::vec(any::<u8>(), 0..64),
        ring_header in prop::collection::vec(any::<u8>(), 0..40),
        flags in any::<(bool, bool, bool)>(),
        bound in addresses(),
        udp in any::<bool>(),
    ) {
        let (truncated, control_truncated, ethernet) = flags;
        let datagram = Datagram {
            name: &name, control: &control, ring_header: &ring_header, payload: &payload, truncated, control_truncated,
        };
        let kind =
            if udp { ReceiverKind::Udp { bound: bound.0 } } else { ReceiverKind::Packet { ethernet, ring: None } };
        check(&datagram, &decode(&datagram, &origin(kind), 7));
    }

    #[test]
    fn a_frame_with_some_bytes_changed_is_an_arrival_or_is_rejected(
        (source, destination) in addresses(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        vnet in any::<[u8; 10]>(),
        status in any::<u32>(),
        ethernet in any::<bool>(),
    ) {
        let mut frame = built(source, destination, 9, &[0; 64]);
        for (at, value) in changes {
            let at = at.index(frame.len());
            frame[at] = value;
        }
        // `decode` checks what must hold.
        let _ = Delivered { vnet, status, ethernet, ..Delivered::new(frame) }.decode();
    }
}
