//! What dies, hangs, flaps or changes must heal, and must not touch what it does not concern.
#![allow(clippy::unwrap_used)] // A test has no better answer to an error than to fail.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use mcr_client::Client;
use mcr_e2e::{Bed, Cell, daemon::signal, eventually, in_cells, in_packet_cells, law, streams::Streams};
use mcr_lab::{require, veth};
use mcr_proto::message::{RuleState, WorkerState};
use nix::sys::signal::Signal;

/// Back-off of a first death, and 250 ms.
const BACK_WITHIN: Duration = Duration::from_millis(500);
/// The heartbeat limit, the looks at it, and all that follows a death.
const STUCK_WITHIN: Duration = Duration::from_millis(2_000 + 600 + 500);

/// Numbers that look random and are the same each time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % sides
    }
}

fn worker_pid(client: &mut Client, index: usize) -> Option<u32> {
    client.workers().unwrap()[index].pid
}

fn all_run(client: &mut Client) -> bool {
    client.workers().unwrap().iter().all(|worker| worker.state == WorkerState::Running)
}

/// What was sent is what came, and what is counted as lost.
fn assert_accounted(bed: &mut Bed, sent: u64) {
    let mut explained = String::new();
    let waited = mcr_lab::wait_until(Duration::from_secs(5), "every datagram is accounted for", || {
        let stats = law::at_rest(&mut bed.client);
        let input = law::input(&stats, "in0");
        explained = format!("{sent} sent, {input:?}");
        input.datagrams == sent
    });
    assert!(waited.is_ok(), "{explained}");
}

in_packet_cells! {
    fn a_killed_worker_is_back_at_once_and_its_loss_is_counted(cell) {
        let mut bed = Bed::new(cell, 1);
        let streams = Streams::start(&mut bed, 4, 5_000);
        eventually("traffic flows", || streams.received() > 10_000);
        let before = law::read(&mut bed.client);
        signal(worker_pid(&mut bed.client, 0).unwrap(), Signal::SIGKILL);
        let seen = streams.received();
        eventually("the worker is back", || all_run(&mut bed.client) && streams.received() > seen + 10_000);
        law::assert_forward(&before, &law::read(&mut bed.client));
        let (sent, arrived) = streams.stop(&mut bed);
        for stream in &arrived {
            assert_eq!(stream.out_of_place, 0, "{stream:?}");
        assert!(stream.longest_gap < BACK_WITHIN, "{stream:?}");
        }
        assert_accounted(&mut bed, sent * 4);
        let stats = law::read(&mut bed.client);
        let received: u64 = arrived.iter().map(|stream| stream.received).sum();
        let (mut copies, mut uncertain) = (0, 0);
        for rule in &stats.rules {
            copies += rule.outputs[0].copies;
            uncertain += rule.outputs[0].drops["worker_lost"];
        }
        // What was under way in the dead worker may or may not have left.
        assert!((copies..=copies + uncertain).contains(&received), "{received} came; {copies} copies, {uncertain} unknown");
    }

    fn a_stopped_worker_is_replaced(cell) {
        let mut bed = Bed::new(cell, 1);
        let streams = Streams::start(&mut bed, 2, 2_000);
        eventually("traffic flows", || streams.received() > 2_000);
        let pid = worker_pid(&mut bed.client, 0).unwrap();
        signal(pid, Signal::SIGSTOP);
        eventually("another runs in its place", || worker_pid(&mut bed.client, 0).is_some_and(|now| now != pid));
        let seen = streams.received();
        eventually("traffic flows again", || streams.received() > seen + 2_000);
        let (sent, arrived) = streams.stop(&mut bed);
        for stream in &arrived {
            assert_eq!(stream.out_of_place, 0, "{stream:?}");
            assert!(stream.longest_gap < STUCK_WITHIN, "{stream:?}");
        }
        assert_accounted(&mut bed, sent * 2);
    }

    fn fifty_kills_lose_no_rule_and_turn_no_counter_back(cell) {
        const STREAMS: usize = 8;
        let mut bed = Bed::with_workers(cell, 1, 8);
        let streams = Streams::start(&mut bed, STREAMS, 500);
        eventually("traffic flows", || streams.received() > 1_000);
        let mut dice = Dice(7);
        let mut kills = 0;
        let mut before = law::read(&mut bed.client);
        while kills < 50 {
            let workers = bed.client.workers().unwrap();
            let victims: Vec<_> = workers.iter().filter(|worker| worker.state == WorkerState::Running).collect();
            if let Some(pid) = (!victims.is_empty()).then(|| victims[dice.roll(victims.len())].pid).flatten() {
                signal(pid, if dice.roll(10) == 0 { Signal::SIGSTOP } else { Signal::SIGKILL });
                kills += 1;
            }
            thread::sleep(Duration::from_millis(100));
            let now = law::read(&mut bed.client);
            law::assert_forward(&before, &now);
            before = now;
        }
        let patience = Duration::from_secs(20);
        mcr_lab::wait_until(patience, "all workers run", || all_run(&mut bed.client)).unwrap();
        let home = |rules: &[mcr_proto::rpc::RuleInfo]| rules.iter().all(|rule| rule.state == RuleState::Active);
        eventually("all rules are active", || home(&bed.client.rules(None).unwrap()));
        assert_eq!(bed.client.rules(None).unwrap().len(), STREAMS);
        let seen = streams.received();
        eventually("all streams flow", || streams.received() > seen + 2_000);
        let (sent, arrived) = streams.stop(&mut bed);
        assert!(arrived.iter().all(|stream| stream.out_of_place == 0), "{arrived:?}");
        // A rule that changes workers changes sockets: in the moment between two filters a frame is let through by both.
        let (sent, counted) = (sent * STREAMS as u64, law::input(&law::at_rest(&mut bed.client), "in0").datagrams);
        assert!(sent.abs_diff(counted) <= sent / 200, "{sent} sent, {counted} counted");
    }
}

in_cells! {
    packet_uring = PACKET_URING, udp_uring = UDP_URING, udp_syscalls = UDP_SYSCALLS;
    fn rules_of_a_worker_that_stays_away_are_carried_by_another(cell) {
        let mut bed = Bed::with_workers(cell, 1, 2);
        let streams = Streams::start(&mut bed, 8, 200);
        let rules = bed.client.rules(None).unwrap();
        let own: Vec<_> = rules.iter().filter(|rule| rule.worker == 0).map(|rule| rule.id).collect();
        assert!(!own.is_empty() && own.len() < rules.len(), "both workers carry rules");
        // Three deaths in a row: the next back-off is 2 s, of which a second passes before the other takes over.
        for _ in 0..4 {
            eventually("worker 0 runs", || bed.client.workers().unwrap()[0].state == WorkerState::Running);
            signal(worker_pid(&mut bed.client, 0).unwrap(), Signal::SIGKILL);
            eventually("its end is noticed", || bed.client.workers().unwrap()[0].state != WorkerState::Running);
        }
        eventually("worker 1 carries all rules", || {
            bed.client.rules(None).unwrap().iter().all(|rule| rule.worker == 1)
        });
        let seen = streams.received();
        eventually("all streams flow", || streams.received() > seen + 1_000);
        eventually("worker 0 has its rules back", || {
            let rules = bed.client.rules(None).unwrap();
            rules.iter().all(|rule| (rule.worker == 0) == own.contains(&rule.id))
        });
        let seen = streams.received();
        eventually("all streams flow", || streams.received() > seen + 1_000);
        let (_, arrived) = streams.stop(&mut bed);
        assert!(arrived.iter().all(|stream| stream.out_of_place == 0), "{arrived:?}");
    }
}

#[test]
fn a_dead_or_stopped_control_process_comes_back_and_relaying_goes_on() {
    let Some(()) = require::netns() else { return };
    let _lock = mcr_e2e::traffic_lock::take();
    let mut bed = Bed::new(Cell::PACKET_URING, 1);
    let streams = Streams::start(&mut bed, 4, 1_000);
    for how in [Signal::SIGKILL, Signal::SIGSTOP] {
        let control = bed.daemon.control();
        signal(control.pid, how);
        eventually("control is gone", || !control.is_alive());
        eventually("clients are served again", || {
            let options = mcr_client::Options { deadline: Duration::from_millis(500) };
            Client::connect(bed.daemon.socket(), options).is_ok_and(|mut client| client.ping().is_ok())
        });
    }
    bed.client = bed.daemon.client();
    let (sent, arrived) = streams.stop(&mut bed);
    for stream in arrived {
        assert_eq!((stream.received, stream.out_of_place), (sent, 0));
    }
}

#[test]
fn a_thousand_rule_changes_do_not_touch_the_other_rules() {
    let Some(()) = require::netns() else { return };
    let _lock = mcr_e2e::traffic_lock::take();
    let mut bed = Bed::with_workers(Cell::PACKET_URING, 1, 2);
    let streams = Streams::start(&mut bed, 20, 1_000);
    eventually("traffic flows", || streams.received() > 20_000);
    let holdings = holdings(&bed);
    let started = Instant::now();
    for change in 0..500 {
        let (name, input) =
            (format!("extra-{change}"), format!("239.9.{}.{}:5000@in0", change / 250, change % 250));
        bed.add(&name, &input, &["239.8.8.8:7000@out0", "10.2.0.2:7001"]);
        if change >= 10 {
            bed.remove(&format!("extra-{}", change - 10));
        }
        // A thousand changes in ten seconds.
        thread::sleep(Duration::from_millis(20 * (change + 1)).saturating_sub(started.elapsed()));
    }
    (490..500).for_each(|left| bed.remove(&format!("extra-{left}")));
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    eventually("what was held for them is given back", || self::holdings(&bed) == holdings);
    let (sent, arrived) = streams.stop(&mut bed);
    for stream in &arrived {
        assert_eq!((stream.received, stream.out_of_place), (sent, 0));
    }
    bed.finish();
}

/// Descriptors of each process of the daemon, and memberships of its namespace.
fn holdings(bed: &Bed) -> (Vec<usize>, String) {
    let mut pids = vec![bed.daemon.pid()];
    pids.extend(mcr_e2e::processes::descendants(bed.daemon.pid()).iter().map(|process| process.pid));
    let fds = pids.iter().map(|pid| fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count());
    let igmp = bed.line.relay.enter(|| fs::read_to_string("/proc/thread-self/net/igmp").unwrap());
    (fds.collect(), igmp)
}

#[test]
fn two_hundred_changes_of_interfaces_end_in_the_right_state() {
    let Some(()) = require::netns() else { return };
    let _lock = mcr_e2e::traffic_lock::take();
    let mut bed = Bed::with_workers(Cell::PACKET_URING, 1, 2);
    let relay = bed.line.relay.clone();
    let lines: Vec<_> = (0..3).map(|n| format!("flap{n}")).collect();
    for (n, name) in lines.iter().enumerate() {
        bed.add_in_any_state(name, &format!("239.1.2.{n}:5000@{name}"), &[&format!("239.2.3.{n}:6000@out0")]);
    }
    bed.add("steady", "239.1.1.1:5000@in0", &["239.2.2.2:6000@out0"]);
    let mut dice = Dice(11);
    // Each interface is there under its own name, under another, or not at all.
    for _ in 0..200 {
        let n = dice.roll(lines.len());
        let (name, other) = (lines[n].as_str(), format!("other{n}"));
        let (here, away) = (relay.link(name).is_ok(), relay.link(&other).is_ok());
        match (here, away, dice.roll(6)) {
            (false, false, _) => make(&bed, n, name),
            (false, true, 0..=2) => {
                // A link that is up cannot be renamed on every kernel.
                relay.set_down(&other).unwrap();
                relay.rename_link(&other, name).unwrap();
                relay.set_up(name).unwrap();
            }
            (false, true, _) => relay.delete_link(&other).unwrap(),
            (true, _, 0) => relay.delete_link(name).unwrap(),
            (true, _, 1) => {
                relay.set_down(name).unwrap();
                relay.rename_link(name, &other).unwrap();
            }
            (true, _, 2 | 3) => relay.set_down(name).unwrap(),
            (true, _, 4) => relay.set_up(name).unwrap(),
            (true, ..) => {
                let _ = relay.delete_address(name, format!("10.7.{n}.1").parse().unwrap(), 24);
                relay.add_address(name, format!("10.7.{n}.1").parse().unwrap(), 24).unwrap();
            }
        }
    }
    for (n, name) in lines.iter().enumerate() {
        let other = format!("other{n}");
        if relay.link(&other).is_ok() {
            relay.delete_link(&other).unwrap();
        }
        if relay.link(name).is_err() {
            make(&bed, n, name);
        }
        relay.set_up(name).unwrap();
    }
    let settled = Instant::now();
    eventually("all rules are active", || {
        bed.client.rules(None).unwrap().iter().all(|rule| rule.state == RuleState::Active)
    });
    assert!(settled.elapsed() < Duration::from_secs(1), "{:?}", settled.elapsed());
    for (n, name) in lines.iter().enumerate() {
        let sink = bed.sink(0, &format!("239.2.3.{n}:6000@dst0"));
        let payloads = mcr_e2e::source::payloads(n as u64, [1316; 100]);
        let far = bed.line.source.clone();
        let source = mcr_e2e::Source::open(&far, &format!("10.7.{n}.2:0"), &format!("239.1.2.{n}:5000"));
        far.add_route(Some((format!("239.1.2.{n}").parse().unwrap(), 32)), None, &format!("far{n}")).unwrap();
        source.send(&payloads);
        sink.expect(&payloads);
        let stats = bed.at_rest();
        assert_eq!(law::rule(&stats, name).datagrams, 100);
    }
    let workers = bed.client.workers().unwrap();
    assert!(workers.iter().all(|worker| worker.restarts == 0), "{workers:?}");
}

/// A cable from the source to the relay, up at both ends.
fn make(bed: &Bed, n: usize, name: &str) {
    let far = format!("far{n}");
    veth((&bed.line.relay, name), (&bed.line.source, &far)).unwrap();
    bed.line.source.add_address(&far, format!("10.7.{n}.2").parse().unwrap(), 24).unwrap();
    bed.line.source.set_up(&far).unwrap();
    bed.line.relay.set_up(name).unwrap();
    bed.line.relay.add_address(name, format!("10.7.{n}.1").parse().unwrap(), 24).unwrap();
}
