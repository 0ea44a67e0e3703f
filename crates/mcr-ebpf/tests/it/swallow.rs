//! What is kept from the stack: datagrams to groups by interface, destination and sender, and nothing in doubt.

use std::{
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use mcr_ebpf::{Senders, Swallow, programs_at};
use mcr_lab::{Line, require};

const V4: &str = "239.1.1.1:5000";
const V6: &str = "[ff3e::1]:5000";

struct Rig {
    line: Line,
    swallow: Swallow,
    input: u32,
}

impl Rig {
    fn new() -> Self {
        let line = Line::new().unwrap();
        let input = line.relay.link_index("in0").unwrap();
        Self { line, swallow: Swallow::load().unwrap(), input }
    }

    fn set(&mut self, group: &str, senders: Senders) {
        let Self { line, swallow, input } = self;
        line.relay.enter(|| swallow.set(*input, group.parse().unwrap(), senders)).unwrap();
    }

    fn listen(&self, group: &str) -> UdpSocket {
        let bound: SocketAddr = group.parse().unwrap();
        let socket = self.line.relay.enter(|| UdpSocket::bind(bound)).unwrap();
        match bound {
            SocketAddr::V4(v4) => socket.join_multicast_v4(v4.ip(), &"10.1.0.2".parse().unwrap()).unwrap(),
            SocketAddr::V6(v6) => socket.join_multicast_v6(v6.ip(), self.input).unwrap(),
        }
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket
    }

    fn send(&self, from: &str, to: &str, payload: &[u8]) {
        let socket = self.line.source.enter(|| UdpSocket::bind((from, 0))).unwrap();
        assert_eq!(socket.send_to(payload, to).unwrap(), payload.len());
    }
}

/// The next datagram. One that was swallowed is never seen, because this one came after it.
fn next(socket: &UdpSocket) -> Vec<u8> {
    let mut bytes = [0; 2048];
    let length = socket.recv(&mut bytes).unwrap();
    bytes[..length].to_vec()
}

#[test]
fn a_group_is_swallowed_until_it_is_let_go_and_others_are_not() {
    let Some(()) = require::netns() else { return };
    let mut rig = Rig::new();
    for (group, other, from) in [(V4, "239.1.1.2:5000", "10.1.0.1"), (V6, "[ff3e::2]:5000", "fd00:1::1")] {
        let [swallowed, beside] = [group, other].map(|group| rig.listen(group));
        rig.set(group, Senders::All);
        assert!(rig.swallow.swallows(rig.input, group.parse().unwrap()));
        rig.send(from, group, b"swallowed");
        rig.send(from, other, b"beside");
        assert_eq!(next(&beside), b"beside");
        rig.swallow.remove(rig.input, group.parse().unwrap());
        rig.send(from, group, b"let go");
        assert_eq!(next(&swallowed), b"let go");
    }
    assert!(rig.swallow.is_idle());
    assert_eq!(rig.line.relay.enter(|| programs_at("in0")).unwrap(), 0, "it stands nowhere in vain");
}

#[test]
fn of_named_senders_only_theirs_is_swallowed() {
    let Some(()) = require::netns() else { return };
    let mut rig = Rig::new();
    rig.line.source.add_address("src0", "10.1.0.8".parse().unwrap(), 24).unwrap();
    let socket = rig.listen(V4);
    let these = |text: &str| Senders::These([text.parse().unwrap()].into());
    rig.set(V4, these("10.1.0.1"));
    rig.send("10.1.0.1", V4, b"swallowed");
    rig.send("10.1.0.8", V4, b"not named");
    assert_eq!(next(&socket), b"not named");
    rig.set(V4, these("10.1.0.8"));
    rig.send("10.1.0.8", V4, b"swallowed");
    rig.send("10.1.0.1", V4, b"named no more");
    assert_eq!(next(&socket), b"named no more");
    rig.set(V4, Senders::All);
    rig.send("10.1.0.1", V4, b"swallowed");
    rig.swallow.remove(rig.input, V4.parse().unwrap());
    rig.send("10.1.0.1", V4, b"end");
    assert_eq!(next(&socket), b"end");
}

#[test]
fn unicast_and_fragments_go_on_whatever_is_asked_for() {
    let Some(()) = require::netns() else { return };
    let mut rig = Rig::new();
    let here = "10.1.0.2:5000";
    rig.set(here, Senders::All);
    let socket = rig.line.relay.enter(|| UdpSocket::bind(here)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    rig.send("10.1.0.1", here, b"to this host");
    assert_eq!(next(&socket), b"to this host");
    drop(socket);
    let socket = rig.listen(V4);
    rig.set(V4, Senders::All);
    rig.send("10.1.0.1", V4, &[7; 2000]);
    assert_eq!(next(&socket), [7; 2000]);
}

#[test]
fn it_ends_with_its_owner() {
    let Some(()) = require::netns() else { return };
    let mut rig = Rig::new();
    rig.set(V4, Senders::All);
    assert_eq!(rig.line.relay.enter(|| programs_at("in0")).unwrap(), 1);
    rig.swallow.detach(rig.input);
    assert_eq!(rig.line.relay.enter(|| programs_at("in0")).unwrap(), 0);
    rig.set(V4, Senders::All);
    let Rig { line, swallow, .. } = rig;
    drop(swallow);
    assert_eq!(line.relay.enter(|| programs_at("in0")).unwrap(), 0);
}
