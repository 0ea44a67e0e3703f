//! The levels of the log, and whose line is whose.

use std::{fmt, rc::Rc};

use mcr_proto::message::{Facility, LogLevel, LogLevels};
use tracing::{debug, error, info, trace, warn};

/// Where this crate's lines come from that are not of the facility `supervisor`: beginnings of tracing targets.
pub const FACILITIES: &[(&str, Facility)] = &[
    ("mcr_supervisor::carry", Facility::Rules),
    ("mcr_supervisor::load", Facility::Rules),
    ("mcr_supervisor::state", Facility::Rules),
    ("mcr_netmon", Facility::Network),
    (NETWORK, Facility::Network),
    (CONTROL, Facility::Control),
    (WORKER, Facility::Worker),
];

/// Target of lines about the network.
pub(crate) const NETWORK: &str = "network";
const CONTROL: &str = "control";
const WORKER: &str = "worker";

/// Whoever prints the log.
pub trait LogOutput {
    /// Prints lines of these levels and above from now on.
    fn set(&self, levels: &LogLevels);

    /// Called about twice a second, and at the end: the time to say what was held back.
    fn tick(&self);
}

/// A log that can be told what to print, with the levels it begins with.
#[derive(Clone)]
pub struct Log {
    /// What is printed.
    pub levels: LogLevels,
    /// Who prints it.
    pub output: Rc<dyn LogOutput>,
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").field("levels", &self.levels).finish_non_exhaustive()
    }
}

impl Log {
    /// A log that prints what it likes.
    pub fn fixed(level: LogLevel) -> Self {
        Self { levels: LogLevels::all(level), output: Rc::new(Fixed) }
    }

    pub(crate) fn set(&mut self, facility: Option<Facility>, level: LogLevel) {
        self.levels.set(facility, level);
        self.output.set(&self.levels);
    }
}

struct Fixed;

impl LogOutput for Fixed {
    fn set(&self, _: &LogLevels) {}
    fn tick(&self) {}
}

/// Prints what the control process says.
pub(crate) fn of_control(level: LogLevel, text: &str) {
    const WHO: &str = "control";
    match level {
        LogLevel::Error => error!(target: CONTROL, who = WHO, "{text}"),
        LogLevel::Warn => warn!(target: CONTROL, who = WHO, "{text}"),
        LogLevel::Info => info!(target: CONTROL, who = WHO, "{text}"),
        LogLevel::Debug => debug!(target: CONTROL, who = WHO, "{text}"),
        LogLevel::Trace => trace!(target: CONTROL, who = WHO, "{text}"),
    }
}

/// Prints what a worker says.
pub(crate) fn of_worker(worker: usize, level: LogLevel, text: &str) {
    const WHO: &str = "worker";
    match level {
        LogLevel::Error => error!(target: WORKER, who = WHO, worker, "{text}"),
        LogLevel::Warn => warn!(target: WORKER, who = WHO, worker, "{text}"),
        LogLevel::Info => info!(target: WORKER, who = WHO, worker, "{text}"),
        LogLevel::Debug => debug!(target: WORKER, who = WHO, worker, "{text}"),
        LogLevel::Trace => trace!(target: WORKER, who = WHO, worker, "{text}"),
    }
}
