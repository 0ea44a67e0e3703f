//! Which helper socket holds which membership.

use super::{Action, JoinError, Key, request};
use crate::udp::deaf;
use crate::{Family, OpenError, sys};
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::IpAddr;
use std::ops::Bound;
use std::os::fd::{AsFd, OwnedFd};

#[derive(Debug, Default)]
pub(super) struct Helpers {
    held: HashMap<Key, Held>,
    sockets: HashMap<u64, Helper>,
    /// Those that are not full. A join looks for its place here and not among all.
    roomy: BTreeSet<(Family, u64)>,
    /// Those that hold something of a group of an interface.
    holding: HashMap<(u32, IpAddr), BTreeSet<u64>>,
    next_id: u64,
    #[cfg(test)]
    looked_at: usize,
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
    /// What it holds of each group of each interface.
    groups: HashMap<(u32, IpAddr), Mode>,
    /// The kernel has refused it another group. It need not be asked again until it has left one.
    full: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Mode {
    AnySource,
    Sources(Vec<IpAddr>),
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
        // One more source of a group that a socket has: it may be full and yet take that.
        let held = self.holding.get(&key.place()).into_iter().flatten().copied();
        let held: Vec<_> = held.filter(|_| key.source.is_some()).collect();
        for id in held {
            if self.try_join(id, key)? {
                return Ok(Some(id));
            }
        }
        let mut after = Bound::Included((family, 0));
        while let Some(&(_, id)) = self.roomy.range((after, Bound::Included((family, u64::MAX)))).next() {
            if self.try_join(id, key)? {
                return Ok(Some(id));
            }
            after = Bound::Excluded((family, id));
        }
        Ok(None)
    }

    /// Whether a socket has joined; false if it may not, or is at a limit.
    fn try_join(&mut self, id: u64, key: &Key) -> Result<bool, JoinError> {
        #[cfg(test)]
        {
            self.looked_at += 1;
        }
        let Some(helper) = self.sockets.get_mut(&id).filter(|helper| helper.may_take(key)) else {
            return Ok(false);
        };
        let joined = helper.join(key);
        let full = helper.full;
        if full {
            self.roomy.remove(&(key.family(), id));
        }
        match joined {
            Ok(()) => {
                self.holding.entry(key.place()).or_default().insert(id);
                Ok(true)
            }
            Err(error) if is_limit(&error) => Ok(false),
            Err(error) => Err(key.error(error)),
        }
    }

    fn join_on_new(&mut self, key: &Key) -> Result<u64, JoinError> {
        let mut helper = Helper::open(key.family()).map_err(|error| JoinError::Helper(Box::new(error)))?;
        helper.join(key).map_err(|error| key.error(error))?;
        let id = self.next_id;
        self.next_id += 1;
        self.sockets.insert(id, helper);
        self.roomy.insert((key.family(), id));
        self.holding.entry(key.place()).or_default().insert(id);
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
        let (has_group, is_empty, full) =
            (helper.groups.contains_key(&key.place()), helper.groups.is_empty(), helper.full);
        if let Some(holding) = self.holding.get_mut(&key.place()).filter(|_| !has_group) {
            holding.remove(&id);
            if holding.is_empty() {
                self.holding.remove(&key.place());
            }
        }
        if is_empty {
            self.sockets.remove(&id);
            self.roomy.remove(&(key.family(), id));
        } else if !full {
            self.roomy.insert((key.family(), id));
            self.gather(key.family());
        }
    }

    /// Where two sockets of a family have room, has the fuller one take a group of the other. Done with each group that is left, it
    /// keeps groups that stay from being spread over as many sockets as there ever were.
    fn gather(&mut self, family: Family) {
        loop {
            let roomy = self.roomy.range((family, 0)..=(family, u64::MAX));
            let roomy = roomy.map(|(_, id)| (self.sockets[id].groups.len(), *id));
            let (Some((_, from)), Some((_, to))) = (roomy.clone().min(), roomy.max()) else { return };
            let Some(key) = self.sockets[&from].movable().filter(|_| from != to) else { return };
            // Joined there before it is left here, so that the host does not leave it.
            match self.try_join(to, &key) {
                Ok(true) => return self.moved(&key, from, to),
                // It was full, which nobody had tried.
                Ok(false) if !self.roomy.contains(&(family, to)) => {}
                // It stays where it is.
                _ => return,
            }
        }
    }

    /// A membership has been joined at another socket, and goes from where it was.
    fn moved(&mut self, key: &Key, from: u64, to: u64) {
        if let Some(held) = self.held.get_mut(key) {
            held.socket = to;
        }
        if let Some(holding) = self.holding.get_mut(&key.place()) {
            holding.remove(&from);
        }
        let Some(helper) = self.sockets.get_mut(&from) else { return };
        helper.leave(key);
        if helper.groups.is_empty() {
            self.sockets.remove(&from);
            self.roomy.remove(&(key.family(), from));
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
        Ok(Self { fd, groups: HashMap::new(), full: false })
    }

    /// A membership that can go elsewhere by itself: one of several sources cannot.
    fn movable(&self) -> Option<Key> {
        self.groups.iter().find_map(|(&(ifindex, group), mode)| match &mode {
            Mode::AnySource => Some(Key { ifindex, group, source: None }),
            Mode::Sources(sources) => match sources[..] {
                [source] => Some(Key { ifindex, group, source: Some(source) }),
                _ => None,
            },
        })
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
        match (self.groups.get_mut(&place), key.source) {
            (Some(Mode::Sources(sources)), Some(source)) => sources.push(source),
            (_, Some(source)) => _ = self.groups.insert(place, Mode::Sources(vec![source])),
            (_, None) => _ = self.groups.insert(place, Mode::AnySource),
        }
        Ok(())
    }

    fn leave(&mut self, key: &Key) {
        let place = (key.ifindex, key.group);
        if let Some(Mode::Sources(sources)) = self.groups.get_mut(&place)
            && sources.len() > 1
        {
            sources.retain(|source| Some(*source) != key.source);
            _ = request(self.fd.as_fd(), key, Action::Leave);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Loopback.
    const IFINDEX: u32 = 1;

    fn key(number: u32) -> Key {
        let group = std::net::Ipv4Addr::from_bits(0xefff_0000 + number).into();
        Key { ifindex: IFINDEX, group, source: None }
    }

    #[test]
    fn groups_that_stay_are_gathered_on_as_few_sockets_as_hold_them() {
        let mut helpers = Helpers::default();
        let mut joined: Vec<_> = (0..200).map(key).collect();
        let source = |number| Some(std::net::Ipv4Addr::from_bits(0x0a00_0001 + number).into());
        joined.extend((300..340).map(|number| Key { source: source(number), ..key(number) }));
        joined.iter().for_each(|key| helpers.join(*key).expect("loopback speaks IPv4"));
        let per_socket = joined.len().div_ceil(helpers.sockets());
        // What stays was spread over all of them.
        let (stay, go): (Vec<_>, Vec<_>) = joined.into_iter().enumerate().partition(|(at, _)| at % 8 == 3);
        go.iter().for_each(|(_, key)| helpers.leave(key));
        assert_eq!(helpers.memberships(), stay.len());
        assert_eq!(helpers.sockets(), stay.len().div_ceil(per_socket));
        for (_, key) in &stay {
            let helper = &helpers.sockets[&helpers.held[key].socket];
            assert!(helper.groups.contains_key(&key.place()), "{key:?}");
            assert_eq!(helpers.holding[&key.place()].len(), 1);
        }
        stay.iter().for_each(|(_, key)| helpers.leave(key));
        assert_eq!((helpers.sockets(), helpers.memberships()), (0, 0));
        assert!(helpers.roomy.is_empty() && helpers.holding.is_empty());
    }

    #[test]
    fn a_join_looks_at_a_socket_or_two_however_many_there_are() {
        let mut helpers = Helpers::default();
        (0..400).for_each(|number| helpers.join(key(number)).expect("loopback speaks IPv4"));
        assert!(helpers.sockets() >= 400 / 20 && helpers.memberships() == 400, "{}", helpers.sockets());
        // Each looked at the one that was being filled; every twentieth found it full.
        assert!(helpers.looked_at <= 400, "{}", helpers.looked_at);
        helpers.leave(&key(7));
        let (sockets, before) = (helpers.sockets(), helpers.looked_at);
        helpers.join(key(1000)).expect("there is room again");
        assert_eq!((helpers.sockets(), helpers.looked_at - before), (sockets, 1));
        (0..400).chain([1000]).for_each(|number| helpers.leave(&key(number)));
        assert_eq!((helpers.sockets(), helpers.memberships()), (0, 0));
        assert!(helpers.roomy.is_empty() && helpers.holding.is_empty());
    }
}
