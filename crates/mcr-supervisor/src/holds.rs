//! What is held while rules need it: memberships, so that the network delivers, and guards, so that the host does not answer.

use std::{
    collections::HashMap,
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use mcr_relay::compile::{Hold, ReceiverKey};
use mcr_socket::{
    filter::{self, Filter},
    join::{JoinError, Membership, Memberships},
};
use nix::sys::{
    socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket, sockopt},
    stat::fstat,
};

use crate::{kernel::sockets_at, worker::Worker};

/// Everything held, each as often as it was asked for.
#[derive(Debug, Default)]
pub(crate) struct Holds {
    memberships: Memberships,
    held: HashMap<Hold, Held>,
    guards_changed: bool,
}

#[derive(Debug)]
struct Held {
    users: usize,
    thing: Thing,
}

#[derive(Debug)]
enum Thing {
    /// There to be dropped.
    Membership {
        _held: Membership,
    },
    Guard(Option<OwnedFd>),
}

impl Holds {
    pub(crate) fn acquire(&mut self, hold: Hold) -> Result<(), JoinError> {
        self.hold(hold, &[])
    }

    /// As [`Holds::acquire`], where a UDP socket of these workers may have the address that is to be guarded, and is about to go. It gets
    /// what is sent there as long as it is there, because it is bound to an interface.
    pub(crate) fn acquire_beside(&mut self, hold: Hold, workers: &[Worker]) -> Result<(), JoinError> {
        let own: Vec<_> = match hold {
            Hold::Guard { bound } => workers.iter().flat_map(|worker| worker.sockets.at(bound)).collect(),
            Hold::Join { .. } => Vec::new(),
        };
        self.hold(hold, &own)
    }

    /// Whether a UDP socket of this daemon can be opened at an address that is guarded.
    pub(crate) fn lend(&self, receivers: &[ReceiverKey], lent: bool) {
        for key in receivers {
            let ReceiverKey::Udp { bound, .. } = *key else { continue };
            if let Some(Held { thing: Thing::Guard(Some(socket)), .. }) =
                self.held.get(&Hold::Guard { bound })
            {
                share(socket, lent);
            }
        }
    }

    fn hold(&mut self, hold: Hold, own: &[BorrowedFd<'_>]) -> Result<(), JoinError> {
        if let Some(held) = self.held.get_mut(&hold) {
            held.users += 1;
            if let (Hold::Guard { bound }, Thing::Guard(socket @ None)) = (hold, &mut held.thing) {
                // What had the address then may be gone, or about to go.
                *socket = guard(bound, own);
                self.guards_changed |= socket.is_some();
            }
            return Ok(());
        }
        let thing = match hold {
            Hold::Join { ifindex, group, source } => {
                Thing::Membership { _held: self.memberships.join(ifindex, group, source)? }
            }
            Hold::Guard { bound } => {
                self.guards_changed = true;
                Thing::Guard(guard(bound, own))
            }
        };
        self.held.insert(hold, Held { users: 1, thing });
        Ok(())
    }

    /// The inodes of the guards' sockets, by which others may know that they take nothing, if they have changed since this was asked.
    pub(crate) fn changed_guards(&mut self) -> Option<impl Iterator<Item = u64>> {
        std::mem::take(&mut self.guards_changed).then(|| self.guards())
    }

    fn guards(&self) -> impl Iterator<Item = u64> {
        let sockets = self.held.values().filter_map(|held| match &held.thing {
            Thing::Guard(socket) => socket.as_ref(),
            Thing::Membership { .. } => None,
        });
        sockets.filter_map(|socket| fstat(socket).ok()).map(|status| status.st_ino)
    }

    pub(crate) fn release(&mut self, hold: &Hold) {
        if let Some(held) = self.held.get_mut(hold) {
            held.users -= 1;
            if held.users == 0 {
                self.held.remove(hold);
                self.guards_changed |= matches!(hold, Hold::Guard { .. });
            }
        }
    }
}

/// A socket that takes an address's datagrams and drops them. There is none to make where a program of this host has the address
/// already (it keeps getting its datagrams) or where the address is not this host's: nothing would be answered then.
/// `own`: the sockets of this daemon that have it.
fn guard(bound: SocketAddr, own: &[BorrowedFd<'_>]) -> Option<OwnedFd> {
    let family = if bound.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd =
        socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None).ok()?;
    filter::attach(&fd, &Filter::drop_all()).ok()?;
    if own.is_empty() {
        bind(fd.as_raw_fd(), &SockaddrStorage::from(bound)).ok()?;
        return Some(fd);
    }
    // Binding beside sockets of this daemon would pass those of other programs that share, too, and take their datagrams away.
    if has_others(bound, own) {
        return None;
    }
    let both = || own.iter().copied().chain([fd.as_fd()]);
    both().for_each(|socket| share(socket, true));
    let result = bind(fd.as_raw_fd(), &SockaddrStorage::from(bound));
    both().for_each(|socket| share(socket, false));
    result.is_ok().then_some(fd)
}

/// Whether a UDP socket may have its address beside others. A failure shows when one of them is bound.
pub(crate) fn share(socket: impl AsFd, shared: bool) {
    let _ = setsockopt(&socket, sockopt::ReuseAddr, &shared);
}

/// Whether anything but these gets what is sent to an address. If the kernel does not say, it may.
fn has_others(bound: SocketAddr, own: &[BorrowedFd<'_>]) -> bool {
    let own: Vec<_> =
        own.iter().filter_map(|socket| fstat(socket).ok()).map(|status| status.st_ino).collect();
    sockets_at(bound).is_none_or(|inodes| inodes.iter().any(|inode| !own.contains(inode)))
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use mcr_relay::classes::Lane;
    use mcr_socket::udp::{UdpInput, open_input};

    use super::*;

    fn input(bound: SocketAddr) -> Result<OwnedFd, mcr_socket::OpenError> {
        let options = UdpInput {
            address: bound,
            ifindex: 1,
            ifname: "lo",
            sources: &[],
            receive_buffer_bytes: 0,
            gro: false,
        };
        open_input(&options)
    }

    #[test]
    fn a_guard_lends_its_address_to_sockets_of_this_daemon_and_to_nobody_else() {
        for bound in ["127.0.0.1:15313", "[::1]:15313"] {
            let bound: SocketAddr = bound.parse().expect("an address");
            let receivers = [ReceiverKey::Udp { ifindex: 1, bound, source: None, lane: Lane::NONE }];
            let (hold, mut holds) = (Hold::Guard { bound }, Holds::default());
            holds.acquire(hold).expect("a guard is never an error");
            assert!(input(bound).is_err(), "it is the guard's");
            holds.lend(&receivers, true);
            let socket = input(bound).expect("lent");
            holds.lend(&receivers, false);
            assert!(input(bound).is_err(), "no more");

            let sender = UdpSocket::bind((bound.ip(), 0)).expect("a socket");
            sender.send_to(b"mine", bound).expect("loopback takes it");
            assert!(mcr_socket::queued_bytes(&socket).expect("a socket") > 0, "the guard took it");

            // The other way round: the guard is there before the socket goes, and takes nothing until then.
            holds.release(&hold);
            holds.hold(hold, &[socket.as_fd()]).expect("a guard is never an error");
            assert_eq!(holds.guards().count(), 1);
            let queued = mcr_socket::queued_bytes(&socket).expect("a socket");
            sender.send_to(b"mine", bound).expect("loopback takes it");
            assert!(mcr_socket::queued_bytes(&socket).expect("a socket") > queued, "the guard took it");
            drop(socket);
            assert!(input(bound).is_err(), "the guard's again");
        }
    }

    #[test]
    fn a_guard_beside_a_socket_of_this_daemon_takes_nothing_from_other_programs() {
        let bound: SocketAddr = "127.0.0.1:15314".parse().expect("an address");
        let hold = Hold::Guard { bound };
        for theirs in ["127.0.0.1:15314", "0.0.0.0:15314", "[::]:15314"] {
            let theirs: SocketAddr = theirs.parse().expect("an address");
            let family = if theirs.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
            let other = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
            share(&other, true);
            bind(other.as_raw_fd(), &SockaddrStorage::from(theirs)).expect("a free port");
            let ours = input(bound).expect("the other shares");
            let mut holds = Holds::default();
            holds.hold(hold, &[ours.as_fd()]).expect("a guard is never an error");
            assert_eq!(holds.guards().count(), 0, "{theirs} would get nothing more");
            drop(ours);
            let sender = UdpSocket::bind("127.0.0.1:0").expect("a socket");
            sender.send_to(b"theirs", bound).expect("loopback takes it");
            assert!(mcr_socket::queued_bytes(&other).expect("a socket") > 0, "{theirs}");
            // When the other is gone, the next that asks gets a guard for both.
            drop(other);
            let _ = holds.changed_guards();
            holds.acquire(hold).expect("a guard is never an error");
            assert_eq!(holds.changed_guards().map(Iterator::count), Some(1));
            holds.release(&hold);
            assert_eq!(holds.guards().count(), 1, "one still needs it");
            holds.release(&hold);
            assert_eq!(holds.guards().count(), 0);
        }
    }

    #[test]
    fn an_address_that_a_rule_has_is_not_taken_by_another_program_that_would_share_it() {
        let bound: SocketAddr = "127.0.0.1:15315".parse().expect("an address");
        let ours = input(bound).expect("a free port");
        let mut holds = Holds::default();
        let take = || {
            let other = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None);
            let other = other.expect("a socket");
            share(&other, true);
            bind(other.as_raw_fd(), &SockaddrStorage::from(bound))
        };
        assert_eq!(take(), Err(nix::Error::EADDRINUSE));
        let hold = Hold::Guard { bound };
        holds.hold(hold, &[ours.as_fd()]).expect("a guard is never an error");
        assert_eq!((holds.guards().count(), take()), (1, Err(nix::Error::EADDRINUSE)));
        drop(ours);
        assert_eq!(take(), Err(nix::Error::EADDRINUSE), "the guard's");
    }
}
