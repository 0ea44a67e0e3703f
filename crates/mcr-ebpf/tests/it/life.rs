//! Rights, and what is left behind: nothing.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

use aya::programs::{SchedClassifier, TcAttachType};
use mcr_ebpf::{AttachError, KernelPath, LoadError};
use mcr_lab::{Namespace, require, wait_until};
use nix::libc::{SYS_setresuid, syscall};

use crate::rig::{DEADLINE, Rig};

/// How many programs are at an interface's ingress.
fn programs(net: &Namespace, ifname: &str) -> usize {
    net.enter(|| SchedClassifier::query_tcx(ifname, TcAttachType::Ingress)).expect("tcx is there").1.len()
}

#[test]
fn a_detached_interface_has_no_program_left_and_traffic_goes_on_untouched() {
    let Some(()) = require::netns() else { return };
    let mut rig = Rig::new(1);
    let input = rig.input;
    assert_eq!(programs(&rig.line.relay, "in0"), 1);
    rig.line.relay.enter(|| rig.path.attach(input)).expect("twice is once");
    assert_eq!(programs(&rig.line.relay, "in0"), 1);
    assert_eq!(rig.path.attached().collect::<Vec<_>>(), [input]);
    rig.path.detach(input);
    assert_eq!(programs(&rig.line.relay, "in0"), 0);
}

#[test]
fn an_interface_that_is_not_there_is_named() {
    let Some(()) = require::netns() else { return };
    let net = Namespace::new().expect("a namespace");
    let mut path = KernelPath::load().expect("the program loads");
    let error = net.enter(|| path.attach(777)).expect_err("no such interface");
    assert!(matches!(error, AttachError::NoInterface { ifindex: 777 }), "{error}");
}

#[test]
fn without_the_right_to_load_programs_the_reason_is_said() {
    let Some(()) = require::netns() else { return };
    let error = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // Only this thread, by the bare system call (setresuid(2), C library notes).
            // SAFETY: takes three integers.
            let result = unsafe { syscall(SYS_setresuid, 65534, 65534, 65534) };
            assert_eq!(result, 0);
            KernelPath::load().map(drop).expect_err("nobody may not")
        });
        thread.join().expect("no panic")
    });
    assert!(matches!(error, LoadError::NotPermitted), "{error}");
}

/// A process that has put the program at `in0` of a namespace, and does nothing more.
pub(crate) fn holder(net: &Namespace) -> Child {
    let this = std::env::current_exe().expect("this program");
    let mut command: Command = net.command(this);
    command.args(["--exact", "life::hold_the_program_at_in0", "--ignored", "--nocapture"]);
    let mut child = command.stdout(Stdio::piped()).spawn().expect("started");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    assert!(lines.any(|line| line.expect("text") == "attached"));
    child
}

/// Not a test of its own: the process of [`holder`].
#[test]
#[ignore = "started by another test"]
fn hold_the_program_at_in0() {
    let mut path = KernelPath::load().expect("the program loads");
    let index = nix::net::if_::if_nametoindex("in0").expect("in0");
    path.attach(index).expect("attached");
    #[allow(clippy::print_stdout)]
    {
        println!("\nattached");
    }
    loop {
        std::thread::park();
    }
}

#[test]
fn a_killed_process_leaves_nothing_attached() {
    let Some(()) = require::netns() else { return };
    let line = mcr_lab::Line::new().expect("a line");
    let mut child = holder(&line.relay);
    assert_eq!(programs(&line.relay, "in0"), 1);
    child.kill().expect("SIGKILL");
    child.wait().expect("dead");
    // The kernel takes links away after the last descriptor's close, on another thread of its own.
    wait_until(DEADLINE, "nothing is attached", || programs(&line.relay, "in0") == 0).expect("nothing");
}
