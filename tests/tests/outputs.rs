//! What leaves, as an independent parser and the receivers' kernels see it; devices of other kinds; and outputs that fail beside
//! others that do not.
#![allow(clippy::unwrap_used)] // A test has no better answer to an error than to fail.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use etherparse::{Icmpv4Type, PacketBuilder, icmpv4::DestUnreachableHeader};
use mcr_e2e::{
    Bed, Macs, Sink, Source, Wire,
    held::host_counter,
    in_every_cell, in_worker_cells, law, source,
    wire::{Parsed, parse_ip},
};
use mcr_lab::{Namespace, Tun};
use mcr_proto::{
    message::RuleState,
    rpc::{Stats, rule_ref},
};

/// Which addresses, TTL and traffic class a copy must bear.
type Bears<'a> = (&'a str, &'a str, u8, u8);

/// Asserts that the datagrams among `captured` that went to each place bear what they must, with these payloads in order, and
/// that there are no others.
fn expect_captured(captured: &[Parsed], bears: &[Bears<'_>], payloads: &[Vec<u8>]) {
    for &(to, from, ttl, traffic_class) in bears {
        let destination: SocketAddr = to.parse().unwrap();
        let there: Vec<_> = captured.iter().filter(|one| one.to == destination).collect();
        assert_eq!(there.len(), payloads.len(), "copies to {to}");
        for (one, payload) in there.into_iter().zip(payloads) {
            let from_it = if from.ends_with(":*") {
                format!("{}:*", from_without_port(one.from))
            } else {
                one.from.to_string()
            };
            assert_eq!((&*from_it, one.ttl, one.traffic_class), (from, ttl, traffic_class), "to {to}");
            assert!(one.payload == *payload, "another payload to {to}");
        }
    }
    assert_eq!(captured.len(), bears.len() * payloads.len(), "copies to places that are none");
}

fn from_without_port(from: SocketAddr) -> String {
    let text = from.to_string();
    text.rsplit_once(':').unwrap().0.to_owned()
}

/// A tun device of the relay's, up, with addresses 10.N.0.1/24 and fd00:N::1/64, N in hexadecimal there.
fn tun(relay: &Namespace, name: &str, number: u8) -> Tun {
    let tun = Tun::new(relay, name).unwrap();
    relay.add_address(name, [10, number, 0, 1].into(), 24).unwrap();
    relay.add_address(name, [0xfd00, u16::from(number), 0, 0, 0, 0, 0, 1].into(), 64).unwrap();
    relay.set_up(name).unwrap();
    tun
}

/// The UDP datagrams that the relay sends by a tun device, until none comes for a moment. What the kernel sends of its own
/// is something else (MLD).
fn sent_by(tun: &Tun) -> Vec<Parsed> {
    let packets = std::iter::from_fn(|| tun.read(Duration::from_millis(100)).unwrap());
    packets.filter_map(|packet| parse_ip(&packet)).collect()
}

fn output_drops<'a>(stats: &'a Stats, rule: &str, output: usize) -> (u64, BTreeMap<&'a str, u64>) {
    let output = &law::rule(stats, rule).outputs[output];
    (output.copies, law::drops(output))
}

in_every_cell! {
    fn copies_bear_what_the_output_says_and_right_checksums(cell) {
        let mut bed = Bed::new(cell, 1);
        // Without the offload whole checksums must be on the wire, and the receiving kernel verifies them.
        bed.line.relay.set_offload("out0", "tx-checksum-ip-generic", false).unwrap();
        bed.line.relay.add_address("out0", [10, 2, 0, 77].into(), 24).unwrap();
        let (source4, source6) = (bed.source("239.1.1.1:5000"), bed.source("[ff15::1]:5000"));
        let (from4, from6) = (source4.address().to_string(), source6.address().to_string());
        // What comes has TTL 33 and traffic class EF with an ECN codepoint, which is not passed on.
        let [bears4, bears6]: [[Bears<'_>; 6]; 2] = [
            [
                ("239.2.2.1:6001", "10.2.0.1:*", 64, 0xb8),
                ("239.2.2.2:6002", &from4, 32, 0xb8),
                ("239.2.2.3:6003", &from4, 3, 34 << 2),
                ("10.2.0.2:6004", "10.2.0.77:7777", 9, 0),
                ("10.2.0.2:6005", "10.2.0.77:*", 32, 63 << 2),
                ("10.2.0.2:6006", &from4, 255, 0xb8),
            ],
            [
                ("[ff15::2:1]:6001", "[fd00:2::1]:*", 64, 0xb8),
                ("[ff15::2:2]:6002", &from6, 32, 0xb8),
                ("[ff15::2:3]:6003", &from6, 3, 34 << 2),
                ("[fd00:2::2]:6004", "[fd00:2::1]:7777", 9, 0),
                ("[fd00:2::2]:6005", "[fd00:2::1]:*", 32, 63 << 2),
                ("[fd00:2::2]:6006", &from6, 255, 0xb8),
            ],
        ];
        let keys = |fixed: &str| [
            "@out0".to_owned(),
            "@out0,source=keep,ttl=keep".to_owned(),
            "@out0,source=keep,ttl=3,dscp=af41".to_owned(),
            format!(",source={fixed}:7777,ttl=9,dscp=0"),
            format!("@out0,source={fixed},ttl=keep,dscp=63"),
            "@out0,source=keep,ttl=255".to_owned(),
        ];
        let mut sinks = Vec::new();
        let rules = [("rule4", "239.1.1.1:5000@in0", &bears4, keys("10.2.0.77")), ("rule6", "[ff15::1]:5000@in0", &bears6, keys("[fd00:2::1]"))];
        for (name, input, bears, keys) in &rules {
            let outputs: Vec<_> = bears.iter().zip(keys).map(|((to, ..), keys)| format!("{to}{keys}")).collect();
            bed.add(name, input, &outputs.iter().map(String::as_str).collect::<Vec<_>>());
            sinks.push([0, 1, 2, 3, 4, 5].map(|index| {
                let group = if index < 3 { "@dst0" } else { "" };
                bed.sink(0, &format!("{}{group}", bears[index].0))
            }));
        }
        let places: Vec<_> = bears4.iter().chain(&bears6).map(|(to, ..)| *to).collect();
        let wire = Wire::open(&bed.line.sinks[0], "dst0", &places);
        // Even and odd lengths, runs of one length, none at all; superframes too.
        let payloads = source::payloads(1, [0, 1, 1452, 1452, 1452, 7, 1000, 1000, 999, 64, 1451, 2]);
        for source in [&source4, &source6] {
            source.ttl(33);
            source.traffic_class(0xb9);
            source.send(&payloads[..6]);
            source.send_superframe(&payloads[6..9]);
            source.send(&payloads[9..]);
        }
        sinks.iter().flatten().for_each(|sink| drop(sink.expect(&payloads)));
        let stats = bed.finish();
        sinks.iter().flatten().for_each(Sink::expect_nothing_more);
        assert_eq!(law::input(&stats, "in0").matched, 24);
        let captured: Vec<_> = wire.captured().iter().map(|frame| frame.parse()).collect();
        expect_captured(&captured, &[bears4, bears6].concat(), &payloads);
    }

    fn devices_without_link_layer_are_sent_to_beside_others(cell) {
        let mut bed = Bed::new(cell, 1);
        let output = tun(&bed.line.relay, "tout0", 51);
        let places = ["239.2.2.2:6000@tout0", "239.2.2.3:6000@out0", "10.51.0.9:6001,dscp=ef", "239.2.2.4:6002@tout0,source=keep,ttl=keep"];
        bed.add("v4", "239.1.1.1:5000@in0", &places);
        bed.add("v6", "[ff15::1]:5000@in0", &["[fd00:33::9]:6003", "[ff15::2]:6000@tout0,ttl=3"]);
        let (sink, sources) = (bed.sink(0, "239.2.2.3:6000@dst0"), [bed.source("239.1.1.1:5000"), bed.source("[ff15::1]:5000")]);
        let payloads = source::payloads(1, [100, 0, 1, 1400, 1400, 1400, 33]);
        for source in &sources {
            source.send(&payloads[..3]);
            source.send_superframe(&payloads[3..]);
        }
        sink.expect(&payloads);
        let stats = bed.finish();
        sink.expect_nothing_more();
        let from = sources[0].address().to_string();
        let bears = [
            ("239.2.2.2:6000", "10.51.0.1:*", 64, 0),
            ("10.51.0.9:6001", "10.51.0.1:*", 64, 46 << 2),
            ("239.2.2.4:6002", from.as_str(), 15, 0),
            ("[ff15::2]:6000", "[fd00:33::1]:*", 3, 0),
            ("[fd00:33::9]:6003", "[fd00:33::1]:*", 64, 0),
        ];
        expect_captured(&sent_by(&output), &bears, &payloads);
        assert!(stats.rules.iter().flat_map(|rule| &rule.outputs).all(|output| output.copies == 7), "{stats:?}");
    }

    fn forged_icmp_errors_cost_no_copy(cell) {
        let mut bed = Bed::new(cell, 1);
        bed.add("rule", "239.1.1.1:5000@in0", &["239.2.2.2:6000@out0"]);
        let (sink, source) = (bed.sink(0, "239.2.2.2:6000@dst0"), bed.source("239.1.1.1:5000"));
        let macs = Macs::of((&bed.line.sinks[0], "dst0"), (&bed.line.relay, "out0"));
        let wire = Wire::open(&bed.line.sinks[0], "dst0", &[]);
        let mut sent = source::payloads(1, [100; 1]);
        source.send(&sent);
        let from = sink.expect(&sent)[0].from;
        // What an error quotes: the headers of the copy. Nobody may answer a group so, but a forger does.
        let copy = macs.frame(&from.to_string(), "239.2.2.2:6000", &sent[0]);
        let error = PacketBuilder::ethernet2(macs.from, macs.to)
            .ipv4([10, 2, 0, 2], [10, 2, 0, 1], 64)
            .icmpv4(Icmpv4Type::DestinationUnreachable(DestUnreachableHeader::Port));
        let mut forged = Vec::new();
        error.write(&mut forged, &copy[14..14 + 28]).unwrap();
        for round in 2..50 {
            wire.send(&forged);
            let payloads = source::payloads(round, [200, 200, 10]);
            source.send(&payloads);
            sink.expect(&payloads);
            sent.extend(payloads);
        }
        let came = host_counter(&bed.line.relay, "Icmp", "InDestUnreachs");
        assert_eq!(came, 48, "the relay's host got the errors");
        let stats = bed.finish();
        sink.expect_nothing_more();
        assert_eq!(output_drops(&stats, "rule", 0), (sent.len() as u64, BTreeMap::new()));
    }
}

// The `kernel` path has no workers to share a port, and carries no inputs without Ethernet header, no loopback and no translation between
// IPv4 and IPv6, which is among the outputs that fail.
in_worker_cells! {
    fn copies_of_many_outputs_and_workers_bear_one_source_port(cell) {
        let mut bed = Bed::with_workers(cell, 1, 2);
        let source = "source=10.2.0.1:7777";
        let outputs = [
            format!("239.2.2.2:6000@out0,ttl=9,{source}"),
            format!("10.2.0.2:6001,{source}"),
            format!("10.2.0.2:6002@out0,ttl=9,{source}"),
        ];
        let outputs = outputs.each_ref().map(String::as_str);
        let inputs = ["239.1.1.1:5000", "239.1.1.2:5000"];
        for (worker, input) in (0..).zip(inputs) {
            let name = format!("rule-{worker}");
            bed.add(&name, &format!("{input}@in0"), &outputs);
            bed.client.rule_move(&rule_ref(&name).unwrap(), worker).unwrap();
            bed.wait_active(&name);
        }
        let sinks = ["239.2.2.2:6000@dst0", "10.2.0.2:6001", "10.2.0.2:6002"].map(|place| bed.sink(0, place));
        for (seed, input) in (1..).zip(inputs) {
            let payloads = source::assorted(seed, false);
            bed.source(input).send(&payloads);
            for sink in &sinks {
                assert!(sink.expect(&payloads).iter().all(|one| one.from.to_string() == "10.2.0.1:7777"));
            }
        }
        let stats = bed.finish();
        sinks.iter().for_each(Sink::expect_nothing_more);
        let workers: BTreeSet<_> = stats.inputs.iter().filter(|input| input.matched == 200).map(|input| input.worker).collect();
        assert_eq!(workers, BTreeSet::from([0, 1]), "each carried a rule");
    }

    fn devices_without_link_layer_are_inputs_and_outputs(cell) {
        let mut bed = Bed::new(cell, 1);
        let (input, output) = (tun(&bed.line.relay, "tin0", 50), tun(&bed.line.relay, "tout0", 51));
        bed.add("v4", "239.1.1.1:5000@tin0", &["239.2.2.2:6000@tout0", "10.51.0.9:6001", "239.2.2.3:6000@out0", "239.2.2.4:6002@tout0,source=keep,ttl=keep"]);
        bed.add("v6", "[ff15::1]:5000@tin0", &["[ff15::2]:6000@tout0,ttl=3"]);
        bed.add("host", "10.50.0.1:5001@tin0", &["[fd00:33::9]:6003"]);
        bed.add("cable", "239.1.1.9:5000@in0", &["239.2.2.9:6004@tout0"]);
        let sink = bed.sink(0, "239.2.2.3:6000@dst0");
        // The builder's Ethernet header is cut off again.
        let macs = Macs { from: [2; 6], to: [2; 6] };
        let packet = |from: &str, to: &str, payload: &[u8]| macs.frame(from, to, payload).split_off(14);
        let payloads = source::payloads(1, [100, 0, 1, 1400, 1400, 33, 1452]);
        for payload in &payloads {
            input.write(&packet("10.50.0.9:4000", "239.1.1.1:5000", payload)).unwrap();
            input.write(&packet("[fd00:32::9]:4000", "[ff15::1]:5000", payload)).unwrap();
            input.write(&packet("10.50.0.9:4000", "10.50.0.1:5001", payload)).unwrap();
        }
        bed.source("239.1.1.9:5000").send(&payloads);
        sink.expect(&payloads);
        let stats = bed.finish();
        sink.expect_nothing_more();
        let bears = [
            ("239.2.2.2:6000", "10.51.0.1:*", 64, 0),
            ("10.51.0.9:6001", "10.51.0.1:*", 64, 0),
            ("239.2.2.4:6002", "10.50.0.9:4000", 15, 0),
            ("[ff15::2]:6000", "[fd00:33::1]:*", 3, 0),
            ("[fd00:33::9]:6003", "[fd00:33::1]:*", 64, 0),
            ("239.2.2.9:6004", "10.51.0.1:*", 64, 0),
        ];
        expect_captured(&sent_by(&output), &bears, &payloads);
        let came = law::input(&stats, "tin0");
        assert_eq!((came.datagrams, came.matched), (21, 21), "{came:?}");
    }

    fn the_loopback_device_is_input_and_output(cell) {
        let mut bed = Bed::new(cell, 1);
        bed.add("group", "239.1.1.1:5000@lo", &["239.2.2.2:6000@out0", "239.3.3.3:6000@lo", "127.0.0.1:6001"]);
        bed.add("host", "127.0.0.1:5000@lo", &["[::1]:6002"]);
        bed.add("host6", "[::1]:5000@lo", &["239.2.2.3:6000@out0"]);
        let relay = &bed.line.relay;
        let sinks = [
            bed.sink(0, "239.2.2.2:6000@dst0"),
            Sink::open(relay, "239.3.3.3:6000@lo"),
            Sink::open(relay, "127.0.0.1:6001"),
            Sink::open(relay, "[::1]:6002"),
            bed.sink(0, "239.2.2.3:6000@dst0"),
        ];
        let to_group = Source::open(relay, "127.0.0.1:0", "239.1.1.1:5000");
        to_group.send_by(relay, "lo");
        let payloads = source::payloads(1, [100, 0, 65_487, 1400, 1400, 9000, 1]);
        to_group.send(&payloads);
        Source::open(relay, "127.0.0.1:0", "127.0.0.1:5000").send(&payloads);
        Source::open(relay, "[::1]:0", "[::1]:5000").send(&payloads);
        sinks.iter().for_each(|sink| drop(sink.expect(&payloads)));
        // The device takes 65,536 bytes at once, so that the largest comes in one frame, and leaves in one by it.
        let largest = source::payloads(2, [65_507]);
        to_group.send(&largest);
        sinks[..3].iter().for_each(|sink| drop(sink.expect(&largest)));
        let stats = bed.finish();
        sinks.iter().for_each(Sink::expect_nothing_more);
        let input = law::input(&stats, "lo");
        assert_eq!((input.datagrams, input.matched), (22, 22), "{input:?}");
    }

    fn outputs_that_fail_harm_no_other(cell) {
        let mut bed = Bed::new(cell, 5);
        let line = &bed.line;
        // A device far slower than what is sent to it.
        line.relay.set_rate_limit("out4", 250_000, 70_000).unwrap();
        line.relay.set_mtu("out2", 1300).unwrap();
        let outputs = [
            "239.2.2.2:6000@out0",
            "10.3.0.2:6999",
            "10.3.0.2:6000",
            "[fd00:3::2]:6999",
            "192.0.2.1:6000",
            "[2001:db8::1]:6000",
            "239.4.4.4:6000@out2,source=keep",
            "239.6.6.6:6000@out4",
            "239.5.5.5:6000@out3",
            "[fd00:3::2]:6000",
            "10.2.0.2:6000,source=keep",
        ];
        bed.add("rule", "239.1.1.1:5000@in0", &outputs);
        let good = [(0, bed.sink(0, "239.2.2.2:6000@dst0")), (2, bed.sink(1, "10.3.0.2:6000")), (9, bed.sink(1, "[fd00:3::2]:6000")), (10, bed.sink(0, "10.2.0.2:6000"))];
        let slow = bed.sink(4, "239.6.6.6:6000@dst4");
        let (small_only, down) = (bed.sink(2, "239.4.4.4:6000@dst2"), bed.sink(3, "239.5.5.5:6000@dst3"));
        bed.line.relay.set_down("out3").unwrap();
        mcr_e2e::eventually("the output is paused", || {
            bed.client.rules(None).unwrap()[0].output_states[8].state == RuleState::Paused
        });
        bed.wait_applied();

        // Of two sizes, in rows and superframes: runs of all kinds fail and succeed.
        let mut sent = Vec::new();
        let source = bed.source("239.1.1.1:5000");
        for round in 0..60 {
            let batch = source::payloads(round, [[1400; 12], [200; 12]].concat());
            source.send(&batch[..6]);
            source.send_superframe(&batch[6..12]);
            source.send_superframe(&batch[12..]);
            sent.extend(batch);
            // No faster than all of it gets through, ICMP errors included.
            good[0].1.expect(&sent[sent.len() - 24..]);
        }
        good[1..].iter().for_each(|(_, sink)| drop(sink.expect(&sent)));
        small_only.expect(&sent.iter().filter(|payload| payload.len() == 200).cloned().collect::<Vec<_>>());
        let stats = bed.at_rest();
        good.iter().map(|(_, sink)| sink).chain([&small_only, &down]).for_each(Sink::expect_nothing_more);
        let all = sent.len() as u64;
        let none = BTreeMap::new();
        assert_eq!(law::input(&stats, "in0").matched, all);
        for output in [0, 1, 2, 3, 9, 10] {
            assert_eq!(output_drops(&stats, "rule", output), (all, none.clone()), "{}", outputs[output]);
        }
        for output in [4, 5, 8] {
            assert_eq!(output_drops(&stats, "rule", output), (0, BTreeMap::from([("no_route", all)])), "{}", outputs[output]);
        }
        assert_eq!(output_drops(&stats, "rule", 6), (all / 2, BTreeMap::from([("too_big", all / 2)])));
        let (copies, drops) = output_drops(&stats, "rule", 7);
        assert_eq!(drops, BTreeMap::from([("queue_full", all - copies)]));
        assert!((1..all).contains(&copies), "{copies} copies");
        // What the kernel has taken comes in time, in order, each once; and nothing else.
        let mut expected = sent.iter();
        for _ in 0..copies {
            let came = slow.receive().payload;
            assert!(expected.any(|sent| *sent == came), "out of order, twice, or never sent");
        }
        slow.expect_nothing_more();
        bed.daemon.stop();
    }
}
