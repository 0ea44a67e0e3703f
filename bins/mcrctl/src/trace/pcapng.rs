//! Frames in a file as Wireshark reads it: pcapng (draft-ietf-opsawg-pcapng), written in little-endian order.
//!
//! One section, an interface block for each interface and kind of frame as they come, and an enhanced packet block for each
//! datagram: its time in nanoseconds, its direction and kind of reception, and as a comment the rule and what became of its copies.

use std::{
    io::{self, Write},
    net::IpAddr,
};

use mcr_proto::rpc::{TRACE_SNAP_BYTES_MAX, TraceLink, TraceRecord};

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const PACKET: u32 = 6;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;

const OPTION_COMMENT: u16 = 1;
const SECTION_PROGRAM: u16 = 4;
const INTERFACE_NAME: u16 = 2;
const INTERFACE_RESOLUTION: u16 = 9;
const PACKET_FLAGS: u16 = 2;

/// LINKTYPE_ETHERNET and LINKTYPE_RAW: an IPv4 or IPv6 header comes first.
const LINK_ETHERNET: u16 = 1;
const LINK_RAW: u16 = 101;

const INBOUND: u32 = 1;
const UNICAST: u32 = 1 << 2;
const MULTICAST: u32 = 2 << 2;
const BROADCAST: u32 = 3 << 2;

/// Of a comment; a rule may have a thousand outputs.
const COMMENT_BYTES_MAX: usize = 4096;

/// A capture being written, always to the same output.
#[derive(Debug)]
pub(crate) struct Capture {
    interfaces: Vec<(String, TraceLink)>,
}

impl Capture {
    /// Begins with the section's header.
    pub(crate) fn begin(out: &mut dyn Write) -> io::Result<Self> {
        let mut body = Vec::new();
        body.extend(BYTE_ORDER.to_le_bytes());
        body.extend(1_u16.to_le_bytes());
        body.extend(0_u16.to_le_bytes());
        // How long the section is, is not known.
        body.extend(u64::MAX.to_le_bytes());
        option(&mut body, SECTION_PROGRAM, concat!("mcrctl ", env!("CARGO_PKG_VERSION")).as_bytes());
        end_options(&mut body);
        write_block(out, SECTION, &body)?;
        Ok(Self { interfaces: Vec::new() })
    }

    /// Adds a datagram.
    pub(crate) fn add(&mut self, out: &mut dyn Write, record: &TraceRecord) -> io::Result<()> {
        let interface = self.interface(out, record)?;
        let frame = unhex(&record.frame);
        let time_ns = record.time_ns;
        let mut body = Vec::with_capacity(64 + frame.len());
        // The upper half of the time comes first.
        let numbers =
            [interface, (time_ns >> 32) as u32, time_ns as u32, frame.len() as u32, record.frame_bytes];
        numbers.iter().for_each(|number| body.extend(number.to_le_bytes()));
        body.extend(&frame);
        pad(&mut body);
        option(&mut body, OPTION_COMMENT, comment(record).as_bytes());
        option(&mut body, PACKET_FLAGS, &flags(record).to_le_bytes());
        end_options(&mut body);
        write_block(out, PACKET, &body)
    }

    /// The number of the interface a record came by, which is described the first time.
    fn interface(&mut self, out: &mut dyn Write, record: &TraceRecord) -> io::Result<u32> {
        let known = self.interfaces.iter();
        let mut known = known.map(|(name, link)| (name.as_str(), *link));
        if let Some(index) = known.position(|known| known == (record.interface.as_str(), record.link)) {
            return Ok(index as u32);
        }
        let link = match record.link {
            TraceLink::Ethernet => LINK_ETHERNET,
            TraceLink::Ip => LINK_RAW,
        };
        let mut body = Vec::new();
        body.extend(link.to_le_bytes());
        body.extend(0_u16.to_le_bytes());
        body.extend(u32::from(TRACE_SNAP_BYTES_MAX).to_le_bytes());
        option(&mut body, INTERFACE_NAME, record.interface.as_bytes());
        // Powers of ten: nanoseconds.
        option(&mut body, INTERFACE_RESOLUTION, &[9]);
        end_options(&mut body);
        write_block(out, INTERFACE, &body)?;
        self.interfaces.push((record.interface.clone(), record.link));
        Ok(self.interfaces.len() as u32 - 1)
    }
}

fn comment(record: &TraceRecord) -> String {
    let mut parts = Vec::new();
    parts.extend(record.rule.as_ref().map(|rule| format!("rule {rule}")));
    parts.extend(record.drop.as_ref().map(|drop| format!("dropped: {drop}")));
    parts.extend(record.outputs.iter().map(|output| {
        let errno = output.errno.as_ref().map(|errno| format!(" ({errno})")).unwrap_or_default();
        format!("{} {}{errno}", output.output, output.outcome)
    }));
    let mut text = String::new();
    for (index, part) in parts.iter().enumerate() {
        if text.len() + part.len() > COMMENT_BYTES_MAX {
            text += &format!("; and {} more", parts.len() - index);
            break;
        }
        text += if index > 0 { "; " } else { "" };
        text += part;
    }
    text
}

fn flags(record: &TraceRecord) -> u32 {
    let reception = match record.destination.map(|destination| destination.ip()) {
        None => 0,
        Some(IpAddr::V4(to)) if to.is_broadcast() => BROADCAST,
        Some(to) if to.is_multicast() => MULTICAST,
        Some(_) => UNICAST,
    };
    INBOUND | reception
}

/// A block has its length before and behind it.
fn write_block(out: &mut dyn Write, kind: u32, body: &[u8]) -> io::Result<()> {
    let length = body.len() as u32 + 12;
    for bytes in [&kind.to_le_bytes()[..], &length.to_le_bytes(), body, &length.to_le_bytes()] {
        out.write_all(bytes)?;
    }
    Ok(())
}

fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    body.extend(code.to_le_bytes());
    body.extend((value.len() as u16).to_le_bytes());
    body.extend(value);
    pad(body);
}

fn end_options(body: &mut Vec<u8>) {
    body.extend([0; 4]);
}

/// Everything begins at a multiple of four bytes.
fn pad(body: &mut Vec<u8>) {
    body.resize(body.len().next_multiple_of(4), 0);
}

/// Bytes of hexadecimal digits, as far as they are some.
fn unhex(text: &str) -> Vec<u8> {
    let pairs = text.as_bytes().chunks_exact(2);
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    pairs.map_while(byte).collect()
}

#[cfg(test)]
mod tests {
    use pcap_parser::{Block, PcapBlockOwned, PcapError, PcapNGReader, traits::PcapReaderIterator};

    use super::*;
    use crate::trace::tests::record;

    type ReadPacket = (u32, u64, u32, Vec<u8>, Vec<(u16, Vec<u8>)>);

    /// What another's reader finds: link types by interface, and of each packet interface, time, lengths, bytes and options.
    #[derive(Debug, Default, PartialEq)]
    struct Read {
        links: Vec<(i32, String, u8)>,
        packets: Vec<ReadPacket>,
    }

    fn read(bytes: &[u8]) -> Read {
        let mut reader = PcapNGReader::new(1 << 16, bytes).expect("a section");
        let mut read = Read::default();
        loop {
            match reader.next() {
                Ok((offset, block)) => {
                    match block {
                        PcapBlockOwned::NG(Block::InterfaceDescription(block)) => {
                            let name = block.if_name().expect("an option").expect("text").to_owned();
                            read.links.push((block.linktype.0, name, block.if_tsresol));
                        }
                        PcapBlockOwned::NG(Block::EnhancedPacket(block)) => {
                            let options = block.options.iter().filter(|option| option.code.0 != 0);
                            let options = options.map(|option| (option.code.0, option.value.to_vec()));
                            let time = u64::from(block.ts_high) << 32 | u64::from(block.ts_low);
                            let data = block.data[..block.caplen as usize].to_vec();
                            read.packets.push((block.if_id, time, block.origlen, data, options.collect()));
                        }
                        PcapBlockOwned::NG(Block::SectionHeader(_)) => {}
                        _ => panic!("a block that was not written"),
                    }
                    reader.consume(offset);
                }
                Err(PcapError::Eof) => return read,
                Err(PcapError::Incomplete(_)) => reader.refill().expect("memory"),
                Err(error) => panic!("{error:?}"),
            }
        }
    }

    #[test]
    fn an_independent_reader_finds_what_was_written() {
        let mut bytes = Vec::new();
        let mut capture = Capture::begin(&mut bytes).expect("memory");
        let raw = TraceRecord { link: TraceLink::Ip, frame: "45".into(), ..record() };
        let elsewhere = TraceRecord { interface: "eth1".into(), frame: String::new(), ..record() };
        for record in [&record(), &raw, &elsewhere, &record()] {
            capture.add(&mut bytes, record).expect("memory");
        }
        let read = read(&bytes);
        let link = |link, name: &str| (link, name.to_owned(), 9);
        assert_eq!(read.links, [link(1, "eth0"), link(101, "eth0"), link(1, "eth1")]);
        assert_eq!(read.packets.iter().map(|packet| packet.0).collect::<Vec<_>>(), [0, 1, 2, 0]);
        let (_, time, length, data, options) = &read.packets[0];
        assert_eq!((*time, *length), (1_000_000_000_123_456_789, 60));
        assert_eq!(data, &[1, 0, 0x5e, 1, 1, 1, 2, 0, 0, 0, 0, 9, 8, 0, 0x45]);
        let text = "rule video; 239.2.2.2:6000@eth1 sent; 10.0.0.1:6 no_route (ENETUNREACH)";
        let mut comment = options[0].1.clone();
        comment.truncate(text.len());
        assert_eq!((options[0].0, String::from_utf8(comment).expect("text")), (1, text.to_owned()));
        assert_eq!(options[1], (2, vec![1 | 2 << 2, 0, 0, 0]));
        assert_eq!(read.packets[1].3, [0x45]);
        assert_eq!(read.packets[2].3, [0_u8; 0]);
    }

    #[test]
    fn a_rule_of_a_thousand_outputs_has_a_comment_that_ends() {
        let output = record().outputs[0].clone();
        let long = TraceRecord { outputs: vec![output; 1000], ..record() };
        let text = comment(&long);
        assert!(text.len() < COMMENT_BYTES_MAX + 30, "{}", text.len());
        assert!(text.ends_with(" more"), "{text}");
    }
}
