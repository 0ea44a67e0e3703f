//! UDP sockets that go from worker to worker together with their rule.
//!
//! A second socket of the same group would get every datagram a second time, and whatever waits in the first would be lost or come
//! too late. So the one there is moves: the worker that reads it stops, relays what it has taken, and says so; only then is the next
//! one told of it. What comes meanwhile waits in the socket, so nothing is lost, doubled or overtaken.

use std::time::{Duration, Instant};

use mcr_metrics::Segment;
use mcr_proto::plan::{InputSlot, RuleSlot, SocketId, WorkerIndex};
use mcr_relay::compile::ReceiverKey;

use super::{Key, Place, Receiver, Sockets, next};

/// A worker that does not stop reading within this time is not waited for: it is stuck, and whoever reads from there on reads what it
/// has not taken.
const STOP_WITHIN: Duration = Duration::from_secs(1);

/// A socket between two workers.
#[derive(Debug)]
pub(crate) struct HandedOver {
    key: ReceiverKey,
    receiver: Receiver,
}

/// Whom a socket waits for before it is given to its new worker.
#[derive(Debug)]
pub(super) struct Reader {
    worker: WorkerIndex,
    pub(super) socket: SocketId,
    until: Instant,
}

impl Sockets {
    /// Whether a rule's socket can go elsewhere: a UDP socket that no other rule uses.
    pub(crate) fn can_give(&self, key: &ReceiverKey, rule: RuleSlot) -> bool {
        let place = self.shared.place_of(key);
        let receiver = self.receivers.get(&place).filter(|_| place == Place::Own(*key));
        matches!(key, ReceiverKey::Udp { .. })
            && receiver
                .is_some_and(|receiver| receiver.users.len() == 1 && receiver.users.contains_key(&rule))
    }

    /// Whether a socket from elsewhere can be taken in.
    pub(crate) fn can_take(&self, key: &ReceiverKey) -> bool {
        let place = self.shared.place_of(key);
        place == Place::Own(*key)
            && !self.receivers.contains_key(&place)
            && self.check_room().is_ok()
            && self.check_way(key).is_ok()
    }

    /// Whether the worker was given a rule's socket, be it that it has yet to read the message.
    pub(crate) fn has_told(&self, key: &ReceiverKey) -> bool {
        self.receivers.get(&self.shared.place_of(key)).is_some_and(|receiver| receiver.told)
    }

    /// Gives a socket away that [can be given](Self::can_give). `reader` is the worker here, if it is there to read.
    pub(crate) fn give(
        &mut self,
        key: &ReceiverKey,
        counters: &Segment,
        reader: Option<WorkerIndex>,
    ) -> Option<HandedOver> {
        let place = Place::Own(*key);
        let mut receiver = self.receivers.remove(&place)?;
        receiver.users.keys().for_each(|rule| _ = self.unadmitted.remove(&(*rule, place)));
        receiver.users.clear();
        self.untold.remove(&Key::Receiver(place));
        self.stale.remove(&place);
        receiver.ledger.count(std::os::fd::AsFd::as_fd(&receiver.fd), counters.input(receiver.input));
        if let (true, Some(worker)) = (receiver.told, reader) {
            self.stopping.push(receiver.id);
            receiver.reader =
                Some(Reader { worker, socket: receiver.id, until: Instant::now() + STOP_WITHIN });
        }
        Some(HandedOver { key: *key, receiver })
    }

    /// Takes a socket in that [can be taken](Self::can_take); what comes by it is counted as `input` from now on.
    pub(crate) fn take(&mut self, handed_over: HandedOver, input: InputSlot) {
        let HandedOver { key, mut receiver } = handed_over;
        (receiver.id, receiver.input, receiver.told) = (next(&mut self.ids), input, false);
        self.receivers.insert(Place::Own(key), receiver);
        self.untold.insert(Key::Receiver(Place::Own(key)));
    }

    /// Closes a socket that was taken in, if no rule uses it after all.
    pub(crate) fn close_unused(&mut self, key: &ReceiverKey, counters: &Segment, alive: bool) {
        let place = Place::Own(*key);
        if self.receivers.get(&place).is_some_and(|receiver| receiver.users.is_empty()) {
            self.close(place, counters, alive);
            self.untold.remove(&Key::Receiver(place));
        }
    }

    /// Has the worker read a UDP socket no more that this rule alone uses, so that what it has taken is relayed before the rule lets go
    /// of it. False if there is no such socket.
    pub(crate) fn stop(&mut self, key: &ReceiverKey, rule: RuleSlot, worker: WorkerIndex) -> bool {
        if !self.can_give(key, rule) {
            return false;
        }
        let Some(receiver) = self.receivers.get_mut(&Place::Own(*key)) else { return false };
        if std::mem::take(&mut receiver.told) {
            self.stopping.push(receiver.id);
            receiver.reader =
                Some(Reader { worker, socket: receiver.id, until: Instant::now() + STOP_WITHIN });
        }
        true
    }

    /// Whether the worker reads a socket no more that it was to stop reading.
    pub(crate) fn has_stopped(&self, key: &ReceiverKey, now: Instant) -> bool {
        let receiver = self.receivers.get(&self.shared.place_of(key));
        let reader = receiver.and_then(|receiver| receiver.reader.as_ref());
        reader.is_none_or(|reader| now >= reader.until)
    }

    /// A worker reads a socket no more; none: it reads nothing more at all.
    pub(crate) fn reader_stopped(&mut self, worker: WorkerIndex, socket: Option<SocketId>) {
        for receiver in self.receivers.values_mut() {
            let stopped = |reader: &mut Reader| {
                reader.worker == worker && socket.is_none_or(|socket| reader.socket == socket)
            };
            receiver.reader.take_if(stopped);
        }
    }

    /// Until when the worker is not told of its new sockets, because another one still reads one of them.
    pub(crate) fn held_until(&self, now: Instant) -> Option<Instant> {
        let untold = self.untold.iter().filter_map(|key| match key {
            Key::Receiver(place) => self.receivers.get(place),
            Key::Sender(_) => None,
        });
        untold
            .filter_map(|receiver| receiver.reader.as_ref())
            .map(|reader| reader.until)
            .filter(|at| *at > now)
            .max()
    }

    /// The sockets that the worker must stop reading; it says when it has.
    pub(crate) fn take_stopping(&mut self) -> Vec<SocketId> {
        std::mem::take(&mut self.stopping)
    }

    /// The worker has stopped reading a socket: it can close it.
    pub(crate) fn stopped(&mut self, socket: SocketId) {
        self.closing.push(socket);
    }
}
