//! What the processes say to each other. Every type here travels between the supervisor and one child, as one packet
//! encoded by [`crate::codec`]; descriptors travel beside it, tagged as named in [`tag`].

mod control;
mod doctor;
mod event;
mod load;
mod log;
mod request;
mod trace;
mod view;
mod worker;

use serde::{Deserialize, Serialize};

pub use self::{
    control::{FromControl, Http, Secret, ToControl},
    doctor::{
        CounterValue, Diagnosis, EXPLAINED_OUTPUTS_MAX, EXPLAINED_RULES_MAX, ExplainedOutput, ExplainedRule,
        Explanation, FINDINGS_MAX, Finding, NearRule, Severity, Verdict,
    },
    event::{Event, EventKind, EventWhat},
    load::{LoadId, LoadReport, LoadStep, Settings},
    log::{Facility, LogLevel, LogLevels, LogNameError},
    request::{Fault, FaultKind, Reply, Request, RuleRef},
    trace::{Sampling, TraceOf, TraceOrder, TraceWanted, Traced, Tracing},
    view::{
        ClassBy, InputClass, InputView, InterfaceView, OutputView, ReflectLatency, ReflectView,
        ReflectWorker, RuleState, RuleView, WorkerState, WorkerView,
    },
    worker::{FromWorker, IoChoice, ReceiverKind, RingShape, ToWorker},
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
