//! From UDP sockets to UDP sockets, over loopback.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Instant,
};

use mcr_lab::{Line, Namespace, require};
use mcr_proto::{
    counters::{InputDrop, OutputDrop},
    endpoint::{Dscp, Rate, Ttl},
    message::IoChoice,
    plan::{PlanOp, RouteOutput, RuleSlot, SocketId, Via},
};
use mcr_socket::Family;

use crate::rig::*;

const IN: &str = "127.0.0.1:5000";
const RULE: RuleSlot = RuleSlot(9);

/// A worker with one rule from [`IN`] to these addresses, all on the loopback of a new namespace.
struct Loopback {
    net: Namespace,
    rig: Rig,
    input: SocketId,
    sender: SocketId,
    outputs: Vec<RouteOutput>,
    sinks: Vec<std::net::UdpSocket>,
}

impl Loopback {
    fn new(io: IoChoice, destinations: &[&str]) -> Self {
        let net = Namespace::new().expect("root");
        let mut rig = Rig::start(io);
        let (fd, kind) = udp_input(&net, IN);
        let input = rig.receiver(fd, kind);
        let sender = rig.sender(udp_output(&net, Family::V4));
        let sinks = destinations.iter().map(|to| sink(&net, to)).collect();
        let outputs: Vec<_> =
            (0..).zip(destinations).map(|(slot, to)| output(slot, to, Via::Udp(sender))).collect();
        rig.apply(vec![route(RULE.0, input, IN, &outputs)]);
        Self { net, rig, input, sender, outputs, sinks }
    }

    /// Checks that every sink got exactly these and that everything is counted.
    fn check(self, sent: &[Vec<u8>]) {
        let Self { rig, outputs, sinks, .. } = self;
        rig.wait_received(sent.len() as u64, &outputs);
        let bytes: usize = sent.iter().map(Vec::len).sum();
        for (sink, output) in sinks.iter().zip(&outputs) {
            assert!(receive(sink, sent.len()) == sent, "the same datagrams in the same order");
            assert_empty(sink);
            let counts = rig.output(output.slot);
            assert_eq!((counts.copies, counts.bytes), (sent.len() as u64, bytes as u64));
        }
        rig.check_laws(RULE, &outputs);
        let input = rig.counters.input(INPUT);
        assert_eq!((input.matched.get(), input.bytes.get()), (sent.len() as u64, bytes as u64));
        let rule = rig.counters.rule(RULE);
        assert_eq!((rule.bytes.get(), rule.flows.get()), (bytes as u64, 1));
        assert_ne!(rule.last_seen_ns.get(), 0);
        rig.stop();
    }
}

#[test]
fn one_to_one_every_datagram_comes_out_as_it_went_in() {
    let Some(()) = require::netns() else { return };
    for io in BACK_ENDS {
        let loopback = Loopback::new(io, &["127.0.0.1:6000"]);
        let source = source(&loopback.net, "127.0.0.1:0");
        let sent: Vec<_> = (0..2000).map(|number| payload(number, 1200)).collect();
        for payload in &sent {
            source.send_to(payload, IN).expect("room");
        }
        loopback.check(&sent);
    }
}

#[test]
fn one_to_three_every_output_gets_every_datagram() {
    let Some(()) = require::netns() else { return };
    for io in BACK_ENDS {
        let to = ["127.0.0.1:6000", "127.0.0.1:6001", "127.0.0.2:6000"];
        let loopback = Loopback::new(io, &to);
        let source = source(&loopback.net, "127.0.0.1:0");
        let sent: Vec<_> = (0..1000).map(|number| payload(number, 300)).collect();
        for payload in &sent {
            source.send_to(payload, IN).expect("room");
        }
        loopback.check(&sent);
    }
}

#[test]
fn sizes_of_all_kinds_keep_their_order_and_empty_datagrams_are_datagrams() {
    let Some(()) = require::netns() else { return };
    for io in BACK_ENDS {
        let loopback = Loopback::new(io, &["127.0.0.1:6000", "127.0.0.1:6001"]);
        let source = source(&loopback.net, "127.0.0.1:0");
        let sizes = [100, 100, 100, 50, 100, 0, 0, 100, 1400, 1400, 1, 65_507, 9000, 0, 1400, 7];
        let sent: Vec<_> = (0..800).map(|number| payload(number, sizes[number % sizes.len()])).collect();
        for payload in &sent {
            source.send_to(payload, IN).expect("room");
        }
        loopback.check(&sent);
    }
}

#[test]
fn a_superframe_comes_out_as_the_datagrams_it_is_made_of() {
    let Some(()) = require::netns() else { return };
    for io in BACK_ENDS {
        let loopback = Loopback::new(io, &["127.0.0.1:6000", "127.0.0.1:6001"]);
        let source = source(&loopback.net, "127.0.0.1:0");
        let mut sent = Vec::new();
        for number in 0..50 {
            // Whole ones, and ones whose last datagram is shorter.
            let bytes = 1400 * (2 + number % 30) - number % 2 * 100;
            let superframe = payload(number, bytes);
            send_segments(&source, IN, &superframe, 1400);
            sent.extend(superframe.chunks(1400).map(<[u8]>::to_vec));
        }
        loopback.rig.wait_received(sent.len() as u64, &loopback.outputs);
        let frames = loopback.rig.counters.input(INPUT).frames.get();
        assert!(frames < sent.len() as u64, "{frames} frames: the kernel kept none of them whole");
        loopback.check(&sent);
    }
}

#[test]
fn more_runs_and_sends_than_there_is_room_for_lose_nothing() {
    let Some(()) = require::netns() else { return };
    for io in BACK_ENDS {
        let to: Vec<_> = (0..40).map(|port| format!("127.0.0.1:{}", 6000 + port)).collect();
        let mut loopback = Loopback::new(io, &to.iter().map(String::as_str).collect::<Vec<_>>());
        // A rule for each output: as many runs. Sizes that grow: as many runs as datagrams.
        let ops = loopback.outputs.iter().map(|output| {
            route(RULE.0 + 1 + output.slot.0, loopback.input, IN, std::slice::from_ref(output))
        });
        let ops = [PlanOp::Remove(RULE)].into_iter().chain(ops).collect();
        loopback.rig.apply(ops);
        let source = source(&loopback.net, "127.0.0.1:0");
        let sent: Vec<_> = (0..400).map(|number| payload(number, 10 + number)).collect();
        for payload in &sent {
            source.send_to(payload, IN).expect("room");
        }
        loopback.rig.wait_received(sent.len() as u64, &loopback.outputs);
        for (sink, output) in loopback.sinks.iter().zip(&loopback.outputs) {
            assert!(receive(sink, sent.len()) == sent);
            let rule = loopback.rig.counters.rule(RuleSlot(RULE.0 + 1 + output.slot.0));
            assert_eq!(rule.datagrams.get(), sent.len() as u64);
            assert_eq!(loopback.rig.output(output.slot).copies, sent.len() as u64);
        }
        loopback.rig.stop();
    }
}

#[test]
fn a_plan_replaced_under_traffic_loses_and_doubles_nothing() {
    let Some(()) = require::netns() else { return };
    for io in BACK_ENDS {
        let mut loopback = Loopback::new(io, &["127.0.0.1:6000", "127.0.0.1:6001"]);
        let both = loopback.outputs.clone();
        loopback.rig.apply(vec![route(RULE.0, loopback.input, IN, &both[..1])]);
        let source = source(&loopback.net, "127.0.0.1:0");
        let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let thread = std::thread::spawn({
            let (stop, count) = (Arc::clone(&stop), Arc::clone(&count));
            move || {
                let mut number = 0usize;
                while !stop.load(SeqCst) {
                    source.send_to(&number.to_be_bytes(), IN).expect("room");
                    number += 1;
                    count.store(number, SeqCst);
                }
            }
        });
        let mut got: [Vec<Vec<u8>>; 2] = [Vec::new(), Vec::new()];
        for round in 1..=40 {
            // Some traffic under each plan.
            let before = count.load(SeqCst);
            let started = Instant::now();
            while count.load(SeqCst) < before + 50 {
                assert!(started.elapsed() < PATIENCE, "the sender sends");
                std::thread::yield_now();
            }
            let output = &both[round % 2];
            loopback.rig.apply(vec![route(RULE.0, loopback.input, IN, std::slice::from_ref(output))]);
            for (sink, got) in loopback.sinks.iter().zip(&mut got) {
                let mut buffer = [0; 16];
                while let Ok(bytes) = sink.recv(&mut buffer) {
                    got.push(buffer[..bytes].to_vec());
                }
            }
        }
        stop.store(true, SeqCst);
        thread.join().expect("no panic");
        let sent = count.load(SeqCst);
        loopback.rig.wait_received(sent as u64, &[]);
        let copies = |slot: usize| loopback.rig.output(both[slot].slot).copies as usize;
        let all = || copies(0) + copies(1) == sent;
        mcr_lab::wait_until(PATIENCE, "all copies are counted", all).expect("counted");
        for ((sink, got), output) in loopback.sinks.iter().zip(&mut got).zip(&both) {
            let copies = loopback.rig.output(output.slot).copies as usize;
            got.extend(receive(sink, copies - got.len()));
            assert!(got.is_sorted(), "in order");
            assert!(copies > 0);
        }
        let mut numbers = got.concat();
        numbers.sort();
        let want: Vec<_> = (0..sent).map(|number| number.to_be_bytes().to_vec()).collect();
        assert!(numbers == want, "each once");
        assert_eq!(loopback.rig.matched() as usize, sent);
        loopback.rig.stop();
    }
}

#[test]
fn a_superframe_larger_than_the_outputs_mtu_goes_out_datagram_by_datagram_in_order() {
    let Some(()) = require::netns() else { return };
    for io in BACK_ENDS {
        let line = Line::new().expect("root");
        line.pin_neighbours().expect("root");
        line.relay.set_mtu("out0", 600).expect("root");
        let mut rig = Rig::start(io);
        let (fd, kind) = udp_input(&line.relay, IN);
        let input = rig.receiver(fd, kind);
        let sender = rig.sender(udp_output(&line.relay, Family::V4));
        let sink = sink(&line.sinks[0], "10.2.0.2:6000");
        let outputs = [output(0, "10.2.0.2:6000", Via::Udp(sender))];
        rig.apply(vec![route(RULE.0, input, IN, &outputs)]);
        let source = source(&line.relay, "127.0.0.1:0");
        let mut sent = Vec::new();
        for number in 0..20 {
            let superframe = payload(number, 7000);
            send_segments(&source, IN, &superframe, 1400);
            sent.extend(superframe.chunks(1400).map(<[u8]>::to_vec));
            // A larger one cannot join their run: its own send succeeds at once, but must not overtake them.
            source.send_to(&payload(number, 1450), IN).expect("room");
            sent.push(payload(number, 1450));
        }
        rig.wait_received(sent.len() as u64, &outputs);
        assert!(receive(&sink, sent.len()) == sent, "the same datagrams in the same order");
        assert_empty(&sink);
        assert_eq!(rig.output(outputs[0].slot).copies, sent.len() as u64);
        rig.check_laws(RULE, &outputs);
        rig.stop();
    }
}

#[test]
fn each_copy_that_is_not_sent_is_counted_for_its_reason() {
    let Some(()) = require::netns() else { return };
    for io in BACK_ENDS {
        let mut loopback = Loopback::new(io, &["127.0.0.1:6000"]);
        let sender = loopback.sender;
        let raw = rawsocket(&loopback.net);
        let raw = loopback.rig.sender(raw);
        loopback.outputs.extend([
            output(1, "10.9.9.9:6000", Via::Udp(sender)),
            output(2, "127.0.0.1:6000", Via::Nowhere),
            RouteOutput {
                rate: Some(Rate::PacketsPerSecond(1)),
                ..output(3, "127.0.0.1:6009", Via::Udp(sender))
            },
            // The family of neither the socket nor the datagram.
            output(4, "[::1]:6000", Via::Raw(raw)),
            RouteOutput { ttl: Ttl::Keep, dscp: Dscp::Keep, ..output(5, "127.0.0.1:6009", Via::Udp(sender)) },
        ]);
        let ops = vec![route(RULE.0, loopback.input, IN, &loopback.outputs)];
        loopback.rig.apply(ops);
        let source = source(&loopback.net, "127.0.0.1:0");
        source.set_ttl(1).expect("own socket");
        for number in 0..100 {
            source.send_to(&payload(number, 100), IN).expect("room");
        }
        let Loopback { rig, outputs, sinks, .. } = loopback;
        rig.wait_received(100, &outputs);
        assert_eq!(receive(&sinks[0], 100).len(), 100);
        let drops = |slot: usize, reason| rig.output(outputs[slot].slot).drop(reason);
        assert_eq!(drops(1, OutputDrop::NoRoute), 100);
        assert_eq!(drops(2, OutputDrop::NoRoute), 100);
        // One is within the rate, unless the test takes a second.
        assert!((90..100).contains(&drops(3, OutputDrop::Rate)));
        assert_eq!(drops(4, OutputDrop::SendError), 100);
        let errors: Vec<_> = rig.counters.output(outputs[4].slot).send_errors.counts().collect();
        assert_eq!(errors, [(libc::EAFNOSUPPORT, 100)]);
        assert_eq!(drops(5, OutputDrop::HopLimit), 100);
        rig.check_laws(RULE, &outputs);
        rig.stop();
    }
}

fn rawsocket(net: &Namespace) -> std::os::fd::OwnedFd {
    let options = mcr_socket::raw::RawOutput {
        family: Family::V6,
        ifindex: None,
        multicast_loop: false,
        priority: 0,
        send_buffer_bytes: 0,
    };
    net.enter(|| mcr_socket::raw::open_output(&options)).expect("root")
}

#[test]
fn datagrams_that_no_rule_wants_are_counted_by_the_input() {
    let Some(()) = require::netns() else { return };
    for io in BACK_ENDS {
        let mut loopback = Loopback::new(io, &["127.0.0.1:6000"]);
        loopback.rig.apply(vec![PlanOp::Remove(RULE)]);
        let source = source(&loopback.net, "127.0.0.1:0");
        for number in 0..10 {
            source.send_to(&payload(number, 100), IN).expect("room");
        }
        loopback.rig.wait_received(10, &[]);
        mcr_lab::wait_until(PATIENCE, "drops", || loopback.rig.input_drops(InputDrop::NoRule) == 10)
            .expect("counted");
        loopback.rig.check_laws(RULE, &loopback.outputs);
        assert_empty(&loopback.sinks[0]);
        loopback.rig.stop();
    }
}
