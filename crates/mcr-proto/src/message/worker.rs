//! Supervisor and worker: sockets and plans there, what came of them back.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{Ids, LogLevel, TraceOrder};
use crate::plan::{Generation, InputSlot, Lane, Own, PlanOp, SocketId, WorkerIndex};

/// Supervisor to worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToWorker {
    /// The first message, with the worker's counters ([`tag::COUNTERS`](super::tag::COUNTERS)).
    Start {
        /// The worker's place.
        index: WorkerIndex,
        /// The core to run on, if workers are pinned.
        core: Option<u16>,
        /// Which I/O back end to use.
        io: IoChoice,
        /// Whom to run as; none where the supervisor has not the right to say, then as the supervisor does.
        ids: Option<Ids>,
    },
    /// Receive from this socket ([`tag::SOCKET`](super::tag::SOCKET)), from the next plan on.
    OpenReceiver {
        /// Names the socket from now on.
        socket: SocketId,
        /// Where to count.
        input: InputSlot,
        /// How to read what comes.
        kind: ReceiverKind,
        /// How it stands beside others.
        lane: Lane,
    },
    /// Send through this socket ([`tag::SOCKET`](super::tag::SOCKET)).
    OpenSender {
        /// Names the socket from now on.
        socket: SocketId,
    },
    /// Stop using the socket and close it.
    CloseSocket {
        /// Which.
        socket: SocketId,
    },
    /// A part of a plan; takes effect as a whole with the part that is `last`.
    Plan {
        /// The plan's number.
        generation: Generation,
        /// Differences to the plan before.
        ops: Vec<PlanOp>,
        /// Whether the plan is complete now.
        last: bool,
    },
    /// Datagrams to these destinations that are own copies are to be counted as `loop` and not relayed; where nothing is own, that
    /// ends.
    Guards(Vec<(SocketAddr, Own)>),
    /// Send log lines of this severity and above; without it, of [`LogLevel::Info`].
    LogLevel(LogLevel),
    /// Show what becomes of datagrams, in the memory that the counters are in. What has its place ends.
    Trace(TraceOrder),
    /// End the trace with this number, if it is on.
    EndTrace {
        /// Its place.
        place: u8,
        /// Its number.
        id: u64,
    },
    /// Finish what was received, then exit.
    Stop,
    /// Receive no more from the socket, relay what was taken from it, and say [`FromWorker::Stopped`]: another worker goes on reading it.
    StopReceiver {
        /// Which.
        socket: SocketId,
    },
}

/// How a worker does its I/O.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IoChoice {
    /// io_uring where it works, else system calls.
    Auto,
    /// io_uring or nothing.
    Uring,
    /// `recvmmsg` and `sendmmsg`.
    Syscalls,
}

/// What comes out of a receiving socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReceiverKind {
    /// AF_PACKET: a virtio-net header, then a frame.
    Packet {
        /// Whether frames start with an Ethernet header (else with the IP header).
        ethernet: bool,
        /// The socket's receive ring, to be mapped; without one, frames come out of its queue.
        ring: Option<RingShape>,
    },
    /// A UDP socket bound to this address.
    Udp {
        /// What it is bound to: the group, or a unicast address.
        bound: SocketAddr,
    },
}

/// The shape of a packet socket's receive ring (`struct tpacket_req`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingShape {
    /// Bytes of a block.
    pub block_bytes: u32,
    /// How many blocks there are.
    pub blocks: u32,
    /// Bytes of a slot; a block holds as many as fit.
    pub slot_bytes: u32,
}

/// Worker to supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromWorker {
    /// Confined and waiting for plans.
    Ready {
        /// The I/O back end in use.
        io: IoChoice,
        /// Why not io_uring, if it was to be chosen but could not.
        fallback: Option<String>,
    },
    /// Every route up to this generation is in use.
    Applied {
        /// The plan's number.
        generation: Generation,
    },
    /// A message could not be carried out; the worker goes on as before.
    Refused {
        /// What and why.
        problem: String,
    },
    /// A receiving socket reported an error (such as its interface going down).
    SocketFailed {
        /// Which.
        socket: SocketId,
        /// What `errno` said.
        errno: i32,
    },
    /// A line for the log.
    Log {
        /// How bad.
        level: LogLevel,
        /// The line.
        text: String,
    },
    /// Nothing more is received from the socket, and what was is relayed.
    Stopped {
        /// Which.
        socket: SocketId,
    },
}
