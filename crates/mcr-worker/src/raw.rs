//! Headers for copies that keep the incoming source. Pure.

use std::net::{SocketAddr, SocketAddrV6};

use mcr_parse::{
    UdpChecksum,
    build::{BuildError, IPV4_UDP_BYTES, IPV6_UDP_BYTES, Ipv4Udp, Ipv6Udp, ipv4_udp, ipv6_udp},
    checksum::Parts,
};

/// An IP and a UDP header.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Headers {
    bytes: [u8; IPV6_UDP_BYTES],
    len: usize,
}

const _: () = assert!(IPV4_UDP_BYTES <= IPV6_UDP_BYTES);

impl Headers {
    /// Headers from `source` to `destination` in front of a payload, or the errno that stands for why there are none.
    pub(crate) fn new(
        source: SocketAddr,
        destination: SocketAddr,
        hop_limit: u8,
        traffic_class: u8,
        payload: Parts,
    ) -> Result<Self, i32> {
        let mut bytes = [0; IPV6_UDP_BYTES];
        let built = match (source, destination) {
            (SocketAddr::V4(source), SocketAddr::V4(destination)) => {
                // As with UDP outputs fragmentation is allowed; of identification 0 the kernel makes a fresh one (raw(7)).
                let fields = Ipv4Udp {
                    hop_limit,
                    traffic_class,
                    dont_fragment: false,
                    ..Ipv4Udp::new(source, destination)
                };
                ipv4_udp(&mut bytes, &fields, payload, UdpChecksum::Complete)
            }
            (SocketAddr::V6(source), SocketAddr::V6(destination)) => {
                let fields = Ipv6Udp { hop_limit, traffic_class, ..Ipv6Udp::new(source, destination) };
                ipv6_udp(&mut bytes, &fields, payload, UdpChecksum::Complete)
            }
            _ => return Err(libc::EAFNOSUPPORT),
        };
        match built {
            Ok(len) => Ok(Self { bytes, len }),
            Err(BuildError::Payload { .. }) => Err(libc::EMSGSIZE),
            Err(_) => Err(libc::EINVAL),
        }
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// The destination as `sendmsg` wants it of a raw socket: IPv6 takes the port for a protocol number and refuses it (ipv6(7)).
pub(crate) fn without_port(destination: SocketAddr) -> SocketAddr {
    match destination {
        SocketAddr::V4(to) => SocketAddr::new((*to.ip()).into(), 0),
        SocketAddr::V6(to) => SocketAddrV6::new(*to.ip(), 0, to.flowinfo(), to.scope_id()).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};

    fn built(source: &str, destination: &str, payload: &[u8]) -> Vec<u8> {
        let headers = Headers::new(
            source.parse().expect("address"),
            destination.parse().expect("address"),
            9,
            0xb8,
            Parts::of(&[payload]),
        );
        [headers.expect("one family").as_slice(), payload].concat()
    }

    #[test]
    fn an_independent_parser_reads_the_ipv4_headers_and_agrees_on_both_checksums() {
        let packet = built("10.1.0.1:4000", "239.2.2.2:6000", b"payload");
        let sliced = SlicedPacket::from_ip(&packet).expect("a packet");
        let Some(NetSlice::Ipv4(ip)) = sliced.net else { panic!("not IPv4") };
        let header = ip.header().to_header();
        assert_eq!((header.time_to_live, header.source, header.dont_fragment), (9, [10, 1, 0, 1], false));
        assert_eq!(header.header_checksum, header.calc_header_checksum());
        let Some(TransportSlice::Udp(udp)) = sliced.transport else { panic!("not UDP") };
        assert_eq!((udp.source_port(), udp.destination_port(), udp.payload()), (4000, 6000, &b"payload"[..]));
        let checksum = udp.to_header().calc_checksum_ipv4(&header, udp.payload()).expect("short");
        assert_eq!(udp.checksum(), checksum);
    }

    #[test]
    fn an_independent_parser_reads_the_ipv6_headers_and_agrees_on_the_checksum() {
        let packet = built("[fd00::1]:4000", "[ff3e::2]:6000", b"");
        let sliced = SlicedPacket::from_ip(&packet).expect("a packet");
        let Some(NetSlice::Ipv6(ip)) = sliced.net else { panic!("not IPv6") };
        let header = ip.header().to_header();
        assert_eq!((header.hop_limit, header.traffic_class), (9, 0xb8));
        let Some(TransportSlice::Udp(udp)) = sliced.transport else { panic!("not UDP") };
        let checksum = udp.to_header().calc_checksum_ipv6(&header, udp.payload()).expect("short");
        assert_eq!(udp.checksum(), checksum);
    }

    #[test]
    fn families_do_not_mix() {
        let [v4, v6] = ["10.0.0.1:1", "[ff3e::2]:6000"].map(|text| text.parse().expect("address"));
        assert_eq!(Headers::new(v4, v6, 64, 0, Parts::default()).err(), Some(libc::EAFNOSUPPORT));
    }

    #[test]
    fn the_scope_of_a_destination_outlives_its_port() {
        let to = "[fe80::1%7]:6000".parse().expect("address");
        assert_eq!(without_port(to), "[fe80::1%7]:0".parse().expect("address"));
    }
}
