//! Receive rings of AF_PACKET sockets over both back ends, in a network namespace of its own.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // A test that cannot go on says where.

mod common;

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use common::{Pump, both, in_namespace, open_packet, pattern, recv, set_loopback, set_option, sink};
use mcr_uring_io::{AddError, Choice, Io, Outgoing, Part, RingShape};

/// 2 x 4 slots: few, so that a test fills them.
const SHAPE: RingShape = RingShape { block_bytes: 8192, blocks: 2, slot_bytes: 2048, prefix_bytes: 10 };
const SLOTS: usize = 8;
/// Virtio-net, Ethernet, IPv4 and UDP headers.
const HEADERS_BYTES: usize = 10 + 14 + 20 + 8;

both! {
    fn frames_lie_in_the_ring_with_their_address_and_header(choice) {
        in_namespace(move || {
            let mut bed = Bed::new(choice);
            bed.pump.hold = true;
            bed.send(0..5);
            bed.pump.until("all frames", |pump| pump.held.len() == 5);
            for (number, (socket, frame)) in bed.pump.held.iter().enumerate() {
                let datagram = bed.pump.io.datagram(frame);
                assert_eq!(*socket, bed.key);
                assert_eq!(datagram.payload[HEADERS_BYTES..], pattern(number, 100 + number));
                assert_eq!(datagram.payload.len(), frame.payload_bytes());
                // struct sockaddr_ll: family, protocol (network order), interface index.
                assert_eq!(datagram.name[..2], (libc::AF_PACKET as u16).to_ne_bytes());
                assert_eq!(datagram.name[2..4], (libc::ETH_P_IP as u16).to_be_bytes());
                assert_eq!(datagram.name[4..8], 1u32.to_ne_bytes());
                // struct tpacket2_hdr: status, length, captured length.
                let length = (datagram.payload.len() as u32 - 10).to_ne_bytes();
                assert_eq!([&datagram.ring_header[4..8], &datagram.ring_header[8..12]], [&length, &length]);
                assert!(datagram.control.is_empty() && !datagram.truncated && !datagram.control_truncated);
            }
            bed.pump.recycle_held();
        });
    }

    fn ten_times_around_the_ring_every_frame_comes_once_and_in_order(choice) {
        in_namespace(move || {
            let mut bed = Bed::new(choice);
            for start in (0..10 * SLOTS).step_by(5) {
                bed.send(start..start + 5);
                bed.pump.until("five frames", |pump| pump.received.len() == start + 5);
            }
            for (number, (_, bytes)) in bed.pump.received.iter().enumerate() {
                assert_eq!(bytes[HEADERS_BYTES..], pattern(number, 100 + number));
            }
            assert_eq!(bed.dropped(), 0);
        });
    }

    fn the_kernel_gets_a_slot_back_only_when_it_is_recycled(choice) {
        in_namespace(move || {
            let mut bed = Bed::new(choice);
            bed.pump.hold = true;
            bed.send(0..SLOTS);
            bed.pump.until("a full ring", |pump| pump.held.len() == SLOTS);
            bed.send(100..103);
            assert_eq!(bed.dropped(), 3, "no slot was free");
            for (number, (_, frame)) in bed.pump.held.iter().enumerate() {
                assert_eq!(bed.pump.io.datagram(frame).payload[HEADERS_BYTES..], pattern(number, 100 + number));
            }
            bed.pump.recycle_held();
            bed.send(200..203);
            bed.pump.until("three more", |pump| pump.held.len() == 3);
            let third = bed.pump.io.datagram(&bed.pump.held[2].1).payload;
            assert_eq!(third[HEADERS_BYTES..], pattern(202, 302));
            assert_eq!(bed.dropped(), 0);
            bed.pump.recycle_held();
        });
    }

    fn a_slot_waits_for_the_sends_that_refer_to_it(choice) {
        in_namespace(move || {
            let mut bed = Bed::new(choice);
            let sender = bed.pump.sender();
            let (receiver, to) = sink();
            bed.pump.hold = true;
            bed.send(0..SLOTS);
            bed.pump.until("a full ring", |pump| pump.held.len() == SLOTS);
            for (token, (_, frame)) in bed.pump.held.iter().enumerate() {
                let parts = [Part::Frame(frame, HEADERS_BYTES..frame.payload_bytes())];
                let message = Outgoing { destination: Some(to), ..Outgoing::new(sender, &parts, token as u64) };
                bed.pump.io.send(&message).unwrap();
            }
            bed.pump.recycle_held();
            // Queued, not sent: were a slot free, these would be written over what is to be sent.
            bed.send(300..300 + SLOTS);
            assert_eq!(bed.dropped(), SLOTS as u32);
            bed.pump.until("all sends", |pump| pump.sent.len() == SLOTS);
            for number in 0..SLOTS {
                assert_eq!(recv(&receiver), pattern(number, 100 + number));
            }
            // What was relayed over loopback came by the ring as well, once the slots were free.
            bed.pump.quiet();
            bed.pump.recycle_held();
            bed.send(400..401);
            bed.pump.until("another frame", |pump| pump.held.len() == 1);
            bed.pump.recycle_held();
        });
    }

    fn a_frame_too_large_for_a_slot_comes_whole_and_in_its_place(choice) {
        in_namespace(move || {
            let mut bed = Bed::new(choice);
            let sizes = [100, 60_000, 200, 3_000, 65_000, 1_400];
            bed.pump.hold = true;
            for (number, bytes) in sizes.iter().enumerate() {
                bed.source.send_to(&pattern(number, *bytes), bed.to).unwrap();
            }
            bed.pump.until("all frames", |pump| pump.held.len() == sizes.len());
            for (number, (_, frame)) in bed.pump.held.iter().enumerate() {
                let datagram = bed.pump.io.datagram(frame);
                assert_eq!(datagram.payload[HEADERS_BYTES..], pattern(number, sizes[number]), "frame {number}");
                assert_eq!(datagram.name[4..8], 1u32.to_ne_bytes());
                assert_eq!(datagram.ring_header[4..8], (datagram.payload.len() as u32 - 10).to_ne_bytes());
                assert!(!datagram.truncated);
            }
            // They can be sent from where they are, as any other.
            let (receiver, to) = sink();
            let sender = bed.pump.sender();
            let frame = &bed.pump.held[4].1;
            let parts = [Part::Frame(frame, HEADERS_BYTES..frame.payload_bytes())];
            let message = Outgoing { destination: Some(to), ..Outgoing::new(sender, &parts, 7) };
            bed.pump.io.send(&message).unwrap();
            bed.pump.recycle_held();
            bed.pump.until("the send", |pump| pump.sent == [(7, Ok(65_000))]);
            assert_eq!(recv(&receiver), pattern(4, 65_000));
            bed.pump.quiet();
            bed.pump.recycle_held();
        });
    }

    fn more_large_frames_than_buffers_wait_their_turn(choice) {
        in_namespace(move || {
            let shape = RingShape { blocks: 64, ..SHAPE };
            let mut bed = Bed::with(choice, shape);
            bed.pump.hold = true;
            for number in 0..100 {
                bed.source.send_to(&pattern(number, 2_100), bed.to).unwrap();
            }
            bed.pump.until("as many as there are buffers", |pump| pump.held.len() == 64);
            bed.pump.quiet();
            assert_eq!(bed.pump.held.len(), 64);
            bed.pump.hold = false;
            bed.pump.recycle_held();
            bed.pump.until("the others", |pump| pump.received.len() == 36);
            for (number, (_, bytes)) in (64..).zip(&bed.pump.received) {
                assert_eq!(bytes[HEADERS_BYTES..], pattern(number, 2_100));
            }
        });
    }

    fn who_takes_a_ring_over_reads_nothing_twice_and_misses_nothing(choice) {
        in_namespace(move || {
            // Whatever the place in the ring, and however full it is.
            for (before, taken, waiting) in [(0, 3, 2), (5, 0, 4), (7, 8, 0), (6, 0, 8), (3, 2, 6), (8, 4, 4)] {
                let mut bed = Bed::new(choice);
                let ours = bed.socket.try_clone().unwrap();
                bed.send(0..before);
                bed.pump.until("the ones before", |pump| pump.received.len() == before);
                bed.pump.hold = true;
                bed.send(10..10 + taken);
                bed.pump.until("those it dies with", |pump| pump.held.len() == taken);
                let Bed { pump, source, to, .. } = bed;
                // As a process that is killed: nothing is given back.
                pump.held.into_iter().for_each(std::mem::forget);
                drop(pump.io);

                let mut bed = Bed { source, to, ..Bed::reopen(choice, ours) };
                bed.send(50..50 + waiting);
                bed.pump.until("what waited", |pump| pump.received.len() == waiting);
                bed.send(80..80 + SLOTS);
                bed.pump.until("a ring's worth", |pump| pump.received.len() == waiting + SLOTS);
                let numbers = (50..50 + waiting).chain(80..80 + SLOTS);
                for (number, (_, bytes)) in numbers.zip(&bed.pump.received) {
                    assert_eq!(bytes[HEADERS_BYTES..], pattern(number, 100 + number), "{before} {taken} {waiting}");
                }
                bed.pump.quiet();
                assert_eq!(bed.pump.received.len(), waiting + SLOTS);
                assert_eq!(bed.dropped(), 0);
            }
        });
    }

    fn what_came_while_nobody_read_is_there_for_the_next(choice) {
        in_namespace(move || {
            let bed = Bed::new(choice);
            let ours = bed.socket.try_clone().unwrap();
            let Bed { pump, source, to, .. } = bed;
            drop(pump);
            for number in 0..SLOTS {
                source.send_to(&pattern(number, 100 + number), to).unwrap();
            }
            let mut bed = Bed { source, to, ..Bed::reopen(choice, ours) };
            bed.pump.until("all", |pump| pump.received.len() == SLOTS);
            for (number, (_, bytes)) in bed.pump.received.iter().enumerate() {
                assert_eq!(bytes[HEADERS_BYTES..], pattern(number, 100 + number));
            }
        });
    }

    fn one_busy_ring_leaves_room_for_another(choice) {
        in_namespace(move || {
            let mut bed = Bed::with(choice, RingShape { blocks: 32, ..SHAPE });
            // Both see every frame.
            let other = packet_socket(RingShape { blocks: 32, ..SHAPE });
            let other = bed.pump.io.add_ring(other, RingShape { blocks: 32, ..SHAPE }).unwrap();
            bed.send(0..100);
            bed.pump.io.limit_ring_frames(10);
            while bed.pump.received.len() < 200 {
                let before = bed.pump.received.len();
                assert!(bed.pump.wait(Some(Duration::from_secs(5))) <= 10);
                let new = &bed.pump.received[before..];
                let ours = new.iter().filter(|(socket, _)| *socket == bed.key).count();
                assert_eq!((ours, new.len() - ours), (5, 5), "each has its share");
            }
            assert!(bed.pump.received.iter().any(|(socket, _)| *socket == other));
            bed.send(0..10);
            bed.pump.io.limit_ring_frames(0);
            assert_eq!(bed.pump.wait(Some(Duration::from_millis(20))), 0, "they stay where they are");
            bed.pump.io.limit_ring_frames(100);
            bed.pump.until("the last", |pump| pump.received.len() == 220);
        });
    }

    fn a_ring_that_comes_first_is_emptied_before_another_is_looked_at(choice) {
        in_namespace(move || {
            let mut bed = Bed::with(choice, RingShape { blocks: 32, ..SHAPE });
            // Both see every frame.
            let first = packet_socket(RingShape { blocks: 32, ..SHAPE });
            let first = bed.pump.io.add_ring(first, RingShape { blocks: 32, ..SHAPE }).unwrap();
            bed.pump.io.prioritize(bed.key, 7);
            bed.send(0..100);
            bed.pump.io.limit_ring_frames(30);
            while bed.pump.received.len() < 200 {
                assert!(bed.pump.wait(Some(Duration::from_secs(5))) <= 30);
            }
            let from: Vec<_> = bed.pump.received.iter().map(|(socket, _)| *socket).collect();
            assert_eq!((&from[..100], &from[100..]), (&[first; 100][..], &[bed.key; 100][..]));
        });
    }

    fn an_idle_ring_costs_no_calls_even_while_its_last_frame_is_held(choice) {
        in_namespace(move || {
            let mut bed = Bed::new(choice);
            bed.pump.hold = true;
            for held in 0..2 {
                if held == 1 {
                    bed.send(0..1);
                    bed.pump.until("a frame", |pump| pump.held.len() == 1);
                }
                let calls = bed.pump.io.counts().calls;
                let started = Instant::now();
                while started.elapsed() < Duration::from_millis(200) {
                    bed.pump.wait(Some(Duration::from_millis(200)));
                }
                // poll(2) cannot tell then, so the ring is looked at each millisecond.
                let calls_max = if held == 1 { 450 } else { 8 };
                let calls = bed.pump.io.counts().calls - calls;
                assert!(calls <= calls_max, "{calls} calls, {held} frame held");
            }
            // And a frame that comes then is noticed.
            bed.send(1..2);
            bed.pump.until("another", |pump| pump.held.len() == 2);
            bed.pump.recycle_held();
        });
    }

    fn a_closed_ring_goes_with_the_last_of_its_frames(choice) {
        in_namespace(move || {
            let mut bed = Bed::new(choice);
            bed.pump.hold = true;
            bed.send(0..4);
            bed.pump.until("the frames", |pump| pump.held.len() == 4);
            bed.pump.io.close(bed.key);
            bed.send(4..6);
            bed.pump.quiet();
            assert_eq!(bed.pump.held.len(), 4, "nothing comes from a closed socket");
            // Its place goes to a new one, and the old frames are what they were.
            let again = bed.pump.io.add_ring(packet_socket(SHAPE), SHAPE).unwrap();
            assert_ne!(again, bed.key);
            bed.send(10..12);
            bed.pump.until("frames of the new one", |pump| pump.held.len() == 6);
            for (number, (socket, frame)) in [0, 1, 2, 3, 10, 11].into_iter().zip(&bed.pump.held) {
                assert_eq!(bed.pump.io.datagram(frame).payload[HEADERS_BYTES..], pattern(number, 100 + number));
                assert_eq!(*socket == again, number >= 10);
            }
            bed.pump.recycle_held();
        });
    }

    fn an_interface_that_goes_down_is_reported_once_and_then_received_from_again(choice) {
        in_namespace(move || {
            let mut bed = Bed::new(choice);
            for round in 1..=3 {
                bed.pump.quiet();
                set_loopback(false);
                bed.pump.until("the failure", |pump| pump.failed.len() == round);
                let calls = bed.pump.io.counts().calls;
                bed.pump.quiet();
                assert_eq!(bed.pump.failed, vec![(bed.key, libc::ENETDOWN); round]);
                assert!(bed.pump.io.counts().calls - calls < 20, "it spins");
                set_loopback(true);
                bed.send(round..round + 1);
                bed.pump.until("a frame", |pump| pump.received.len() == round);
            }
        });
    }

    fn a_ring_of_another_shape_is_refused(choice) {
        in_namespace(move || {
            let mut io = Io::open(&common::small(choice)).unwrap();
            let wrong = RingShape { blocks: 3, ..SHAPE };
            assert!(matches!(io.add_ring(packet_socket(SHAPE), wrong), Err(AddError::Map(_))));
            let none = UdpSocket::bind("127.0.0.1:0").unwrap();
            assert!(matches!(io.add_ring(none.into(), SHAPE), Err(AddError::Map(_))));
            for nonsense in [
                RingShape { slot_bytes: 0, ..SHAPE },
                RingShape { slot_bytes: 96, ..SHAPE },
                RingShape { slot_bytes: 2056, ..SHAPE },
                RingShape { blocks: 0, ..SHAPE },
                RingShape { blocks: u32::MAX, ..SHAPE },
                RingShape { block_bytes: 1 << 31, ..SHAPE },
                RingShape { prefix_bytes: u16::MAX, ..SHAPE },
            ] {
                assert!(matches!(io.add_ring(packet_socket(SHAPE), nonsense), Err(AddError::Map(_))), "{nonsense:?}");
            }
        });
    }
}

/// A ring on loopback, and who sends to it.
struct Bed {
    pump: Pump,
    key: mcr_uring_io::SocketKey,
    /// The test's own descriptor of the packet socket.
    socket: OwnedFd,
    source: UdpSocket,
    to: SocketAddr,
    _sink: UdpSocket,
}

impl Bed {
    fn new(choice: Choice) -> Self {
        Self::with(choice, SHAPE)
    }

    fn with(choice: Choice, shape: RingShape) -> Self {
        Self::open(choice, packet_socket(shape), shape)
    }

    fn reopen(choice: Choice, socket: OwnedFd) -> Self {
        Self::open(choice, socket, SHAPE)
    }

    fn open(choice: Choice, socket: OwnedFd, shape: RingShape) -> Self {
        let mut pump = Pump::new(choice);
        let key = pump.io.add_ring(socket.try_clone().unwrap(), shape).unwrap();
        let (sink, to) = sink();
        let source = UdpSocket::bind("127.0.0.1:0").unwrap();
        Self { pump, key, socket, source, to, _sink: sink }
    }

    fn send(&self, numbers: std::ops::Range<usize>) {
        for number in numbers {
            self.source.send_to(&pattern(number, 100 + number), self.to).unwrap();
        }
    }

    /// Frames dropped since the last look (struct tpacket_stats: packets, drops).
    fn dropped(&self) -> u32 {
        let mut statistics = [0u32; 2];
        let mut bytes = 8;
        // SAFETY: the kernel writes at most `bytes` bytes to an array of that size.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                statistics.as_mut_ptr().cast(),
                &raw mut bytes,
            )
        };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
        statistics[1]
    }
}

/// Bound to loopback, IPv4 from elsewhere only, with a ring of TPACKET_V2.
fn packet_socket(shape: RingShape) -> OwnedFd {
    let slots = shape.slots().unwrap();
    let ring = [shape.block_bytes, shape.blocks, shape.slot_bytes, slots];
    let options: [(libc::c_int, &[u32]); 6] = [
        (libc::PACKET_IGNORE_OUTGOING, &[1]),
        (libc::PACKET_VNET_HDR, &[1]),
        (libc::PACKET_VERSION, &[1]),
        (libc::PACKET_RESERVE, &[16]),
        (libc::PACKET_COPY_THRESH, &[1]),
        (libc::PACKET_RX_RING, &ring),
    ];
    let socket = open_packet(libc::SOCK_NONBLOCK, &options);
    set_option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &[16 << 20]);
    socket
}
