//! Parameters and results of the `log` methods.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::message::{Facility, LogLevel, LogLevels};

/// Parameters of `log.set`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogSet {
    /// The least severity that is logged.
    pub level: LogLevel,
    /// Of what; without one, of everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facility: Option<Facility>,
}

/// Result of `log.get` and `log.set`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogShown {
    /// Each facility's level.
    pub levels: BTreeMap<Facility, LogLevel>,
}

impl From<LogLevels> for LogShown {
    fn from(levels: LogLevels) -> Self {
        Self { levels: levels.iter().collect() }
    }
}
