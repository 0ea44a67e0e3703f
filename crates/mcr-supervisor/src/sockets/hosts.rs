//! UDP sockets at addresses of this host, of which the kernel gives each datagram to one only: the one that was bound last.
//!
//! Each has its address for itself, so that no other program takes its datagrams away; only where one of this daemon is opened in
//! another's place do they share it for that moment.

use std::{
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, BorrowedFd},
};

use mcr_relay::compile::ReceiverKey;

use super::{Place, Receiver, Sockets};
use crate::holds::share;

impl Sockets {
    /// Whether there can be such a socket beside those there are: the kernel gives a unicast datagram to one UDP socket only, the one that
    /// was bound last. So the others' rules must all be about to have that one, too.
    pub(super) fn check_way(&self, wanted: &ReceiverKey) -> Result<(), String> {
        let ReceiverKey::Udp { bound, .. } = *wanted else { return Ok(()) };
        if bound.ip().is_multicast() {
            return Ok(());
        }
        let stays = |(place, receiver): (&Place, &Receiver)| {
            matches!(place, Place::Own(key) if key.rivals(wanted))
                && receiver.users.values().any(|user| !user.outdated)
        };
        if !self.receivers.iter().any(stays) {
            return Ok(());
        }
        Err(format!(
            "another rule takes {bound} in by the udp data path and has another class; give both the same"
        ))
    }

    /// Has the sockets that have the address of this one already share it while it is opened. No other program may have it with them.
    pub(super) fn beside_rivals<T>(&self, wanted: &ReceiverKey, open: impl FnOnce() -> T) -> T {
        if !is_host(wanted) {
            return open();
        }
        let rivals = || self.receivers.iter().filter(|(place, _)| place.key().rivals(wanted));
        rivals().for_each(|(_, rival)| share(&rival.fd, true));
        let opened = open();
        rivals().for_each(|(_, rival)| share(&rival.fd, false));
        opened
    }

    /// Whether another worker's socket can be opened at the addresses of these.
    pub(crate) fn lend(&self, keys: &[ReceiverKey], lent: bool) {
        let lenders = keys.iter().filter(|key| is_host(key));
        let lenders = lenders.filter_map(|key| self.receivers.get(&Place::Own(*key)));
        lenders.for_each(|receiver| share(&receiver.fd, lent));
    }

    /// The UDP sockets at an address of this host.
    pub(crate) fn at(&self, address: SocketAddr) -> impl Iterator<Item = BorrowedFd<'_>> {
        let is_there = move |place: &Place| {
            let Place::Own(key) = place else { return false };
            is_host(key) && matches!(key, ReceiverKey::Udp { bound, .. } if *bound == address)
        };
        let there = self.receivers.iter().filter(move |(place, _)| is_there(place));
        there.map(|(_, receiver)| receiver.fd.as_fd())
    }
}

/// Whether a socket has an address of this host for itself: groups, and whatever is sent to several, it shares.
pub(crate) fn is_host(key: &ReceiverKey) -> bool {
    let ReceiverKey::Udp { bound, .. } = key else { return false };
    match bound.ip() {
        ip if ip.is_multicast() || ip.is_unspecified() => false,
        IpAddr::V4(ip) => !ip.is_broadcast(),
        IpAddr::V6(_) => true,
    }
}
