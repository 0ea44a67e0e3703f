//! Rules whose datagrams come another way from some moment on, while they flow: by another data path, or by the sockets of other classes.
//! Each datagram is relayed once and counted once.
#![allow(clippy::unwrap_used)] // A test has no better answer to an error than to fail.

use std::{thread, time::Duration};

use mcr_e2e::{
    Bed, Cell, Sink,
    daemon::signal,
    eventually, in_packet_cells, in_udp_cells, law,
    streams::{Arrived, Kind, Streams},
    traffic_lock,
};
use mcr_lab::require;
use mcr_proto::{
    message::{RuleState, WorkerState},
    rpc::{ConfigLoad, rule_ref},
    rule::Datapath,
};
use nix::sys::signal::Signal;

const STREAMS: usize = 2;
/// Datagrams a second of each stream.
const RATE: u32 = 2_000;
/// Changes of the way while streams flow.
const MOVES: usize = 8;

/// Loads the rules of streams of a kind, each on this data path and with this line more, and these classes; nothing else is there then.
fn load_of(kind: Kind, client: &mut mcr_client::Client, datapath: &str, classes: &str, line: &str) {
    let rules = (0..STREAMS).map(|stream| {
        let (input, output) = (kind.input(stream), kind.output(stream));
        format!(
            "[[rule]]\nname = \"stream-{stream}\"\ninput = \"{input}\"\noutputs = [\"{output}\"]\n\
             datapath = \"{datapath}\"\n{line}\n"
        )
    });
    load_text(client, format!("{classes}{}", rules.collect::<String>()));
}

fn load_text(client: &mut mcr_client::Client, text: String) {
    let load = ConfigLoad { text, file: None, replace: true };
    client.config_load(&load).unwrap_or_else(|error| panic!("{error}"));
}

/// Loads streams to groups on a data path, with these classes.
fn load(client: &mut mcr_client::Client, datapath: &str, classes: &str) {
    load_of(Kind::Groups, client, datapath, classes, "");
}

/// Has streams flow while `step` is called with 0, 1, 2 and so on.
fn exactly_once(cell: Cell, steps: usize, step: impl FnMut(&mut Bed, usize)) -> Vec<Arrived> {
    exactly_once_of(Kind::Groups, cell, steps, step)
}

/// As [`exactly_once`], with streams of a kind.
fn exactly_once_of(kind: Kind, cell: Cell, steps: usize, step: impl FnMut(&mut Bed, usize)) -> Vec<Arrived> {
    exactly_once_with(kind, Bed::new(cell, 1), 0, steps, step)
}

/// As [`exactly_once_of`], where streams have `others`: rules other-0 and so on of the same inputs, which nobody listens to.
fn exactly_once_with(
    kind: Kind,
    mut bed: Bed,
    others: usize,
    steps: usize,
    mut step: impl FnMut(&mut Bed, usize),
) -> Vec<Arrived> {
    let streams = Streams::start_of(kind, &mut bed, STREAMS, RATE);
    eventually("traffic flows", || streams.received() > 100);
    for number in 0..steps {
        step(&mut bed, number);
        let seen = streams.received();
        eventually("the streams flow", || streams.received() > seen + 20);
    }
    let (sent, arrived) = streams.stop(&mut bed);
    let stats = bed.finish();
    for (stream, arrived) in arrived.iter().enumerate() {
        let all = (arrived.received, arrived.doubled) == (sent, 0);
        assert!(all, "of {sent} of stream {stream}: {arrived:?}; {:#?}", stats.inputs);
    }
    for other in 0..others {
        let of = |name: &str| law::rule(&stats, &format!("{name}-{other}")).datagrams;
        assert_eq!(of("other"), of("stream"), "both have changed together: {:#?}", stats.rules);
    }
    let (input, all) = (law::input(&stats, "in0"), sent * STREAMS as u64);
    assert_eq!((input.datagrams, input.matched, input.drops.len()), (all, all, 0), "{input:?}");
    arrived
}

/// Has streams of a kind flow while their rules go all six ways from path to path.
fn all_directions(kind: Kind) {
    let paths = ["packet", "kernel", "udp", "packet", "udp", "kernel"];
    exactly_once_of(kind, Cell::KERNEL, paths.len(), |bed, number| {
        load_of(kind, &mut bed.client, paths[number], "", "");
    });
}

/// Has streams flow while their rules go from one data path to the other and back.
fn to_and_fro(cell: Cell, paths: [&str; 2]) -> Vec<Arrived> {
    exactly_once(cell, MOVES, |bed, number| load(&mut bed.client, paths[(number + 1) % 2], ""))
}

fn assert_order(arrived: &[Arrived]) {
    assert!(arrived.iter().all(|stream| stream.out_of_place == 0), "{arrived:?}");
}

#[test]
fn rules_move_between_kernel_and_packet_and_each_datagram_is_relayed_once() {
    let Some(()) = require::netns() else { return };
    let _lock = traffic_lock::take();
    to_and_fro(Cell::KERNEL, ["kernel", "packet"]);
}

#[test]
fn rules_move_between_kernel_and_udp_and_each_datagram_is_relayed_once() {
    let Some(()) = require::netns() else { return };
    let _lock = traffic_lock::take();
    to_and_fro(Cell::KERNEL, ["kernel", "udp"]);
}

#[test]
fn rules_move_through_all_paths_though_two_clients_ask_for_different_ones_at_once() {
    let Some(()) = require::netns() else { return };
    let _lock = traffic_lock::take();
    let paths = ["packet", "kernel", "udp", "packet", "udp", "kernel"];
    exactly_once(Cell::KERNEL, MOVES / 2, |bed, number| {
        thread::scope(|scope| {
            for ahead in 0..2 {
                let mut client = bed.daemon.client();
                scope.spawn(move || load(&mut client, paths[(2 * number + ahead) % paths.len()], ""));
            }
        });
    });
}

#[test]
fn rules_are_removed_and_added_again_in_the_midst_of_their_moves_and_nothing_of_them_stays() {
    let Some(()) = require::netns() else { return };
    let _lock = traffic_lock::take();
    let mut bed = Bed::new(Cell::KERNEL, 1);
    let streams = Streams::start(&mut bed, STREAMS, RATE);
    eventually("traffic flows", || streams.received() > 100);
    let paths = ["packet", "kernel", "udp", "kernel", "packet", "udp"];
    for number in 0..MOVES {
        let mut other = bed.daemon.client();
        thread::scope(|scope| {
            scope.spawn(|| load(&mut other, paths[number % paths.len()], ""));
            for stream in 0..STREAMS {
                bed.remove(&format!("stream-{stream}"));
            }
        });
        load(&mut bed.client, paths[number % paths.len()], "");
        let seen = streams.received();
        eventually("the streams flow", || streams.received() > seen + 20);
    }
    let (_, arrived) = streams.stop(&mut bed);
    assert!(arrived.iter().all(|stream| stream.doubled == 0), "{arrived:?}");
    for stream in 0..STREAMS {
        bed.remove(&format!("stream-{stream}"));
    }
    eventually("no socket is left", || bed.client.workers().unwrap()[0].sockets == 0);
    bed.finish();
}

#[test]
fn a_worker_that_dies_in_the_midst_of_moves_loses_what_is_counted_and_nothing_is_doubled() {
    let Some(()) = require::netns() else { return };
    let _lock = traffic_lock::take();
    let mut bed = Bed::new(Cell::KERNEL, 1);
    let streams = Streams::start(&mut bed, STREAMS, RATE);
    eventually("traffic flows", || streams.received() > 100);
    for number in 0..6 {
        let mut other = bed.daemon.client();
        let pid = bed.client.workers().unwrap()[0].pid.unwrap();
        thread::scope(|scope| {
            let kill = scope.spawn(move || {
                thread::sleep(Duration::from_millis(20 * number));
                signal(pid, Signal::SIGKILL);
            });
            // The answer is that the worker is busy, if it died before it had its plan.
            let text = ["packet", "kernel"][number as usize % 2];
            scope.spawn(move || _ = std::panic::catch_unwind(move || load(&mut other, text, "")));
            kill.join().unwrap();
        });
        eventually("the worker is back", || {
            let worker = &bed.client.workers().unwrap()[0];
            worker.state == WorkerState::Running && worker.pid != Some(pid)
        });
        let seen = streams.received();
        eventually("the streams flow", || streams.received() > seen + 1_000);
    }
    let (sent, arrived) = streams.stop(&mut bed);
    assert!(arrived.iter().all(|stream| stream.doubled == 0), "{arrived:?}");
    // What waited for the dead worker counts as lost there, also what the kernel relayed at that time.
    let stats = bed.at_rest();
    let input = law::input(&stats, "in0");
    let outputs = stats.rules.iter().map(|rule| rule.outputs[0].drops["worker_lost"]).sum::<u64>();
    let (all, received) = (sent * STREAMS as u64, arrived.iter().map(|stream| stream.received).sum::<u64>());
    let lost = input.drops.values().sum::<u64>() + outputs;
    assert!(
        input.datagrams >= all && received + lost >= all,
        "{received} of {all} came; {outputs} unknown, {input:?}"
    );
}

in_packet_cells! {
    fn rules_move_between_packet_and_udp_and_each_datagram_is_relayed_once_and_in_its_turn(cell) {
        assert_order(&to_and_fro(cell, ["packet", "udp"]));
    }
}

const CLASSES: [&str; 3] = [
    "",
    "[[class]]\nname = \"some\"\ndscp = [\"ef\"]\npriority = 1\n",
    "[[class]]\nname = \"all\"\ndscp = [\"cs0\"]\npriority = 2\n",
];

in_packet_cells! {
    fn classes_change_and_each_datagram_is_relayed_once_and_in_its_turn(cell) {
        assert_order(&exactly_once(cell, MOVES, |bed, number| {
            load(&mut bed.client, "packet", CLASSES[(number + 1) % 3]);
        }));
    }
}

const ONE: &str = "[[class]]\nname = \"one\"\npriority = 2\n";

in_udp_cells! {
    fn the_class_of_rules_changes_and_each_datagram_is_relayed_once_and_in_its_turn(cell) {
        assert_order(&exactly_once(cell, MOVES, |bed, number| {
            let class = ["", "class = \"one\""][(number + 1) % 2];
            load_of(Kind::Groups, &mut bed.client, "udp", ONE, class);
        }));
    }

    // The kernel gives what is sent to an address of the host to one socket only.
    fn the_class_of_rules_at_an_address_of_the_host_changes_and_each_datagram_is_relayed_once(cell) {
        for kind in [Kind::Hosts, Kind::Hosts6] {
            exactly_once_of(kind, cell, MOVES / 3, |bed, number| {
                let class = ["", "class = \"one\""][(number + 1) % 2];
                load_of(kind, &mut bed.client, "udp", ONE, class);
            });
        }
    }

    // What is divided by the kernel waits for no time, so there is none to be missed.
    fn the_class_of_rules_at_an_address_changes_whenever_the_worker_answers(cell) {
        let mut sockets = None;
        exactly_once_of(Kind::Hosts, cell, 3, |bed, number| {
            let change = |bed: &mut Bed| load_of(Kind::Hosts, &mut bed.client, "udp", ONE, ["", "class = \"one\""][number % 2]);
            if number == 0 {
                return change(bed);
            }
            let worker = bed.client.workers().unwrap().remove(0);
            let (pid, before) = (worker.pid.unwrap(), *sockets.get_or_insert(worker.sockets));
            signal(pid, Signal::SIGSTOP);
            thread::scope(|scope| {
                scope.spawn(|| {
                    thread::sleep(Duration::from_millis(300));
                    signal(pid, Signal::SIGCONT);
                });
                change(bed);
            });
            eventually("the old sockets are closed", || bed.client.workers().unwrap()[0].sockets == before);
        });
    }

    fn a_class_of_rules_at_one_address_is_defined_anew_and_each_datagram_is_relayed_once(cell) {
        let mut bed = Bed::new(cell, 1);
        for stream in 0..STREAMS {
            let output = format!("239.3.3.{stream}:6000@out0");
            bed.add(&format!("other-{stream}"), &Kind::Hosts.input(stream), &[&output]);
        }
        exactly_once_with(Kind::Hosts, bed, STREAMS, MOVES / 3, |bed, number| {
            let class = format!("[[class]]\nname = \"one\"\npriority = {}\n", number % 2 + 1);
            let mut text = class;
            // Two rules for each address, of which one socket takes what both get.
            for (name, group) in [("stream", "239.2.2"), ("other", "239.3.3")] {
                for stream in 0..STREAMS {
                    let input = Kind::Hosts.input(stream);
                    text += &format!(
                        "[[rule]]\nname = \"{name}-{stream}\"\ninput = \"{input}\"\n\
                         outputs = [\"{group}.{stream}:6000@out0\"]\ndatapath = \"udp\"\nclass = \"one\"\n"
                    );
                }
            }
            load_text(&mut bed.client, text);
            let rules = bed.client.rules(None).unwrap();
            assert!(rules.iter().all(|rule| rule.state == RuleState::Active), "{rules:?}");
        });
    }
}

#[test]
fn rules_at_addresses_of_the_host_go_all_ways_and_each_datagram_is_relayed_once() {
    let Some(()) = require::netns() else { return };
    let _lock = traffic_lock::take();
    all_directions(Kind::Hosts);
    all_directions(Kind::Hosts6);
}

#[test]
fn rules_of_ipv6_go_all_ways_and_each_datagram_is_relayed_once() {
    let Some(()) = require::netns() else { return };
    let _lock = traffic_lock::take();
    all_directions(Kind::Groups6);
}

#[test]
fn rules_of_superframes_go_all_ways_and_each_datagram_of_them_is_relayed_once() {
    let Some(()) = require::netns() else { return };
    let _lock = traffic_lock::take();
    all_directions(Kind::Superframes);
}

/// Waits until `auto` has taken a path for all rules.
fn wait_for(bed: &mut Bed, datapath: Datapath) {
    eventually(&format!("rules go by {datapath}"), || {
        let rules = bed.client.rules(None).unwrap();
        rules.iter().all(|rule| (rule.state, rule.datapath) == (RuleState::Active, Some(datapath)))
    });
}

#[test]
fn auto_takes_another_path_when_an_output_becomes_too_small_and_each_datagram_is_relayed_once() {
    let Some(()) = require::netns() else { return };
    let _lock = traffic_lock::take();
    let mut listener = None;
    exactly_once(Cell::KERNEL, MOVES, |bed, number| match number {
        0 => load(&mut bed.client, "auto", ""),
        // The MTU is smaller than the input's, so that the kernel path would drop what others send as fragments.
        _ => {
            let (mtu, datapath) = [(1500, Datapath::Kernel), (1400, Datapath::Packet)][number % 2];
            bed.line.relay.set_mtu("out0", mtu).unwrap();
            wait_for(bed, datapath);
            // Somebody on this host who wants the datagrams, too, comes and goes meanwhile.
            listener = match listener.take() {
                None => Some(Sink::open(&bed.line.relay, "239.1.1.0:5000@in0")),
                Some(_) => None,
            };
        }
    });
}

#[test]
fn auto_takes_another_path_when_classes_by_dscp_come_and_go_and_each_datagram_is_relayed_once() {
    let Some(()) = require::netns() else { return };
    let _lock = traffic_lock::take();
    exactly_once(Cell::KERNEL, MOVES, |bed, number| {
        let (classes, datapath) = [("", Datapath::Kernel), (CLASSES[1], Datapath::Packet)][number % 2];
        load(&mut bed.client, "auto", classes);
        wait_for(bed, datapath);
    });
}

/// Datagrams a second that outputs are capped to, and how many of them may leave at once (50 ms of that).
const CAP: u64 = 400;
const BURST: u64 = CAP / 20 + 1;

#[test]
fn an_output_with_a_cap_gets_no_burst_more_by_changes_of_class_and_worker() {
    let Some(()) = require::netns() else { return };
    let _lock = traffic_lock::take();
    for cell in [Cell::UDP_URING, Cell::PACKET_URING] {
        let mut bed = Bed::with_workers(cell, 1, 2);
        let keys = format!(",rate={CAP}pps");
        let streams = Streams::start_with(Kind::Groups, &mut bed, STREAMS, RATE, &keys);
        for number in 0..MOVES {
            let class = ["class = \"one\"", ""][number % 2];
            let rules = (0..STREAMS).map(|stream| {
                let (input, output) = (Kind::Groups.input(stream), Kind::Groups.output(stream));
                format!(
                    "[[rule]]\nname = \"stream-{stream}\"\ninput = \"{input}\"\noutputs = [\"{output}{keys}\"]\n\
                     datapath = \"{}\"\n{class}\n",
                    cell.datapath
                )
            });
            load_text(&mut bed.client, format!("{ONE}{}", rules.collect::<String>()));
            for stream in 0..STREAMS {
                let rule = rule_ref(&format!("stream-{stream}")).unwrap();
                let to = (number + stream) as u16 % 2;
                assert_eq!(bed.client.rule_move(&rule, to).unwrap().worker, to);
            }
            let seen = streams.received();
            eventually("the streams flow", || streams.received() > seen + 20);
        }
        // What of a packet rule arrives between the filters of two workers goes by neither, so that not all is there.
        let (_, arrived) = streams.stop(&mut bed);
        bed.finish();
        for arrived in &arrived {
            // A worker that takes a rule over has room for one datagram, so that nobody loses any who keeps to the rate, and goes on with that rate while
            // the one before relays what it has; a burst more each time would be twice of what is allowed here.
            let most =
                CAP * (arrived.within.as_millis() as u64 + 1) / 1000 + BURST + MOVES as u64 * BURST / 2;
            assert!(arrived.doubled == 0 && arrived.received <= most, "{most} at most: {arrived:?}");
        }
    }
}
