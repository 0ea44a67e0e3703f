//! Which helper socket holds which membership.

use super::{Action, JoinError, Key, request};
use crate::udp::deaf;
use crate::{Family, OpenError, sys};
use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};

#[derive(Debug, Default)]
pub(super) struct Helpers {
    held: HashMap<Key, Held>,
    sockets: HashMap<u64, Helper>,
    next_id: u64,
}

/// A membership: the socket that holds it and how many guards want it.
#[derive(Debug)]
struct Held {
    socket: u64,
    guards: usize,
}

#[derive(Debug)]
struct Helper {
    fd: OwnedFd,
    family: Family,
    /// What it holds of each group of each interface.
    groups: HashMap<(u32, IpAddr), Mode>,
    /// The kernel has refused it another group. It need not be asked again until it has left one.
    full: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    AnySource,
    Sources(usize),
}

impl Helpers {
    pub(super) fn memberships(&self) -> usize {
        self.held.len()
    }

    pub(super) fn sockets(&self) -> usize {
        self.sockets.len()
    }

    pub(super) fn join(&mut self, key: Key) -> Result<(), JoinError> {
        key.check()?;
        if let Some(held) = self.held.get_mut(&key) {
            held.guards += 1;
            return Ok(());
        }
        let socket = match self.join_on_some(&key)? {
            Some(socket) => socket,
            None => self.join_on_new(&key)?,
        };
        self.held.insert(key, Held { socket, guards: 1 });
        Ok(())
    }

    /// Tries the sockets there are. `None` if all are at a limit.
    fn join_on_some(&mut self, key: &Key) -> Result<Option<u64>, JoinError> {
        let family = key.family();
        for (id, helper) in self.sockets.iter_mut().filter(|(_, helper)| helper.family == family) {
            if !helper.may_take(key) {
                continue;
            }
            match helper.join(key) {
                Ok(()) => return Ok(Some(*id)),
                Err(error) if is_limit(&error) => {}
                Err(error) => return Err(key.error(error)),
            }
        }
        Ok(None)
    }

    fn join_on_new(&mut self, key: &Key) -> Result<u64, JoinError> {
        let mut helper = Helper::open(key.family()).map_err(|error| JoinError::Helper(Box::new(error)))?;
        helper.join(key).map_err(|error| key.error(error))?;
        let id = self.next_id;
        self.next_id += 1;
        self.sockets.insert(id, helper);
        Ok(id)
    }

    pub(super) fn leave(&mut self, key: &Key) {
        let Some(held) = self.held.get_mut(key) else { return };
        held.guards -= 1;
        if held.guards > 0 {
            return;
        }
        let id = held.socket;
        self.held.remove(key);
        let Some(helper) = self.sockets.get_mut(&id) else { return };
        helper.leave(key);
        if helper.groups.is_empty() {
            self.sockets.remove(&id);
        }
    }
}

impl Helper {
    fn open(family: Family) -> Result<Self, OpenError> {
        let (domain, level, all) = match family {
            Family::V4 => (libc::AF_INET, libc::SOL_IP, libc::IP_MULTICAST_ALL),
            Family::V6 => (libc::AF_INET6, libc::SOL_IPV6, libc::IPV6_MULTICAST_ALL),
        };
        let fd =
            sys::socket(domain, libc::SOCK_DGRAM, libc::IPPROTO_UDP).map_err(OpenError::call("socket"))?;
        deaf(fd.as_fd())?;
        sys::set_option(fd.as_fd(), level, all, &0i32).map_err(OpenError::call("IP_MULTICAST_ALL"))?;
        Ok(Self { fd, family, groups: HashMap::new(), full: false })
    }

    fn may_take(&self, key: &Key) -> bool {
        match (self.groups.get(&(key.ifindex, key.group)), key.source) {
            (None, _) => !self.full,
            // One more source of a group it has: its limit is another than that of groups, so it is asked.
            (Some(Mode::Sources(_)), Some(_)) => true,
            // The kernel would turn one kind of membership into the other (ip_mc_source).
            (Some(_), _) => false,
        }
    }

    fn join(&mut self, key: &Key) -> io::Result<()> {
        let place = (key.ifindex, key.group);
        let new = !self.groups.contains_key(&place);
        if let Err(error) = request(self.fd.as_fd(), key, Action::Join) {
            if new {
                // A source join that fails half-way leaves the group joined from no source at all.
                _ = request(self.fd.as_fd(), &Key { source: None, ..*key }, Action::Leave);
                self.full = is_limit(&error);
            }
            return Err(error);
        }
        let mode = match (self.groups.get(&place), key.source) {
            (Some(Mode::Sources(count)), Some(_)) => Mode::Sources(count + 1),
            (_, Some(_)) => Mode::Sources(1),
            (_, None) => Mode::AnySource,
        };
        self.groups.insert(place, mode);
        Ok(())
    }

    fn leave(&mut self, key: &Key) {
        let place = (key.ifindex, key.group);
        if let Some(Mode::Sources(count @ 2..)) = self.groups.get(&place) {
            let left = Mode::Sources(count - 1);
            _ = request(self.fd.as_fd(), key, Action::Leave);
            self.groups.insert(place, left);
            return;
        }
        // The last source goes with its group. Leaving a group gives its place on the socket back even where the
        // interface is gone, leaving a source does not; that there is nothing left to leave is no fault either.
        _ = request(self.fd.as_fd(), &Key { source: None, ..*key }, Action::Leave);
        self.groups.remove(&place);
        self.full = false;
    }
}

/// The limits of one socket: igmp_max_memberships and igmp_max_msf (ENOBUFS), optmem_max (ENOBUFS, ENOMEM). EADDRINUSE:
/// the interface vanished and its index was given to another, while the old membership still takes its place here.
fn is_limit(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::ENOMEM | libc::EADDRINUSE))
}
