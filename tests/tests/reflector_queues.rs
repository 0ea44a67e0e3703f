//! `mcrd reflect` on an interface with several receive queues: a process for each, on AF_XDP.
//!
//! A veth device has no hash to spread frames by: a frame arrives on the queue that it was sent by at the other end, and a socket that
//! goes past the queueing discipline sends by the queue of its core (`packet_pick_tx_queue` in net/packet/af_packet.c). So the tests
//! choose a queue by the core that they send on.

use std::{
    fs::File,
    process::{Child, Command, Stdio},
};

use mcr_e2e::{
    eventually,
    held::Held,
    programs,
    reflector::{Cable, REFLECTOR_IF, Reflecting, Tester, assert_law, counter, echo, load, probe},
    traffic_lock::{self, TrafficLock},
};
use mcr_lab::require;
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

const XDP: [&str; 2] = ["--platform", "xdp"];
const QUEUES: u32 = 2;
const FRAMES: u64 = 20_000;

/// A cable with two queues at each end, alone with the machine's cores; none where there is no second core.
fn cable() -> Option<(TrafficLock, Cable)> {
    let () = require::netns()?;
    let cores = sched_getaffinity(Pid::from_raw(0)).expect("own cores");
    let both = (0..QUEUES as usize).all(|core| cores.is_set(core).unwrap_or(false));
    if !both {
        return require::skip("a second core");
    }
    Some((traffic_lock::take(), Cable::with_queues(QUEUES)))
}

/// What is sent from here on arrives on this queue.
fn send_by(queue: usize) {
    let mut cores = CpuSet::new();
    cores.set(queue).and_then(|()| sched_setaffinity(Pid::from_raw(0), &cores)).expect("own cores");
}

fn answered(tester: &mut Tester, queue: usize, number: u64) {
    send_by(queue);
    let frame = probe(100, number);
    tester.send(&frame);
    tester.until(&echo(&frame));
}

fn worker(report: &Value, number: usize) -> &Value {
    &report["workers"][number]
}

fn pid(report: &Value, number: usize) -> Pid {
    let pid = worker(report, number)["pid"].as_i64().unwrap_or_else(|| panic!("no process: {report}"));
    Pid::from_raw(pid as i32)
}

/// Each queue's frames come back whole and in order, are counted by its own process, and in the sums.
fn both_queues_reflect(tester: &mut Tester, report: impl Fn(u64) -> Value) {
    for queue in 0..QUEUES as usize {
        send_by(queue);
        assert_eq!(load(tester, 128, FRAMES, 256, &[]).back, FRAMES);
    }
    let report = report(FRAMES * u64::from(QUEUES));
    assert_law(&report);
    assert_eq!(counter(&report, "reflected"), FRAMES * u64::from(QUEUES), "{report}");
    for queue in 0..QUEUES as usize {
        let worker = worker(&report, queue);
        assert_eq!(worker["queues"], serde_json::json!([queue]), "{report}");
        assert_eq!((&worker["received"], &worker["reflected"]), (&FRAMES.into(), &FRAMES.into()), "{report}");
        assert_eq!(worker["ready"], true, "{report}");
    }
    assert_ne!(pid(&report, 0), pid(&report, 1), "a process each");
    assert!(report["fault"].is_null(), "{report}");
}

#[test]
fn each_queue_has_a_process_of_its_own_and_a_kill_of_all_leaves_nothing() {
    let Some((_lock, cable)) = cable() else { return };
    let before = Held::of(&cable.reflector);
    let reflecting = Reflecting::start(&cable.reflector, &XDP);
    let mut tester = Tester::open(&cable);
    both_queues_reflect(&mut tester, |frames| reflecting.report_of("reflected", frames));
    let report = reflecting.report();
    let workers = [pid(&report, 0), pid(&report, 1)];
    for (core, worker) in workers.iter().enumerate() {
        let cores = sched_getaffinity(*worker).expect("own process");
        let on = (0..CpuSet::count()).filter(|core| cores.is_set(*core).unwrap_or(false)).collect::<Vec<_>>();
        assert_eq!(on, [core], "it is pinned");
    }
    kill(reflecting.pid(), Signal::SIGKILL).expect("own process");
    drop(reflecting);
    eventually("the processes have ended with it", || workers.iter().all(|pid| kill(*pid, None).is_err()));
    eventually("no socket is left", || Held::of(&cable.reflector) == before);
}

#[test]
fn a_process_that_dies_is_replaced_while_the_other_goes_on() {
    let Some((_lock, cable)) = cable() else { return };
    let reflecting = Reflecting::start(&cable.reflector, &XDP);
    let mut tester = Tester::open(&cable);
    answered(&mut tester, 0, 1);
    answered(&mut tester, 1, 2);
    let before = reflecting.report_of("reflected", 2);
    // The pause before each next start is longer, so that at last it is seen that one does not run.
    eventually("it says so", || {
        let report = reflecting.report();
        if let Some(pid) = worker(&report, 1)["pid"].as_i64() {
            let _ = kill(Pid::from_raw(pid as i32), Signal::SIGKILL);
        }
        assert_eq!(report["state"], "active", "the other reflects");
        report["fault"] == "1 of 2 processes do not run"
    });
    send_by(0);
    assert_eq!(load(&mut tester, 128, FRAMES, 256, &[]).back, FRAMES);
    let mut after = Value::Null;
    eventually("another reflects in its place", || {
        after = reflecting.report();
        worker(&after, 1)["ready"] == true
    });
    assert!(after["fault"].is_null(), "{after}");
    assert_eq!(pid(&after, 0), pid(&before, 0), "the other went on");
    assert_ne!(pid(&after, 1), pid(&before, 1));
    assert!(
        worker(&after, 1)["restarts"].as_u64() >= Some(1) && worker(&after, 0)["restarts"] == 0,
        "{after}"
    );
    answered(&mut tester, 1, 3);
    let (report, _) = reflecting.stop(Signal::SIGTERM);
    assert!(report["fault"].is_null(), "{report}");
    assert_eq!(counter(&report, "reflected"), FRAMES + 3, "{report}");
}

#[test]
fn queues_that_are_left_out_are_the_stacks() {
    let Some((_lock, cable)) = cable() else { return };
    let reflecting = Reflecting::start(&cable.reflector, &[&XDP[..], &["--queues", "1"]].concat());
    let mut tester = Tester::open(&cable);
    let mut stack = Tester::open_on(&cable.reflector, REFLECTOR_IF);
    send_by(1);
    let frame = probe(100, 1);
    tester.send(&frame);
    assert_eq!(stack.one(), frame, "the stack gets it");
    answered(&mut tester, 0, 2);
    let (report, _) = reflecting.stop(Signal::SIGTERM);
    assert_eq!(report["workers"].as_array().map(Vec::len), Some(1), "{report}");
    assert_eq!((counter(&report, "received"), counter(&report, "reflected")), (1, 1), "{report}");
}

#[test]
fn limits_are_for_all_queues_so_one_process_serves_them() {
    let Some((_lock, cable)) = cable() else { return };
    // A burst of a tenth of a second's worth, and no more before the test is over.
    let reflecting = Reflecting::start(&cable.reflector, &[&XDP[..], &["--rate-pps", "10"]].concat());
    let mut tester = Tester::open(&cable);
    answered(&mut tester, 0, 1);
    send_by(1);
    tester.send(&probe(100, 2));
    let report = reflecting.report_of("received", 2);
    assert_eq!(report["workers"].as_array().map(Vec::len), Some(1), "{report}");
    assert_eq!(worker(&report, 0)["queues"], serde_json::json!([0, 1]), "{report}");
    assert_law(&report);
    let _ = reflecting.stop(Signal::SIGTERM);
}

#[test]
fn queues_take_no_more_rights_than_an_ordinary_user_can_be_given() {
    let Some((_lock, cable)) = cable() else { return };
    let (directory, mcrd) = programs::program_for_everyone("mcrd");
    let file = |name: &str| File::create(directory.path().join(name)).expect("own directory");
    let rights = "+net_raw,+net_admin,+bpf";
    let mut command: Command = cable.reflector.command("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    command.arg(format!("--inh-caps={rights}")).arg(format!("--ambient-caps={rights}")).arg(mcrd);
    command.args(["reflect", REFLECTOR_IF, "--json", "--stats-interval", "1"]).args(XDP);
    command.stdin(Stdio::null()).stdout(file("out")).stderr(file("err"));
    let process = Ended(command.spawn().expect("setpriv of util-linux"));
    let read = |name: &str| std::fs::read_to_string(directory.path().join(name)).unwrap_or_default();
    eventually("it reflects", || {
        assert!(!read("err").contains("mcrd: reflect:"), "{}", read("err"));
        read("err").contains("reflecting interface")
    });
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.0.id())).expect("own child");
    assert!(status.contains("\nUid:\t65534\t65534\t65534\t65534\n"), "{status}");
    let mut tester = Tester::open(&cable);
    both_queues_reflect(&mut tester, |frames| {
        let mut last = Value::Null;
        eventually("it is counted", || {
            let text = read("out");
            let whole = text.rfind('\n').map_or("", |end| &text[..end]);
            let Some(line) = whole.lines().last() else { return false };
            last = serde_json::from_str(line).expect("JSON");
            counter(&last, "reflected") >= frames
        });
        last
    });
    drop(process);
}

/// Ends a process when dropped.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
