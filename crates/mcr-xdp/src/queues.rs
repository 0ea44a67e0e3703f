//! What an interface is asked before it is opened: how many queues it has, and whether it takes VLAN tags out.

use std::ffi::CString;
use std::io;

use crate::sys;

/// How many queues an interface of the calling thread's namespace receives on, as `ethtool -l` shows it: each needs a socket of its own.
///
/// # Errors
/// EOPNOTSUPP: the driver does not say; it then has one, more often than not. ENODEV: there is no such interface.
pub fn queues(interface: &str) -> io::Result<u32> {
    let channels = sys::channels(&name(interface)?)?;
    // Combined channels receive and send.
    Ok((channels.combined_count + channels.rx_count).max(1))
}

/// ETH_FLAG_RXVLAN of linux/ethtool.h: `rxvlan` of `ethtool -k`.
const FLAG_RXVLAN: u32 = 1 << 8;

/// Whether an interface of the calling thread's namespace takes VLAN tags out of the frames it receives (`rxvlan` of `ethtool -k`). What is
/// received by AF_XDP then comes without them: switch it off (`ethtool -K IF rxvlan off`) where tags matter. Virtual devices say that
/// they do, and hand over frames as they were sent.
///
/// # Errors
/// EOPNOTSUPP: the driver does not say. ENODEV: there is no such interface.
pub fn takes_vlan_tags_out(interface: &str) -> io::Result<bool> {
    Ok(sys::flags(&name(interface)?)? & FLAG_RXVLAN != 0)
}

fn name(interface: &str) -> io::Result<CString> {
    CString::new(interface).map_err(|_| io::ErrorKind::InvalidInput.into())
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
        assert_eq!(
            takes_vlan_tags_out("none-such").expect_err("there is none").raw_os_error(),
            Some(libc::ENODEV)
        );
    }
}
