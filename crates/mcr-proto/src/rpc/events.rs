//! Events as clients see them.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{
    message::{self, EventKind, EventWhat},
    rule::{RuleId, RuleName},
};

/// The method of notifications that carry an [`Event`].
pub const EVENT: &str = "event";

/// Parameters of `event.subscribe`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subscribe {
    /// What to be told of: `rule`, `interface`, `worker`; without it, everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kinds: Option<Vec<EventKind>>,
}

/// Result of `event.subscribe`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscribed {
    /// What this connection is told of from now on.
    pub kinds: Vec<EventKind>,
}

/// Something that happened; the parameters of an `event` notification.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Grows from event to event while the daemon runs; not by one where kinds were not asked for.
    pub seq: u64,
    /// When, in nanoseconds since 1970.
    pub time_ns: u64,
    /// To what kind of thing; `missed` says that events before this one are missing.
    pub kind: EventKind,
    /// What.
    pub what: EventWhat,
    /// The rule's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<RuleName>,
    /// The rule's number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<RuleId>,
    /// The interface's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// The worker; for a rule, the one that carries it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<u16>,
    /// The address that came or went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// How many events were missed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl From<message::Event> for Event {
    fn from(event: message::Event) -> Self {
        let message::Event { seq, time_ns, kind, what, rule, interface, worker, address, count, reason } =
            event;
        let (id, rule) = rule.unzip();
        Self {
            seq,
            time_ns,
            kind,
            what,
            rule,
            id,
            interface,
            worker: worker.map(|worker| worker.0),
            address,
            count,
            reason,
        }
    }
}
