//! What is held while rules need it: memberships, so that the network delivers, and guards, so that the host does not answer.

use std::{
    collections::HashMap,
    net::SocketAddr,
    os::fd::{AsRawFd, OwnedFd},
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
        self.hold(hold, false)
    }

    /// As [`Holds::acquire`], where a UDP socket of this daemon has the address that is to be guarded, and is about to go. It gets what is
    /// sent there as long as it is there, because it is bound to an interface.
    pub(crate) fn acquire_beside(&mut self, hold: Hold) -> Result<(), JoinError> {
        self.hold(hold, true)
    }

    /// Whether a UDP socket of this daemon can be opened at an address that is guarded.
    pub(crate) fn lend(&self, receivers: &[ReceiverKey], lent: bool) {
        for key in receivers {
            let ReceiverKey::Udp { bound, .. } = *key else { continue };
            if let Some(Held { thing: Thing::Guard(Some(socket)), .. }) =
                self.held.get(&Hold::Guard { bound })
            {
                // A failure shows when the socket is opened.
                let _ = setsockopt(socket, sockopt::ReuseAddr, &lent);
            }
        }
    }

    fn hold(&mut self, hold: Hold, beside: bool) -> Result<(), JoinError> {
        if let Some(held) = self.held.get_mut(&hold) {
            held.users += 1;
            return Ok(());
        }
        let thing = match hold {
            Hold::Join { ifindex, group, source } => {
                Thing::Membership { _held: self.memberships.join(ifindex, group, source)? }
            }
            Hold::Guard { bound } => {
                self.guards_changed = true;
                Thing::Guard(guard(bound, beside))
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
/// `beside`: that is where a socket of this daemon has it.
fn guard(bound: SocketAddr, beside: bool) -> Option<OwnedFd> {
    let family = if bound.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd =
        socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None).ok()?;
    filter::attach(&fd, &Filter::drop_all()).ok()?;
    // Otherwise not: that would take the datagrams away from a program that has the address with it.
    setsockopt(&fd, sockopt::ReuseAddr, &beside).ok()?;
    bind(fd.as_raw_fd(), &SockaddrStorage::from(bound)).ok()?;
    setsockopt(&fd, sockopt::ReuseAddr, &false).ok()?;
    Some(fd)
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
            holds.acquire_beside(hold).expect("a guard is never an error");
            assert_eq!(holds.guards().count(), 1);
            let queued = mcr_socket::queued_bytes(&socket).expect("a socket");
            sender.send_to(b"mine", bound).expect("loopback takes it");
            assert!(mcr_socket::queued_bytes(&socket).expect("a socket") > queued, "the guard took it");
            drop(socket);
            assert!(input(bound).is_err(), "the guard's again");
        }
    }
}
