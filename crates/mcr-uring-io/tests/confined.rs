//! After it was opened, an io_uring `Io` makes do with the system calls that its documentation names, however confined.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // A test that cannot go on says where.

mod common;

use common::{NAME_V4, Pump, bind, pattern, recv, sink, small};
use mcr_uring_io::{Choice, IoConfig, Outgoing, Part};

/// What the crate needs, and then what the allocator and a thread's end need.
const ALLOWED: [libc::c_long; 15] = [
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_close,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_mprotect,
    libc::SYS_brk,
    libc::SYS_futex,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigprocmask,
    libc::SYS_exit,
    libc::SYS_rseq,
    libc::SYS_clock_gettime,
];

#[test]
fn a_confined_thread_receives_sends_adds_and_closes() {
    if !common::has_uring() {
        return;
    }
    let (sink, to) = sink();
    let later = bind();
    let later_address = later.local_addr().unwrap();
    let source = sink.try_clone().unwrap();
    let thread = std::thread::spawn(move || {
        let mut pump = Pump::with(&IoConfig { restricted: true, ..small(Choice::Uring) });
        pump.hold = true;
        let (key, address) = pump.receiver(NAME_V4);
        let sender = pump.sender();
        for number in 0..10 {
            source.send_to(&pattern(number, 200), address).unwrap();
            source.send_to(&pattern(100 + number, 200), later_address).unwrap();
        }
        drop(source);
        confine();

        pump.until("ten datagrams", |pump| pump.held.len() == 10);
        pump.io.close(key);
        pump.io.add_receiver(later.into(), NAME_V4).unwrap();
        pump.until("ten more", |pump| pump.held.len() == 20);
        for (_, frame) in pump.held.drain(..) {
            let parts = [Part::Inline(b"> "), Part::Frame(&frame, 0..frame.payload_bytes())];
            pump.io.send(&Outgoing { destination: Some(to), ..Outgoing::new(sender, &parts, 0) }).unwrap();
            pump.io.recycle(frame);
        }
        pump.until("all sends", |pump| pump.sent.len() == 20);
        pump.quiet();
    });
    thread.join().unwrap();
    for number in (0..10).chain(100..110) {
        assert_eq!(recv(&sink), [b"> ", &pattern(number, 200)[..]].concat());
    }
}

/// From here on any other system call of this thread ends the process with SIGSYS.
fn confine() {
    // From linux/filter.h and linux/seccomp.h: load the number, compare it to each, then the verdicts.
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let mut filter = vec![statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0)];
    // With debug assertions std asks, before it closes a descriptor, whether it is open.
    let debug = cfg!(debug_assertions).then_some(libc::SYS_fcntl);
    let allowed: Vec<_> = ALLOWED.into_iter().chain(debug).collect();
    for (at, number) in allowed.iter().enumerate() {
        let jump = statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, *number as u32);
        filter.push(libc::sock_filter { jt: (allowed.len() - at) as u8, ..jump });
    }
    filter.push(statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_KILL_PROCESS));
    filter.push(statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW));
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: takes no pointers.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
    // SAFETY: the program points to as many instructions as it says, and both live until the call's end.
    let result = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    assert_eq!(result, 0);
}
