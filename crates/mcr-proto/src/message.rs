//! What the processes say to each other. Every type here travels between the supervisor and one child, as one packet
//! encoded by [`crate::codec`]; descriptors travel beside it, tagged as named in [`tag`].

mod doctor;
mod event;
mod load;
mod log;
mod trace;
mod view;

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

pub use self::{
    doctor::{
        CounterValue, Diagnosis, EXPLAINED_OUTPUTS_MAX, EXPLAINED_RULES_MAX, ExplainedOutput, ExplainedRule,
        Explanation, FINDINGS_MAX, Finding, NearRule, Severity, Verdict,
    },
    event::{Event, EventKind, EventWhat},
    load::{LoadId, LoadReport, LoadStep, Settings},
    log::{Facility, LogLevel, LogLevels, LogNameError},
    trace::{Sampling, TraceOf, TraceOrder, TraceWanted, Traced, Tracing},
    view::{
        ClassBy, InputClass, InputView, InterfaceView, OutputView, ReflectLatency, ReflectView,
        ReflectWorker, RuleState, RuleView, WorkerState, WorkerView,
    },
};

use crate::{
    plan::{Generation, InputSlot, Lane, Own, PlanOp, SocketId, WorkerIndex},
    probe::Probe,
    reflect::Reflect,
    rule::{RuleId, RuleName, RuleSpec},
};

/// Tags of descriptors in a message's manifest.
pub mod tag {
    /// A worker's counters: shared memory, writable for the worker, read-only for control.
    pub const COUNTERS: u32 = 1;
    /// A socket of [`super::ToWorker::OpenReceiver`] or [`super::ToWorker::OpenSender`].
    pub const SOCKET: u32 = 2;
    /// The listening control socket.
    pub const LISTENER: u32 = 3;
    /// The configuration file of [`super::ToControl::Reload`].
    pub const CONFIG: u32 = 4;
    /// The listening TCP socket of [`super::Http`].
    pub const HTTP: u32 = 5;
}

/// Whom a process runs as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ids {
    /// The user.
    pub uid: u32,
    /// The group; there are no supplementary ones.
    pub gid: u32,
}

/// How control serves over HTTP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Http {
    /// Names that a request may have in `Host`, beside addresses and `localhost`.
    pub names: Vec<String>,
    /// What a client that changes something must show; without it nobody may.
    pub token: Option<Secret>,
}

/// Something that must not get into a log: it does not show in `Debug`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
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
        /// Whom to run as; none where the supervisor has not the right to say, then as the supervisor does.
        ids: Option<Ids>,
    },
    /// Receive from this socket ([`tag::SOCKET`]), from the next plan on.
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

/// Supervisor to control.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToControl {
    /// The first message, with the listener ([`tag::LISTENER`]) and read-only [`tag::COUNTERS`]: one of
    /// each worker, in order, then that of the kernel data path.
    Start {
        /// How many counters there are.
        segments: u16,
        /// The user the daemon was started by; may do anything.
        owner_uid: u32,
        /// Members of this group may do anything.
        group_gid: Option<u32>,
        /// Whether everyone else may read.
        others_may_read: bool,
        /// What to serve over HTTP, with the listener ([`tag::HTTP`]); none if nothing is.
        http: Option<Http>,
        /// Whom to run as; none where the supervisor has not the right to say, then as the supervisor does.
        ids: Option<Ids>,
    },
    /// The answer, or a part of it, to the request with this number.
    Reply {
        /// The request's number.
        seq: u64,
        /// What came of it.
        reply: Result<Reply, Fault>,
    },
    /// What happened, in order, for clients that want to know.
    Events {
        /// As much as fits.
        events: Vec<Event>,
    },
    /// Read the configuration file ([`tag::CONFIG`]), and make it the running configuration.
    Reload {
        /// Its name, for messages.
        file: String,
    },
    /// Send log lines of this severity and above; without it, of [`LogLevel::Info`].
    LogLevel(LogLevel),
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
    /// The answer to [`ToControl::Reload`], when it is done or has failed.
    Reloaded,
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
    /// Add a reflector; the same one is not added again.
    ReflectAdd(Box<Reflect>),
    /// Remove the reflector of this name.
    ReflectRemove(String),
    /// Reflectors with their counters: the one of this name, or all; as many as fit, from this place on.
    ReflectList {
        /// A name.
        name: Option<String>,
        /// How many were listed before.
        skip: u32,
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
    /// A step of loading a configuration: all of it takes effect with [`LoadStep::Commit`], or nothing.
    Load {
        /// Tells one load from others under way; chosen by control.
        load: LoadId,
        /// The step.
        step: LoadStep,
    },
    /// The running configuration without its rules, and where the startup configuration lies.
    SettingsGet,
    /// Write the running configuration to the startup configuration's file.
    ConfigSave,
    /// The levels of the log.
    LogGet,
    /// Set the level of one facility, or of all.
    LogSet {
        /// The least severity that is logged.
        level: LogLevel,
        /// Which facility; without one, all.
        facility: Option<Facility>,
    },
    /// Is the supervisor there?
    Ping,
    /// Look for what on this host breaks or slows relaying.
    Doctor,
    /// What would become of a datagram?
    Why(Probe),
    /// Have workers show what becomes of datagrams.
    TraceStart(TraceWanted),
    /// End a trace; not an error if it has ended.
    TraceStop {
        /// Its number.
        id: u64,
    },
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
    /// The reflector that was added, or was there already.
    ReflectAdded {
        /// As it stands now.
        reflector: Box<ReflectView>,
        /// False if the same was there.
        created: bool,
    },
    /// Some reflectors, in the order in which they were added.
    Reflectors {
        /// As they stand now.
        reflectors: Vec<ReflectView>,
        /// Whether there are more behind the last.
        more: bool,
    },
    /// All workers.
    Workers(Vec<WorkerView>),
    /// A configuration was loaded.
    Loaded(LoadReport),
    /// The running configuration without its rules.
    Settings {
        /// As it is now.
        settings: Settings,
        /// The startup configuration's file, if there is one.
        path: Option<String>,
    },
    /// The running configuration was written.
    Saved {
        /// The file.
        path: String,
        /// How many rules it has now.
        rules: u32,
    },
    /// The levels of the log.
    Log(LogLevels),
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
    /// What was found on this host.
    Diagnosis(Box<Diagnosis>),
    /// What would become of a datagram.
    Explanation(Box<Explanation>),
    /// Workers were told to trace.
    Tracing(Tracing),
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
    /// The request makes no sense.
    Invalid,
    /// The client may not do this, or the host does not let the daemon.
    NotPermitted,
    /// No such rule, worker or reflector.
    NotFound,
    /// Another rule has this name.
    Exists,
    /// This version, or this daemon as it was started, cannot do it.
    Unsupported,
    /// A limit is reached.
    Limit,
    /// A worker did not answer in time, or something of the kind is under way; what was changed is kept and takes effect later.
    Busy,
    /// The handshake is missing or names another protocol.
    Protocol,
    /// A fault of the daemon, or of the host.
    Internal,
}
