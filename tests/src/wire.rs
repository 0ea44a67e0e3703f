//! One end of a cable: whole frames in and out, for what no socket of the host would send, and to see what really left.

use std::{
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd, OwnedFd},
};

use etherparse::{
    IpHeaders, Ipv4Extensions, Ipv4Header, Ipv6Extensions, Ipv6Header, NetSlice, PacketBuilder, SlicedPacket,
    TransportSlice, ip_number,
};
use mcr_lab::Namespace;
use mcr_socket::{
    filter::{Filter, FilterLink, Wanted},
    packet::{self, PacketOptions, VNET_HEADER_BYTES},
};
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, recv, send, setsockopt},
};

const RECEIVE_BUFFER_BYTES: usize = 32 << 20;
const FRAME_BYTES_MAX: usize = VNET_HEADER_BYTES + (1 << 16) + 64;
/// VIRTIO_NET_HDR_F_NEEDS_CSUM of linux/virtio_net.h.
const NEEDS_CSUM: u8 = 1;

/// A packet socket on an interface.
#[derive(Debug)]
pub struct Wire(OwnedFd);

/// A frame as it came off a cable.
#[derive(Debug, Clone)]
pub struct Frame {
    /// From the Ethernet header on.
    pub bytes: Vec<u8>,
    /// Whether the sender left the UDP checksum to the device, so that it is none.
    pub checksum_is_partial: bool,
}

impl Wire {
    /// Takes part in what happens at `ifname`. It captures datagrams that come in for `wanted`, from now on.
    ///
    /// # Panics
    /// If it cannot be opened.
    pub fn open(namespace: &Namespace, ifname: &str, wanted: &[&str]) -> Self {
        let ifindex = namespace.link_index(ifname).unwrap_or_else(|error| panic!("{error}"));
        let wanted: Vec<_> = wanted
            .iter()
            .map(|text| text.parse().unwrap_or_else(|error| panic!("{text}: {error}")))
            .map(|to: SocketAddr| Wanted { destination: to.ip(), port: to.port(), source: None })
            .collect();
        let filter = Filter::compile(&wanted, FilterLink::Ethernet);
        let options = PacketOptions {
            ifindex,
            vnet_hdr: true,
            receive_buffer_bytes: RECEIVE_BUFFER_BYTES,
            filter: &filter,
            ring: None,
        };
        let opened = namespace.enter(|| packet::open(&options));
        Self(opened.unwrap_or_else(|error| panic!("{ifname}: {error}")))
    }

    /// Takes part in what happens at `ifname`, and captures everything that comes in, from now on.
    ///
    /// # Panics
    /// If it cannot be opened.
    pub fn open_for_everything(namespace: &Namespace, ifname: &str) -> Self {
        let wire = Self::open(namespace, ifname, &[]);
        let detached = setsockopt(&wire.0, options::DetachFilter, &0);
        detached.unwrap_or_else(|errno| panic!("{ifname}: {errno}"));
        wire
    }

    /// Sends a frame behind this virtio-net header, or says why the kernel refuses.
    ///
    /// # Errors
    /// What the kernel says of headers that contradict the frame.
    pub fn try_send(&self, vnet_header: [u8; VNET_HEADER_BYTES], frame: &[u8]) -> Result<(), Errno> {
        let bytes = [&vnet_header, frame].concat();
        let sent = crate::source::on_one_core(|| send(self.0.as_raw_fd(), &bytes, MsgFlags::empty()))?;
        assert_eq!(sent, bytes.len());
        Ok(())
    }

    /// Sends a frame as it is.
    ///
    /// # Panics
    /// If the kernel refuses.
    pub fn send(&self, frame: &[u8]) {
        self.send_behind([0; VNET_HEADER_BYTES], frame);
    }

    /// Sends a frame whose UDP checksum, at `udp_offset + 6`, the receiver is told to be left for the device to complete.
    ///
    /// # Panics
    /// If the kernel refuses.
    pub fn send_with_partial_checksum(&self, frame: &[u8], udp_offset: u16) {
        let [low, high] = udp_offset.to_ne_bytes();
        self.send_behind([NEEDS_CSUM, 0, 0, 0, 0, 0, low, high, 6, 0], frame);
    }

    fn send_behind(&self, vnet_header: [u8; VNET_HEADER_BYTES], frame: &[u8]) {
        assert_eq!(self.try_send(vnet_header, frame), Ok(()));
    }

    /// Everything captured so far. What is on its way is not seen: let the counters come to rest first.
    ///
    /// # Panics
    /// If it cannot be read.
    pub fn captured(&self) -> Vec<Frame> {
        let mut frames = Vec::new();
        let mut buffer = vec![0; FRAME_BYTES_MAX];
        loop {
            match recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(bytes) => frames.push(Frame {
                    bytes: buffer[VNET_HEADER_BYTES..bytes].to_vec(),
                    checksum_is_partial: buffer[0] & NEEDS_CSUM != 0,
                }),
                Err(Errno::EAGAIN) => return frames,
                Err(errno) => panic!("cannot capture: {errno}"),
            }
        }
    }
}

/// What an independent parser reads in a frame, its checksums verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed {
    /// Source address and port.
    pub from: SocketAddr,
    /// Destination address and port.
    pub to: SocketAddr,
    /// TTL or hop limit.
    pub ttl: u8,
    /// TOS or traffic class byte.
    pub traffic_class: u8,
    /// Payload of the datagram.
    pub payload: Vec<u8>,
}

impl Frame {
    /// Reads a frame of one whole datagram.
    ///
    /// # Panics
    /// If it is none, or a checksum is missing or wrong.
    #[track_caller]
    pub fn parse(&self) -> Parsed {
        assert!(!self.checksum_is_partial, "switch tx-checksum-ip-generic off to see checksums");
        let sliced = SlicedPacket::from_ethernet(&self.bytes).expect("an Ethernet frame");
        parsed(&sliced).unwrap_or_else(|| panic!("not UDP: {sliced:?}"))
    }
}

/// Reads a packet that begins with its IP header; none if it is not of UDP.
///
/// # Panics
/// If it is no IP packet, or a checksum is wrong.
#[track_caller]
pub fn parse_ip(packet: &[u8]) -> Option<Parsed> {
    parsed(&SlicedPacket::from_ip(packet).expect("an IP packet"))
}

#[track_caller]
fn parsed(sliced: &SlicedPacket<'_>) -> Option<Parsed> {
    let Some(TransportSlice::Udp(udp)) = &sliced.transport else { return None };
    let (header, payload) = (udp.to_header(), udp.payload());
    let (from, to, ttl, traffic_class, checksum): (IpAddr, IpAddr, _, _, _) = match &sliced.net {
        Some(NetSlice::Ipv4(ip)) => {
            let ip = ip.header().to_header();
            assert_eq!(ip.header_checksum, ip.calc_header_checksum(), "IPv4 header checksum");
            let class = (ip.dscp.value() << 2) | ip.ecn.value();
            let checksum = header.calc_checksum_ipv4(&ip, payload);
            (ip.source.into(), ip.destination.into(), ip.time_to_live, class, checksum)
        }
        Some(NetSlice::Ipv6(ip)) => {
            let ip = ip.header().to_header();
            let checksum = header.calc_checksum_ipv6(&ip, payload);
            (ip.source.into(), ip.destination.into(), ip.hop_limit, ip.traffic_class, checksum)
        }
        _ => return None,
    };
    assert_eq!(Ok(header.checksum), checksum, "UDP checksum");
    let (from, to) =
        (SocketAddr::new(from, header.source_port), SocketAddr::new(to, header.destination_port));
    Some(Parsed { from, to, ttl, traffic_class, payload: payload.to_vec() })
}

/// Ethernet addresses: who sends and who shall receive.
#[derive(Debug, Clone, Copy)]
pub struct Macs {
    /// The sender's.
    pub from: [u8; 6],
    /// The receiver's, for what is sent to a unicast address.
    pub to: [u8; 6],
}

impl Macs {
    /// Those of the two ends of a cable.
    ///
    /// # Panics
    /// If one has none.
    pub fn of(from: (&Namespace, &str), to: (&Namespace, &str)) -> Self {
        let mac = |(namespace, name): (&Namespace, &str)| {
            let link = namespace.link(name).unwrap_or_else(|error| panic!("{error}"));
            link.mac.expect("an Ethernet device")
        };
        Self { from: mac(from), to: mac(to) }
    }

    /// The address for what is sent to `to` (RFC 1112, 6.4; RFC 2464, 7).
    pub fn towards(self, to: IpAddr) -> [u8; 6] {
        match to {
            IpAddr::V4(group) if group.is_multicast() => {
                let [_, b, c, d] = group.octets();
                [1, 0, 0x5e, b & 0x7f, c, d]
            }
            IpAddr::V6(group) if group.is_multicast() => {
                let octets = group.octets();
                [0x33, 0x33, octets[12], octets[13], octets[14], octets[15]]
            }
            _ => self.to,
        }
    }

    /// A frame around a datagram from `from` to `to`, as an independent builder makes it.
    ///
    /// # Panics
    /// If the addresses are of two families.
    pub fn frame(self, from: &str, to: &str, payload: &[u8]) -> Vec<u8> {
        self.frame_with(from, to, payload, |_| ())
    }

    /// As [`Macs::frame`], with IP headers that `change` may add to before lengths and checksums are set.
    ///
    /// # Panics
    /// If the addresses are of two families, or the headers cannot be.
    pub fn frame_with(
        self,
        from: &str,
        to: &str,
        payload: &[u8],
        change: impl FnOnce(&mut IpHeaders),
    ) -> Vec<u8> {
        let [from, to]: [SocketAddr; 2] = [from, to].map(|text| text.parse().expect("an address and a port"));
        let mut headers = match (from.ip(), to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let ip = Ipv4Header::new(0, 16, ip_number::UDP, from.octets(), to.octets());
                IpHeaders::Ipv4(ip.expect("a short payload"), Ipv4Extensions::default())
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let ip = Ipv6Header {
                    hop_limit: 16,
                    source: from.octets(),
                    destination: to.octets(),
                    ..Ipv6Header::default()
                };
                IpHeaders::Ipv6(ip, Ipv6Extensions::default())
            }
            _ => panic!("{from} and {to} are of two families"),
        };
        change(&mut headers);
        let builder = PacketBuilder::ethernet2(self.from, self.towards(to.ip()));
        let mut frame = Vec::new();
        let written = builder.ip(headers).udp(from.port(), to.port()).write(&mut frame, payload);
        written.expect("a frame");
        frame
    }
}

/// Options that nix has no name for.
mod options {
    // The macro makes `pub` types; the module is private all the same.
    #![allow(unreachable_pub)]

    use nix::{setsockopt_impl, sockopt_impl};

    sockopt_impl!(
        /// Takes the filter off.
        DetachFilter, SetOnly, libc::SOL_SOCKET, libc::SO_DETACH_FILTER, i32);
}
