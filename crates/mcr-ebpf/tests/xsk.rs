//! The redirect to AF_XDP sockets, on veth pairs: what is wanted reaches the socket, everything else the stack, and nothing stays behind.
#![allow(clippy::unwrap_used)] // A test that cannot go on says where.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    os::fd::{AsFd, OwnedFd},
    process::Stdio,
    time::Duration,
};

use caps::{CapSet, Capability};
use mcr_ebpf::xsk::{Attachment, Selection, Signatures, Verdict, XskError, XskFilter};
use mcr_lab::{Namespace, require, veth, wait_until};
use mcr_socket::{
    filter::{Filter, FilterLink},
    packet::{self, PacketOptions, VNET_HEADER_BYTES},
};
use mcr_xdp::{Binding, Config, Opened, Shape, Socket};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

const DEADLINE: Duration = Duration::from_secs(30);
const OURS: [u8; 6] = [2, 0, 0, 0, 0, 1];
const TESTER: [u8; 6] = [0, 0xc0, 0x17, 0x54, 5, 0x98];

fn selection() -> Selection {
    Selection {
        mac: OURS,
        mtu: 1500,
        to_us: true,
        groups: false,
        oui: Some([0, 0xc0, 0x17]),
        port: 3842,
        signatures: Signatures::ALL,
        auto: None,
        services: Vec::new(),
        oam: None,
        tpid_9100: false,
        first_fragments: false,
        extension_headers: false,
        times: false,
    }
}

/// A probe with tags, to a port.
fn probe(tags: &[u16], port: u16, signature: &[u8]) -> Vec<u8> {
    let mut frame = [OURS, TESTER].concat();
    for tpid in tags {
        frame.extend([tpid.to_be_bytes(), 5_u16.to_be_bytes()].concat());
    }
    let udp_bytes = 8 + 5 + signature.len() + 30;
    frame.extend([8, 0, 0x45, 0]);
    frame.extend((20 + udp_bytes as u16).to_be_bytes());
    frame.extend([0, 1, 0, 0, 64, 17, 0, 0, 192, 0, 2, 10, 192, 0, 2, 1]);
    frame.extend([0xc3, 0x50]);
    frame.extend(port.to_be_bytes());
    frame.extend((udp_bytes as u16).to_be_bytes());
    frame.extend([0; 7]);
    frame.extend(signature);
    frame.extend([0xaa; 30]);
    frame
}

/// Two ends: `near` puts frames in, `far` has the program.
struct Rig {
    far: Namespace,
    ifindex: u32,
    inject: File,
    stack: File,
    _near: Namespace,
}

impl Rig {
    fn new() -> Self {
        let (near, far) = (Namespace::new().unwrap(), Namespace::new().unwrap());
        for namespace in [&near, &far] {
            namespace.sysctl("net.ipv6.conf.default.disable_ipv6", "1").unwrap();
        }
        veth((&near, "near"), (&far, "far")).unwrap();
        far.set_mac("far", OURS).unwrap();
        for (namespace, ifname) in [(&near, "near"), (&far, "far")] {
            namespace.set_up(ifname).unwrap();
        }
        near.wait_running("near").unwrap();
        far.wait_running("far").unwrap();
        let filter = Filter::compile(&[], FilterLink::Ethernet);
        let options = PacketOptions {
            ifindex: near.link_index("near").unwrap(),
            vnet_hdr: true,
            receive_buffer_bytes: 1 << 16,
            filter: &filter,
            ring: None,
        };
        let inject = near.enter(|| packet::open(&options)).unwrap().into();
        let stack = far.enter(|| {
            let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
            socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll).unwrap()
        });
        let ifindex = far.link_index("far").unwrap();
        Self { far, ifindex, inject, stack: stack.into(), _near: near }
    }

    fn attach(&self, attachment: Attachment, selection: &Selection) -> Result<XskFilter, XskError> {
        self.far.enter(|| XskFilter::attach_as(attachment, self.ifindex, selection))
    }

    fn socket(&self, attachment: Attachment) -> Socket {
        let binding = if attachment == Attachment::Native { Binding::Best } else { Binding::Copy };
        let config = Config { shape: Shape::with_entries(64), binding, ..Config::new(self.ifindex, 0) };
        Socket::new(self.far.enter(|| Opened::open(&config)).unwrap()).unwrap()
    }

    fn send(&mut self, frame: &[u8]) {
        let whole = [&[0; VNET_HEADER_BYTES], frame].concat();
        assert_eq!(self.inject.write(&whole).unwrap(), whole.len());
    }

    /// What the stack has got since it was last asked: as many frames as expected, and no more.
    fn stack_got(&mut self, frames: usize) -> Vec<Vec<u8>> {
        let (mut got, mut buffer) = (Vec::new(), vec![0; 4096]);
        wait_until(DEADLINE, "the stack gets its frames", || {
            while let Ok(bytes) = self.stack.read(&mut buffer) {
                got.push(buffer[..bytes].to_vec());
            }
            got.len() >= frames
        })
        .unwrap();
        assert_eq!(got.len(), frames);
        got
    }
}

fn received(socket: &mut Socket, frames: usize) -> Vec<Vec<u8>> {
    let mut got = Vec::new();
    wait_until(DEADLINE, "the socket gets its frames", || {
        socket.receive(&mut got, 64).unwrap();
        got.len() >= frames
    })
    .unwrap();
    assert_eq!(got.len(), frames);
    got.into_iter()
        .map(|frame| {
            let bytes = socket.rings().bytes(&frame).to_vec();
            socket.rings_mut().release(frame);
            bytes
        })
        .collect()
}

fn redirects(attachment: Attachment) {
    let Some(()) = require::netns() else { return };
    let mut rig = Rig::new();
    let mut filter = rig.attach(attachment, &selection()).unwrap();
    assert_eq!(filter.attachment(), attachment);
    let mut socket = rig.socket(attachment);

    let wanted = [
        probe(&[], 3842, b"PROBEOT"),
        probe(&[0x8100], 3842, b"DATA:OT"),
        probe(&[0x88a8, 0x8100], 3842, b"LATENCY"),
    ];
    let mut arp = [&[0xff; 6][..], &TESTER, &[8, 6]].concat();
    arp.resize(60, 0);
    let foreign = [
        (arp, Verdict::DstMac),
        (probe(&[], 22, b"PROBEOT"), Verdict::Port),
        (probe(&[], 3842, b"PROBEOX"), Verdict::Signature),
        (probe(&[0x8100; 3], 3842, b"PROBEOT"), Verdict::VlanDepth),
        (probe(&[], 3842, b"PROBEOT")[..48].to_vec(), Verdict::LengthField),
    ];

    rig.send(&wanted[0]);
    assert_eq!(rig.stack_got(1)[0], wanted[0], "no socket yet");
    filter.add(0, socket.as_fd()).unwrap();
    for frame in &wanted {
        rig.send(frame);
    }
    for (frame, _) in &foreign {
        rig.send(frame);
    }
    assert_eq!(received(&mut socket, 3), wanted);
    for (got, (frame, _)) in rig.stack_got(foreign.len()).iter().zip(&foreign) {
        // A tap shows the stack's view: its outermost tag is taken out of the frame.
        let tagged = frame[12..14] == [0x81, 0];
        let want = if tagged { [&frame[..12], &frame[16..]].concat() } else { frame.clone() };
        assert_eq!(*got, want);
    }
    let counts = filter.counts().unwrap();
    assert_eq!((counts.of(Verdict::Redirected), counts.of(Verdict::NoSocket)), (3, 1));
    for (_, verdict) in &foreign {
        assert_eq!(counts.of(*verdict), 1, "{verdict:?}");
    }
    assert_eq!(counts.total(), 4 + foreign.len() as u64);

    drop(filter);
    rig.send(&wanted[0]);
    assert_eq!(rig.stack_got(1)[0], wanted[0], "the program is gone");
}

#[test]
fn in_the_driver_what_is_wanted_reaches_the_socket_and_all_else_the_stack() {
    redirects(Attachment::Native);
}

#[test]
fn in_the_stack_what_is_wanted_reaches_the_socket_and_all_else_goes_on() {
    redirects(Attachment::Generic);
}

#[test]
fn another_selection_holds_from_the_next_frame_on() {
    let Some(()) = require::netns() else { return };
    let mut rig = Rig::new();
    let mut filter = rig.attach(Attachment::Native, &selection()).unwrap();
    let mut socket = rig.socket(Attachment::Native);
    filter.add(0, socket.as_fd()).unwrap();
    let (old, new) = (probe(&[], 3842, b"PROBEOT"), probe(&[], 4000, b"PROBEOT"));
    for round in 0..4 {
        let selected = if round % 2 == 0 { &old } else { &new };
        filter.select(&Selection { port: if round % 2 == 0 { 3842 } else { 4000 }, ..selection() }).unwrap();
        rig.send(&old);
        rig.send(&new);
        assert_eq!(received(&mut socket, 1), std::slice::from_ref(selected));
        assert_eq!(rig.stack_got(1).len(), 1);
    }
    let error = filter.select(&Selection { services: vec![7; 5], ..selection() }).unwrap_err();
    assert!(matches!(error, XskError::Services { ports: 5 }), "{error}");
    assert!(matches!(filter.add(256, socket.as_fd()), Err(XskError::Queue { queue: 256 })));
}

#[test]
fn a_frame_is_preceded_by_the_time_it_came() {
    let Some(()) = require::netns() else { return };
    for attachment in [Attachment::Native, Attachment::Generic] {
        let mut rig = Rig::new();
        let mut filter = rig.attach(attachment, &Selection { times: true, ..selection() }).unwrap();
        let mut socket = rig.socket(attachment);
        filter.add(0, socket.as_fd()).unwrap();
        let monotonic_ns = || {
            let uptime = libc::CLOCK_MONOTONIC;
            let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
            // SAFETY: the kernel writes one timespec.
            assert_eq!(unsafe { libc::clock_gettime(uptime, &mut time) }, 0);
            time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
        };
        let before = monotonic_ns();
        rig.send(&probe(&[], 3842, b"PROBEOT"));
        let mut got = Vec::new();
        wait_until(DEADLINE, "it comes", || socket.receive(&mut got, 1).unwrap() == 1).unwrap();
        let frame = got.pop().unwrap();
        let metadata = socket.rings().metadata(&frame, 16).unwrap();
        let at = u64::from_ne_bytes(metadata[..8].try_into().unwrap());
        assert_eq!(metadata[8..], [0x4d43_5258_u32.to_ne_bytes(), [0; 4]].concat(), "{attachment:?}");
        assert!((before..=monotonic_ns()).contains(&at), "{before} {at}");
        assert_eq!(socket.rings().bytes(&frame), probe(&[], 3842, b"PROBEOT"));
        socket.rings_mut().release(frame);
    }
}

#[test]
fn where_the_driver_cannot_the_stack_does() {
    let Some(()) = require::netns() else { return };
    let rig = Rig::new();
    // A frame has to fit a page in veth's driver mode.
    rig._near.set_mtu("near", 9000).unwrap();
    rig.far.set_mtu("far", 9000).unwrap();
    let error = rig.attach(Attachment::Native, &selection()).unwrap_err();
    assert!(matches!(error, XskError::Attach { .. }), "{error}");
    let filter = rig.far.enter(|| XskFilter::attach(rig.ifindex, &selection())).unwrap();
    assert_eq!(filter.attachment(), Attachment::Generic);
    drop(filter);
    let error = rig.far.enter(|| XskFilter::attach(9999, &selection())).unwrap_err();
    assert!(matches!(error, XskError::Attach { ifindex: 9999, .. }), "{error}");
}

#[test]
fn two_capabilities_are_enough_and_none_is_said_to_be_too_few() {
    let Some(()) = require::netns() else { return };
    let rig = Rig::new();
    let attach_with = |kept: &[Capability]| {
        rig.far.enter(|| {
            caps::set(None, CapSet::Effective, &kept.iter().copied().collect()).unwrap();
            XskFilter::attach(rig.ifindex, &selection()).map(|filter| filter.attachment())
        })
    };
    let error = attach_with(&[Capability::CAP_NET_RAW]).unwrap_err();
    assert!(matches!(error, XskError::NotPermitted), "{error}");
    let attachment = attach_with(&[Capability::CAP_BPF, Capability::CAP_NET_ADMIN]).unwrap();
    assert_eq!(attachment, Attachment::Native);
}

/// Not a test of its own: the process that the next one kills.
#[test]
#[ignore = "started by another test"]
fn hold_the_program_at_far() {
    let ifindex = nix::net::if_::if_nametoindex("far").unwrap();
    let mut filter = XskFilter::attach(ifindex, &selection()).unwrap();
    let config = Config { shape: Shape::with_entries(64), ..Config::new(ifindex, 0) };
    let opened = Opened::open(&config).unwrap();
    filter.add(0, opened.socket.as_fd()).unwrap();
    println!("\nattached");
    loop {
        std::thread::park();
    }
}

#[test]
fn a_killed_process_leaves_the_interface_as_it_was() {
    let Some(()) = require::netns() else { return };
    let mut rig = Rig::new();
    let mut command = rig.far.command(std::env::current_exe().unwrap());
    command.args(["--exact", "hold_the_program_at_far", "--ignored", "--nocapture"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "attached"));
    let error = rig.far.enter(|| XskFilter::attach(rig.ifindex, &selection())).unwrap_err();
    assert!(matches!(error, XskError::Occupied { .. }), "{error}");

    child.kill().unwrap();
    child.wait().unwrap();
    // The kernel takes links away after the last descriptor's close, on a thread of its own.
    wait_until(DEADLINE, "another program can be attached", || {
        rig.far.enter(|| XskFilter::attach(rig.ifindex, &selection())).is_ok()
    })
    .unwrap();
    wait_until(DEADLINE, "and the queue is free", || {
        rig.far.enter(|| Opened::open(&Config::new(rig.ifindex, 0))).is_ok()
    })
    .unwrap();
    rig.send(&probe(&[], 3842, b"PROBEOT"));
    assert_eq!(rig.stack_got(1)[0], probe(&[], 3842, b"PROBEOT"));
}

#[test]
fn what_is_no_xdp_socket_is_not_added() {
    let Some(()) = require::netns() else { return };
    let rig = Rig::new();
    let mut filter = rig.attach(Attachment::Native, &selection()).unwrap();
    let file: OwnedFd = File::open("/proc/self/exe").unwrap().into();
    assert!(matches!(filter.add(0, file.as_fd()), Err(XskError::Map { .. })));
}
