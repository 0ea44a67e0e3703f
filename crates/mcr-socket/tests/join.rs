//! Memberships, as the kernel shows them in /proc.
#![allow(clippy::unwrap_used)] // The helpers of a test are the test.

mod common;

use common::*;
use mcr_lab::{Line, Namespace, require, veth};
use mcr_socket::join::{JoinError, Memberships};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The groups joined by sockets on an interface, in a stable order.
fn joined(net: &Namespace, ifindex: u32) -> Vec<IpAddr> {
    let (igmp, igmp6) = net.enter(|| {
        let read = |name: &str| fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap();
        (read("igmp"), read("igmp6"))
    });
    let mut groups = Vec::new();
    let mut here = false;
    for line in igmp.lines().skip(1) {
        let fields: Vec<_> = line.split_whitespace().collect();
        if line.starts_with(char::is_whitespace) {
            let bits = u32::from_str_radix(fields[0], 16).unwrap();
            let group = Ipv4Addr::from(bits.to_ne_bytes());
            if here && group != Ipv4Addr::new(224, 0, 0, 1) {
                groups.push(group.into());
            }
        } else {
            here = fields[0].parse() == Ok(ifindex);
        }
    }
    for line in igmp6.lines() {
        let fields: Vec<_> = line.split_whitespace().collect();
        let group = Ipv6Addr::from_bits(u128::from_str_radix(fields[2], 16).unwrap());
        // The kernel joins groups of link scope itself.
        if fields[0].parse() == Ok(ifindex) && group.segments()[0] & 0xf > 2 {
            groups.push(group.into());
        }
    }
    groups.sort();
    groups
}

/// (group, source) pairs an interface includes.
fn sources(net: &Namespace, ifindex: u32) -> Vec<(String, String)> {
    let files = net.enter(|| {
        let read = |name: &str| fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap();
        [read("mcfilter"), read("mcfilter6")]
    });
    let mut pairs: Vec<_> = files
        .iter()
        .flat_map(|text| text.lines())
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|fields| fields[0].parse() == Ok(ifindex) && fields[4].parse() != Ok(0))
        .map(|fields| (fields[2].to_owned(), fields[3].to_owned()))
        .collect();
    pairs.sort();
    pairs
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn a_group_is_joined_as_long_as_its_guard_lives() {
    let Some(()) = require::netns() else { return };
    let line = Line::new().unwrap();
    let ifindex = line.relay.link_index("in0").unwrap();
    let memberships = Memberships::new();
    let join = |group| line.relay.enter(|| memberships.join(ifindex, group, None)).unwrap();
    let guards = [join(ip("239.1.1.1")), join(ip("ff3e::1"))];
    assert_eq!(joined(&line.relay, ifindex), [ip("239.1.1.1"), ip("ff3e::1")]);
    assert_eq!((memberships.count(), memberships.sockets()), (2, 2));
    drop(guards);
    assert!(joined(&line.relay, ifindex).is_empty());
    assert_eq!((memberships.count(), memberships.sockets()), (0, 0));
}

#[test]
fn a_source_is_joined_alone() {
    let Some(()) = require::netns() else { return };
    let line = Line::new().unwrap();
    let ifindex = line.relay.link_index("in0").unwrap();
    let memberships = Memberships::new();
    let join =
        |group, source| line.relay.enter(|| memberships.join(ifindex, ip(group), Some(ip(source)))).unwrap();
    let first = join("232.1.1.1", "10.0.0.9");
    let second = join("232.1.1.1", "10.0.0.10");
    let six = join("ff3e::8000:1", "2001:db8::9");
    let shown = sources(&line.relay, ifindex);
    let want = [
        ("0xe8010101", "0x0a000009"),
        ("0xe8010101", "0x0a00000a"),
        ("ff3e0000000000000000000080000001", "20010db8000000000000000000000009"),
    ];
    assert_eq!(shown, want.map(|(group, source)| (group.to_owned(), source.to_owned())));
    drop(first);
    assert_eq!(sources(&line.relay, ifindex).len(), 2);
    drop((second, six));
    assert!(joined(&line.relay, ifindex).is_empty());
    assert_eq!(memberships.sockets(), 0);
}

#[test]
fn sixty_groups_of_one_interface_take_more_than_one_socket() {
    let Some(()) = require::netns() else { return };
    let line = Line::new().unwrap();
    let ifindex = line.relay.link_index("in0").unwrap();
    let memberships = Memberships::new();
    let groups: Vec<IpAddr> = (0..60u8)
        .map(|n| Ipv4Addr::new(239, 5, 5, n).into())
        .chain((0..60u16).map(|n| Ipv6Addr::new(0xff3e, 0, 0, 0, 0, 0, 0, n + 1).into()))
        .collect();
    let mut guards: Vec<_> = line
        .relay
        .enter(|| groups.iter().map(|group| memberships.join(ifindex, *group, None).unwrap()).collect());
    assert_eq!(joined(&line.relay, ifindex), groups);
    let most = memberships.sockets();
    assert!(most >= 4, "{most} sockets");
    // What was left is joined again in the places it left, not on more sockets.
    for index in (0..guards.len()).step_by(3) {
        let group = guards[index].group();
        drop(std::mem::replace(
            &mut guards[index],
            line.relay.enter(|| memberships.join(ifindex, ip("239.9.9.9"), None)).unwrap(),
        ));
        guards[index] = line.relay.enter(|| memberships.join(ifindex, group, None)).unwrap();
    }
    assert_eq!(joined(&line.relay, ifindex), groups);
    assert!(memberships.sockets() <= most + 1);
    drop(guards);
    assert!(joined(&line.relay, ifindex).is_empty());
    assert_eq!(memberships.sockets(), 0);
}

#[test]
fn more_sources_of_one_group_than_a_socket_may_have_are_joined() {
    let Some(()) = require::netns() else { return };
    let line = Line::new().unwrap();
    let ifindex = line.relay.link_index("in0").unwrap();
    let memberships = Memberships::new();
    let guards: Vec<_> = line.relay.enter(|| {
        let source = |n| Some(Ipv4Addr::new(10, 0, 0, n).into());
        (1..=25).map(|n| memberships.join(ifindex, ip("232.1.1.1"), source(n)).unwrap()).collect()
    });
    assert_eq!(sources(&line.relay, ifindex).len(), 25);
    drop(guards);
    assert!(joined(&line.relay, ifindex).is_empty());
    assert_eq!(memberships.sockets(), 0);
}

#[test]
fn a_group_can_be_wanted_from_any_source_and_from_one_at_once() {
    let Some(()) = require::netns() else { return };
    let line = Line::new().unwrap();
    let ifindex = line.relay.link_index("in0").unwrap();
    for group in ["239.1.1.1", "ff3e::1"] {
        let source = if group.contains(':') { ip("2001:db8::1") } else { ip("10.0.0.9") };
        for any_first in [true, false] {
            let memberships = Memberships::new();
            let join = |source| line.relay.enter(|| memberships.join(ifindex, ip(group), source)).unwrap();
            let (any, one) = if any_first {
                let any = join(None);
                (any, join(Some(source)))
            } else {
                let one = join(Some(source));
                (join(None), one)
            };
            assert_eq!(
                memberships.sockets(),
                2,
                "the kernel would turn one kind into the other on one socket"
            );
            assert_eq!(sources(&line.relay, ifindex).len(), 1);
            drop(one);
            assert!(sources(&line.relay, ifindex).is_empty());
            assert_eq!(joined(&line.relay, ifindex), [ip(group)]);
            let one = join(Some(source));
            drop(any);
            assert_eq!(sources(&line.relay, ifindex).len(), 1);
            drop(one);
            assert!(joined(&line.relay, ifindex).is_empty());
        }
    }
}

#[test]
fn the_same_membership_is_joined_once_and_left_with_its_last_guard() {
    let Some(()) = require::netns() else { return };
    let line = Line::new().unwrap();
    let ifindex = line.relay.link_index("in0").unwrap();
    let memberships = Memberships::new();
    let join = || line.relay.enter(|| memberships.clone().join(ifindex, ip("239.1.1.1"), None)).unwrap();
    let (first, second) = (join(), join());
    assert_eq!((memberships.count(), memberships.sockets()), (1, 1));
    drop(first);
    assert_eq!(joined(&line.relay, ifindex), [ip("239.1.1.1")]);
    // A guard outlives the handle it came from, and other threads may drop it.
    drop(memberships);
    std::thread::scope(|scope| scope.spawn(|| drop(second)).join().unwrap());
    assert!(joined(&line.relay, ifindex).is_empty());
}

#[test]
fn memberships_of_an_interface_that_vanished_are_left_in_silence_and_free_their_places() {
    let Some(()) = require::netns() else { return };
    let (near, far) = (Namespace::new().unwrap(), Namespace::new().unwrap());
    let memberships = Memberships::new();
    for round in 0..3 {
        veth((&near, "v0"), (&far, "v1")).unwrap();
        near.set_up("v0").unwrap();
        let ifindex = near.link_index("v0").unwrap();
        let groups = |prefix: &str| (1..=15).map(move |n| ip(&format!("{prefix}{n}"))).collect::<Vec<_>>();
        let guards: Vec<_> = near.enter(|| {
            let any = groups("239.1.1.").into_iter().chain(groups("ff3e::"));
            let any = any.map(|group| memberships.join(ifindex, group, None).unwrap());
            let one = groups("232.1.1.").into_iter();
            let one = one.map(|group| memberships.join(ifindex, group, Some(ip("10.0.0.9"))).unwrap());
            any.chain(one).collect()
        });
        assert_eq!(memberships.sockets(), 3, "round {round}");
        assert_eq!(joined(&near, ifindex).len(), 45);
        near.delete_link("v0").unwrap();
        // One stays, so that the socket does: the places of the others on it must be free in the next round.
        drop(guards);
    }
    assert_eq!(memberships.sockets(), 0);
}

#[test]
fn a_place_is_freed_on_a_socket_that_lives_on_after_an_interface_vanished() {
    let Some(()) = require::netns() else { return };
    let line = Line::new().unwrap();
    let stays = line.relay.link_index("in0").unwrap();
    let memberships = Memberships::new();
    let join = |ifindex, group: &str, source: Option<&str>| {
        line.relay.enter(|| memberships.join(ifindex, ip(group), source.map(ip))).unwrap()
    };
    let kept = join(stays, "239.1.1.1", None);
    let gone = line.relay.link_index("out0").unwrap();
    let guards: Vec<_> = (1..20).map(|n| join(gone, &format!("232.1.1.{n}"), Some("10.0.0.9"))).collect();
    assert_eq!(memberships.sockets(), 1);
    line.relay.delete_link("out0").unwrap();
    drop(guards);
    let again: Vec<_> = (1..20).map(|n| join(stays, &format!("239.2.2.{n}"), None)).collect();
    assert_eq!(memberships.sockets(), 1, "nineteen places were freed");
    drop((kept, again));
}

#[test]
fn joining_needs_no_right() {
    let Some(()) = require::netns() else { return };
    let line = Line::new().unwrap();
    let ifindex = line.relay.link_index("in0").unwrap();
    let memberships = Memberships::new();
    let guard = line.relay.enter(|| as_nobody(|| memberships.join(ifindex, ip("239.1.1.1"), None))).unwrap();
    assert_eq!(joined(&line.relay, ifindex), [guard.group()]);
}

#[test]
fn errors_say_what_is_wrong() {
    let Some(()) = require::netns() else { return };
    let line = Line::new().unwrap();
    let ifindex = line.relay.link_index("in0").unwrap();
    let memberships = Memberships::new();
    let join = |ifindex, group, source: Option<&str>| {
        line.relay.enter(|| memberships.join(ifindex, ip(group), source.map(ip))).unwrap_err()
    };
    assert!(matches!(join(ifindex, "10.0.0.1", None), JoinError::NotMulticast { .. }));
    assert!(matches!(join(ifindex, "232.1.1.1", Some("fe80::1")), JoinError::Family { .. }));
    for group in ["239.1.1.1", "ff3e::1"] {
        let error = join(4711, group, None);
        assert!(matches!(error, JoinError::NoInterface { ifindex: 4711, .. }), "{error}");
    }
    assert_eq!((memberships.count(), memberships.sockets()), (0, 0));
}
