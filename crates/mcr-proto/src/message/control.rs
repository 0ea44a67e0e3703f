//! Supervisor and control: requests of clients there, answers and events back.

use serde::{Deserialize, Serialize};

use super::{Event, Fault, Ids, LogLevel, Reply, Request};

/// Supervisor to control.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToControl {
    /// The first message, with the listener ([`tag::LISTENER`](super::tag::LISTENER)) and read-only [`super::tag::COUNTERS`]: one of
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
        /// What to serve over HTTP, with the listener ([`tag::HTTP`](super::tag::HTTP)); none if nothing is.
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
    /// Read the configuration file ([`tag::CONFIG`](super::tag::CONFIG)), and make it the running configuration.
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
