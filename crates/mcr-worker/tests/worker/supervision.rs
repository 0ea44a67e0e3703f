//! What a worker makes of its supervisor.

use mcr_fdpass::Channel;
use mcr_lab::{Line, Namespace, require, wait_until};
use mcr_proto::{
    codec,
    message::{FromWorker, IoChoice, LogLevel, ReceiverKind, ToWorker, tag},
    plan::{Generation, InputSlot, Lane, OutputSlot, PlanOp, RuleSlot, SocketId, Via, WorkerIndex},
};
use mcr_socket::{
    Family,
    filter::Filter,
    packet::{self, PacketOptions},
};
use mcr_worker::WorkerError;

use crate::rig::*;

fn refusal(answer: FromWorker) -> String {
    match answer {
        FromWorker::Refused { problem } => problem,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn a_worker_ends_without_error_when_told_to_and_when_its_supervisor_is_gone() {
    for io in BACK_ENDS {
        Rig::start(io).stop();
        assert!(Rig::start(io).abandon().is_ok());
    }
}

#[test]
fn a_worker_whose_supervisor_dies_before_the_start_ends_without_error() {
    let (ours, theirs) = Channel::pair().expect("sockets");
    drop(ours);
    assert!(mcr_worker::run(theirs.into()).is_ok());
}

#[test]
fn a_first_message_that_is_no_start_or_brings_no_counters_is_an_error() {
    let first = |message: &ToWorker| {
        let (ours, theirs) = Channel::pair().expect("sockets");
        ours.send(&codec::encode(message).expect("small"), &[]).expect("room");
        mcr_worker::run(theirs.into()).expect_err("nothing to start with")
    };
    assert!(matches!(first(&ToWorker::Stop), WorkerError::NotStarted { .. }));
    let start = ToWorker::Start { index: WorkerIndex(0), core: None, io: IoChoice::Auto, ids: None };
    assert!(matches!(first(&start), WorkerError::NoCounters));
}

#[test]
fn a_worker_has_its_name_and_its_core() {
    let rig = Rig::start_as(IoChoice::Syscalls, WorkerIndex(77), Some(0), || ());
    let tasks = std::fs::read_dir("/proc/self/task").expect("procfs");
    let status = tasks
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("status")).ok())
        .find(|status| status.starts_with("Name:\tmcrd-worker-77\n"))
        .expect("a thread of this name");
    assert!(status.contains("\nCpus_allowed_list:\t0\n"), "{status}");
    rig.stop();
}

#[test]
fn a_core_that_does_not_exist_is_told_and_the_worker_runs_all_the_same() {
    let mut rig = Rig::start_as(IoChoice::Syscalls, WorkerIndex(0), Some(1000), || ());
    let FromWorker::Log { level: LogLevel::Warn, text } = rig.hear() else { panic!("no warning") };
    assert!(text.contains("core 1000"), "{text}");
    rig.stop();
}

#[test]
fn a_worker_that_does_nothing_shows_that_it_is_alive() {
    for io in BACK_ENDS {
        let rig = Rig::start(io);
        let header = rig.counters.header();
        let (turns, beat) = (header.turns.get(), header.heartbeat_ns.get());
        let alive = || header.turns.get() >= turns + 2 && header.heartbeat_ns.get() > beat;
        wait_until(PATIENCE, "the heart beats", alive).expect("alive");
        rig.stop();
    }
}

#[test]
fn what_cannot_be_carried_out_is_refused_and_the_worker_goes_on() {
    let Some(()) = require::netns() else { return };
    for io in BACK_ENDS {
        let net = Namespace::new().expect("root");
        let mut rig = Rig::start(io);
        let (fd, kind) = udp_input(&net, "127.0.0.1:5000");
        let input = rig.receiver(fd, kind);

        // Without its descriptor, twice the same, never opened, no such slot.
        rig.say(&ToWorker::OpenSender { socket: SocketId(100) }, &[]);
        assert!(refusal(rig.hear()).contains("without a descriptor"));
        let spare = udp_output(&net, Family::V4);
        rig.say(&ToWorker::OpenSender { socket: input }, &[(tag::SOCKET, &spare)]);
        assert!(refusal(rig.hear()).contains("is open already"));
        rig.say(&ToWorker::CloseSocket { socket: SocketId(101) }, &[]);
        assert!(refusal(rig.hear()).contains("not open"));
        let receiver = ToWorker::OpenReceiver {
            socket: SocketId(102),
            input: InputSlot(u32::MAX),
            kind,
            lane: Lane::default(),
        };
        rig.say(&receiver, &[(tag::SOCKET, &spare)]);
        assert!(refusal(rig.hear()).contains("input slot"));

        // A plan is refused as a whole, whichever part of it is at fault.
        let good = route(1, input, "127.0.0.1:5000", &[]);
        let bad_socket = [output(0, "127.0.0.1:6000", Via::Udp(SocketId(103)))];
        let answer = rig.plan(vec![
            good.clone(),
            route(2, input, "127.0.0.1:5000", &bad_socket),
            route(3, input, "127.0.0.1:5000", &[]),
        ]);
        assert!(refusal(answer).contains("socket 103"));
        let answer = rig.plan(vec![PlanOp::Remove(RuleSlot(u32::MAX))]);
        assert!(refusal(answer).contains("rule slot"));
        let mut bad_slot = output(0, "127.0.0.1:6000", Via::Nowhere);
        bad_slot.slot = OutputSlot(u32::MAX);
        assert!(
            refusal(rig.plan(vec![route(2, input, "127.0.0.1:5000", &[bad_slot])])).contains("output slot")
        );

        // No message at all.
        rig.say_bytes(&[0xff; 40]);
        assert!(matches!(rig.hear(), FromWorker::Log { level: LogLevel::Warn, .. }));

        // None of it left anything behind.
        let source = source(&net, "127.0.0.1:0");
        source.send_to(b"before", "127.0.0.1:5000").expect("room");
        rig.wait_received(1, &[]);
        assert_eq!(rig.matched(), 0);
        rig.apply(vec![good]);
        source.send_to(b"after", "127.0.0.1:5000").expect("room");
        wait_until(PATIENCE, "a match", || rig.matched() == 1).expect("it goes on");
        rig.stop();
    }
}

#[test]
fn what_waits_in_a_new_receiver_finds_the_route_of_the_plan_behind_it() {
    let Some(()) = require::netns() else { return };
    for io in BACK_ENDS {
        let net = Namespace::new().expect("root");
        let mut rig = Rig::start(io);
        let (fd, kind) = udp_input(&net, "127.0.0.1:5000");
        let source = source(&net, "127.0.0.1:0");
        for _ in 0..40 {
            source.send_to(b"early", "127.0.0.1:5000").expect("room");
        }
        let input = rig.receiver(fd, kind);
        // The worker has heard of it, and could read it.
        rig.say(&ToWorker::OpenSender { socket: input }, &[]);
        assert!(refusal(rig.hear()).contains("without a descriptor"));
        let turns = rig.counters.header().turns.get();
        wait_until(PATIENCE, "it turns", || rig.counters.header().turns.get() >= turns + 2).expect("alive");
        rig.apply(vec![route(1, input, "127.0.0.1:5000", &[])]);
        wait_until(PATIENCE, "all match", || rig.matched() == 40).expect("none is of no rule");
        rig.stop();
    }
}

#[test]
fn a_receiver_that_is_stopped_is_left_to_others_once_what_was_taken_is_relayed() {
    let Some(()) = require::netns() else { return };
    for io in BACK_ENDS {
        let net = Namespace::new().expect("root");
        let mut rig = Rig::start(io);
        let (fd, kind) = udp_input(&net, "127.0.0.1:5000");
        let kept = fd.try_clone().expect("room");
        let input = rig.receiver(fd, kind);
        rig.apply(vec![route(1, input, "127.0.0.1:5000", &[])]);
        let source = source(&net, "127.0.0.1:0");
        for _ in 0..40 {
            source.send_to(b"before", "127.0.0.1:5000").expect("room");
        }
        rig.say(&ToWorker::StopReceiver { socket: input }, &[]);
        assert_eq!(rig.hear(), FromWorker::Stopped { socket: input });
        // All of it is counted when the worker says so, and the rest is there to be read.
        let taken = rig.matched();
        for _ in 0..40 {
            source.send_to(b"behind", "127.0.0.1:5000").expect("room");
        }
        let rest = std::net::UdpSocket::from(kept);
        rest.set_nonblocking(true).expect("a socket can be");
        let left = std::iter::repeat_with(|| rest.recv(&mut [0; 20])).take_while(Result::is_ok).count();
        assert_eq!((taken + left as u64, rig.matched()), (80, taken));
        rig.say(&ToWorker::CloseSocket { socket: input }, &[]);
        rig.say(&ToWorker::StopReceiver { socket: input }, &[]);
        assert!(refusal(rig.hear()).contains("not open"));
        rig.stop();
    }
}

#[test]
fn a_closed_socket_receives_nothing_more_and_its_id_is_free() {
    let Some(()) = require::netns() else { return };
    for io in BACK_ENDS {
        let net = Namespace::new().expect("root");
        let mut rig = Rig::start(io);
        let (fd, kind) = udp_input(&net, "127.0.0.1:5000");
        let input = rig.receiver(fd, kind);
        rig.say(&ToWorker::CloseSocket { socket: input }, &[]);
        // The answer to a plan comes after what was said before.
        rig.apply(vec![PlanOp::Remove(RuleSlot(0))]);
        let source = source(&net, "127.0.0.1:0");
        source.send_to(b"x", "127.0.0.1:5000").expect("room");
        let (fd, _) = udp_input(&net, "127.0.0.1:5001");
        let message = ToWorker::OpenReceiver { socket: input, input: INPUT, kind, lane: Lane::default() };
        rig.say(&message, &[(tag::SOCKET, &fd)]);
        rig.apply(vec![PlanOp::Remove(RuleSlot(0))]);
        source.send_to(b"y", "127.0.0.1:5001").expect("room");
        rig.wait_received(1, &[]);
        assert_eq!(rig.counters.input(INPUT).datagrams.get(), 1);
        rig.stop();
    }
}

#[test]
fn what_was_received_before_a_stop_is_relayed() {
    let Some(()) = require::netns() else { return };
    for io in BACK_ENDS {
        let net = Namespace::new().expect("root");
        let mut rig = Rig::start(io);
        let (fd, kind) = udp_input(&net, "127.0.0.1:5000");
        let input = rig.receiver(fd, kind);
        let sender = rig.sender(udp_output(&net, Family::V4));
        let outputs = [output(0, "127.0.0.1:6000", Via::Udp(sender))];
        let sink = sink(&net, "127.0.0.1:6000");
        rig.apply(vec![route(1, input, "127.0.0.1:5000", &outputs)]);
        let source = source(&net, "127.0.0.1:0");
        for number in 0..500 {
            source.send_to(&payload(number, 100), "127.0.0.1:5000").expect("room");
        }
        // The supervisor need not wait for it either.
        rig.say(&ToWorker::Stop, &[]);
        rig.abandon().expect("a clean exit");
        assert_eq!(receive(&sink, 500).len(), 500);
    }
}

#[test]
fn a_receiver_whose_interface_goes_down_is_reported_once_a_second_at_most() {
    let Some(()) = require::netns() else { return };
    for io in BACK_ENDS {
        let line = Line::new().expect("root");
        let mut rig = Rig::start(io);
        let ifindex = line.relay.link_index("in0").expect("it is there");
        let filter = Filter::drop_all();
        let options =
            PacketOptions { ifindex, vnet_hdr: true, receive_buffer_bytes: 0, ring: None, filter: &filter };
        let fd = line.relay.enter(|| packet::open(&options)).expect("root");
        let socket = rig.receiver(fd, ReceiverKind::Packet { ethernet: true, ring: None });
        rig.apply(vec![PlanOp::Remove(RuleSlot(0))]);
        line.relay.set_down("in0").expect("root");
        assert_eq!(rig.hear(), FromWorker::SocketFailed { socket, errno: libc::ENETDOWN });
        // Again down at once: not reported, so the next message is the answer to a plan.
        line.relay.set_up("in0").expect("root");
        line.relay.set_down("in0").expect("root");
        assert_eq!(
            rig.plan(vec![PlanOp::Remove(RuleSlot(0))]),
            FromWorker::Applied { generation: Generation(2) }
        );
        rig.stop();
    }
}
