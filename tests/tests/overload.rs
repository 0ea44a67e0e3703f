//! More than can be done, and less than was hoped for: a worker that cannot keep up, and a kernel without io_uring.
#![allow(clippy::unwrap_used)] // A test has no better answer to an error than to fail.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use mcr_e2e::{Bed, Cell, Daemon, DaemonOptions, Sink, StopOnDrop, in_worker_cells, law, source};
use mcr_gen::{Progress, Receiver, RecvOptions, SendOptions, Sender, Stop};
use mcr_lab::{Line, require};
use mcr_proto::message::IoChoice;

/// Copies of each datagram, made one by one because they keep its source: what makes a worker slow.
const FAN_OUT: usize = 8;
/// Several times what the receive buffer holds and the worker relays meanwhile.
const BURST: u64 = 60_000;

/// Datagrams that the worker has relayed.
fn relayed(bed: &mut Bed) -> u64 {
    law::rule(&law::read(&mut bed.client), "fan").datagrams
}

// The `kernel` path has no worker that could be overloaded.
in_worker_cells! {
    fn an_overloaded_worker_relays_on_and_what_it_cannot_take_is_counted(cell) {
        let mut bed = Bed::new(cell, 1);
        let outputs: Vec<_> = (0..FAN_OUT).map(|index| format!("239.2.2.{index}:6000@out0,source=keep")).collect();
        bed.add("fan", "239.1.1.1:5000@in0", &outputs.iter().map(String::as_str).collect::<Vec<_>>());
        let receiver = RecvOptions::new("239.2.2.7:6000@dst0".parse().unwrap());
        let receiver = bed.line.sinks[0].enter(|| Receiver::open(&receiver)).unwrap();
        let mut options = SendOptions::new("239.1.1.1:5000@src0".parse().unwrap(), Stop::After { count: BURST });
        // As fast as it can.
        (options.payload_bytes, options.rate_pps) = (1_200, None);
        let sender = bed.line.source.enter(|| Sender::open(&options)).unwrap();
        let (sending, receiving) = (Progress::new(), Progress::new());
        let (sent, received, loaded, unloaded) = thread::scope(|scope| {
            let _stop = (StopOnDrop(&sending), StopOnDrop(&receiving));
            let received = scope.spawn(|| receiver.run(&receiving).unwrap());
            let started = Instant::now();
            let sender = scope.spawn(|| source::on_one_core(|| sender.run(&sending).unwrap()));
            let sent = sender.join().unwrap();
            let (during, under_load) = (relayed(&mut bed), started.elapsed());
            // What waits in the receive buffer is relayed with nothing new coming in.
            let begun = Instant::now();
            let drained = loop {
                thread::sleep(Duration::from_millis(50));
                let now = relayed(&mut bed);
                if now - during >= 1_000 || begun.elapsed() > Duration::from_secs(5) {
                    break now - during;
                }
            };
            let unloaded = drained as f64 / begun.elapsed().as_secs_f64();
            bed.at_rest();
            receiving.stop();
            (sent.sent, received.join().unwrap(), during as f64 / under_load.as_secs_f64(), unloaded)
        });
        let stats = bed.finish();
        let (input, rule) = (law::input(&stats, "in0"), law::rule(&stats, "fan"));
        assert_eq!((sent, input.datagrams), (BURST, BURST), "{input:?}");
        assert!(input.matched < BURST, "it was no overload");
        assert_eq!(input.drops, BTreeMap::from([("kernel_ring".to_owned(), BURST - input.matched)]));
        for output in &rule.outputs {
            assert_eq!((output.copies, law::drops(output)), (input.matched, BTreeMap::new()), "{}", output.output);
        }
        assert_eq!((received.received, received.duplicates, received.reordered, received.corrupt), (input.matched, 0, 0, 0));
        // It shares its cores with the sender, which takes what it gets.
        assert!(loaded > unloaded / 4.0, "{loaded:.0}/s under load, {unloaded:.0}/s without");
    }
}

/// A daemon that the kernel refuses io_uring with this errno.
fn without_io_uring(errno: i32) {
    let Some(()) = require::netns() else { return };
    let _lock = mcr_e2e::traffic_lock::take();
    for cell in [Cell::PACKET_SYSCALLS, Cell::UDP_SYSCALLS] {
        let line = Line::with_outputs(1).unwrap();
        line.pin_neighbours().unwrap();
        let options =
            DaemonOptions { workers: 2, no_uring: u32::try_from(errno).ok(), ..DaemonOptions::default() };
        let daemon = Daemon::start(&line.relay, &options);
        let client = daemon.client();
        let mut bed = Bed { daemon, client, line, cell };
        let workers = bed.client.workers().unwrap();
        assert!(workers.iter().all(|worker| worker.io == Some(IoChoice::Syscalls)), "{workers:?}");
        bed.add("rule", "239.1.1.1:5000@in0", &["239.2.2.2:6000@out0", "10.2.0.2:6001,ttl=keep,source=keep"]);
        let sinks: [Sink; 2] = [bed.sink(0, "239.2.2.2:6000@dst0"), bed.sink(0, "10.2.0.2:6001")];
        let source = bed.source("239.1.1.1:5000");
        let (payloads, merged) = (source::assorted(1, false), source::payloads(2, [1400; 40]));
        source.send(&payloads);
        source.send_superframe(&merged);
        let sent = [payloads, merged].concat();
        sinks.iter().for_each(|sink| drop(sink.expect(&sent)));
        let stats = bed.at_rest();
        sinks.iter().for_each(Sink::expect_nothing_more);
        assert_eq!(law::input(&stats, "in0").matched, 240);
        // A worker that starts again says nothing new.
        let pid = workers[0].pid.unwrap();
        mcr_e2e::daemon::signal(pid, nix::sys::signal::Signal::SIGKILL);
        mcr_e2e::eventually("the worker is back", || {
            let workers = bed.client.workers().unwrap();
            workers.iter().all(|worker| worker.io.is_some() && worker.pid.is_some_and(|now| now != pid))
        });
        let log = bed.daemon.log();
        let said: Vec<_> = log.lines().filter(|line| line.contains("io_uring")).collect();
        assert!(matches!(said[..], [line] if line.contains("WARN") && line.contains("recvmmsg")), "{log}");
        bed.daemon.stop();
    }
}

#[test]
fn where_io_uring_is_forbidden_system_calls_are_used_and_the_log_says_so_once() {
    without_io_uring(libc::EPERM);
}

#[test]
fn where_the_kernel_has_no_io_uring_system_calls_are_used_and_the_log_says_so_once() {
    without_io_uring(libc::ENOSYS);
}
