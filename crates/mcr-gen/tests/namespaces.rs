//! Multicast over real interfaces: the source's namespace to the relay's of a ready-made line, no relay running.

use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use mcr_gen::{Ended, Progress, Receiver, RecvOptions, RecvReport, SendOptions, Stop};
use mcr_lab::{Line, Namespace, require};
use mcr_proto::endpoint::Endpoint;

const COUNT: u64 = 500;

fn endpoint(text: &str) -> Endpoint {
    text.parse().expect("a valid endpoint")
}

/// Receives in `inside` at `at` until `count` datagrams came, or nothing more comes.
fn receive(inside: &Namespace, at: &str, count: u64) -> thread::JoinHandle<RecvReport> {
    let mut options = RecvOptions::new(endpoint(at));
    options.count = Some(count);
    options.idle = Some(Duration::from_millis(500));
    options.duration = Some(Duration::from_secs(10));
    let receiver = inside.enter(move || Receiver::open(&options)).expect("the interface is there");
    // Its socket belongs to the namespace it was opened in; the thread that reads it need not.
    thread::spawn(move || receiver.run(&Progress::new()).expect("nothing to go wrong"))
}

fn send(inside: &Namespace, to: &str, tune: impl FnOnce(&mut SendOptions)) -> u64 {
    let mut options = SendOptions::new(endpoint(to), Stop::After { count: COUNT });
    options.rate_pps = std::num::NonZeroU64::new(10_000);
    tune(&mut options);
    inside.enter(move || mcr_gen::send(&options, &Progress::new())).expect("the interface takes it").sent
}

#[track_caller]
fn assert_complete(received: &RecvReport) {
    assert_eq!((received.received, received.lost, received.ended), (COUNT, 0, Ended::Count), "{received:?}");
    assert_eq!((received.corrupt, received.foreign, received.kernel_drops), (0, 0, 0), "{received:?}");
}

#[test]
fn any_source_multicast_crosses_both_ip_versions() {
    let Some(()) = require::netns() else { return };
    let line = Line::new().expect("a line of namespaces");
    for group in ["239.1.1.1:5000", "[ff15::1]:5000", "[ff12::1]:5001"] {
        let receiving = receive(&line.relay, &format!("{group}@in0"), COUNT);
        assert_eq!(send(&line.source, &format!("{group}@src0"), |_| {}), COUNT);
        assert_complete(&receiving.join().expect("no panic"));
    }
}

#[test]
fn a_source_specific_join_hears_its_source_only() {
    let Some(()) = require::netns() else { return };
    let line = Line::new().expect("a line of namespaces");
    let other: IpAddr = "10.1.0.7".parse().expect("an address");
    line.source.add_address("src0", other, 24).expect("an address more");
    let receiving = receive(&line.relay, "10.1.0.7>232.1.1.1:5000@in0", COUNT);
    send(&line.source, "10.1.0.1>232.1.1.1:5000@src0", |_| {});
    send(&line.source, "10.1.0.7>232.1.1.1:5000@src0", |_| {});
    let received = receiving.join().expect("no panic");
    assert_complete(&received);
    assert_eq!((received.flows.len(), received.flows[0].sender.ip()), (1, other));

    let receiving = receive(&line.relay, "[fd00:1::1]>[ff35::1]:5000@in0", COUNT);
    send(&line.source, "[ff35::1]:5000@src0", |options| options.source = "fd00:1::1".parse().ok());
    assert_complete(&receiving.join().expect("no panic"));
}

#[test]
fn superframes_arrive_as_datagrams() {
    let Some(()) = require::netns() else { return };
    let line = Line::new().expect("a line of namespaces");
    let receiving = receive(&line.relay, "239.1.1.1:5000@in0", COUNT);
    send(&line.source, "239.1.1.1:5000@src0", |options| (options.gso, options.payload_bytes) = (true, 1400));
    assert_complete(&receiving.join().expect("no panic"));
    // 46 datagrams each. A link counts a superframe as one packet; neighbour discovery and reports add a few.
    let packets = line.relay.link_stats("in0").expect("statistics").rx_packets;
    assert!((11..COUNT / 5).contains(&packets), "{packets} packets for {COUNT} datagrams");
}

#[test]
fn a_superframe_of_datagrams_beyond_the_mtu_is_refused_with_what_to_do() {
    let Some(()) = require::netns() else { return };
    let line = Line::new().expect("a line of namespaces");
    let mut options = SendOptions::new(endpoint("239.1.1.1:5000@src0"), Stop::After { count: 100 });
    (options.gso, options.payload_bytes) = (true, 4000);
    let error =
        line.source.enter(move || mcr_gen::send(&options, &Progress::new())).expect_err("an MTU of 1,500");
    assert!(error.to_string().contains("must fit the MTU"), "{error}");
}

#[test]
fn a_group_joined_on_one_interface_is_not_heard_on_another() {
    let Some(()) = require::netns() else { return };
    let line = Line::new().expect("a line of namespaces");
    let deaf = receive(&line.relay, "239.1.1.1:5000@out0", COUNT);
    let hears = receive(&line.relay, "239.1.1.1:5000@in0", COUNT);
    send(&line.source, "239.1.1.1:5000@src0", |_| {});
    assert_complete(&hears.join().expect("no panic"));
    // It only hears what is sent on its own interface, here from the far end of it.
    let sink = &line.sinks[0];
    assert_eq!(send(sink, "239.1.1.1:5000@dst0", |_| {}), COUNT);
    let received = deaf.join().expect("no panic");
    assert_complete(&received);
    assert_eq!((received.flows.len(), received.flows[0].sender.ip()), (1, Line::sink_v4(0).into()));
}

#[test]
fn unicast_crosses_with_the_interface_named_and_without() {
    let Some(()) = require::netns() else { return };
    let line = Line::new().expect("a line of namespaces");
    for (at, to) in [
        ("10.1.0.2:5000@in0", "10.1.0.2:5000@src0"),
        ("10.1.0.2:5000", "10.1.0.2:5000"),
        ("[fd00:1::2]:5000@in0", "[fd00:1::2]:5000@src0"),
    ] {
        let receiving = receive(&line.relay, at, COUNT);
        send(&line.source, to, |_| {});
        assert_complete(&receiving.join().expect("no panic"));
    }
}

#[test]
fn multicast_is_heard_by_receivers_of_the_same_host() {
    let Some(()) = require::netns() else { return };
    let line = Line::new().expect("a line of namespaces");
    let receiving = receive(&line.source, "239.1.1.1:5000@src0", COUNT);
    send(&line.source, "239.1.1.1:5000@src0", |_| {});
    assert_complete(&receiving.join().expect("no panic"));
}

#[test]
fn loopback_multicast_needs_no_other_interface() {
    let Some(()) = require::netns() else { return };
    let alone = Namespace::new().expect("a namespace");
    let receiving = receive(&alone, "239.1.1.1:5000@lo", COUNT);
    send(&alone, "239.1.1.1:5000@lo", |_| {});
    let received = receiving.join().expect("no panic");
    assert_complete(&received);
    assert!(received.flows[0].sender.ip().is_loopback(), "{received:?}");
}

#[test]
fn where_no_route_leads_the_error_says_to_name_the_interface() {
    let Some(()) = require::netns() else { return };
    let alone = Namespace::new().expect("a namespace");
    let options = SendOptions::new(endpoint("239.1.1.1:5000"), Stop::After { count: 1 });
    let error = alone.enter(move || mcr_gen::send(&options, &Progress::new())).expect_err("nowhere to send");
    assert!(error.to_string().contains("name the interface"), "{error}");
    let options = RecvOptions::new(endpoint("239.1.1.1:5000"));
    let error = alone.enter(move || Receiver::open(&options)).expect_err("nowhere to join");
    assert!(error.to_string().contains("name it, as in @eth0"), "{error}");
}
