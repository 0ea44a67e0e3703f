//! From (socket, destination) to routes.

use std::net::SocketAddr;

use hashbrown::HashMap;
use mcr_proto::plan::SocketId;

/// Keys come from rules, never from the network, so a stranger cannot choose colliding ones; the hash need not withstand him.
#[derive(Debug, Default)]
pub(super) struct Table {
    routes: HashMap<(SocketId, SocketAddr), Vec<u32>>,
}

impl Table {
    #[inline]
    pub(super) fn lookup(&self, socket: SocketId, destination: SocketAddr) -> &[u32] {
        self.routes.get(&(socket, destination)).map_or(&[], Vec::as_slice)
    }

    pub(super) fn insert(&mut self, socket: SocketId, destination: SocketAddr, route: u32) {
        self.routes.entry((socket, destination)).or_default().push(route);
    }

    pub(super) fn remove(&mut self, socket: SocketId, destination: SocketAddr, route: u32) {
        if let Some(routes) = self.routes.get_mut(&(socket, destination)) {
            routes.retain(|known| *known != route);
            if routes.is_empty() {
                self.routes.remove(&(socket, destination));
            }
        }
    }
}
