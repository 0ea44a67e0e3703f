//! The sockets, by slot. A slot's generation changes when its socket is gone, so an old key finds nothing.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::backoff::Backoff;
use crate::config::ReceiveShape;

/// Names a socket of one [`Io`](crate::Io). Once the socket is closed the key names nothing, for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SocketKey {
    pub(crate) slot: u32,
    pub(crate) generation: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Receiver(ReceiveShape),
    /// A packet socket with a ring, by the number `Frames` knows it by.
    Ring(u16),
    Sender,
    Watch,
}

#[derive(Debug)]
pub(crate) struct Socket<S> {
    pub(crate) fd: OwnedFd,
    pub(crate) kind: Kind,
    pub(crate) backoff: Backoff,
    /// Lower ones are received from first.
    pub(crate) priority: u8,
    /// What a back end keeps beside.
    pub(crate) state: S,
}

#[derive(Debug)]
struct Place<S> {
    generation: u32,
    socket: Option<Socket<S>>,
}

#[derive(Debug)]
pub(crate) struct Table<S> {
    places: Vec<Place<S>>,
    free: Vec<u32>,
}

impl<S> Table<S> {
    pub(crate) fn new(files_max: u16) -> Self {
        let files_max = u32::from(files_max);
        let places = (0..files_max).map(|_| Place { generation: 0, socket: None }).collect();
        Self { places, free: (0..files_max).rev().collect() }
    }

    /// The fd comes back if there is no room.
    pub(crate) fn insert(&mut self, fd: OwnedFd, kind: Kind, state: S) -> Result<SocketKey, OwnedFd> {
        let Some(slot) = self.free.pop() else { return Err(fd) };
        let place = &mut self.places[slot as usize];
        place.socket = Some(Socket { fd, kind, backoff: Backoff::default(), priority: 0, state });
        Ok(SocketKey { slot, generation: place.generation })
    }

    /// Closes the fd. A slot whose generations are used up is not used again.
    pub(crate) fn remove(&mut self, slot: u32) {
        let place = &mut self.places[slot as usize];
        place.socket = None;
        if let Some(next) = place.generation.checked_add(1) {
            place.generation = next;
            self.free.push(slot);
        }
    }

    #[inline]
    pub(crate) fn find(&self, key: SocketKey) -> Option<&Socket<S>> {
        let place = self.places.get(key.slot as usize)?;
        if place.generation == key.generation { place.socket.as_ref() } else { None }
    }

    #[inline]
    pub(crate) fn find_mut(&mut self, key: SocketKey) -> Option<&mut Socket<S>> {
        let place = self.places.get_mut(key.slot as usize)?;
        if place.generation == key.generation { place.socket.as_mut() } else { None }
    }

    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }
}

impl<S> Socket<S> {
    pub(crate) fn borrow_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fd() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn a_reused_slot_never_matches_an_old_key() {
        let mut table = Table::new(1);
        let old = table.insert(fd(), Kind::Sender, ()).unwrap();
        assert!(table.insert(fd(), Kind::Sender, ()).is_err());
        table.remove(old.slot);
        let new = table.insert(fd(), Kind::Sender, ()).unwrap();
        assert_eq!(old.slot, new.slot);
        assert!(table.find(old).is_none());
        assert!(table.find(new).is_some());
    }

    #[test]
    fn a_slot_without_generations_left_is_retired() {
        let mut table = Table::new(1);
        table.places[0].generation = u32::MAX;
        let key = table.insert(fd(), Kind::Sender, ()).unwrap();
        table.remove(key.slot);
        assert!(table.insert(fd(), Kind::Sender, ()).is_err());
    }
}
