//! `mcrd reflect` on a real cable: loads, bursts, foreign traffic, signals, and what is left behind.

use std::{
    net::UdpSocket,
    time::{Duration, Instant},
};

use mcr_e2e::{
    Cell, Daemon, DaemonOptions, eventually,
    held::Held,
    reflector::{
        Bed, Cable, PLATFORMS, REFLECTOR_IF, REFLECTOR_MAC, Reflecting, TESTER_IF, TESTER_MAC, Tester,
        assert_law, counter, echo, load, probe,
    },
    traffic_lock,
};
use mcr_lab::require;
use mcr_proto::{message::RuleState, reflect::Reflect};
use nix::sys::signal::{Signal, kill};

/// How many frames the load test sends.
fn frames() -> u64 {
    std::env::var("MCR_REFLECT_FRAMES").ok().and_then(|count| count.parse().ok()).unwrap_or(1_000_000)
}

#[test]
fn a_million_frames_come_back_each_once_whole_and_in_order() {
    let Some(()) = require::netns() else { return };
    for platform in PLATFORMS {
        let Bed { cable: _cable, reflecting, mut tester, lock: _lock } = Bed::new(platform);
        let count = frames();
        let load = load(&mut tester, 128, count, 256, &[]);
        assert_eq!((load.sent, load.back), (count, count));
        let (report, _) = reflecting.stop(Signal::SIGTERM);
        for name in ["received", "reflected", "dataot"] {
            assert_eq!(counter(&report, name), count, "{name}: {report}");
        }
        assert_eq!(counter(&report, "rx_ring_drop"), 0);
        // veth has native XDP and no zero-copy.
        let way = if platform[1] == "xdp" { "xdp-native" } else { "packet" };
        assert_eq!(report["platform"], way);
    }
}

#[test]
fn long_frames_and_bursts_of_two_thousand_come_back_whole() {
    let Some(()) = require::netns() else { return };
    for platform in PLATFORMS {
        let Bed { cable: _cable, reflecting, mut tester, lock: _lock } = Bed::new(platform);
        for bytes in [128, 1514] {
            for burst in 1..=5 {
                // All of a window is sent before anything is looked at.
                let load = load(&mut tester, bytes, 2000, 2000, &[]);
                assert_eq!(load.back, 2000, "burst {burst} of {bytes} bytes");
            }
        }
        let (report, _) = reflecting.stop(Signal::SIGTERM);
        assert_eq!(counter(&report, "reflected"), 20_000, "{report}");
    }
}

#[test]
fn foreign_traffic_three_times_as_much_changes_nothing_and_is_not_even_received() {
    let Some(()) = require::netns() else { return };
    for platform in PLATFORMS {
        let Bed { cable: _cable, reflecting, mut tester, lock: _lock } = Bed::new(platform);
        let mut dns = probe(200, 0);
        dns[36..38].copy_from_slice(&53u16.to_be_bytes());
        dns[42..].fill(7);
        let mut tcp = dns.clone();
        tcp[23] = 6;
        let mut arp = [&[0xff; 6][..], &TESTER_MAC, &[8, 6]].concat();
        arp.resize(60, 0);
        let load = load(&mut tester, 128, 50_000, 256, &[dns, tcp, arp]);
        assert_eq!((load.back, load.foreign), (50_000, 150_000));
        let (report, _) = reflecting.stop(Signal::SIGTERM);
        assert_eq!(
            (counter(&report, "received"), counter(&report, "reflected")),
            (50_000, 50_000),
            "{report}"
        );
    }
}

#[test]
fn near_misses_are_counted_with_their_reason_and_single_frames_at_once() {
    let Some(()) = require::netns() else { return };
    for platform in PLATFORMS {
        let Bed { cable: _cable, reflecting, mut tester, lock: _lock } = Bed::new(platform);
        for number in 0..5 {
            let frame = probe(100, number);
            tester.send(&frame);
            tester.until(&echo(&frame));
        }
        let report = reflecting.report_of("reflected", 5);
        assert_eq!((counter(&report, "received"), counter(&report, "reflected")), (5, 5), "{report}");
        let change = |at: usize, byte: u8| {
            let mut frame = probe(100, 9);
            frame[at] = byte;
            frame
        };
        let misses = [
            ("port", change(37, 3)),
            ("signature", change(50, b'x')),
            ("src_oui", change(8, 0x18)),
            ("dst_mac", change(5, 2)),
            ("fragment", change(20, 0x20)),
            ("protocol", change(23, 6)),
            ("ip_header", change(14, 0x65)),
            ("length_field", change(17, 20)),
        ];
        for (_, frame) in &misses {
            tester.send(frame);
        }
        let last = probe(100, 10);
        tester.send(&last);
        assert_eq!(tester.until(&echo(&last)).len(), 1, "no other reply");
        let report = reflecting.report_of("reflected", 6);
        assert_law(&report);
        for (name, _) in &misses {
            assert_eq!(counter(&report, name), 1, "{name}: {report}");
        }
        assert_eq!(counter(&report, "received"), 14, "{report}");
    }
}

#[test]
fn the_host_says_nothing_itself_and_a_kernels_own_sender_gets_valid_replies() {
    let Some(()) = require::netns() else { return };
    for platform in PLATFORMS {
        let _lock = traffic_lock::take();
        let cable = Cable::new();
        let made = || {
            let address = |last: u8| std::net::IpAddr::from([192, 0, 2, last]);
            cable.reflector.add_address(REFLECTOR_IF, address(1), 24)?;
            cable.tester.add_address(TESTER_IF, address(10), 24)?;
            cable.reflector.add_neighbour(REFLECTOR_IF, address(10), TESTER_MAC)?;
            cable.tester.add_neighbour(TESTER_IF, address(1), REFLECTOR_MAC)
        };
        made().unwrap_or_else(|error| panic!("{error}"));
        let reflecting = Reflecting::start(&cable.reflector, platform);
        let mut tester = Tester::open(&cable);
        // A socket of the kernel leaves the checksum to the device, and veth leaves it to whoever is next.
        let socket = cable.tester.enter(|| UdpSocket::bind("192.0.2.10:50001")).expect("own address");
        socket.set_read_timeout(Some(Duration::from_secs(10))).expect("own socket");
        for number in 0..5u8 {
            let payload = [&[9, 0x10, 0xea, 0x1d, 0][..], b"PROBEOT", &[number]].concat();
            socket.send_to(&payload, "192.0.2.1:3842").expect("a route");
            let mut reply = [0; 64];
            let (length, from) = socket.recv_from(&mut reply).expect("a reply with a right checksum");
            assert_eq!((&reply[..length], from.to_string().as_str()), (&payload[..], "192.0.2.1:3842"));
        }
        let mut seen = 0;
        tester.take(|frame| {
            assert_eq!(frame[23], 17, "an answer of the host's own: {frame:02x?}");
            seen += 1;
        });
        assert_eq!(seen, 5, "one frame for each probe");
        let (report, _) = reflecting.stop(Signal::SIGINT);
        assert_eq!(counter(&report, "probeot"), 5, "{report}");
    }
}

#[test]
fn two_reflectors_back_to_back_answer_one_frame_once() {
    let Some(()) = require::netns() else { return };
    for platform in PLATFORMS {
        let _lock = traffic_lock::take();
        let cable = Cable::new();
        let there = Reflecting::start_on(&cable.tester, TESTER_IF, platform);
        let here = Reflecting::start(&cable.reflector, platform);
        let tester = Tester::open(&cable);
        tester.send(&probe(100, 1));
        eventually("it was reflected", || counter(&here.report(), "reflected") == 1);
        // The reply goes to the tester's port 50000, where it is no request; and its source is no tester's.
        let mut request = probe(100, 2);
        request[34..36].copy_from_slice(&3842u16.to_be_bytes());
        tester.send(&request);
        eventually("both were reflected", || counter(&here.report(), "reflected") == 2);
        eventually("the other saw both replies", || counter(&there.report(), "received") == 2);
        let (there, here) = (there.stop(Signal::SIGTERM).0, here.stop(Signal::SIGTERM).0);
        assert_eq!((counter(&there, "reflected"), counter(&there, "src_oui")), (0, 2), "{there}");
        assert_eq!((counter(&here, "received"), counter(&here, "reflected")), (2, 2), "{here}");
    }
}

#[test]
fn a_kill_leaves_nothing_behind_and_a_dead_child_is_replaced() {
    let Some(()) = require::netns() else { return };
    for platform in PLATFORMS {
        let _lock = traffic_lock::take();
        let cable = Cable::new();
        let before = (Held::of(&cable.reflector), cable.reflector.link(REFLECTOR_IF).expect("it is there"));
        let reflecting = Reflecting::start(&cable.reflector, platform);
        let mut tester = Tester::open(&cable);
        let frame = probe(100, 1);
        tester.send(&frame);
        tester.until(&echo(&frame));

        // A frame is back a moment before it is counted, and a kill in between would take the count along.
        eventually("it is counted", || counter(&reflecting.report(), "reflected") == 1);

        let child = reflecting.child();
        kill(child, Signal::SIGKILL).expect("own process");
        eventually("another reflects in its place", || {
            let log = reflecting.log();
            log.matches("reflecting interface").count() == 2
        });
        assert_ne!(reflecting.child(), child);
        let frame = probe(100, 2);
        tester.send(&frame);
        tester.until(&echo(&frame));
        eventually("it counts on from there", || counter(&reflecting.report(), "reflected") == 2);

        let child = reflecting.child();
        kill(reflecting.pid(), Signal::SIGKILL).expect("own process");
        drop(reflecting);
        eventually("the child has ended with it", || kill(child, None).is_err());
        // Sockets go with the process; the kernel may take a moment.
        eventually("no socket is left", || Held::of(&cable.reflector) == before.0);
        let mut after = cable.reflector.link(REFLECTOR_IF).expect("it is there");
        after.stats = before.1.stats;
        assert_eq!(after, before.1, "the interface is as it was found");
    }
}

#[test]
fn it_stops_within_a_fifth_of_a_second_and_says_all_it_counted() {
    let Some(()) = require::netns() else { return };
    let _lock = traffic_lock::take();
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let cable = Cable::new();
        let reflecting = Reflecting::start(&cable.reflector, &["--latency"]);
        let mut tester = Tester::open(&cable);
        load(&mut tester, 128, 1000, 64, &[]);
        let (report, took) = reflecting.stop(signal);
        assert!(took < Duration::from_millis(200), "{took:?}");
        assert_eq!(counter(&report, "reflected"), 1000);
        assert_eq!(
            (&report["latency"]["count"], &report["latency"]["since"]),
            (&1000.into(), &"kernel".into())
        );
    }
}

#[test]
fn it_follows_its_interface_and_its_address() {
    let Some(()) = require::netns() else { return };
    for platform in PLATFORMS {
        let Bed { cable, reflecting, mut tester, lock: _lock } = Bed::new(platform);
        let new = [2, 0, 0, 0, 0, 0x77];
        cable.reflector.set_mac(REFLECTOR_IF, new).expect("own interface");
        let mut frame = probe(100, 1);
        frame[..6].copy_from_slice(&new);
        let begun = Instant::now();
        eventually("frames to the new address are reflected", || {
            tester.send(&frame);
            counter(&reflecting.report(), "reflected") > 0
        });
        assert!(begun.elapsed() < Duration::from_secs(5));
        cable.reflector.set_down(REFLECTOR_IF).expect("own interface");
        eventually("it says that it is paused", || reflecting.report()["state"] == "paused");
        cable.reflector.set_up(REFLECTOR_IF).expect("own interface");
        eventually("it reflects again", || reflecting.report()["state"] == "active");
        cable.tester.wait_running(TESTER_IF).expect("a cable");
        tester.take(|_| {});
        let mut frame = probe(100, 2);
        frame[..6].copy_from_slice(&new);
        tester.send(&frame);
        tester.until(&echo(&frame));

        cable.reflector.delete_link(REFLECTOR_IF).expect("own interface");
        eventually("it waits for the interface", || reflecting.report()["state"] == "unresolved");
        mcr_lab::veth((&cable.tester, TESTER_IF), (&cable.reflector, REFLECTOR_IF)).expect("a cable");
        cable.reflector.set_mac(REFLECTOR_IF, REFLECTOR_MAC).expect("own interface");
        cable.tester.set_up(TESTER_IF).expect("own interface");
        cable.reflector.set_up(REFLECTOR_IF).expect("own interface");
        eventually("it reflects on the new one", || reflecting.report()["state"] == "active");
        cable.tester.wait_running(TESTER_IF).expect("a cable");
        let mut tester = Tester::open(&cable);
        let frame = probe(100, 3);
        tester.send(&frame);
        tester.until(&echo(&frame));
        assert_law(&reflecting.report());
    }
}

#[test]
fn standards_are_answered_where_they_were_asked_for() {
    let Some(()) = require::netns() else { return };
    for platform in PLATFORMS {
        let services: &[&str] = &["--stamp", "862", "--echo", "7", "--oam-mep", "9", "--oam-level", "5"];
        let Bed { cable: _cable, reflecting, mut tester, lock: _lock } =
            Bed::new(&[platform, services].concat());
        let mut ping = probe(100, 1);
        ping[36..38].copy_from_slice(&7u16.to_be_bytes());
        tester.send(&ping);
        tester.until(&echo(&ping));
        let lbm = [&REFLECTOR_MAC[..], &TESTER_MAC, &[0x89, 2, 0xa0, 3, 0, 4, 1, 2, 3, 4], &[0; 42]].concat();
        let mut lbr = lbm.clone();
        lbr[..12].copy_from_slice(&[TESTER_MAC, REFLECTOR_MAC].concat());
        lbr[15] = 2;
        tester.send(&lbm);
        tester.until(&lbr);
        // Loopback to all: answered within a second, from the reflector's own address.
        let mut all = lbm;
        all[..6].copy_from_slice(&[1, 0x80, 0xc2, 0, 0, 0x35]);
        tester.send(&all);
        tester.until(&lbr);
        let mut stamp = probe(42 + 44, 0);
        stamp[36..38].copy_from_slice(&862u16.to_be_bytes());
        stamp[42..].fill(0);
        stamp[45] = 77;
        tester.send(&stamp);
        eventually("STAMP is answered", || counter(&reflecting.report(), "stamp") == 1);
        let mut replies = Vec::new();
        tester.wait(Duration::from_secs(1));
        tester.take(|frame| replies.push(frame.to_vec()));
        let [reply] = &replies[..] else { panic!("{replies:02x?}") };
        assert_eq!(
            (reply.len(), reply[45], reply[42 + 27], reply[42 + 40]),
            (86, 77, 77, 64),
            "{reply:02x?}"
        );
        let (report, _) = reflecting.stop(Signal::SIGTERM);
        for (name, count) in [("echo", 1), ("lbm", 2), ("stamp", 1), ("reflected", 4), ("in_flight", 0)] {
            assert_eq!(counter(&report, name), count, "{name}: {report}");
        }
    }
}

#[test]
fn the_daemon_reflects_beside_its_rules_as_its_configuration_and_clients_want() {
    let Some(()) = require::netns() else { return };
    let _lock = traffic_lock::take();
    let cable = Cable::new();
    let config = format!("[[reflect]]\nname = \"bench\"\ninterface = \"{REFLECTOR_IF}\"\nmode = \"all\"\n");
    let options = DaemonOptions { config: Some(config), ..DaemonOptions::default() };
    let daemon = Daemon::start(&cable.reflector, &options);
    let mut client = daemon.client();
    let mut tester = Tester::open(&cable);
    eventually("the configured one reflects", || {
        client.reflectors(Some("bench")).expect("the daemon")[0].state == RuleState::Active
    });
    assert_eq!(load(&mut tester, 128, 5000, 64, &[]).back, 5000);
    eventually("they are counted", || {
        client.reflectors(Some("bench")).expect("the daemon")[0].counters["reflected"] == 5000
    });
    // A rule on the same interface and port, to a group: the reflector answers what is its own, the rule relays the rest.
    let rule =
        Cell::PACKET_URING.rule("beside", &format!("239.1.1.1:3842@{REFLECTOR_IF}"), &["239.2.2.2:6000@lo"]);
    client.rule_add(&rule).expect("a rule beside the reflector");
    let mut group = probe(128, 1);
    group[..6].copy_from_slice(&[1, 0, 0x5e, 1, 1, 1]);
    group[30..34].copy_from_slice(&[239, 1, 1, 1]);
    // A relay, unlike a reflector, looks at the header's checksum.
    let words: u32 = group[14..34].chunks(2).map(|two| u32::from(two[0]) << 8 | u32::from(two[1])).sum();
    let checksum = !((words & 0xffff) + (words >> 16)) as u16;
    group[24..26].copy_from_slice(&checksum.to_be_bytes());
    tester.send(&group);
    let frame = probe(128, 2);
    tester.send(&frame);
    // The host itself tells the network that it joined.
    let replies = tester.until(&echo(&frame)).into_iter().filter(|frame| frame[23] == 17);
    assert_eq!(replies.count(), 1, "the group is not answered");
    eventually("the rule has its datagram", || {
        client.stats(None).expect("the daemon").rules[0].datagrams == 1
    });
    let stats = client.stats(None).expect("the daemon");
    assert_eq!(
        (stats.reflectors[0].counters["reflected"], stats.reflectors[0].rejected["dst_mac"]),
        (5001, 1)
    );

    // Another, by a client; the same again is none; one that contradicts is refused.
    let mut reflect = Reflect::new(REFLECTOR_IF.parse().expect("a name"));
    reflect.port = 4000;
    let added = client.reflect_add(&reflect).expect("a reflector");
    assert_eq!(
        (added.created, added.reflector.state),
        (true, RuleState::Active),
        "it reflects when the answer comes"
    );
    let mut other = probe(100, 3);
    other[36..38].copy_from_slice(&4000u16.to_be_bytes());
    tester.send(&other);
    tester.until(&echo(&other));
    assert!(!client.reflect_add(&reflect).expect("there already").created);
    reflect.sig = mcr_proto::reflect::SignatureFamily::Custom;
    let refused = client.reflect_add(&reflect).expect_err("another of this name");
    assert!(refused.to_string().contains("exists already"), "{refused}");
    let saved = client.config().expect("the daemon").toml;
    assert!(saved.contains("port = 4000"), "{saved}");

    // A child that dies is replaced; one that is removed leaves nothing.
    let pid = client.reflectors(Some("bench")).expect("the daemon")[0].pid.expect("a process");
    kill(nix::unistd::Pid::from_raw(pid as i32), Signal::SIGKILL).expect("own process");
    eventually("another took its place", || {
        let bench = &client.reflectors(Some("bench")).expect("the daemon")[0];
        bench.state == RuleState::Active && bench.pid != Some(pid) && bench.restarts == 1
    });
    client.rule_remove(&mcr_proto::rpc::rule_ref("beside").expect("a name")).expect("a rule");
    let name = added.reflector.name;
    client.reflect_remove(&name).expect("a reflector");
    client.reflect_remove("bench").expect("a reflector");
    assert!(client.reflect_remove("bench").is_err());
    assert!(client.reflectors(None).expect("the daemon").is_empty());
    eventually("their sockets are closed", || Held::of(&cable.reflector).packet == 0);
}

#[test]
fn the_process_that_sees_frames_has_no_rights() {
    let Some(()) = require::netns() else { return };
    let cable = Cable::new();
    let reflecting = Reflecting::start(&cable.reflector, &[]);
    let status = std::fs::read_to_string(format!("/proc/{}/status", reflecting.child())).expect("own child");
    let line = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}"));
        line.split_whitespace().skip(1).map(ToOwned::to_owned).collect::<Vec<_>>()
    };
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(line(set), ["0000000000000000"], "{set}");
    }
    assert_eq!((line("Seccomp:"), line("NoNewPrivs:")), (vec!["2".to_owned()], vec!["1".to_owned()]));
    assert!(!line("Uid:").contains(&"0".to_owned()), "{status}");
}
