//! Writes socket addresses and control messages as the kernel reads them (ip(7), ipv6(7), udp(7), cmsg(3)). Bytes
//! only, no pointers, no unsafe.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::{Outgoing, SendError};

/// Room for all four control messages of a send: three of an int or less, and in6_pktinfo.
const CONTROL_BYTES: usize = 3 * space(4) + space(20);
/// Room for a sockaddr_in6.
const NAME_BYTES: usize = 28;
const HEADER_BYTES: usize = align(size_of::<libc::cmsghdr>());

const fn align(bytes: usize) -> usize {
    bytes.next_multiple_of(size_of::<usize>())
}

const fn space(data_bytes: usize) -> usize {
    HEADER_BYTES + align(data_bytes)
}

#[repr(C, align(8))]
#[derive(Clone, Debug)]
pub(crate) struct Control {
    bytes: [u8; CONTROL_BYTES],
    len: usize,
}

#[repr(C, align(8))]
#[derive(Clone, Debug)]
pub(crate) struct Name {
    bytes: [u8; NAME_BYTES],
    len: usize,
}

impl Control {
    pub(crate) const EMPTY: Self = Self { bytes: [0; CONTROL_BYTES], len: 0 };

    /// Writes what the message asks for, in place of what was there.
    pub(crate) fn write(&mut self, message: &Outgoing<'_>) -> Result<(), SendError> {
        self.len = 0;
        if let Some(segment_bytes) = message.segment_bytes {
            self.put(libc::SOL_UDP, libc::UDP_SEGMENT, &segment_bytes.to_ne_bytes());
        }
        if message.hop_limit.is_none() && message.traffic_class.is_none() && message.source.is_none() {
            return Ok(());
        }
        let address = message.destination.map(|to| to.ip()).or(message.source.map(|from| from.address));
        match address.ok_or(SendError::FamilyUnknown)? {
            IpAddr::V4(_) => self.put_ipv4(message),
            IpAddr::V6(_) => self.put_ipv6(message),
        }
        Ok(())
    }

    fn put_ipv4(&mut self, message: &Outgoing<'_>) {
        if let Some(ttl) = message.hop_limit {
            self.put(libc::IPPROTO_IP, libc::IP_TTL, &i32::from(ttl).to_ne_bytes());
        }
        if let Some(tos) = message.traffic_class {
            self.put(libc::IPPROTO_IP, libc::IP_TOS, &i32::from(tos).to_ne_bytes());
        }
        if let Some(source) = message.source {
            let address = match source.address {
                IpAddr::V4(address) => address,
                IpAddr::V6(address) => address.to_ipv4_mapped().unwrap_or(Ipv4Addr::UNSPECIFIED),
            };
            // struct in_pktinfo: ipi_ifindex, ipi_spec_dst (the source, when sending), ipi_addr (ignored).
            let mut info = [0; 12];
            info[..4].copy_from_slice(&source.interface_index.to_ne_bytes());
            info[4..8].copy_from_slice(&address.octets());
            self.put(libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
        }
    }

    fn put_ipv6(&mut self, message: &Outgoing<'_>) {
        if let Some(hop_limit) = message.hop_limit {
            self.put(libc::IPPROTO_IPV6, libc::IPV6_HOPLIMIT, &i32::from(hop_limit).to_ne_bytes());
        }
        if let Some(class) = message.traffic_class {
            self.put(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &i32::from(class).to_ne_bytes());
        }
        if let Some(source) = message.source {
            let address = match source.address {
                IpAddr::V6(address) => address,
                IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv6Addr::UNSPECIFIED,
                IpAddr::V4(address) => address.to_ipv6_mapped(),
            };
            // struct in6_pktinfo: ipi6_addr, ipi6_ifindex.
            let mut info = [0; 20];
            info[..16].copy_from_slice(&address.octets());
            info[16..].copy_from_slice(&source.interface_index.to_ne_bytes());
            self.put(libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
        }
    }

    fn put(&mut self, level: i32, kind: i32, data: &[u8]) {
        let slot = &mut self.bytes[self.len..self.len + space(data.len())];
        slot.fill(0);
        const WORD: usize = size_of::<usize>();
        slot[..WORD].copy_from_slice(&(HEADER_BYTES + data.len()).to_ne_bytes());
        slot[WORD..WORD + 4].copy_from_slice(&level.to_ne_bytes());
        slot[WORD + 4..WORD + 8].copy_from_slice(&kind.to_ne_bytes());
        slot[HEADER_BYTES..HEADER_BYTES + data.len()].copy_from_slice(data);
        self.len += space(data.len());
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }
}

impl Name {
    pub(crate) const EMPTY: Self = Self { bytes: [0; NAME_BYTES], len: 0 };

    /// Writes a sockaddr_in or sockaddr_in6, or nothing.
    pub(crate) fn write(&mut self, destination: Option<SocketAddr>) {
        self.len = match destination {
            None => 0,
            Some(SocketAddr::V4(to)) => {
                self.bytes[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
                self.bytes[2..4].copy_from_slice(&to.port().to_be_bytes());
                self.bytes[4..8].copy_from_slice(&to.ip().octets());
                self.bytes[8..16].fill(0);
                16
            }
            Some(SocketAddr::V6(to)) => {
                self.bytes[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
                self.bytes[2..4].copy_from_slice(&to.port().to_be_bytes());
                self.bytes[4..8].copy_from_slice(&to.flowinfo().to_ne_bytes());
                self.bytes[8..24].copy_from_slice(&to.ip().octets());
                self.bytes[24..28].copy_from_slice(&to.scope_id().to_ne_bytes());
                28
            }
        };
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datagram::{ControlMessages, source};
    use crate::{SocketKey, Source};

    fn message(destination: Option<&str>) -> Outgoing<'static> {
        let destination = destination.map(|to| to.parse().unwrap());
        Outgoing { destination, ..Outgoing::new(SocketKey { slot: 0, generation: 0 }, &[], 0) }
    }

    #[test]
    fn the_four_messages_of_ipv4_are_what_our_reader_finds() {
        let mut control = Control::EMPTY;
        let mut message = message(Some("239.1.1.1:5000"));
        message.segment_bytes = Some(1400);
        message.hop_limit = Some(16);
        message.traffic_class = Some(0x88);
        message.source = Some(Source { address: "10.0.0.9".parse().unwrap(), interface_index: 3 });
        control.write(&message).unwrap();
        let found: Vec<_> = ControlMessages::new(control.as_mut_slice())
            .map(|m| (m.level, m.kind, m.data.to_vec()))
            .collect();
        let info = [3u32.to_ne_bytes(), [10, 0, 0, 9], [0; 4]].concat();
        assert_eq!(
            found,
            [
                (libc::SOL_UDP, libc::UDP_SEGMENT, 1400u16.to_ne_bytes().to_vec()),
                (libc::IPPROTO_IP, libc::IP_TTL, 16i32.to_ne_bytes().to_vec()),
                (libc::IPPROTO_IP, libc::IP_TOS, 0x88i32.to_ne_bytes().to_vec()),
                (libc::IPPROTO_IP, libc::IP_PKTINFO, info),
            ]
        );
    }

    #[test]
    fn all_messages_of_ipv6_fit_and_a_second_write_replaces_the_first() {
        let mut control = Control::EMPTY;
        let mut message = message(Some("[ff3e::1]:5000"));
        message.segment_bytes = Some(1200);
        message.hop_limit = Some(1);
        message.traffic_class = Some(1);
        message.source = Some(Source { address: "fe80::1".parse().unwrap(), interface_index: 7 });
        control.write(&message).unwrap();
        assert_eq!(ControlMessages::new(control.as_mut_slice()).count(), 4);
        control.write(&Outgoing { segment_bytes: None, hop_limit: None, source: None, ..message }).unwrap();
        assert_eq!(ControlMessages::new(control.as_mut_slice()).count(), 1);
    }

    #[test]
    fn a_hop_limit_without_any_address_is_refused() {
        let mut control = Control::EMPTY;
        let mut message = message(None);
        assert_eq!(control.write(&message), Ok(()));
        message.hop_limit = Some(1);
        assert_eq!(control.write(&message), Err(SendError::FamilyUnknown));
    }

    #[test]
    fn addresses_are_read_back_as_written() {
        let mut name = Name::EMPTY;
        for to in ["10.1.2.3:4", "[2001:db8::1]:65535", "[fe80::1%5]:1"] {
            let to: SocketAddr = to.parse().unwrap();
            name.write(Some(to));
            assert_eq!(source(name.as_mut_slice()), Some(to));
        }
        name.write(None);
        assert_eq!(source(name.as_mut_slice()), None);
    }
}
