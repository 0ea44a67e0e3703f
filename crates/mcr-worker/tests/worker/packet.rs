//! From AF_PACKET, over veth.

use std::{
    net::{SocketAddr, UdpSocket},
    os::fd::OwnedFd,
};

use mcr_lab::{Line, require};
use mcr_proto::{
    counters::InputDrop,
    endpoint::{Dscp, Ttl},
    message::{self, IoChoice, ReceiverKind},
    plan::{RouteOutput, RuleSlot, SocketId, Via},
};
use mcr_socket::{
    Family,
    filter::{Filter, FilterLink, Wanted},
    packet,
    raw::{self, RawOutput},
};

use crate::rig::*;

const GROUP: &str = "239.1.1.1:5000";
const GROUP_V6: &str = "[ff3e::1]:5000";
const RULE: RuleSlot = RuleSlot(9);

/// Source, worker and sink in three namespaces; the worker receives both groups by AF_PACKET.
struct Relay {
    line: Line,
    rig: Rig,
    input: SocketId,
}

impl Relay {
    fn new(io: IoChoice) -> Self {
        let line = Line::new().expect("root");
        line.pin_neighbours().expect("root");
        let mut rig = Rig::start(io);
        let ifindex = line.relay.link_index("in0").expect("it is there");
        let wanted = [GROUP, GROUP_V6].map(address).map(|group| Wanted {
            destination: group.ip(),
            port: group.port(),
            source: None,
        });
        let ring = packet::RingShape::for_mtu(1500, 1 << 20);
        let options = packet::PacketOptions {
            ifindex,
            vnet_hdr: true,
            receive_buffer_bytes: 64 << 20,
            filter: &Filter::compile(&wanted, FilterLink::Ethernet),
            ring: Some(ring),
        };
        let fd = line.relay.enter(|| packet::open(&options)).expect("root");
        let packet::RingShape { block_bytes, blocks, slot_bytes } = ring;
        let input = rig.receiver(
            fd,
            ReceiverKind::Packet {
                ethernet: true,
                ring: Some(message::RingShape { block_bytes, blocks, slot_bytes }),
            },
        );
        Self { line, rig, input }
    }

    fn source(&self) -> UdpSocket {
        let source = source(&self.line.source, "10.1.0.1:4000");
        source.set_multicast_ttl_v4(9).expect("own socket");
        source
    }

    fn raw_output(&self, family: Family) -> OwnedFd {
        let options = RawOutput {
            family,
            ifindex: Some(self.line.relay.link_index("out0").expect("it is there")),
            multicast_loop: false,
            priority: 0,
            send_buffer_bytes: 64 << 20,
        };
        self.line.relay.enter(|| raw::open_output(&options)).expect("root")
    }

    /// Checks that all of these left by every output, and stops the worker.
    fn finish(self, outputs: &[RouteOutput], sent: &[Vec<u8>]) {
        self.rig.check_laws(RULE, outputs);
        let bytes: usize = sent.iter().map(Vec::len).sum();
        assert_eq!(self.rig.matched(), sent.len() as u64);
        for output in outputs {
            let counts = self.rig.output(output.slot);
            assert_eq!((counts.copies, counts.bytes), (sent.len() as u64, bytes as u64));
        }
        self.rig.stop();
    }
}

#[test]
fn frames_and_superframes_of_a_veth_come_out_as_the_datagrams_they_are_made_of() {
    let Some(()) = require::netns() else { return };
    for io in BACK_ENDS {
        let mut relay = Relay::new(io);
        let sender = relay.rig.sender(udp_output(&relay.line.relay, Family::V4));
        let outputs = [output(0, "10.2.0.2:6000", Via::Udp(sender))];
        relay.rig.apply(vec![route(RULE.0, relay.input, GROUP, &outputs)]);
        let sink = sink(&relay.line.sinks[0], "10.2.0.2:6000");
        let source = relay.source();
        let mut sent = Vec::new();
        for number in 0..100 {
            let superframe = payload(number, 7008 - number % 3);
            send_segments(&source, GROUP, &superframe, 1400);
            sent.extend(superframe.chunks(1400).map(<[u8]>::to_vec));
            for bytes in [0, 1472, 1472, 3] {
                let single = payload(number, bytes);
                source.send_to(&single, GROUP).expect("room");
                sent.push(single);
            }
        }
        relay.rig.wait_received(sent.len() as u64, &outputs);
        let frames = relay.rig.counters.input(INPUT).frames.get();
        assert_eq!(frames, 500, "a superframe is one frame");
        assert!(receive(&sink, sent.len()) == sent, "the same datagrams in the same order");
        assert_empty(&sink);
        relay.finish(&outputs, &sent);
    }
}

#[test]
fn fragments_are_dropped_and_counted_each_and_whole_datagrams_pass() {
    let Some(()) = require::netns() else { return };
    for io in BACK_ENDS {
        let mut relay = Relay::new(io);
        let sender = relay.rig.sender(udp_output(&relay.line.relay, Family::V4));
        let outputs = [output(0, "10.2.0.2:6000", Via::Udp(sender))];
        relay.rig.apply(vec![route(RULE.0, relay.input, GROUP, &outputs)]);
        let sink = sink(&relay.line.sinks[0], "10.2.0.2:6000");
        let source = relay.source();
        for number in 0..10 {
            // 3,008 bytes with the UDP header: three fragments of at most 1,480.
            source.send_to(&payload(number, 3000), GROUP).expect("room");
            source.send_to(&payload(number, 100), GROUP).expect("room");
        }
        relay.rig.wait_received(40, &outputs);
        assert_eq!(relay.rig.input_drops(InputDrop::Fragment), 30);
        let want: Vec<_> = (0..10).map(|number| payload(number, 100)).collect();
        assert!(receive(&sink, 10) == want);
        relay.rig.check_laws(RULE, &outputs);
        relay.rig.stop();
    }
}

#[test]
fn a_raw_output_keeps_source_ttl_and_dscp_and_cuts_superframes() {
    let Some(()) = require::netns() else { return };
    for io in BACK_ENDS {
        let mut relay = Relay::new(io);
        let sender = relay.rig.sender(relay.raw_output(Family::V4));
        let outputs = [RouteOutput {
            ttl: Ttl::Keep,
            dscp: Dscp::Keep,
            ..output(0, "10.2.0.2:6000", Via::Raw(sender))
        }];
        relay.rig.apply(vec![route(RULE.0, relay.input, GROUP, &outputs)]);
        // Opened as an input is, to see TTL and TOS.
        let (sink, _) = udp_input(&relay.line.sinks[0], "10.2.0.2:6000");
        let sink = UdpSocket::from(sink);
        nix::sys::socket::setsockopt(&sink, nix::sys::socket::sockopt::UdpGroSegment, &false)
            .expect("own socket");
        let source = relay.source();
        nix::sys::socket::setsockopt(&source, nix::sys::socket::sockopt::Ipv4Tos, &0xb8).expect("own socket");
        let mut sent = Vec::new();
        for number in 0..20 {
            let superframe = payload(number, 2999);
            send_segments(&source, GROUP, &superframe, 1000);
            sent.extend(superframe.chunks(1000).map(<[u8]>::to_vec));
            source.send_to(&payload(number, number), GROUP).expect("room");
            sent.push(payload(number, number));
        }
        relay.rig.wait_received(sent.len() as u64, &outputs);
        for want in &sent {
            let (got, from, control) = receive_with_control(&sink);
            assert!(&got == want, "the same datagram");
            assert_eq!(from, address("10.1.0.1:4000"));
            assert_eq!((control.ttl, control.tos), (Some(8), Some(0xb8)));
        }
        assert_empty(&sink);
        relay.finish(&outputs, &sent);
    }
}

#[test]
fn ipv6_is_relayed_by_udp_and_raw_outputs_alike() {
    let Some(()) = require::netns() else { return };
    for io in BACK_ENDS {
        let mut relay = Relay::new(io);
        let plain = relay.rig.sender(udp_output(&relay.line.relay, Family::V6));
        let raw = relay.rig.sender(relay.raw_output(Family::V6));
        let outputs =
            [output(0, "[fd00:2::2]:6000", Via::Udp(plain)), output(1, "[fd00:2::2]:6001", Via::Raw(raw))];
        relay.rig.apply(vec![route(RULE.0, relay.input, GROUP_V6, &outputs)]);
        let sinks = ["[fd00:2::2]:6000", "[fd00:2::2]:6001"].map(|to| sink(&relay.line.sinks[0], to));
        let source = source(&relay.line.source, "[fd00:1::1]:4000");
        let mut sent = Vec::new();
        for number in 0..50 {
            let superframe = payload(number, 6999);
            send_segments(&source, GROUP_V6, &superframe, 1400);
            sent.extend(superframe.chunks(1400).map(<[u8]>::to_vec));
            source.send_to(&payload(number, number), GROUP_V6).expect("room");
            sent.push(payload(number, number));
        }
        relay.rig.wait_received(sent.len() as u64, &outputs);
        let mut from = Vec::new();
        for sink in &sinks {
            from.push(sink.peek_from(&mut [0; 2000]).expect("something came").1);
            assert!(receive(sink, sent.len()) == sent, "the same datagrams in the same order");
            assert_empty(sink);
        }
        assert_eq!(from[0].ip(), address("[fd00:2::1]:0").ip());
        assert_eq!(from[1], address("[fd00:1::1]:4000"));
        relay.finish(&outputs, &sent);
    }
}

/// One datagram, its sender, and what the kernel says of it.
fn receive_with_control(sink: &UdpSocket) -> (Vec<u8>, SocketAddr, mcr_socket::udp::UdpControl) {
    let io = mcr_uring_io::IoConfig {
        backend: mcr_uring_io::Choice::Syscalls,
        buffers: 1,
        ..mcr_uring_io::IoConfig::default()
    };
    let mut io = mcr_uring_io::Io::open(&io).expect("memory");
    let shape = mcr_uring_io::ReceiveShape { name_bytes: 28, control_bytes: 160 };
    io.add_receiver(sink.try_clone().expect("a descriptor").into(), shape).expect("room");
    let mut events = Vec::new();
    io.wait(Some(PATIENCE), &mut events).expect("memory");
    let Some(mcr_uring_io::Event::Received { frame, .. }) = events.pop() else { panic!("nothing came") };
    let datagram = io.datagram(&frame);
    let control = mcr_socket::udp::UdpControl::parse(datagram.control);
    (datagram.payload.to_vec(), datagram.source().expect("an address"), control)
}
