//! Rules that change their worker while datagrams flow.
#![allow(clippy::unwrap_used)] // A test has no better answer to an error than to fail.

use std::thread::{self, JoinHandle};

use mcr_e2e::{
    Bed, Cell,
    daemon::signal,
    eventually, in_udp_cells, law,
    streams::{Kind, Streams},
};
use mcr_proto::{
    message::WorkerState,
    rpc::{WorkerInfo, rule_ref},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

const STREAMS: usize = 4;
const WORKERS: u16 = 3;
/// Datagrams a second of each stream.
const RATE: u32 = 1_000;
const MOVES: u16 = 60;
/// A worker that is stopped is replaced after 2 s, and on a slow machine that may be too short for what is tried meanwhile.
const TRIALS: usize = 5;

fn worker(bed: &mut Bed, index: usize) -> WorkerInfo {
    bed.client.workers().unwrap().swap_remove(index)
}

/// Moves a rule where the worker does not answer; returns when the supervisor has done its part.
fn begin_move(bed: &mut Bed, rule: &str, to: u16) -> JoinHandle<()> {
    let name = rule_ref(rule).unwrap();
    let asking = thread::spawn({
        let (mut client, name) = (bed.daemon.client(), name.clone());
        // It is told that the worker is busy, sooner or later.
        move || _ = client.rule_move(&name, to)
    });
    eventually("the rule is moved", || bed.client.rules(Some(&name)).unwrap()[0].worker == to);
    asking
}

/// Wakes a worker that was stopped; false if it is gone.
fn go_on(pid: u32) -> bool {
    kill(Pid::from_raw(pid as i32), Signal::SIGCONT).is_ok()
}

/// A rule goes to a worker that has yet to answer its last plan, and on from there. False if the worker was replaced meanwhile.
fn pass_through_a_busy_worker(cell: Cell) -> bool {
    let mut bed = Bed::with_workers(cell, 1, 2);
    let streams = Streams::start(&mut bed, 1, RATE);
    bed.add("other", "239.1.1.77:5000@in0", &["239.9.9.9:7000@out0"]);
    for rule in ["stream-0", "other"] {
        assert_eq!(bed.client.rule_move(&rule_ref(rule).unwrap(), 1).unwrap().worker, 1);
    }
    eventually("traffic flows", || streams.received() > 100);
    let busy = worker(&mut bed, 0).pid.unwrap();
    signal(busy, Signal::SIGSTOP);
    let asking = [
        begin_move(&mut bed, "other", 0),
        // Of this one's socket it is not told before it has answered.
        begin_move(&mut bed, "stream-0", 0),
        begin_move(&mut bed, "stream-0", 1),
    ];
    let is_there = go_on(busy);
    asking.into_iter().for_each(|asking| asking.join().unwrap());
    bed.wait_applied();
    let seen = streams.received();
    eventually("the stream flows", || streams.received() > seen + 100);
    let (sent, arrived) = streams.stop(&mut bed);
    if !is_there || worker(&mut bed, 0).restarts > 0 {
        return false;
    }
    assert_eq!((arrived[0].received, arrived[0].out_of_place), (sent, 0), "{arrived:?}");
    bed.finish();
    true
}

in_udp_cells! {
    fn a_rule_with_a_udp_socket_changes_its_worker_and_each_datagram_comes_once_and_in_its_turn(cell) {
        let mut bed = Bed::with_workers(cell, 1, WORKERS);
        let streams = Streams::start(&mut bed, STREAMS, RATE);
        eventually("traffic flows", || streams.received() > 100);
        for round in 0..MOVES {
            for stream in 0..STREAMS {
                let name = rule_ref(&format!("stream-{stream}")).unwrap();
                let to = (round + stream as u16) % WORKERS;
                assert_eq!(bed.client.rule_move(&name, to).unwrap().worker, to);
            }
            // Each move under traffic, those of the slowest machine as well.
            let seen = streams.received();
            eventually("the streams flow", || streams.received() > seen);
        }
        let (sent, arrived) = streams.stop(&mut bed);
        for (stream, arrived) in arrived.iter().enumerate() {
            assert_eq!((arrived.received, arrived.out_of_place), (sent, 0), "stream {stream}: {arrived:?}");
        }
        let stats = bed.finish();
        let (input, all) = (law::input(&stats, "in0"), sent * STREAMS as u64);
        assert_eq!((input.datagrams, input.matched, input.drops.len()), (all, all, 0), "{input:?}");
    }

    fn rules_of_one_group_change_their_workers_one_by_one_and_the_one_that_stays_gets_all(cell) {
        let mut bed = Bed::with_workers(cell, 1, WORKERS);
        let streams = Streams::start(&mut bed, 1, RATE);
        // Of the same input, so of the same socket.
        bed.add("other", "239.1.1.0:5000@in0", &["239.9.9.9:7000@out0"]);
        let other = rule_ref("other").unwrap();
        eventually("traffic flows", || streams.received() > 100);
        for round in 0..MOVES {
            let to = round % WORKERS;
            assert_eq!(bed.client.rule_move(&other, to).unwrap().worker, to);
            let seen = streams.received();
            eventually("the stream flows", || streams.received() > seen);
        }
        let (sent, arrived) = streams.stop(&mut bed);
        assert_eq!((arrived[0].received, arrived[0].out_of_place), (sent, 0), "{arrived:?}");
        let stats = bed.finish();
        assert_eq!(law::rule(&stats, "stream-0").datagrams, sent);
    }

    // The kernel gives what is sent to an address of the host to one socket only.
    fn rules_that_share_an_address_of_the_host_stay_at_one_worker(cell) {
        let mut bed = Bed::with_workers(cell, 1, 2);
        let streams = Streams::start_of(Kind::Hosts, &mut bed, 1, RATE);
        bed.add("other", &Kind::Hosts.input(0), &["239.9.9.9:7000@out0"]);
        let other = rule_ref("other").unwrap();
        let here = bed.client.rules(Some(&other)).unwrap()[0].worker;
        let refused = bed.client.rule_move(&other, 1 - here).unwrap_err().to_string();
        assert!(refused.contains("rule stream-0 takes"), "{refused}");
        assert_eq!(bed.client.rule_move(&other, here).unwrap().worker, here);
        bed.remove("other");
        let alone = rule_ref("stream-0").unwrap();
        for to in [1 - here, here] {
            assert_eq!(bed.client.rule_move(&alone, to).unwrap().worker, to);
            let seen = streams.received();
            eventually("the stream flows", || streams.received() > seen + 20);
        }
        let (sent, arrived) = streams.stop(&mut bed);
        assert_eq!((arrived[0].received, arrived[0].out_of_place), (sent, 0), "{arrived:?}");
        bed.finish();
    }

    fn a_rule_that_passes_through_a_worker_that_does_not_listen_leaves_it_able_to_go_on(cell) {
        assert!((0..TRIALS).any(|_| pass_through_a_busy_worker(cell)), "the machine is too slow for this test");
    }

    fn a_worker_that_dies_while_a_rule_leaves_it_is_back_and_whole_at_once(cell) {
        let mut bed = Bed::with_workers(cell, 1, 2);
        let streams = Streams::start(&mut bed, 1, RATE);
        assert_eq!(bed.client.rule_move(&rule_ref("stream-0").unwrap(), 0).unwrap().worker, 0);
        eventually("traffic flows", || streams.received() > 100);
        let busy = worker(&mut bed, 1).pid.unwrap();
        signal(busy, Signal::SIGSTOP);
        let asking = begin_move(&mut bed, "stream-0", 1);
        let dead = worker(&mut bed, 0).pid.unwrap();
        signal(dead, Signal::SIGKILL);
        eventually("another is there", || worker(&mut bed, 0).pid.is_some_and(|now| now != dead));
        // Where that took long it was replaced.
        go_on(busy);
        asking.join().unwrap();
        eventually("both run", || (0..2).all(|index| worker(&mut bed, index).state == WorkerState::Running));
        bed.wait_applied();
        let seen = streams.received();
        eventually("the stream flows", || streams.received() > seen + 100);
        let (_, arrived) = streams.stop(&mut bed);
        assert_eq!(arrived[0].out_of_place, 0, "{arrived:?}");
        assert_eq!(worker(&mut bed, 0).restarts, 1, "it was given a plan that it could apply");
    }
}
