//! Test frames, each with a number, made many at a time; and what must come back for each, to the byte.
//!
//! A message is up to 25 frames as one superframe, which the tester's interface cuts before they leave; the kernel gives each frame
//! its identification and checksums then. They are those that are expected here, so that every byte is compared.

use std::{
    io::IoSlice,
    net::{Ipv4Addr, SocketAddrV4},
};

use mcr_parse::{
    Tags, UdpChecksum,
    build::{ETHER_TYPE_IPV4, Ipv4Udp, ethernet, ipv4_udp},
    checksum::{Parts, Sum, sum, update},
};

/// The reflector's address.
pub(super) const REFLECTOR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// The tester's, of NetAlly's OUI.
pub(super) const TESTER_MAC: [u8; 6] = [0x00, 0xc0, 0x17, 0x54, 0x05, 0x98];
const TESTER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 10), 50_000);
const REFLECTOR: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 3842);
/// The port of traffic that is none of a reflector's business.
const FOREIGN_PORT: u16 = 53;

/// Frames of one message at most: 25 long ones fit a superframe, and 80 such messages are a burst of 2,000.
pub(super) const FRAMES_MAX: usize = 25;

// linux/virtio_net.h
const VNET_BYTES: usize = 10;
const NEEDS_CSUM: u8 = 1;
const GSO_UDP_L4: u8 = 5;
const ETHERNET_BYTES: usize = 14;
const HEADERS_BYTES: usize = ETHERNET_BYTES + 28;
const UDP_AT: u16 = 34;
/// Of the checksum in a UDP header.
const CHECKSUM_OFFSET: u16 = 6;

const IP_ID: usize = 18;
const IP_CHECKSUM: usize = 24;
const UDP_CHECKSUM: usize = 40;
/// Where a frame has its number: behind the signature, which is behind five bytes.
const NUMBER: usize = HEADERS_BYTES + 12;
const NUMBER_END: usize = NUMBER + 8;

/// Messages of frames of one length, all of them test frames or all foreign.
#[derive(Debug)]
pub(super) struct Messages {
    head: [u8; VNET_BYTES + HEADERS_BYTES],
    payload: Vec<u8>,
    payload_bytes: usize,
    frames: usize,
}

impl Messages {
    /// Messages of `frames` frames of `bytes` bytes each.
    pub(super) fn new(bytes: usize, frames: usize, foreign: bool) -> anyhow::Result<Self> {
        let one = payload(bytes, foreign);
        let payload = one.repeat(frames);
        let mut head = [0; VNET_BYTES + HEADERS_BYTES];
        let (vnet, frame) = head.split_at_mut(VNET_BYTES);
        vnet[0] = NEEDS_CSUM;
        let segment_bytes = if frames > 1 { one.len() as u16 } else { 0 };
        vnet[1] = if frames > 1 { GSO_UDP_L4 } else { 0 };
        for (at, value) in [(2, HEADERS_BYTES as u16), (4, segment_bytes), (6, UDP_AT), (8, CHECKSUM_OFFSET)]
        {
            vnet[at..at + 2].copy_from_slice(&value.to_ne_bytes());
        }
        write_headers(frame, &payload, foreign, UdpChecksum::Partial)?;
        Ok(Self { head, payload, payload_bytes: one.len(), frames })
    }

    /// How many frames a message has.
    pub(super) fn frames(&self) -> usize {
        self.frames
    }

    /// Numbers the frames of the next message from `first` on.
    pub(super) fn number(&mut self, first: u64) {
        let at = NUMBER - HEADERS_BYTES;
        for (number, payload) in (first..).zip(self.payload.chunks_exact_mut(self.payload_bytes)) {
            payload[at..at + 8].copy_from_slice(&number.to_be_bytes());
        }
        let header = &mut self.head[VNET_BYTES + ETHERNET_BYTES..][..20];
        header[4..6].copy_from_slice(&(first as u16).to_be_bytes());
        header[10..12].fill(0);
        let checksum = sum(header).checksum();
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
    }

    /// The message as a packet socket with PACKET_VNET_HDR takes it.
    pub(super) fn parts(&self) -> [IoSlice<'_>; 2] {
        [IoSlice::new(&self.head), IoSlice::new(&self.payload)]
    }
}

/// Five bytes, the signature, the number, and bytes that make a frame of this length.
fn payload(bytes: usize, foreign: bool) -> Vec<u8> {
    let signature: &[u8; 7] = if foreign { b"foreign" } else { b"DATA:OT" };
    let mut payload = [&[9, 0x10, 0xea, 0x1d, 0][..], signature, &[0; 8]].concat();
    payload.extend((HEADERS_BYTES + payload.len()..bytes).map(|at| at as u8));
    payload
}

fn write_headers(
    frame: &mut [u8],
    payload: &[u8],
    foreign: bool,
    checksum: UdpChecksum,
) -> anyhow::Result<()> {
    let mut to = REFLECTOR;
    if foreign {
        to.set_port(FOREIGN_PORT);
    }
    let at = ethernet(frame, REFLECTOR_MAC, TESTER_MAC, &Tags::default(), ETHER_TYPE_IPV4)?;
    let fields = Ipv4Udp { dont_fragment: false, ..Ipv4Udp::new(TESTER, to) };
    ipv4_udp(&mut frame[at..], &fields, Parts::of(&[payload]), checksum)?;
    Ok(())
}

/// The reply to test frames of one length, number 0; those to others differ from it in a few bytes.
#[derive(Debug)]
pub(super) struct Expected {
    reply: Vec<u8>,
    ip_checksum: u16,
    udp_checksum: u16,
}

impl Expected {
    pub(super) fn new(bytes: usize) -> anyhow::Result<Self> {
        let payload = payload(bytes, false);
        let mut reply = [0; HEADERS_BYTES].to_vec();
        write_headers(&mut reply, &payload, false, UdpChecksum::Complete)?;
        reply.extend(payload);
        for (at, width) in [(0, 6), (26, 4), (34, 2)] {
            let (source, destination) = reply[at..at + 2 * width].split_at_mut(width);
            source.swap_with_slice(destination);
        }
        let word = |at: usize| u16::from_be_bytes([reply[at], reply[at + 1]]);
        let (ip_checksum, udp_checksum) = (word(IP_CHECKSUM), word(UDP_CHECKSUM));
        Ok(Self { reply, ip_checksum, udp_checksum })
    }

    /// The number of a reply, if every byte of it is as it must be.
    pub(super) fn number(&self, frame: &[u8]) -> Option<u64> {
        if frame.len() != self.reply.len() {
            return None;
        }
        let number: [u8; 8] = *frame.get(NUMBER..)?.first_chunk()?;
        let id = u64::from_be_bytes(number) as u16;
        let ip_checksum = update(self.ip_checksum, Sum::ZERO, Sum::from(id));
        let udp_checksum = match update(self.udp_checksum, Sum::ZERO, sum(&number)) {
            0 => u16::MAX,
            checksum => checksum,
        };
        let same = |from: usize, to: usize| frame[from..to] == self.reply[from..to];
        let right = frame[IP_ID..IP_ID + 2] == id.to_be_bytes()
            && frame[IP_CHECKSUM..IP_CHECKSUM + 2] == ip_checksum.to_be_bytes()
            && frame[UDP_CHECKSUM..UDP_CHECKSUM + 2] == udp_checksum.to_be_bytes()
            && same(0, IP_ID)
            && same(IP_ID + 2, IP_CHECKSUM)
            && same(IP_CHECKSUM + 2, UDP_CHECKSUM)
            && same(UDP_CHECKSUM + 2, NUMBER)
            && same(NUMBER_END, frame.len());
        right.then(|| u64::from_be_bytes(number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frame and reply of a number, made the long way.
    fn reply(bytes: usize, number: u64) -> Vec<u8> {
        let mut payload = payload(bytes, false);
        payload[12..20].copy_from_slice(&number.to_be_bytes());
        let mut frame = vec![0; HEADERS_BYTES];
        let fields = Ipv4Udp {
            dont_fragment: false,
            identification: number as u16,
            ..Ipv4Udp::new(TESTER, REFLECTOR)
        };
        ethernet(&mut frame, REFLECTOR_MAC, TESTER_MAC, &Tags::default(), ETHER_TYPE_IPV4).unwrap();
        ipv4_udp(&mut frame[ETHERNET_BYTES..], &fields, Parts::of(&[&payload]), UdpChecksum::Complete)
            .unwrap();
        frame.extend(payload);
        for (at, width) in [(0, 6), (26, 4), (34, 2)] {
            let (source, destination) = frame[at..at + 2 * width].split_at_mut(width);
            source.swap_with_slice(destination);
        }
        frame
    }

    #[test]
    fn the_right_reply_of_every_number_is_recognised() {
        for bytes in [128, 1514] {
            let expected = Expected::new(bytes).unwrap();
            for number in (0..70_000).chain([u64::MAX, 0xffff_ffff_ffff, 1 << 40]) {
                let reply = reply(bytes, number);
                assert_eq!(reply.len(), bytes);
                assert_eq!(expected.number(&reply), Some(number));
            }
        }
    }

    #[test]
    fn a_reply_with_any_byte_wrong_or_cut_is_not_recognised() {
        let expected = Expected::new(128).unwrap();
        let right = reply(128, 77);
        for at in 0..right.len() {
            let mut wrong = right.clone();
            wrong[at] ^= 1;
            assert_eq!(expected.number(&wrong), None, "byte {at}");
        }
        assert_eq!(expected.number(&right[..127]), None);
        assert_eq!(expected.number(&[]), None);
    }
}
