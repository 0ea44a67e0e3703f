//! What the processes say to each other. Every type here travels between the supervisor and one child, as one packet
//! encoded by [`crate::codec`]; descriptors travel beside it, tagged as named in [`tag`].

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::{
    endpoint::{IfName, Output},
    plan::{Generation, InputSlot, OutputSlot, PlanOp, RuleSlot, SocketId, WorkerIndex},
    rule::{Datapath, RuleId, RuleName, RuleSpec},
};

/// Tags of descriptors in a message's manifest.
pub mod tag {
    /// A worker's counters: shared memory, writable for the worker, read-only for control.
    pub const COUNTERS: u32 = 1;
    /// A socket of [`super::ToWorker::OpenReceiver`] or [`super::ToWorker::OpenSender`].
    pub const SOCKET: u32 = 2;
    /// The listening control socket.
    pub const LISTENER: u32 = 3;
}

/// Supervisor to worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToWorker {
    /// The first message, with the worker's counters ([`tag::COUNTERS`]).
    Start {
        /// The worker's place.
        index: WorkerIndex,
        /// The core to run on, if workers are pinned.
        core: Option<u16>,
        /// Which I/O back end to use.
        io: IoChoice,
    },
    /// Receive from this socket ([`tag::SOCKET`]).
    OpenReceiver {
        /// Names the socket from now on.
        socket: SocketId,
        /// Where to count.
        input: InputSlot,
        /// How to read what comes.
        kind: ReceiverKind,
    },
    /// Send through this socket ([`tag::SOCKET`]).
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
    /// Finish what was received, then exit.
    Stop,
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
    },
    /// A UDP socket bound to this address.
    Udp {
        /// What it is bound to: the group, or a unicast address.
        bound: SocketAddr,
    },
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
}

/// Severity of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    /// Something failed.
    Error,
    /// Something is not as it should be.
    Warn,
    /// Something happened.
    Info,
    /// For finding faults.
    Debug,
}

/// Supervisor to control.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToControl {
    /// The first message, with the listener ([`tag::LISTENER`]) and one read-only [`tag::COUNTERS`] for each worker, in order.
    Start {
        /// How many workers there are.
        workers: u16,
        /// The user the daemon was started by; may do anything.
        owner_uid: u32,
        /// Members of this group may do anything.
        group_gid: Option<u32>,
        /// Whether everyone else may read.
        others_may_read: bool,
    },
    /// The answer, or a part of it, to the request with this number.
    Reply {
        /// The request's number.
        seq: u64,
        /// What came of it.
        reply: Result<Reply, Fault>,
    },
    /// Answer with [`FromControl::Pong`], to show that you are alive.
    Ping,
    /// Close the clients and exit.
    Stop,
}

/// Control to supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromControl {
    /// Ready to serve clients.
    Ready,
    /// The answer to [`ToControl::Ping`].
    Pong,
    /// A client's request, checked and typed.
    Request {
        /// Chosen by control; the reply carries it.
        seq: u64,
        /// What is asked.
        request: Request,
    },
    /// A line for the log.
    Log {
        /// How bad.
        level: LogLevel,
        /// The line.
        text: String,
    },
}

/// What control may ask of the supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Add a rule; an identical one of the same name is not added again.
    RuleAdd(Box<RuleSpec>),
    /// Remove a rule.
    RuleRemove(RuleRef),
    /// Have a rule carried by this worker from now on.
    RuleMove {
        /// The rule.
        rule: RuleRef,
        /// The worker's place.
        worker: WorkerIndex,
    },
    /// Switch a rule on or off; it stays, but has no sockets while it is off.
    RuleEnable {
        /// The rule.
        rule: RuleRef,
        /// On or off.
        enabled: bool,
    },
    /// One rule.
    RuleShow(RuleRef),
    /// Rules in order of id, from the first above `after`; as many as fit.
    RuleList {
        /// Where the last answer ended.
        after: Option<RuleId>,
    },
    /// The workers and their inputs.
    WorkerList,
    /// The host's interfaces from the first index above `after`; as many as fit.
    InterfaceList {
        /// Where the last answer ended.
        after: Option<u32>,
    },
    /// Inputs that were or are in use, from the first slot above `after`; as many as fit.
    InputList {
        /// Where the last answer ended.
        after: Option<InputSlot>,
    },
    /// Is the supervisor there?
    Ping,
}

/// A rule as a user names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RuleRef {
    /// By the daemon's number.
    Id(RuleId),
    /// By the user's name.
    Name(RuleName),
}

impl std::fmt::Display for RuleRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Id(id) => write!(f, "{}", id.0),
            Self::Name(name) => name.fmt(f),
        }
    }
}

/// What the supervisor answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// Done, nothing to say.
    Done,
    /// The rule that was added, or was there already.
    Added {
        /// As it stands now.
        rule: Box<RuleView>,
        /// False if an identical one was there.
        created: bool,
    },
    /// One rule.
    Rule(Box<RuleView>),
    /// Some rules, in order of id.
    Rules {
        /// As they stand now.
        rules: Vec<RuleView>,
        /// Whether there are more behind the last.
        more: bool,
    },
    /// All workers.
    Workers(Vec<WorkerView>),
    /// Some interfaces, in order of index.
    Interfaces {
        /// As the kernel reports them.
        interfaces: Vec<InterfaceView>,
        /// Whether there are more behind the last.
        more: bool,
    },
    /// Some inputs, in order of slot.
    Inputs {
        /// Those in use and those that were.
        inputs: Vec<InputView>,
        /// Whether there are more behind the last.
        more: bool,
    },
}

/// Why a request was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    /// What kind of failure.
    pub kind: FaultKind,
    /// For a person: what was wrong, where, what to do.
    pub message: String,
    /// The request's field at fault.
    pub field: Option<String>,
}

impl Fault {
    /// A fault without a field.
    pub fn new(kind: FaultKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), field: None }
    }

    /// The same, with the field at fault.
    #[must_use]
    pub fn at(mut self, field: impl Into<String>) -> Self {
        self.field = Some(field.into());
        self
    }
}

/// Kinds of failure, as clients see them in `data.kind`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FaultKind {
    /// The request does not make sense.
    Invalid,
    /// The client may not do this.
    NotPermitted,
    /// No such rule, worker or interface.
    NotFound,
    /// Another rule has this name.
    Exists,
    /// This build or host cannot do it.
    Unsupported,
    /// A limit is reached.
    Limit,
    /// A worker did not answer in time; the loop goes on trying.
    Busy,
    /// The handshake is missing or names another protocol.
    Protocol,
    /// A fault of the daemon's own, or of the host.
    Internal,
}

/// The state of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleState {
    /// An interface it needs is missing.
    Unresolved,
    /// Relaying.
    Active,
    /// An interface it needs is down.
    Paused,
    /// Switched off by the user.
    Disabled,
    /// Something the host refused, such as a socket; tried again.
    Failed,
}

/// A rule as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleView {
    /// The daemon's number.
    pub id: RuleId,
    /// The rule as configured; its name is always there.
    pub spec: RuleSpec,
    /// Its state.
    pub state: RuleState,
    /// Why it is in this state, if not active.
    pub reason: Option<String>,
    /// The worker that carries it.
    pub worker: WorkerIndex,
    /// The data path in use.
    pub datapath: Option<Datapath>,
    /// Why this data path.
    pub datapath_reason: String,
    /// Its counters.
    pub slot: RuleSlot,
    /// Its outputs, in the order of the spec.
    pub outputs: Vec<OutputView>,
}

/// An output as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputView {
    /// Its counters.
    pub slot: OutputSlot,
    /// As configured.
    pub output: Output,
    /// Its state.
    pub state: RuleState,
    /// Why it is in this state, if not active.
    pub reason: Option<String>,
}

/// A worker as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerView {
    /// Its place.
    pub index: WorkerIndex,
    /// Its process, if one runs.
    pub pid: Option<u32>,
    /// Its state.
    pub state: WorkerState,
    /// The core it is pinned to.
    pub core: Option<u16>,
    /// The I/O back end in use, once it is known.
    pub io: Option<IoChoice>,
    /// How often it was started again.
    pub restarts: u32,
    /// Rules it carries.
    pub rules: u32,
    /// Sockets it was given.
    pub sockets: u32,
    /// The plan it should have.
    pub desired: Generation,
    /// The plan it has.
    pub applied: Generation,
}

/// The state of a worker's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkerState {
    /// Started, not ready yet.
    Starting,
    /// Ready.
    Running,
    /// Dead; started again after a pause.
    Backoff,
}

/// An interface of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceView {
    /// The kernel's number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Administratively up.
    pub up: bool,
    /// Carrier present.
    pub running: bool,
    /// Can multicast.
    pub multicast: bool,
    /// Largest IP packet, in bytes.
    pub mtu: u32,
    /// Link-layer address.
    pub mac: Option<[u8; 6]>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The driver's kind, such as `veth`, if the kernel says.
    pub kind: Option<String>,
    /// Rules that use it.
    pub rules: u32,
}

/// An input: what one worker receives on one interface by one data path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputView {
    /// Its counters.
    pub slot: InputSlot,
    /// The worker that reads it.
    pub worker: WorkerIndex,
    /// The interface.
    pub interface: IfName,
    /// The data path.
    pub datapath: Datapath,
    /// Whether a socket is open for it now.
    pub open: bool,
}
