//! The bytes of a traced datagram as they would have been on the cable.
//!
//! A frame is shown as it came. A datagram of a superframe gets the superframe's headers with lengths, identification and checksums
//! of its own, as the NIC's would have been. What came by a UDP socket has no headers any more: it gets an IP and a UDP header made
//! of what the kernel said.

use mcr_parse::{
    Link, Verdict,
    checksum::{Parts, Sum, sum},
};
use mcr_proto::message::ReceiverKind;
use mcr_relay::engine::Arrival;
use mcr_socket::packet::VNET_HEADER_BYTES;

use super::Seen;
use crate::raw::Headers;

/// Headers of a superframe that can be adapted: Ethernet with tags, IP with options or extension headers, UDP.
const HEADERS_MAX: usize = 192;
const UDP: u16 = 17;
const IPV6_BYTES: u16 = 40;

/// Headers of its own, and what follows.
#[derive(Debug)]
pub(super) struct Packet<'a> {
    headers: [u8; HEADERS_MAX],
    header_bytes: usize,
    rest: &'a [u8],
    pub(super) payload_bytes: u32,
}

impl<'a> Packet<'a> {
    fn plain(rest: &'a [u8], payload_bytes: u32) -> Self {
        Self { headers: [0; HEADERS_MAX], header_bytes: 0, rest, payload_bytes }
    }

    pub(super) fn bytes(&self) -> usize {
        self.header_bytes + self.rest.len()
    }

    /// Its first bytes, at most so many.
    pub(super) fn snap(&self, bytes_max: u16) -> [&[u8]; 2] {
        let headers = &self.headers[..self.header_bytes.min(bytes_max.into())];
        let rest_max = usize::from(bytes_max) - headers.len();
        [headers, &self.rest[..self.rest.len().min(rest_max)]]
    }
}

/// What was received, whatever it is; nothing of what a UDP socket could not tell.
pub(super) fn of_anything<'a>(seen: &Seen<'a>) -> Packet<'a> {
    Packet::plain(frame_of(seen), 0)
}

/// The datagram of an arrival at this place.
pub(super) fn of_arrival<'a>(seen: &Seen<'a>, arrival: &Arrival, index: u32) -> Packet<'a> {
    let segment = u32::from(arrival.segment);
    let start = index * segment;
    let bytes = if segment == 0 { arrival.bytes } else { arrival.bytes.saturating_sub(start).min(segment) };
    let from = (arrival.offset + start) as usize;
    let payload = seen.datagram.payload.get(from..from + bytes as usize).unwrap_or_default();
    match seen.origin.kind {
        ReceiverKind::Udp { .. } => of_payload(arrival, payload),
        ReceiverKind::Packet { .. } if segment == 0 => Packet::plain(frame_of(seen), bytes),
        ReceiverKind::Packet { ethernet, .. } => {
            let link = if ethernet { Link::Ethernet } else { Link::RawIp };
            let frame = frame_of(seen);
            of_superframe(frame, link, index as u16, payload).unwrap_or(Packet::plain(frame, bytes))
        }
    }
}

fn frame_of<'a>(seen: &Seen<'a>) -> &'a [u8] {
    match seen.origin.kind {
        ReceiverKind::Packet { .. } => seen.datagram.payload.get(VNET_HEADER_BYTES..).unwrap_or_default(),
        ReceiverKind::Udp { .. } => &[],
    }
}

fn of_payload<'a>(arrival: &Arrival, payload: &'a [u8]) -> Packet<'a> {
    let Arrival { source, destination, hop_limit, traffic_class, .. } = *arrival;
    let mut packet = Packet::plain(payload, payload.len() as u32);
    let headers = Headers::new(source, destination, hop_limit, traffic_class, Parts::of(&[payload]));
    if let Ok(headers) = &headers {
        let headers = headers.as_slice();
        packet.headers[..headers.len()].copy_from_slice(headers);
        packet.header_bytes = headers.len();
    }
    packet
}

/// None if the headers are longer than any that superframes have.
fn of_superframe<'a>(frame: &'a [u8], link: Link, index: u16, payload: &'a [u8]) -> Option<Packet<'a>> {
    let verdict = mcr_parse::parse(frame, link).ok()?;
    let header_bytes = verdict.payload_offset();
    let mut packet = Packet::plain(payload, payload.len() as u32);
    packet.headers.get_mut(..header_bytes)?.copy_from_slice(frame.get(..header_bytes)?);
    packet.header_bytes = header_bytes;
    adapt(&mut packet.headers[..header_bytes], &verdict, index, payload)?;
    Some(packet)
}

/// Makes the headers of a superframe those of one of its datagrams, as segmentation does (`__udp_gso_segment` and
/// `inet_gso_segment` of the kernel).
fn adapt(headers: &mut [u8], verdict: &Verdict, index: u16, payload: &[u8]) -> Option<()> {
    let Verdict { ip_offset, udp_offset, .. } = *verdict;
    let udp_bytes = u16::try_from(headers.len() - udp_offset + payload.len()).ok()?;
    let (before, udp) = headers.split_at_mut(udp_offset);
    let ip = before.get_mut(ip_offset..)?;
    let ip_bytes = u16::try_from(ip.len()).ok()?;
    if verdict.is_ipv4() {
        put(ip, 2, ip_bytes.checked_add(udp_bytes)?)?;
        let identification = u16::from_be_bytes(*ip.get(4..)?.first_chunk()?);
        put(ip, 4, identification.wrapping_add(index))?;
        put(ip, 10, 0)?;
        let checksum = sum(ip).checksum();
        put(ip, 10, checksum)?;
    } else {
        // Extension headers count as payload (RFC 8200, section 3).
        put(ip, 4, ip_bytes.checked_sub(IPV6_BYTES)?.checked_add(udp_bytes)?)?;
    }
    put(udp, 4, udp_bytes)?;
    if verdict.udp_checksum != 0 {
        put(udp, 6, 0)?;
        let addresses = Sum::from(verdict.source.ip()) + Sum::from(verdict.destination.ip());
        let pseudo = addresses + Sum::from(UDP) + Sum::from(udp_bytes);
        // 0 would say that there is none (RFC 768).
        let checksum = match (pseudo + sum(udp) + sum(payload)).checksum() {
            0 => u16::MAX,
            checksum => checksum,
        };
        put(udp, 6, checksum)?;
    }
    Some(())
}

fn put(bytes: &mut [u8], at: usize, value: u16) -> Option<()> {
    bytes.get_mut(at..at + 2)?.copy_from_slice(&value.to_be_bytes());
    Some(())
}

#[cfg(test)]
mod tests {
    use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};

    use super::*;

    /// Bytes of each datagram, and of the last.
    const SIZES: [usize; 3] = [1001, 1001, 7];

    fn superframe(v4: bool) -> (Vec<u8>, Vec<Vec<u8>>) {
        let payloads: Vec<Vec<u8>> =
            SIZES.iter().enumerate().map(|(index, bytes)| vec![index as u8 + 1; *bytes]).collect();
        let ethernet = PacketBuilder::ethernet2([2; 6], [4; 6]);
        let ip = match v4 {
            true => ethernet.ipv4([10, 0, 0, 9], [239, 1, 1, 1], 7),
            false => ethernet.ipv6([1; 16], [255; 16], 7),
        };
        let mut frame = Vec::new();
        ip.udp(4000, 5000).write(&mut frame, &payloads.concat()).expect("memory");
        (frame, payloads)
    }

    #[test]
    fn a_datagram_of_a_superframe_is_what_an_independent_parser_takes_for_whole() {
        for v4 in [true, false] {
            let (frame, payloads) = superframe(v4);
            for (index, payload) in payloads.iter().enumerate() {
                let packet =
                    of_superframe(&frame, Link::Ethernet, index as u16, payload).expect("short headers");
                let bytes = packet.snap(u16::MAX).concat();
                assert_eq!(bytes.len(), packet.bytes());
                let sliced = SlicedPacket::from_ethernet(&bytes).expect("a frame");
                let Some(TransportSlice::Udp(udp)) = &sliced.transport else { panic!("not UDP") };
                assert_eq!(udp.payload(), payload);
                let header = udp.to_header();
                let checksum = match &sliced.net {
                    Some(NetSlice::Ipv4(ip)) => {
                        let ip = ip.header().to_header();
                        assert_eq!(ip.header_checksum, ip.calc_header_checksum());
                        assert_eq!(usize::from(ip.identification), index);
                        header.calc_checksum_ipv4(&ip, payload)
                    }
                    Some(NetSlice::Ipv6(ip)) => header.calc_checksum_ipv6(&ip.header().to_header(), payload),
                    _ => panic!("not IP"),
                };
                assert_eq!(Ok(header.checksum), checksum);
            }
        }
    }

    #[test]
    fn a_snap_ends_where_it_was_told_to_whichever_part_that_is_in() {
        let (frame, payloads) = superframe(true);
        let packet = of_superframe(&frame, Link::Ethernet, 0, &payloads[0]).expect("short headers");
        let whole = packet.snap(u16::MAX).concat();
        for bytes in [0, 1, 41, 42, 43, 1042, 1043, 1044] {
            assert_eq!(packet.snap(bytes).concat(), whole[..usize::from(bytes).min(whole.len())]);
        }
    }
}
