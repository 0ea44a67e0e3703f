//! Has the kernel refuse system calls, as one does that does not know them, or a container's host that forbids them.

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};

use crate::error::LabError;

/// Has a system call of the calling thread fail with `errno` from now on, and that of all it starts: every one, or those with this first
/// argument, of which the kernel sees 32 bits. It cannot be taken back, so the thread should be one that ends.
pub fn forbid(call: i64, first_argument: Option<u32>, errno: u32) -> Result<(), LabError> {
    let program =
        program(call, first_argument, errno).map_err(|error| LabError::Forbid { source: Box::new(error) })?;
    seccompiler::apply_filter(&program).map_err(|error| LabError::Forbid { source: Box::new(error) })
}

fn program(call: i64, first_argument: Option<u32>, errno: u32) -> Result<BpfProgram, BackendError> {
    let equals = |value: u32| {
        let width = SeccompCmpArgLen::Dword;
        SeccompRule::new(vec![SeccompCondition::new(0, width, SeccompCmpOp::Eq, value.into())?])
    };
    let rules = first_argument.map(equals).transpose()?;
    let filter = SeccompFilter::new(
        [(call, rules.into_iter().collect())].into(),
        SeccompAction::Allow,
        SeccompAction::Errno(errno),
        std::env::consts::ARCH.try_into()?,
    )?;
    filter.try_into()
}

#[cfg(test)]
mod tests {
    use std::{io, net::UdpSocket, os::unix::net::UnixDatagram, thread};

    use nix::libc;

    use super::*;

    #[test]
    fn a_forbidden_call_fails_as_told_where_its_argument_is_the_one_and_in_no_other_thread() {
        let seen = thread::spawn(|| {
            forbid(libc::SYS_socket, Some(libc::AF_UNIX as u32), libc::ENOSYS as u32)
                .expect("no right is needed");
            let refused = |error: io::Error| error.raw_os_error();
            (
                UnixDatagram::unbound().map_err(refused).err(),
                UdpSocket::bind("127.0.0.1:0").map_err(refused).err(),
            )
        });
        assert_eq!(seen.join().expect("no panic"), (Some(Some(libc::ENOSYS)), None));
        UnixDatagram::unbound().expect("this thread may");
    }
}
