//! What the kernel says of a receiving socket, against what workers counted: the datagrams that nobody else can count.
//!
//! A full receive buffer drops; the kernel counts that. A worker that dies takes along what it had taken from the kernel and not
//! yet counted. For packet sockets the kernel also counts what went through, so that loss is the difference once nothing is under
//! way. For UDP sockets it does not, and there that loss (at most the worker's receive buffers, 1,024 datagrams) stays uncounted.

use std::os::fd::{AsRawFd, BorrowedFd};

use mcr_metrics::InputCounters;
use mcr_proto::{counters::InputDrop, message::ReceiverKind};
use mcr_socket::packet;
use nix::sys::socket::{MsgFlags, recv};

/// More than fit into any receive buffer.
const UNREAD_MAX: u64 = 1 << 20;
/// How many looks must agree before a difference counts as a loss: one alone may have caught frames under way.
const LOOKS: u32 = 3;

/// The books of one socket.
#[derive(Debug)]
pub(crate) struct Ledger {
    /// What the kernel's drops are counted as.
    full: InputDrop,
    account: Account,
}

#[derive(Debug)]
enum Account {
    Udp {
        /// What of the kernel's count of drops is in the counters.
        dropped: u32,
    },
    Packet(PacketLedger),
}

#[derive(Debug)]
struct PacketLedger {
    /// Frames that went through the socket or wait in it.
    passed: u64,
    /// The input's frames before this socket, and what workers took along of this one: `frames` is behind `passed` by the
    /// latter.
    frames_before: u64,
    lost: u64,
    search: Option<Search>,
}

/// The least difference seen, and how often.
#[derive(Debug, Default)]
struct Search {
    least: u64,
    seen: u32,
}

impl Ledger {
    /// The books of a new socket; what it has no room for is counted as `full`.
    pub(crate) fn open(kind: ReceiverKind, full: InputDrop, input: &InputCounters) -> Self {
        let account = match kind {
            ReceiverKind::Udp { .. } => Account::Udp { dropped: 0 },
            ReceiverKind::Packet { .. } => {
                let frames_before = input.frames.get();
                Account::Packet(PacketLedger { passed: 0, frames_before, lost: 0, search: None })
            }
        };
        Self { full, account }
    }

    /// The worker that read the socket died.
    pub(crate) fn search(&mut self) {
        if let Account::Packet(ledger) = &mut self.account {
            ledger.search = Some(Search::default());
        }
    }

    /// Whether what a dead worker took along is not known yet.
    pub(crate) fn is_searching(&self) -> bool {
        matches!(self.account, Account::Packet(PacketLedger { search: Some(_), .. }))
    }

    /// Brings the counters up to date.
    pub(crate) fn count(&mut self, fd: BorrowedFd<'_>, input: &InputCounters) {
        let full = self.full;
        match &mut self.account {
            Account::Udp { dropped } => {
                // The kernel counts in 32 bits; the difference is right if it is read once in 4 billion drops.
                let Ok(now) = mcr_socket::dropped(fd).map(|count| count as u32) else { return };
                let new = now.wrapping_sub(std::mem::replace(dropped, now));
                input.drops[full as usize].add(u64::from(new));
            }
            Account::Packet(ledger) => {
                // Taken before passed: what comes in between makes the difference too large for this look, never too small.
                let taken = input.frames.get().saturating_sub(ledger.frames_before);
                ledger.count_passed(fd, full, input);
                if packet::is_idle(fd).unwrap_or(false) {
                    ledger.look(taken, input);
                }
            }
        }
    }

    /// How many frames went through the socket so far, or wait in it.
    pub(crate) fn passed(&mut self, fd: BorrowedFd<'_>, input: &InputCounters) -> Option<u64> {
        let full = self.full;
        let Account::Packet(ledger) = &mut self.account else { return None };
        ledger.count_passed(fd, full, input);
        Some(ledger.passed)
    }

    /// Whether a worker has taken so many of them, or died with them.
    pub(crate) fn has_taken(&self, passed: u64, input: &InputCounters) -> bool {
        let Account::Packet(ledger) = &self.account else { return true };
        input.frames.get().saturating_sub(ledger.frames_before) + ledger.lost >= passed
    }

    /// Closes the books. What waits and nobody will read, because the worker is not there, is counted as datagrams that the
    /// kernel had no place for, or where it waits in a ring, as what the worker took along; nothing of them is looked at.
    pub(crate) fn close(&mut self, fd: BorrowedFd<'_>, input: &InputCounters, alive: bool) {
        self.count(fd, input);
        if alive {
            return;
        }
        let mut unread = 0;
        // Room for the virtio-net header alone: without, the kernel refuses; what follows is cut off unseen.
        let mut header = [0; packet::VNET_HEADER_BYTES];
        while unread < UNREAD_MAX && recv(fd.as_raw_fd(), &mut header, MsgFlags::MSG_DONTWAIT).is_ok() {
            unread += 1;
        }
        let full = self.full;
        input.drops[full as usize].add(unread);
        if let Account::Packet(ledger) = &mut self.account {
            ledger.count_passed(fd, full, input);
            // Nobody reads any more, so this difference is exact.
            let taken = input.frames.get().saturating_sub(ledger.frames_before);
            let lost = ledger.passed.saturating_sub(taken + ledger.lost + unread);
            input.unseen.add(lost);
        }
    }
}

impl PacketLedger {
    fn count_passed(&mut self, fd: BorrowedFd<'_>, full: InputDrop, input: &InputCounters) {
        let Ok(new) = packet::take_statistics(fd) else { return };
        self.passed += u64::from(new.frames.saturating_sub(new.dropped));
        input.drops[full as usize].add(u64::from(new.dropped));
    }

    fn look(&mut self, taken: u64, input: &InputCounters) {
        let Some(search) = &mut self.search else { return };
        let Some(missing) = self.passed.checked_sub(taken + self.lost) else { return };
        if search.seen == 0 || missing < search.least {
            *search = Search { least: missing, seen: 1 };
        } else if missing == search.least {
            search.seen += 1;
        }
        if search.seen >= LOOKS {
            input.unseen.add(search.least);
            self.lost += search.least;
            self.search = None;
        }
    }
}
