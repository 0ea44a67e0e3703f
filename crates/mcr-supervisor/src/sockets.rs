//! The sockets of one worker: opened when the first rule needs one, closed when the last does no more. The supervisor keeps its
//! own descriptor of each, so that a worker can die while packets queue, and so that filters change without asking it.
//!
//! On the `udp` path a group has a socket of its own while there are few of them: the kernel finds it by its address. From
//! [`OWN_MAX`] on, groups of one port and interface share sockets, as many on each as the kernel lets one socket join.
//!
//! What is still to be done (sockets to hand over, rules to admit, filters to bring in line) is kept in lists of its own, so that
//! a change looks at what it concerns and not at all there is.

mod hand_over;
mod hosts;
mod open;
mod shared;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, HashMap, hash_map::Entry},
    os::fd::{AsFd, OwnedFd},
};

pub(crate) use self::hosts::is_host;

use self::{
    hand_over::Reader,
    shared::{Joined, Place, Port, Shared},
};
use crate::{holds::share, ledger::Ledger};
use mcr_metrics::Segment;
use mcr_proto::{
    counters::InputDrop,
    message::ReceiverKind,
    plan::{self, InputSlot, RuleSlot, SocketId},
};
use mcr_relay::{
    classes::Lane,
    compile::{ReceiverKey, SenderKey},
};
use mcr_socket::filter::{self, Filter, LiveFilter, Wanted};

/// Groups of a worker that have a UDP socket of their own.
const OWN_MAX: usize = 1024;
/// Sockets of a worker; it could take 2,048, but those that it has not closed yet count too.
const SOCKETS_MAX: usize = 2000;

#[derive(Debug, Default)]
pub(crate) struct Sockets {
    receivers: HashMap<Place, Receiver>,
    shared: Shared,
    senders: HashMap<SenderKey, Sender>,
    ids: u32,
    /// Not given to the worker yet.
    untold: BTreeSet<Key>,
    /// Rules that the worker may not have the routes of yet.
    unadmitted: BTreeSet<(RuleSlot, Place)>,
    /// Whose filters are to be brought in line.
    stale: BTreeSet<Place>,
    /// Told to the worker once, needed no more.
    closing: Vec<SocketId>,
    /// Told to the worker once, to be read by another one.
    stopping: Vec<SocketId>,
    /// Rules looked at while admitting.
    #[cfg(test)]
    pub(crate) looked_at: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Receiver(Place),
    Sender(SenderKey),
}

#[derive(Debug)]
struct Receiver {
    id: SocketId,
    fd: OwnedFd,
    input: InputSlot,
    kind: ReceiverKind,
    users: HashMap<RuleSlot, User>,
    told: bool,
    /// Who may still read it; the worker here is told of it only afterwards.
    reader: Option<Reader>,
    lane: Lane,
    ledger: Ledger,
    /// Of a packet socket: what its admitted users want.
    filter: Option<LiveFilter>,
    /// Tells when the kernel received what it gives.
    stamped: bool,
}

#[derive(Debug, Clone, Copy)]
struct User {
    wanted: Wanted,
    /// Whether the worker has the route, so that what the filter lets through for it is relayed.
    admitted: bool,
    /// Whether the rule is about to have another one instead.
    outdated: bool,
}

#[derive(Debug)]
struct Sender {
    id: SocketId,
    fd: OwnedFd,
    users: usize,
    told: bool,
}

/// A socket the worker has not been given yet.
pub(crate) enum Untold {
    Receiver { socket: SocketId, input: InputSlot, kind: ReceiverKind, lane: plan::Lane, fd: OwnedFd },
    Sender { socket: SocketId, fd: OwnedFd },
}

impl Sockets {
    /// A receiving socket for a rule. `ifname` is for messages, `input` is where a new one is counted.
    pub(crate) fn acquire_receiver(
        &mut self,
        key: ReceiverKey,
        rule: RuleSlot,
        wanted: Wanted,
        ifname: &str,
        counters: &Segment,
        input: impl FnOnce() -> Option<InputSlot>,
    ) -> Result<SocketId, String> {
        let mut place = self.shared.place_of(&key);
        if !self.receivers.contains_key(&place)
            && self.receivers.len() >= OWN_MAX
            && let Some(port) = Port::of(&key)
        {
            match self.shared.join(port, &key, &self.receivers)? {
                Joined::At(found) => place = found,
                Joined::NeedsSocket(new) => {
                    place = new;
                    self.open(place, ifname, counters, input)?;
                    let fd = &self.receivers[&place].fd;
                    if let Err(problem) = self.shared.join_first(place, &key, fd.as_fd()) {
                        self.close(place, counters, true);
                        return Err(problem);
                    }
                }
            }
        } else if !self.receivers.contains_key(&place) {
            self.open(place, ifname, counters, input)?;
        }
        let Some(receiver) = self.receivers.get_mut(&place) else { return Err("the socket is gone".into()) };
        if receiver.reader.as_ref().is_some_and(|reader| reader.socket == receiver.id) {
            // The worker was just told to read it no more; to it, it is another one.
            receiver.id = next(&mut self.ids);
            self.untold.insert(Key::Receiver(place));
        }
        let user = match receiver.users.entry(rule) {
            Entry::Occupied(user) => user.into_mut(),
            Entry::Vacant(user) => {
                self.shared.enter(&key);
                user.insert(User { wanted, admitted: false, outdated: false })
            }
        };
        if !user.admitted {
            self.unadmitted.insert((rule, place));
        }
        Ok(receiver.id)
    }

    /// Opens a receiving socket that nobody uses yet.
    fn open(
        &mut self,
        place: Place,
        ifname: &str,
        counters: &Segment,
        input: impl FnOnce() -> Option<InputSlot>,
    ) -> Result<(), String> {
        self.check_room()?;
        let key = place.key();
        self.check_way(&key)?;
        let input = input().ok_or("no room for the counters of another input")?;
        let opened = self.beside_rivals(&key, || open::receiver(&key, ifname));
        let (fd, kind) = opened.map_err(|error| error.to_string())?;
        let id = next(&mut self.ids);
        let lane = key.lane();
        // Only with a depth the queue is the class's doing.
        let full = if lane.depth.is_some() { InputDrop::ClassFull } else { InputDrop::KernelRing };
        let ledger = Ledger::open(kind, full, counters.input(input));
        let filter = open::filter(&key);
        let users = HashMap::new();
        let receiver = Receiver {
            id,
            fd,
            input,
            kind,
            users,
            told: false,
            reader: None,
            lane,
            ledger,
            filter,
            stamped: false,
        };
        self.receivers.insert(place, receiver);
        self.untold.insert(Key::Receiver(place));
        Ok(())
    }

    /// Whether the worker can take another socket.
    fn check_room(&self) -> Result<(), String> {
        if self.count() + self.closing.len() < SOCKETS_MAX {
            return Ok(());
        }
        Err(format!(
            "the worker has {SOCKETS_MAX} sockets, the most it can have; use more workers, the packet data path, or fewer different ports, \
             sources and interfaces"
        ))
    }

    /// Gives a rule's receiving socket back; what the filter let through for it stays out from now on. Whether the worker is there
    /// to read what is queued says `alive`.
    pub(crate) fn release_receiver(
        &mut self,
        key: &ReceiverKey,
        rule: RuleSlot,
        counters: &Segment,
        alive: bool,
    ) {
        let place = self.shared.place_of(key);
        let Some(receiver) = self.receivers.get_mut(&place) else { return };
        self.unadmitted.remove(&(rule, place));
        let Some(User { wanted, admitted, .. }) = receiver.users.remove(&rule) else { return };
        self.shared.leave(key, receiver.fd.as_fd());
        if let (true, Some(filter)) = (admitted, &mut receiver.filter) {
            filter.remove(wanted);
            self.stale.insert(place);
        }
        if receiver.users.is_empty() {
            self.close(place, counters, alive);
        }
    }

    /// Closes a receiving socket that nobody uses any more.
    fn close(&mut self, place: Place, counters: &Segment, alive: bool) {
        let Some(mut receiver) = self.receivers.remove(&place) else { return };
        if let Place::Own(ReceiverKey::Packet { .. }) = place {
            // The worker has it open until its next plan, and until then still has the route. A filter that cannot be set
            // leaves it as it would be without this.
            let _ = filter::attach(&receiver.fd, &Filter::drop_all());
        }
        if is_host(&place.key()) {
            // The worker has it a little longer; who opens the address next need not wait for that.
            share(&receiver.fd, true);
        }
        receiver.ledger.close(receiver.fd.as_fd(), counters.input(receiver.input), alive);
        if receiver.told {
            self.closing.push(receiver.id);
        }
        self.stale.remove(&place);
        self.shared.close(place);
    }

    pub(crate) fn acquire_sender(&mut self, key: SenderKey) -> Result<SocketId, String> {
        if let Some(sender) = self.senders.get_mut(&key) {
            sender.users += 1;
            return Ok(sender.id);
        }
        self.check_room()?;
        let fd = open::sender(&key).map_err(|error| error.to_string())?;
        let id = next(&mut self.ids);
        self.senders.insert(key, Sender { id, fd, users: 1, told: false });
        self.untold.insert(Key::Sender(key));
        Ok(id)
    }

    pub(crate) fn release_sender(&mut self, key: &SenderKey) {
        let Some(sender) = self.senders.get_mut(key) else { return };
        sender.users -= 1;
        if sender.users == 0 {
            if sender.told {
                self.closing.push(sender.id);
            }
            self.senders.remove(key);
        }
    }

    /// Has a rule take over from another on the same input, without a moment in which the filter keeps its datagrams out. The
    /// other stays until it is released.
    pub(crate) fn share_receiver(&mut self, key: &ReceiverKey, from: RuleSlot, to: RuleSlot) {
        let place = self.shared.place_of(key);
        let Some(receiver) = self.receivers.get_mut(&place) else { return };
        let Some(&User { wanted, admitted, outdated }) = receiver.users.get(&from) else { return };
        if receiver.users.insert(to, User { wanted, admitted, outdated }).is_some() {
            return;
        }
        self.shared.enter(key);
        match &mut receiver.filter {
            Some(filter) if admitted => filter.insert(wanted),
            _ => {}
        }
        if !admitted {
            self.unadmitted.insert((to, place));
        }
    }

    /// Whether a rule is about to have another socket instead, which may then be opened beside this one.
    pub(crate) fn outdate(&mut self, key: &ReceiverKey, rule: RuleSlot, outdated: bool) {
        let receiver = self.receivers.get_mut(&self.shared.place_of(key));
        let user = receiver.and_then(|receiver| receiver.users.get_mut(&rule));
        user.into_iter().for_each(|user| user.outdated = outdated);
    }

    /// Lets nothing more through for a rule that goes on being a user; what waits already stays.
    pub(crate) fn shut(&mut self, key: &ReceiverKey, rule: RuleSlot) {
        let place = self.shared.place_of(key);
        self.unadmitted.remove(&(rule, place));
        let Some(receiver) = self.receivers.get_mut(&place) else { return };
        let Some(user) = receiver.users.get_mut(&rule) else { return };
        if let (true, Some(filter)) = (std::mem::take(&mut user.admitted), &mut receiver.filter) {
            filter.remove(user.wanted);
            self.stale.insert(place);
        }
    }

    /// What the worker calls the socket of a rule.
    pub(crate) fn id_of(&self, key: &ReceiverKey) -> Option<SocketId> {
        self.receivers.get(&self.shared.place_of(key)).map(|receiver| receiver.id)
    }

    /// Has a socket tell the stamps of what it receives; rings always do.
    pub(crate) fn stamp(&mut self, key: &ReceiverKey) {
        let Some(receiver) = self.receivers.get_mut(&self.shared.place_of(key)) else { return };
        if !matches!(receiver.kind, ReceiverKind::Packet { ring: Some(_), .. }) {
            // The kernel has this since Linux 5.1. Without stamps a socket's datagrams count as come before everything.
            receiver.stamped = mcr_socket::stamp::want(&receiver.fd, true).is_ok();
        }
    }

    /// Has no socket tell stamps any more, wherever it was when it was asked to.
    pub(crate) fn end_stamps(&mut self) {
        for receiver in self.receivers.values_mut().filter(|receiver| receiver.stamped) {
            receiver.stamped = mcr_socket::stamp::want(&receiver.fd, false).is_err();
        }
    }

    /// Whether nothing waits in a UDP socket.
    pub(crate) fn is_empty(&self, key: &ReceiverKey) -> bool {
        let receiver = self.receivers.get(&self.shared.place_of(key));
        receiver.is_none_or(|receiver| mcr_socket::queued_bytes(&receiver.fd).is_ok_and(|bytes| bytes == 0))
    }

    /// How many frames a packet socket has let through so far, for [`Sockets::has_taken`]. None for a UDP socket, where the kernel
    /// does not say.
    pub(crate) fn passed(&mut self, key: &ReceiverKey, counters: &Segment) -> Option<u64> {
        let receiver = self.receivers.get_mut(&self.shared.place_of(key))?;
        receiver.ledger.passed(receiver.fd.as_fd(), counters.input(receiver.input))
    }

    /// Whether the worker has taken so many.
    pub(crate) fn has_taken(&self, key: &ReceiverKey, passed: u64, counters: &Segment) -> bool {
        let receiver = self.receivers.get(&self.shared.place_of(key));
        receiver.is_none_or(|receiver| receiver.ledger.has_taken(passed, counters.input(receiver.input)))
    }

    /// As [`Sockets::shut`], at once: something else relays them from now on.
    pub(crate) fn exclude(&mut self, key: &ReceiverKey, rule: RuleSlot) {
        self.shut(key, rule);
        match self.receivers.get(&self.shared.place_of(key)) {
            // What goes wrong is said when the filters are next brought in line.
            Some(receiver) if receiver.filter.is_some() => _ = self.refresh_filters(),
            // A filter that cannot be set leaves it open until it is closed, a moment later.
            Some(receiver) if receiver.users.len() == 1 => {
                _ = filter::attach(&receiver.fd, &Filter::drop_all());
            }
            _ => {}
        }
    }

    /// Lets the datagrams of a rule in again that was kept out of a packet socket.
    pub(crate) fn include(&mut self, key: &ReceiverKey, rule: RuleSlot) {
        let place = self.shared.place_of(key);
        let Some(receiver) = self.receivers.get_mut(&place) else { return };
        if let (Some(user), Some(filter)) = (receiver.users.get_mut(&rule), &mut receiver.filter)
            && !user.admitted
        {
            user.admitted = true;
            filter.insert(user.wanted);
            self.stale.insert(place);
        }
    }

    /// The worker has these rules' routes: let their datagrams through.
    pub(crate) fn admit(&mut self, has_route: impl Fn(RuleSlot) -> bool) {
        let Self { receivers, unadmitted, stale, .. } = self;
        #[cfg(test)]
        {
            self.looked_at += unadmitted.len();
        }
        unadmitted.retain(|(rule, key)| {
            if !has_route(*rule) {
                return true;
            }
            let Some(receiver) = receivers.get_mut(key) else { return false };
            let Some(user) = receiver.users.get_mut(rule).filter(|user| !user.admitted) else { return false };
            user.admitted = true;
            if let Some(filter) = &mut receiver.filter {
                filter.insert(user.wanted);
                stale.insert(*key);
            }
            false
        });
    }

    /// Brings the filters of packet sockets in line with their rules. Returns what could not be done.
    pub(crate) fn refresh_filters(&mut self) -> Vec<String> {
        let mut problems = Vec::new();
        for key in std::mem::take(&mut self.stale) {
            let Some(receiver) = self.receivers.get_mut(&key) else { continue };
            let Some(filter) = &mut receiver.filter else { continue };
            if let Err(error) = filter.apply(&receiver.fd) {
                problems.push(format!("cannot set the filter of a packet socket: {error}"));
            }
        }
        problems
    }

    /// The sockets that the worker must be given now; they count as given from here on.
    pub(crate) fn untold(&mut self) -> std::io::Result<Vec<Untold>> {
        let Self { receivers, senders, untold, .. } = self;
        let mut duplicates = Vec::with_capacity(untold.len());
        for key in untold.iter() {
            duplicates.push(match key {
                Key::Receiver(key) => {
                    let Some(Receiver { id, fd, input, kind, lane, .. }) = receivers.get(key) else {
                        continue;
                    };
                    let lane = lane.of_worker();
                    Untold::Receiver { socket: *id, input: *input, kind: *kind, lane, fd: fd.try_clone()? }
                }
                Key::Sender(key) => {
                    let Some(Sender { id, fd, .. }) = senders.get(key) else { continue };
                    Untold::Sender { socket: *id, fd: fd.try_clone()? }
                }
            });
        }
        // Only now, so that all of them are still to be told if one cannot be duplicated.
        for key in std::mem::take(untold) {
            match key {
                Key::Receiver(key) => {
                    receivers.get_mut(&key).into_iter().for_each(|receiver| receiver.told = true)
                }
                Key::Sender(key) => senders.get_mut(&key).into_iter().for_each(|sender| sender.told = true),
            }
        }
        Ok(duplicates)
    }

    /// The sockets that the worker must close.
    pub(crate) fn take_closing(&mut self) -> Vec<SocketId> {
        std::mem::take(&mut self.closing)
    }

    /// A new process has none of them.
    pub(crate) fn forget_told(&mut self) {
        self.receivers.values_mut().for_each(|receiver| receiver.told = false);
        self.senders.values_mut().for_each(|sender| sender.told = false);
        let receivers = self.receivers.keys().copied().map(Key::Receiver);
        self.untold = receivers.chain(self.senders.keys().copied().map(Key::Sender)).collect();
        self.closing.clear();
        self.stopping.clear();
    }

    /// Moves the kernel's counts of drops into the counters.
    pub(crate) fn count_drops(&mut self, counters: &Segment) {
        for Receiver { fd, input, ledger, .. } in self.receivers.values_mut() {
            ledger.count(fd.as_fd(), counters.input(*input));
        }
    }

    /// Goes on looking for what a dead worker took along.
    pub(crate) fn go_on_searching(&mut self, counters: &Segment) {
        let searching = self.receivers.values_mut().filter(|receiver| receiver.ledger.is_searching());
        for Receiver { fd, input, ledger, .. } in searching {
            ledger.count(fd.as_fd(), counters.input(*input));
        }
    }

    /// The worker died: look for what it took along.
    pub(crate) fn search_lost(&mut self) {
        self.receivers.values_mut().for_each(|receiver| receiver.ledger.search());
    }

    pub(crate) fn count(&self) -> usize {
        self.receivers.len() + self.senders.len()
    }

    /// Whether an input has a socket.
    pub(crate) fn uses(&self, input: InputSlot) -> bool {
        self.receivers.values().any(|receiver| receiver.input == input)
    }
}

fn next(ids: &mut u32) -> SocketId {
    *ids += 1;
    SocketId(*ids)
}
