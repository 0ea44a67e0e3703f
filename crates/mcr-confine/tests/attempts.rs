//! A process confined by the real policy tries what it must not do. A test without harness, for the process that is confined
//! must have one thread: the program starts itself anew for each attempt, as root and as an ordinary user.
#![allow(clippy::print_stdout, clippy::unwrap_used)] // A test says what it does, and has no better answer than to fail.

#[path = "attempts/forbidden.rs"]
mod forbidden;
#[path = "attempts/permitted.rs"]
mod permitted;

use std::{
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Command, ExitCode, ExitStatus},
};

use mcr_confine::{Capability, Ids, Policy, Role, Step, confine, keep_only};
use nix::{sys::signal::Signal, unistd};

const ATTEMPT: &str = "MCR_CONFINE_ATTEMPT";
const ROLE: &str = "MCR_CONFINE_ROLE";
const NOBODY: u32 = 65534;

const ROLES: [(&str, Role); 4] = [
    ("uring", Role::UringWorker),
    ("syscalls", Role::SyscallWorker),
    ("reflector", Role::Reflector),
    ("control", Role::Control),
];

/// The child could do it.
const DONE: u8 = 0;
/// Confinement failed.
const NOT_CONFINED: u8 = 3;
/// The attempt was let through, whatever the kernel then made of it.
const LET_THROUGH: u8 = 4;

/// Who the child is before it is confined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Start {
    Root,
    Ordinary,
}

fn main() -> ExitCode {
    if let Ok(attempt) = std::env::var(ATTEMPT) {
        return child(&attempt);
    }
    // `cargo test NAME` and `--list` are answered as the usual harness would.
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let list = arguments.iter().any(|argument| argument == "--list");
    let wanted = arguments.iter().find(|argument| !argument.starts_with("--"));
    for (name, test) in TESTS {
        if wanted.is_some_and(|wanted| !name.contains(wanted.as_str())) {
            continue;
        }
        if list {
            println!("{name}: test");
        } else {
            test();
            println!("test {name} ... ok");
        }
    }
    ExitCode::SUCCESS
}

type Test = fn();
const TESTS: &[(&str, Test)] = &[
    ("what_a_role_needs_goes_on_working", what_a_role_needs_goes_on_working),
    ("everything_else_ends_the_process", everything_else_ends_the_process),
    ("a_panic_says_why_and_ends_as_such", a_panic_says_why_and_ends_as_such),
    ("a_step_without_the_right_for_it_fails_by_its_name", a_step_without_the_right_for_it_fails_by_its_name),
    ("a_confined_process_is_what_the_kernel_says", a_confined_process_is_what_the_kernel_says),
    ("a_supervisor_keeps_what_it_names", a_supervisor_keeps_what_it_names),
];

fn child(attempt: &str) -> ExitCode {
    match attempt {
        "keep" => return keep(),
        "without-setuid" => return without_setuid(),
        _ => {}
    }
    let role = std::env::var(ROLE).unwrap();
    let role = ROLES.iter().find(|(name, _)| *name == role).unwrap().1;
    let ready = forbidden::Ready::new();
    // A ring for the roles to come is the worker's own business; here it only matters that none can be made.
    if let Err(error) = confine(&policy(role)) {
        println!("{error}: {:?}", error.step);
        return NOT_CONFINED.into();
    }
    if permitted::try_it(attempt, &ready) {
        return DONE.into();
    }
    forbidden::try_it(attempt, &ready);
    LET_THROUGH.into()
}

fn policy(role: Role) -> Policy {
    let ids = is_root().then_some(Ids { uid: NOBODY, gid: NOBODY });
    Policy { role, ids }
}

fn run(attempt: &str, role: &str, start: Start) -> (ExitStatus, String) {
    let mut command = Command::new("/proc/self/exe");
    command.env_clear().env(ATTEMPT, attempt).env(ROLE, role);
    if start == Start::Ordinary && is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status, String::from_utf8_lossy(&said).into_owned())
}

/// Root, and not merely that of a user namespace of its own, where nobody else exists.
fn is_root() -> bool {
    let groups = std::fs::read_to_string("/proc/self/setgroups").unwrap();
    unistd::geteuid().is_root() && groups.trim() == "allow"
}

/// Root where the tests run as root, and an ordinary user everywhere.
fn starts() -> Vec<Start> {
    if is_root() {
        vec![Start::Root, Start::Ordinary]
    } else {
        skip("the attempts as root: this is an ordinary user");
        vec![Start::Ordinary]
    }
}

fn skip(reason: &str) {
    assert!(
        std::env::var_os("MCR_REQUIRE").is_none_or(|value| value != "all"),
        "MCR_REQUIRE=all, but: {reason}"
    );
    println!("skipped: {reason}");
}

fn what_a_role_needs_goes_on_working() {
    for start in starts() {
        for (role, _) in ROLES {
            for attempt in permitted::ALL {
                let (status, said) = run(attempt, role, start);
                assert_eq!(
                    status.code(),
                    Some(DONE.into()),
                    "{attempt} by {role} as {start:?}: {status}: {said}"
                );
            }
        }
    }
}

fn everything_else_ends_the_process() {
    for start in starts() {
        for (role, _) in ROLES {
            for attempt in forbidden::ALL {
                let (status, said) = run(attempt, role, start);
                let killed = status.signal() == Some(Signal::SIGSYS as i32);
                assert!(killed, "{attempt} by {role} as {start:?}: {status}: {said}");
                assert!(!status.core_dumped(), "{attempt} left a core file");
            }
        }
    }
}

fn a_panic_says_why_and_ends_as_such() {
    for (role, _) in ROLES {
        let (status, said) = run("panic", role, Start::Ordinary);
        assert!(said.contains("the last words"), "{said}");
        // Unwound to main it is exit code 101; where panics abort it is SIGABRT.
        let ended = status.code() == Some(101) || status.signal() == Some(Signal::SIGABRT as i32);
        assert!(ended, "panic by {role}: {status}: {said}");
        let (status, said) = run("abort", role, Start::Ordinary);
        assert_eq!(status.signal(), Some(Signal::SIGABRT as i32), "abort by {role}: {status}: {said}");
    }
}

fn a_step_without_the_right_for_it_fails_by_its_name() {
    if !is_root() {
        return skip("a change of user without the right for it: only root loses that right");
    }
    let (status, said) = run("without-setuid", "control", Start::Root);
    assert_eq!(status.code(), Some(DONE.into()), "{said}");
    assert!(said.contains("cannot change to user 65534: EPERM"), "{said}");
}

fn without_setuid() -> ExitCode {
    keep_only(&[Capability::CAP_SETGID, Capability::CAP_SETPCAP]).unwrap();
    let error = confine(&policy(Role::Control)).unwrap_err();
    assert_eq!(error.step, Step::ChangeUser { uid: NOBODY });
    println!("{error}: {}", error.source);
    DONE.into()
}

fn a_confined_process_is_what_the_kernel_says() {
    for start in starts() {
        for (role, _) in ROLES {
            // It tells by a pipe that it is confined, and lives as long as its standard input.
            let mut command = Command::new("/proc/self/exe");
            command.env_clear().env(ATTEMPT, "linger").env(ROLE, role);
            if start == Start::Ordinary && is_root() {
                command.uid(NOBODY).gid(NOBODY);
            }
            let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
            command.stdin(std::os::fd::OwnedFd::from(theirs));
            let mut child = command.spawn().unwrap();
            drop(command);
            let mut byte = [0];
            std::io::Read::read_exact(&mut &ours, &mut byte).unwrap();
            let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
            drop(ours);
            assert!(child.wait().unwrap().success());
            expect_status(&status, start);
        }
    }
}

fn expect_status(status: &str, start: Start) {
    let field = |name: &str| {
        let line =
            status.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(':')));
        line.unwrap().split_once(':').unwrap().1.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let root = start == Start::Root;
    let sets = ["CapInh", "CapPrm", "CapEff", "CapAmb"].into_iter().chain(root.then_some("CapBnd"));
    for set in sets {
        assert_eq!(field(set), "0000000000000000", "{set} as {start:?}");
    }
    assert_eq!((field("NoNewPrivs"), field("Seccomp")), ("1".into(), "2".into()));
    if is_root() {
        assert_eq!(field("Uid"), "65534 65534 65534 65534");
        assert_eq!(field("Gid"), "65534 65534 65534 65534");
        assert_eq!(field("Groups"), "");
    }
}

fn a_supervisor_keeps_what_it_names() {
    if !unistd::geteuid().is_root() {
        return skip("capabilities: there are none to keep");
    }
    let (status, said) = run("keep", "control", Start::Root);
    assert_eq!(status.code(), Some(DONE.into()), "{said}");
}

fn keep() -> ExitCode {
    let kept = [Capability::CAP_NET_RAW, Capability::CAP_SETPCAP];
    let done = keep_only(&kept).unwrap();
    assert!(done.bounding_cut);
    // A child that stays root has no more than that either.
    let output = Command::new("cat").arg("/proc/self/status").output().unwrap();
    let bits: u64 = kept.iter().map(Capability::bitmask).sum();
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    for status in [own, String::from_utf8(output.stdout).unwrap()] {
        for (set, bits) in
            [("CapInh", 0), ("CapPrm", bits), ("CapEff", bits), ("CapBnd", bits), ("CapAmb", 0)]
        {
            assert!(status.contains(&format!("{set}:\t{bits:016x}")), "{set} is not {bits:016x}:\n{status}");
        }
        assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    }
    DONE.into()
}
