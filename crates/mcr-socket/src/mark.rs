//! How what a socket sends is marked: for the network by DSCP, for this host's own queues by priority.

use crate::{Family, OpenError, sys};
use std::io;
use std::os::fd::BorrowedFd;

/// The highest priority that takes no right (sk_set_prio_allowed of the kernel).
const PRIORITY_FREE_MAX: u8 = 6;

pub(crate) fn dscp(fd: BorrowedFd<'_>, family: Family, dscp: Option<u8>) -> Result<(), OpenError> {
    let Some(dscp) = dscp else { return Ok(()) };
    let (level, name, call) = match family {
        Family::V4 => (libc::IPPROTO_IP, libc::IP_TOS, "IP_TOS"),
        Family::V6 => (libc::IPPROTO_IPV6, libc::IPV6_TCLASS, "IPV6_TCLASS"),
    };
    sys::set_option(fd, level, name, &(i32::from(dscp & 63) << 2)).map_err(OpenError::call(call))
}

pub(crate) fn priority(fd: BorrowedFd<'_>, priority: u8) -> Result<(), OpenError> {
    let set = |priority: u8| sys::set_option(fd, libc::SOL_SOCKET, libc::SO_PRIORITY, &i32::from(priority));
    let refused = |error: &io::Error| error.raw_os_error() == Some(libc::EPERM);
    match set(priority) {
        Err(error) if refused(&error) && priority > PRIORITY_FREE_MAX => set(PRIORITY_FREE_MAX),
        result => result,
    }
    .map_err(OpenError::call("SO_PRIORITY"))
}
