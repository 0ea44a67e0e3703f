//! What the processes of a running daemon may do, as the kernel tells it from outside.
#![allow(clippy::unwrap_used)] // A test has no better answer to an error than to fail.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use mcr_e2e::{
    Bed, Cell, Daemon, DaemonOptions, PATIENCE,
    command::{Ended, run},
    daemon::signal,
    eventually,
    processes::descendants,
    programs, traffic_lock,
};
use mcr_lab::{Namespace, require};
use nix::{
    sys::{
        resource::{Resource, getrlimit},
        signal::Signal,
    },
    unistd::{User, geteuid},
};

const NOBODY: u32 = 65534;

/// CAP_KILL, CAP_SETGID, CAP_SETUID, CAP_SETPCAP, CAP_NET_BIND_SERVICE, CAP_NET_ADMIN, CAP_NET_RAW and CAP_BPF of
/// linux/capability.h, each a bit by its number.
const SUPERVISOR: u64 = 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 10 | 1 << 12 | 1 << 13 | 1 << 39;

/// CAP_IPC_LOCK, where there is no right to raise the limit of locked memory.
fn locking() -> u64 {
    let has = |capability| caps::has_cap(None, caps::CapSet::Effective, capability).unwrap();
    let (_, hard) = getrlimit(Resource::RLIMIT_MEMLOCK).unwrap();
    let raised = hard >= 1 << 30 || has(caps::Capability::CAP_SYS_RESOURCE);
    u64::from(!raised && has(caps::Capability::CAP_IPC_LOCK)) << 14
}

/// /proc/PID/status.
struct Status(BTreeMap<String, String>);

impl Status {
    fn of(pid: u32) -> Self {
        let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let fields = text.lines().filter_map(|line| line.split_once(':'));
        let words = |value: &str| value.split_whitespace().collect::<Vec<_>>().join(" ");
        Self(fields.map(|(name, value)| (name.to_owned(), words(value))).collect())
    }

    #[track_caller]
    fn expect(&self, field: &str, value: &str) {
        assert_eq!(self.0.get(field).map(String::as_str), Some(value), "{field} of {:?}", self.0);
    }

    #[track_caller]
    fn expect_sets(&self, sets: &[&str], bits: u64) {
        sets.iter().for_each(|set| self.expect(set, &format!("{bits:016x}")));
    }

    /// A child that runs as this user and as nobody else, with no right whatsoever.
    #[track_caller]
    fn expect_nothing(&self, uid: u32, gid: u32) {
        self.expect("Uid", &[uid; 4].map(|id| id.to_string()).join(" "));
        self.expect("Gid", &[gid; 4].map(|id| id.to_string()).join(" "));
        self.expect("Groups", "");
        self.expect_sets(&["CapInh", "CapPrm", "CapEff", "CapAmb"], 0);
        self.expect("NoNewPrivs", "1");
        self.expect("Seccomp", "2");
        self.expect("Threads", "1");
    }
}

/// What a process has open, and how often; sockets are not told apart.
fn open_files(pid: u32) -> BTreeMap<String, usize> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
        // A descriptor may be closed meanwhile.
        let Ok(target) = fs::read_link(entry.unwrap().path()) else { continue };
        let target = target.display().to_string();
        let kind =
            target.split_once(":[").filter(|(kind, _)| *kind == "socket").map_or(&*target, |(kind, _)| kind);
        *files.entry(kind.trim_end_matches(" (deleted)").to_owned()).or_default() += 1;
    }
    files
}

fn expected(files: &[(&str, usize)]) -> BTreeMap<String, usize> {
    files.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
}

/// Whom a daemon of root's has its children run as, if nobody says otherwise.
fn default_user() -> (u32, u32) {
    let known = ["mcr", "nobody"].iter().find_map(|name| User::from_name(name).unwrap());
    known.map_or((NOBODY, NOBODY), |user| (user.uid.as_raw(), user.gid.as_raw()))
}

/// A daemon with a rule at work, started with a descriptor of nobody's business that is not close-on-exec.
fn every_process_has_what_it_needs_and_nothing_else(cell: Cell, event_loop: &str) {
    let Some(()) = require::netns() else { return };
    let _lock = traffic_lock::take();
    let (uid, gid) = default_user();
    // Inherited by everything that this test starts meanwhile, for dup(2) leaves it open over exec.
    let stray = nix::unistd::dup(File::open("/proc/version").unwrap()).unwrap();
    let mut bed = Bed::with_workers(cell, 2, 2);
    drop(stray);
    bed.add("rule", "239.1.1.1:5000@in0", &["239.2.2.2:6000@out0", "10.3.0.2:7000"]);
    let supervisor = Status::of(bed.daemon.pid());
    supervisor.expect_sets(&["CapPrm", "CapEff", "CapBnd"], SUPERVISOR | locking());
    supervisor.expect_sets(&["CapInh", "CapAmb"], 0);
    supervisor.expect("NoNewPrivs", "1");
    assert_eq!(open_files(bed.daemon.pid()).get("/proc/version"), Some(&1), "the stray descriptor is there");

    let log = bed.daemon.log_path().display().to_string();
    let workers = bed.client.workers().unwrap();
    for worker in &workers {
        let pid = worker.pid.unwrap();
        let status = Status::of(pid);
        status.expect_nothing(uid, gid);
        status.expect_sets(&["CapBnd"], 0);
        // The channel twice: to read it, and for the event loop to watch.
        let sockets = 2 + worker.sockets as usize;
        let files =
            [("/dev/null", 2), (&*log, 1), ("/memfd:mcr-counters", 1), (event_loop, 1), ("socket", sockets)];
        assert_eq!(open_files(pid), expected(&files), "worker {}", worker.index);
        assert!(
            fs::read(format!("/proc/{pid}/environ")).unwrap().is_empty(),
            "it has the supervisor's environment"
        );
    }
    let control = bed.daemon.control();
    let status = Status::of(control.pid);
    status.expect_nothing(uid, gid);
    status.expect_sets(&["CapBnd"], 0);
    // Counters of the workers and of the kernel data path. The client of this test, the channel, the listener, and three of the event loop's own for signals.
    let files = [
        ("/dev/null", 2),
        (&*log, 1),
        ("/memfd:mcr-counters", workers.len() + 1),
        ("anon_inode:[eventpoll]", 2),
        ("anon_inode:[eventfd]", 1),
        ("socket", 6),
    ];
    eventually("control has closed the clients that are gone", || {
        open_files(control.pid) == expected(&files)
    });
    bed.finish();
}

#[test]
fn every_process_of_a_daemon_on_io_uring_has_what_it_needs_and_nothing_else() {
    every_process_has_what_it_needs_and_nothing_else(Cell::PACKET_URING, "anon_inode:[io_uring]");
}

#[test]
fn every_process_of_a_daemon_on_system_calls_has_what_it_needs_and_nothing_else() {
    every_process_has_what_it_needs_and_nothing_else(Cell::PACKET_SYSCALLS, "anon_inode:[eventpoll]");
}

#[test]
fn the_children_of_an_ordinary_users_daemon_have_no_rights_either() {
    let Some(()) = require::netns() else { return };
    let namespace = Namespace::new().unwrap();
    let options = DaemonOptions { workers: 2, user: Some(NOBODY), ..DaemonOptions::default() };
    let daemon = Daemon::start(&namespace, &options);
    let supervisor = Status::of(daemon.pid());
    supervisor.expect("NoNewPrivs", "1");
    supervisor.expect_sets(&["CapInh", "CapPrm", "CapEff", "CapAmb"], 0);
    let children = descendants(daemon.pid());
    assert_eq!(children.len(), 3);
    children.iter().for_each(|child| Status::of(child.pid).expect_nothing(NOBODY, NOBODY));
    daemon.stop();
}

#[test]
fn a_worker_that_was_started_again_is_confined_like_the_first() {
    let Some(()) = require::netns() else { return };
    let namespace = Namespace::new().unwrap();
    let daemon = Daemon::start(&namespace, &DaemonOptions::default());
    let pid = |daemon: &Daemon| daemon.client().workers().unwrap()[0].pid;
    let first = pid(&daemon).unwrap();
    signal(first, Signal::SIGKILL);
    let control = daemon.control();
    signal(control.pid, Signal::SIGKILL);
    eventually("both run again", || {
        let mut client = match mcr_client::Client::connect(daemon.socket(), mcr_client::Options::default()) {
            Ok(client) => client,
            Err(_) => return false,
        };
        let workers = client.workers().unwrap_or_default();
        !control.is_alive()
            && workers.first().is_some_and(|worker| {
                worker.pid != Some(first) && worker.state == mcr_proto::message::WorkerState::Running
            })
    });
    let (uid, gid) = default_user();
    let children = descendants(daemon.pid());
    assert_eq!(children.len(), 2);
    for child in children {
        let status = Status::of(child.pid);
        status.expect_nothing(uid, gid);
        status.expect_sets(&["CapBnd"], 0);
    }
    daemon.stop();
}

/// A daemon that is not waited for, killed when dropped.
struct Raw {
    process: Child,
    directory: tempfile::TempDir,
}

impl Raw {
    fn start(arguments: &[&str]) -> Self {
        let directory = programs::directory_for_everyone();
        let mut command = mcrd(&directory.path().join("mcrd.sock"), arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(File::create(directory.path().join("log")).unwrap());
        Self { process: command.spawn().unwrap(), directory }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap()
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn mcrd(socket: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(programs::program("mcrd"));
    command.args(["run", "--workers", "1", "--socket"]).arg(socket).args(arguments);
    command
}

#[test]
fn a_child_that_cannot_confine_itself_ends_and_the_log_names_the_step() {
    if !geteuid().is_root() {
        require::skip::<()>("only root's children change their user");
        return;
    }
    programs::directory();
    // Capabilities are a thread's own, and what it starts inherits its bounding set.
    let thread = std::thread::spawn(|| {
        caps::drop(None, caps::CapSet::Bounding, caps::Capability::CAP_SETUID).unwrap();
        Raw::start(&["--user", "65534", "--log", "warn"])
    });
    let daemon = thread.join().unwrap();
    let refused = "cannot confine itself: cannot change to user 65534: EPERM";
    eventually("worker and control were started again and say why they ended", || {
        let log = daemon.log();
        ["who=\"worker\"", "who=\"control\""]
            .iter()
            .all(|who| log.lines().filter(|line| line.contains(refused) && line.contains(who)).count() >= 2)
    });
    let log = daemon.log();
    assert!(log.contains("worker ended (exit status: 1); starting it again in 250 ms"), "{log}");
    assert!(log.contains("control ended (exit status: 1); starting it again in 250 ms"), "{log}");
    assert!(!log.contains("worker ready"), "{log}");
}

#[test]
fn children_run_as_the_user_that_was_named() {
    if !geteuid().is_root() {
        require::skip::<()>("only root can name a user");
        return;
    }
    let Some(user) = User::from_name("daemon").unwrap() else {
        require::skip::<()>("there is no user `daemon`");
        return;
    };
    let daemon = Raw::start(&["--user", "daemon", "--log", "info"]);
    let (uid, gid) = (user.uid.as_raw(), user.gid.as_raw());
    let said = format!("confined: user {uid}, group {gid}, no capabilities, seccomp, ");
    eventually("worker and control have given up their rights", || {
        daemon.log().matches(&said).count() == 2 && daemon.log().contains(" ready ")
    });
    let children = descendants(daemon.process.id());
    assert_eq!(children.len(), 2);
    children.iter().for_each(|child| Status::of(child.pid).expect_nothing(uid, gid));
}

fn refused(arguments: &[&str], uid: Option<u32>) -> Ended {
    let directory = programs::directory_for_everyone();
    let (_program, program): (_, PathBuf) = programs::program_for_everyone("mcrd");
    let mut command = Command::new(program);
    command.arg("run").arg("--socket").arg(directory.path().join("none/mcrd.sock")).args(arguments);
    if let Some(uid) = uid {
        command.uid(uid).gid(uid);
    }
    run(&mut command)
}

#[test]
fn a_user_that_cannot_be_is_refused_before_anything_is_started() {
    refused(&["--user", "no-such-user"], None).says(2, &["no user no-such-user"]);
    refused(&["--user", "root"], None).says(2, &["must not run as root"]);
    if geteuid().is_root() {
        refused(&["--user", "daemon", "--group", "daemon"], None)
            .says(2, &["workers are in group", "another group"]);
        refused(&["--user", "daemon"], Some(NOBODY)).says(3, &["only root", "--user"]);
    }
}

#[test]
fn the_watchdog_is_fed_while_the_loop_turns() {
    let directory = programs::directory_for_everyone();
    let path = directory.path().join("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut command = mcrd(&directory.path().join("mcrd.sock"), &["--log", "warn"]);
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "200000").stdin(Stdio::null());
    let mut daemon = Raw { process: command.spawn().unwrap(), directory };
    let mut heard = BTreeMap::<String, u32>::new();
    while heard.get("WATCHDOG=1").is_none_or(|times| *times < 3) || !heard.contains_key("READY=1") {
        let mut bytes = [0; 256];
        let length = socket.recv(&mut bytes).expect("it says something in time");
        for line in String::from_utf8_lossy(&bytes[..length]).lines() {
            *heard.entry(line.to_owned()).or_default() += 1;
        }
    }
    // A daemon that is stopped feeds nobody.
    signal(daemon.process.id(), Signal::SIGTERM);
    assert!(daemon.process.wait().unwrap().success());
}
