//! What a reflecting process is told and tells, for whoever runs one: plain data.

use serde::{Deserialize, Serialize};

use crate::config::Config;

/// Tags of the descriptors that come with [`ToReflector::Start`](super::ToReflector::Start).
pub mod tag {
    /// The row of numbers, for writing.
    pub const COUNTERS: u32 = 1;
    /// The packet socket, or the AF_XDP socket of queue 0; that of queue N has `SOCKET + 2 * N`.
    pub const SOCKET: u32 = 2;
    /// The memory of the AF_XDP socket of queue 0; that of queue N has `MEMORY + 2 * N`.
    pub const MEMORY: u32 = 3;
}

/// How frames are got and sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum BackEnd {
    /// AF_PACKET. One socket.
    Packet {
        /// The shape of its receive ring (`struct tpacket_req`): bytes of a block, blocks, bytes of a slot. None where it has none.
        ring: Option<[u32; 3]>,
    },
    /// AF_XDP. A socket and its memory for each queue.
    Xdp {
        /// How many queues.
        queues: u32,
        /// Frames in the memory of each.
        frames: u32,
        /// Bytes of each frame.
        frame_bytes: u32,
        /// Entries of each ring.
        entries: u32,
        /// Frames kept for what is not sent in place.
        reserve_frames: u32,
        /// Each frame has in front of it when it came.
        times: bool,
    },
}

/// To the process. Descriptors come beside `Start`, tagged as named in [`tag`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToReflector {
    /// Begin; the first message.
    Start {
        /// Options.
        config: Config,
        /// How frames are got and sent.
        back_end: BackEnd,
        /// Turn-round times are measured for one frame of so many; 0 for none.
        latency_every: u32,
        /// Whom to run as; none where there is no right to change.
        ids: Option<(u32, u32)>,
        /// The core to run on.
        core: Option<u32>,
    },
    /// Use these options from now on.
    Configure {
        /// All of them.
        config: Config,
    },
    /// End.
    Stop,
}

/// From the process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromReflector {
    /// It has no rights any more and reflects.
    Ready,
    /// Something for the log.
    Log {
        /// It is a failure.
        error: bool,
        /// What.
        text: String,
    },
}
