//! What outputs and inputs can do beside relaying, and what becomes of datagrams that are not like the others.
#![allow(clippy::unwrap_used)] // A test has no better answer to an error than to fail.

use std::{collections::BTreeMap, num::NonZeroU64, thread};

use mcr_e2e::{
    Bed, Sink, Source, StopOnDrop, in_every_cell, in_frame_cells, in_udp_cells, in_worker_cells, law, source,
};
use mcr_gen::{Progress, Receiver, RecvOptions, SendOptions, Sender, Stop};
use mcr_lab::{Namespace, veth};
use mcr_proto::{message::RuleState, rpc::rule_ref, rule::Datapath};

const INPUT: &str = "239.1.1.1:5000@in0";
const TO: &str = "239.1.1.1:5000";
const LISTEN: &str = "239.2.2.2:6000@dst0";

/// The state of a rule, and of each of its outputs.
fn states(bed: &mut Bed, rule: &str) -> (RuleState, Vec<RuleState>) {
    let rules = bed.client.rules(Some(&rule_ref(rule).unwrap())).unwrap();
    (rules[0].state, rules[0].output_states.iter().map(|output| output.state).collect())
}

in_every_cell! {
    fn superframes_are_split_at_their_true_boundaries(cell) {
        let mut bed = Bed::new(cell, 1);
        bed.add("rule", INPUT, &["239.2.2.2:6000@out0"]);
        let (sink, source) = (bed.sink(0, LISTEN), bed.source(TO));
        // Whole ones, one with a short tail, one of a byte each, and single datagrams between them.
        let batches = [vec![1400; 40], vec![1400, 1400, 1400, 600], vec![1; 60], vec![1472, 1471], vec![33; 7]];
        let batches: Vec<_> = (1..).zip(batches).map(|(seed, sizes)| source::payloads(seed, sizes)).collect();
        let single = source::payloads(9, [1400, 600, 0]);
        let mut sent = Vec::new();
        for batch in &batches {
            source.send_superframe(batch);
            source.send(&single);
            sent.extend(batch.iter().chain(&single).cloned());
        }
        sink.expect(&sent);
        let stats = bed.finish();
        sink.expect_nothing_more();
        let input = law::input(&stats, "in0");
        assert_eq!((input.datagrams, input.matched), (sent.len() as u64, sent.len() as u64));
        assert!(input.frames < input.datagrams, "the kernel must have delivered superframes: {input:?}");
        assert_eq!(law::rule(&stats, "rule").bytes, sent.iter().map(Vec::len).sum::<usize>() as u64);
    }

    fn ten_thousand_datagrams_in_superframes_reach_three_outputs(cell) {
        let mut bed = Bed::new(cell, 3);
        bed.add("rule", INPUT, &["239.2.2.2:6000@out0", "10.3.0.2:6000", "239.4.4.4:6000@out2,ttl=keep"]);
        let listen = ["239.2.2.2:6000@dst0", "10.3.0.2:6000", "239.4.4.4:6000@dst2"];
        let receivers = listen.iter().zip(&bed.line.sinks).map(|(place, sink)| {
            let options = RecvOptions::new(place.parse().unwrap());
            sink.enter(|| Receiver::open(&options)).unwrap()
        });
        let receivers: Vec<_> = receivers.collect();
        let mut options = SendOptions::new("239.1.1.1:5000@src0".parse().unwrap(), Stop::After { count: 10_000 });
        (options.gso, options.payload_bytes, options.rate_pps) = (true, 1400, NonZeroU64::new(20_000));
        let sender = bed.line.source.enter(|| Sender::open(&options)).unwrap();
        let progress: Vec<_> = receivers.iter().map(|_| Progress::new()).collect();
        thread::scope(|scope| {
            let _stop: Vec<_> = progress.iter().map(StopOnDrop).collect();
            let receivers = receivers.into_iter().zip(&progress);
            let threads: Vec<_> =
                receivers.map(|(receiver, progress)| scope.spawn(|| receiver.run(progress).unwrap())).collect();
            let sent = source::on_one_core(|| sender.run(&Progress::new()).unwrap());
            bed.at_rest();
            progress.iter().for_each(Progress::stop);
            for thread in threads {
                let report = thread.join().unwrap();
                assert_eq!((report.received, report.lost, report.corrupt), (sent.sent, 0, 0));
                assert_eq!((report.duplicates, report.reordered, report.foreign), (0, 0, 0));
            }
        });
        let stats = bed.finish();
        let input = law::input(&stats, "in0");
        assert_eq!(input.datagrams, 10_000);
        assert!(input.frames < input.datagrams, "{input:?}");
    }

    fn a_payload_of_nine_thousand_bytes_fits_a_raised_mtu(cell) {
        let mut bed = Bed::new(cell, 1);
        for (namespace, name) in
            [(&bed.line.source, "src0"), (&bed.line.relay, "in0"), (&bed.line.relay, "out0"), (&bed.line.sinks[0], "dst0")]
        {
            namespace.set_mtu(name, 9100).unwrap();
        }
        bed.add("rule", INPUT, &["239.2.2.2:6000@out0"]);
        let sink = bed.sink(0, LISTEN);
        let payloads = source::payloads(1, [9000, 9000, 8999, 1, 9072, 9072]);
        bed.source(TO).send(&payloads);
        sink.expect(&payloads);
        let stats = bed.finish();
        assert_eq!(law::rule(&stats, "rule").outputs[0].copies, 6);
    }

    fn a_fixed_ttl_is_what_receivers_see_and_a_kept_one_is_one_less(cell) {
        let mut bed = Bed::new(cell, 3);
        bed.add("rule", INPUT, &["239.2.2.2:6000@out0,ttl=9", "10.3.0.2:6000,ttl=keep", "239.4.4.4:6000@out2"]);
        let sinks = [bed.sink(0, LISTEN), bed.sink(1, "10.3.0.2:6000"), bed.sink(2, "239.4.4.4:6000@dst2")];
        let payloads = source::payloads(1, [100; 4]);
        let source = bed.source(TO);
        for (payload, ttl) in payloads.iter().zip([33, 2, 255, 200]) {
            source.ttl(ttl);
            source.send(std::slice::from_ref(payload));
        }
        let seen = sinks.map(|sink| sink.expect(&payloads).iter().map(|received| received.ttl).collect::<Vec<_>>());
        assert_eq!(seen, [vec![9; 4], vec![32, 1, 254, 199], vec![64; 4]]);
        bed.finish();
    }

    fn a_hop_limit_less_one_and_dscp_without_ecn_are_kept_in_ipv6_too(cell) {
        let mut bed = Bed::new(cell, 1);
        bed.add("keep", "[ff15::1]:5000@in0", &["[ff15::2]:6000@out0,ttl=keep,dscp=keep"]);
        let sink = bed.sink(0, "[ff15::2]:6000@dst0");
        let (source, payloads) = (bed.source("[ff15::1]:5000"), source::payloads(1, [100]));
        source.ttl(33);
        // EF, and congestion was met: that is of the leg that ends here (RFC 3168).
        source.traffic_class(0xbb);
        source.send(&payloads);
        let received = &sink.expect(&payloads)[0];
        assert_eq!((received.ttl, received.traffic_class), (32, 0xb8));
        bed.finish();
    }

    fn a_used_up_ttl_is_dropped_and_counted_where_it_would_be_kept(cell) {
        let mut bed = Bed::new(cell, 2);
        bed.add("kept", INPUT, &["239.2.2.2:6000@out0,ttl=keep"]);
        bed.add("mixed", "239.1.1.2:5000@in0", &["239.2.2.3:6000@out0,ttl=keep", "10.3.0.2:6000,ttl=5"]);
        let (kept, mixed) = (bed.sink(0, LISTEN), bed.sink(1, "10.3.0.2:6000"));
        let (expired, alive) = (source::payloads(1, [100; 3]), source::payloads(2, [100; 2]));
        for to in [TO, "239.1.1.2:5000"] {
            let source = bed.source(to);
            source.ttl(1);
            source.send(&expired);
            source.ttl(2);
            source.send(&alive);
        }
        kept.expect(&alive);
        mixed.expect(&[expired, alive].concat());
        let stats = bed.finish();
        kept.expect_nothing_more();
        let input = law::input(&stats, "in0");
        assert_eq!((input.datagrams, input.matched), (10, 7));
        assert_eq!(input.drops, BTreeMap::from([("hop_limit".to_owned(), 3)]));
        let mixed = law::rule(&stats, "mixed");
        assert_eq!((mixed.outputs[0].copies, law::drops(&mixed.outputs[0])), (2, BTreeMap::from([("hop_limit", 3)])));
        assert_eq!((mixed.outputs[1].copies, law::rule(&stats, "kept").datagrams), (5, 2));
    }

    fn dscp_is_kept_or_set_and_ecn_is_never_copied(cell) {
        let mut bed = Bed::new(cell, 3);
        bed.add("rule", INPUT, &["239.2.2.2:6000@out0", "10.3.0.2:6000,dscp=af41", "10.4.0.2:6000,dscp=0"]);
        let sinks = [bed.sink(0, LISTEN), bed.sink(1, "10.3.0.2:6000"), bed.sink(2, "10.4.0.2:6000")];
        let payloads = source::payloads(1, [100; 3]);
        let source = bed.source(TO);
        // EF; EF with an ECN codepoint; nothing.
        for (payload, class) in payloads.iter().zip([0xb8, 0xb9, 0]) {
            source.traffic_class(class);
            source.send(std::slice::from_ref(payload));
        }
        let classes = |sink: Sink| sink.expect(&payloads).iter().map(|one| one.traffic_class).collect::<Vec<_>>();
        assert_eq!(sinks.map(classes), [vec![0xb8, 0xb8, 0], vec![34 << 2; 3], vec![0; 3]]);
        bed.finish();
    }

    fn copies_bear_the_source_that_the_output_names(cell) {
        let mut bed = Bed::new(cell, 4);
        bed.line.relay.add_address("out1", [10, 3, 0, 77].into(), 24).unwrap();
        let outputs = [
            "239.2.2.2:6000@out0",
            "239.3.3.3:6000@out1,source=10.3.0.77",
            "10.4.0.2:6000,source=10.4.0.1:7777",
            "239.5.5.5:6000@out3,source=keep,ttl=7",
        ];
        bed.add("rule", INPUT, &outputs);
        let sinks = [LISTEN, "239.3.3.3:6000@dst1", "10.4.0.2:6000", "239.5.5.5:6000@dst3"];
        let sinks: Vec<_> = sinks.iter().enumerate().map(|(index, place)| bed.sink(index, place)).collect();
        let payloads = source::assorted(1, false);
        let source = bed.source(TO);
        source.send(&payloads);
        let all: Vec<_> = sinks.iter().map(|sink| sink.expect(&payloads)).collect();
        assert!(all[0].iter().all(|one| one.from.ip().to_string() == "10.2.0.1"), "{:?}", all[0][0].from);
        assert!(all[1].iter().all(|one| one.from.ip().to_string() == "10.3.0.77"), "{:?}", all[1][0].from);
        assert!(all[2].iter().all(|one| one.from.to_string() == "10.4.0.1:7777"), "{:?}", all[2][0].from);
        assert!(all[3].iter().all(|one| one.from == source.address() && one.ttl == 7), "{:?}", all[3][0]);
        let stats = bed.finish();
        sinks.iter().for_each(Sink::expect_nothing_more);
        assert!(law::rule(&stats, "rule").outputs.iter().all(|output| output.copies == 200));
    }

    fn the_source_is_kept_in_ipv6_too(cell) {
        let mut bed = Bed::new(cell, 1);
        bed.add("rule", "[ff15::1]:5000@in0", &["[ff15::2]:6000@out0,source=keep"]);
        let (sink, source) = (bed.sink(0, "[ff15::2]:6000@dst0"), bed.source("[ff15::1]:5000"));
        let payloads = source::assorted(1, true);
        source.send(&payloads);
        assert!(sink.expect(&payloads).iter().all(|one| one.from == source.address()));
        bed.finish();
    }

    fn a_source_that_no_route_leads_back_to_is_relayed_by_the_packet_path(cell) {
        let mut bed = Bed::new(cell, 1);
        bed.line.relay.sysctl("net.ipv4.conf.in0.rp_filter", "1").unwrap();
        bed.line.source.add_address("src0", [192, 0, 2, 77].into(), 32).unwrap();
        bed.add("rule", INPUT, &["239.2.2.2:6000@out0"]);
        let sink = bed.sink(0, LISTEN);
        let (foreign, known) = (source::payloads(1, [500; 50]), source::payloads(2, [500; 50]));
        Source::open(&bed.line.source, "192.0.2.77:0", TO).send(&foreign);
        bed.source(TO).send(&known);
        if cell.datapath != Datapath::Udp {
            sink.expect(&foreign);
        }
        // The udp path is behind the host's reverse path filter; that nothing of it is counted is why packet exists.
        sink.expect(&known);
        let stats = bed.finish();
        sink.expect_nothing_more();
        let taken = if cell.datapath == Datapath::Udp { 50 } else { 100 };
        assert_eq!(law::rule(&stats, "rule").datagrams, taken);
    }

    fn an_output_whose_interface_is_missing_drops_its_copies_until_it_appears(cell) {
        let mut bed = Bed::new(cell, 1);
        bed.add("mixed", INPUT, &["239.2.2.2:6000@out0", "239.3.3.3:6000@late0"]);
        let only = bed.add_in_any_state("only", "239.1.1.2:5000@in0", &["239.3.3.4:6000@late0"]);
        assert_eq!(only.state, RuleState::Unresolved);
        assert!(only.reason.unwrap().contains("late0"));
        assert_eq!(states(&mut bed, "mixed"), (RuleState::Active, vec![RuleState::Active, RuleState::Unresolved]));
        let (before, after) = (source::assorted(1, false), source::assorted(2, false));
        let (sink, source) = (bed.sink(0, LISTEN), bed.source(TO));
        source.send(&before);
        sink.expect(&before);

        let late = Namespace::new().unwrap();
        veth((&bed.line.relay, "late0"), (&late, "dst9")).unwrap();
        bed.line.relay.add_address("late0", [10, 9, 0, 1].into(), 24).unwrap();
        late.add_address("dst9", [10, 9, 0, 2].into(), 24).unwrap();
        for (namespace, name) in [(&bed.line.relay, "late0"), (&late, "dst9")] {
            namespace.set_up(name).unwrap();
        }
        late.add_route(None, Some([10, 9, 0, 1].into()), "dst9").unwrap();
        late.sysctl("net.ipv4.conf.dst9.rp_filter", "0").unwrap();
        let late_sinks = [Sink::open(&late, "239.3.3.3:6000@dst9"), Sink::open(&late, "239.3.3.4:6000@dst9")];
        bed.line.relay.wait_running("late0").unwrap();
        bed.wait_active("mixed");
        bed.wait_active("only");
        source.send(&after);
        bed.source("239.1.1.2:5000").send(&after);
        sink.expect(&after);
        late_sinks.iter().for_each(|sink| drop(sink.expect(&after)));
        let stats = bed.at_rest();
        let mixed = law::rule(&stats, "mixed");
        assert_eq!((mixed.outputs[0].copies, mixed.outputs[1].copies), (400, 200));
        assert_eq!(law::drops(&mixed.outputs[1]), BTreeMap::from([("no_route", 200)]));
        assert_eq!(law::rule(&stats, "only").datagrams, 200);
        assert_eq!(law::input(&stats, "in0").datagrams, 600);
        bed.daemon.stop();
        late_sinks.iter().for_each(Sink::expect_nothing_more);
    }
}

// The `kernel` path carries neither loop=on nor rate caps.
in_worker_cells! {
    fn local_listeners_get_copies_only_of_outputs_with_loop_on(cell) {
        let mut bed = Bed::new(cell, 1);
        bed.add("rule", INPUT, &["239.2.2.2:6000@out0,loop=off", "239.2.2.3:6000@out0,loop=on"]);
        let local = [Sink::open(&bed.line.relay, "239.2.2.2:6000@out0"), Sink::open(&bed.line.relay, "239.2.2.3:6000@out0")];
        let sinks = [bed.sink(0, LISTEN), bed.sink(0, "239.2.2.3:6000@dst0")];
        let payloads = source::assorted(1, false);
        bed.source(TO).send(&payloads);
        sinks.iter().for_each(|sink| drop(sink.expect(&payloads)));
        local[1].expect(&payloads);
        bed.finish();
        local.iter().chain(&sinks).for_each(Sink::expect_nothing_more);
    }

    fn what_exceeds_a_rate_cap_is_dropped_and_counted(cell) {
        let mut bed = Bed::new(cell, 2);
        bed.add("rule", INPUT, &["239.2.2.2:6000@out0,rate=100pps", "10.3.0.2:6000"]);
        let (capped, free) = (bed.sink(0, LISTEN), bed.sink(1, "10.3.0.2:6000"));
        let payloads = source::payloads(1, [1000; 500]);
        bed.source(TO).send(&payloads);
        free.expect(&payloads);
        let stats = bed.finish();
        let rule = law::rule(&stats, "rule");
        let (output, drops) = (&rule.outputs[0], law::drops(&rule.outputs[0]));
        assert_eq!((rule.datagrams, rule.outputs[1].copies), (500, 500));
        assert_eq!(drops, BTreeMap::from([("rate", 500 - output.copies)]));
        assert!((1..=200).contains(&output.copies), "a burst of 500 within a second or so: {output:?}");
        let came = capped.drain();
        assert_eq!(came.len() as u64, output.copies);
        // What passes is in order.
        let mut sent = payloads.iter();
        assert!(came.iter().all(|one| sent.any(|payload| *payload == one.payload)));
    }
}

in_udp_cells! {
    fn a_fragmented_datagram_is_relayed_whole(cell) {
        let mut bed = Bed::new(cell, 1);
        bed.add("rule", INPUT, &["239.2.2.2:6000@out0"]);
        let sink = bed.sink(0, LISTEN);
        let payloads = source::payloads(1, [4000, 100, 1473, 65_507, 1472]);
        bed.source(TO).send(&payloads);
        sink.expect(&payloads);
        let stats = bed.finish();
        assert_eq!(law::input(&stats, "in0").datagrams, 5);
    }
}

in_frame_cells! {
    fn each_fragment_is_dropped_and_counted(cell) {
        let mut bed = Bed::new(cell, 1);
        bed.add("rule", INPUT, &["239.2.2.2:6000@out0"]);
        let sink = bed.sink(0, LISTEN);
        // With 8 bytes of UDP header, 1480 to a fragment: three fragments.
        let (fragmented, whole) = (source::payloads(1, [4000]), source::payloads(2, [1472, 0]));
        let source = bed.source(TO);
        source.send(&fragmented);
        source.send(&whole);
        sink.expect(&whole);
        let stats = bed.finish();
        sink.expect_nothing_more();
        let input = law::input(&stats, "in0");
        assert_eq!((input.datagrams, input.matched), (5, 2));
        assert_eq!(input.drops, BTreeMap::from([("fragment".to_owned(), 3)]));
    }
}
