//! What frames may hold beside a plain datagram: each comes out as it went in, or is dropped and counted for its reason.
#![allow(clippy::unwrap_used)] // A test has no better answer to an error than to fail.

use std::collections::BTreeMap;

use etherparse::{IpHeaders, Ipv6RawExtHeader, Ipv6RoutingExtensions, ip_number};
use mcr_e2e::{Bed, Cell, Macs, Sink, Source, Wire, in_every_cell, in_worker_cells, law, source};
use mcr_proto::rule::Datapath;

const FROM: &str = "10.1.0.1:4000";
const TO: &str = "239.1.1.1:5000";
const FROM6: &str = "[fd00:1::1]:4000";
const TO6: &str = "[ff15::1]:5000";

/// Ethernet, and the IP header without options.
const UDP_OFFSET: usize = 14 + 20;
const UDP6_OFFSET: usize = 14 + 40;

/// The source's end of the cable to the relay.
fn wire(bed: &Bed) -> (Wire, Macs) {
    let macs = Macs::of((&bed.line.source, "src0"), (&bed.line.relay, "in0"));
    (Wire::open(&bed.line.source, "src0", &[]), macs)
}

fn options(headers: &mut IpHeaders, options: &[u8]) {
    let IpHeaders::Ipv4(ip, _) = headers else { panic!("not IPv4") };
    ip.options = options.try_into().expect("whole words");
}

/// Every extension header that a datagram may have on its way: hop-by-hop and destination options of padding, and a routing
/// header that is used up.
fn extensions(headers: &mut IpHeaders, with_routing: bool) {
    let IpHeaders::Ipv6(_, extensions) = headers else { panic!("not IPv6") };
    // PadN of six bytes (RFC 8200, 4.2).
    let padding = || Ipv6RawExtHeader::new_raw(ip_number::UDP, &[1, 4, 0, 0, 0, 0]).expect("eight bytes");
    extensions.hop_by_hop_options = Some(padding());
    extensions.destination_options = Some(padding());
    if with_routing {
        let routing = Ipv6RawExtHeader::new_raw(ip_number::UDP, &[0, 0, 0, 0, 0, 0]).expect("eight bytes");
        extensions.routing =
            Some(Ipv6RoutingExtensions { routing, final_destination_options: Some(padding()) });
    }
}

fn flip(mut frame: Vec<u8>, offset: usize) -> Vec<u8> {
    frame[offset] ^= 1;
    frame
}

fn no_checksum(mut frame: Vec<u8>, udp_offset: usize) -> Vec<u8> {
    frame[udp_offset + 6..udp_offset + 8].fill(0);
    frame
}

fn padded(frame: Vec<u8>, bytes: usize) -> Vec<u8> {
    [frame, vec![0xee; bytes]].concat()
}

/// A tag behind the Ethernet addresses, as a device without offload sends it.
fn tagged(frame: &[u8], vlan_id: u16) -> Vec<u8> {
    let (addresses, rest) = frame.split_at(12);
    let tag = (6 << 13 | vlan_id).to_be_bytes();
    [addresses, &[0x81, 0x00], &tag, rest].concat()
}

/// The drops that an input counts, which depends on who looks at the frame. A UDP socket gets neither what the host took for
/// damaged before it looked for a socket, nor what belongs to a VLAN; wrong UDP checksums Linux counts as the socket's own
/// drops, together with those of a full queue.
fn expected(cell: Cell, packet: &[(&str, u64)], udp: &[(&str, u64)]) -> BTreeMap<String, u64> {
    let drops = if cell.datapath == Datapath::Udp { udp } else { packet };
    drops.iter().map(|(reason, count)| ((*reason).to_owned(), *count)).collect()
}

in_every_cell! {
    fn what_the_receiving_device_has_merged_is_split_again(cell) {
        let mut bed = Bed::new(cell, 1);
        // The sender's device gets single frames, in a burst, and the receiver's merges them (GRO).
        bed.line.source.set_offload("src0", "tx-udp-segmentation", false).unwrap();
        for feature in ["rx-gro", "rx-udp-gro-forwarding"] {
            bed.line.relay.set_offload("in0", feature, true).unwrap();
        }
        bed.line.relay.wait_running("in0").unwrap();
        bed.add("rule", "239.1.1.1:5000@in0", &["239.2.2.2:6000@out0"]);
        bed.add("rule6", "[ff15::1]:5000@in0", &["[ff15::2]:6000@out0"]);
        let sinks = [bed.sink(0, "239.2.2.2:6000@dst0"), bed.sink(0, "[ff15::2]:6000@dst0")];
        let (source, source6) = (bed.source(TO), bed.source(TO6));
        let batches = [vec![1400; 40], vec![1300, 1300, 1300, 77], vec![9; 60], vec![1452, 1451]];
        let batches: Vec<_> = (1..).zip(batches).map(|(seed, sizes)| source::payloads(seed, sizes)).collect();
        for batch in &batches {
            source.send_superframe(batch);
            source6.send_superframe(batch);
        }
        let sent = batches.concat();
        sinks.iter().for_each(|sink| drop(sink.expect(&sent)));
        let stats = bed.finish();
        sinks.iter().for_each(Sink::expect_nothing_more);
        let input = law::input(&stats, "in0");
        assert_eq!((input.datagrams, input.matched), (2 * sent.len() as u64, 2 * sent.len() as u64));
        assert!(input.frames < input.datagrams, "the kernel must have merged some: {input:?}");
    }

    fn an_output_on_the_input_interface_is_not_taken_for_input(cell) {
        let mut bed = Bed::new(cell, 1);
        bed.add("there-and-back", "239.1.1.1:5000@in0", &["239.9.9.9:5000@in0", "10.1.0.1:7000"]);
        bed.add("other", "239.1.1.2:5000@in0", &["239.2.2.2:6000@out0"]);
        let line = &bed.line;
        let back = [Sink::open(&line.source, "239.9.9.9:5000@src0"), Sink::open(&line.source, "10.1.0.1:7000")];
        let sink = bed.sink(0, "239.2.2.2:6000@dst0");
        // The relay host itself sends to the input's group by the input's interface: outgoing frames are no input.
        let own = Source::open(&bed.line.relay, "10.1.0.2:0", "239.1.1.2:5000");
        own.send_by(&bed.line.relay, "in0");
        let own_payloads = source::payloads(9, [50; 20]);
        own.send(&own_payloads);
        let payloads = source::assorted(1, false);
        bed.source(TO).send(&payloads);
        bed.source("239.1.1.2:5000").send(&payloads);
        back.iter().for_each(|sink| drop(sink.expect(&payloads)));
        sink.expect(&payloads);
        let stats = bed.finish();
        back.iter().chain([&sink]).for_each(Sink::expect_nothing_more);
        let input = law::input(&stats, "in0");
        assert_eq!((input.datagrams, input.matched), (400, 400), "{input:?}");
    }

    fn ipv6_fragments_are_relayed_whole_by_udp_and_counted_by_packet(cell) {
        let mut bed = Bed::new(cell, 1);
        bed.add("rule", "[ff15::1]:5000@in0", &["[ff15::2]:6000@out0"]);
        let sink = bed.sink(0, "[ff15::2]:6000@dst0");
        let payloads = source::payloads(1, [4000, 100, 65_487, 1452]);
        bed.source(TO6).send(&payloads);
        let whole = |payload: &Vec<u8>| cell.datapath == Datapath::Udp || payload.len() <= 1452;
        sink.expect(&payloads.iter().filter(|payload| whole(payload)).cloned().collect::<Vec<_>>());
        let stats = bed.finish();
        sink.expect_nothing_more();
        let input = law::input(&stats, "in0");
        if cell.datapath == Datapath::Udp {
            assert_eq!((input.datagrams, input.drops.len()), (4, 0));
        } else {
            // A fragment holds 1,448 bytes of the 4,008 and of the 65,495 that UDP header and payload are.
            assert_eq!(input.drops, BTreeMap::from([("fragment".to_owned(), 3 + 46)]));
            assert_eq!((input.datagrams, input.matched), (2 + 49, 2));
        }
    }

    fn ipv4_frames_of_all_kinds_are_relayed_or_counted(cell) {
        let mut bed = Bed::new(cell, 1);
        bed.add("rule", "239.1.1.1:5000@in0", &["239.2.2.2:6000@out0"]);
        let sink = bed.sink(0, "239.2.2.2:6000@dst0");
        let (wire, macs) = wire(&bed);
        let good = source::payloads(1, [1, 100, 101, 1400, 0, 3, 17, 18, 1472]);
        let bad = source::payloads(2, [100]).remove(0);
        let plain = |payload: &[u8]| macs.frame(FROM, TO, payload);
        let with_options = |payload: &[u8], bytes: &[u8]| macs.frame_with(FROM, TO, payload, |ip| options(ip, bytes));
        // Router alert (RFC 2113); forty bytes of no-operation; both before an odd payload.
        let router_alert = [148, 4, 0, 0];
        wire.send(&padded(plain(&good[0]), 46 - 29));
        wire.send(&no_checksum(plain(&good[1]), UDP_OFFSET));
        wire.send(&with_options(&good[2], &router_alert));
        wire.send(&with_options(&good[3], &[1; 40]));
        wire.send(&padded(plain(&good[4]), 18));
        wire.send(&padded(no_checksum(plain(&good[5]), UDP_OFFSET), 200));
        wire.send(&tagged(&plain(&good[6]), 0));
        wire.send_with_partial_checksum(&no_checksum(plain(&good[7]), UDP_OFFSET), UDP_OFFSET as u16);

        // Damage: to the payload, to the UDP checksum, to the header checksum, to the options under it.
        wire.send(&flip(plain(&bad), UDP_OFFSET + 8 + 99));
        wire.send(&flip(plain(&bad), UDP_OFFSET + 6));
        wire.send(&flip(plain(&bad), 14 + 8));
        wire.send(&flip(with_options(&bad, &router_alert), UDP_OFFSET + 3));
        // A header that says more than the frame holds, and a UDP length that is less than its header.
        wire.send(&plain(&bad)[..UDP_OFFSET + 50]);
        let mut short = plain(&bad);
        short[UDP_OFFSET + 4..UDP_OFFSET + 6].copy_from_slice(&7u16.to_be_bytes());
        wire.send(&short);
        // These belong to interfaces of their VLANs: the packet socket's filter keeps them out.
        for vlan_id in [1, 100, 4094] {
            wire.send(&tagged(&plain(&bad), vlan_id));
        }
        wire.send(&plain(&good[8]));

        sink.expect(&good);
        let stats = bed.finish();
        sink.expect_nothing_more();
        let input = law::input(&stats, "in0");
        let drops = expected(cell, &[("checksum", 4), ("malformed", 2)], &[("kernel_ring", 2)]);
        assert_eq!((input.matched, input.datagrams, &input.drops), (9, 9 + drops.values().sum::<u64>(), &drops));
        assert_eq!(law::rule(&stats, "rule").outputs[0].copies, 9);
    }

    fn ipv6_frames_of_all_kinds_are_relayed_or_counted(cell) {
        let mut bed = Bed::new(cell, 1);
        bed.add("rule", "[ff15::1]:5000@in0", &["[ff15::2]:6000@out0"]);
        bed.add("host", "[fd00:1::2]:5001@in0", &["[ff15::3]:6000@out0"]);
        let sinks = [bed.sink(0, "[ff15::2]:6000@dst0"), bed.sink(0, "[ff15::3]:6000@dst0")];
        let (wire, macs) = wire(&bed);
        let good = source::payloads(1, [1, 100, 101, 0, 1452]);
        let to_host = source::payloads(3, [33, 34]);
        let bad = source::payloads(2, [100]).remove(0);
        let plain = |payload: &[u8]| macs.frame(FROM6, TO6, payload);
        let extended = |payload: &[u8]| macs.frame_with(FROM6, TO6, payload, |ip| extensions(ip, false));
        wire.send(&padded(plain(&good[0]), 9));
        wire.send(&extended(&good[1]));
        wire.send(&padded(extended(&good[2]), 100));
        wire.send(&extended(&good[3]));
        // A routing header is refused by the kernel where the destination is a group, but not where it is a host.
        let host = "[fd00:1::2]:5001";
        wire.send(&macs.frame_with(FROM6, host, &to_host[0], |ip| extensions(ip, true)));
        wire.send(&tagged(&macs.frame(FROM6, host, &to_host[1]), 0));

        // IPv6 has no datagrams without checksum (RFC 8200, 8.1).
        wire.send(&no_checksum(plain(&bad), UDP6_OFFSET));
        wire.send(&flip(plain(&bad), UDP6_OFFSET + 8 + 99));
        wire.send(&flip(plain(&bad), 14 + 8 + 15));
        wire.send(&flip(extended(&bad), UDP6_OFFSET + 16 + 6));
        wire.send(&plain(&bad)[..UDP6_OFFSET + 50]);
        wire.send(&tagged(&plain(&bad), 7));
        wire.send(&plain(&good[4]));

        sinks[0].expect(&good);
        sinks[1].expect(&to_host);
        let stats = bed.finish();
        sinks.iter().for_each(Sink::expect_nothing_more);
        let input = law::input(&stats, "in0");
        let drops = expected(cell, &[("checksum", 4), ("malformed", 1)], &[("kernel_ring", 3)]);
        assert_eq!((input.matched, input.datagrams, &input.drops), (7, 7 + drops.values().sum::<u64>(), &drops));
    }
}

// The `kernel` path does not translate between IPv4 and IPv6, and never makes fragments.
in_worker_cells! {
    fn ipv6_superframes_are_split_at_their_true_boundaries_for_either_family(cell) {
        let mut bed = Bed::new(cell, 2);
        bed.add("rule", "[ff15::1]:5000@in0", &["[ff15::2]:6000@out0", "239.3.3.3:6000@out1,ttl=keep"]);
        let sinks = [bed.sink(0, "[ff15::2]:6000@dst0"), bed.sink(1, "239.3.3.3:6000@dst1")];
        // Two flows, one after the other.
        let senders = [bed.source(TO6), bed.source(TO6)];
        let batches = [vec![1452; 30], vec![1000, 1000, 1], vec![5; 64], vec![1451, 1450], vec![700; 9]];
        let batches: Vec<_> = (1..).zip(batches).map(|(seed, sizes)| source::payloads(seed, sizes)).collect();
        for (batch, source) in batches.iter().zip(senders.iter().cycle()) {
            source.send_superframe(batch);
            source.send(&batch[..1]);
        }
        let sent: Vec<_> = batches.iter().flat_map(|batch| batch.iter().chain(&batch[..1]).cloned()).collect();
        let received = sinks.each_ref().map(|sink| sink.expect(&sent));
        assert!(received[1].iter().all(|one| one.ttl == 15), "one hop less than it came with");
        let stats = bed.finish();
        sinks.iter().for_each(Sink::expect_nothing_more);
        let input = law::input(&stats, "in0");
        assert_eq!((input.datagrams, input.matched), (sent.len() as u64, sent.len() as u64));
        assert!(input.frames < input.datagrams, "the kernel must have delivered superframes: {input:?}");
        assert_eq!(law::rule(&stats, "rule").flows, 2);
    }

    fn several_flows_through_one_rule_keep_their_order(cell) {
        let mut bed = Bed::with_workers(cell, 2, 2);
        bed.add("rule", "239.1.1.1:5000@in0", &["239.2.2.2:6000@out0", "[fd00:3::2]:6000"]);
        let sinks = [bed.sink(0, "239.2.2.2:6000@dst0"), bed.sink(1, "[fd00:3::2]:6000")];
        let senders: Vec<_> = (0..5).map(|_| bed.source(TO)).collect();
        let mut sent = Vec::new();
        // Sizes differ from flow to flow, so that runs begin and end all the time.
        for (round, sender) in (0..500).zip(senders.iter().cycle()) {
            let payloads = source::payloads(round, [[1000, 1000], [200, 10], [0, 1452], [700, 700], [1, 900]][round as usize % 5]);
            sender.send(&payloads);
            sent.extend(payloads);
        }
        sinks.iter().for_each(|sink| drop(sink.expect(&sent)));
        let stats = bed.finish();
        sinks.iter().for_each(Sink::expect_nothing_more);
        assert_eq!((law::rule(&stats, "rule").flows, law::rule(&stats, "rule").datagrams), (5, 1000));
    }

    fn the_largest_datagrams_pass_in_frames_and_in_fragments(cell) {
        let mut bed = Bed::new(cell, 2);
        let cable = [(&bed.line.source, "src0"), (&bed.line.relay, "in0")];
        // IPv4 counts its header in 65,535 bytes, and the device the whole packet.
        cable.iter().for_each(|(namespace, name)| namespace.set_mtu(name, 65_535).unwrap());
        bed.add("rule", "239.1.1.1:5000@in0", &["239.2.2.2:6000@out0", "10.3.0.2:6000,ttl=keep"]);
        bed.add("rule6", "[ff15::1]:5000@in0", &["[ff15::2]:6000@out0"]);
        bed.add("kept", "239.1.1.2:5000@in0", &["239.2.2.3:6000@out0,source=keep", "239.2.2.4:6000@out0"]);
        let sinks = [bed.sink(0, "239.2.2.2:6000@dst0"), bed.sink(1, "10.3.0.2:6000")];
        let sink6 = bed.sink(0, "[ff15::2]:6000@dst0");
        let (kept, beside) = (bed.sink(0, "239.2.2.3:6000@dst0"), bed.sink(0, "239.2.2.4:6000@dst0"));
        let payloads = source::payloads(1, [65_507, 0, 65_507, 9_000, 1_473, 65_506, 1]);
        bed.source(TO).send(&payloads);
        sinks.iter().for_each(|sink| drop(sink.expect(&payloads)));
        // Linux sends at most what fits the length field of an IPv6 header beside none of its own (65,535 - 48).
        let payloads6 = source::payloads(2, [65_487, 3_000, 0, 65_487]);
        bed.source(TO6).send(&payloads6);
        sink6.expect(&payloads6);
        // A raw socket does not fragment: what the output's MTU does not take is dropped and counted.
        let payloads = source::payloads(3, [1_472, 1_473, 65_507, 1_472]);
        bed.source("239.1.1.2:5000").send(&payloads);
        kept.expect(&[payloads[0].clone(), payloads[3].clone()]);
        beside.expect(&payloads);
        let stats = bed.finish();
        sinks.iter().chain([&sink6, &kept, &beside]).for_each(Sink::expect_nothing_more);
        let rule = law::rule(&stats, "kept");
        assert_eq!((rule.outputs[0].copies, law::drops(&rule.outputs[0])), (2, BTreeMap::from([("too_big", 2)])));
        assert_eq!((rule.outputs[1].copies, law::input(&stats, "in0").datagrams), (4, 15));
    }
}
