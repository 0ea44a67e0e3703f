//! Group memberships that last as long as their guards.
//!
//! For whoever receives by a socket that cannot join, such as AF_PACKET: helper sockets hold the memberships. They are
//! never read, hold nothing and get nothing (drop-all filter, least receive buffer, IP_MULTICAST_ALL off). Invariants:
//! one (interface, group, source) is joined once, however many guards there are; one socket holds a group of an interface
//! either for any source or for some, because the kernel would turn the one into the other; a helper socket without
//! memberships is closed.

mod helpers;

use crate::address::portless;
use crate::sys::{self, GroupRequest, GroupSourceRequest};
use crate::{Family, OpenError};
use helpers::Helpers;
use std::io;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Why a group was not joined. Nothing has changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JoinError {
    /// Not a group.
    #[error("{group} is not a multicast address")]
    NotMulticast {
        /// The address given as a group.
        group: IpAddr,
    },
    /// Group and source are of different families.
    #[error("source {source_address} and group {group} are of different families")]
    Family {
        /// The group.
        group: IpAddr,
        /// The source.
        source_address: IpAddr,
    },
    /// No such interface, or it does not speak this family.
    #[error(
        "no interface with index {ifindex} that could join {group}; it may have been removed, or has this IP version disabled"
    )]
    NoInterface {
        /// The interface.
        ifindex: u32,
        /// The group.
        group: IpAddr,
    },
    /// A limit of the kernel for one socket.
    #[error(
        "the kernel allows no more memberships: raise net.ipv4.igmp_max_memberships and igmp_max_msf, net.ipv6.mld_max_msf, or net.core.optmem_max"
    )]
    Limit {
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// No socket to join with.
    #[error("cannot open a helper socket to join with")]
    Helper(#[source] Box<OpenError>),
    /// Anything else the kernel said.
    #[error("joining {group} on interface {ifindex} failed")]
    Join {
        /// The interface.
        ifindex: u32,
        /// The group.
        group: IpAddr,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// One membership: a group on an interface, from any source or from one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    ifindex: u32,
    group: IpAddr,
    source: Option<IpAddr>,
}

/// The memberships of this process, held by helper sockets. Cheap to clone; clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Memberships {
    helpers: Arc<Mutex<Helpers>>,
}

/// A group is joined while this lives.
///
/// When its interface is gone, drop it before joining again: an interface that comes back, even with the same index, knows
/// nothing of it.
#[derive(Debug)]
#[must_use = "the group is left when this is dropped"]
pub struct Membership {
    helpers: Arc<Mutex<Helpers>>,
    key: Key,
}

impl Memberships {
    /// None yet, and no socket.
    pub fn new() -> Self {
        Self::default()
    }

    /// Joins a group on an interface, from any source or from one. Joining what is joined is counted, not repeated.
    ///
    /// # Errors
    /// [`JoinError`].
    pub fn join(&self, ifindex: u32, group: IpAddr, source: Option<IpAddr>) -> Result<Membership, JoinError> {
        let key = Key { ifindex, group, source };
        locked(&self.helpers).join(key)?;
        Ok(Membership { helpers: Arc::clone(&self.helpers), key })
    }

    /// How many different memberships there are.
    pub fn count(&self) -> usize {
        locked(&self.helpers).memberships()
    }

    /// How many helper sockets hold them.
    pub fn sockets(&self) -> usize {
        locked(&self.helpers).sockets()
    }
}

impl Membership {
    /// The interface.
    pub fn ifindex(&self) -> u32 {
        self.key.ifindex
    }

    /// The group.
    pub fn group(&self) -> IpAddr {
        self.key.group
    }

    /// The only source, unless it is for any.
    pub fn source(&self) -> Option<IpAddr> {
        self.key.source
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        locked(&self.helpers).leave(&self.key);
    }
}

fn locked(helpers: &Mutex<Helpers>) -> MutexGuard<'_, Helpers> {
    // No caller's code runs under the lock and each change is made whole before anything can panic.
    helpers.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has a socket join a group from any source.
pub(crate) fn join_group(fd: BorrowedFd<'_>, ifindex: u32, group: IpAddr) -> Result<(), JoinError> {
    let key = Key { ifindex, group, source: None };
    key.check()?;
    request(fd, &key, Action::Join).map_err(|error| key.error(error))
}

/// Has a socket join a group from one source, one more if it has some already.
pub(crate) fn join_source(
    fd: BorrowedFd<'_>,
    ifindex: u32,
    group: IpAddr,
    source: IpAddr,
) -> Result<(), JoinError> {
    let key = Key { ifindex, group, source: Some(source) };
    key.check()?;
    match request(fd, &key, Action::Join) {
        // It has this source already.
        Err(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => Ok(()),
        other => other.map_err(|error| key.error(error)),
    }
}

/// Has a socket leave a group, whatever sources it has of it.
pub(crate) fn leave_group(fd: BorrowedFd<'_>, ifindex: u32, group: IpAddr) -> Result<(), JoinError> {
    left(
        request(fd, &Key { ifindex, group, source: None }, Action::Leave),
        Key { ifindex, group, source: None },
    )
}

/// Has a socket leave one source of a group.
pub(crate) fn leave_source(
    fd: BorrowedFd<'_>,
    ifindex: u32,
    group: IpAddr,
    source: IpAddr,
) -> Result<(), JoinError> {
    let key = Key { ifindex, group, source: Some(source) };
    key.check()?;
    left(request(fd, &key, Action::Leave), key)
}

fn left(outcome: io::Result<()>, key: Key) -> Result<(), JoinError> {
    match outcome {
        // The interface is gone, or what was to be left never was there.
        Err(error)
            if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::EADDRNOTAVAIL | libc::EINVAL)) =>
        {
            Ok(())
        }
        other => other.map_err(|error| key.error(error)),
    }
}

#[derive(Clone, Copy)]
enum Action {
    Join,
    Leave,
}

impl Key {
    fn family(&self) -> Family {
        Family::of(self.group)
    }

    /// The group on its interface, whatever the source.
    fn place(&self) -> (u32, IpAddr) {
        (self.ifindex, self.group)
    }

    fn check(&self) -> Result<(), JoinError> {
        let group = self.group;
        if !group.is_multicast() {
            return Err(JoinError::NotMulticast { group });
        }
        match self.source {
            Some(source_address) if source_address.is_ipv4() != group.is_ipv4() => {
                Err(JoinError::Family { group, source_address })
            }
            _ => Ok(()),
        }
    }

    fn error(&self, source: io::Error) -> JoinError {
        let Self { ifindex, group, .. } = *self;
        match source.raw_os_error() {
            Some(libc::ENODEV) => JoinError::NoInterface { ifindex, group },
            Some(libc::ENOBUFS | libc::ENOMEM) => JoinError::Limit { source },
            _ => JoinError::Join { ifindex, group, source },
        }
    }
}

/// The protocol-independent requests of RFC 3678, section 5.1.
fn request(fd: BorrowedFd<'_>, key: &Key, action: Action) -> io::Result<()> {
    let level = match key.family() {
        Family::V4 => libc::SOL_IP,
        Family::V6 => libc::SOL_IPV6,
    };
    let group = portless(key.group);
    match key.source {
        None => {
            let name = match action {
                Action::Join => libc::MCAST_JOIN_GROUP,
                Action::Leave => libc::MCAST_LEAVE_GROUP,
            };
            sys::set_option(fd, level, name, &GroupRequest { ifindex: key.ifindex, group })
        }
        Some(source) => {
            let name = match action {
                Action::Join => libc::MCAST_JOIN_SOURCE_GROUP,
                Action::Leave => libc::MCAST_LEAVE_SOURCE_GROUP,
            };
            let request = GroupSourceRequest { ifindex: key.ifindex, group, source: portless(source) };
            sys::set_option(fd, level, name, &request)
        }
    }
}
