//! Stamps as the kernel gives them: who sees a frame sees the same one.
#![allow(clippy::unwrap_used)] // The helpers of a test are the test.

mod common;

use std::{
    os::fd::OwnedFd,
    time::{Duration, SystemTime},
};

use common::*;
use mcr_lab::{Line, require, wait_until};
use mcr_socket::{
    filter::{Filter, FilterLink, Wanted},
    packet::{self, PacketOptions},
    stamp,
    udp::{self, UdpControl, UdpInput},
};

const TO: &str = "239.1.1.1:5000";

/// The stamp of the next datagram at a socket.
fn next(fd: &OwnedFd) -> Option<u64> {
    let control = recv(fd).control;
    let stamp = stamp::stamp_ns(&control);
    assert!(UdpControl::parse(&control).stamp_ns == stamp);
    stamp
}

#[test]
fn two_sockets_see_the_same_stamp_of_a_frame_while_stamps_are_wanted_and_none_otherwise() {
    let Some(()) = require::netns() else { return };
    let line = Line::new().unwrap();
    let ifindex = line.relay.link_index("in0").unwrap();
    let options = UdpInput {
        address: TO.parse().unwrap(),
        ifindex,
        ifname: "in0",
        sources: &[],
        receive_buffer_bytes: 1 << 20,
        gro: true,
    };
    let udp = line.relay.enter(|| udp::open_input(&options)).unwrap();
    let wanted = Wanted { destination: [239, 1, 1, 1].into(), port: 5000, source: None };
    let filter = Filter::compile(&[wanted], FilterLink::Ethernet);
    let options =
        PacketOptions { ifindex, vnet_hdr: true, receive_buffer_bytes: 1 << 20, ring: None, filter: &filter };
    let packet = line.relay.enter(|| packet::open(&options)).unwrap();
    let sender = line.source.enter(|| std::net::UdpSocket::bind("10.1.0.1:0")).unwrap();
    let exchange = || {
        assert_eq!(sender.send_to(b"stamp", TO).unwrap(), 5);
        [next(&packet), next(&udp)]
    };
    assert_eq!(exchange(), [None, None], "nobody wants stamps");

    let held = stamp::hold().unwrap();
    [&udp, &packet].into_iter().for_each(|fd| stamp::want(fd, true).unwrap());
    let before = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let mut stamps = [None; 2];
    wait_until(DEADLINE, "stamps come", || {
        stamps = exchange();
        stamps != [None; 2]
    })
    .unwrap();
    assert_eq!(stamps[0], stamps[1]);
    let age = Duration::from_nanos(stamps[0].unwrap()).checked_sub(before).expect("by the clock of the day");
    assert!(age < DEADLINE, "{age:?}");
    assert_eq!(exchange().map(|stamp| stamp.is_some()), [true; 2]);

    // Others may want stamps for all that this test knows, so a frame may go on bearing one; who does not ask is not told.
    drop(held);
    [&udp, &packet].into_iter().for_each(|fd| stamp::want(fd, false).unwrap());
    assert_eq!(exchange(), [None, None]);
}
