//! What a wait reports.

use crate::{Received, SocketKey};

/// One thing that happened.
#[derive(Debug)]
#[must_use = "a Received that is dropped is a buffer lost"]
pub enum Event {
    /// A datagram came.
    Received {
        /// The receiver it came on.
        socket: SocketKey,
        /// The datagram; give it back with [`Io::recycle`](crate::Io::recycle).
        frame: Received,
    },
    /// A send ended.
    Sent {
        /// What [`Outgoing::token`](crate::Outgoing) said.
        token: u64,
        /// The bytes sent, or the errno.
        result: Result<usize, i32>,
    },
    /// A watch is readable, or its peer is gone. Reported by every wait until it is read or closed.
    Readable {
        /// The watch.
        socket: SocketKey,
    },
    /// A receiver that was [stopped](crate::Io::stop) receives no more; nothing that came on it is reported after this.
    Stopped {
        /// The receiver.
        socket: SocketKey,
    },
    /// A receive failed. The receiver is tried again: at once the first times, then less and less often, until it
    /// succeeds, so that a socket that always fails costs one event a second in the end.
    ReceiveFailed {
        /// The receiver.
        socket: SocketKey,
        /// What the kernel said, such as ENETDOWN.
        errno: i32,
    },
}
