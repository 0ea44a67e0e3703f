//! Accounts for received datagrams: bytes, sender and time in, one verdict and the sums out.
//!
//! Duty: what became of each datagram, in total and per flow. It receives nothing and reads no clock, so a test can
//! feed it any history. Invariants: each datagram is in exactly one of received, duplicates, late, corrupt, foreign
//! and untracked; `received + lost` is what the senders are known to have sent. Memory is bounded: 8 KiB a flow, at
//! most [`FLOWS_TRACKED_MAX`] flows.

use std::collections::HashMap;
use std::net::SocketAddr;

use serde::Serialize;

use crate::latency::{Latency, LatencyUs};
use crate::payload::{self, Fault, Header};
use crate::window::{Mark, Window};

/// Flows beyond this many are counted as a whole, not one by one.
pub const FLOWS_TRACKED_MAX: usize = 16_384;

/// What a received datagram turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Intact and the highest of its flow so far.
    Received,
    /// Intact, the first of its sequence, but after a higher one. It counts as received too.
    Reordered,
    /// Intact, of a sequence that came before.
    Duplicate,
    /// Intact, but 65,536 or more behind the highest of its flow: a duplicate or reordered, nobody knows.
    Late,
    /// Ours, but damaged.
    Corrupt,
    /// Not test traffic.
    Foreign,
    /// Of a flow there is no room to track.
    Untracked,
}

/// Counts of datagrams.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// Intact, each sequence of each flow once.
    pub received: u64,
    /// Sequences below the highest received one of which no intact datagram came. Sequences start at 0, so loss at the
    /// start counts; loss at the end cannot be seen from here.
    pub lost: u64,
    /// Intact, of a sequence that had come before.
    pub duplicates: u64,
    /// Those of `received` that came after a higher sequence (RFC 4737, section 3).
    pub reordered: u64,
    /// Intact, but too far behind to tell a duplicate from a reordered one; in no other count.
    pub late: u64,
    /// Ours, but damaged; unless an intact one came too, its sequence is also among the lost.
    pub corrupt: u64,
    /// Not test traffic.
    pub foreign: u64,
    /// Of flows beyond [`FLOWS_TRACKED_MAX`].
    pub untracked: u64,
    /// Payload bytes of `received`.
    pub bytes: u64,
}

/// The counts of one flow. Damage is counted here if the header could still be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FlowReport {
    /// Index among the flows of its run.
    pub flow: u32,
    /// The run, drawn by the sender at its start.
    pub run: u32,
    /// Where the datagrams came from, as the receiver saw it.
    pub sender: SocketAddr,
    /// As in [`Totals`].
    pub received: u64,
    /// As in [`Totals`].
    pub lost: u64,
    /// As in [`Totals`].
    pub duplicates: u64,
    /// As in [`Totals`].
    pub reordered: u64,
    /// As in [`Totals`].
    pub late: u64,
    /// As in [`Totals`].
    pub corrupt: u64,
}

/// The books of one receiver.
#[derive(Debug)]
pub struct Tracker {
    index: HashMap<FlowKey, usize>,
    flows: Vec<Flow>,
    totals: Totals,
    latency: Latency,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct FlowKey {
    sender: SocketAddr,
    run: u32,
    flow: u32,
}

#[derive(Debug)]
struct Flow {
    key: FlowKey,
    window: Window,
    received: u64,
    duplicates: u64,
    reordered: u64,
    late: u64,
    corrupt: u64,
}

impl Default for Tracker {
    fn default() -> Self {
        Tracker::new()
    }
}

impl Tracker {
    /// Empty books.
    pub fn new() -> Self {
        Tracker {
            index: HashMap::new(),
            flows: Vec::new(),
            totals: Totals::default(),
            latency: Latency::new(),
        }
    }

    /// Accounts for one datagram that `sender` sent and that was received at `now_ns` of CLOCK_REALTIME.
    pub fn record(&mut self, sender: SocketAddr, payload: &[u8], now_ns: u64) -> Outcome {
        match payload::check(payload) {
            // No sender gets to the end of a u64; a sequence that has no successor is damage the checksum missed.
            Ok(header) if header.sequence == u64::MAX => self.damaged(None),
            Ok(header) => self.intact(sender, &header, payload.len(), now_ns),
            Err(Fault::Filler(header)) => self.damaged(Some(key(sender, &header))),
            Err(Fault::Header) => self.damaged(None),
            Err(Fault::Foreign) => self.foreign(),
        }
    }

    /// Accounts for a datagram that is known to be none of ours, whatever is in it.
    pub fn foreign(&mut self) -> Outcome {
        self.totals.foreign += 1;
        Outcome::Foreign
    }

    /// The sums over all flows.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// The counts of each flow, ordered by sender, run and index.
    pub fn flows(&self) -> Vec<FlowReport> {
        let mut flows: Vec<_> = self.flows.iter().map(Flow::report).collect();
        flows.sort_unstable_by_key(|flow| (flow.sender, flow.run, flow.flow));
        flows
    }

    /// Delays of the received datagrams; `None` if there are none.
    pub fn latency_us(&self) -> Option<LatencyUs> {
        self.latency.summary()
    }

    fn intact(&mut self, sender: SocketAddr, header: &Header, bytes: usize, now_ns: u64) -> Outcome {
        let Some(flow) = self.flow(key(sender, header)) else {
            self.totals.untracked += 1;
            return Outcome::Untracked;
        };
        let known_sent = flow.window.next();
        let mark = flow.window.mark(header.sequence);
        let skipped = flow.window.next() - known_sent;
        let outcome = flow.count(mark);
        let totals = &mut self.totals;
        totals.lost += skipped;
        match outcome {
            Outcome::Received | Outcome::Reordered => {
                totals.received += 1;
                totals.lost -= 1;
                totals.bytes += bytes as u64;
                totals.reordered += u64::from(outcome == Outcome::Reordered);
                self.latency.record(now_ns.saturating_sub(header.sent_ns));
            }
            Outcome::Duplicate => totals.duplicates += 1,
            _ => totals.late += 1,
        }
        outcome
    }

    /// A damaged datagram opens no flow: its header may be chance.
    fn damaged(&mut self, key: Option<FlowKey>) -> Outcome {
        self.totals.corrupt += 1;
        if let Some(at) = key.and_then(|key| self.index.get(&key)) {
            self.flows[*at].corrupt += 1;
        }
        Outcome::Corrupt
    }

    fn flow(&mut self, key: FlowKey) -> Option<&mut Flow> {
        let room = self.flows.len() < FLOWS_TRACKED_MAX;
        let at = match self.index.get(&key) {
            Some(at) => *at,
            None if room => {
                self.flows.push(Flow::new(key));
                self.index.insert(key, self.flows.len() - 1);
                self.flows.len() - 1
            }
            None => return None,
        };
        Some(&mut self.flows[at])
    }
}

fn key(sender: SocketAddr, header: &Header) -> FlowKey {
    FlowKey { sender, run: header.run, flow: header.flow }
}

impl Flow {
    fn new(key: FlowKey) -> Self {
        Flow { key, window: Window::new(), received: 0, duplicates: 0, reordered: 0, late: 0, corrupt: 0 }
    }

    fn count(&mut self, mark: Mark) -> Outcome {
        match mark {
            Mark::Ahead => {
                self.received += 1;
                Outcome::Received
            }
            Mark::Behind => {
                self.received += 1;
                self.reordered += 1;
                Outcome::Reordered
            }
            Mark::Again => {
                self.duplicates += 1;
                Outcome::Duplicate
            }
            Mark::TooOld => {
                self.late += 1;
                Outcome::Late
            }
        }
    }

    fn report(&self) -> FlowReport {
        FlowReport {
            flow: self.key.flow,
            run: self.key.run,
            sender: self.key.sender,
            received: self.received,
            lost: self.window.next() - self.received,
            duplicates: self.duplicates,
            reordered: self.reordered,
            late: self.late,
            corrupt: self.corrupt,
        }
    }
}

#[cfg(test)]
mod tests;
