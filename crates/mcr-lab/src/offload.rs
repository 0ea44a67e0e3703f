//! Offloads of a device, as `ethtool -K` switches them.

use netlink_sys::protocols::NETLINK_GENERIC;
use netlink_sys::{Socket, SocketAddr};

use crate::error::LabError;
use crate::namespace::Namespace;

// linux/netlink.h
const REQUEST_AND_ACK: u16 = 0x1 | 0x4;
const ERROR: u16 = 2;
const NESTED: u16 = 1 << 15;
const HEADER_BYTES: usize = 16;
/// Length of `struct genlmsghdr`.
const GENERIC_BYTES: usize = 4;
// linux/genetlink.h
const CONTROL: u16 = 0x10;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
// linux/ethtool_netlink_generated.h
const FEATURES_SET: u8 = 12;
const FEATURES_HEADER: u16 = 1;
const FEATURES_WANTED: u16 = 3;
const HEADER_DEV_NAME: u16 = 2;
const BITSET_BITS: u16 = 3;
const BITS_BIT: u16 = 1;
const BIT_NAME: u16 = 2;
const BIT_VALUE: u16 = 3;

impl Namespace {
    /// Switches an offload by the name that `ethtool -k` has for the kernel's feature bit, as in `rx-gro`,
    /// `rx-udp-gro-forwarding`, `tx-udp-segmentation` or `tx-checksum-ip-generic`. The others stay as they are.
    pub fn set_offload(&self, ifname: &str, feature: &str, on: bool) -> Result<(), LabError> {
        let what = || format!("switch {feature} of {ifname} {}", if on { "on" } else { "off" });
        let refused = |source| LabError::Request { what: what(), source };
        let answered = |reason: &str| LabError::Answer { what: what(), reason: reason.to_owned() };
        let mut socket = self
            .try_enter(|| {
                let mut socket = Socket::new(NETLINK_GENERIC)?;
                socket.bind_auto()?;
                socket.connect(&SocketAddr::new(0, 0))?;
                Ok(socket)
            })?
            .map_err(refused)?;
        let ask = attribute(FAMILY_NAME, b"ethtool\0");
        let answer = exchange(&mut socket, CONTROL, GET_FAMILY, &ask).map_err(refused)?;
        let family = find(answer.get(GENERIC_BYTES..).unwrap_or_default(), FAMILY_ID);
        let family = family.and_then(|id| id.first_chunk().copied()).map(u16::from_ne_bytes);
        let family = family.ok_or_else(|| answered("it names no ethtool family"))?;
        // A bit that is named is to be on if it has the flag BIT_VALUE.
        let value = if on { attribute(BIT_VALUE, &[]) } else { Vec::new() };
        let bit = [attribute(BIT_NAME, &[feature.as_bytes(), &[0]].concat()), value].concat();
        let bits = attribute(BITSET_BITS | NESTED, &attribute(BITS_BIT | NESTED, &bit));
        let device = attribute(HEADER_DEV_NAME, &[ifname.as_bytes(), &[0]].concat());
        let set = [attribute(FEATURES_HEADER | NESTED, &device), attribute(FEATURES_WANTED | NESTED, &bits)];
        exchange(&mut socket, family, FEATURES_SET, &set.concat()).map_err(refused).map(drop)
    }
}

/// Sends one request and waits for its acknowledgement; the body of what came before that.
fn exchange(socket: &mut Socket, family: u16, command: u8, attributes: &[u8]) -> std::io::Result<Vec<u8>> {
    let bytes = HEADER_BYTES + GENERIC_BYTES + attributes.len();
    let mut request = Vec::with_capacity(bytes);
    request.extend((bytes as u32).to_ne_bytes());
    request.extend(family.to_ne_bytes());
    request.extend(REQUEST_AND_ACK.to_ne_bytes());
    // Sequence and port numbers, command, version, and two bytes reserved.
    request.extend([0; 8]);
    request.extend([command, 1, 0, 0]);
    request.extend(attributes);
    socket.send(&request, 0)?;
    let mut answer = Vec::new();
    loop {
        let mut datagram = Vec::with_capacity(64 << 10);
        socket.recv(&mut datagram, 0)?;
        let mut rest = &datagram[..];
        while let Some(header) = rest.first_chunk::<HEADER_BYTES>() {
            let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
            let body = rest.get(HEADER_BYTES..length).ok_or(std::io::ErrorKind::InvalidData)?;
            if u16::from_ne_bytes([header[4], header[5]]) == ERROR {
                let errno = body.first_chunk().copied().map_or(0, i32::from_ne_bytes);
                return if errno == 0 { Ok(answer) } else { Err(std::io::Error::from_raw_os_error(-errno)) };
            }
            answer = body.to_vec();
            rest = &rest[length.next_multiple_of(4).min(rest.len())..];
        }
    }
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(4 + value.len().next_multiple_of(4));
    bytes.extend(((4 + value.len()) as u16).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn find(mut attributes: &[u8], kind: u16) -> Option<&[u8]> {
    while let Some(&[a, b, c, d]) = attributes.first_chunk() {
        let length = usize::from(u16::from_ne_bytes([a, b]));
        let value = attributes.get(4..length)?;
        if u16::from_ne_bytes([c, d]) == kind {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
    None
}
