//! What the suites share: one test body for both back ends, and an `Io` that is pumped until a condition holds.
#![allow(dead_code, missing_docs, unreachable_pub, unused_macros, unused_imports)] // Each suite uses a part of it.

use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use mcr_uring_io::{
    Choice, Event, Io, IoConfig, OpenError, Outgoing, Part, ReceiveShape, Received, SendError, SocketKey,
};

pub const NAME_V4: ReceiveShape = ReceiveShape { name_bytes: 16, control_bytes: 0 };
const PATIENCE: Duration = Duration::from_secs(20);

/// Makes of each body two tests, one per back end.
macro_rules! both {
    ($(fn $name:ident($choice:ident) $body:block)*) => { $(
        mod $name {
            #[allow(unused_imports)]
            use super::*;

            fn body($choice: Choice) $body

            #[test]
            fn uring() {
                if common::has_uring() {
                    body(Choice::Uring);
                }
            }

            #[test]
            fn syscalls() {
                body(Choice::Syscalls);
            }
        }
    )* };
}
pub(crate) use both;

/// Skips with the reason, which is a failure under MCR_REQUIRE=all.
pub fn skip(reason: &str) {
    assert!(std::env::var("MCR_REQUIRE").as_deref() != Ok("all"), "required, but {reason}");
    println!("skipped: {reason}");
}

/// Runs a test in a thread with a network namespace of its own, loopback up.
pub fn in_namespace(test: impl FnOnce() + Send + 'static) {
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

pub fn set_loopback(up: bool) {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
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

/// A packet socket bound to loopback, for IPv4.
pub fn open_packet(flags: libc::c_int, options: &[(libc::c_int, &[u32])]) -> OwnedFd {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | flags;
    // SAFETY: takes no pointers.
    let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
    assert!(fd >= 0, "{}", std::io::Error::last_os_error());
    // SAFETY: the kernel just made this descriptor for us; nobody else has it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    for (name, value) in options {
        set_option(&socket, libc::SOL_PACKET, *name, value);
    }
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: (libc::ETH_P_IP as u16).to_be(),
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

pub fn set_option(fd: &OwnedFd, level: libc::c_int, name: libc::c_int, value: &[u32]) {
    let bytes = size_of_val(value) as libc::socklen_t;
    // SAFETY: the value is integers that live until the call's end, and its size is theirs.
    let result = unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, value.as_ptr().cast(), bytes) };
    assert_eq!(result, 0, "option {name}: {}", std::io::Error::last_os_error());
}

pub fn has_uring() -> bool {
    match Io::open(&small(Choice::Uring)) {
        Ok(_) => true,
        Err(OpenError::Uring(reason)) => {
            skip(&reason.to_string());
            false
        }
        Err(other) => panic!("{other}"),
    }
}

pub fn small(backend: Choice) -> IoConfig {
    IoConfig { backend, buffers: 64, sends_max: 128, files_max: 64, events_max: 64, ..IoConfig::default() }
}

/// An `Io` with what it reported so far.
pub struct Pump {
    pub io: Io,
    /// Keep frames instead of noting their bytes and recycling them.
    pub hold: bool,
    pub held: Vec<(SocketKey, Received)>,
    pub received: Vec<(SocketKey, Vec<u8>)>,
    pub sent: Vec<(u64, Result<usize, i32>)>,
    pub readable: Vec<SocketKey>,
    pub failed: Vec<(SocketKey, i32)>,
    pub stopped: Vec<SocketKey>,
    events: Vec<Event>,
}

impl Pump {
    pub fn new(backend: Choice) -> Self {
        Self::with(&small(backend))
    }

    pub fn with(config: &IoConfig) -> Self {
        let io = Io::open(config).unwrap();
        Self {
            io,
            hold: false,
            held: Vec::new(),
            received: Vec::new(),
            sent: Vec::new(),
            readable: Vec::new(),
            failed: Vec::new(),
            stopped: Vec::new(),
            events: Vec::new(),
        }
    }

    /// One wait; how many events it reported.
    pub fn wait(&mut self, timeout: Option<Duration>) -> usize {
        self.io.wait(timeout, &mut self.events).unwrap();
        let count = self.events.len();
        assert!(count <= self.io.events_max());
        for event in self.events.drain(..) {
            match event {
                Event::Received { socket, frame } if self.hold => self.held.push((socket, frame)),
                Event::Received { socket, frame } => {
                    let datagram = self.io.datagram(&frame);
                    assert!(!datagram.truncated && !datagram.control_truncated);
                    self.received.push((socket, datagram.payload.to_vec()));
                    self.io.recycle(frame);
                }
                Event::Sent { token, result } => self.sent.push((token, result)),
                Event::Readable { socket } => self.readable.push(socket),
                Event::Stopped { socket } => self.stopped.push(socket),
                Event::ReceiveFailed { socket, errno } => self.failed.push((socket, errno)),
            }
        }
        count
    }

    pub fn until(&mut self, what: &str, mut condition: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !condition(self) {
            assert!(
                Instant::now() < deadline,
                "never happened: {what}; sent {:?}, failed {:?}",
                self.sent,
                self.failed
            );
            self.wait(Some(Duration::from_millis(20)));
        }
    }

    /// Waits so often without anything happening that what could still come has come.
    pub fn quiet(&mut self) {
        let mut silent = 0;
        while silent < 3 {
            silent = if self.wait(Some(Duration::from_millis(5))) == 0 { silent + 1 } else { 0 };
        }
    }

    pub fn receiver(&mut self, shape: ReceiveShape) -> (SocketKey, SocketAddr) {
        let socket = bind();
        let address = socket.local_addr().unwrap();
        (self.io.add_receiver(socket.into(), shape).unwrap(), address)
    }

    pub fn sender(&mut self) -> SocketKey {
        self.io.add_sender(bind().into()).unwrap()
    }

    pub fn send_to(
        &mut self,
        socket: SocketKey,
        to: SocketAddr,
        bytes: &[u8],
        token: u64,
    ) -> Result<(), SendError> {
        let parts = [Part::Inline(bytes)];
        self.io.send(&Outgoing { destination: Some(to), ..Outgoing::new(socket, &parts, token) })
    }

    pub fn recycle_held(&mut self) {
        for (_, frame) in self.held.drain(..) {
            self.io.recycle(frame);
        }
    }
}

pub fn bind() -> UdpSocket {
    UdpSocket::bind("127.0.0.1:0").unwrap()
}

/// A socket of the test that does not wait for ever.
pub fn sink() -> (UdpSocket, SocketAddr) {
    let socket = bind();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

pub fn recv(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; 70_000];
    loop {
        match socket.recv(&mut buffer) {
            // The kernel taking a dropped ring apart interrupts its thread.
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            result => {
                buffer.truncate(result.unwrap());
                return buffer;
            }
        }
    }
}

pub fn nothing_more(socket: &UdpSocket) {
    socket.set_nonblocking(true).unwrap();
    let error = socket.recv(&mut [0; 1]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    socket.set_nonblocking(false).unwrap();
}

/// Bytes that tell their number, their length and their place.
pub fn pattern(number: usize, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (number.wrapping_mul(31) ^ at.wrapping_mul(7) ^ (number >> 8)) as u8).collect()
}
