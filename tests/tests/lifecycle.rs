//! Starting, stopping, dying and coming back; what is held meanwhile, and what is left behind.
#![allow(clippy::unwrap_used)] // A test has no better answer to an error than to fail.

use std::{
    fs,
    num::NonZeroU64,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use mcr_client::{Client, Options};
use mcr_e2e::{
    Bed, Cell, Daemon, DaemonOptions, Sink, Source, StopOnDrop, daemon, eventually, held::Held,
    in_every_cell, law, programs, source, traffic_lock,
};
use mcr_gen::{Progress, Receiver, RecvOptions, RecvReport, SendOptions, SendReport, Sender, Stop};
use mcr_lab::{Line, Namespace, require, veth};
use mcr_proto::{
    message::{RuleState, WorkerState},
    rpc::rule_ref,
    rule::{Datapath, RuleSpec},
};
use nix::sys::signal::Signal;

const INPUT: &str = "239.1.1.1:5000@in0";
const TO: &str = "239.1.1.1:5000";
const OUTPUT: &str = "239.2.2.2:6000@out0";
const LISTEN: &str = "239.2.2.2:6000@dst0";
/// A worker that died is back at work within this time.
const BACK_WITHIN: Duration = Duration::from_secs(2);
/// What a worker can have in its hands when it is killed (its receive buffers).
const IN_HAND_MAX: u64 = 256;

/// Sends a thousand datagrams a second while `meanwhile` runs, which is told how many have arrived; then until all that are
/// on their way have.
fn under_traffic<T>(line: &Line, meanwhile: impl FnOnce(&Progress) -> T) -> (SendReport, RecvReport, T) {
    let receiver = RecvOptions::new(LISTEN.parse().unwrap());
    let receiver = line.sinks[0].enter(|| Receiver::open(&receiver)).unwrap();
    let mut options =
        SendOptions::new(format!("{TO}@src0").parse().unwrap(), Stop::After { count: 1_000_000 });
    options.rate_pps = NonZeroU64::new(1_000);
    let sender = line.source.enter(|| Sender::open(&options)).unwrap();
    let (sending, receiving) = (Progress::new(), Progress::new());
    thread::scope(|scope| {
        let _stop = (StopOnDrop(&sending), StopOnDrop(&receiving));
        let received = scope.spawn(|| receiver.run(&receiving).unwrap());
        let sent = scope.spawn(|| source::on_one_core(|| sender.run(&sending).unwrap()));
        let result = meanwhile(&receiving);
        sending.stop();
        let sent = sent.join().unwrap();
        // The last one in order is the last to come; what is missing then was lost.
        eventually("the last datagram came", || receiving.datagrams() + receiving.lost() >= sent.sent);
        receiving.stop();
        (sent, received.join().unwrap(), result)
    })
}

/// Waits until `more` datagrams have come since now.
fn wait_for_more(receiving: &Progress, more: u64) {
    let before = receiving.datagrams();
    eventually("datagrams come", || receiving.datagrams() >= before + more);
}

/// The state of the only rule.
fn state(bed: &mut Bed) -> RuleState {
    bed.client.rules(None).unwrap()[0].state
}

/// A network and, while its traffic may flow, the lock.
fn line() -> Option<(traffic_lock::TrafficLock, Line)> {
    require::netns()?;
    let lock = traffic_lock::take();
    let line = Line::new().unwrap();
    line.pin_neighbours().unwrap();
    Some((lock, line))
}

in_every_cell! {
    fn an_idle_daemon_holds_no_sockets_and_no_memberships(cell) {
        let line = Line::new().unwrap();
        let before = Held::of(&line.relay);
        assert_eq!((before.packet, before.udp, before.raw), (0, 0, 0));
        let daemon = Daemon::start(&line.relay, &cell.daemon(2));
        assert_eq!(Held::of(&line.relay), before);
        let mut client = daemon.client();
        let rules = [
            cell.rule("a", INPUT, &[OUTPUT, "10.2.0.2:7000,source=keep"]),
            cell.rule("b", "10.1.0.2:5000@in0", &[OUTPUT]),
            cell.rule("c", "10.1.0.9>232.1.1.1:5000@in0", &[OUTPUT]),
            cell.rule("d", "[ff15::1]:5000@in0", &["[ff15::2]:6000@out0"]),
        ];
        for rule in &rules {
            assert_eq!(client.rule_add(rule).unwrap().rule.state, RuleState::Active);
        }
        let during = Held::of(&line.relay);
        assert_eq!(during.packet > 0, cell.datapath == Datapath::Packet, "{during:?}");
        // Copies that keep the source leave by raw sockets, but for those of the kernel path.
        assert_eq!(during.raw > 0, cell.datapath != Datapath::Kernel, "{during:?}");
        assert!(during.udp > 0, "{during:?}");
        assert_eq!(during.groups.difference(&before.groups).count(), 3, "{during:?}");
        for rule in rules {
            client.rule_remove(&rule_ref(rule.name.unwrap().as_ref()).unwrap()).unwrap();
        }
        eventually("everything is given back", || Held::of(&line.relay) == before);
        daemon.stop();
    }

    fn a_killed_worker_is_back_in_time_and_no_counter_goes_back(cell) {
        let mut bed = Bed::new(cell, 1);
        bed.add("rule", INPUT, &[OUTPUT]);
        let Bed { client, line, .. } = &mut bed;
        let (sent, received, before) = under_traffic(line, |receiving| {
            wait_for_more(receiving, 200);
            let worker = client.workers().unwrap().remove(0);
            let before = law::read(client);
            daemon::signal(worker.pid.unwrap(), Signal::SIGKILL);
            let killed = Instant::now();
            eventually("the worker was found dead", || client.workers().unwrap()[0].pid != worker.pid);
            let dead = law::read(client);
            law::assert_forward(&before, &dead);
            assert_eq!(dead.rules.len(), 1, "the rule is still there");
            eventually("the worker is back", || {
                let now = client.workers().unwrap().remove(0);
                now.state == WorkerState::Running && now.applied_generation == now.desired_generation
            });
            wait_for_more(receiving, 200);
            let took = killed.elapsed();
            assert!(took < BACK_WITHIN, "relaying went on only after {took:?}");
            assert_eq!(client.workers().unwrap()[0].restarts, 1);
            assert_eq!(client.rules(None).unwrap()[0].state, RuleState::Active);
            before
        });
        assert_eq!((received.duplicates, received.reordered, received.corrupt), (0, 0, 0));
        let missing = received.missing_of(&sent);
        assert!(missing <= IN_HAND_MAX, "{missing} of {} were lost; the kernel should have kept them", sent.sent);
        let after = law::read(client);
        law::assert_forward(&before, &after);
        let rule = law::rule(&after, "rule");
        assert!(rule.datagrams <= sent.sent && rule.datagrams + IN_HAND_MAX >= sent.sent, "{rule:?}");
        bed.daemon.stop();
    }

    fn a_rule_pauses_while_its_input_is_down_and_goes_on_after(cell) {
        let mut bed = Bed::new(cell, 1);
        bed.add("rule", INPUT, &[OUTPUT]);
        let (sink, payloads) = (bed.sink(0, LISTEN), source::assorted(1, false));
        bed.line.relay.set_down("in0").unwrap();
        eventually("the rule is paused", || state(&mut bed) == RuleState::Paused);
        bed.line.relay.set_up("in0").unwrap();
        bed.line.source.wait_running("src0").unwrap();
        bed.wait_active("rule");
        bed.source(TO).send(&payloads);
        sink.expect(&payloads);
        assert_eq!(law::rule(&bed.at_rest(), "rule").datagrams, 200);
        bed.daemon.stop();
    }

    fn a_rule_follows_its_input_through_removal_and_return(cell) {
        let mut bed = Bed::new(cell, 1);
        bed.add("rule", INPUT, &[OUTPUT]);
        let (sink, payloads) = (bed.sink(0, LISTEN), source::assorted(1, false));
        bed.line.relay.delete_link("in0").unwrap();
        eventually("the rule is unresolved", || state(&mut bed) == RuleState::Unresolved);
        let source = &bed.line.source;
        veth((source, "src0"), (&bed.line.relay, "in0")).unwrap();
        source.set_up("src0").unwrap();
        source.add_address("src0", [10, 1, 0, 1].into(), 24).unwrap();
        source.add_multicast_route("src0").unwrap();
        bed.line.relay.set_up("in0").unwrap();
        bed.line.relay.add_address("in0", [10, 1, 0, 2].into(), 24).unwrap();
        bed.line.source.wait_running("src0").unwrap();
        bed.wait_active("rule");
        bed.source(TO).send(&payloads);
        sink.expect(&payloads);
        assert_eq!(law::rule(&bed.at_rest(), "rule").datagrams, 200);
        bed.daemon.stop();
    }
}

/// What the first statistics of a daemon tell of the rate of a stream of 1,000 a second.
fn first_rate(cell: Cell) -> Option<f64> {
    let (_lock, line) = line()?;
    let daemon = Daemon::start(&line.relay, &cell.daemon(1));
    let mut client = daemon.client();
    client.rule_add(&cell.rule("rule", INPUT, &[OUTPUT])).unwrap();
    let (_, _, rate) = under_traffic(&line, |receiving| {
        wait_for_more(receiving, 500);
        law::rule(&client.stats(None).unwrap(), "rule").rate_pps
    });
    daemon.stop();
    Some(rate)
}

/// Counts of the kernel data path are brought to where they are read from time to time only.
#[test]
fn the_first_statistics_tell_the_rate_on_each_path() {
    let is_right = |rate: &f64| (500.0..2_000.0).contains(rate);
    for cell in [Cell::KERNEL, Cell::PACKET_URING] {
        let mut rates = Vec::new();
        // A busy host may hold the sender up just then.
        while rates.len() < 3 && !rates.last().is_some_and(is_right) {
            let Some(rate) = first_rate(cell) else { return };
            rates.push(rate);
        }
        assert!(rates.last().is_some_and(is_right), "{rates:?} of 1,000 a second");
    }
}

#[test]
fn a_killed_control_process_comes_back_and_costs_no_datagram() {
    let Some((_lock, line)) = line() else { return };
    let daemon = Daemon::start(&line.relay, &DaemonOptions::default());
    let rule = RuleSpec::new(INPUT.parse().unwrap(), vec![OUTPUT.parse().unwrap()]);
    let before = daemon.client().rule_add(&rule).unwrap().rule;
    let (sent, received, ()) = under_traffic(&line, |receiving| {
        wait_for_more(receiving, 100);
        let control = daemon.control();
        daemon::signal(control.pid, Signal::SIGKILL);
        eventually("the control process is dead", || !control.is_alive());
        eventually("clients are served again", || {
            Client::connect(daemon.socket(), Options::default()).is_ok_and(|mut client| client.ping().is_ok())
        });
        assert_eq!(daemon.client().rules(None).unwrap(), [before]);
        wait_for_more(receiving, 100);
    });
    assert_eq!((received.received, received.lost), (sent.sent, 0));
    assert_eq!(law::at_rest(&mut daemon.client()).rules[0].datagrams, sent.sent);
    daemon.stop();
}

#[test]
fn a_killed_daemon_leaves_no_process_and_the_next_one_starts() {
    let Some(()) = require::netns() else { return };
    let namespace = Namespace::new().unwrap();
    let directory = programs::directory_for_everyone();
    let socket = directory.path().join("mcrd.sock");
    let options = DaemonOptions { workers: 2, ..DaemonOptions::default() };
    let first = Daemon::start_at(&namespace, &options, &socket);
    // One that is stopped notices nothing by itself.
    let stopped = first.client().workers().unwrap()[0].pid.unwrap();
    daemon::signal(stopped, Signal::SIGSTOP);
    let children = first.kill();
    assert_eq!(children.len(), 3, "two workers and a control process");
    let gone = || children.iter().all(|child| !child.is_alive());
    mcr_lab::wait_until(Duration::from_secs(1), "its children have ended", gone).unwrap();
    assert!(socket.exists(), "it had no time to remove it");
    let second = Daemon::start_at(&namespace, &options, &socket);
    second.client().ping().unwrap();
    second.stop();
}

#[test]
fn a_daemon_stops_in_time_under_load_and_on_sigint() {
    let Some((_lock, line)) = line() else { return };
    let daemon = Daemon::start(&line.relay, &DaemonOptions { workers: 2, ..DaemonOptions::default() });
    let rule = RuleSpec::new(INPUT.parse().unwrap(), vec![OUTPUT.parse().unwrap()]);
    daemon.client().rule_add(&rule).unwrap();
    let options = SendOptions {
        rate_pps: NonZeroU64::new(50_000),
        ..SendOptions::new(format!("{TO}@src0").parse().unwrap(), Stop::After { count: 1_000_000 })
    };
    let sender = line.source.enter(|| Sender::open(&options)).unwrap();
    let sending = Progress::new();
    thread::scope(|scope| {
        let _stop = StopOnDrop(&sending);
        let thread = scope.spawn(|| source::on_one_core(|| sender.run(&sending).unwrap()));
        eventually("it relays", || daemon.client().stats(None).unwrap().rules[0].outputs[0].copies > 10_000);
        daemon.stop();
        sending.stop();
        thread.join().unwrap();
    });
    let held = Held::of(&line.relay);
    assert_eq!((held.packet, held.udp, held.raw), (0, 0, 0));

    let daemon = Daemon::start(&line.relay, &DaemonOptions::default());
    daemon::signal(daemon.pid(), Signal::SIGINT);
    let socket = daemon.socket().to_owned();
    eventually("its socket is gone", || !socket.exists());
}

#[test]
fn rules_of_the_configuration_relay_from_the_start() {
    let Some((_lock, line)) = line() else { return };
    let config =
        format!("[[rule]]\nname = \"from-file\"\ninput = \"{INPUT}\"\noutputs = [\"{OUTPUT},ttl=5\"]\n");
    let options = DaemonOptions { config: Some(config), ..DaemonOptions::default() };
    let daemon = Daemon::start(&line.relay, &options);
    let mut client = daemon.client();
    eventually("the rule is in place", || {
        client.rules(None).unwrap().iter().any(|rule| rule.state == RuleState::Active)
    });
    let (sink, payloads) = (Sink::open(&line.sinks[0], LISTEN), source::assorted(1, false));
    Source::open(&line.source, "10.1.0.1:0", TO).send(&payloads);
    assert!(sink.expect(&payloads).iter().all(|received| received.ttl == 5));
    assert_eq!(law::rule(&law::at_rest(&mut client), "from-file").datagrams, 200);
    daemon.stop();
}

#[test]
fn an_ordinary_user_relays_by_the_udp_path() {
    let Some((_lock, line)) = line() else { return };
    let options = DaemonOptions { user: Some(65_534), ..DaemonOptions::default() };
    let daemon = Daemon::start(&line.relay, &options);
    let mut client = daemon.client();
    let rule = RuleSpec::new(
        INPUT.parse().unwrap(),
        vec![OUTPUT.parse().unwrap(), "10.2.0.2:7000".parse().unwrap()],
    );
    let added = client.rule_add(&rule).unwrap().rule;
    assert_eq!((added.state, added.datapath), (RuleState::Active, Some(Datapath::Udp)), "{added:?}");
    assert!(added.datapath_reason.contains("CAP_NET_RAW"), "{added:?}");
    let (sinks, payloads) = (
        [LISTEN, "10.2.0.2:7000"].map(|place| Sink::open(&line.sinks[0], place)),
        source::assorted(1, false),
    );
    Source::open(&line.source, "10.1.0.1:0", TO).send(&payloads);
    sinks.iter().for_each(|sink| drop(sink.expect(&payloads)));
    let stats = law::at_rest(&mut client);
    assert_eq!((stats.rules[0].datagrams, law::input(&stats, "in0").datagrams), (200, 200));
    // A rule that needs a right is refused with the reason, not silently.
    let mut keep =
        RuleSpec::new(INPUT.parse().unwrap(), vec![format!("{OUTPUT},source=keep").parse().unwrap()]);
    keep.name = Some("keep".parse().unwrap());
    let failed = client.rule_add(&keep).unwrap().rule;
    assert_eq!(failed.state, RuleState::Failed);
    assert!(failed.reason.unwrap().contains("CAP_NET_RAW"));
    daemon.stop();
}

#[test]
fn a_signal_while_it_starts_ends_it_and_leaves_no_socket() {
    if require::netns().is_none() {
        return;
    }
    let namespace = Namespace::new().unwrap();
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let directory = programs::directory_for_everyone();
        let socket = directory.path().join("mcrd.sock");
        let mut command = Command::new(programs::program("mcrd"));
        command.args(["run", "--socket"]).arg(&socket);
        let mut child = namespace.enter(|| command.spawn()).unwrap();
        // The first thing there is that could be left behind.
        eventually("it listens", || socket.exists());
        daemon::signal(child.id(), signal);
        assert_eq!(child.wait().unwrap().code(), Some(0), "{signal}");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "{signal}");
    }
}
