//! The sockets of one worker: opened when the first rule needs one, closed when the last does no more. The supervisor keeps its
//! own descriptor of each, so that a worker can die while packets queue, and so that filters change without asking it.

use std::{
    collections::{BTreeMap, HashMap},
    os::fd::{AsFd, OwnedFd},
};

use crate::ledger::Ledger;
use mcr_metrics::Segment;
use mcr_proto::{
    message::ReceiverKind,
    plan::{InputSlot, RuleSlot, SocketId},
};
use mcr_relay::compile::{ReceiverKey, SenderKey};
use mcr_socket::{
    Family, OpenError,
    filter::{self, Filter, FilterLink, Wanted},
    packet::{self, PacketOptions},
    raw::{self, RawOutput},
    udp::{self, UdpInput, UdpOutput},
};

/// Room for a burst of some 10,000 full-size datagrams at one input; taken only while they wait.
const RECEIVE_BUFFER_BYTES: usize = 32 << 20;
/// Room for what devices have not taken yet.
const SEND_BUFFER_BYTES: usize = 4 << 20;

#[derive(Debug, Default)]
pub(crate) struct Sockets {
    receivers: HashMap<ReceiverKey, Receiver>,
    senders: HashMap<SenderKey, Sender>,
    ids: u32,
    /// Told to the worker once, needed no more.
    closing: Vec<SocketId>,
}

#[derive(Debug)]
struct Receiver {
    id: SocketId,
    fd: OwnedFd,
    input: InputSlot,
    kind: ReceiverKind,
    users: BTreeMap<RuleSlot, User>,
    told: bool,
    ledger: Ledger,
    filter_stale: bool,
}

#[derive(Debug)]
struct User {
    wanted: Wanted,
    /// Whether the worker has the route, so that what the filter lets through for it is relayed.
    admitted: bool,
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
    Receiver { socket: SocketId, input: InputSlot, kind: ReceiverKind, fd: OwnedFd },
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
        if let Some(receiver) = self.receivers.get_mut(&key) {
            receiver.users.entry(rule).or_insert(User { wanted, admitted: false });
            return Ok(receiver.id);
        }
        let input = input().ok_or("no room for the counters of another input")?;
        let (fd, kind) = open_receiver(&key, ifname).map_err(|error| error.to_string())?;
        let id = next(&mut self.ids);
        let users = BTreeMap::from([(rule, User { wanted, admitted: false })]);
        let ledger = Ledger::open(kind, counters.input(input));
        let receiver = Receiver { id, fd, input, kind, users, told: false, ledger, filter_stale: false };
        self.receivers.insert(key, receiver);
        Ok(id)
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
        let Some(receiver) = self.receivers.get_mut(key) else { return };
        receiver.users.remove(&rule);
        receiver.filter_stale = true;
        if receiver.users.is_empty() {
            if let ReceiverKey::Packet { .. } = key {
                // The worker has it open until its next plan, and until then still has the route. A filter that cannot be
                // set leaves it as it would be without this.
                let _ = filter::attach(&receiver.fd, &Filter::drop_all());
            }
            let Receiver { fd, input, ledger, .. } = receiver;
            ledger.close(fd.as_fd(), counters.input(*input), alive);
            if receiver.told {
                self.closing.push(receiver.id);
            }
            self.receivers.remove(key);
        }
    }

    pub(crate) fn acquire_sender(&mut self, key: SenderKey) -> Result<SocketId, String> {
        if let Some(sender) = self.senders.get_mut(&key) {
            sender.users += 1;
            return Ok(sender.id);
        }
        let fd = open_sender(&key).map_err(|error| error.to_string())?;
        let id = next(&mut self.ids);
        self.senders.insert(key, Sender { id, fd, users: 1, told: false });
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
        let Some(receiver) = self.receivers.get_mut(key) else { return };
        if let Some(User { wanted, admitted }) = receiver.users.get(&from) {
            let user = User { wanted: *wanted, admitted: *admitted };
            receiver.users.insert(to, user);
        }
    }

    /// The worker has these rules' routes: let their datagrams through.
    pub(crate) fn admit(&mut self, has_route: impl Fn(RuleSlot) -> bool) {
        for receiver in self.receivers.values_mut() {
            for (rule, user) in &mut receiver.users {
                if !user.admitted && has_route(*rule) {
                    user.admitted = true;
                    receiver.filter_stale = true;
                }
            }
        }
    }

    /// Brings the filters of packet sockets in line with their rules. Returns what could not be done.
    pub(crate) fn refresh_filters(&mut self) -> Vec<String> {
        let mut problems = Vec::new();
        for (key, receiver) in &mut self.receivers {
            let ReceiverKey::Packet { ethernet, .. } = key else { continue };
            if !std::mem::take(&mut receiver.filter_stale) {
                continue;
            }
            let wanted: Vec<_> =
                receiver.users.values().filter(|user| user.admitted).map(|user| user.wanted).collect();
            if let Err(error) =
                filter::attach(&receiver.fd, &Filter::compile(&wanted, filter_link(*ethernet)))
            {
                problems.push(format!("cannot set the filter of a packet socket: {error}"));
            }
        }
        problems
    }

    /// The sockets that the worker must be given now; they count as given from here on.
    pub(crate) fn untold(&mut self) -> std::io::Result<Vec<Untold>> {
        let mut untold = Vec::new();
        for receiver in self.receivers.values_mut().filter(|receiver| !receiver.told) {
            let fd = receiver.fd.try_clone()?;
            let Receiver { id: socket, input, kind, .. } = *receiver;
            untold.push(Untold::Receiver { socket, input, kind, fd });
            receiver.told = true;
        }
        for sender in self.senders.values_mut().filter(|sender| !sender.told) {
            untold.push(Untold::Sender { socket: sender.id, fd: sender.fd.try_clone()? });
            sender.told = true;
        }
        Ok(untold)
    }

    /// The sockets that the worker must close.
    pub(crate) fn take_closing(&mut self) -> Vec<SocketId> {
        std::mem::take(&mut self.closing)
    }

    /// A new process has none of them.
    pub(crate) fn forget_told(&mut self) {
        self.receivers.values_mut().for_each(|receiver| receiver.told = false);
        self.senders.values_mut().for_each(|sender| sender.told = false);
        self.closing.clear();
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

fn filter_link(ethernet: bool) -> FilterLink {
    if ethernet { FilterLink::Ethernet } else { FilterLink::RawIp }
}

fn open_receiver(key: &ReceiverKey, ifname: &str) -> Result<(OwnedFd, ReceiverKind), OpenError> {
    match *key {
        ReceiverKey::Packet { ifindex, ethernet } => {
            let filter = Filter::drop_all();
            let receive_buffer_bytes = RECEIVE_BUFFER_BYTES;
            let options = PacketOptions { ifindex, vnet_hdr: true, receive_buffer_bytes, filter: &filter };
            Ok((packet::open(&options)?, ReceiverKind::Packet { ethernet }))
        }
        ReceiverKey::Udp { ifindex, bound, source } => {
            let sources = source.filter(|_| bound.ip().is_multicast());
            let options = UdpInput {
                address: bound,
                ifindex,
                ifname,
                sources: sources.as_slice(),
                receive_buffer_bytes: RECEIVE_BUFFER_BYTES,
                gro: true,
            };
            Ok((udp::open_input(&options)?, ReceiverKind::Udp { bound }))
        }
    }
}

fn open_sender(key: &SenderKey) -> Result<OwnedFd, OpenError> {
    let family = if key.ipv6 { Family::V6 } else { Family::V4 };
    let (ifindex, multicast_loop, send_buffer_bytes) = (key.ifindex, key.multicast_loop, SEND_BUFFER_BYTES);
    if key.raw {
        return raw::open_output(&RawOutput { family, ifindex, multicast_loop, send_buffer_bytes });
    }
    let source = key.source.map(|(address, port)| (address, port.unwrap_or(0)).into());
    let hop_limit = key.hop_limit;
    let report_full_queue = key.multicast;
    udp::open_output(&UdpOutput {
        family,
        ifindex,
        source,
        hop_limit,
        multicast_loop,
        report_full_queue,
        send_buffer_bytes,
    })
}
