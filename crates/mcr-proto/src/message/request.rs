//! What control asks of the supervisor for its clients, and the answers.

use serde::{Deserialize, Serialize};

use super::{
    Diagnosis, Explanation, Facility, InputView, InterfaceView, LoadId, LoadReport, LoadStep, LogLevel,
    LogLevels, ReflectView, RuleView, Settings, TraceWanted, Tracing, WorkerView,
};
use crate::{
    plan::{InputSlot, WorkerIndex},
    probe::Probe,
    reflect::Reflect,
    rule::{RuleId, RuleName, RuleSpec},
};

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
