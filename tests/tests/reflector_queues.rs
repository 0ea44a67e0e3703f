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
use tempfile::TempDir;

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

fn as_user(mut setpriv: Command, user: u32) -> Command {
    setpriv.args([&format!("--reuid={user}"), &format!("--regid={user}"), "--clear-groups"]);
    setpriv
}

/// `mcrd reflect` by a user who has no more than the rights for it; killed when dropped.
struct ByUser {
    process: Child,
    user: u32,
    directory: TempDir,
    _program: TempDir,
}

impl ByUser {
    fn start(cable: &Cable, user: u32) -> Self {
        let (program, mcrd) = programs::program_for_everyone("mcrd");
        let directory = programs::directory_for_everyone();
        let file = |name: &str| File::create(directory.path().join(name)).expect("own directory");
        let rights = "+net_raw,+net_admin,+bpf";
        let mut command = as_user(cable.reflector.command("setpriv"), user);
        command.arg(format!("--inh-caps={rights}")).arg(format!("--ambient-caps={rights}")).arg(mcrd);
        command.args(["reflect", REFLECTOR_IF, "--json", "--stats-interval", "1"]).args(XDP);
        command.stdin(Stdio::null()).stdout(file("out")).stderr(file("err"));
        let process = command.spawn().expect("setpriv of util-linux");
        let this = Self { process, user, directory, _program: program };
        eventually("it reflects", || {
            assert!(!this.read("err").contains("mcrd: reflect:"), "{}", this.read("err"));
            this.read("err").contains("reflecting interface")
        });
        this
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.directory.path().join(name)).unwrap_or_default()
    }

    /// The statistics that it told last.
    fn last(&self) -> Option<Value> {
        let text = self.read("out");
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().last().map(|line| serde_json::from_str(line).expect("JSON"))
    }

    /// The next statistics of which a condition is true.
    fn wait(&self, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
        let mut last = None;
        eventually(what, || {
            last = self.last().filter(&condition);
            last.is_some()
        });
        last.expect("waited for")
    }

    /// How much memory it may lock, from now on.
    fn may_lock(&self, bytes: u64) {
        let mut command = as_user(Command::new("setpriv"), self.user);
        // The soft limit alone, so that it can be raised again.
        command.args(["prlimit", "--pid", &self.process.id().to_string(), &format!("--memlock={bytes}:")]);
        assert!(command.status().expect("prlimit of util-linux").success());
    }
}

impl Drop for ByUser {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn queues_take_no_more_rights_than_an_ordinary_user_can_be_given() {
    let Some((_lock, cable)) = cable() else { return };
    let reflecting = ByUser::start(&cable, 65534);
    let status = std::fs::read_to_string(format!("/proc/{}/status", reflecting.process.id()));
    let status = status.expect("own child");
    assert!(status.contains("\nUid:\t65534\t65534\t65534\t65534\n"), "{status}");
    let mut tester = Tester::open(&cable);
    both_queues_reflect(&mut tester, |frames| {
        reflecting.wait("it is counted", |last| counter(last, "reflected") >= frames)
    });
}

#[test]
fn a_process_that_died_comes_back_with_the_memory_there_is_and_as_soon_as_there_is_some() {
    let Some((_lock, cable)) = cable() else { return };
    // A user of its own: what may be locked is for all processes of one.
    let reflecting = ByUser::start(&cable, 65_117);
    let mut tester = Tester::open(&cable);
    both_queues_reflect(&mut tester, |frames| {
        reflecting.wait("it is counted", |last| counter(last, "reflected") >= frames)
    });
    let both_run = |restarts: u64| {
        reflecting.wait("both run", |last| {
            (0..QUEUES as usize).map(|number| worker(last, number)).all(|worker| {
                (worker["ready"].as_bool(), worker["restarts"].as_u64()) == (Some(true), Some(restarts))
            })
        })
    };
    let end_both = |last: &Value| {
        (0..QUEUES as usize)
            .for_each(|number| kill(pid(last, number), Signal::SIGKILL).expect("own process"));
    };
    let mut both_answer = |number: u64| {
        (0..QUEUES as usize).for_each(|queue| answered(&mut tester, queue, number + queue as u64));
    };
    // One that took 4 MiB can have half of that, and the other a quarter.
    reflecting.may_lock(3 << 20);
    end_both(&both_run(0));
    let last = both_run(1);
    both_answer(100);
    // Less than the least.
    reflecting.may_lock(256 << 10);
    end_both(&last);
    let lacking = reflecting.wait("it says why it does not reflect", |last| {
        last["fault"].as_str().is_some_and(|fault| fault.contains("no socket for a process"))
    });
    assert_ne!(lacking["state"], "active", "{lacking}");
    reflecting.may_lock(8 << 20);
    // What there was no memory for was no start.
    let back = both_run(2);
    assert_eq!((&back["state"], back["fault"].is_null()), (&"active".into(), true), "{back}");
    both_answer(200);
    let text = reflecting.read("err");
    assert_eq!(
        text.matches("no socket for a reflector").count(),
        QUEUES as usize,
        "once for each process: {text}"
    );
}
