//! Datagrams go in at one place and come out at another, whole, in order and once.
#![allow(clippy::unwrap_used)] // A test has no better answer to an error than to fail.

use std::{
    io::ErrorKind,
    net::UdpSocket,
    thread,
    time::{Duration, Instant},
};

use mcr_e2e::{Bed, Cell, Daemon, Sink, Source, StopOnDrop, in_every_cell, in_worker_cells, law, source};
use mcr_gen::{Progress, payload};
use mcr_lab::Chain;

/// One rule, one sink: what goes to `to` must come out at `listen`, and nothing else anywhere.
fn one_to_one(cell: Cell, input: &str, to: &str, output: &str, listen: &str) {
    let mut bed = Bed::new(cell, 1);
    bed.add("rule", input, &[output]);
    let sink = bed.sink(0, listen);
    let payloads = source::assorted(1, to.starts_with('['));
    bed.source(to).send(&payloads);
    sink.expect(&payloads);
    let stats = bed.finish();
    sink.expect_nothing_more();

    let (count, bytes) = (payloads.len() as u64, payloads.iter().map(Vec::len).sum::<usize>() as u64);
    let input = law::input(&stats, "in0");
    assert_eq!((input.datagrams, input.matched), (count, count), "nothing but ours came in: {input:?}");
    let rule = law::rule(&stats, "rule");
    assert_eq!((rule.datagrams, rule.bytes, rule.flows), (count, bytes, 1));
    assert_eq!((rule.outputs[0].copies, rule.outputs[0].bytes), (count, bytes));
    assert!(rule.last_seen_ns.is_some());
}

in_every_cell! {
    fn a_group_comes_out_at_another_interface_group_and_port(cell) {
        one_to_one(cell, "239.1.1.1:5000@in0", "239.1.1.1:5000", "239.2.2.2:6000@out0", "239.2.2.2:6000@dst0");
    }

    fn a_group_comes_out_at_a_host(cell) {
        one_to_one(cell, "239.1.1.1:5000@in0", "239.1.1.1:5000", "10.2.0.2:6000", "10.2.0.2:6000");
    }

    fn what_is_sent_to_the_relay_itself_comes_out_at_a_group(cell) {
        one_to_one(cell, "10.1.0.2:5000@in0", "10.1.0.2:5000", "239.2.2.2:6000@out0", "239.2.2.2:6000@dst0");
    }

    fn what_is_sent_to_the_relay_itself_comes_out_at_a_host(cell) {
        one_to_one(cell, "10.1.0.2:5000@in0", "10.1.0.2:5000", "10.2.0.2:6000@out0", "10.2.0.2:6000");
    }

    fn an_ipv6_group_comes_out_at_another(cell) {
        one_to_one(cell, "[ff15::1]:5000@in0", "[ff15::1]:5000", "[ff15::2]:6000@out0", "[ff15::2]:6000@dst0");
    }

    fn one_input_reaches_two_groups_and_a_host(cell) {
        let mut bed = Bed::new(cell, 3);
        let outputs = ["239.2.2.2:6000@out0", "239.3.3.3:7000@out1", "10.4.0.2:8000"];
        bed.add("fan", "239.1.1.1:5000@in0", &outputs);
        let listen = ["239.2.2.2:6000@dst0", "239.3.3.3:7000@dst1", "10.4.0.2:8000"];
        let sinks: Vec<_> = listen.iter().enumerate().map(|(index, place)| bed.sink(index, place)).collect();
        let payloads = source::assorted(2, false);
        bed.source("239.1.1.1:5000").send(&payloads);
        sinks.iter().for_each(|sink| drop(sink.expect(&payloads)));
        let stats = bed.finish();
        sinks.iter().for_each(Sink::expect_nothing_more);
        let rule = law::rule(&stats, "fan");
        let copies: Vec<_> = rule.outputs.iter().map(|output| output.copies).collect();
        assert_eq!((rule.datagrams, copies), (200, vec![200; 3]));
        assert_eq!(law::input(&stats, "in0").datagrams, 200);
    }

    fn two_relays_carry_a_group_over_three_hops(cell) {
        let chain = Chain::new(2).unwrap();
        let rules = [
            cell.rule("hop", "239.1.1.1:5000@in0", &["239.2.2.2:6000@out0"]),
            cell.rule("hop", "239.2.2.2:6000@in0", &["239.3.3.3:7000@out0"]),
        ];
        let daemons: Vec<_> = chain.relays.iter().map(|relay| Daemon::start(relay, &cell.daemon(1))).collect();
        for (daemon, rule) in daemons.iter().zip(&rules) {
            daemon.client().rule_add(rule).unwrap();
        }
        let sink = Sink::open(&chain.sink, "239.3.3.3:7000@dst0");
        let payloads = source::assorted(3, false);
        Source::open(&chain.source, "10.1.0.1:0", "239.1.1.1:5000").send(&payloads);
        sink.expect(&payloads);
        for daemon in daemons {
            let stats = law::at_rest(&mut daemon.client());
            let rule = law::rule(&stats, "hop");
            assert_eq!((rule.datagrams, rule.outputs[0].copies), (200, 200));
            assert_eq!(law::input(&stats, "in0").datagrams, 200);
            daemon.stop();
        }
        sink.expect_nothing_more();
    }

    fn two_ports_of_one_group_are_two_inputs(cell) {
        let mut bed = Bed::new(cell, 1);
        bed.add("a", "239.1.1.1:5000@in0", &["239.2.2.2:6000@out0"]);
        bed.add("b", "239.1.1.1:5001@in0", &["239.2.2.2:6001@out0"]);
        let (sink_a, sink_b) = (bed.sink(0, "239.2.2.2:6000@dst0"), bed.sink(0, "239.2.2.2:6001@dst0"));
        let (to_a, to_b) = (source::assorted(4, false), source::payloads(5, [100; 77]));
        bed.source("239.1.1.1:5000").send(&to_a);
        bed.source("239.1.1.1:5001").send(&to_b);
        sink_a.expect(&to_a);
        sink_b.expect(&to_b);
        let stats = bed.finish();
        sink_a.expect_nothing_more();
        sink_b.expect_nothing_more();
        assert_eq!((law::rule(&stats, "a").datagrams, law::rule(&stats, "b").datagrams), (200, 77));
        assert_eq!(law::input(&stats, "in0").datagrams, 277);
    }

    fn two_rules_on_one_input_both_get_everything(cell) {
        let mut bed = Bed::new(cell, 1);
        bed.add("a", "239.1.1.1:5000@in0", &["239.2.2.2:6000@out0"]);
        bed.add("b", "239.1.1.1:5000@in0", &["10.2.0.2:7000"]);
        let (sink_a, sink_b) = (bed.sink(0, "239.2.2.2:6000@dst0"), bed.sink(0, "10.2.0.2:7000"));
        let payloads = source::assorted(6, false);
        bed.source("239.1.1.1:5000").send(&payloads);
        sink_a.expect(&payloads);
        sink_b.expect(&payloads);
        let stats = bed.finish();
        sink_a.expect_nothing_more();
        sink_b.expect_nothing_more();
        assert_eq!((law::rule(&stats, "a").datagrams, law::rule(&stats, "b").datagrams), (200, 200));
        let input = law::input(&stats, "in0");
        assert_eq!((input.datagrams, input.matched), (200, 200), "a datagram that two rules took came once");
    }

    fn an_input_with_a_source_takes_only_that_source(cell) {
        let mut bed = Bed::new(cell, 1);
        bed.line.source.add_address("src0", [10, 1, 0, 9].into(), 24).unwrap();
        bed.add("ssm", "10.1.0.9>232.1.1.1:5000@in0", &["239.2.2.2:6000@out0"]);
        let sink = bed.sink(0, "239.2.2.2:6000@dst0");
        let (wrong, right) = (source::payloads(7, [200; 50]), source::payloads(8, [300; 50]));
        // The wrong source goes first, so that the right one's arrival shows that the wrong one's would have come.
        bed.source("232.1.1.1:5000").send(&wrong);
        Source::open(&bed.line.source, "10.1.0.9:0", "232.1.1.1:5000").send(&right);
        sink.expect(&right);
        let stats = bed.finish();
        sink.expect_nothing_more();
        assert_eq!(law::rule(&stats, "ssm").datagrams, 50);
        assert_eq!(law::input(&stats, "in0").matched, 50);
    }

    fn an_untouched_rule_loses_nothing_while_others_come_and_go(cell) {
        let mut bed = Bed::with_workers(cell, 1, 2);
        bed.add("kept", "239.1.1.1:5000@in0", &["239.2.2.2:6000@out0"]);
        let mut changes = 0;
        let (sent, received) = bed.under_traffic(20_000, 10_000, |bed| {
            // Of its own group, of its own output, of its own input: all that an implementation could share.
            bed.add("group", "239.1.1.1:5999@in0", &["239.2.2.2:6999@out0"]);
            bed.add("other", "239.1.1.2:5000@in0", &["10.2.0.2:7000"]);
            bed.add("ssm", "10.1.0.77>239.1.1.1:5000@in0", &["239.2.2.2:6998@out0,ttl=9"]);
            ["group", "ssm", "other"].iter().for_each(|name| bed.remove(name));
            changes += 6;
        });
        assert!(changes >= 60, "{changes} changes were made while it was sent");
        assert_eq!((sent.sent, received.received, received.lost), (20_000, 20_000, 0));
        assert_eq!((received.duplicates, received.reordered, received.corrupt, received.foreign), (0, 0, 0, 0));
        let stats = bed.finish();
        assert_eq!(law::rule(&stats, "kept").datagrams, 20_000);
        assert_eq!(law::input(&stats, "in0").datagrams, 20_000);
    }

    fn fifty_streams_at_once_arrive_whole_and_nowhere_else(cell) {
        let mut bed = Bed::with_workers(cell, 1, 2);
        let sinks: Vec<_> = (0..STREAMS)
            .map(|stream| {
                let (input, output) = (format!("239.1.1.{stream}:5000@in0"), format!("239.2.2.{stream}:6000@out0"));
                bed.add(&format!("stream-{stream}"), &input, &[&output]);
                bed.sink(0, &format!("239.2.2.{stream}:6000@dst0"))
            })
            .collect();
        let over = Progress::new();
        thread::scope(|scope| {
            let _stop = StopOnDrop(&over);
            let receiving = scope.spawn(|| receive_streams(sinks, &over));
            source::on_one_core(|| send_streams(&bed));
            // What is at rest at the relay is in the sinks' buffers.
            bed.at_rest();
            over.stop();
            assert_eq!(receiving.join().unwrap(), vec![PER_STREAM; STREAMS]);
        });
        let stats = bed.finish();
        assert_eq!(law::input(&stats, "in0").datagrams, STREAMS as u64 * PER_STREAM);
        for rule in &stats.rules {
            assert_eq!((rule.datagrams, rule.outputs[0].copies, rule.flows), (PER_STREAM, PER_STREAM, 1), "{rule:?}");
        }
    }
}

// The `kernel` path does not translate between IPv4 and IPv6.
in_worker_cells! {
    fn an_ipv4_group_comes_out_as_ipv6(cell) {
        one_to_one(cell, "239.1.1.1:5000@in0", "239.1.1.1:5000", "[fd00:2::2]:6000", "[fd00:2::2]:6000");
    }

    fn an_ipv6_group_comes_out_as_ipv4(cell) {
        one_to_one(cell, "[ff15::1]:5000@in0", "[ff15::1]:5000", "239.2.2.2:6000@out0", "239.2.2.2:6000@dst0");
    }
}

const STREAMS: usize = 50;
/// Five seconds at a thousand a second.
const PER_STREAM: u64 = 5_000;
const STREAM_PAYLOAD_BYTES: usize = 1316;

/// Sends one datagram of each stream every millisecond.
fn send_streams(bed: &Bed) {
    let socket = bed.line.source.enter(|| UdpSocket::bind("10.1.0.1:0")).unwrap();
    socket.set_multicast_ttl_v4(16).unwrap();
    let started = Instant::now();
    let mut bytes = vec![0; STREAM_PAYLOAD_BYTES];
    for sequence in 0..PER_STREAM {
        let due = started + Duration::from_millis(sequence);
        thread::sleep(due.saturating_duration_since(Instant::now()));
        for stream in 0..STREAMS {
            payload::write(
                &mut bytes,
                &payload::Header { run: 1, flow: stream as u32, sequence, sent_ns: 0 },
            );
            socket.send_to(&bytes, format!("239.1.1.{stream}:5000")).unwrap();
        }
    }
    let took = started.elapsed();
    assert!(took < Duration::from_millis(PER_STREAM * 11 / 10), "the sender was too slow: {took:?}");
}

/// Takes what comes until told that nothing more will. Each sink must get its own stream, in order and without a gap.
fn receive_streams(sinks: Vec<Sink>, over: &Progress) -> Vec<u64> {
    let sockets: Vec<_> = sinks.into_iter().map(Sink::into_socket).collect();
    sockets.iter().for_each(|socket| socket.set_nonblocking(true).unwrap());
    let mut counts = vec![0; sockets.len()];
    let mut bytes = vec![0; 65_536];
    loop {
        let last = over.is_stopped();
        for (stream, (socket, count)) in sockets.iter().zip(&mut counts).enumerate() {
            loop {
                let length = match socket.recv(&mut bytes) {
                    Ok(length) => length,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => panic!("{error}"),
                };
                let header = payload::check(&bytes[..length]).expect("an intact payload");
                assert_eq!(
                    (header.flow as usize, header.sequence, length),
                    (stream, *count, STREAM_PAYLOAD_BYTES)
                );
                *count += 1;
            }
        }
        if last {
            return counts;
        }
        // The buffers hold far more than comes meanwhile.
        thread::sleep(Duration::from_millis(10));
    }
}
