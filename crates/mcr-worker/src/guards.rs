//! Own copies that come back: known by where they come from, counted, and not relayed again.
//!
//! The supervisor says for which destinations that can happen, and how own copies to them look. Everything else is not looked at.

use std::net::SocketAddr;

use hashbrown::HashMap;
use mcr_proto::{message::ReceiverKind, plan::Own};
use mcr_relay::engine::Arrival;
use mcr_socket::packet::VNET_HEADER_BYTES;

#[derive(Debug, Default)]
pub(crate) struct Guards {
    own: HashMap<SocketAddr, Own>,
}

impl Guards {
    /// Looks out for own copies to a destination from now on; an empty `own` ends that.
    pub(crate) fn set(&mut self, destination: SocketAddr, own: Own) {
        if own == Own::default() {
            self.own.remove(&destination);
        } else {
            self.own.insert(destination, own);
        }
    }

    /// Whether an arrival, of these bytes from its socket, is an own copy.
    #[inline]
    pub(crate) fn catch(&self, bytes: &[u8], kind: ReceiverKind, arrival: &Arrival) -> bool {
        !self.own.is_empty()
            && self.own.get(&arrival.destination).is_some_and(|own| is_own(own, bytes, kind, arrival))
    }
}

fn is_own(own: &Own, bytes: &[u8], kind: ReceiverKind, arrival: &Arrival) -> bool {
    /// The source in an Ethernet header.
    const SOURCE: std::ops::Range<usize> = VNET_HEADER_BYTES + 6..VNET_HEADER_BYTES + 12;
    let mac = match kind {
        ReceiverKind::Packet { ethernet: true, .. } => bytes.get(SOURCE),
        _ => None,
    };
    // A copy that keeps its source is told by the MAC alone, one that came back through a router by the address alone.
    mac.is_some_and(|mac| own.macs.iter().any(|own| own == mac))
        || own.addresses.contains(&arrival.source.ip())
}

#[cfg(test)]
mod tests {
    use mcr_proto::plan::{InputSlot, SocketId};

    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];

    fn arrival(source: &str) -> Arrival {
        Arrival {
            socket: SocketId(1),
            input: InputSlot(0),
            source: source.parse().expect("an address"),
            destination: "239.1.1.1:5000".parse().expect("an address"),
            hop_limit: 1,
            traffic_class: 0,
            frame: 0,
            offset: 0,
            bytes: 0,
            segment: 0,
            stamp_ns: 0,
        }
    }

    #[test]
    fn an_own_copy_is_known_by_mac_or_address_and_only_where_it_is_looked_for() {
        let kind = ReceiverKind::Packet { ethernet: true, ring: None };
        let mut bytes = [0; VNET_HEADER_BYTES + 14];
        bytes[VNET_HEADER_BYTES + 6..][..6].copy_from_slice(&MAC);
        let (stranger, this_host) = (arrival("10.0.0.9:1"), arrival("10.0.0.1:1"));
        let mut guards = Guards::default();
        assert!(!guards.catch(&bytes, kind, &stranger));
        let own = Own { macs: vec![MAC], addresses: vec![this_host.source.ip()] };
        guards.set(stranger.destination, own.clone());
        assert!(guards.catch(&bytes, kind, &stranger), "by its MAC");
        assert!(guards.catch(&[], kind, &this_host), "by its address");
        assert!(!guards.catch(&[0; VNET_HEADER_BYTES + 14], kind, &stranger));
        // What a UDP socket delivers has no MAC, whatever its payload.
        let bound = stranger.destination;
        assert!(!guards.catch(&bytes, ReceiverKind::Udp { bound }, &stranger));
        assert!(!guards.catch(&bytes, ReceiverKind::Packet { ethernet: false, ring: None }, &stranger));
        let elsewhere = Arrival { destination: "239.1.1.2:5000".parse().expect("an address"), ..this_host };
        assert!(!guards.catch(&bytes, kind, &elsewhere));
        guards.set(stranger.destination, Own::default());
        assert!(!guards.catch(&bytes, kind, &this_host));
    }
}
