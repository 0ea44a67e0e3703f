//! AF_PACKET over both back ends, in a network namespace of its own: frames with name and control messages, and an
//! interface that goes down and comes up again.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // A test that cannot go on says where.

mod common;

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use common::{Pump, both, pattern, skip};
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

/// Runs the test in a thread with a network namespace of its own, loopback up.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        // SAFETY: takes no pointers; only this thread changes namespace.
        let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        if result < 0 {
            return skip(&format!("no new network namespace: {}", std::io::Error::last_os_error()));
        }
        set_loopback(true);
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn set_loopback(up: bool) {
    let socket = common_socket();
    let mut name = [0; libc::IFNAMSIZ];
    name[..2].copy_from_slice(&[b'l' as libc::c_char, b'o' as libc::c_char]);
    let flags = if up { libc::IFF_UP | libc::IFF_RUNNING } else { 0 };
    let request = libc::ifreq {
        ifr_name: name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: flags as libc::c_short },
    };
    // SAFETY: SIOCSIFFLAGS reads a struct ifreq, which lives until the call's end.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

fn common_socket() -> OwnedFd {
    open_socket(libc::AF_INET, libc::SOCK_DGRAM, 0)
}

/// Bound to loopback, IPv4, incoming frames only, with auxiliary data.
fn packet_socket() -> OwnedFd {
    let protocol = (libc::ETH_P_IP as u16).to_be();
    let socket = open_socket(libc::AF_PACKET, libc::SOCK_RAW, 0);
    for option in [libc::PACKET_AUXDATA, libc::PACKET_IGNORE_OUTGOING] {
        let on: libc::c_int = 1;
        // SAFETY: the value is an int that lives until the call's end, and its size is an int's.
        let result = unsafe {
            libc::setsockopt(socket.as_raw_fd(), libc::SOL_PACKET, option, (&raw const on).cast(), 4)
        };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    }
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: protocol,
        sll_ifindex: 1,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let bytes = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the address is a sockaddr_ll of that size and lives until the call's end.
    let result = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), bytes) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    socket
}

fn open_socket(domain: i32, kind: i32, protocol: i32) -> OwnedFd {
    // SAFETY: takes no pointers.
    let fd = unsafe { libc::socket(domain, kind | libc::SOCK_CLOEXEC, protocol) };
    assert!(fd >= 0, "{}", std::io::Error::last_os_error());
    // SAFETY: the kernel just made this descriptor for us; nobody else has it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
