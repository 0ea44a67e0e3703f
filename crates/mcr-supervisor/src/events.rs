//! What happened, on its way to clients: gathered here, given to control in messages of bounded size.
//!
//! Invariant: what waits is bounded. When control does not keep up the oldest go, and a `missed` event in their place says how
//! many.

use std::collections::VecDeque;

use mcr_netmon::{Change, Link, Snapshot};
use mcr_proto::{
    codec,
    message::{Event, EventKind, EventWhat, RuleState},
    plan::WorkerIndex,
};

use crate::{clock::realtime_ns, rules::Rule};

/// Events that wait; a load of many rules makes at most some for each.
const WAITING_MAX: usize = 16 * 1024;
/// How much of them one message carries.
const MESSAGE_BYTES_MAX: usize = 32 * 1024;
/// Of a reason, in characters: an event is a line, not a file.
const REASON_CHARS_MAX: usize = 512;

/// Events that control has not been told yet.
#[derive(Debug, Default)]
pub(crate) struct Events {
    last_seq: u64,
    waiting: VecDeque<Event>,
    missed: u64,
}

impl Events {
    /// Notes an event; the number and the time are given here.
    pub(crate) fn push(&mut self, event: Event) {
        self.last_seq += 1;
        if self.waiting.len() >= WAITING_MAX {
            self.waiting.pop_front();
            self.missed += 1;
        }
        let reason = event.reason.map(|reason| reason.chars().take(REASON_CHARS_MAX).collect());
        self.waiting.push_back(Event { seq: self.last_seq, time_ns: realtime_ns(), reason, ..event });
    }

    /// Notes that something became of a rule.
    pub(crate) fn rule(&mut self, rule: &Rule, what: EventWhat, reason: Option<String>) {
        let event = Event::new(EventKind::Rule, what);
        self.push(Event {
            rule: Some((rule.id, rule.name.clone())),
            worker: Some(rule.worker),
            reason,
            ..event
        });
    }

    /// Notes that something became of a worker.
    pub(crate) fn worker(&mut self, worker: WorkerIndex, what: EventWhat, reason: Option<String>) {
        self.push(Event { worker: Some(worker), reason, ..Event::new(EventKind::Worker, what) });
    }

    /// Notes what changed in the network, as far as people care: not neighbours and routes.
    pub(crate) fn network(&mut self, change: &Change, network: &Snapshot) {
        match change {
            Change::LinkAdded(link) => {
                self.interface(&link.name, EventWhat::Added, None);
                if carries(link) {
                    self.interface(&link.name, EventWhat::Up, None);
                }
            }
            Change::LinkRemoved(link) => self.interface(&link.name, EventWhat::Removed, None),
            Change::LinkChanged { old, new } => {
                if old.name != new.name {
                    self.interface(&new.name, EventWhat::Renamed, Some(format!("was {}", old.name)));
                }
                match (carries(old), carries(new)) {
                    (false, true) => self.interface(&new.name, EventWhat::Up, None),
                    (true, false) => {
                        let why = if new.up { "no carrier" } else { "set down" };
                        self.interface(&new.name, EventWhat::Down, Some(why.into()));
                    }
                    _ => {}
                }
            }
            Change::AddressAdded(address) | Change::AddressRemoved(address) => {
                let added = matches!(change, Change::AddressAdded(_));
                let what = if added { EventWhat::AddressAdded } else { EventWhat::AddressRemoved };
                let link = network.links().find(|link| link.index == address.index);
                self.push(Event {
                    interface: link.map(|link| link.name.clone()),
                    address: Some(address.address),
                    ..Event::new(EventKind::Interface, what)
                });
            }
            _ => {}
        }
    }

    fn interface(&mut self, name: &str, what: EventWhat, reason: Option<String>) {
        let event = Event::new(EventKind::Interface, what);
        self.push(Event { interface: Some(name.to_owned()), reason, ..event });
    }

    /// As much as one message carries, in order; none if nothing waits.
    pub(crate) fn take(&mut self) -> Option<Vec<Event>> {
        let first = self.waiting.front()?;
        let mut taken = Vec::new();
        if self.missed > 0 {
            taken.push(Event::missed(first.seq - 1, first.time_ns, std::mem::take(&mut self.missed)));
        }
        let mut bytes = 0;
        while bytes < MESSAGE_BYTES_MAX {
            let Some(event) = self.waiting.pop_front() else { break };
            bytes += codec::encode(&event).map_or(0, |encoded| encoded.len());
            taken.push(event);
        }
        Some(taken)
    }

    /// A new control process has no clients yet: nobody waits for what there is.
    pub(crate) fn forget(&mut self) {
        self.waiting.clear();
        self.missed = 0;
    }
}

/// What became of a rule that is in this state now.
pub(crate) fn state_event(state: RuleState) -> EventWhat {
    match state {
        RuleState::Unresolved => EventWhat::Unresolved,
        RuleState::Active => EventWhat::Active,
        RuleState::Paused => EventWhat::Paused,
        RuleState::Disabled => EventWhat::Disabled,
        RuleState::Failed => EventWhat::Failed,
    }
}

fn carries(link: &Link) -> bool {
    link.up && link.running
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(events: &mut Events) {
        events.worker(WorkerIndex(1), EventWhat::Ready, None);
    }

    #[test]
    fn events_are_numbered_and_taken_in_order_in_messages_that_can_be_sent() {
        let mut events = Events::default();
        assert_eq!(events.take(), None);
        (0..5000).for_each(|_| worker(&mut events));
        let mut seqs = Vec::new();
        while let Some(taken) = events.take() {
            assert!(codec::encode(&taken).is_ok());
            seqs.extend(taken.iter().map(|event| event.seq));
        }
        assert_eq!(seqs, (1..=5000).collect::<Vec<_>>());
    }

    #[test]
    fn what_does_not_fit_is_counted_in_front_of_what_does() {
        let mut events = Events::default();
        (0..WAITING_MAX + 7).for_each(|_| worker(&mut events));
        let taken = events.take().expect("many");
        assert_eq!((taken[0].kind, taken[0].count, taken[0].seq), (EventKind::Missed, Some(7), 7));
        assert_eq!(taken[1].seq, 8);
        let rest = std::iter::from_fn(|| events.take()).flatten();
        assert!(rest.into_iter().all(|event| event.kind == EventKind::Worker), "told once");
    }

    #[test]
    fn a_reason_of_any_length_can_be_sent() {
        let mut events = Events::default();
        events.worker(WorkerIndex(0), EventWhat::Died, Some("ü".repeat(1_000_000)));
        let taken = events.take().expect("one");
        assert_eq!(taken[0].reason.as_ref().map(|reason| reason.chars().count()), Some(REASON_CHARS_MAX));
    }
}
