//! What a daemon is started with, and why it could not start.

use std::{io, net::SocketAddr, path::PathBuf, time::Duration};

use mcr_proto::{
    message::{Http, Ids, IoChoice, Settings},
    rule::RuleSpec,
};

use crate::{listen::ListenError, logs::Log};

/// What a daemon is started with.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the control socket goes.
    pub socket: PathBuf,
    /// How many workers; one for each core that this process may use, if not given.
    pub workers: Option<u16>,
    /// Whose members may control the daemon, beside root and the daemon's own user.
    pub group: Option<u32>,
    /// Whether everyone else may read.
    pub others_may_read: bool,
    /// Where to serve HTTP, and how; nowhere if not given.
    pub http: Option<(SocketAddr, Http)>,
    /// Whom workers and control run as; none if this process has not the right to choose. They are confined either way.
    pub ids: Option<Ids>,
    /// How workers do their I/O.
    pub io: IoChoice,
    /// Whether the kernel data path may be used.
    pub ebpf: bool,
    /// Whether datagrams of `packet` rules that nothing else on this host wants may be kept from its IP stack.
    pub swallow: bool,
    /// Rules to begin with.
    pub rules: Vec<RuleSpec>,
    /// What the configuration says beside rules.
    pub settings: Settings,
    /// The startup configuration's file: loaded again on SIGHUP, written by `config.save`.
    pub config: Option<PathBuf>,
    /// Whoever prints the log.
    pub log: Log,
    /// Who wants to hear that the loop turns.
    pub watchdog: Option<Watchdog>,
}

/// Somebody who takes a daemon that says nothing for dead.
#[derive(Debug, Clone, Copy)]
pub struct Watchdog {
    /// How often to say it: half of what is waited for, or less.
    pub every: Duration,
    /// Says it. Called by the loop itself, so that a loop that is stuck says nothing.
    pub alive: fn(),
}

/// Why a daemon did not start, or stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SupervisorError {
    /// No control socket.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The rights that are not needed could not be given up.
    #[error("the supervisor {0}: {source}", source = .0.source)]
    Confine(#[from] mcr_confine::ConfineError),
    /// The network's state cannot be read.
    #[error("cannot follow the network's state: {0}")]
    Network(String),
    /// A rule of the configuration cannot be added.
    #[error("rule {name}: {reason}")]
    Rule {
        /// The rule.
        name: String,
        /// Why not.
        reason: String,
    },
    /// The counters' shared memory cannot be made.
    #[error("cannot make the counters' shared memory")]
    Counters(#[from] mcr_metrics::AttachError),
    /// Anything else the system refused.
    #[error("cannot {what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl SupervisorError {
    /// For `map_err`.
    pub(crate) fn system(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { what, source }
    }
}
