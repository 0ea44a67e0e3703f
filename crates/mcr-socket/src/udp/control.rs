//! What the kernel tells of a received datagram besides its payload. Total, and nothing allocates.

use crate::address::{ipv4, ipv6};
use crate::{
    cmsg::{int, messages},
    stamp,
};
use std::net::IpAddr;

/// The control messages of one `recvmsg(2)` on a socket of [`open_input`](super::open_input).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UdpControl {
    /// Hop limit it arrived with.
    pub ttl: Option<u8>,
    /// DSCP in the upper six bits, ECN in the lower two.
    pub tos: Option<u8>,
    /// Address it was sent to.
    pub destination: Option<IpAddr>,
    /// Interface it came by.
    pub ifindex: Option<u32>,
    /// What was received is many datagrams of this many payload bytes each, the last maybe shorter (UDP_GRO).
    pub segment_bytes: Option<u16>,
    /// When the kernel received it, in nanoseconds since 1970; only while stamps are wanted ([`stamp`](crate::stamp)).
    pub stamp_ns: Option<u64>,
}

impl UdpControl {
    /// Reads them all in one pass; what is missing or too short stays `None`.
    pub fn parse(control: &[u8]) -> Self {
        let mut parsed = Self::default();
        for (level, kind, data) in messages(control) {
            match (level, kind) {
                (libc::SOL_IP, libc::IP_TTL) | (libc::SOL_IPV6, libc::IPV6_HOPLIMIT) => {
                    parsed.ttl = byte(data)
                }
                // One byte in IPv4, an int in IPv6.
                (libc::SOL_IP, libc::IP_TOS) => parsed.tos = data.first().copied(),
                (libc::SOL_IPV6, libc::IPV6_TCLASS) => parsed.tos = byte(data),
                (libc::SOL_IP, libc::IP_PKTINFO) => {
                    // Index, the local address that answers would come from, the address in the header.
                    parsed.ifindex = int(data).and_then(positive);
                    parsed.destination = ipv4(data, 8).map(IpAddr::V4);
                }
                (libc::SOL_IPV6, libc::IPV6_PKTINFO) => {
                    parsed.destination = ipv6(data, 0).map(IpAddr::V6);
                    parsed.ifindex = data.get(16..).and_then(int).and_then(positive);
                }
                (libc::SOL_UDP, libc::UDP_GRO) => parsed.segment_bytes = segment(data),
                (libc::SOL_SOCKET, stamp::SO_TIMESTAMPING_NEW) => parsed.stamp_ns = stamp::read(data),
                _ => {}
            }
        }
        parsed
    }
}

fn byte(data: &[u8]) -> Option<u8> {
    int(data).and_then(|value| u8::try_from(value).ok())
}

fn positive(ifindex: i32) -> Option<u32> {
    u32::try_from(ifindex).ok().filter(|&index| index != 0)
}

/// An int from the kernel, though its documentation says a 16-bit number; zero would mean no segments at all.
fn segment(data: &[u8]) -> Option<u16> {
    int(data).and_then(|value| u16::try_from(value).ok()).filter(|&bytes| bytes != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmsg::message;
    use proptest::prelude::*;

    #[test]
    fn every_message_of_ipv4_is_read_in_one_pass() {
        let pktinfo = [&3i32.to_ne_bytes()[..], &[127, 0, 0, 1], &[239, 1, 1, 1]].concat();
        let control = [
            message(libc::SOL_IP, libc::IP_TTL, &17i32.to_ne_bytes()),
            message(libc::SOL_IP, libc::IP_TOS, &[0xb8]),
            message(libc::SOL_IP, libc::IP_PKTINFO, &pktinfo),
            message(libc::SOL_UDP, libc::UDP_GRO, &1400i32.to_ne_bytes()),
            message(
                libc::SOL_SOCKET,
                stamp::SO_TIMESTAMPING_NEW,
                &[7i64, 9, 0, 0, 0, 0].map(i64::to_ne_bytes).concat(),
            ),
        ]
        .concat();
        let want = UdpControl {
            ttl: Some(17),
            tos: Some(0xb8),
            destination: Some([239, 1, 1, 1].into()),
            ifindex: Some(3),
            segment_bytes: Some(1400),
            stamp_ns: Some(7_000_000_009),
        };
        assert_eq!(UdpControl::parse(&control), want);
    }

    #[test]
    fn every_message_of_ipv6_is_read_in_one_pass() {
        let group: std::net::Ipv6Addr = "ff3e::1".parse().unwrap();
        let pktinfo = [&group.octets()[..], &9u32.to_ne_bytes()].concat();
        let control = [
            message(libc::SOL_IPV6, libc::IPV6_HOPLIMIT, &255i32.to_ne_bytes()),
            message(libc::SOL_IPV6, libc::IPV6_PKTINFO, &pktinfo),
            message(libc::SOL_IPV6, libc::IPV6_TCLASS, &0x28i32.to_ne_bytes()),
        ]
        .concat();
        let want = UdpControl {
            ttl: Some(255),
            tos: Some(0x28),
            destination: Some(group.into()),
            ifindex: Some(9),
            segment_bytes: None,
            stamp_ns: None,
        };
        assert_eq!(UdpControl::parse(&control), want);
    }

    proptest! {
        #[test]
        fn values_no_kernel_sends_are_not_taken(value in any::<i32>()) {
            let control = [
                message(libc::SOL_IP, libc::IP_TTL, &value.to_ne_bytes()),
                message(libc::SOL_UDP, libc::UDP_GRO, &value.to_ne_bytes()),
            ].concat();
            let parsed = UdpControl::parse(&control);
            prop_assert_eq!(parsed.ttl.map(i32::from), Some(value).filter(|v| (0..256).contains(v)));
            prop_assert_eq!(parsed.segment_bytes.map(i32::from), Some(value).filter(|v| (1..65536).contains(v)));
        }

        #[test]
        fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            UdpControl::parse(&bytes);
        }

        #[test]
        fn any_data_of_a_known_message_is_read(
            kind in prop::sample::select(vec![
                (libc::SOL_IP, libc::IP_TTL), (libc::SOL_IP, libc::IP_TOS), (libc::SOL_IP, libc::IP_PKTINFO),
                (libc::SOL_IPV6, libc::IPV6_PKTINFO), (libc::SOL_UDP, libc::UDP_GRO),
            ]),
            data in prop::collection::vec(any::<u8>(), 0..24),
        ) {
            UdpControl::parse(&message(kind.0, kind.1, &data));
        }
    }
}
