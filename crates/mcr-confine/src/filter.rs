//! seccomp: the system calls that each role's work takes. Any other ends the process.
//!
//! What a role needs was found by tracing it with real traffic, at its start, end and panic, with both back ends; and the
//! tests of the whole daemon run under these filters. What is here beyond it is what allocator and C library may come to need, and gives
//! no right: memory that is not executable, signals' own machinery, the clocks.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen as Width, SeccompCmpOp as Is, SeccompCondition,
    SeccompFilter, SeccompRule,
};

use crate::{
    Role,
    error::{ConfineError, Step},
};

/// Whatever the arguments.
const COMMON: [c_long; 19] = [
    // The channel to the supervisor.
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_close,
    // The allocator; mmap and mprotect are below.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    // What the standard library needs between two system calls.
    libc::SYS_futex,
    libc::SYS_sched_yield,
    libc::SYS_getrandom,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    // Signals: the guard page's handler, the end of a panic, a stop and its continuation.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    // The end.
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// abort(3) asks who it is, to signal itself.
const SELF: [c_long; 2] = [libc::SYS_getpid, libc::SYS_gettid];

const URING: [c_long; 1] = [libc::SYS_io_uring_enter];

const EPOLL: [c_long; 2] = [libc::SYS_epoll_ctl, libc::SYS_epoll_pwait];

const SYSCALLS: [c_long; 3] = [libc::SYS_ppoll, libc::SYS_recvmmsg, libc::SYS_sendmmsg];

/// AF_PACKET's batches; `sendto` is also how a delayed frame goes and how AF_XDP's kernel side is woken, as is `recvfrom`.
const FRAMES: [c_long; 5] =
    [libc::SYS_ppoll, libc::SYS_recvmmsg, libc::SYS_sendmmsg, libc::SYS_sendto, libc::SYS_recvfrom];

const CLIENTS: [c_long; 9] = [
    libc::SYS_accept4,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    // Who the client is.
    libc::SYS_getsockopt,
    libc::SYS_shutdown,
];

/// Calls that only some architectures have; others have but the newer one.
#[cfg(target_arch = "x86_64")]
const EPOLL_OLD: [c_long; 1] = [libc::SYS_epoll_wait];
#[cfg(not(target_arch = "x86_64"))]
const EPOLL_OLD: [c_long; 0] = [];

/// IORING_REGISTER_FILES_UPDATE of linux/io_uring.h.
const REGISTER_FILES_UPDATE: u64 = 6;

pub(crate) fn apply(role: Role) -> Result<(), ConfineError> {
    const STEP: Step = Step::FilterSystemCalls;
    let program = program(role, std::process::id()).map_err(ConfineError::at(STEP))?;
    // All threads: there is but this one, and if that were not so it would be refused here.
    seccompiler::apply_filter_all_threads(&program).map_err(ConfineError::at(STEP))
}

fn program(role: Role, pid: u32) -> Result<BpfProgram, BackendError> {
    let filter = SeccompFilter::new(
        rules(role, pid)?,
        SeccompAction::KillProcess,
        SeccompAction::Allow,
        std::env::consts::ARCH.try_into()?,
    )?;
    filter.try_into()
}

type Rules = BTreeMap<c_long, Vec<SeccompRule>>;

fn rules(role: Role, pid: u32) -> Result<Rules, BackendError> {
    let mut rules = Rules::new();
    let allow = |rules: &mut Rules, calls: &[c_long]| {
        rules.extend(calls.iter().map(|call| (*call, Vec::new())));
    };
    allow(&mut rules, &COMMON);
    allow(&mut rules, &SELF);
    let not_executable = || only(2, Is::MaskedEq(libc::PROT_EXEC as u64), 0);
    rules.insert(libc::SYS_mmap, not_executable()?);
    rules.insert(libc::SYS_mprotect, not_executable()?);
    // With debug assertions the standard library asks, before it closes a descriptor, whether it is open.
    rules.insert(libc::SYS_fcntl, only(1, Is::Eq, libc::F_GETFD as u64)?);
    // abort(3) signals this process; no other.
    rules.insert(libc::SYS_tgkill, only(0, Is::Eq, pid.into())?);
    // What a panic says.
    let to_stderr = || only(0, Is::Eq, libc::STDERR_FILENO as u64);
    rules.insert(libc::SYS_write, to_stderr()?);
    rules.insert(libc::SYS_writev, to_stderr()?);
    match role {
        Role::UringWorker => {
            allow(&mut rules, &URING);
            // Nothing but sockets into and out of the ring's table; the ring's own restrictions say so as well.
            rules.insert(libc::SYS_io_uring_register, only(1, Is::Eq, REGISTER_FILES_UPDATE)?);
        }
        Role::SyscallWorker => {
            allow(&mut rules, &EPOLL);
            allow(&mut rules, &EPOLL_OLD);
            allow(&mut rules, &SYSCALLS);
        }
        Role::Reflector => allow(&mut rules, &FRAMES),
        Role::Control => {
            allow(&mut rules, &EPOLL);
            allow(&mut rules, &EPOLL_OLD);
            // Of any descriptor: clients are written to, and the event loop wakes itself.
            allow(&mut rules, &CLIENTS);
        }
    }
    Ok(rules)
}

/// The call is allowed only if this argument is so. The kernel takes the arguments concerned as 32 bits wide.
fn only(argument: u8, is: Is, value: u64) -> Result<Vec<SeccompRule>, BackendError> {
    let condition = SeccompCondition::new(argument, Width::Dword, is, value)?;
    Ok(vec![SeccompRule::new(vec![condition])?])
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROLES: [Role; 4] = [Role::UringWorker, Role::SyscallWorker, Role::Reflector, Role::Control];

    #[test]
    fn every_role_has_a_filter_that_the_kernel_takes() {
        for role in ROLES {
            let program = program(role, 1).expect("this architecture has one");
            // BPF_MAXINSNS of linux/bpf_common.h.
            assert!(program.len() < 4096, "{role:?}: {} instructions", program.len());
        }
    }

    #[test]
    fn no_role_can_open_connect_start_or_trace() {
        let never = [
            libc::SYS_openat,
            libc::SYS_openat2,
            libc::SYS_open_by_handle_at,
            libc::SYS_socket,
            libc::SYS_connect,
            libc::SYS_bind,
            libc::SYS_listen,
            libc::SYS_setsockopt,
            libc::SYS_ioctl,
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_clone,
            libc::SYS_clone3,
            libc::SYS_kill,
            libc::SYS_ptrace,
            libc::SYS_process_vm_readv,
            libc::SYS_process_vm_writev,
            libc::SYS_pidfd_getfd,
            libc::SYS_prctl,
            libc::SYS_bpf,
            libc::SYS_io_uring_setup,
            libc::SYS_userfaultfd,
            libc::SYS_memfd_create,
            libc::SYS_pkey_mprotect,
            libc::SYS_mount,
            libc::SYS_unshare,
            libc::SYS_setns,
            libc::SYS_setresuid,
            libc::SYS_capset,
        ];
        for role in ROLES {
            let rules = rules(role, 1).expect("this architecture has them");
            let found: Vec<_> = never.iter().filter(|call| rules.contains_key(call)).collect();
            assert!(found.is_empty(), "{role:?} may {found:?}");
        }
    }
}
