//! Packet sockets and their filters, against the kernel.
#![allow(clippy::unwrap_used)] // The helpers of a test are the test.

mod common;

use common::*;
use mcr_lab::{Line, Namespace, require};
use mcr_socket::filter::{self, Filter, FilterLink, Precision, Wanted};
use mcr_socket::packet::{
    self, AuxData, GsoType, LinkAddress, PacketOptions, PacketType, RingShape, VNET_HEADER_BYTES, VnetHeader,
    open,
};
use mcr_socket::{OpenError, dropped, receive_buffer_bytes};
use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 1, 1, 1);
const GROUP_MAC: [u8; 6] = [1, 0, 0x5e, 1, 1, 1];
const SOURCE: Ipv4Addr = Ipv4Addr::new(172, 16, 99, 1);

fn want(destination: &str, port: u16, source: Option<&str>) -> Wanted {
    let source = source.map(|source| source.parse().unwrap());
    Wanted { destination: destination.parse().unwrap(), port, source }
}

fn tap(net: &Namespace, ifname: &str, vnet_hdr: bool, wanted: &[Wanted]) -> OwnedFd {
    let filter = Filter::compile(wanted, FilterLink::Ethernet);
    let ifindex = net.link_index(ifname).unwrap();
    let options =
        PacketOptions { ifindex, vnet_hdr, receive_buffer_bytes: 4 << 20, ring: None, filter: &filter };
    net.enter(|| open(&options)).unwrap()
}

fn injector(net: &Namespace, ifname: &str) -> Injector {
    let ifindex = net.link_index(ifname).unwrap();
    net.enter(|| Injector::new(ifindex))
}

fn v4(fragment: u16, protocol: u8, rest: &[u8]) -> Vec<u8> {
    ethernet(GROUP_MAC, 0x0800, &ipv4(SOURCE, GROUP, fragment, protocol, rest))
}

/// Sends each frame, then one that passes, and says which of the frames came before that.
fn passed(line: &Line, wanted: &[Wanted], frames: &[(&'static str, Vec<u8>)]) -> Vec<&'static str> {
    let end = want("239.255.255.250", 65535, None);
    let tap = tap(&line.relay, "in0", false, &[wanted, &[end]].concat());
    let mut injector = injector(&line.source, "src0");
    frames.iter().for_each(|(_, frame)| injector.send(frame));
    let end =
        ethernet(GROUP_MAC, 0x0800, &ipv4(SOURCE, [239, 255, 255, 250].into(), 0, 17, &udp(65535, b"end")));
    injector.send(&end);
    let mut names = Vec::new();
    loop {
        let got = recv(&tap);
        if got.data.ends_with(b"end") {
            return names;
        }
        // A tag is taken out of the frame, so the payload, which names it, says which it was.
        let name = frames.iter().find(|(name, _)| got.data.ends_with(name.as_bytes()));
        names.push(name.map_or("unknown", |(name, _)| name));
    }
}

#[test]
fn a_packet_socket_sees_the_ipv4_frames_that_are_wanted_and_no_others() {
    let Some(()) = require::netns() else { return };
    let line = Line::new().unwrap();
    let tagged = |tci: u16, name: &str| {
        let inner =
            [&tci.to_be_bytes()[..], &[8, 0], &ipv4(SOURCE, GROUP, 0, 17, &udp(5000, name.as_bytes()))]
                .concat();
        ethernet(GROUP_MAC, 0x8100, &inner)
    };
    let options = {
        // A header of six words: version 4, IHL 6.
        let mut ip =
            ipv4(SOURCE, GROUP, 0, 17, &[&[1, 1, 1, 0][..], &udp(5000, b"with IP options")].concat());
        ip[0] = 0x46;
        ethernet(GROUP_MAC, 0x0800, &ip)
    };
    let unicast =
        |mac, name: &str| ethernet(mac, 0x0800, &ipv4(SOURCE, GROUP, 0, 17, &udp(5000, name.as_bytes())));
    let our_mac = line.relay.link("in0").unwrap().mac.unwrap();
    let foreign = ipv4(SOURCE, [239, 1, 1, 2].into(), 0, 17, &udp(5000, b"another group"));
    let frames = [
        ("wanted", v4(0, 17, &udp(5000, b"wanted"))),
        ("another port", v4(0, 17, &udp(5001, b"another port"))),
        ("another group", ethernet(GROUP_MAC, 0x0800, &foreign)),
        ("with IP options", options),
        ("first fragment", v4(0x2000, 17, &udp(5001, b"first fragment"))),
        ("later fragment", v4(0x0010, 17, b"later fragment")),
        ("not UDP", v4(0, 6, &udp(5000, b"not UDP"))),
        ("VLAN 5", tagged(5, "VLAN 5")),
        ("priority", tagged(0xa000, "priority")),
        ("to another host", unicast([2, 9, 9, 9, 9, 9], "to another host")),
        ("to this host", unicast(our_mac, "to this host")),
        ("broadcast", unicast(BROADCAST, "broadcast")),
        ("cut short", v4(0, 17, b"cut")),
        ("cut short", v4(0, 17, &udp(5000, b"")[..4])),
    ];
    let names = passed(&line, &[want("239.1.1.1", 5000, None)], &frames[..12]);
    let expected = [
        "wanted",
        "with IP options",
        "first fragment",
        "later fragment",
        "priority",
        "to this host",
        "broadcast",
    ];
    assert_eq!(names, expected);
    // veth does not pad, so a header that ends too early reaches user space to be counted.
    assert_eq!(passed(&line, &[want("239.1.1.1", 5000, None)], &frames[12..]).len(), 2);
}

#[test]
fn a_wanted_source_keeps_the_others_out() {
    let Some(()) = require::netns() else { return };
    let line = Line::new().unwrap();
    let from = |source: [u8; 4], name: &str| {
        ethernet(GROUP_MAC, 0x0800, &ipv4(source.into(), GROUP, 0, 17, &udp(5000, name.as_bytes())))
    };
    let frames = [("right", from([10, 0, 0, 9], "right")), ("wrong", from([10, 0, 0, 8], "wrong"))];
    assert_eq!(passed(&line, &[want("239.1.1.1", 5000, Some("10.0.0.9"))], &frames), ["right"]);
}

#[test]
fn a_packet_socket_sees_the_ipv6_frames_that_are_wanted_and_no_others() {
    let Some(()) = require::netns() else { return };
    let line = Line::new().unwrap();
    let source: Ipv6Addr = "2001:db8::1".parse().unwrap();
    let group: Ipv6Addr = "ff3e::1:2:3".parse().unwrap();
    let other: Ipv6Addr = "ff3e::1:2:4".parse().unwrap();
    let frame =
        |to, next, rest: &[u8]| ethernet([0x33, 0x33, 0, 2, 0, 3], 0x86dd, &ipv6(source, to, next, rest));
    let hop_by_hop =
        [&[17, 0, 1, 4, 0, 0, 0, 0][..], &udp6(source, group, 5000, b"extension header")].concat();
    let frames = [
        ("wanted", frame(group, 17, &udp6(source, group, 5000, b"wanted"))),
        ("another port", frame(group, 17, &udp6(source, group, 5001, b"another port"))),
        ("another group", frame(other, 17, &udp6(source, other, 5000, b"another group"))),
        ("extension header", frame(group, 0, &hop_by_hop)),
        ("not UDP", frame(group, 58, b"not UDP")),
    ];
    let wanted = [want("ff3e::1:2:3", 5000, None), want("239.1.1.1", 1, None)];
    assert_eq!(passed(&line, &wanted, &frames), ["wanted", "extension header"]);
}

#[test]
fn own_outgoing_frames_do_not_come_back() {
    let Some(()) = require::netns() else { return };
    let line = Line::new().unwrap();
    let tap = tap(&line.relay, "in0", false, &[want("239.1.1.1", 5000, None)]);
    injector(&line.relay, "in0").send(&v4(0, 17, &udp(5000, b"out")));
    injector(&line.source, "src0").send(&v4(0, 17, &udp(5000, b"in")));
    let got = recv(&tap);
    assert!(got.data.ends_with(b"in"));
    let from = LinkAddress::parse(&got.name).unwrap();
    assert_eq!(from.packet_type, PacketType::Multicast);
    assert_eq!(from.ifindex, line.relay.link_index("in0").unwrap());
    assert_eq!((from.protocol, from.hatype), (0x0800, 1));
    assert_eq!((from.address_bytes, &from.address[..6]), (6, &[2, 0, 0, 0, 0, 9][..]));
    assert!(try_recv(&tap).unwrap().is_none());
}

#[test]
fn a_superframe_comes_whole_and_its_header_tells_the_datagrams_apart() {
    let Some(()) = require::netns() else { return };
    let line = Line::new().unwrap();
    let tap = tap(&line.relay, "in0", true, &[want("239.1.1.1", 5000, None)]);
    let sender = line.source.enter(|| UdpSocket::bind("10.1.0.1:0")).unwrap();
    let segment = 1400i32;
    // SAFETY: pointer and length are those of one integer.
    let result = unsafe {
        libc::setsockopt(sender.as_raw_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, (&raw const segment).cast(), 4)
    };
    assert_eq!(result, 0);
    assert_eq!(sender.send_to(&[7; 5 * 1400], "239.1.1.1:5000").unwrap(), 7000);
    let got = recv(&tap);
    assert_eq!(got.data.len(), VNET_HEADER_BYTES + 14 + 20 + 8 + 7000);
    let header = VnetHeader::parse(&got.data).unwrap();
    assert_eq!((header.gso_type, header.gso_size), (GsoType::UdpL4, 1400));
    assert!(header.needs_csum);
    let aux = AuxData::parse(&got.control).unwrap();
    assert!(aux.checksum_not_ready());
    assert_eq!((aux.frame_bytes, aux.captured_bytes), (7042, 7042));
    assert_eq!(aux.vlan_tci(), None);
}

#[test]
fn the_tag_of_a_priority_tagged_frame_is_in_its_auxdata() {
    let Some(()) = require::netns() else { return };
    let line = Line::new().unwrap();
    let tap = tap(&line.relay, "in0", false, &[want("239.1.1.1", 5000, None)]);
    let inner = [&[0xa0, 0, 8, 0][..], &ipv4(SOURCE, GROUP, 0, 17, &udp(5000, b"tagged"))].concat();
    injector(&line.source, "src0").send(&ethernet(GROUP_MAC, 0x8100, &inner));
    let aux = AuxData::parse(&recv(&tap).control).unwrap();
    assert_eq!((aux.vlan_tci(), aux.vlan_tpid()), (Some(0xa000), Some(0x8100)));
}

#[test]
fn a_filter_is_replaced_on_a_live_socket_through_a_duplicate() {
    let Some(()) = require::netns() else { return };
    let line = Line::new().unwrap();
    let tap = tap(&line.relay, "in0", false, &[want("239.1.1.1", 5000, None)]);
    let kept = tap.try_clone().unwrap();
    let mut injector = injector(&line.source, "src0");
    let mut send_both = |round: &str| {
        for port in [5000, 5001] {
            injector.send(&v4(0, 17, &udp(port, format!("{round} {port}").as_bytes())));
        }
    };
    send_both("first");
    assert!(recv(&tap).data.ends_with(b"first 5000"));
    let other = Filter::compile(&[want("239.1.1.1", 5001, None)], FilterLink::Ethernet);
    assert_eq!(filter::attach(&kept, &other).unwrap(), Precision::Exact);
    send_both("second");
    assert!(recv(&tap).data.ends_with(b"second 5001"));
    filter::attach(&kept, &Filter::drop_all()).unwrap();
    send_both("third");
    filter::attach(&kept, &other).unwrap();
    send_both("fourth");
    assert!(recv(&tap).data.ends_with(b"fourth 5001"));
}

#[test]
fn a_ring_takes_as_many_frames_as_it_has_slots_and_queues_the_large_ones_besides() {
    let Some(()) = require::netns() else { return };
    let line = Line::new().unwrap();
    let filter = Filter::compile(&[want("239.1.1.1", 5000, None)], FilterLink::Ethernet);
    let ifindex = line.relay.link_index("in0").unwrap();
    let mtu = line.relay.enter(|| packet::mtu("in0")).unwrap();
    assert_eq!(mtu, 1500);
    let shape = RingShape::for_mtu(mtu, 128 << 10);
    let options = PacketOptions {
        ifindex,
        vnet_hdr: true,
        receive_buffer_bytes: 1 << 20,
        ring: Some(shape),
        filter: &filter,
    };
    let tap = line.relay.enter(|| open(&options)).unwrap();
    assert!(packet::is_idle(&tap).unwrap());
    let mut injector = injector(&line.source, "src0");
    let whole = udp(5000, &vec![7; usize::try_from(mtu).unwrap() - 28]);
    injector.send(&v4(0, 17, &whole));
    assert!(!packet::is_idle(&tap).unwrap());
    assert!(try_recv(&tap).unwrap().is_none(), "the largest frame of the link fits a slot");
    for _ in 0..shape.slots() {
        injector.send(&v4(0, 17, &whole));
    }
    let statistics = packet::take_statistics(&tap).unwrap();
    assert_eq!((statistics.frames, statistics.dropped), (shape.slots() + 1, 1));

    // In a ring of slots for less, the same frames are on the socket.
    let shape = RingShape::for_mtu(100, 64 << 10);
    let tap = line.relay.enter(|| open(&PacketOptions { ring: Some(shape), ..options })).unwrap();
    injector.send(&v4(0, 17, &whole));
    assert!(recv(&tap).data.ends_with(&[7; 1000]));
}

#[test]
fn an_interface_that_is_not_there_has_no_mtu() {
    for name in ["nowhere0", "", "a-name-that-is-too-long-for-any-interface"] {
        assert_eq!(packet::mtu(name).unwrap_err().raw_os_error(), Some(libc::ENODEV), "{name:?}");
    }
    assert_eq!(packet::mtu("lo").unwrap(), 65_536);
}

#[test]
fn slots_of_a_ring_are_made_for_the_mtu_of_the_link() {
    for (mtu, frame) in [(1500, 1522), (9000, 9022), (68, 90), (65_536, 1522), (u32::MAX, 1522)] {
        let shape = RingShape::for_mtu(mtu, 16 << 20);
        assert!(shape.slot_bytes >= frame + 96 && shape.slot_bytes < frame + 256, "{mtu}: {shape:?}");
        assert_eq!(shape.slot_bytes % 16, 0, "TPACKET_ALIGNMENT");
        assert_eq!(shape.slots(), shape.block_bytes / shape.slot_bytes * shape.blocks);
        assert_eq!(shape.block_bytes * shape.blocks, 16 << 20);
    }
    assert!(RingShape::for_mtu(1500, 16 << 20).slots() > 9_000);
    assert!(RingShape::for_mtu(1500, 0).slots() > 0);
}

#[test]
fn a_ring_for_a_number_of_frames_has_that_many_and_few_more() {
    let Some(()) = require::netns() else { return };
    let line = Line::new().unwrap();
    let ifindex = line.relay.link_index("in0").unwrap();
    for frames in [0, 1, 5, 39, 40, 1000, 9000] {
        let shape = RingShape::for_frames(1500, frames, 16 << 20);
        assert!((frames..frames + 40).contains(&shape.slots()), "{frames}: {shape:?}");
        let options = PacketOptions {
            ifindex,
            vnet_hdr: true,
            receive_buffer_bytes: 0,
            ring: Some(shape),
            filter: &Filter::drop_all(),
        };
        line.relay.enter(|| open(&options)).unwrap_or_else(|error| panic!("{frames}: {error}"));
    }
    assert!(RingShape::for_frames(1500, 65_536, 16 << 20).slots() < 10_000);
}

#[test]
fn every_frame_is_received_or_counted_as_dropped() {
    let Some(()) = require::netns() else { return };
    let line = Line::new().unwrap();
    let filter = Filter::compile(&[want("239.1.1.1", 5000, None)], FilterLink::Ethernet);
    let ifindex = line.relay.link_index("in0").unwrap();
    let options =
        PacketOptions { ifindex, vnet_hdr: false, receive_buffer_bytes: 20_000, ring: None, filter: &filter };
    let tap = line.relay.enter(|| open(&options)).unwrap();
    assert_eq!(dropped(&tap).unwrap(), 0);
    let mut injector = injector(&line.source, "src0");
    for _ in 0..500 {
        injector.send(&v4(0, 17, &udp(5000, &[1; 1000])));
        injector.send(&v4(0, 17, &udp(5001, &[1; 1000])));
    }
    let mut received = 0;
    mcr_lab::wait_until(DEADLINE, "500 frames are accounted for", || {
        while try_recv(&tap).unwrap().is_some() {
            received += 1;
        }
        received + dropped(&tap).unwrap() == 500
    })
    .unwrap();
    assert!(received > 0 && received < 500, "{received} received");
    let before = dropped(&tap).unwrap();
    assert_eq!(dropped(&tap).unwrap(), before, "reading does not reset it");
}

#[test]
fn a_privileged_receive_buffer_passes_rmem_max() {
    let Some(()) = require::netns() else { return };
    let line = Line::new().unwrap();
    let tap = tap(&line.relay, "in0", false, &[]);
    assert_eq!(receive_buffer_bytes(&tap).unwrap(), 4 << 20);
}

#[test]
fn a_filter_of_full_length_attaches_twice_and_falls_back_where_memory_is_short() {
    let Some(()) = require::netns() else { return };
    let net = Namespace::new().unwrap();
    let group = |n: u32| Ipv4Addr::from_bits(0xef00_0000 + n * 3).into();
    let wanted: Vec<_> =
        (0..700).map(|n| Wanted { destination: group(n), port: n as u16, source: None }).collect();
    let filter = Filter::compile(&wanted, FilterLink::Ethernet);
    assert_eq!(filter.precision(), Precision::Exact);
    if let Err(error) = net.sysctl("net.core.optmem_max", "131072") {
        return require::skip(error).unwrap_or_default();
    }
    let attach_twice = || {
        let socket = net.enter(|| UdpSocket::bind("127.0.0.1:0")).unwrap();
        let first = filter::attach(&socket, &filter).unwrap();
        assert_eq!(
            filter::attach(&socket, &filter).unwrap(),
            first,
            "the second needs no more room than the first"
        );
        first
    };
    assert_eq!(attach_twice(), Precision::Exact);
    net.sysctl("net.core.optmem_max", "70000").unwrap();
    assert_eq!(attach_twice(), Precision::Exact);
    net.sysctl("net.core.optmem_max", "30000").unwrap();
    assert_eq!(attach_twice(), Precision::Addresses);
    net.sysctl("net.core.optmem_max", "4096").unwrap();
    assert_eq!(attach_twice(), Precision::AnyUdp);
}

#[test]
fn errors_say_what_is_missing() {
    let Some(()) = require::netns() else { return };
    let net = Namespace::new().unwrap();
    let filter = Filter::drop_all();
    let options = |ifindex| PacketOptions {
        ifindex,
        vnet_hdr: true,
        receive_buffer_bytes: 0,
        ring: None,
        filter: &filter,
    };
    let denied = net.enter(|| as_nobody(|| open(&options(1)))).unwrap_err();
    assert!(matches!(denied, OpenError::NotPermitted { capability: "CAP_NET_RAW", .. }), "{denied}");
    for ifindex in [0, 4711] {
        let missing = net.enter(|| open(&options(ifindex))).unwrap_err();
        assert!(
            matches!(missing, OpenError::NoInterface { ifindex: index } if index == ifindex),
            "{missing}"
        );
    }
}
