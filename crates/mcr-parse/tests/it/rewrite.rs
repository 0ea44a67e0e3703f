//! The rewriter, case by case.

use std::net::IpAddr;

use mcr_parse::{
    Changes, Link, RewriteError, UdpChecksum, Verdict, ipv4_header_checksum_is_valid, parse, rewrite,
    udp_checksum_is_valid,
};

use crate::frames::{UDP, authentication, ethernet, ipv4, ipv6};
use crate::oracle::{check_rewrite, naive_sum};

fn address(text: &str) -> Option<IpAddr> {
    Some(text.parse().unwrap())
}

/// A frame of either family with right checksums, and its verdict.
fn frame(is_ipv4: bool) -> (Vec<u8>, Verdict) {
    let between = if is_ipv4 { [0x08, 0x00] } else { [0x86, 0xdd] };
    let mut frame = ethernet(&between, &if is_ipv4 { ipv4(17, &[], &UDP) } else { ipv6(17, &UDP) });
    let verdict = parse(&frame, Link::Ethernet).unwrap();
    let addresses = if is_ipv4 { 26..34 } else { 22..54 };
    let sum = naive_sum(&[&frame[addresses], &[0, 17, 0, 12], &UDP]);
    let udp = verdict.udp_offset + 6;
    frame[udp..udp + 2].copy_from_slice(&(!sum).to_be_bytes());
    if is_ipv4 {
        let sum = naive_sum(&[&frame[14..34]]);
        frame[24..26].copy_from_slice(&(!sum).to_be_bytes());
    }
    let verdict = parse(&frame, Link::Ethernet).unwrap();
    assert!(udp_checksum_is_valid(&frame, &verdict) && ipv4_header_checksum_is_valid(&frame, &verdict));
    (frame, verdict)
}

fn everything(is_ipv4: bool) -> Changes {
    Changes {
        source_address: address(if is_ipv4 { "192.0.2.200" } else { "2001:db8:1::200" }),
        source_port: Some(61000),
        destination_address: address(if is_ipv4 { "239.255.7.7" } else { "ff35::beef" }),
        destination_port: Some(1),
        hop_limit: Some(1),
        dscp: Some(46),
    }
}

/// Those changes of `all` whose bit is set in `chosen`.
fn some_of(all: Changes, chosen: u8) -> Changes {
    let bit = |place: u8| chosen >> place & 1 == 1;
    Changes {
        source_address: all.source_address.filter(|_| bit(0)),
        source_port: all.source_port.filter(|_| bit(1)),
        destination_address: all.destination_address.filter(|_| bit(2)),
        destination_port: all.destination_port.filter(|_| bit(3)),
        hop_limit: all.hop_limit.filter(|_| bit(4)),
        dscp: all.dscp.filter(|_| bit(5)),
    }
}

#[test]
fn every_combination_of_changes_leaves_right_checksums() {
    for is_ipv4 in [true, false] {
        let (frame, verdict) = frame(is_ipv4);
        for chosen in 0..64 {
            let changes = some_of(everything(is_ipv4), chosen);
            check_rewrite(&frame, Link::Ethernet, &changes, UdpChecksum::Complete);
            let mut rewritten = frame.clone();
            rewrite(&mut rewritten, &verdict, &changes, UdpChecksum::Complete).unwrap();
            let verdict = parse(&rewritten, Link::Ethernet).unwrap();
            assert!(udp_checksum_is_valid(&rewritten, &verdict), "{changes:?}");
            assert!(ipv4_header_checksum_is_valid(&rewritten, &verdict), "{changes:?}");
        }
    }
}

#[test]
fn every_combination_of_changes_keeps_a_partial_checksum_the_sum_of_the_pseudo_header() {
    for is_ipv4 in [true, false] {
        let (mut frame, verdict) = frame(is_ipv4);
        let addresses = if is_ipv4 { 26..34 } else { 22..54 };
        let partial = naive_sum(&[&frame[addresses], &[0, 17, 0, 12]]);
        frame[verdict.udp_offset + 6..verdict.udp_offset + 8].copy_from_slice(&partial.to_be_bytes());
        for chosen in 0..64 {
            let changes = some_of(everything(is_ipv4), chosen);
            check_rewrite(&frame, Link::Ethernet, &changes, UdpChecksum::Partial);
        }
    }
}

#[test]
fn an_unused_udp_checksum_stays_unused() {
    for is_ipv4 in [true, false] {
        let (mut frame, verdict) = frame(is_ipv4);
        frame[verdict.udp_offset + 6..verdict.udp_offset + 8].fill(0);
        for chosen in 0..64 {
            check_rewrite(
                &frame,
                Link::Ethernet,
                &some_of(everything(is_ipv4), chosen),
                UdpChecksum::Complete,
            );
        }
    }
}

#[test]
fn a_checksum_that_comes_to_zero_is_written_as_ffff() {
    let (mut frame, verdict) = frame(true);
    // Add what is missing to the sum's other zero to the source port: the checksum becomes 0.
    let port = u16::from_be_bytes([frame[34], frame[35]]);
    let sum = u32::from(port) + u32::from(verdict.udp_checksum);
    let port = ((sum >> 16) + (sum & 0xffff)) as u16;
    let changes = Changes { source_port: Some(port), ..Changes::default() };
    check_rewrite(&frame, Link::Ethernet, &changes, UdpChecksum::Complete);
    rewrite(&mut frame, &verdict, &changes, UdpChecksum::Complete).unwrap();
    let verdict = parse(&frame, Link::Ethernet).unwrap();
    assert_eq!(verdict.udp_checksum, 0xffff);
    assert!(udp_checksum_is_valid(&frame, &verdict));
}

#[test]
fn damage_done_before_is_still_seen_after() {
    for is_ipv4 in [true, false] {
        let (mut frame, verdict) = frame(is_ipv4);
        let last = frame.len() - 1;
        frame[last] ^= 0x10;
        if is_ipv4 {
            frame[19] ^= 0x10;
        }
        let changes = everything(is_ipv4);
        check_rewrite(&frame, Link::Ethernet, &changes, UdpChecksum::Complete);
        rewrite(&mut frame, &verdict, &changes, UdpChecksum::Complete).unwrap();
        let verdict = parse(&frame, Link::Ethernet).unwrap();
        assert!(!udp_checksum_is_valid(&frame, &verdict));
        assert_eq!(ipv4_header_checksum_is_valid(&frame, &verdict), !is_ipv4);
    }
}

#[test]
fn one_verdict_serves_several_rewrites_of_one_frame() {
    let (mut frame, verdict) = frame(true);
    for last in 1..=250 {
        let changes = Changes {
            destination_address: Some(IpAddr::from([239, 9, 9, last])),
            hop_limit: Some(last),
            ..Changes::default()
        };
        rewrite(&mut frame, &verdict, &changes, UdpChecksum::Complete).unwrap();
        let now = parse(&frame, Link::Ethernet).unwrap();
        assert_eq!((now.destination.ip(), now.hop_limit), (IpAddr::from([239, 9, 9, last]), last));
        assert!(udp_checksum_is_valid(&frame, &now) && ipv4_header_checksum_is_valid(&frame, &now));
    }
}

#[test]
fn the_ecn_bits_and_the_flow_label_stay() {
    let (mut frame, verdict) = frame(false);
    rewrite(&mut frame, &verdict, &Changes { dscp: Some(63), ..Changes::default() }, UdpChecksum::Complete)
        .unwrap();
    assert_eq!(frame[14..18], [0x6f, 0xd1, 0x23, 0x45]);
}

#[test]
fn a_refused_rewrite_changes_nothing() {
    let (original, verdict) = frame(true);
    let refused = |changes: Changes| {
        let mut frame = original.clone();
        let result = rewrite(&mut frame, &verdict, &changes, UdpChecksum::Complete);
        assert_eq!(frame, original);
        result.unwrap_err()
    };
    let mixed = Changes { destination_address: address("ff3e::1"), ..everything(true) };
    assert_eq!(refused(mixed), RewriteError::Family);
    assert_eq!(refused(Changes { dscp: Some(64), ..everything(true) }), RewriteError::Dscp);
}

#[test]
fn a_frame_other_than_the_verdicts_own_is_refused_and_not_a_panic() {
    let (frame4, verdict4) = frame(true);
    let (frame6, verdict6) = frame(false);
    for bytes in 0..verdict4.payload_offset() {
        let result =
            rewrite(&mut frame4.clone()[..bytes], &verdict4, &everything(true), UdpChecksum::Complete);
        assert_eq!(result, Err(RewriteError::Frame));
        assert!(!udp_checksum_is_valid(&frame4[..bytes], &verdict4));
    }
    assert!(!ipv4_header_checksum_is_valid(&frame4[..20], &verdict4));
    let mut crossed = frame6.clone();
    let result = rewrite(&mut crossed, &verdict4, &everything(true), UdpChecksum::Complete);
    assert_eq!((result, crossed), (Err(RewriteError::Frame), frame6));
    let mut crossed = [&frame4[..], &[0; 40]].concat();
    let result = rewrite(&mut crossed, &verdict6, &everything(false), UdpChecksum::Complete);
    assert_eq!(result, Err(RewriteError::Frame));
}

#[test]
fn what_an_authentication_header_covers_is_not_rewritten() {
    let datagram = ipv4(51, &[], &[&authentication(17)[..], &UDP].concat());
    let verdict = parse(&datagram, Link::RawIp).unwrap();
    for chosen in 0..64 {
        let changes = some_of(everything(true), chosen);
        let result = rewrite(&mut datagram.clone(), &verdict, &changes, UdpChecksum::Complete);
        // The hop limit and the DSCP are mutable fields, which the header leaves out.
        assert_eq!(result.is_ok(), chosen & 0b00_1111 == 0);
        check_rewrite(&datagram, Link::RawIp, &changes, UdpChecksum::Complete);
    }
}
