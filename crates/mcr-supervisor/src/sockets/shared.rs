//! UDP sockets that several groups of one port and interface share, and which group is where.
//!
//! A shared socket is bound to the port alone and gets the groups that it has joined, and no others (`IP_MULTICAST_ALL` is off); the
//! worker is told of each datagram which it was sent to. It is not cheaper for the kernel, which looks for a datagram's sockets among
//! all that are bound to its port, but there can be as many groups as a worker has rules. Datagrams to an address of the host and that
//! port reach such a socket too, unless another is bound to that address; they are counted as `no_rule`.

use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, BorrowedFd},
};

use mcr_relay::{classes::Lane, compile::ReceiverKey};
use mcr_socket::{join::JoinError, udp};

use super::Receiver;

/// Where a receiving socket has its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Place {
    /// Nobody else's.
    Own(ReceiverKey),
    /// One of those that groups of a port share.
    Shared(Port, u32),
}

/// What groups must have in common to share a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Port {
    ifindex: u32,
    port: u16,
    ipv6: bool,
    lane: Lane,
}

/// The groups on shared sockets.
#[derive(Debug, Default)]
pub(super) struct Shared {
    groups: HashMap<ReceiverKey, Group>,
    /// Those that may have room for a group more.
    roomy: BTreeSet<(Port, u32)>,
    last: u32,
}

#[derive(Debug)]
struct Group {
    place: Place,
    users: usize,
}

/// Where a group that had none has found its place.
pub(super) enum Joined {
    At(Place),
    /// All are full: this one is to be opened.
    NeedsSocket(Place),
}

impl Port {
    /// None if what is received is no group.
    pub(super) fn of(key: &ReceiverKey) -> Option<Self> {
        match *key {
            ReceiverKey::Udp { ifindex, bound, lane, .. } if bound.ip().is_multicast() => {
                Some(Self { ifindex, port: bound.port(), ipv6: bound.is_ipv6(), lane })
            }
            _ => None,
        }
    }
}

impl Place {
    /// What its socket is opened for.
    pub(super) fn key(self) -> ReceiverKey {
        match self {
            Self::Own(key) => key,
            Self::Shared(Port { ifindex, port, ipv6, lane }, _) => {
                let any =
                    if ipv6 { IpAddr::from(Ipv6Addr::UNSPECIFIED) } else { Ipv4Addr::UNSPECIFIED.into() };
                ReceiverKey::Udp { ifindex, bound: SocketAddr::new(any, port), source: None, lane }
            }
        }
    }
}

impl Shared {
    /// Where something is received, or would be on a socket of its own.
    pub(super) fn place_of(&self, key: &ReceiverKey) -> Place {
        self.groups.get(key).map_or(Place::Own(*key), |group| group.place)
    }

    /// Has one of the sockets there are join a group.
    pub(super) fn join(
        &mut self,
        port: Port,
        key: &ReceiverKey,
        receivers: &HashMap<Place, Receiver>,
    ) -> Result<Joined, String> {
        let candidates: Vec<_> = self.roomy.range((port, 0)..=(port, u32::MAX)).copied().collect();
        for (port, number) in candidates {
            let place = Place::Shared(port, number);
            let Some(receiver) = receivers.get(&place) else { continue };
            match join(key, receiver.fd.as_fd()) {
                Ok(()) => {
                    self.groups.insert(*key, Group { place, users: 0 });
                    return Ok(Joined::At(place));
                }
                Err(JoinError::Limit { .. }) => _ = self.roomy.remove(&(port, number)),
                // It has the group from other sources already, and the kernel would make one membership of both.
                Err(error) if is_taken(&error) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        self.last += 1;
        Ok(Joined::NeedsSocket(Place::Shared(port, self.last)))
    }

    /// Has a new socket join its first group.
    pub(super) fn join_first(
        &mut self,
        place: Place,
        key: &ReceiverKey,
        fd: BorrowedFd<'_>,
    ) -> Result<(), String> {
        join(key, fd).map_err(|error| error.to_string())?;
        if let Place::Shared(port, number) = place {
            self.roomy.insert((port, number));
            self.groups.insert(*key, Group { place, users: 0 });
        }
        Ok(())
    }

    /// Another rule wants a group.
    pub(super) fn enter(&mut self, key: &ReceiverKey) {
        if let Some(group) = self.groups.get_mut(key) {
            group.users += 1;
        }
    }

    /// A rule wants a group no more. With the last one it is left.
    pub(super) fn leave(&mut self, key: &ReceiverKey, fd: BorrowedFd<'_>) {
        let Some(group) = self.groups.get_mut(key) else { return };
        group.users -= 1;
        if group.users > 0 {
            return;
        }
        let place = group.place;
        self.groups.remove(key);
        // A failure leaves the socket with a group too many, whose datagrams are counted.
        let _ = match *key {
            ReceiverKey::Udp { ifindex, bound, source: None, .. } => {
                udp::remove_group(fd, ifindex, bound.ip())
            }
            // With the last of its sources the kernel leaves the group.
            ReceiverKey::Udp { ifindex, bound, source: Some(source), .. } => {
                udp::remove_source(fd, ifindex, bound.ip(), source)
            }
            ReceiverKey::Packet { .. } => Ok(()),
        };
        if let Place::Shared(port, number) = place {
            self.roomy.insert((port, number));
        }
    }

    /// A socket is closed.
    pub(super) fn close(&mut self, place: Place) {
        if let Place::Shared(port, number) = place {
            self.roomy.remove(&(port, number));
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.groups.is_empty() && self.roomy.is_empty()
    }
}

fn join(key: &ReceiverKey, fd: BorrowedFd<'_>) -> Result<(), JoinError> {
    match *key {
        ReceiverKey::Udp { ifindex, bound, source: None, .. } => udp::add_group(fd, ifindex, bound.ip()),
        ReceiverKey::Udp { ifindex, bound, source: Some(source), .. } => {
            udp::add_source(fd, ifindex, bound.ip(), source)
        }
        // Not reached: only groups have a port to share.
        ReceiverKey::Packet { .. } => Ok(()),
    }
}

/// EADDRINUSE and EINVAL: the socket is in the group, from any source where one was to be added, or the other way round
/// (ip_mc_join_group, ip_mc_source).
fn is_taken(error: &JoinError) -> bool {
    let JoinError::Join { source, .. } = error else { return false };
    matches!(source.kind(), std::io::ErrorKind::AddrInUse | std::io::ErrorKind::InvalidInput)
}
