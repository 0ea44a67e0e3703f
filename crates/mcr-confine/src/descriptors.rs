//! Descriptors that whoever started this process left open.

use std::io;

use crate::error::{ConfineError, Step};

/// Makes every descriptor above 2 close-on-exec; false where the kernel cannot (before Linux 5.11).
#[allow(unsafe_code)]
pub(crate) fn close_at_exec() -> Result<bool, ConfineError> {
    // By its number: not every C library has it (musl).
    // SAFETY: takes no pointers; with this flag nothing is closed before an exec, so no descriptor that is owned goes away.
    let result =
        unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if result == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::ENOSYS | libc::EINVAL) => Ok(false),
        _ => Err(ConfineError::at(Step::SealDescriptors)(error)),
    }
}
