//! How many queues an interface has.

use std::ffi::CString;
use std::io;

use crate::sys;

/// How many queues an interface of the calling thread's namespace receives on, as `ethtool -l` shows it: each needs a socket of its own.
///
/// # Errors
/// EOPNOTSUPP: the driver does not say; it then has one, more often than not. ENODEV: there is no such interface.
pub fn queues(interface: &str) -> io::Result<u32> {
    let name = CString::new(interface).map_err(|_| io::ErrorKind::InvalidInput)?;
    let channels = sys::channels(&name)?;
    // Combined channels receive and send.
    Ok((channels.combined_count + channels.rx_count).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_that_is_not_there_has_no_queues() {
        let error = queues("none-such").expect_err("there is none");
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
        assert_eq!(queues("a\0b").expect_err("no name").kind(), io::ErrorKind::InvalidInput);
        assert!(queues("a-name-far-longer-than-any-interface-has").is_err());
    }
}
