//! Any bytes as a netlink datagram: parsing ends, and a snapshot, its changes and a mirror stay consistent.
#![no_main]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use libfuzzer_sys::fuzz_target;
use mcr_netmon::{Snapshot, parse_datagram};

fuzz_target!(|bytes: &[u8]| {
    let parsed = parse_datagram(bytes);
    // The smallest message is a header of 16 bytes, and at most one broken one ends the datagram.
    assert!(parsed.messages.len() as u64 + parsed.malformed <= bytes.len() as u64 / 16 + 1);

    let (mut snapshot, mut mirror, mut changes) = (Snapshot::default(), Snapshot::default(), Vec::new());
    for message in parsed.messages {
        let before = snapshot.clone();
        changes.clear();
        let _ = snapshot.apply(message.update, &mut changes);
        assert_eq!(changes.is_empty(), before == snapshot);
        mirror.replay(&changes);
        assert_eq!(mirror, snapshot);
        let mut other = before.clone();
        other.replay(&before.diff(&snapshot));
        assert_eq!(other, snapshot);
    }
    for address in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
        if let Some(hit) = snapshot.route_to(address) {
            assert!(snapshot.link(hit.index).is_some_and(|link| link.up));
        }
    }
});
