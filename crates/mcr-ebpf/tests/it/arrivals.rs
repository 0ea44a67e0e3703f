//! What comes in: superframes, options, tags, sources, and what cannot be relayed, by its reason.

use std::net::SocketAddr;

use mcr_lab::require;
use mcr_proto::{
    counters::{InputDrop, OutputDrop},
    endpoint::Ttl,
    plan::RuleSlot,
};

use crate::{
    frames::{Fields, SOURCE_MAC, build, pseudo_sum, read, v4},
    rig::{IN, IN6, OUT, Rig, mac_of},
};

const FROM: &str = "10.1.0.1:4000";

fn frame6(payload: &[u8]) -> Vec<u8> {
    build(&Fields {
        macs: [mac_of(IN6.parse::<SocketAddr>().unwrap().ip()), SOURCE_MAC],
        source: "[fd00:1::1]:4000".parse().unwrap(),
        destination: IN6.parse().unwrap(),
        hop_limit: 9,
        traffic_class: 0,
        payload: payload.to_vec(),
    })
}

/// Makes room for bytes in a frame.
fn insert(frame: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    [&frame[..at], bytes, &frame[at..]].concat()
}

/// Sets the IPv4 header checksum right.
fn fix_ipv4(frame: &mut [u8]) {
    let end = 14 + usize::from(frame[14] & 15) * 4;
    frame[24..26].copy_from_slice(&[0, 0]);
    let words = frame[14..end].chunks(2).map(|two| u32::from(u16::from_be_bytes([two[0], two[1]])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    frame[24..26].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}

fn add_u16(frame: &mut [u8], at: usize, add: u16) {
    let value = u16::from_be_bytes([frame[at], frame[at + 1]]) + add;
    frame[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

#[test]
fn a_superframe_leaves_whole_at_its_true_boundaries_and_counts_as_its_datagrams() {
    let Some(()) = require::netns() else { return };
    for ipv6 in [false, true] {
        let mut rig = Rig::new(1);
        let [input, to] = rig.one_rule(ipv6, 2);
        // Ten datagrams of 1,000 bytes and one of 10.
        let payload: Vec<u8> = (0..10_010_u32).map(|byte| (byte / 1000) as u8).collect();
        let came = Fields {
            macs: [mac_of(input.parse::<SocketAddr>().unwrap().ip()), SOURCE_MAC],
            source: if ipv6 { "[fd00:1::1]:4000" } else { FROM }.parse().unwrap(),
            destination: input.parse().unwrap(),
            hop_limit: 9,
            traffic_class: 0,
            payload: payload.clone(),
        };
        let mut frame = build(&came);
        let udp: u8 = if ipv6 { 54 } else { 34 };
        let sum = pseudo_sum(came.source, came.destination, 8 + 10_010);
        frame[usize::from(udp) + 6..usize::from(udp) + 8].copy_from_slice(&sum.to_be_bytes());
        // NEEDS_CSUM, VIRTIO_NET_HDR_GSO_UDP_L4, header length, 1,000 bytes a segment.
        let [low, high] = 1000_u16.to_le_bytes();
        rig.send_with(&[1, 5, udp + 8, 0, low, high, udp, 0, 6, 0], &frame);
        let seen = rig.seen_at_first();
        assert_eq!(seen.len(), 2);
        for copy in &seen {
            assert_eq!((copy.vnet[1], copy.gso_size(), copy.is_partial()), (5, 1000, true));
            let fields = read(copy);
            assert_eq!((fields.destination, &fields.payload), (to.parse().unwrap(), &payload));
        }
        let totals = rig.totals();
        assert_eq!((totals.frames, totals.datagrams, totals.matched), (1, 11, 11));
        assert_eq!((totals.rules[&1].0, totals.rules[&1].1), (11, 10_010));
        assert_eq!((totals.copies[&1], totals.copies[&2]), ((11, 10_010), (11, 10_010)));
    }
}

#[test]
fn a_superframe_is_cut_into_its_datagrams_where_a_receiver_takes_single_ones() {
    let Some(()) = require::netns() else { return };
    let mut rig = Rig::new(1);
    rig.one_rule(false, 1);
    let sink = rig.line.sinks[0].clone();
    let receiver = sink.enter(|| {
        let socket = std::net::UdpSocket::bind(OUT).unwrap();
        socket.join_multicast_v4(&[239, 2, 2, 2].into(), &[10, 2, 0, 2].into()).unwrap();
        socket.set_read_timeout(Some(crate::rig::DEADLINE)).unwrap();
        socket
    });
    let payload: Vec<u8> = (0..5_300_u32).map(|byte| (byte / 700) as u8).collect();
    let mut frame = v4(FROM, IN, 9, 0, &payload);
    let sum = pseudo_sum(FROM.parse().unwrap(), IN.parse().unwrap(), 8 + 5_300);
    frame[40..42].copy_from_slice(&sum.to_be_bytes());
    let [low, high] = 700_u16.to_le_bytes();
    rig.send_with(&[1, 5, 42, 0, low, high, 34, 0, 6, 0], &frame);
    let mut buffer = [0; 2000];
    for datagram in 0..8_u8 {
        let bytes = receiver.recv(&mut buffer).expect("a datagram");
        assert_eq!(bytes, if datagram < 7 { 700 } else { 400 });
        assert!(buffer[..bytes].iter().all(|byte| *byte == datagram), "datagram {datagram}");
    }
}

#[test]
fn options_and_extension_headers_do_not_go_on() {
    let Some(()) = require::netns() else { return };
    let mut rig = Rig::new(1);
    rig.one_rule(false, 1);
    let plain = v4(FROM, IN, 9, 0, b"options");
    rig.send(&plain);
    // A router alert (RFC 2113), then one and a row of no-operations.
    for options in [vec![0x94, 4, 0, 0], [vec![0x94, 4, 0, 0], vec![1; 36]].concat()] {
        let mut with = insert(&plain, 34, &options);
        with[14] = 0x45 + (options.len() / 4) as u8;
        add_u16(&mut with, 16, options.len() as u16);
        fix_ipv4(&mut with);
        rig.send(&with);
    }
    let seen = rig.seen_at_first();
    assert_eq!(seen.len(), 3);
    assert!(seen.iter().all(|copy| *copy == seen[0]), "{seen:02x?}");
    let mut rig = Rig::new(1);
    rig.one_rule(true, 1);
    let plain = frame6(b"headers");
    rig.send(&plain);
    let hop_by_hop = |next: u8| vec![next, 0, 5, 2, 0, 0, 1, 0];
    let atomic_fragment = |next: u8| vec![next, 0, 0, 0, 0, 0, 0, 9];
    let destination_options = |next: u8| [vec![next, 1, 1, 12], vec![0; 12]].concat();
    let chains = [
        (0, hop_by_hop(17)),
        (44, atomic_fragment(17)),
        (0, [hop_by_hop(60), destination_options(44), atomic_fragment(17)].concat()),
    ];
    for (first, headers) in &chains {
        let mut with = insert(&plain, 54, headers);
        with[20] = *first;
        add_u16(&mut with, 18, headers.len() as u16);
        rig.send(&with);
    }
    let seen = rig.seen_at_first();
    assert_eq!(seen.len(), 4);
    assert!(seen.iter().all(|copy| *copy == seen[0]), "{seen:02x?}");
    assert_eq!(read(&seen[0]).payload, b"headers");
    assert_eq!(rig.totals().matched, 4);
}

#[test]
fn what_cannot_be_relayed_is_counted_by_its_reason_if_its_address_is_ours() {
    let Some(()) = require::netns() else { return };
    let mut rig = Rig::new(1);
    rig.one_rule(false, 1);
    let good = v4(FROM, IN, 9, 0, b"reasons");
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = good.clone();
        change(&mut frame);
        fix_ipv4(&mut frame);
        frame
    };
    let fragment = changed(&|frame| frame[20] = 0x20);
    let later = changed(&|frame| frame[21] = 2);
    let longer_udp = changed(&|frame| add_u16(frame, 38, 1));
    let short_udp = changed(&|frame| frame[38..40].copy_from_slice(&[0, 7]));
    let longer_ip = changed(&|frame| add_u16(frame, 16, 1));
    let short_ip = changed(&|frame| frame[16..18].copy_from_slice(&[0, 19]));
    let version = changed(&|frame| frame[14] = 0x55);
    let mut header_sum = good.clone();
    header_sum[24] ^= 1;
    for frame in
        [&fragment, &later, &longer_udp, &short_udp, &longer_ip, &short_ip, &version, &header_sum, &good]
    {
        rig.send(frame);
    }
    // None of these is any rule's business.
    rig.send(&v4(FROM, "239.1.1.1:5001", 9, 0, b"port"));
    rig.send(&v4(FROM, "239.1.1.2:5000", 9, 0, b"group"));
    rig.send(&changed(&|frame| frame[23] = 6));
    let mut other_fragment = v4(FROM, "239.1.1.2:5000", 9, 0, b"group");
    other_fragment[20] = 0x20;
    fix_ipv4(&mut other_fragment);
    rig.send(&other_fragment);
    assert_eq!(rig.seen_at_first().len(), 1);
    let totals = rig.totals();
    assert_eq!((totals.frames, totals.datagrams, totals.matched), (9, 9, 1));
    let expected = [(InputDrop::Malformed, 5), (InputDrop::Fragment, 2), (InputDrop::Checksum, 1)];
    assert_eq!(totals.input_drops, expected);
}

#[test]
fn extension_headers_that_lie_are_malformed_and_others_are_not_udp() {
    let Some(()) = require::netns() else { return };
    let mut rig = Rig::new(1);
    rig.one_rule(true, 1);
    let plain = frame6(b"headers");
    let with = |first: u8, headers: &[u8]| {
        let mut with = insert(&plain, 54, headers);
        with[20] = first;
        add_u16(&mut with, 18, headers.len() as u16);
        with
    };
    // Past the end; a routing header with segments left; hop-by-hop second; nine of them; a real fragment; TCP behind.
    rig.send(&with(0, &[17, 200, 0, 0, 0, 0, 0, 0]));
    rig.send(&with(43, &[17, 0, 0, 1, 0, 0, 0, 0]));
    rig.send(&with(60, &[0, 0, 1, 4, 0, 0, 0, 0, 17, 0, 1, 4, 0, 0, 0, 0]));
    let nine: Vec<u8> = (0..9).flat_map(|n| [if n == 8 { 17 } else { 60 }, 0, 1, 4, 0, 0, 0, 0]).collect();
    rig.send(&with(60, &nine));
    rig.send(&with(44, &[17, 0, 0, 8, 0, 0, 0, 9]));
    rig.send(&with(60, &[6, 0, 1, 4, 0, 0, 0, 0]));
    // Eight are as many as may be.
    rig.send(&with(60, &nine[8..]));
    let seen = rig.seen_at_first();
    assert_eq!(seen.len(), 1);
    assert_eq!(read(&seen[0]).payload, b"headers");
    let totals = rig.totals();
    let expected = [(InputDrop::Malformed, 4), (InputDrop::NotUdp, 1), (InputDrop::Fragment, 1)];
    assert_eq!((totals.matched, &totals.input_drops[..]), (1, &expected[..]));
}

#[test]
fn a_hop_limit_used_up_is_counted_at_the_input_or_at_the_outputs_that_keep_it() {
    let Some(()) = require::netns() else { return };
    let mut rig = Rig::new(1);
    rig.watch(&[OUT]);
    let mut keeping = rig.output(0, 1, OUT);
    keeping.ttl = Ttl::Keep;
    let fixed = rig.output(0, 2, OUT);
    let used_up = v4(FROM, IN, 1, 0, b"last hop");
    rig.rule(1, IN, vec![keeping.clone()]);
    rig.send(&used_up);
    assert_eq!(rig.seen_at_first().len(), 0);
    assert_eq!(rig.totals().input_drops, [(InputDrop::HopLimit, 1)]);
    rig.rule(1, IN, vec![keeping, fixed]);
    rig.send(&used_up);
    assert_eq!(rig.seen_at_first().len(), 1);
    let totals = rig.totals();
    assert_eq!((totals.matched, totals.copies.get(&2)), (1, Some(&(1, 8))));
    assert_eq!(totals.output_drops, [(1, OutputDrop::HopLimit, 1)]);
}

#[test]
fn tagged_frames_belong_to_another_interface_but_for_a_mere_priority() {
    let Some(()) = require::netns() else { return };
    let mut rig = Rig::new(1);
    rig.one_rule(false, 1);
    let plain = v4(FROM, IN, 9, 0, b"tagged");
    rig.send(&insert(&plain, 12, &[0x81, 0, 0, 5]));
    rig.send(&insert(&plain, 12, &[0x81, 0, 0xa0, 0]));
    let mut other_host = plain.clone();
    other_host[..6].copy_from_slice(&[2, 9, 9, 9, 9, 9]);
    rig.send(&other_host);
    let seen = rig.seen_at_first();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].frame.len(), plain.len(), "the tag is gone");
    assert_eq!(rig.totals().frames, 1);
}

#[test]
fn a_rule_of_a_source_takes_that_source_beside_rules_of_any() {
    let Some(()) = require::netns() else { return };
    let mut rig = Rig::new(1);
    rig.watch(&[OUT, "239.2.2.3:6000"]);
    let outputs = [1, 2, 3].map(|slot| rig.output(0, slot, if slot == 3 { "239.2.2.3:6000" } else { OUT }));
    let [named, other, any] = outputs;
    for (slot, source, output) in [(1, "10.1.0.8", named), (2, "10.1.0.9", other)] {
        let mut rule = rig.rule_of(IN, vec![output]);
        rule.source = Some(source.parse().unwrap());
        rig.path.set_rule(RuleSlot(slot), rule).unwrap();
    }
    let send_all = |rig: &mut Rig| {
        for host in 7..=9 {
            rig.send(&v4(&format!("10.1.0.{host}:4000"), IN, 9, 0, b"from"));
        }
        rig.seen_at_first().len()
    };
    // Source 7 is nobody's, and not even counted.
    assert_eq!(send_all(&mut rig), 2);
    assert_eq!(rig.totals().frames, 2);
    rig.rule(3, IN, vec![any]);
    assert_eq!(send_all(&mut rig), 5);
    rig.path.remove_rule(RuleSlot(1));
    assert_eq!(send_all(&mut rig), 4);
    rig.path.remove_rule(RuleSlot(3));
    assert_eq!(send_all(&mut rig), 1);
    rig.path.remove_rule(RuleSlot(2));
    assert_eq!(send_all(&mut rig), 0);
    let totals = rig.totals();
    assert_eq!((totals.frames, totals.matched), (9, 9));
    assert_eq!(totals.rules[&1].0, 2);
    assert_eq!(totals.rules[&2].0, 4);
    assert_eq!(totals.rules[&3].0, 6);
    let copies: Vec<_> = totals.copies.iter().map(|(slot, (copies, _))| (*slot, *copies)).collect();
    assert_eq!(copies, [(1, 2), (2, 4), (3, 6)]);
}
