//! What happens to rules, interfaces and workers, as the supervisor tells it.

use std::{fmt, net::IpAddr};

use serde::{Deserialize, Serialize};

use crate::{
    plan::WorkerIndex,
    rule::{RuleId, RuleName},
};

/// Something that happened. Which of the subjects are there depends on the kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// One more than that of the event before; begins anew with the daemon.
    pub seq: u64,
    /// When, in nanoseconds since 1970.
    pub time_ns: u64,
    /// To what kind of thing.
    pub kind: EventKind,
    /// What.
    pub what: EventWhat,
    /// The rule.
    pub rule: Option<(RuleId, RuleName)>,
    /// The interface's name.
    pub interface: Option<String>,
    /// The worker; for a rule, the one that carries it.
    pub worker: Option<WorkerIndex>,
    /// The address that came or went.
    pub address: Option<IpAddr>,
    /// How many, where that is what happened.
    pub count: Option<u64>,
    /// Why.
    pub reason: Option<String>,
}

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// A rule.
    Rule,
    /// An interface of the host.
    Interface,
    /// A worker.
    Worker,
    /// Events that could not be told.
    Missed,
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Rule => "rule",
            Self::Interface => "interface",
            Self::Worker => "worker",
            Self::Missed => "missed",
        })
    }
}

macro_rules! whats {
    ($($(#[$meta:meta])* $variant:ident = $text:literal),+ $(,)?) => {
        /// What happened.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum EventWhat { $($(#[$meta])* $variant),+ }

        impl EventWhat {
            /// As it is written.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }

        impl fmt::Display for EventWhat {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }
    };
}

whats! {
    /// Rule, interface: it is there now.
    Added = "added",
    /// Rule, interface: it is gone.
    Removed = "removed",
    /// Rule: another specification under the same name, by `config.load`.
    Changed = "changed",
    /// Rule: relays.
    Active = "active",
    /// Rule: waits for an interface that is missing.
    Unresolved = "unresolved",
    /// Rule: waits for an interface that is down.
    Paused = "paused",
    /// Rule: switched off.
    Disabled = "disabled",
    /// Rule: the host refuses something.
    Failed = "failed",
    /// Rule: carried by another worker.
    Moved = "moved",
    /// Interface: administratively up, with carrier.
    Up = "up",
    /// Interface: down, or without carrier.
    Down = "down",
    /// Interface: has another name.
    Renamed = "renamed",
    /// Interface: has an address more.
    AddressAdded = "address_added",
    /// Interface: has an address less.
    AddressRemoved = "address_removed",
    /// Worker: its process was started.
    Started = "started",
    /// Worker: it takes rules.
    Ready = "ready",
    /// Worker: its process has ended.
    Died = "died",
    /// Worker: it does not move and is ended.
    Stuck = "stuck",
    /// Events were dropped, because whoever was to get them did not keep up.
    Missed = "missed",
}

impl Event {
    /// An event of nothing in particular yet.
    pub fn new(kind: EventKind, what: EventWhat) -> Self {
        Self {
            seq: 0,
            time_ns: 0,
            kind,
            what,
            rule: None,
            interface: None,
            worker: None,
            address: None,
            count: None,
            reason: None,
        }
    }

    /// So many events were dropped before this one.
    pub fn missed(seq: u64, time_ns: u64, count: u64) -> Self {
        let reason = Some("whoever was to get them did not keep up".to_owned());
        Self { seq, time_ns, count: Some(count), reason, ..Self::new(EventKind::Missed, EventWhat::Missed) }
    }
}
