//! The parser against a slow one, and the kernel filter against the parser, over frames that are nearly right.

mod checker;
mod frames;

use frames::{OURS, TESTER, frame, plain, with_services};
use mcr_reflect::{
    Config, Meta, Now, Outcome, Reflector,
    filter::{self, Scope},
};
use proptest::prelude::*;

fn reflect(config: &Config, frame: &[u8]) -> (Outcome, Vec<u8>) {
    let mut reflector = Reflector::new(config.clone()).expect("no contradiction");
    let mut room = frame.to_vec();
    room.resize(frame.len() + 128, 0);
    let outcome = reflector.reflect(&mut room, frame.len(), &Meta::default(), &Now::default());
    room.truncate(frame.len());
    (outcome, room)
}

/// What a packet socket's filter sees where the driver took the outer tag out.
fn without_outer_tag(frame: &[u8]) -> Option<Vec<u8>> {
    let tagged = matches!(frame.get(12..16)?, [0x81, 0, ..] | [0x88, 0xa8, ..]);
    tagged.then(|| [&frame[..12], &frame[16..]].concat())
}

fn folded(bytes: &[u8]) -> u32 {
    let sum: u32 = bytes.chunks(2).map(|two| u32::from(two[0]) << 8 | u32::from(two[1])).sum();
    (sum & 0xffff) + (sum >> 16)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn a_frame_is_reflected_exactly_as_the_slow_checker_says(config in plain(), frame in frame()) {
        let (outcome, after) = reflect(&config, &frame);
        match checker::expected(&config, &frame) {
            Some(reply) => {
                prop_assert!(matches!(outcome, Outcome::Send { bytes, .. } if bytes == frame.len()), "{:?}", outcome);
                prop_assert_eq!(after, reply);
            }
            None => {
                prop_assert!(matches!(outcome, Outcome::Drop(_)), "{:?}", outcome);
                prop_assert_eq!(after, frame);
            }
        }
    }

    #[test]
    fn the_kernel_filter_never_refuses_what_would_be_answered(config in with_services(), frame in frame()) {
        let program = filter::program(&config, Scope::NearMisses);
        prop_assert!(program.len() <= 128);
        let (outcome, _) = reflect(&config, &frame);
        if !matches!(outcome, Outcome::Drop(_)) {
            prop_assert!(filter::passes(&program, &frame), "{:?}", outcome);
            if let Some(bare) = without_outer_tag(&frame) {
                prop_assert!(filter::passes(&program, &bare), "without its outer tag: {:?}", outcome);
            }
        }
    }

    #[test]
    fn any_bytes_with_any_options_are_dropped_unchanged_or_answered_within_bounds(
        config in with_services(),
        frame in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let (outcome, after) = reflect(&config, &frame);
        match outcome {
            Outcome::Drop(_) => prop_assert_eq!(after, frame),
            Outcome::Send { bytes, .. } | Outcome::SendLater { bytes, .. } => prop_assert!(bytes <= frame.len() + 98),
        }
    }

    #[test]
    fn a_replys_headers_are_valid_to_another_parser(config in with_services(), frame in frame()) {
        let mut reflector = Reflector::new(config).expect("no contradiction");
        let mut room = frame.clone();
        room.resize(frame.len() + 128, 0);
        let outcome = reflector.reflect(&mut room, frame.len(), &Meta::default(), &Now::default());
        let Outcome::Send { bytes, kind } = outcome else { return Ok(()) };
        let reply = &room[..bytes];
        prop_assert_eq!(&reply[..6], &frame[6..12]);
        if matches!(kind, mcr_reflect::Kind::Stamp | mcr_reflect::Kind::Twamp) {
            let sliced = etherparse::SlicedPacket::from_ethernet(reply);
            let Ok(sliced) = sliced else { return Err(TestCaseError::fail(format!("{sliced:?}"))) };
            let Some(etherparse::TransportSlice::Udp(udp)) = sliced.transport else {
                return Err(TestCaseError::fail("not UDP"));
            };
            let right = match sliced.net {
                Some(etherparse::NetSlice::Ipv4(ip)) => {
                    let header = ip.header().to_header();
                    // Its own calculation leaves out the reserved flag.
                    prop_assert_eq!(folded(ip.header().slice()), 0xffff);
                    udp.to_header().calc_checksum_ipv4(&header, udp.payload())
                }
                Some(etherparse::NetSlice::Ipv6(ip)) => {
                    udp.to_header().calc_checksum_ipv6(&ip.header().to_header(), udp.payload())
                }
                _ => return Err(TestCaseError::fail("no IP")),
            };
            prop_assert_eq!(Ok(udp.checksum()), right);
        }
    }
}

#[test]
fn foreign_traffic_does_not_pass_the_kernel_filter() {
    let program = filter::program(&Config::new(OURS, 1500), Scope::NearMisses);
    let mut arp = [&[0xff; 6][..], &TESTER, &[8, 6]].concat();
    arp.resize(60, 0);
    assert!(!filter::passes(&program, &arp));
    let mut dns = [&OURS[..], &TESTER, &[8, 0, 0x45]].concat();
    dns.resize(23, 0);
    dns.push(17);
    dns.resize(34, 1);
    dns.extend([0, 53, 0, 53, 0, 60]);
    dns.resize(100, 7);
    assert!(!filter::passes(&program, &dns));
    dns[36..38].copy_from_slice(&3842u16.to_be_bytes());
    assert!(filter::passes(&program, &dns), "a near miss: the right port, no signature");
    let all = filter::program(&Config::new(OURS, 1500), Scope::Everything);
    assert!(filter::passes(&all, &arp) && filter::passes(&all, &[]));
}
