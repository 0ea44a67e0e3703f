//! Sockets that answer frames with frames, by both ways to receive, against the kernel.

// A test fails by panicking, and so do its steps.
#![allow(clippy::unwrap_used)]

use std::os::fd::OwnedFd;
use std::time::Duration;

use mcr_lab::{Line, Namespace, require, wait_until};
use mcr_socket::filter::Filter;
use mcr_socket::packet::{FrameBatch, FrameRing, PortOptions, RingShape, open_port};

const PATIENCE: Duration = Duration::from_secs(10);
const ROOM_BYTES: u32 = 300;
/// For local experiments (IEEE 802, clause 9.2.4): no stack answers it.
const ETHER_TYPE: [u8; 2] = [0x88, 0xb5];

fn port(namespace: &Namespace, ifname: &str, ring: Option<RingShape>) -> OwnedFd {
    let filter = Filter::from_instructions([(0x06, 0, 0, u32::MAX)]);
    let options = PortOptions {
        ifindex: namespace.link_index(ifname).unwrap(),
        receive_buffer_bytes: 1 << 20,
        send_buffer_bytes: 1 << 20,
        timestamps: false,
        ring,
        filter: &filter,
    };
    namespace.enter(|| open_port(&options)).unwrap()
}

fn frame(bytes: usize, number: u32) -> Vec<u8> {
    let mut frame = [[0xff; 6], [2, 0, 0, 0, 0, 9]].concat();
    frame.extend(ETHER_TYPE);
    frame.extend(number.to_be_bytes());
    frame.extend((frame.len()..bytes).map(|at| at as u8));
    frame
}

fn is_ours(frame: &[u8]) -> bool {
    frame.windows(2).skip(12).take(9).any(|two| two == ETHER_TYPE)
}

/// The next frame of ours that a batch receives.
fn next(batch: &mut FrameBatch, socket: &OwnedFd) -> Vec<u8> {
    let mut found = Vec::new();
    wait_until(PATIENCE, "a frame comes", || {
        for at in 0..batch.receive(socket).unwrap() {
            let (room, info) = batch.frame(at);
            if is_ours(&room[..info.bytes]) {
                found.push(room[..info.bytes].to_vec());
            }
        }
        !found.is_empty()
    })
    .unwrap();
    assert_eq!(found.len(), 1);
    found.remove(0)
}

/// Answers the frames of ours that are there, with another first byte.
fn answer(ring: &mut FrameRing, socket: &OwnedFd) -> usize {
    let count = ring.receive(socket).unwrap();
    let mut queued = 0;
    for at in 0..count {
        let (room, info) = ring.frame(at);
        assert!(info.received_ns.is_some_and(|ns| ns > 1_500_000_000_000_000_000), "{info:?}");
        if is_ours(&room[..info.bytes]) {
            room[0] = 0xfe;
            ring.queue(at, info.bytes);
            queued += 1;
        }
    }
    let sent = ring.send(socket);
    assert_eq!((sent.frames, sent.errno), (queued, None));
    queued
}

#[test]
fn frames_are_answered_in_place_many_times_around_the_ring() {
    let Some(()) = require::netns() else { return };
    let line = Line::new().unwrap();
    let shape = RingShape::with_slots(ROOM_BYTES, 200);
    let reflecting = port(&line.relay, "in0", Some(shape));
    let mut ring = FrameRing::map(&reflecting, shape, 16).unwrap();
    let tester = port(&line.source, "src0", None);
    let mut batch = FrameBatch::new(64, 2000);
    for number in 0..shape.slots() * 3 + 5 {
        // Every fourth has a tag, which the kernel takes out and the ring puts back.
        let mut sent = frame(60 + number as usize % 200, number);
        if number % 4 == 0 {
            sent.splice(12..12, [0x81, 0, 0x60, 100]);
        }
        assert_eq!(FrameBatch::send_one(&tester, &sent).frames, 1);
        wait_until(PATIENCE, "it is answered", || answer(&mut ring, &reflecting) == 1).unwrap();
        sent[0] = 0xfe;
        assert_eq!(next(&mut batch, &tester), sent, "frame {number}");
    }
    assert_eq!(mcr_socket::packet::take_statistics(&reflecting).unwrap().dropped, 0);
}

#[test]
fn what_a_full_ring_has_no_room_for_is_dropped_and_counted_and_the_rest_is_there() {
    let Some(()) = require::netns() else { return };
    let line = Line::new().unwrap();
    let shape = RingShape::with_slots(ROOM_BYTES, 100);
    let reflecting = port(&line.relay, "in0", Some(shape));
    let mut ring = FrameRing::map(&reflecting, shape, 64).unwrap();
    let tester = port(&line.source, "src0", None);
    let slots = shape.slots();
    for number in 0..slots + 50 {
        assert_eq!(FrameBatch::send_one(&tester, &frame(100, number)).frames, 1);
    }
    // A frame is with the receiver when it is sent; those of the hosts themselves may be among them.
    let mut numbers = Vec::new();
    loop {
        let count = ring.receive(&reflecting).unwrap();
        if count == 0 {
            break;
        }
        for at in 0..count {
            let (room, info) = ring.frame(at);
            if is_ours(&room[..info.bytes]) {
                numbers.push(u32::from_be_bytes(*room[14..].first_chunk().unwrap()));
            }
        }
    }
    assert!(numbers.iter().copied().eq(0..numbers.len() as u32), "the first ones, in order: {numbers:?}");
    let dropped = mcr_socket::packet::take_statistics(&reflecting).unwrap().dropped;
    let came = numbers.len() as u32;
    assert!(dropped >= 50 && came + dropped >= slots + 50, "{came} came, {dropped} were dropped");
}

#[test]
fn a_frame_longer_than_a_slot_is_cut_and_its_length_told() {
    let Some(()) = require::netns() else { return };
    let line = Line::new().unwrap();
    let shape = RingShape::with_slots(ROOM_BYTES, 100);
    let reflecting = port(&line.relay, "in0", Some(shape));
    let mut ring = FrameRing::map(&reflecting, shape, 16).unwrap();
    let tester = port(&line.source, "src0", None);
    for bytes in [1400, 100] {
        assert_eq!(FrameBatch::send_one(&tester, &frame(bytes, 1)).frames, 1);
        wait_until(PATIENCE, "it comes", || {
            let count = ring.receive(&reflecting).unwrap();
            (0..count).any(|at| {
                let (room, info) = ring.frame(at);
                let right = info.wire_bytes == bytes && info.bytes == bytes.min(room.len());
                is_ours(&room[..info.bytes]) && right && room.len() >= ROOM_BYTES as usize
            })
        })
        .unwrap();
    }
}

#[test]
fn an_interface_that_goes_down_is_told_of_once() {
    let Some(()) = require::netns() else { return };
    let line = Line::new().unwrap();
    let shape = RingShape::with_slots(ROOM_BYTES, 100);
    let reflecting = port(&line.relay, "in0", Some(shape));
    let mut ring = FrameRing::map(&reflecting, shape, 16).unwrap();
    line.relay.set_down("in0").unwrap();
    let mut told = 0;
    for _ in 0..10 {
        if let Err(error) = ring.receive(&reflecting) {
            assert_eq!(error.raw_os_error(), Some(libc::ENETDOWN));
            told += 1;
        }
    }
    assert_eq!(told, 1);
}
