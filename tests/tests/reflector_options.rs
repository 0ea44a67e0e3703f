//! What options of `mcrd reflect` do on a real cable, what signals do, and how it ends.

use std::{
    fs::File,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use mcr_e2e::{
    eventually, programs,
    reflector::{Bed, Cable, PLATFORMS, REFLECTOR_IF, TESTER_IF, assert_law, counter, echo, probe},
    traffic_lock,
};
use mcr_lab::require;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

#[test]
fn only_who_is_on_the_lists_is_answered() {
    let Some(()) = require::netns() else { return };
    for platform in PLATFORMS {
        let lists =
            ["--allow-source", "192.0.2.0/28", "--allow-mac", "00:c0:17:54:05:98", "--allow-vlan", "0,7"];
        let Bed { cable: _cable, reflecting, mut tester, lock: _lock } =
            Bed::new(&[platform, &lists[..]].concat());
        let tagged = |mut frame: Vec<u8>, id: u8| {
            frame.splice(12..12, [0x81, 0, 0, id]);
            frame
        };
        let mut other_source = probe(100, 1);
        other_source[29] = 99;
        let mut other_mac = probe(100, 2);
        other_mac[11] ^= 1;
        for refused in [other_source, other_mac, tagged(probe(100, 3), 8)] {
            tester.send(&refused);
        }
        tester.send(&tagged(probe(100, 4), 7));
        assert_eq!(tester.until(&tagged(echo(&probe(100, 4)), 7)).len(), 1, "{platform:?}");
        let report = reflecting.report_of("reflected", 1);
        assert_eq!((counter(&report, "not_allowed"), counter(&report, "reflected")), (3, 1), "{report}");
        assert_law(&report);
    }
}

#[test]
fn a_frame_longer_than_the_mtu_is_counted_and_not_reflected() {
    let Some(()) = require::netns() else { return };
    for platform in PLATFORMS {
        let Bed { cable, reflecting, mut tester, lock: _lock } = Bed::new(platform);
        cable.tester.set_mtu(TESTER_IF, 1600).expect("own interface");
        // veth leaves room for a VLAN tag; without one, two bytes more than the MTU pass.
        tester.send(&probe(1516, 1));
        let longest = probe(1514, 2);
        tester.send(&longest);
        assert_eq!(tester.until(&echo(&longest)).len(), 1, "{platform:?}");
        let report = reflecting.report_of("reflected", 1);
        assert_eq!((counter(&report, "oversize"), counter(&report, "reflected")), (1, 1), "{report}");
    }
}

#[test]
fn sighup_reads_anew_and_nothing_is_lost() {
    let Some(()) = require::netns() else { return };
    for platform in PLATFORMS {
        let Bed { cable: _cable, reflecting, mut tester, lock: _lock } = Bed::new(platform);
        for number in 0..3 {
            kill(reflecting.pid(), Signal::SIGHUP).expect("own process");
            let read_anew = "filters and interface read anew";
            eventually("it says so", || reflecting.log().matches(read_anew).count() > number);
            let frame = probe(100, number as u64);
            tester.send(&frame);
            assert_eq!(tester.until(&echo(&frame)).len(), 1);
        }
        let (report, _) = reflecting.stop(Signal::SIGTERM);
        assert_eq!((counter(&report, "received"), counter(&report, "reflected")), (3, 3), "{report}");
    }
}

#[test]
fn a_signal_while_it_starts_ends_it() {
    let Some(()) = require::netns() else { return };
    let cable = Cable::new();
    let directory = programs::directory_for_everyone();
    // A signal at once meets a program that has no handler yet, later ones all that it does until it reflects.
    for wait_us in [0, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000] {
        let mut command: Command = cable.reflector.command(programs::program("mcrd"));
        let err = File::create(directory.path().join("err")).expect("own directory");
        command.args(["reflect", REFLECTOR_IF]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(err);
        let mut child = command.spawn().expect("a process");
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_micros(wait_us) {
            std::hint::spin_loop();
        }
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("a number"));
        kill(pid, Signal::SIGTERM).expect("own child");
        let mut status = None;
        eventually("it has ended", || {
            status = child.try_wait().expect("own child");
            status.is_some()
        });
        let status = status.expect("it has ended");
        let ended = status.code() == Some(0)
            || std::os::unix::process::ExitStatusExt::signal(&status) == Some(Signal::SIGTERM as i32);
        assert!(ended, "after {wait_us} us: {status}");
    }
}

#[test]
fn in_mode_auto_a_frame_comes_back_exchanged_as_far_up_as_it_goes() {
    let Some(()) = require::netns() else { return };
    // No signature.
    let plain = |number: u64| {
        let mut frame = probe(100, number);
        frame[42..54].fill(0);
        frame
    };
    let change = |number: u64, at: usize, bytes: &[u8]| {
        let mut frame = plain(number);
        frame[at..at + bytes.len()].copy_from_slice(bytes);
        frame
    };
    let mut tagged = plain(4);
    tagged.splice(12..12, [0x81, 0, 0, 100]);
    let mut tagged_reply = echo(&plain(4));
    tagged_reply.splice(12..12, [0x81, 0, 0, 100]);
    // The reply is like that to a UDP frame up to here, and behind it like the frame.
    let as_far_as = |frame: &[u8], bytes: usize| [&echo(frame)[..bytes], &frame[bytes..]].concat();
    let (udp, tcp) = (plain(1), change(2, 23, &[6]));
    // GRE has no ports; 0x88b5 is IEEE's for experiments.
    let (gre, other) = (change(3, 23, &[47]), change(5, 12, &[0x88, 0xb5]));
    let answered = [
        (udp.clone(), echo(&udp)),
        (tcp.clone(), echo(&tcp)),
        (gre.clone(), as_far_as(&gre, 34)),
        (tagged, tagged_reply),
        (other.clone(), as_far_as(&other, 12)),
    ];
    let left_alone = [
        change(6, 23, &[1]),          // ICMP
        change(7, 12, &[8, 6]),       // ARP
        change(8, 12, &[0x88, 0xcc]), // LLDP
        change(9, 36, &[0, 53]),      // another port
        change(10, 8, &[0x18]),       // another OUI
        change(11, 0, &[0xff; 6]),    // to all
    ];
    for platform in PLATFORMS {
        let Bed { cable: _cable, reflecting, mut tester, lock: _lock } =
            Bed::new(&[platform, &["--mode", "auto"]].concat());
        for (frame, _) in &answered {
            tester.send(frame);
        }
        left_alone.iter().for_each(|frame| tester.send(frame));
        let last = probe(100, 12);
        tester.send(&last);
        let mut replies = tester.until(&echo(&last));
        replies.pop();
        assert_eq!(replies.len(), answered.len(), "{platform:?}: {replies:02x?}");
        for ((frame, expected), reply) in answered.iter().zip(&replies) {
            assert_eq!(reply, expected, "{platform:?}: {frame:02x?}");
        }
        let (report, _) = reflecting.stop(Signal::SIGTERM);
        assert_eq!(counter(&report, "reflected"), answered.len() as u64 + 1, "{report}");
    }
}

#[test]
fn frames_that_come_and_come_without_a_reply_are_told_as_a_fault() {
    let Some(()) = require::netns() else { return };
    let Bed { cable: _cable, reflecting, mut tester, lock: _lock } = Bed::new(&[]);
    let good = probe(100, 1);
    tester.send(&good);
    tester.until(&echo(&good));
    assert!(reflecting.report_of("reflected", 1)["fault"].is_null());
    // A tester of another make: the right port, and an OUI that is not admitted.
    let mut miss = probe(100, 2);
    miss[8] = 0x18;
    let begun = Instant::now();
    let mut fault = Value::Null;
    let told = mcr_lab::wait_until(Duration::from_secs(30), "it says so", || {
        tester.send(&miss);
        fault = reflecting.report()["fault"].clone();
        !fault.is_null()
    });
    told.unwrap_or_else(|error| panic!("{error}"));
    assert!(begun.elapsed() >= Duration::from_secs(10), "a few frames are no fault");
    assert!(
        fault.as_str().is_some_and(|text| text.starts_with("frames come and none was reflected")),
        "{fault}"
    );
    tester.send(&good);
    tester.until(&echo(&good));
    eventually("a reply is health", || reflecting.report()["fault"].is_null());
}

#[test]
fn exit_codes_say_what_was_wrong() {
    let Some(()) = require::netns() else { return };
    let cable = Cable::new();
    let code = |arguments: &[&str]| {
        let mut command = cable.reflector.command(programs::program("mcrd"));
        let output = command.arg("reflect").args(arguments).output().expect("a process");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for (arguments, expected) in [
        (&["nosuch0"][..], 4),
        (&["nic", "nosuch0"], 4),
        (&[REFLECTOR_IF, "--no-mac-filter", "--no-oui-filter", "--port", "0"], 2),
        (&[REFLECTOR_IF, "--port", ""], 2),
        (&[REFLECTOR_IF, "--oui", "00:c0:17x"], 2),
        (&[REFLECTOR_IF, "--mode", "some"], 2),
        (&[REFLECTOR_IF, "--queues", "0"], 2),
        (&[REFLECTOR_IF, "--queues", "2", "--platform", "packet"], 2),
        (&[REFLECTOR_IF, "--no-such-option"], 2),
        (&["lo"], 1),
    ] {
        let (got, text) = code(arguments);
        assert_eq!(got, Some(expected), "{arguments:?}: {text}");
        assert!(!text.is_empty());
    }
    let mut command = cable.reflector.command(programs::program("mcrd"));
    let output = command.args(["reflect", "nic", REFLECTOR_IF]).output().expect("a process");
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{text}");
    // veth has native XDP and no zero-copy.
    let vlan_tags = format!(
        "vlan tags       taken out by a NIC (rxvlan); for replies with tags on AF_XDP: ethtool -K {REFLECTOR_IF} rxvlan off"
    );
    let xdp = ["driver          veth", "xdp             basic, redirect", "platform        xdp, copying"];
    for line in xdp.into_iter().chain([vlan_tags.as_str()]) {
        assert!(text.contains(line), "{line}: {text}");
    }
    assert_eq!((code(&["--help"]).0, code(&["--version"]).0), (Some(0), Some(0)));
}

#[test]
fn options_stand_before_or_after_the_interface() {
    let Some(()) = require::netns() else { return };
    let _lock = traffic_lock::take();
    let cable = Cable::new();
    for csv in [false, true] {
        let mut command = cable.reflector.command(programs::program("mcrd"));
        command.arg("reflect");
        if csv {
            command.args(["--csv", "--stats-interval", "1", REFLECTOR_IF]);
        } else {
            command.args([REFLECTOR_IF, "--compat-json", "--stats-interval", "1"]);
        }
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("a process");
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().expect("piped")));
        let mut next = || lines.next().expect("a line").expect("text");
        let first = next();
        if csv {
            assert!(first.starts_with("time,uptime,received,"), "{first}");
            assert_eq!(next().split(',').count(), first.split(',').count());
        } else {
            let json: Value = serde_json::from_str(&first).expect("JSON");
            assert!(json["packets"]["received"].is_u64(), "{json}");
        }
        kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).expect("own process");
        assert_eq!(child.wait().expect("own child").code(), Some(0));
    }
}
