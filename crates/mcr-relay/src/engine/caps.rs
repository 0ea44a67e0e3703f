//! Caps on what is taken in: one for each class that has a rate, whichever sockets its datagrams come through.

use hashbrown::HashMap;
use mcr_proto::{endpoint::Rate, plan::SocketId};

use super::{Arrival, rate::Bucket};

#[derive(Debug, Default)]
pub(super) struct Caps {
    by_socket: HashMap<SocketId, u16>,
    /// By the number of the class. Of two rates, while one replaces the other, the one that came last.
    buckets: HashMap<u16, (Rate, Bucket)>,
    pub(super) now_ns: u64,
}

impl Caps {
    pub(super) fn insert(&mut self, socket: SocketId, number: u16, rate: Rate) {
        self.by_socket.insert(socket, number);
        let (known, bucket) = self.buckets.entry(number).or_insert_with(|| (rate, Bucket::new(rate)));
        if *known != rate {
            (*known, *bucket) = (rate, Bucket::new(rate));
        }
    }

    pub(super) fn remove(&mut self, socket: SocketId) {
        if let Some(number) = self.by_socket.remove(&socket)
            && !self.by_socket.values().any(|other| *other == number)
        {
            self.buckets.remove(&number);
        }
    }

    #[inline]
    pub(super) fn are_none(&self) -> bool {
        self.by_socket.is_empty()
    }

    /// How many of an arrival's datagrams, from its first, may go on.
    pub(super) fn admit(&mut self, arrival: &Arrival) -> u32 {
        let datagrams = arrival.datagrams();
        let Some((_, bucket)) =
            self.by_socket.get(&arrival.socket).and_then(|number| self.buckets.get_mut(number))
        else {
            return datagrams;
        };
        bucket.take_each(datagrams, |datagram| arrival.bytes_of(datagram), self.now_ns)
    }
}
