//! The rewriter against checksums made from scratch: only the asked fields change, and every checksum stays as right, or as
//! wrong, as it was. The first 40 bytes choose link layer, kind of checksum and changes; the rest is the frame.
#![no_main]

#[path = "../../crates/mcr-parse/tests/it/oracle.rs"]
#[allow(dead_code)]
mod oracle;

use std::net::IpAddr;

use libfuzzer_sys::fuzz_target;
use mcr_parse::{Changes, Link, UdpChecksum, parse};

fuzz_target!(|data: &[u8]| {
    let Some((choice, frame)) = data.split_first_chunk::<40>() else { return };
    let bit = |place: u8| choice[0] >> place & 1 == 1;
    let link = if bit(0) { Link::RawIp } else { Link::Ethernet };
    let state = if bit(1) { UdpChecksum::Partial } else { UdpChecksum::Complete };
    // Addresses are of the frame's family, but for one choice in four of the second byte's low bits.
    let is_ipv4 = parse(frame, link).is_ok_and(|verdict| verdict.is_ipv4()) != (choice[1] & 3 == 0);
    let address = |at: usize| -> IpAddr {
        let mut octets = [0; 16];
        octets.copy_from_slice(&choice[at..at + 16]);
        if is_ipv4 {
            IpAddr::from([octets[0], octets[1], octets[2], octets[3]])
        } else {
            IpAddr::from(octets)
        }
    };
    let port = |at: usize| u16::from_be_bytes([choice[at], choice[at + 1]]);
    let changes = Changes {
        source_address: bit(2).then(|| address(2)),
        source_port: bit(3).then(|| port(34)),
        destination_address: bit(4).then(|| address(18)),
        destination_port: bit(5).then(|| port(36)),
        hop_limit: bit(6).then_some(choice[38]),
        dscp: bit(7).then_some(choice[39] % 66),
    };
    oracle::check_rewrite(frame, link, &changes, state);
});
