//! AF_PACKET over both back ends, in a network namespace of its own: frames with name and control messages, and an
//! interface that goes down and comes up again.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // A test that cannot go on says where.

mod common;

use std::os::fd::OwnedFd;

use common::{Pump, both, in_namespace, open_packet, pattern, set_loopback};
use mcr_uring_io::{Choice, Outgoing, Part, ReceiveShape};

const SHAPE: ReceiveShape = ReceiveShape { name_bytes: 20, control_bytes: 64 };
const LINK_HEADER_BYTES: usize = 14;
const HEADERS_BYTES: usize = LINK_HEADER_BYTES + 20 + 8;

both! {
    fn frames_come_with_their_address_and_auxiliary_data(choice) {
        in_namespace(move || {
            let mut pump = Pump::new(choice);
            pump.hold = true;
            let key = pump.io.add_receiver(packet_socket(), SHAPE).unwrap();
            let (source, to) = common::sink();
            for number in 0..20 {
                source.send_to(&pattern(number, 100 + number), to).unwrap();
            }
            pump.until("all frames", |pump| pump.held.len() == 20);
            for (number, (socket, frame)) in pump.held.iter().enumerate() {
                let datagram = pump.io.datagram(frame);
                assert_eq!(*socket, key);
                assert_eq!(&datagram.payload[HEADERS_BYTES..], pattern(number, 100 + number));
                // struct sockaddr_ll: family, protocol (network order), interface index.
                assert_eq!(datagram.name[..2], (libc::AF_PACKET as u16).to_ne_bytes());
                assert_eq!(datagram.name[2..4], (libc::ETH_P_IP as u16).to_be_bytes());
                assert_eq!(datagram.name[4..8], 1u32.to_ne_bytes());
                let message = datagram.control_messages().next().unwrap();
                assert_eq!((message.level, message.kind), (libc::SOL_PACKET, libc::PACKET_AUXDATA));
                // struct tpacket_auxdata: status, then the length of the frame.
                assert_eq!(message.data[4..8], (datagram.payload.len() as u32).to_ne_bytes());
                assert!(!datagram.truncated && !datagram.control_truncated);
            }
            pump.recycle_held();
        });
    }

    fn a_frame_is_sent_on_with_another_header(choice) {
        in_namespace(move || {
            let mut pump = Pump::new(choice);
            pump.hold = true;
            pump.io.add_receiver(packet_socket(), SHAPE).unwrap();
            let sender = pump.io.add_sender(packet_socket()).unwrap();
            let (source, to) = common::sink();
            source.send_to(b"once", to).unwrap();
            pump.until("the frame", |pump| pump.held.len() == 1);
            let frame = &pump.held[0].1;
            let mut header = pump.io.datagram(frame).payload[..LINK_HEADER_BYTES].to_vec();
            header[6..12].copy_from_slice(&[2, 0, 0, 0, 0, 7]);
            let parts = [Part::Inline(&header), Part::Frame(frame, LINK_HEADER_BYTES..frame.payload_bytes())];
            pump.io.send(&Outgoing::new(sender, &parts, 1)).unwrap();
            pump.until("the send", |pump| pump.sent == [(1, Ok(HEADERS_BYTES + 4))]);
            pump.until("the frame again", |pump| pump.held.len() == 2);
            let [first, second] = [0, 1].map(|at: usize| pump.io.datagram(&pump.held[at].1).payload);
            assert_eq!(second[..LINK_HEADER_BYTES], header);
            assert_eq!(second[LINK_HEADER_BYTES..], first[LINK_HEADER_BYTES..]);
            pump.recycle_held();
        });
    }

    fn an_interface_that_goes_down_is_reported_once_and_then_received_from_again(choice) {
        in_namespace(move || {
            let mut pump = Pump::new(choice);
            let key = pump.io.add_receiver(packet_socket(), SHAPE).unwrap();
            for round in 1..=3 {
                pump.quiet();
                set_loopback(false);
                pump.until("the failure", |pump| pump.failed.len() == round);
                let calls = pump.io.counts().calls;
                pump.quiet();
                assert_eq!(pump.failed, vec![(key, libc::ENETDOWN); round]);
                assert!(pump.io.counts().calls - calls < 20, "it spins");
                set_loopback(true);
                let (source, to) = common::sink();
                source.send_to(b"up again", to).unwrap();
                pump.until("a frame", |pump| pump.received.len() == round);
                assert!(pump.received.iter().all(|(_, bytes)| bytes.ends_with(b"up again")));
            }
        });
    }
}

/// Bound to loopback, IPv4, incoming frames only, with auxiliary data.
fn packet_socket() -> OwnedFd {
    open_packet(0, &[(libc::PACKET_AUXDATA, &[1]), (libc::PACKET_IGNORE_OUTGOING, &[1])])
}
