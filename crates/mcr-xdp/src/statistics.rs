//! What the kernel counted.

use std::io;
use std::os::fd::BorrowedFd;

/// What the kernel counted of one socket since it was opened (`struct xdp_statistics` of linux/if_xdp.h, Linux 5.9).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Statistics {
    /// Frames dropped because they were too long for a frame of the UMEM, or because the fill ring was empty (copy mode).
    pub receive_dropped: u64,
    /// Frames dropped because the receive ring was full.
    pub receive_ring_full: u64,
    /// How often the kernel looked for a frame to receive into, and there was none.
    pub fill_ring_empty: u64,
    /// Entries of the fill ring that were no frames. This crate makes none.
    pub fill_invalid: u64,
    /// Entries of the transmit ring that were not sent for what they were. This crate makes none.
    pub transmit_invalid: u64,
    /// How often the kernel looked for something to send, and there was nothing.
    pub transmit_ring_empty: u64,
}

/// What the kernel counted of a socket. Any holder of its descriptor can ask, so a confined process need not.
///
/// # Errors
/// What `getsockopt(2)` says, e.g. ENOPROTOOPT for what is no AF_XDP socket.
pub fn statistics(socket: BorrowedFd<'_>) -> io::Result<Statistics> {
    let raw = crate::sys::statistics(socket)?;
    Ok(Statistics {
        receive_dropped: raw.rx_dropped,
        receive_ring_full: raw.rx_ring_full,
        fill_ring_empty: raw.rx_fill_ring_empty_descs,
        fill_invalid: raw.rx_invalid_descs,
        transmit_invalid: raw.tx_invalid_descs,
        transmit_ring_empty: raw.tx_ring_empty_descs,
    })
}
