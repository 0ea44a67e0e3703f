//! Sender and receiver against each other in one namespace: counts are exact and nothing is lost.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use mcr_gen::payload::{self, Header};
use mcr_gen::{
    Ended, OpenError, Progress, Receiver, RecvError, RecvOptions, RecvReport, SendError, SendOptions,
    SendReport, Stop,
};
use mcr_proto::endpoint::Endpoint;

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);
const DEADLINE: Duration = Duration::from_secs(20);

/// A receiver on a port of the kernel's choice, and the endpoint that reaches it.
fn receiver(address: IpAddr, tune: impl FnOnce(&mut RecvOptions)) -> (Receiver, Endpoint) {
    let mut options = RecvOptions::new(Endpoint::new(address, 0));
    options.duration = Some(DEADLINE);
    tune(&mut options);
    let receiver = Receiver::open(&options).expect("loopback needs no rights");
    let to = Endpoint::new(address, receiver.local_addr().port());
    (receiver, to)
}

/// Sends `count` datagrams with `tune`d options to a receiver that waits for as many.
fn exchange(address: IpAddr, count: u64, tune: impl FnOnce(&mut SendOptions)) -> (SendReport, RecvReport) {
    let (receiver, to) = receiver(address, |options| options.count = Some(count));
    let receiving = thread::spawn(move || receiver.run(&Progress::new()));
    let mut options = SendOptions::new(to, Stop::After { count });
    options.rate_pps = NonZeroU64::new(10_000);
    tune(&mut options);
    let sent = mcr_gen::send(&options, &Progress::new()).expect("loopback takes everything");
    (sent, receiving.join().expect("no panic").expect("nothing to go wrong"))
}

#[track_caller]
fn assert_complete(sent: &SendReport, received: &RecvReport, count: u64) {
    assert_eq!((sent.sent, received.received), (count, count), "{sent:?} {received:?}");
    assert_eq!((received.lost, received.duplicates, received.corrupt, received.foreign), (0, 0, 0, 0));
    assert_eq!((received.late, received.untracked, received.kernel_drops), (0, 0, 0));
    assert_eq!((received.ended, received.missing_of(sent)), (Ended::Count, 0));
    assert_eq!(received.bytes, sent.bytes);
}

#[test]
fn every_datagram_arrives_over_ipv4() {
    let (sent, received) = exchange(V4, 2000, |_| {});
    assert_complete(&sent, &received, 2000);
    let latency = received.latency_us.expect("datagrams were received");
    assert!(latency.min <= latency.p50 && latency.p50 <= latency.p99 && latency.p99_9 <= latency.max);
}

#[test]
fn every_datagram_arrives_over_ipv6() {
    let (sent, received) = exchange(V6, 2000, |_| {});
    assert_complete(&sent, &received, 2000);
}

#[test]
fn payloads_of_every_size_arrive() {
    for bytes in [32, 33, 1472, 9000, 65_507] {
        let (sent, received) = exchange(V4, 50, |options| {
            options.payload_bytes = bytes;
            options.rate_pps = NonZeroU64::new(1000);
        });
        assert_complete(&sent, &received, 50);
        assert_eq!(received.bytes, 50 * bytes as u64);
    }
}

#[test]
fn flows_take_turns_and_are_told_apart() {
    let (sent, received) = exchange(V4, 1003, |options| options.flows = 10);
    assert_complete(&sent, &received, 1003);
    let mut sources: Vec<_> = sent.flows.iter().map(|flow| (flow.flow, flow.source, flow.sent)).collect();
    let mut senders: Vec<_> =
        received.flows.iter().map(|flow| (flow.flow, flow.sender, flow.received)).collect();
    sources.sort();
    senders.sort();
    assert_eq!(sources, senders);
    assert_eq!(
        sources.iter().map(|(_, _, sent)| *sent).collect::<Vec<_>>(),
        [101, 101, 101, 100, 100, 100, 100, 100, 100, 100]
    );
}

#[test]
fn superframes_are_cut_into_the_same_datagrams() {
    // 46 datagrams of 1,400 bytes fit a superframe; 1,000 is no multiple, so each flow's last one is shorter.
    for (address, flows) in [(V4, 1), (V4, 3), (V6, 2)] {
        let (sent, received) = exchange(address, 1000, |options| {
            options.gso = true;
            options.payload_bytes = 1400;
            options.flows = flows;
        });
        assert_complete(&sent, &received, 1000);
        assert_eq!(received.reordered, 0);
        assert_eq!(received.flows.len(), flows as usize);
    }
}

#[test]
fn the_rate_is_kept_over_the_whole_run() {
    let started = Instant::now();
    let (sent, received) = exchange(V4, 500, |options| options.rate_pps = NonZeroU64::new(1000));
    let elapsed = started.elapsed();
    assert_complete(&sent, &received, 500);
    // The last of 500 is due after 499 ms; a loaded machine may be late but never early.
    assert!(elapsed >= Duration::from_millis(499), "{elapsed:?}");
    assert!(sent.rate_pps <= 1000.5, "{sent:?}");
    assert_eq!(sent.rate_reached, sent.rate_pps >= 990.0);
}

#[test]
fn a_time_limit_and_a_rate_make_an_exact_count() {
    let (receiver, to) = receiver(V4, |options| options.count = Some(400));
    let receiving = thread::spawn(move || receiver.run(&Progress::new()));
    let mut options = SendOptions::new(to, Stop::For { duration: Duration::from_millis(200) });
    options.rate_pps = NonZeroU64::new(2000);
    let sent = mcr_gen::send(&options, &Progress::new()).expect("loopback takes everything");
    assert_complete(&sent, &receiving.join().expect("no panic").expect("nothing to go wrong"), 400);
}

#[test]
fn without_a_rate_time_ends_the_run() {
    let (_receiver, to) = receiver(V4, |_| {});
    let mut options = SendOptions::new(to, Stop::For { duration: Duration::from_millis(50) });
    options.rate_pps = None;
    let sent = mcr_gen::send(&options, &Progress::new()).expect("loopback takes everything");
    assert!(sent.sent > 0 && sent.seconds >= 0.05 && sent.rate_reached, "{sent:?}");
}

#[test]
fn a_rate_out_of_reach_is_reported_as_missed() {
    let (_receiver, to) = receiver(V4, |_| {});
    let mut options = SendOptions::new(to, Stop::For { duration: Duration::from_millis(50) });
    options.rate_pps = NonZeroU64::new(1_000_000_000);
    let sent = mcr_gen::send(&options, &Progress::new()).expect("loopback takes everything");
    assert!(!sent.rate_reached && sent.rate_pps < 1e9, "{sent:?}");
}

#[test]
fn overload_of_the_receiver_shows_as_its_own_drops() {
    let (receiver, to) = receiver(V4, |options| {
        options.rcvbuf_bytes = 16 << 10;
        options.idle = Some(Duration::from_millis(100));
    });
    let mut options = SendOptions::new(to, Stop::After { count: 1000 });
    options.rate_pps = None;
    let sent = mcr_gen::send(&options, &Progress::new()).expect("loopback takes everything");
    // Read only now: what did not fit the small buffer is gone.
    let received = receiver.run(&Progress::new()).expect("nothing to go wrong");
    assert!(received.kernel_drops > 0, "{received:?}");
    assert_eq!(received.received + received.kernel_drops, sent.sent, "{received:?}");
    assert_eq!(received.missing_of(&sent), received.kernel_drops);
}

#[test]
fn stop_ends_a_receiver_that_hears_nothing() {
    let (receiver, _) = receiver(V4, |options| options.duration = None);
    let progress = Arc::new(Progress::new());
    let watched = Arc::clone(&progress);
    let receiving = thread::spawn(move || receiver.run(&watched));
    progress.stop();
    let received = receiving.join().expect("no panic").expect("nothing to go wrong");
    assert_eq!((received.ended, received.received, received.latency_us), (Ended::Stopped, 0, None));
}

#[test]
fn stop_ends_a_slow_sender_between_two_datagrams() {
    let (_receiver, to) = receiver(V4, |_| {});
    let mut options = SendOptions::new(to, Stop::After { count: 1000 });
    options.rate_pps = NonZeroU64::new(1);
    let progress = Arc::new(Progress::new());
    let watched = Arc::clone(&progress);
    let sending = thread::spawn(move || mcr_gen::send(&options, &watched));
    let started = Instant::now();
    while progress.datagrams() == 0 && started.elapsed() < DEADLINE {
        thread::yield_now();
    }
    progress.stop();
    let sent = sending.join().expect("no panic").expect("loopback takes everything");
    assert!(sent.stopped && sent.sent < 1000, "{sent:?}");
    assert!(started.elapsed() < DEADLINE);
}

#[test]
fn silence_ends_a_receiver_after_the_first_datagram() {
    let (receiver, to) = receiver(V4, |options| options.idle = Some(Duration::from_millis(100)));
    let options = SendOptions::new(to, Stop::After { count: 3 });
    mcr_gen::send(&options, &Progress::new()).expect("loopback takes everything");
    let received = receiver.run(&Progress::new()).expect("nothing to go wrong");
    assert_eq!((received.ended, received.received), (Ended::Idle, 3));
}

#[test]
fn what_came_before_the_end_is_counted_even_if_stop_came_first() {
    let (receiver, to) = receiver(V4, |_| {});
    let mut options = SendOptions::new(to, Stop::After { count: 100 });
    options.rate_pps = None;
    mcr_gen::send(&options, &Progress::new()).expect("loopback takes everything");
    let progress = Progress::new();
    progress.stop();
    let received = receiver.run(&progress).expect("nothing to go wrong");
    assert_eq!((received.ended, received.received, received.lost), (Ended::Stopped, 100, 0));
}

#[test]
fn damage_duplicates_and_strangers_on_the_wire_are_told_apart() -> Result<(), RecvError> {
    let (receiver, to) = receiver(V4, |options| options.count = Some(2));
    let socket = UdpSocket::bind((V4, 0)).expect("a socket");
    let mut datagram = vec![0; 200];
    let write = |datagram: &mut [u8], sequence| {
        payload::write(datagram, &Header { run: 1, flow: 0, sequence, sent_ns: 0 });
    };
    let send = |datagram: &[u8]| socket.send_to(datagram, to.socket_addr()).expect("loopback takes it");
    send(b"");
    send(b"hello");
    write(&mut datagram, 0);
    send(&datagram);
    send(&datagram);
    datagram[150] ^= 1;
    send(&datagram);
    write(&mut datagram, 2);
    send(&datagram);
    let received = receiver.run(&Progress::new())?;
    assert_eq!((received.received, received.lost, received.ended), (2, 1, Ended::Count));
    assert_eq!((received.duplicates, received.corrupt, received.foreign), (1, 1, 2));
    Ok(())
}

#[test]
fn a_unicast_source_filter_makes_others_foreign() {
    let (receiver, to) = receiver(V4, |options| {
        options.endpoint.source = Some(Ipv4Addr::new(127, 0, 0, 2).into());
        options.idle = Some(Duration::from_millis(100));
    });
    for source in [Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 0, 0, 3)] {
        let mut options = SendOptions::new(to.clone(), Stop::After { count: 10 });
        options.source = Some(source.into());
        mcr_gen::send(&options, &Progress::new()).expect("all of 127/8 is local");
    }
    let received = receiver.run(&Progress::new()).expect("nothing to go wrong");
    assert_eq!((received.received, received.foreign), (10, 10));
}

#[test]
fn a_port_where_nobody_listens_is_counted_and_not_an_error() {
    // The discard port: below those that the kernel hands out to the tests beside this one.
    let options = SendOptions::new(Endpoint::new(V4, 9), Stop::After { count: 20 });
    let sent = mcr_gen::send(&options, &Progress::new()).expect("refusals are no errors");
    assert_eq!(sent.sent, 20);
    assert!(sent.refused > 0);
}

#[test]
fn an_unknown_interface_is_named_in_the_error() {
    let mut endpoint = Endpoint::new(Ipv4Addr::new(239, 1, 1, 1).into(), 5000);
    endpoint.interface = Some("nosuch0".parse().expect("a valid name"));
    let error = Receiver::open(&RecvOptions::new(endpoint.clone())).expect_err("no such interface");
    assert!(matches!(error, OpenError::NoInterface { .. }) && error.is_not_found());
    assert!(error.to_string().contains("nosuch0"), "{error}");
    let error = mcr_gen::send(&SendOptions::new(endpoint, Stop::After { count: 1 }), &Progress::new())
        .expect_err("no such interface");
    assert!(error.is_not_found() && !error.is_usage());
}

#[test]
fn options_out_of_range_are_refused_before_a_socket_is_opened() {
    let refused = |tune: fn(&mut SendOptions)| {
        let mut options = SendOptions::new(Endpoint::new(V4, 9), Stop::After { count: 1 });
        tune(&mut options);
        let error = mcr_gen::send(&options, &Progress::new()).expect_err("out of range");
        assert!(error.is_usage(), "{error}");
        error
    };
    assert!(matches!(refused(|o| o.payload_bytes = 31), SendError::PayloadBytes { bytes: 31 }));
    assert!(matches!(refused(|o| o.payload_bytes = 65_508), SendError::PayloadBytes { .. }));
    assert!(matches!(refused(|o| o.flows = 0), SendError::Flows { flows: 0 }));
    assert!(matches!(refused(|o| o.ttl = 0), SendError::Ttl));
    assert!(matches!(refused(|o| o.source = Some(V6)), SendError::Open(OpenError::Family { .. })));
    let two = refused(|o| (o.endpoint.source, o.source) = (Some(V4), Some(Ipv4Addr::UNSPECIFIED.into())));
    assert!(matches!(two, SendError::TwoSources { .. }));
}

#[test]
fn a_foreign_source_address_is_refused_with_what_is_wrong() {
    let mut options = SendOptions::new(Endpoint::new(V4, 9), Stop::After { count: 1 });
    options.source = Some(Ipv4Addr::new(192, 0, 2, 1).into());
    let error = mcr_gen::send(&options, &Progress::new()).expect_err("not ours");
    assert!(error.to_string().contains("no address of this host"), "{error}");
}

#[test]
fn reports_have_the_documented_json_keys() {
    let (sent, received) = exchange(V4, 10, |_| {});
    let sent = serde_json::to_value(sent).expect("plain data");
    for key in ["sent", "bytes", "seconds", "rate_pps", "rate_bps", "retries", "flows"] {
        assert!(sent.get(key).is_some(), "{key} in {sent}");
    }
    let received = serde_json::to_value(received).expect("plain data");
    for key in [
        "received",
        "lost",
        "duplicates",
        "reordered",
        "corrupt",
        "foreign",
        "kernel_drops",
        "flows",
        "rate_pps",
        "rate_bps",
        "seconds",
    ] {
        assert!(received.get(key).is_some(), "{key} in {received}");
    }
    for key in ["min", "mean", "p50", "p90", "p99", "p99_9", "max"] {
        assert!(
            received["latency_us"].get(key).is_some_and(serde_json::Value::is_f64),
            "{key} in {received}"
        );
    }
    assert_eq!(received["ended"], "count");
}
