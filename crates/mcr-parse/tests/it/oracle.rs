//! The oracles: etherparse for the parser, plain arithmetic for the rewriter. Shared by the property tests and the fuzz
//! targets, so that both hold the crate to one standard.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use etherparse::{
    EtherType, Ipv6ExtensionSlice, LinkExtSlice, LinkSlice, NetSlice, SlicedPacket, TransportSlice,
};
use mcr_parse::{
    Changes, EXTENSION_HEADERS_MAX, Link, Malformed, Reject, RewriteError, Tag, Tags, UdpChecksum, Verdict,
    ipv4_header_checksum_is_valid, parse, rewrite, udp_checksum_is_valid,
};

/// What etherparse, read strictly, says of a frame.
#[derive(Debug)]
enum Claim {
    /// A whole UDP datagram, as the fields of a verdict.
    Datagram(Datagram),
    /// A UDP length of 0, which etherparse takes as "to the end".
    UdpLengthZero,
    /// A fragment, and whether what it is a part of is UDP.
    Fragment { udp: bool },
    /// Well-formed, no UDP.
    Other,
    /// Something etherparse lets pass and this crate must not.
    Refused,
    /// Not well-formed.
    Error,
}

#[derive(Debug, PartialEq, Eq)]
struct Datagram {
    source: SocketAddr,
    destination: SocketAddr,
    ip_offset: usize,
    udp_offset: usize,
    payload: std::ops::Range<usize>,
    tags: Tags,
    udp_checksum: u16,
    hop_limit: u8,
    traffic_class: u8,
    authenticated: bool,
}

impl From<Verdict> for Datagram {
    fn from(verdict: Verdict) -> Datagram {
        Datagram {
            source: verdict.source,
            destination: verdict.destination,
            ip_offset: verdict.ip_offset,
            udp_offset: verdict.udp_offset,
            payload: verdict.payload(),
            tags: verdict.tags,
            udp_checksum: verdict.udp_checksum,
            hop_limit: verdict.hop_limit,
            traffic_class: verdict.traffic_class,
            authenticated: verdict.authenticated,
        }
    }
}

/// Parses `frame` twice and panics where the two parsers do not agree.
pub(crate) fn check_parse(frame: &[u8], link: Link) {
    let ours = parse(frame, link);
    let theirs = claim(frame, link);
    let agree = match (&theirs, ours) {
        (Claim::Datagram(theirs), Ok(ours)) => *theirs == Datagram::from(ours),
        (Claim::UdpLengthZero, Err(reject)) => reject == Reject::Malformed(Malformed::UdpLength),
        (Claim::Fragment { udp: true }, Err(reject)) => reject == Reject::Fragment,
        (Claim::Fragment { udp: false }, Err(reject)) => matches!(reject, Reject::Fragment | Reject::NotUdp),
        (Claim::Other, Err(reject)) => reject == Reject::NotUdp,
        (Claim::Refused | Claim::Error, Err(_)) => true,
        _ => false,
    };
    assert!(agree, "etherparse: {theirs:?}\nmcr-parse: {ours:?}\nframe: {frame:02x?}");
    if let Ok(verdict) = ours {
        check_verification(frame, &verdict);
    }
}

fn claim(frame: &[u8], link: Link) -> Claim {
    let sliced = match link {
        Link::Ethernet => SlicedPacket::from_ethernet(frame),
        Link::RawIp => SlicedPacket::from_ip(frame),
    };
    let Ok(packet) = sliced else { return Claim::Error };
    let Some(tags) = tags_of(&packet) else { return Claim::Other };
    let (source, destination, ip, hop_limit, traffic_class, authenticated) = match &packet.net {
        Some(NetSlice::Ipv4(ipv4)) => {
            let header = ipv4.header();
            (
                IpAddr::V4(header.source_addr()),
                IpAddr::V4(header.destination_addr()),
                // The header borrows from the slice, so its place in the frame is found from the frame's own bytes.
                ip_offset(link, tags),
                header.ttl(),
                header.dcp().value() << 2 | header.ecn().value(),
                ipv4.extensions().auth.is_some(),
            )
        }
        Some(NetSlice::Ipv6(ipv6)) => {
            let header = ipv6.header();
            let mut authenticated = false;
            let mut refused =
                header.payload_length() == 0 && ipv6.payload().ip_number == etherparse::IpNumber::UDP;
            for (walked, extension) in ipv6.extensions().clone().into_iter().enumerate() {
                refused |= walked >= EXTENSION_HEADERS_MAX || header.payload_length() == 0;
                match extension {
                    Ipv6ExtensionSlice::Routing(routing) => refused |= routing.payload()[1] != 0,
                    Ipv6ExtensionSlice::Authentication(_) => authenticated = true,
                    _ => {}
                }
            }
            if refused {
                return Claim::Refused;
            }
            (
                IpAddr::V6(header.source_addr()),
                IpAddr::V6(header.destination_addr()),
                ip_offset(link, tags),
                header.hop_limit(),
                header.traffic_class(),
                authenticated,
            )
        }
        _ => return Claim::Other,
    };
    let is_udp = packet.ip_payload().is_some_and(|payload| payload.ip_number == etherparse::IpNumber::UDP);
    if packet.is_ip_payload_fragmented() {
        return Claim::Fragment { udp: is_udp };
    }
    let Some(TransportSlice::Udp(udp)) = &packet.transport else { return Claim::Other };
    if udp.length() == 0 {
        return Claim::UdpLengthZero;
    }
    let udp_offset = udp.slice().as_ptr() as usize - frame.as_ptr() as usize;
    let payload_offset = udp.payload().as_ptr() as usize - frame.as_ptr() as usize;
    Claim::Datagram(Datagram {
        source: SocketAddr::new(source, udp.source_port()),
        destination: SocketAddr::new(destination, udp.destination_port()),
        ip_offset: ip,
        udp_offset,
        payload: payload_offset..payload_offset + udp.payload().len(),
        tags,
        udp_checksum: udp.checksum(),
        hop_limit,
        traffic_class,
        authenticated,
    })
}

fn ip_offset(link: Link, tags: Tags) -> usize {
    match link {
        Link::Ethernet => 14 + 4 * tags.len(),
        Link::RawIp => 0,
    }
}

/// The tags etherparse saw; `None` if there is anything else, or too many of them, between Ethernet and IP.
fn tags_of(packet: &SlicedPacket<'_>) -> Option<Tags> {
    let mut tpid = match &packet.link {
        Some(LinkSlice::Ethernet2(ethernet)) => ethernet.ether_type(),
        _ => EtherType(0),
    };
    let mut tags = Vec::new();
    for extension in &packet.link_exts {
        let LinkExtSlice::Vlan(vlan) = extension else { return None };
        let header = vlan.header_slice();
        tags.push(Tag { tpid: tpid.0, tci: u16::from_be_bytes([header[0], header[1]]) });
        tpid = vlan.ether_type();
    }
    Tags::new(&tags)
}

/// The verifier must say what plain arithmetic says.
fn check_verification(frame: &[u8], verdict: &Verdict) {
    let udp_is_valid = match verdict.udp_checksum {
        0 => verdict.is_ipv4(),
        _ => normal(udp_residual(frame, verdict)) == 0,
    };
    assert_eq!(udp_checksum_is_valid(frame, verdict), udp_is_valid);
    let header_is_valid = !verdict.is_ipv4() || normal(naive_sum(&[ipv4_header(frame, verdict)])) == 0;
    assert_eq!(ipv4_header_checksum_is_valid(frame, verdict), header_is_valid);
}

/// Rewrites `frame` and panics unless exactly the asked fields changed and every checksum is as right, or as wrong, as it was
/// before. A frame that does not parse is passed over.
pub(crate) fn check_rewrite(frame: &[u8], link: Link, changes: &Changes, state: UdpChecksum) {
    let Ok(before) = parse(frame, link) else { return };
    let mut after = frame.to_vec();
    let result = rewrite(&mut after, &before, changes, state);
    if let Err(expected) = allowed(&before, changes) {
        assert_eq!(result, Err(expected));
        assert_eq!(after, frame, "a refused rewrite left its mark");
        return;
    }
    assert_eq!(result, Ok(()));
    let mut by_hand = frame.to_vec();
    set_fields(&mut by_hand, &before, changes);
    assert_eq!(without_checksums(&after, &before), without_checksums(&by_hand, &before));
    let verdict = parse(&after, link).expect("a rewritten frame still parses");
    assert_eq!(verdict.payload(), before.payload());
    if before.is_ipv4() {
        check_field(ipv4_field(frame, &before), ipv4_field(&after, &before), Form::Complement);
    }
    let form = match state {
        UdpChecksum::Partial => Form::Folded,
        UdpChecksum::Complete => Form::Udp,
    };
    check_field(udp_field(frame, &before, state), udp_field(&after, &verdict, state), form);
}

/// How a sum stands in a checksum field.
#[derive(Clone, Copy, PartialEq)]
enum Form {
    Complement,
    Folded,
    Udp,
}

/// A checksum field and the folded sum of what it covers.
#[derive(Clone, Copy)]
struct Field {
    value: u16,
    covered: u16,
}

fn check_field(before: Field, after: Field, form: Form) {
    let scratch = |field: Field| match form {
        Form::Folded => field.covered,
        Form::Complement => !field.covered,
        Form::Udp if !field.covered == 0 => 0xffff,
        Form::Udp => !field.covered,
    };
    if form == Form::Udp && before.value == 0 {
        assert_eq!(after.value, 0, "an unused checksum came into use");
        return;
    }
    if before.value == scratch(before) {
        assert_eq!(after.value, scratch(after), "not what summing from scratch gives");
    }
    assert!(form != Form::Udp || after.value != 0, "a used checksum became unused");
    let error = |field: Field| {
        let value = if form == Form::Folded { !field.value } else { field.value };
        normal(fold(u32::from(value) + u32::from(field.covered)))
    };
    assert_eq!(error(before), error(after), "damage was hidden or done");
}

fn allowed(before: &Verdict, changes: &Changes) -> Result<(), RewriteError> {
    let addresses = [changes.source_address, changes.destination_address];
    let ports = [changes.source_port, changes.destination_port];
    if changes.dscp.is_some_and(|dscp| dscp > 63) {
        Err(RewriteError::Dscp)
    } else if before.authenticated
        && (addresses.iter().any(Option::is_some) || ports.iter().any(Option::is_some))
    {
        Err(RewriteError::Authenticated)
    } else if addresses.iter().flatten().any(|address| address.is_ipv4() != before.is_ipv4()) {
        Err(RewriteError::Family)
    } else {
        Ok(())
    }
}

/// Sets the fields byte by byte, checksums aside.
fn set_fields(frame: &mut [u8], verdict: &Verdict, changes: &Changes) {
    let ip = &mut frame[verdict.ip_offset..];
    let (hop_limit, source, address_bytes) = if verdict.is_ipv4() { (8, 12, 4) } else { (7, 8, 16) };
    if let Some(value) = changes.hop_limit {
        ip[hop_limit] = value;
    }
    if let Some(dscp) = changes.dscp {
        if verdict.is_ipv4() {
            ip[1] = dscp * 4 + verdict.ecn();
        } else {
            let class = dscp * 4 + verdict.ecn();
            ip[0] = 0x60 + class / 16;
            ip[1] = class % 16 * 16 + ip[1] % 16;
        }
    }
    for (address, at) in
        [(changes.source_address, source), (changes.destination_address, source + address_bytes)]
    {
        match address {
            None => {}
            Some(IpAddr::V4(address)) => ip[at..at + 4].copy_from_slice(&address.octets()),
            Some(IpAddr::V6(address)) => ip[at..at + 16].copy_from_slice(&address.octets()),
        }
    }
    let udp = &mut frame[verdict.udp_offset..];
    for (port, at) in [(changes.source_port, 0), (changes.destination_port, 2)] {
        if let Some(port) = port {
            udp[at..at + 2].copy_from_slice(&port.to_be_bytes());
        }
    }
}

fn without_checksums(frame: &[u8], verdict: &Verdict) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[verdict.udp_offset + 6..verdict.udp_offset + 8].fill(0);
    if verdict.is_ipv4() {
        frame[verdict.ip_offset + 10..verdict.ip_offset + 12].fill(0);
    }
    frame
}

fn ipv4_header<'a>(frame: &'a [u8], verdict: &Verdict) -> &'a [u8] {
    let header_bytes = usize::from(frame[verdict.ip_offset] & 15) * 4;
    &frame[verdict.ip_offset..verdict.ip_offset + header_bytes]
}

fn ipv4_field(frame: &[u8], verdict: &Verdict) -> Field {
    let blank = without_checksums(frame, verdict);
    let at = verdict.ip_offset + 10;
    let value = u16::from_be_bytes([frame[at], frame[at + 1]]);
    Field { value, covered: naive_sum(&[ipv4_header(&blank, verdict)]) }
}

fn udp_field(frame: &[u8], verdict: &Verdict, state: UdpChecksum) -> Field {
    let blank = without_checksums(frame, verdict);
    let pseudo = pseudo_header(verdict);
    let covered = match state {
        UdpChecksum::Partial => naive_sum(&[&pseudo]),
        UdpChecksum::Complete => naive_sum(&[&pseudo, &blank[verdict.udp()]]),
    };
    Field { value: verdict.udp_checksum, covered }
}

fn udp_residual(frame: &[u8], verdict: &Verdict) -> u16 {
    naive_sum(&[&pseudo_header(verdict), &frame[verdict.udp()]])
}

/// RFC 768 for IPv4; RFC 8200, section 8.1, for IPv6. Word for word, without the zeros.
fn pseudo_header(verdict: &Verdict) -> Vec<u8> {
    let mut bytes = Vec::new();
    for address in [verdict.source.ip(), verdict.destination.ip()] {
        match address {
            IpAddr::V4(address) => bytes.extend(address.octets()),
            IpAddr::V6(address) => bytes.extend(Ipv6Addr::octets(&address)),
        }
    }
    let udp_bytes = verdict.udp().len() as u16;
    bytes.extend([0, 17]);
    bytes.extend(udp_bytes.to_be_bytes());
    bytes
}

/// RFC 1071 to the letter: one word after another, the carry added as it comes. Parts but the last have even lengths.
pub(crate) fn naive_sum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    words.fold(0, |sum, word| {
        let low = word.get(1).copied().unwrap_or(0);
        fold(u32::from(sum) + u32::from(u16::from_be_bytes([word[0], low])))
    })
}

fn fold(sum: u32) -> u16 {
    ((sum >> 16) + (sum & 0xffff)) as u16
}

/// The two forms of zero are one.
fn normal(sum: u16) -> u16 {
    sum % 0xffff
}
