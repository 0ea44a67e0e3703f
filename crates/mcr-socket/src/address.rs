//! Socket addresses as bytes, both ways.
//!
//! Bytes, because the kernel copies them byte by byte: no cast, no alignment, no union.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

const AF_INET: u16 = libc::AF_INET as u16;
const AF_INET6: u16 = libc::AF_INET6 as u16;

/// `struct sockaddr_storage`: room for any socket address, aligned as the kernel's structs that hold one need it.
#[repr(C)]
#[cfg_attr(target_pointer_width = "64", repr(align(8)))]
#[cfg_attr(target_pointer_width = "32", repr(align(4)))]
#[derive(Clone, Copy)]
pub(crate) struct Storage {
    bytes: [u8; 128],
}

const _: () = assert!(size_of::<Storage>() == size_of::<libc::sockaddr_storage>());
const _: () = assert!(align_of::<Storage>() == align_of::<libc::sockaddr_storage>());

impl Storage {
    pub(crate) const ZERO: Self = Self { bytes: [0; 128] };

    /// Writes `sockaddr_in` or `sockaddr_in6`.
    pub(crate) fn new(address: SocketAddr) -> Self {
        let mut storage = Self::ZERO;
        let mut put = |at: usize, bytes: &[u8]| storage.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        put(2, &address.port().to_be_bytes());
        match address {
            SocketAddr::V4(v4) => {
                put(0, &AF_INET.to_ne_bytes());
                put(4, &v4.ip().octets());
            }
            SocketAddr::V6(v6) => {
                put(0, &AF_INET6.to_ne_bytes());
                // `SocketAddrV6` keeps flow label and scope in host order, as the kernel keeps the scope; the flow
                // label is in network order on the wire and in the struct.
                put(4, &v6.flowinfo().to_be_bytes());
                put(8, &v6.ip().octets());
                put(24, &v6.scope_id().to_ne_bytes());
            }
        }
        storage
    }

    /// The part of it that is the address.
    pub(crate) fn used(&self) -> &[u8] {
        let family = u16::from_ne_bytes([self.bytes[0], self.bytes[1]]);
        if family == AF_INET { &self.bytes[..16] } else { &self.bytes[..28] }
    }
}

/// An address with its interface as scope where IPv6 needs one: for link-local unicast, and for multicast of interface
/// and link scope (RFC 4007, section 6).
pub(crate) fn scoped(address: SocketAddr, ifindex: u32) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) if v6.scope_id() == 0 && needs_scope(v6.ip()) => {
            SocketAddrV6::new(*v6.ip(), v6.port(), v6.flowinfo(), ifindex).into()
        }
        other => other,
    }
}

fn needs_scope(ip: &Ipv6Addr) -> bool {
    let first = ip.segments()[0];
    ip.is_unicast_link_local() || matches!(first & 0xff0f, 0xff01 | 0xff02)
}

/// Reads the bytes of a `sockaddr_in` or `sockaddr_in6`, such as `recvmsg(2)` leaves in `msg_name`.
///
/// `None` if they are too short or of another family; total, whatever the bytes.
pub fn socket_addr(bytes: &[u8]) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes(*bytes.first_chunk()?);
    let port = u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?);
    match family {
        AF_INET => Some(SocketAddrV4::new(ipv4(bytes, 4)?, port).into()),
        AF_INET6 => {
            let flowinfo = u32::from_be_bytes(*bytes.get(4..)?.first_chunk()?);
            let scope = u32::from_ne_bytes(*bytes.get(24..)?.first_chunk()?);
            Some(SocketAddrV6::new(ipv6(bytes, 8)?, port, flowinfo, scope).into())
        }
        _ => None,
    }
}

pub(crate) fn ipv4(bytes: &[u8], at: usize) -> Option<Ipv4Addr> {
    bytes.get(at..)?.first_chunk::<4>().map(|octets| Ipv4Addr::from(*octets))
}

pub(crate) fn ipv6(bytes: &[u8], at: usize) -> Option<Ipv6Addr> {
    bytes.get(at..)?.first_chunk::<16>().map(|octets| Ipv6Addr::from(*octets))
}

/// The address without a port, as the kernel's multicast requests want it.
pub(crate) fn portless(ip: IpAddr) -> Storage {
    Storage::new(SocketAddr::new(ip, 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read_back(
            v4 in any::<(u32, u16)>(),
            v6 in any::<(u128, u16, u32, u32)>(),
        ) {
            let four = SocketAddr::from((Ipv4Addr::from(v4.0), v4.1));
            let six = SocketAddrV6::new(v6.0.into(), v6.1, v6.2, v6.3).into();
            for address in [four, six] {
                prop_assert_eq!(socket_addr(Storage::new(address).used()), Some(address));
            }
        }

        #[test]
        fn any_bytes_are_an_address_or_none(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Some(address) = socket_addr(&bytes) {
                let storage = Storage::new(address);
                // sockaddr_in ends in eight bytes that mean nothing.
                let meaning = if address.is_ipv4() { 8 } else { 28 };
                prop_assert_eq!(&storage.used()[..meaning], &bytes[..meaning]);
            }
        }
    }

    #[test]
    fn a_prefix_of_an_address_is_none() {
        let six = Storage::new("[ff02::1%3]:9".parse().unwrap());
        assert!((0..28).all(|len| socket_addr(&six.used()[..len]).is_none()));
    }

    #[test]
    fn only_link_local_addresses_get_the_interface_as_scope() {
        let scope = |text: &str| match scoped(text.parse().unwrap(), 7) {
            SocketAddr::V6(v6) => v6.scope_id(),
            SocketAddr::V4(_) => 0,
        };
        assert_eq!(scope("[fe80::1]:1"), 7);
        assert_eq!(scope("[ff02::1]:1"), 7);
        assert_eq!(scope("[ff32::1]:1"), 7);
        assert_eq!(scope("[ff01::1]:1"), 7);
        assert_eq!(scope("[ff02::1%3]:1"), 3);
        assert_eq!(scope("[ff05::1]:1"), 0);
        assert_eq!(scope("[2001:db8::1]:1"), 0);
        assert_eq!(scope("224.0.0.1:1"), 0);
    }
}
