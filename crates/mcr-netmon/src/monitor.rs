//! The monitor: two sockets around a snapshot.
//!
//! It never blocks on the network; a dump waits at most for the kernel's own lock. Invariant: what [`Monitor::changes`]
//! has given out, replayed on the snapshot as it was at [`Monitor::open`], is the snapshot as it is, whatever
//! failed in between.

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_ROUTE;
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};

use crate::apply::Followup;
use crate::message::parse_datagram;
use crate::requests::{DATAGRAM_BYTES, Dump, Ended, Received, Requests, receive};
use crate::snapshot::{Change, Snapshot};

/// A burst of a thousand links coming up is about this large in the kernel's accounting.
const RECEIVE_BUFFER_BYTES: usize = 4 * 1024 * 1024;
/// Datagrams that one call reads at most.
const DATAGRAMS_MAX: usize = 65_536;
/// How often a resync starts over before it gives up until the next call.
const TRIES_MAX: u32 = 8;
/// The groups to subscribe to: RTNLGRP_LINK, NEIGH, IPV4_IFADDR, IPV4_ROUTE, IPV6_IFADDR, IPV6_ROUTE.
const GROUPS: [u32; 6] = [1, 3, 5, 7, 9, 11];
/// RTNLGRP_NEXTHOP; kernels before 5.3 have no such group.
const GROUP_NEXTHOP: u32 = 32;

/// How to open a [`Monitor`].
#[derive(Debug, Clone, Default)]
pub struct Options {
    receive_buffer_bytes: Option<usize>,
}

impl Options {
    /// Sets how many bytes of announcements the kernel holds between two reads (default 4 MiB). Without
    /// CAP_NET_ADMIN the kernel gives no more than the sysctl `net.core.rmem_max`. What does not fit costs a resync.
    #[must_use]
    pub fn receive_buffer_bytes(mut self, bytes: usize) -> Self {
        self.receive_buffer_bytes = Some(bytes);
        self
    }
}

/// Why a monitor could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// No netlink socket.
    #[error("cannot open a netlink socket")]
    Socket(#[source] io::Error),
    /// A multicast group of rtnetlink was refused.
    #[error("cannot subscribe to rtnetlink group {group}")]
    Subscribe {
        /// `RTNLGRP_*`.
        group: u32,
        /// What the kernel said.
        source: io::Error,
    },
    /// The first dump failed.
    #[error("cannot read the network state")]
    Dump(#[from] MonitorError),
}

/// Why changes could not be read. The monitor stays usable: the next call starts with a resync, and no change is lost.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MonitorError {
    /// Reading announcements failed.
    #[error("cannot read from the netlink socket")]
    Receive(#[source] io::Error),
    /// A dump failed.
    #[error("cannot dump {what}")]
    Dump {
        /// What was dumped.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The network changed faster than it could be read, again and again.
    #[error("the network changed faster than it could be read, {tries} times in a row; try again later")]
    Unsettled {
        /// How often it was tried.
        tries: u32,
    },
}

/// Follows the network namespace of the thread that opened it. Needs no rights.
///
/// The descriptor becomes readable when something may have changed; then call [`Monitor::changes`].
#[derive(Debug)]
pub struct Monitor {
    events: Socket,
    requests: Requests,
    datagram: Vec<u8>,
    snapshot: Snapshot,
    /// Applied, but not given out yet because something failed afterwards.
    pending: Vec<Change>,
    resync_due: bool,
    caught_up: bool,
    resyncs: u64,
    malformed: u64,
}

impl Monitor {
    /// Subscribes, then reads the whole state.
    pub fn open() -> Result<Self, OpenError> {
        Self::open_with(&Options::default())
    }

    /// As [`Monitor::open`], with options.
    pub fn open_with(options: &Options) -> Result<Self, OpenError> {
        let mut monitor = Self {
            events: subscribed(options)?,
            requests: Requests::open().map_err(OpenError::Socket)?,
            datagram: Vec::with_capacity(DATAGRAM_BYTES),
            snapshot: Snapshot::default(),
            pending: Vec::new(),
            resync_due: false,
            caught_up: false,
            resyncs: 0,
            malformed: 0,
        };
        monitor.snapshot = monitor.settle()?;
        Ok(monitor)
    }

    /// The state, up to the last call of [`Monitor::changes`].
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Reads what was announced since the last call, without waiting, and gives the changes in order. An overrun
    /// is answered by a resync; the changes are then the difference to the state before.
    ///
    /// Who waits for the edge of readability, as tokio's `AsyncFd` does, calls again until
    /// [`Monitor::caught_up`].
    pub fn changes(&mut self) -> Result<Vec<Change>, MonitorError> {
        let mut routes_due = false;
        if !self.resync_due {
            let (mut snapshot, mut pending) = (mem::take(&mut self.snapshot), mem::take(&mut self.pending));
            let drained = self.drain(&mut snapshot, &mut pending);
            (self.snapshot, self.pending) = (snapshot, pending);
            match drained {
                Ok(Drained { lost, followup }) => {
                    self.resync_due = lost;
                    routes_due = followup == Followup::DumpRoutes;
                }
                Err(error) => {
                    self.resync_due = true;
                    return Err(error);
                }
            }
        }
        if self.resync_due {
            self.resync()?;
        } else if routes_due {
            // A failure here is made good by a resync: what was announced cannot be announced again.
            self.resync_due = true;
            let mut fresh = Snapshot::default();
            match self.dump(Dump::RoutesV4, &mut fresh)? {
                Ended::Whole => {
                    self.snapshot.take_v4_routes(&fresh, &mut self.pending);
                    self.resync_due = false;
                }
                Ended::Interrupted => self.resync()?,
            }
        }
        Ok(mem::take(&mut self.pending))
    }

    /// Whether the last call of [`Monitor::changes`] read all there was; false when it stopped at its bound.
    pub fn caught_up(&self) -> bool {
        self.caught_up
    }

    /// Makes the next call of [`Monitor::changes`] read the whole state again.
    pub fn force_resync(&mut self) {
        self.resync_due = true;
    }

    /// How often the whole state was read again since the monitor was opened.
    pub fn resyncs(&self) -> u64 {
        self.resyncs
    }

    /// How many messages could not be read. Above 0 is a bug here or in the kernel.
    pub fn malformed(&self) -> u64 {
        self.malformed
    }

    fn resync(&mut self) -> Result<(), MonitorError> {
        let fresh = self.settle()?;
        self.pending.extend(self.snapshot.diff(&fresh));
        self.snapshot = fresh;
        self.resync_due = false;
        self.resyncs += 1;
        Ok(())
    }

    /// Reads the whole state until a dump and the announcements around it agree.
    fn settle(&mut self) -> Result<Snapshot, MonitorError> {
        for _ in 0..TRIES_MAX {
            self.discard()?;
            let mut fresh = Snapshot::default();
            let mut whole = true;
            for dump in Dump::ALL {
                whole &= self.dump(dump, &mut fresh)? == Ended::Whole;
            }
            if !whole {
                continue;
            }
            let drained = self.drain(&mut fresh, &mut Vec::new())?;
            if drained.lost || !self.caught_up {
                continue;
            }
            if drained.followup == Followup::DumpRoutes {
                let mut routes = Snapshot::default();
                if self.dump(Dump::RoutesV4, &mut routes)? == Ended::Interrupted {
                    continue;
                }
                fresh.take_v4_routes(&routes, &mut Vec::new());
            }
            return Ok(fresh);
        }
        Err(MonitorError::Unsettled { tries: TRIES_MAX })
    }

    /// Adds a dump to `snapshot`.
    fn dump(&mut self, dump: Dump, snapshot: &mut Snapshot) -> Result<Ended, MonitorError> {
        let mut changes = Vec::new();
        let each = |update| {
            // What follows from a dump is in the dump.
            let _ = snapshot.apply(update, &mut changes);
            changes.clear();
        };
        let ended = self.requests.dump(dump, &mut self.malformed, each);
        ended.map_err(|source| MonitorError::Dump { what: dump.name(), source })
    }

    /// Applies what is queued to `snapshot`.
    fn drain(&mut self, snapshot: &mut Snapshot, changes: &mut Vec<Change>) -> Result<Drained, MonitorError> {
        let mut drained = Drained { lost: false, followup: Followup::None };
        self.caught_up = false;
        for _ in 0..DATAGRAMS_MAX {
            match receive(&self.events, &mut self.datagram).map_err(MonitorError::Receive)? {
                Received::Datagram => {}
                Received::Foreign => continue,
                Received::Nothing => {
                    self.caught_up = true;
                    break;
                }
                Received::Lost => {
                    drained.lost = true;
                    break;
                }
            }
            let parsed = parse_datagram(&self.datagram);
            self.malformed += parsed.malformed;
            for message in parsed.messages {
                if snapshot.apply(message.update, changes) == Followup::DumpRoutes {
                    drained.followup = Followup::DumpRoutes;
                }
            }
        }
        Ok(drained)
    }

    /// Throws away what is queued. The kernel announces nothing more to a socket that overran until its queue was
    /// read to the end (NETLINK_S_CONGESTED), so this comes before a dump.
    fn discard(&mut self) -> Result<(), MonitorError> {
        for _ in 0..DATAGRAMS_MAX {
            if receive(&self.events, &mut self.datagram).map_err(MonitorError::Receive)? == Received::Nothing
            {
                break;
            }
        }
        Ok(())
    }
}

/// How reading the queue ended.
struct Drained {
    lost: bool,
    followup: Followup,
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}

impl AsRawFd for Monitor {
    fn as_raw_fd(&self) -> RawFd {
        self.events.as_raw_fd()
    }
}

/// A socket that hears of every change from now on.
fn subscribed(options: &Options) -> Result<Socket, OpenError> {
    let mut socket = Socket::new(NETLINK_ROUTE).map_err(OpenError::Socket)?;
    let bytes = options.receive_buffer_bytes.unwrap_or(RECEIVE_BUFFER_BYTES);
    if setsockopt(&socket, sockopt::RcvBufForce, &bytes).is_err() {
        // Without the right to exceed the limit, as much as the limit allows.
        setsockopt(&socket, sockopt::RcvBuf, &bytes).map_err(|e| OpenError::Socket(e.into()))?;
    }
    socket.set_non_blocking(true).map_err(OpenError::Socket)?;
    socket.bind_auto().map_err(OpenError::Socket)?;
    for group in GROUPS {
        socket.add_membership(group).map_err(|source| OpenError::Subscribe { group, source })?;
    }
    match socket.add_membership(GROUP_NEXTHOP) {
        Err(error) if error.raw_os_error() != Some(Errno::EINVAL as i32) => {
            Err(OpenError::Subscribe { group: GROUP_NEXTHOP, source: error })
        }
        _ => Ok(socket),
    }
}
