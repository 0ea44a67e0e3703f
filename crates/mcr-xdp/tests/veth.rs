//! Real sockets on a veth pair: both ends are AF_XDP in copy mode, one swaps what the other sends.
#![allow(clippy::unwrap_used)] // Whatever fails here fails the test.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mcr_lab::require;
use mcr_xdp::{Binding, Config, Frame, OpenError, Opened, Shape, Socket};

mod support;
use support::{BYTES, DEADLINE, Pair, content, open, swap_addresses};

/// Sends everything back, until told to stop and all is sent.
fn swapper(mut socket: Socket, stop: Arc<AtomicBool>) -> (Socket, u64) {
    let (mut frames, mut swapped) = (Vec::with_capacity(64), 0);
    loop {
        if socket.receive(&mut frames, 64).unwrap() == 0 {
            if stop.load(Ordering::Relaxed) && socket.rings().counts().sending == 0 {
                return (socket, swapped);
            }
            socket.wait(Some(Duration::from_millis(20))).unwrap();
        }
        let rings = socket.rings_mut();
        for mut frame in frames.drain(..) {
            swap_addresses(rings.bytes_mut(&mut frame));
            rings.send(frame).expect("there are as many entries as frames");
            swapped += 1;
        }
        assert_eq!(socket.flush().unwrap().dropped, 0);
    }
}

/// The tester: at most `window` frames are under way, so that no queue on the way can overflow.
struct Tester {
    socket: Socket,
    received: Vec<Frame>,
    sent: u64,
    returned: u64,
}

impl Tester {
    fn run(&mut self, total: u64, window: u64) {
        let started = Instant::now();
        while self.returned < total {
            assert!(started.elapsed() < DEADLINE, "{} sent, {} returned", self.sent, self.returned);
            self.send(total.min(self.returned + window));
            if self.socket.receive(&mut self.received, 256).unwrap() == 0 {
                self.socket.wait(Some(Duration::from_millis(20))).unwrap();
            }
            let rings = self.socket.rings_mut();
            for frame in self.received.drain(..) {
                let mut want = content(self.returned);
                swap_addresses(&mut want);
                assert_eq!(rings.bytes(&frame), want, "frame {}", self.returned);
                rings.release(frame);
                self.returned += 1;
            }
        }
    }

    fn send(&mut self, until: u64) {
        while self.sent < until {
            let rings = self.socket.rings_mut();
            let Some(mut frame) = rings.take() else { break };
            assert!(rings.resize(&mut frame, BYTES));
            rings.bytes_mut(&mut frame).copy_from_slice(&content(self.sent));
            if let Err(frame) = rings.send(frame) {
                rings.release(frame);
                break;
            }
            self.sent += 1;
        }
        assert_eq!(self.socket.flush().unwrap().dropped, 0);
    }
}

/// All frames are accounted for: none is held, none lost, and the kernel met nothing that was out of order.
fn check(socket: &Socket, shape: Shape) {
    let counts = socket.rings().counts();
    assert_eq!(counts.free + counts.receiving + counts.held + counts.sending, shape.frames);
    assert_eq!((counts.held, counts.sending), (0, 0));
    assert_eq!((counts.receive_invalid, counts.completion_invalid), (0, 0));
    let kernel = mcr_xdp::statistics(socket.as_fd()).unwrap();
    assert_eq!((kernel.receive_dropped, kernel.receive_ring_full), (0, 0));
    assert_eq!((kernel.fill_invalid, kernel.transmit_invalid), (0, 0));
}

fn swap_all(native: bool, total: u64) {
    let Some(()) = require::netns() else { return };
    let pair = Pair::new();
    let shape = Shape { reserve_frames: 512, ..Shape::with_entries(1024) };
    let (_near_redirect, socket) = pair.near(native, shape);
    let (_far_redirect, far) = pair.far(native, shape);
    let stop = Arc::new(AtomicBool::new(false));
    let far = thread::spawn({
        let stop = Arc::clone(&stop);
        move || swapper(far, stop)
    });
    let mut tester = Tester { socket, received: Vec::new(), sent: 0, returned: 0 };
    tester.run(total, 128);
    stop.store(true, Ordering::Relaxed);
    let (far, swapped) = far.join().unwrap();
    assert_eq!((tester.sent, swapped), (total, total));
    // The kernel completes a frame when it has left the socket, which it did before it came back.
    let mut none = Vec::new();
    assert_eq!(tester.socket.receive(&mut none, 1).unwrap(), 0);
    check(&tester.socket, shape);
    check(&far, shape);
}

#[test]
fn a_million_frames_swapped_in_the_driver_come_back_whole_and_none_leaves_its_umem() {
    swap_all(true, 1_000_000);
}

#[test]
fn the_same_holds_for_a_program_attached_to_the_stack() {
    swap_all(false, 100_000);
}

#[test]
fn what_does_not_fit_the_rings_is_counted_by_the_kernel_and_the_umem_stays_whole() {
    let Some(()) = require::netns() else { return };
    let pair = Pair::new();
    let small = Shape { frames: 32, ..Shape::with_entries(16) };
    let (_near_redirect, near) = pair.near(true, Shape { reserve_frames: 128, ..Shape::with_entries(256) });
    let (_far_redirect, mut far) = pair.far(true, small);
    let mut tester = Tester { socket: near, received: Vec::new(), sent: 0, returned: 0 };
    // Nobody receives: 16 fill the receive ring, the others are dropped.
    tester.send(100);
    mcr_lab::wait_until(DEADLINE, "the rest is counted", || {
        let kernel = mcr_xdp::statistics(far.as_fd()).unwrap();
        kernel.receive_dropped + kernel.receive_ring_full == 84
    })
    .unwrap();
    let mut frames = Vec::new();
    assert_eq!(far.receive(&mut frames, 64).unwrap(), 16);
    for (number, frame) in (0..).zip(&frames) {
        assert_eq!(far.rings().bytes(frame), content(number));
    }
    let counts = far.rings().counts();
    assert_eq!((counts.held, counts.free + counts.receiving), (16, 16));
    frames.drain(..).for_each(|frame| far.rings_mut().release(frame));
    // And it goes on.
    far.receive(&mut frames, 64).unwrap();
    tester.send(110);
    mcr_lab::wait_until(DEADLINE, "later frames arrive", || {
        far.receive(&mut frames, 64).unwrap();
        frames.len() == 10
    })
    .unwrap();
    frames.drain(..).for_each(|frame| far.rings_mut().release(frame));
}

#[test]
fn a_frame_longer_than_a_buffer_is_dropped_and_counted() {
    let Some(()) = require::netns() else { return };
    let pair = Pair::new();
    for (namespace, ifname) in [(&pair.near, "near"), (&pair.far, "far")] {
        namespace.set_mtu(ifname, 3000).unwrap();
    }
    let large = Shape { frame_bytes: 4096, reserve_frames: 16, ..Shape::with_entries(32) };
    let (_near_redirect, mut near) = pair.near(true, large);
    let (_far_redirect, mut far) = pair.far(true, Shape::with_entries(32));
    for bytes in [1793, 1792] {
        let rings = near.rings_mut();
        let mut frame = rings.take().unwrap();
        assert!(rings.resize(&mut frame, bytes));
        rings.bytes_mut(&mut frame)[..14].copy_from_slice(&content(0)[..14]);
        rings.send(frame).unwrap();
    }
    assert_eq!(near.flush().unwrap().pending, 0);
    assert!(far.wait(Some(DEADLINE)).unwrap());
    let mut frames = Vec::new();
    far.receive(&mut frames, 8).unwrap();
    assert_eq!(frames.iter().map(Frame::len).collect::<Vec<_>>(), [1792]);
    assert_eq!(mcr_xdp::statistics(far.as_fd()).unwrap().receive_dropped, 1);
    frames.into_iter().for_each(|frame| far.rings_mut().release(frame));
}

#[test]
fn what_cannot_be_opened_says_why() {
    let Some(()) = require::netns() else { return };
    let pair = Pair::new();
    let ifindex = pair.far.link_index("far").unwrap();
    let open = |config: Config| pair.far.enter(|| Opened::open(&config)).map(|_: Opened| ());
    let shape = Shape::with_entries(16);
    let config = Config { shape, ..Config::new(ifindex, 0) };
    let error = open(Config { queue: 99, ..config }).unwrap_err();
    assert!(matches!(error, OpenError::Bind { queue: 99, .. }), "{error}");
    let error = open(Config { ifindex: 9999, ..config }).unwrap_err();
    assert!(matches!(error, OpenError::Bind { ifindex: 9999, .. }), "{error}");
    let error = open(Config { binding: Binding::ZeroCopy, ..config }).unwrap_err();
    assert!(
        matches!(&error, OpenError::Bind { source, .. } if source.raw_os_error() == Some(libc::EOPNOTSUPP)),
        "veth knows no zero-copy: {error:?}"
    );
    let (_redirect, first) = self::open(&pair.far, "far", true, shape);
    let error = open(config).unwrap_err();
    assert!(
        matches!(&error, OpenError::Bind { source, .. } if source.raw_os_error() == Some(libc::EBUSY)),
        "{error:?}"
    );
    drop(first);
    // The kernel gives the queue back in a work queue of its own.
    mcr_lab::wait_until(DEADLINE, "the queue is free again", || open(config).is_ok()).unwrap();
}

#[test]
fn a_ring_longer_than_the_kernel_made_is_not_mapped_nor_memory_without_a_seal() {
    let Some(()) = require::netns() else { return };
    let pair = Pair::new();
    let (_redirect, mut opened) = open(&pair.far, "far", true, Shape::with_entries(64));
    opened.shape.receive_entries = 1 << 16;
    assert!(matches!(Socket::new(opened), Err(OpenError::Ring { ring: "receive", .. })));
    let (_redirect, mut opened) = open(&pair.near, "near", true, Shape::with_entries(64));
    opened.memory = OwnedFd::from(std::fs::File::open("/proc/self/exe").unwrap());
    assert!(matches!(Socket::new(opened), Err(OpenError::Unsealed { sealed: false, .. })));
}
