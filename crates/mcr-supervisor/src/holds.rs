//! What is held while rules need it: memberships, so that the network delivers, and guards, so that the host does not answer.

use std::{
    collections::HashMap,
    net::{SocketAddr, UdpSocket},
};

use mcr_relay::compile::Hold;
use mcr_socket::{
    filter::{self, Filter},
    join::{JoinError, Membership, Memberships},
};
use nix::sys::stat::fstat;

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
    Guard(Option<UdpSocket>),
}

impl Holds {
    pub(crate) fn acquire(&mut self, hold: Hold) -> Result<(), JoinError> {
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
                Thing::Guard(guard(bound))
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
fn guard(bound: SocketAddr) -> Option<UdpSocket> {
    // Not SO_REUSEADDR: that would take the datagrams away from a program that has the address with it.
    let socket = UdpSocket::bind(bound).ok()?;
    filter::attach(&socket, &Filter::drop_all()).ok()?;
    Some(socket)
}
