//! The time at which the kernel received a frame, as the frame bears it: every socket that gets it, and every program that looks at it,
//! sees the same number. So two that must not both take a datagram can divide datagrams at a time, without a word between them.
//!
//! The kernel stamps frames only while some socket of the host wants it; one without a stamp came before that. A UDP or packet socket tells
//! stamps by control messages ([`want`], [`stamp_ns`], [`UdpControl`](crate::udp::UdpControl)); a ring tells them in its headers
//! ([`AuxData::ring_stamp_ns`](crate::packet::AuxData::ring_stamp_ns)), and a tc program finds them in `__sk_buff.tstamp`.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use crate::{cmsg::messages, sys};

/// `SO_TIMESTAMPING_NEW` of asm-generic/socket.h (Linux 5.1): seconds of 64 bits whatever the machine.
pub(crate) const SO_TIMESTAMPING_NEW: libc::c_int = 65;
/// `SOF_TIMESTAMPING_RX_SOFTWARE` and `SOF_TIMESTAMPING_SOFTWARE` of linux/net_tstamp.h: make them, tell them.
const RECEIVED_BY_SOFTWARE: i32 = 1 << 3 | 1 << 4;

/// Has a socket tell the stamps of what it receives from now on, or no more. What has none comes without: other than SO_TIMESTAMP, this
/// never makes one up when the datagram is read. Has no effect on a ring.
///
/// # Errors
/// Those of `setsockopt(2)`.
pub fn want(fd: impl AsFd, wanted: bool) -> io::Result<()> {
    let flags = if wanted { RECEIVED_BY_SOFTWARE } else { 0 };
    sys::set_option(fd.as_fd(), libc::SOL_SOCKET, SO_TIMESTAMPING_NEW, &flags)
}

/// Has the kernel stamp frames for as long as what this gives is open; it begins some milliseconds later. Needs no right.
///
/// # Errors
/// Those of `socket(2)` and `setsockopt(2)`.
pub fn hold() -> io::Result<OwnedFd> {
    let fd = sys::socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    want(&fd, true)?;
    Ok(fd)
}

/// The stamp among the control messages of one `recvmsg(2)`, in nanoseconds since 1970.
pub fn stamp_ns(control: &[u8]) -> Option<u64> {
    messages(control)
        .find(|(level, kind, _)| (*level, *kind) == (libc::SOL_SOCKET, SO_TIMESTAMPING_NEW))
        .and_then(|(_, _, data)| read(data))
}

/// `struct scm_timestamping64`: three times, of which the first is the software's.
pub(crate) fn read(data: &[u8]) -> Option<u64> {
    let number = |at: usize| data.get(at..)?.first_chunk().map(|bytes| i64::from_ne_bytes(*bytes));
    let [seconds, nanoseconds] = [number(0)?, number(8)?].map(|number| u64::try_from(number).ok());
    seconds?.checked_mul(1_000_000_000)?.checked_add(nanoseconds?).filter(|stamp| *stamp > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmsg::message;

    fn control(seconds: i64, nanoseconds: i64) -> Vec<u8> {
        let data = [seconds, nanoseconds, 0, 0, 0, 0].map(i64::to_ne_bytes).concat();
        message(libc::SOL_SOCKET, SO_TIMESTAMPING_NEW, &data)
    }

    #[test]
    fn a_stamp_is_read_and_what_is_none_is_not() {
        assert_eq!(stamp_ns(&control(7, 9)), Some(7_000_000_009));
        for bad in [control(0, 0), control(-1, 0), control(0, -1), control(i64::MAX, 0), Vec::new()] {
            assert_eq!(stamp_ns(&bad), None);
        }
        assert_eq!(stamp_ns(&message(libc::SOL_SOCKET, SO_TIMESTAMPING_NEW, &[1; 15])), None);
        assert_eq!(stamp_ns(&message(libc::SOL_IP, SO_TIMESTAMPING_NEW, &[1; 48])), None);
    }
}
