//! What is logged: how severe, and of whom.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Severity of a log line, the most severe first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
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
    /// Every step.
    Trace,
}

/// What a log line is about; each has a level of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Facility {
    /// The supervisor: starting, stopping, children.
    Supervisor,
    /// The control process, and clients.
    Control,
    /// What workers say.
    Worker,
    /// Interfaces, addresses, and following them.
    Network,
    /// Rules: added, removed, changes of state.
    Rules,
}

macro_rules! names {
    ($name:ident, $what:literal { $($variant:ident = $text:literal),+ $(,)? }) => {
        impl $name {
            /// All of them, in order of their discriminants.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// As it is written.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }

        impl FromStr for $name {
            type Err = LogNameError;

            fn from_str(text: &str) -> Result<Self, LogNameError> {
                let found = Self::ALL.iter().find(|one| one.name() == text);
                found.copied().ok_or_else(|| LogNameError {
                    text: crate::endpoint::quote(text),
                    what: $what,
                    known: concat!($($text, " "),+).trim_end().replace(' ', ", "),
                })
            }
        }
    };
}

names!(LogLevel, "level" { Error = "error", Warn = "warn", Info = "info", Debug = "debug", Trace = "trace" });
names!(Facility, "facility" {
    Supervisor = "supervisor", Control = "control", Worker = "worker", Network = "network", Rules = "rules",
});

/// A word that names no level or facility.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no {what} of the log; there are {known}")]
pub struct LogNameError {
    text: String,
    what: &'static str,
    known: String,
}

/// The level of every facility.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLevels([LogLevel; 5]);

impl LogLevels {
    /// The same level for all.
    pub fn all(level: LogLevel) -> Self {
        Self([level; 5])
    }

    /// A facility's level.
    pub fn of(&self, facility: Facility) -> LogLevel {
        self.0[facility as usize]
    }

    /// Sets the level of a facility, or of all.
    pub fn set(&mut self, facility: Option<Facility>, level: LogLevel) {
        match facility {
            Some(facility) => self.0[facility as usize] = level,
            None => *self = Self::all(level),
        }
    }

    /// Each facility with its level.
    pub fn iter(&self) -> impl Iterator<Item = (Facility, LogLevel)> {
        Facility::ALL.iter().copied().zip(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_facility_has_a_level_of_its_own_until_all_are_set() {
        let mut levels = LogLevels::all(LogLevel::Info);
        levels.set(Some(Facility::Worker), LogLevel::Debug);
        assert_eq!(
            (levels.of(Facility::Worker), levels.of(Facility::Rules)),
            (LogLevel::Debug, LogLevel::Info)
        );
        levels.set(None, LogLevel::Warn);
        assert!(levels.iter().all(|(_, level)| level == LogLevel::Warn));
        assert_eq!(levels.iter().count(), Facility::ALL.len());
    }

    #[test]
    fn names_read_back_and_others_are_told_the_known_ones() {
        assert!(LogLevel::ALL.iter().all(|level| level.name().parse() == Ok(*level)));
        assert!(Facility::ALL.iter().all(|facility| facility.name().parse() == Ok(*facility)));
        let error = "wrkr".parse::<Facility>().expect_err("no facility").to_string();
        assert_eq!(
            error,
            "`wrkr` is no facility of the log; there are supervisor, control, worker, network, rules"
        );
    }
}
