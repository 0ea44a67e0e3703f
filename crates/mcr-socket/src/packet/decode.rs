//! What the kernel tells of a frame besides its bytes. Total: any bytes give a value or `None`, nothing allocates.

use crate::cmsg;

/// Bytes of a [`VnetHeader`].
pub const VNET_HEADER_BYTES: usize = 10;

const TP_STATUS_CSUMNOTREADY: u32 = 1 << 3;
const TP_STATUS_VLAN_VALID: u32 = 1 << 4;
const TP_STATUS_VLAN_TPID_VALID: u32 = 1 << 6;
const TP_STATUS_CSUM_VALID: u32 = 1 << 7;
const TP_STATUS_TS_SOFTWARE: u32 = 1 << 29;

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().map(|two| u16::from_ne_bytes(*two))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|four| u32::from_ne_bytes(*four))
}

/// `struct tpacket_auxdata`, the control message PACKET_AUXDATA (packet(7)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AuxData {
    /// Status bits, as they came.
    pub status: u32,
    /// Length of the frame on the interface.
    pub frame_bytes: u32,
    /// How much of it was given to the socket.
    pub captured_bytes: u32,
    /// Where the link-layer header starts.
    pub mac_offset: u16,
    /// Where the network header starts.
    pub network_offset: u16,
    tci: u16,
    tpid: u16,
}

impl AuxData {
    /// Finds it among the control messages of one `recvmsg(2)`.
    pub fn parse(control: &[u8]) -> Option<Self> {
        let (_, _, data) = cmsg::messages(control)
            .find(|(level, kind, _)| (*level, *kind) == (libc::SOL_PACKET, libc::PACKET_AUXDATA))?;
        Self::from_data(data)
    }

    /// Reads the 20 bytes of the struct itself.
    pub fn from_data(data: &[u8]) -> Option<Self> {
        Some(Self {
            status: u32_at(data, 0)?,
            frame_bytes: u32_at(data, 4)?,
            captured_bytes: u32_at(data, 8)?,
            mac_offset: u16_at(data, 12)?,
            network_offset: u16_at(data, 14)?,
            tci: u16_at(data, 16)?,
            tpid: u16_at(data, 18)?,
        })
    }

    /// Reads a ring's `struct tpacket2_hdr`, which says the same in another order.
    pub fn from_ring_header(header: &[u8]) -> Option<Self> {
        Some(Self {
            status: u32_at(header, 0)?,
            frame_bytes: u32_at(header, 4)?,
            captured_bytes: u32_at(header, 8)?,
            mac_offset: u16_at(header, 12)?,
            network_offset: u16_at(header, 14)?,
            // Seconds and nanoseconds come before.
            tci: u16_at(header, 24)?,
            tpid: u16_at(header, 26)?,
        })
    }

    /// When the kernel received the frame, in nanoseconds since 1970, from a ring's `struct tpacket2_hdr`. The kernel writes it into
    /// every header (tpacket_rcv), by its own clock unless PACKET_TIMESTAMP says otherwise.
    pub fn ring_time_ns(header: &[u8]) -> Option<u64> {
        let (seconds, nanoseconds) = (u32_at(header, 16)?, u32_at(header, 20)?);
        Some(u64::from(seconds) * 1_000_000_000 + u64::from(nanoseconds))
    }

    /// As [`AuxData::ring_time_ns`], if that is the stamp that the frame bears for everybody who sees it, and not a look at the clock of this
    /// socket's own: the kernel stamps frames only while somebody wants it ([`stamp`](crate::stamp)).
    pub fn ring_stamp_ns(header: &[u8]) -> Option<u64> {
        (u32_at(header, 0)? & TP_STATUS_TS_SOFTWARE != 0).then(|| Self::ring_time_ns(header))?
    }

    /// The transport checksum is not filled in yet: it says nothing, and must not be copied.
    pub fn checksum_not_ready(&self) -> bool {
        self.status & TP_STATUS_CSUMNOTREADY != 0
    }

    /// The transport checksum has been verified by the NIC or the kernel.
    pub fn checksum_valid(&self) -> bool {
        self.status & TP_STATUS_CSUM_VALID != 0
    }

    /// The tag control information of a VLAN tag the kernel took out of the frame: priority, DEI, 12 bits of id.
    pub fn vlan_tci(&self) -> Option<u16> {
        (self.status & TP_STATUS_VLAN_VALID != 0).then_some(self.tci)
    }

    /// The protocol id of that tag: 0x8100, or 0x88a8 for a service tag.
    pub fn vlan_tpid(&self) -> Option<u16> {
        (self.status & TP_STATUS_VLAN_TPID_VALID != 0).then_some(self.tpid)
    }
}

/// `struct virtio_net_hdr`, in front of each frame of a socket opened with `vnet_hdr`. Numbers in host byte order
/// (af_packet uses the legacy layout, whose order is the host's).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VnetHeader {
    /// The transport checksum is partial: it covers the pseudo header only.
    pub needs_csum: bool,
    /// The transport checksum has been verified.
    pub data_valid: bool,
    /// What kind of superframe it is, if any.
    pub gso_type: GsoType,
    /// Bytes of all headers of a superframe.
    pub hdr_len: u16,
    /// Payload bytes of each datagram but the last of a superframe.
    pub gso_size: u16,
    /// Where the checksum starts to cover, if `needs_csum`.
    pub csum_start: u16,
    /// Where it belongs, from there.
    pub csum_offset: u16,
}

/// The kind of a superframe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GsoType {
    /// A plain frame.
    None,
    /// TCP over IPv4.
    TcpV4,
    /// TCP over IPv6.
    TcpV6,
    /// One UDP datagram to be cut into IP fragments (UFO).
    UdpFragments,
    /// Many UDP datagrams of `gso_size` payload bytes each, the last maybe shorter.
    UdpL4,
    /// A kind this does not know.
    Other(u8),
}

impl VnetHeader {
    /// Reads it from the start of what was received.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let &[flags, gso, ..] = bytes.first_chunk::<VNET_HEADER_BYTES>()?;
        Some(Self {
            needs_csum: flags & 1 != 0,
            data_valid: flags & 2 != 0,
            gso_type: GsoType::new(gso),
            hdr_len: u16_at(bytes, 2)?,
            gso_size: u16_at(bytes, 4)?,
            csum_start: u16_at(bytes, 6)?,
            csum_offset: u16_at(bytes, 8)?,
        })
    }
}

impl GsoType {
    fn new(byte: u8) -> Self {
        // Bit 7 says that TCP segments may carry ECN; it is no type (virtio 1.2, section 5.1.6).
        match byte & 0x7f {
            0 => Self::None,
            1 => Self::TcpV4,
            3 => Self::UdpFragments,
            4 => Self::TcpV6,
            5 => Self::UdpL4,
            other => Self::Other(other),
        }
    }
}

/// `struct sockaddr_ll`, the address `recvmsg(2)` gives of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkAddress {
    /// The interface it came by.
    pub ifindex: u32,
    /// EtherType, in host order.
    pub protocol: u16,
    /// ARPHRD_ type of the interface: 1 Ethernet, 772 loopback, 65534 none.
    pub hatype: u16,
    /// Whom it was sent to.
    pub packet_type: PacketType,
    /// Bytes of `address` that count.
    pub address_bytes: u8,
    /// Link-layer address of the sender.
    pub address: [u8; 8],
}

/// Whom a frame was sent to (packet(7), `sll_pkttype`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketType {
    /// This host.
    Host,
    /// All.
    Broadcast,
    /// A group.
    Multicast,
    /// Another host; seen because the interface is promiscuous.
    OtherHost,
    /// Sent by this host.
    Outgoing,
    /// A kind this does not know.
    Other(u8),
}

impl LinkAddress {
    /// Reads it from what `recvmsg(2)` left in `msg_name`.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        if i32::from(u16_at(bytes, 0)?) != libc::AF_PACKET {
            return None;
        }
        let &[packet_type, address_bytes] = bytes.get(10..)?.first_chunk()?;
        Some(Self {
            ifindex: u32_at(bytes, 4)?,
            protocol: u16::from_be(u16_at(bytes, 2)?),
            hatype: u16_at(bytes, 8)?,
            packet_type: PacketType::new(packet_type),
            address_bytes: address_bytes.min(8),
            address: *bytes.get(12..)?.first_chunk()?,
        })
    }
}

impl PacketType {
    fn new(byte: u8) -> Self {
        match byte {
            0 => Self::Host,
            1 => Self::Broadcast,
            2 => Self::Multicast,
            3 => Self::OtherHost,
            4 => Self::Outgoing,
            other => Self::Other(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn auxdata(status: u32) -> Vec<u8> {
        let mut data = [status, 1500, 1400].map(u32::to_ne_bytes).concat();
        data.extend([0u16, 14, 0xa005, 0x8100].map(u16::to_ne_bytes).concat());
        data
    }

    #[test]
    fn auxdata_is_found_behind_other_control_messages() {
        let mut control = cmsg::message(libc::SOL_SOCKET, libc::SO_TIMESTAMP, &[0; 16]);
        control.extend(cmsg::message(libc::SOL_PACKET, libc::PACKET_AUXDATA, &auxdata(0x59)));
        let aux = AuxData::parse(&control).unwrap();
        assert_eq!((aux.frame_bytes, aux.captured_bytes, aux.network_offset), (1500, 1400, 14));
        assert!(aux.checksum_not_ready());
        assert!(!aux.checksum_valid());
        assert_eq!((aux.vlan_tci(), aux.vlan_tpid()), (Some(0xa005), Some(0x8100)));
    }

    #[test]
    fn a_ring_header_tells_the_time_and_nothing_shorter_does() {
        let mut header = [0; 32];
        header[16..20].copy_from_slice(&7u32.to_ne_bytes());
        header[20..24].copy_from_slice(&9u32.to_ne_bytes());
        assert_eq!(AuxData::ring_time_ns(&header), Some(7_000_000_009));
        assert_eq!(AuxData::ring_stamp_ns(&header), None, "it is the socket's own time");
        let mut stamped = header;
        stamped[3] = 1 << 5;
        assert_eq!(AuxData::ring_stamp_ns(&stamped), Some(7_000_000_009));
        assert_eq!((AuxData::ring_time_ns(&[]), AuxData::ring_time_ns(&header[..23])), (None, None));
    }

    #[test]
    fn vlan_fields_count_only_where_their_status_bits_are_set() {
        let aux = AuxData::from_data(&auxdata(1 << 7)).unwrap();
        assert_eq!((aux.vlan_tci(), aux.vlan_tpid()), (None, None));
        assert!(aux.checksum_valid());
        let aux = AuxData::from_data(&auxdata(1 << 4)).unwrap();
        assert_eq!((aux.vlan_tci(), aux.vlan_tpid()), (Some(0xa005), None));
    }

    #[test]
    fn a_superframe_header_gives_the_size_of_its_datagrams() {
        let words = [42u16, 1400, 34, 6].map(u16::to_ne_bytes).concat();
        let header = VnetHeader::parse(&[&[1, 0x85][..], &words, b"frame"].concat()).unwrap();
        let want = VnetHeader {
            needs_csum: true,
            data_valid: false,
            gso_type: GsoType::UdpL4,
            hdr_len: 42,
            gso_size: 1400,
            csum_start: 34,
            csum_offset: 6,
        };
        assert_eq!(header, want);
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_are_too_short(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            prop_assert_eq!(VnetHeader::parse(&bytes).is_some(), bytes.len() >= VNET_HEADER_BYTES);
            prop_assert_eq!(AuxData::from_data(&bytes).is_some(), bytes.len() >= 20);
            let link = [&(libc::AF_PACKET as u16).to_ne_bytes()[..], &bytes].concat();
            prop_assert_eq!(LinkAddress::parse(&link).is_some(), link.len() >= 20);
            if let Some(address) = LinkAddress::parse(&link) {
                prop_assert!(address.address_bytes <= 8);
            }
            AuxData::parse(&bytes);
            LinkAddress::parse(&bytes);
        }
    }
}
