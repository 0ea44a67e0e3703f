//! The program in the kernel against the model of the compiled one, and what a change costs.
#![allow(clippy::unwrap_used)] // The helpers of a test are the test.

use super::*;
use crate::filter::interpret::Packet;
use crate::filter::tests::{codepoints, model, packet, wanted};
use proptest::prelude::*;
use std::os::unix::net::UnixDatagram;

/// Filters run on sockets of any kind: one pair takes any bytes for a packet, and needs no network.
struct Wire {
    from: UnixDatagram,
    to: UnixDatagram,
}

impl Wire {
    fn new() -> Self {
        let (from, to) = UnixDatagram::pair().unwrap();
        to.set_nonblocking(true).unwrap();
        Self { from, to }
    }

    fn passes(&self, bytes: &[u8]) -> bool {
        self.from.send(bytes).unwrap();
        self.to.recv(&mut [0; 2048]).is_ok_and(|received| received == bytes.len())
    }
}

/// Whether this process may have maps; with MCR_REQUIRE=all it must.
fn maps() -> bool {
    let refused = bpf::HashMap::<Key, u32>::create(1).err();
    let required = std::env::var_os("MCR_REQUIRE").is_some_and(|value| value == "all");
    assert!(refused.is_none() || !required, "{refused:?}");
    refused.is_none()
}

fn group(number: u32) -> Wanted {
    Wanted {
        destination: std::net::Ipv4Addr::from_bits(0xef01_0000 + number).into(),
        port: 5000,
        source: None,
    }
}

fn frame(number: u32, port: u16) -> Vec<u8> {
    let mut bytes = vec![0u8; 14 + 20 + 8];
    bytes[12] = 8;
    bytes[14] = 0x45;
    bytes[23] = 17;
    bytes[30..34].copy_from_slice(&(0xef01_0000 + number).to_be_bytes());
    bytes[36..38].copy_from_slice(&port.to_be_bytes());
    bytes
}

/// What a map says, as it would be filled from nothing.
fn assert_in_line(filter: &LiveFilter) {
    let map = filter.map.as_ref().unwrap();
    let mut expected = HashMap::new();
    for Wanted { destination, port, source } in filter.wanted.list() {
        expected.insert(Key::portless(destination), ANY_SOURCE);
        let any = filter.wanted.destinations[&(destination, port)].any > 0;
        expected.insert(Key::new(destination, port, None), if any { ANY_SOURCE } else { SOME_SOURCES });
        if source.is_some() {
            expected.insert(Key::new(destination, port, source), ANY_SOURCE);
        }
    }
    assert_eq!(map.known, expected);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn a_map_lets_through_exactly_what_a_compiled_filter_does(
        link in prop::sample::select(vec![FilterLink::Ethernet, FilterLink::RawIp]),
        marked in codepoints(),
        first in prop::collection::vec(wanted(), 0..12),
        gone in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        second in prop::collection::vec(wanted(), 0..6),
        packets in prop::collection::vec((packet(FilterLink::Ethernet), packet(FilterLink::RawIp)), 60),
    ) {
        if !maps() {
            return Ok(());
        }
        let wire = Wire::new();
        let mut filter = LiveFilter::marked(link, marked);
        let mut left = first.clone();
        first.iter().for_each(|one| filter.insert(*one));
        filter.apply_map(wire.to.as_fd()).unwrap();
        filter.changed.clear();
        for index in gone {
            if !left.is_empty() {
                filter.remove(left.swap_remove(index.index(left.len())));
            }
        }
        second.iter().for_each(|one| filter.insert(*one));
        left.extend(second);
        filter.apply_map(wire.to.as_fd()).unwrap();
        assert_in_line(&filter);
        for (ethernet, raw) in packets {
            let bytes = if link == FilterLink::Ethernet { ethernet } else { raw }.bytes;
            // What a Unix socket cannot show: another host's packets, and tags. Those are tested on packet sockets.
            let packet = Packet { bytes, ..Packet::default() };
            prop_assert_eq!(wire.passes(&packet.bytes), model(&left, marked, link, &packet), "{:?} {:?} {:?}", marked, left, packet.bytes);
        }
    }
}

#[test]
fn ten_thousand_groups_are_let_through_exactly_and_one_more_or_less_changes_three_entries() {
    if !maps() {
        return;
    }
    let wire = Wire::new();
    let mut filter = LiveFilter::new(FilterLink::Ethernet);
    (0..10_000).for_each(|number| filter.insert(group(number)));
    assert_eq!(filter.apply(&wire.to).unwrap(), Precision::Exact);
    assert!([0, 4999, 9999].iter().all(|number| wire.passes(&frame(*number, 5000))));
    assert!(!wire.passes(&frame(10_000, 5000)) && !wire.passes(&frame(4999, 5001)));

    filter.remove(group(4999));
    assert_eq!(filter.changed.len(), 1);
    let program = std::os::fd::AsRawFd::as_raw_fd(&filter.map.as_ref().unwrap().program);
    assert_eq!(filter.apply(&wire.to).unwrap(), Precision::Exact);
    assert_eq!(
        std::os::fd::AsRawFd::as_raw_fd(&filter.map.as_ref().unwrap().program),
        program,
        "the same map"
    );
    assert_in_line(&filter);
    assert!(!wire.passes(&frame(4999, 5000)) && wire.passes(&frame(5000, 5000)));
}

#[test]
fn a_filter_is_compiled_while_it_is_small_and_says_what_it_is_without_maps() {
    let wire = Wire::new();
    let mut filter = LiveFilter::new(FilterLink::Ethernet);
    filter.insert(group(1));
    filter.insert(group(1));
    assert_eq!(filter.apply(&wire.to).unwrap(), Precision::Exact);
    assert!(filter.map.is_none() && wire.passes(&frame(1, 5000)));
    filter.remove(group(1));
    filter.apply(&wire.to).unwrap();
    assert!(wire.passes(&frame(1, 5000)), "wanted twice, given back once");
    filter.remove(group(1));
    filter.apply(&wire.to).unwrap();
    assert!(!wire.passes(&frame(1, 5000)) && filter.is_empty());

    filter.maps_refused = true;
    (0..10_000).for_each(|number| filter.insert(group(number)));
    assert_eq!(filter.apply(&wire.to).unwrap(), Precision::AnyUdp);
    assert!(wire.passes(&frame(9, 5000)) && wire.passes(&frame(70_000, 7)));
    assert_eq!(filter.coarse, Some((true, false)));
    (100..10_000).for_each(|number| filter.remove(group(number)));
    assert_eq!(filter.apply(&wire.to).unwrap(), Precision::Exact);
    assert!(wire.passes(&frame(99, 5000)) && !wire.passes(&frame(100, 5000)));
}

#[test]
fn a_map_grows_and_gives_way_to_a_compiled_filter_again() {
    if !maps() {
        return;
    }
    let wire = Wire::new();
    let mut filter = LiveFilter::new(FilterLink::Ethernet);
    let mut sizes = Vec::new();
    for number in 0..3000 {
        filter.insert(group(number));
        filter.apply(&wire.to).unwrap();
        sizes.extend(filter.map.as_ref().map(|map| map.entries_max));
        assert!(wire.passes(&frame(number, 5000)) && wire.passes(&frame(0, 5000)));
    }
    sizes.dedup();
    assert_eq!(sizes, [1024, 4096, 16384]);
    for number in 0..3000 {
        filter.remove(group(number));
        filter.apply(&wire.to).unwrap();
        assert!(!wire.passes(&frame(number, 5000)));
        assert_eq!(wire.passes(&frame(2999, 5000)), number < 2999);
    }
    assert!(filter.map.is_none());
}
