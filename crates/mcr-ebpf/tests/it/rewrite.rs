//! Every field that a copy may have rewritten, byte for byte.

use mcr_lab::require;
use mcr_proto::{
    counters::InputDrop,
    endpoint::{Dscp, Ttl},
};

use crate::{
    frames::{Fields, SOURCE_MAC, build, pseudo_sum, read, v4},
    rig::{IN, IN6, OUT, OUT6, Rig, mac_of},
};

fn incoming(ipv6: bool, payload: &[u8]) -> Fields {
    let [source, destination] = if ipv6 { ["[fd00:1::1]:4000", IN6] } else { ["10.1.0.1:4000", IN] }
        .map(|text| text.parse().unwrap());
    let destination: std::net::SocketAddr = destination;
    Fields {
        macs: [mac_of(destination.ip()), SOURCE_MAC],
        source,
        destination,
        hop_limit: 17,
        // AF41 with ECN capable.
        traffic_class: 34 << 2 | 2,
        payload: payload.to_vec(),
    }
}

#[test]
fn each_field_of_a_copy_is_written_as_its_output_says() {
    let Some(()) = require::netns() else { return };
    for ipv6 in [false, true] {
        let mut rig = Rig::new(1);
        let [input, to] = if ipv6 { [IN6, OUT6] } else { [IN, OUT] };
        let unicast = if ipv6 { "[fd00:2::2]:7000" } else { "10.2.0.2:7000" };
        rig.watch(&[to, unicast]);
        let plain = rig.output(0, 1, to);
        let mut kept = rig.output(0, 2, to);
        (kept.source, kept.ttl) = (None, Ttl::Keep);
        let mut marked = rig.output(0, 3, unicast);
        (marked.ttl, marked.dscp) = (Ttl::Fixed(3), Dscp::Fixed(46));
        rig.rule(1, input, vec![plain.clone(), kept, marked.clone()]);
        // Of an even and an odd length, and of none.
        for payload in [&b"payload"[..], b"payloads", b""] {
            let came = incoming(ipv6, payload);
            rig.send(&build(&came));
            let copies: Vec<_> =
                rig.seen_at_first().iter().map(|seen| (seen.frame.clone(), read(seen))).collect();
            let out = rig.line.relay.link("out0").unwrap().mac.unwrap();
            let base = Fields {
                macs: [mac_of(to.parse::<std::net::SocketAddr>().unwrap().ip()), out],
                source: plain.source.unwrap(),
                destination: to.parse().unwrap(),
                hop_limit: 64,
                traffic_class: 34 << 2,
                payload: payload.to_vec(),
            };
            let expected = [
                base.clone(),
                Fields { source: came.source, hop_limit: 16, ..base.clone() },
                Fields {
                    macs: [rig.sink_mac(0), out],
                    destination: unicast.parse().unwrap(),
                    hop_limit: 3,
                    traffic_class: 46 << 2,
                    ..base
                },
            ];
            assert_eq!(copies.len(), 3);
            for ((frame, fields), expected) in copies.iter().zip(&expected) {
                assert_eq!(fields, expected);
                // Nothing else was touched: identification, flow label and all.
                assert_eq!(*frame, build(expected));
            }
        }
        let totals = rig.totals();
        assert_eq!((totals.frames, totals.matched), (3, 3));
        assert_eq!(totals.rules[&1], (3, 15, 1));
        assert_eq!(totals.copies.values().collect::<Vec<_>>(), [&(3, 15); 3]);
        assert_eq!(totals.output_drops, []);
    }
}

#[test]
fn a_missing_udp_checksum_stays_missing() {
    let Some(()) = require::netns() else { return };
    let mut rig = Rig::new(1);
    rig.one_rule(false, 1);
    let mut frame = v4("10.1.0.1:4000", IN, 9, 0, b"unchecked");
    frame[40..42].copy_from_slice(&[0, 0]);
    rig.send(&frame);
    let seen = rig.seen_at_first();
    assert_eq!(seen.len(), 1);
    assert_eq!(read(&seen[0]).payload, b"unchecked");
    assert_eq!(seen[0].frame[40..42], [0, 0]);
}

#[test]
fn a_checksum_that_comes_out_as_zero_is_written_as_its_other_form() {
    let Some(()) = require::netns() else { return };
    for ipv6 in [false, true] {
        let mut rig = Rig::new(1);
        let [_, to] = rig.one_rule(ipv6, 1);
        let source = rig.output(0, 1, to).source.unwrap();
        // A payload word that makes the sum of the copy all ones.
        let destination: std::net::SocketAddr = to.parse().unwrap();
        let others = [pseudo_sum(source, destination, 10), source.port(), destination.port(), 10];
        let mut sum: u32 = others.iter().map(|word| u32::from(*word)).sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        let word = !(sum as u16);
        rig.send(&build(&incoming(ipv6, &word.to_be_bytes())));
        let seen = rig.seen_at_first();
        assert_eq!(read(&seen[0]).payload, word.to_be_bytes());
        let at = if ipv6 { 60 } else { 40 };
        assert_eq!(seen[0].frame[at..at + 2], [0xff, 0xff]);
    }
}

#[test]
fn a_partial_checksum_stays_partial_and_is_that_of_the_new_addresses() {
    let Some(()) = require::netns() else { return };
    for ipv6 in [false, true] {
        let mut rig = Rig::new(1);
        rig.one_rule(ipv6, 3);
        let came = incoming(ipv6, b"a partial one");
        let mut frame = build(&came);
        let udp = if ipv6 { 54 } else { 34 };
        let sum = pseudo_sum(came.source, came.destination, 8 + 13);
        frame[udp + 6..udp + 8].copy_from_slice(&sum.to_be_bytes());
        // VIRTIO_NET_HDR_F_NEEDS_CSUM, no GSO, csum_start and csum_offset.
        let vnet = [1, 0, 0, 0, 0, 0, udp as u8, 0, 6, 0];
        rig.send_with(&vnet, &frame);
        let seen = rig.seen_at_first();
        assert_eq!(seen.len(), 3);
        for copy in &seen {
            assert!(copy.is_partial());
            assert_eq!(read(copy).payload, b"a partial one");
        }
    }
}

#[test]
fn a_wrong_or_forbidden_udp_checksum_is_counted_and_goes_nowhere() {
    let Some(()) = require::netns() else { return };
    for ipv6 in [false, true] {
        let mut rig = Rig::new(1);
        rig.one_rule(ipv6, 1);
        // With the header as long as one or two parts that are summed at a time, one byte more and one less; and odd ones.
        for bytes in [0_usize, 1, 119, 120, 121, 247, 248, 249, 1400, 1401] {
            rig.send(&build(&incoming(ipv6, &vec![0xa5; bytes])));
        }
        let right = build(&incoming(ipv6, &[0xa5; 1401]));
        let udp = if ipv6 { 54 } else { 34 };
        for at in [udp + 6, udp + 8, udp + 8 + 127, udp + 8 + 700, right.len() - 1] {
            let mut damaged = right.clone();
            damaged[at] ^= 1;
            rig.send(&damaged);
        }
        let mut without = right.clone();
        without[udp + 6..udp + 8].fill(0);
        rig.send(&without);
        // IPv6 has none without (RFC 8200, 8.1).
        let (good, wrong) = if ipv6 { (10, 6) } else { (11, 5) };
        assert_eq!(rig.seen_at_first().len(), good);
        assert_eq!(rig.totals().input_drops, [(InputDrop::Checksum, wrong)]);
    }
}

#[test]
fn what_comes_out_of_a_tunnel_is_verified_by_the_sum_that_the_kernel_has_of_it() {
    let Some(()) = require::netns() else { return };
    for ipv6 in [false, true] {
        let mut rig = Rig::new(1);
        let relay = rig.line.relay.clone();
        relay.vxlan("vx0", 7, [10, 1, 0, 2].into(), [10, 1, 0, 1].into()).unwrap();
        relay.set_up("vx0").unwrap();
        rig.input = relay.link_index("vx0").unwrap();
        relay.enter(|| rig.path.attach(rig.input)).unwrap();
        rig.one_rule(ipv6, 2);
        let outside = relay.link("in0").unwrap().mac.unwrap();
        let wrapped = |inner: &[u8]| {
            build(&Fields {
                macs: [outside, SOURCE_MAC],
                source: "10.1.0.1:5555".parse().unwrap(),
                destination: "10.1.0.2:4789".parse().unwrap(),
                hop_limit: 9,
                traffic_class: 0,
                // RFC 7348, section 5: the flag that says that there is an identifier, and the identifier.
                payload: [&[8, 0, 0, 0, 0, 0, 7, 0], inner].concat(),
            })
        };
        // The checksum around each is right, so the kernel has summed the frame (CHECKSUM_COMPLETE).
        let payloads = [0, 1, 17, 18, 100, 1000, 1301].map(|bytes| vec![0x5a; bytes]);
        for payload in &payloads {
            let inner = build(&incoming(ipv6, payload));
            rig.send(&wrapped(&inner));
            rig.send(&wrapped(&[&inner[..], b"padding"].concat()));
            let mut damaged = inner;
            *damaged.last_mut().unwrap() ^= 1;
            rig.send(&wrapped(&damaged));
        }
        // They come by another queue than the mark.
        let mut seen = Vec::new();
        mcr_lab::wait_until(crate::rig::DEADLINE, "all have come", || {
            seen.extend(rig.seen_at_first());
            rig.totals().datagrams >= 21
        })
        .unwrap();
        seen.extend(rig.seen_at_first());
        let came: Vec<_> = seen.iter().map(|copy| read(copy).payload).collect();
        let expected: Vec<_> = payloads.iter().flat_map(|payload| vec![payload.clone(); 4]).collect();
        assert_eq!(came, expected);
        let drops = &rig.totals().input_drops;
        assert!(drops.iter().all(|(reason, _)| *reason == InputDrop::Checksum), "{drops:?}");
        assert_eq!(drops.iter().map(|(_, count)| count).sum::<u64>(), 7);
    }
}

#[test]
fn bytes_behind_the_datagram_do_not_go_on() {
    let Some(()) = require::netns() else { return };
    for ipv6 in [false, true] {
        let mut rig = Rig::new(1);
        rig.one_rule(ipv6, 1);
        let plain = build(&incoming(ipv6, b"padded"));
        rig.send(&plain);
        rig.send(&[&plain[..], &[0xee; 17]].concat());
        let seen = rig.seen_at_first();
        assert_eq!(seen[0].frame, seen[1].frame);
    }
}

#[test]
fn what_goes_on_to_the_stack_is_as_it_came() {
    let Some(()) = require::netns() else { return };
    for ipv6 in [false, true] {
        let mut rig = Rig::new(1);
        let [input, to] = if ipv6 { [IN6, OUT6] } else { [IN, OUT] };
        rig.watch(&[to]);
        let outputs: Vec<_> = (1..=3).map(|slot| rig.output(0, slot, to)).collect();
        let local = rig.line.relay.enter(|| listener(input, "in0"));
        let mut rule = rig.rule_of(input, outputs);
        rule.local = true;
        rig.path.set_rule(mcr_proto::plan::RuleSlot(1), rule.clone()).unwrap();
        let came = incoming(ipv6, b"for both");
        rig.send(&build(&came));
        assert_eq!(rig.seen_at_first().len(), 3);
        let mut buffer = [0; 64];
        let (bytes, from) = local.recv_from(&mut buffer).expect("the local listener gets it");
        assert_eq!((&buffer[..bytes], from), (&b"for both"[..], came.source));
        // Not wanted any more, it gets nothing.
        rule.local = false;
        rig.path.set_rule(mcr_proto::plan::RuleSlot(1), rule).unwrap();
        rig.send(&build(&came));
        assert_eq!(rig.seen_at_first().len(), 3);
        local.set_nonblocking(true).unwrap();
        assert_eq!(local.recv_from(&mut buffer).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        assert_eq!(rig.totals().matched, 2);
    }
}

/// A socket that has joined a group.
fn listener(group: &str, ifname: &str) -> std::net::UdpSocket {
    let group: std::net::SocketAddr = group.parse().unwrap();
    let socket = std::net::UdpSocket::bind(group).unwrap();
    let index = nix::net::if_::if_nametoindex(ifname).unwrap();
    match group.ip() {
        std::net::IpAddr::V4(v4) => socket.join_multicast_v4(&v4, &[10, 1, 0, 2].into()).unwrap(),
        std::net::IpAddr::V6(v6) => socket.join_multicast_v6(&v6, index).unwrap(),
    }
    socket.set_read_timeout(Some(crate::rig::DEADLINE)).unwrap();
    socket
}
