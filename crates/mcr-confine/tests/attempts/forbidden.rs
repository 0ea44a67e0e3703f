//! What no role may do. Each attempt must end the process; whether the kernel would have refused it besides does not matter.
#![allow(unsafe_code, clippy::multiple_unsafe_ops_per_block)]

use std::{cell::RefCell, net::UdpSocket, os::fd::AsRawFd, os::unix::net::UnixDatagram};

use nix::{
    fcntl::{OFlag, OpenHow, open, openat2},
    mount::{MsFlags, mount},
    sys::{
        mman::{MapFlags, ProtFlags, mmap_anonymous, mprotect},
        prctl, ptrace,
        signal::{Signal, kill},
        socket::{AddressFamily, SockFlag, SockType, socket},
        stat::Mode,
    },
    unistd::{Pid, execv, getpid, getppid},
};

/// What an attempt needs and could not get once confined.
pub(crate) struct Ready {
    pub(crate) ours: UnixDatagram,
    pub(crate) theirs: UnixDatagram,
    pub(crate) spare: RefCell<Option<UnixDatagram>>,
    udp: UdpSocket,
    page: std::ptr::NonNull<libc::c_void>,
    parent: Pid,
}

const PAGE: std::num::NonZeroUsize = std::num::NonZeroUsize::new(4096).unwrap();

impl Ready {
    pub(crate) fn new() -> Self {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: an anonymous mapping at an address that the kernel chooses touches nothing that exists.
        let page = unsafe { mmap_anonymous(None, PAGE, prot, MapFlags::MAP_PRIVATE) }.unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        Self { spare: RefCell::new(ours.try_clone().ok()), ours, theirs, udp, page, parent: getppid() }
    }
}

pub(crate) const ALL: &[&str] = &[
    "open",
    "open for writing",
    "openat2",
    "socket",
    "packet socket",
    "netlink socket",
    "connect",
    "bind",
    "setsockopt",
    "ioctl",
    "execve",
    "ptrace",
    "process_vm_readv",
    "pidfd_getfd",
    "kill the parent",
    "kill itself",
    "signal a thread of another process",
    "mount",
    "unshare",
    "fork",
    "thread",
    "bpf",
    "io_uring_setup",
    "io_uring_register a personality",
    "mmap executable",
    "mprotect executable",
    "memfd_create",
    "prctl dumpable",
    "prctl keep capabilities",
    "setuid",
    "capset",
    "seccomp",
    "userfaultfd",
    "perf_event_open",
    "duplicate a descriptor",
    "write to a file",
    "getcwd",
    "sysinfo",
    "a call of 32 bits",
];

/// Returns only if the attempt was let through.
pub(crate) fn try_it(attempt: &str, ready: &Ready) {
    match attempt {
        "open" => drop(open("/etc/passwd", OFlag::O_RDONLY, Mode::empty())),
        "open for writing" => drop(open("/dev/null", OFlag::O_WRONLY, Mode::empty())),
        "openat2" => drop(openat2(&ready.udp, "/etc/passwd", OpenHow::new())),
        "socket" => drop(socket(AddressFamily::Inet, SockType::Datagram, SockFlag::empty(), None)),
        "packet socket" => drop(socket(AddressFamily::Packet, SockType::Raw, SockFlag::empty(), None)),
        "netlink socket" => drop(socket(AddressFamily::Netlink, SockType::Raw, SockFlag::empty(), None)),
        "connect" => drop(ready.udp.connect("127.0.0.1:9")),
        "bind" => drop(UdpSocket::bind("127.0.0.1:0")),
        "setsockopt" => drop(ready.udp.set_broadcast(true)),
        "ioctl" => drop(ready.udp.set_nonblocking(true)),
        "execve" => drop(execv(c"/bin/true", &[c"true"])),
        "ptrace" => drop(ptrace::attach(ready.parent)),
        "process_vm_readv" => raw(libc::SYS_process_vm_readv, [ready.parent.as_raw().into(), 0, 0, 0, 0]),
        "pidfd_getfd" => raw(libc::SYS_pidfd_getfd, [0, 0, 0, 0, 0]),
        "kill the parent" => drop(kill(ready.parent, Signal::SIGCONT)),
        "kill itself" => drop(kill(getpid(), Signal::SIGCONT)),
        "signal a thread of another process" => {
            let parent = ready.parent.as_raw().into();
            raw(libc::SYS_tgkill, [parent, parent, libc::SIGCONT.into(), 0, 0]);
        }
        "mount" => drop(mount(None::<&str>, "/tmp", Some("tmpfs"), MsFlags::empty(), None::<&str>)),
        "unshare" => raw(libc::SYS_unshare, [libc::CLONE_NEWUSER.into(), 0, 0, 0, 0]),
        // A fork that is let through ends in two processes that say so.
        "fork" => raw(libc::SYS_clone, [libc::SIGCHLD.into(), 0, 0, 0, 0]),
        "thread" => drop(std::thread::Builder::new().spawn(|| ())),
        "bpf" => raw(libc::SYS_bpf, [0; 5]),
        "io_uring_setup" => raw(libc::SYS_io_uring_setup, [1, 0, 0, 0, 0]),
        // IORING_REGISTER_PERSONALITY of linux/io_uring.h.
        "io_uring_register a personality" => raw(libc::SYS_io_uring_register, [0, 9, 0, 0, 0]),
        "mmap executable" => {
            // SAFETY: an anonymous mapping at an address that the kernel chooses touches nothing that exists.
            let _ = unsafe { mmap_anonymous(None, PAGE, ProtFlags::PROT_EXEC, MapFlags::MAP_PRIVATE) };
        }
        "mprotect executable" => {
            // SAFETY: the page is one that nothing but this refers to.
            let _ = unsafe { mprotect(ready.page, PAGE.get(), ProtFlags::PROT_READ | ProtFlags::PROT_EXEC) };
        }
        "memfd_create" => drop(nix::sys::memfd::memfd_create(c"x", nix::sys::memfd::MFdFlags::empty())),
        "prctl dumpable" => drop(prctl::set_dumpable(true)),
        "prctl keep capabilities" => drop(prctl::set_keepcaps(true)),
        "setuid" => raw(libc::SYS_setuid, [0; 5]),
        "capset" => raw(libc::SYS_capset, [0; 5]),
        "seccomp" => raw(libc::SYS_seccomp, [0; 5]),
        "userfaultfd" => raw(libc::SYS_userfaultfd, [0; 5]),
        "perf_event_open" => raw(libc::SYS_perf_event_open, [0; 5]),
        "duplicate a descriptor" => drop(ready.udp.try_clone()),
        // Control writes to its clients, whichever descriptors they have; nobody gets at a file by that.
        "write to a file" => raw(libc::SYS_pwrite64, [1, 0, 0, 0, 0]),
        "getcwd" => drop(std::env::current_dir()),
        "sysinfo" => raw(libc::SYS_sysinfo, [0; 5]),
        "a call of 32 bits" => other_abi(),
        other => panic!("no such attempt: {other}"),
    }
    assert!(ready.udp.as_raw_fd() > 2);
}

fn raw(call: libc::c_long, arguments: [libc::c_long; 5]) {
    let [a, b, c, d, e] = arguments;
    // SAFETY: pointers are null, so the kernel reads and writes nothing of ours; a fork shares nothing with its child.
    unsafe { libc::syscall(call, a, b, c, d, e) };
}

/// A number that the filter allows, in the kernel's other ways of calling it.
#[cfg(target_arch = "x86_64")]
fn other_abi() {
    // __X32_SYSCALL_BIT of asm/unistd.h.
    raw(0x4000_0000 | libc::SYS_getpid, [0; 5]);
}
#[cfg(not(target_arch = "x86_64"))]
fn other_abi() {
    raw(libc::SYS_sysinfo, [0; 5]);
}
