//! Is a frame ours, and for which service? One function, which the reasons for saying no come from.

use std::net::IpAddr;

use crate::{
    config::{Config, Mode},
    headers::{self, Ip, Link, Mac, Reading, Udp},
    outcome::{Kind, Reason},
};

/// Bytes before an ITO signature, which are the tester's own.
const ITO_OFFSET: usize = 5;
const SIGNATURE_BYTES: usize = 7;
const ITO: [(&[u8; SIGNATURE_BYTES], Kind); 3] =
    [(b"PROBEOT", Kind::ProbeOt), (b"DATA:OT", Kind::DataOt), (b"LATENCY", Kind::Latency)];
const CUSTOM: [(&[u8; SIGNATURE_BYTES], Kind); 2] = [(b"RFC2544", Kind::Rfc2544), (b"Y.1564 ", Kind::Y1564)];

const ICMP: u8 = 1;
const IGMP: u8 = 2;
const ICMPV6: u8 = 58;
const TCP_BYTES: usize = 20;
/// echo, daytime, quotd, chargen: a datagram from there is an answer already.
const ANSWERING_PORTS: [u16; 4] = [7, 13, 17, 19];
/// Below it the field is the length of an LLC frame (IEEE 802.3).
const ETHER_TYPE_MIN: u16 = 0x0600;
/// ARP, reverse ARP, pause, slow protocols, LLDP, and OAM: what keeps a link or a host going.
const NEVER_LOOPED: [u16; 6] = [0x0806, 0x8035, 0x8808, 0x8809, 0x88cc, headers::OAM];

/// What is asked of us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    /// Reflect it; the kind is that of its signature.
    Test(Kind),
    Echo,
    Twamp,
    Stamp,
    Oam,
}

/// A frame that is ours.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found {
    pub(crate) service: Service,
    pub(crate) link: Link,
    pub(crate) ip: Option<Ip>,
    pub(crate) udp: Option<Udp>,
    /// Where TCP's or UDP's ports are.
    pub(crate) ports: Option<usize>,
    pub(crate) source: Mac,
    /// Source and destination.
    pub(crate) addresses: Option<(IpAddr, IpAddr)>,
    /// It was sent to a group.
    pub(crate) to_group: bool,
}

/// The group address of class 1 (ITU-T Y.1731, clause 10.1) of a level.
fn oam_group(level: u8) -> Mac {
    [0x01, 0x80, 0xc2, 0, 0, 0x30 | level]
}

#[inline]
pub(crate) fn classify(config: &Config, frame: &[u8]) -> Result<Found, Reason> {
    let (destination, source) = headers::macs(frame).ok_or(Reason::Short)?;
    if frame.len() < headers::ETHERNET_BYTES {
        return Err(Reason::Short);
    }
    let to_group = destination[0] & 1 != 0;
    let to_oam_group = to_group && config.oam.is_some_and(|oam| destination == oam_group(oam.level));
    if !to_oam_group {
        if config.mac_filter && destination != config.mac {
            return Err(Reason::DstMac);
        }
        if to_group && !config.answer_groups {
            return Err(Reason::DstGroup);
        }
    }
    let from_tester = config.oui.is_none_or(|oui| source[..3] == oui);
    let standards = config.oam.is_some() || config.service_ports().next().is_some();
    if !from_tester && !standards {
        return Err(Reason::SrcOui);
    }
    if source[0] & 1 != 0 {
        return Err(Reason::SrcGroup);
    }
    if source == config.mac {
        return Err(Reason::SrcSelf);
    }
    let Config { tpid_9100, first_fragments, extension_headers, .. } = *config;
    let reading = Reading { tpid_9100, first_fragments, extension_headers };
    let link = headers::link(frame, reading)?;
    if frame.len() > config.mtu + link.payload {
        return Err(Reason::Oversize);
    }
    let empty = Found {
        service: Service::Oam,
        link,
        ip: None,
        udp: None,
        ports: None,
        source,
        addresses: None,
        to_group,
    };
    if link.ether_type == headers::OAM && config.oam.is_some() {
        // Whatever the MAC filter says: an end point answers for itself alone.
        let ours = to_oam_group || destination == config.mac;
        return if ours { allowed(config, empty) } else { Err(Reason::DstMac) };
    }
    if to_oam_group {
        return Err(Reason::EtherType);
    }
    let found = match config.mode {
        Mode::Auto if !is_service(config, frame, &link, reading) => {
            auto(config, frame, empty, destination, from_tester, reading)?
        }
        _ => datagram(config, frame, empty, from_tester, reading)?,
    };
    allowed(config, found)
}

/// A UDP datagram for one of the services, or with a signature.
#[inline]
fn datagram(
    config: &Config,
    frame: &[u8],
    empty: Found,
    from_tester: bool,
    reading: Reading,
) -> Result<Found, Reason> {
    let ip = headers::ip(frame, &empty.link, reading)?;
    let udp = headers::udp(frame, &ip)?;
    let addresses = addresses(config, frame, &ip)?;
    let service = service_of(config, udp.destination_port);
    let found =
        Found { ip: Some(ip), udp: Some(udp), ports: Some(udp.offset), addresses: Some(addresses), ..empty };
    if let Some(service) = service {
        let to_group = empty.to_group || headers::is_group(addresses.1);
        let same = udp.source_port == udp.destination_port && !config.same_port;
        let answer = service == Service::Echo && ANSWERING_PORTS.contains(&udp.source_port);
        return match () {
            () if to_group => Err(Reason::DstGroup),
            () if ip.first_fragment => Err(Reason::Fragment),
            () if same || answer => Err(Reason::Loop),
            () => Ok(Found { service, ..found }),
        };
    }
    if !from_tester {
        return Err(Reason::SrcOui);
    }
    if config.port != 0 && udp.destination_port != config.port {
        return Err(Reason::Port);
    }
    let kind = signature(&frame[udp.payload()]).ok_or(Reason::Signature)?;
    if !config.signatures.include(kind) {
        return Err(Reason::FamilyOff);
    }
    loop_guard(config, udp.source_port, udp.destination_port)?;
    Ok(Found { service: Service::Test(kind), ..found })
}

/// Whatever the frame is, as far up as it goes.
fn auto(
    config: &Config,
    frame: &[u8],
    empty: Found,
    destination: Mac,
    from_tester: bool,
    reading: Reading,
) -> Result<Found, Reason> {
    if !from_tester {
        return Err(Reason::SrcOui);
    }
    if empty.source == destination {
        return Err(Reason::Loop);
    }
    let ether_type = empty.link.ether_type;
    if ether_type < ETHER_TYPE_MIN || NEVER_LOOPED.contains(&ether_type) {
        return Err(Reason::EtherType);
    }
    // Without a port the port filter says nothing, so something else must have said that the frame is a tester's.
    let identified = config.oui.is_some() || !config.allow.is_empty();
    let other = Found { service: Service::Test(Kind::Other), ..empty };
    if !matches!(ether_type, headers::IPV4 | headers::IPV6) {
        return if identified { Ok(other) } else { Err(Reason::NotAllowed) };
    }
    let ip = headers::ip(frame, &empty.link, reading)?;
    let addresses = addresses(config, frame, &ip)?;
    if addresses.0 == addresses.1 {
        return Err(Reason::Loop);
    }
    let other = Found { ip: Some(ip), addresses: Some(addresses), ..other };
    let (source_port, port, udp) = match ip.protocol {
        ICMP | IGMP | ICMPV6 => return Err(Reason::Protocol),
        headers::UDP => {
            let udp = headers::udp(frame, &ip)?;
            (udp.source_port, udp.destination_port, Some(udp))
        }
        headers::TCP => {
            let header: [u8; TCP_BYTES] =
                headers::array_at(&frame[..ip.end], ip.transport).ok_or(Reason::LengthField)?;
            let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
            (word(0), word(2), None)
        }
        _ => return if identified { Ok(other) } else { Err(Reason::NotAllowed) },
    };
    if config.port != 0 && port != config.port {
        return Err(Reason::Port);
    }
    loop_guard(config, source_port, port)?;
    let kind = udp.and_then(|udp| signature(&frame[udp.payload()])).unwrap_or(Kind::Other);
    Ok(Found { service: Service::Test(kind), udp, ports: Some(ip.transport), ..other })
}

fn is_service(config: &Config, frame: &[u8], link: &Link, reading: Reading) -> bool {
    let udp = headers::ip(frame, link, reading).and_then(|ip| headers::udp(frame, &ip));
    udp.is_ok_and(|udp| service_of(config, udp.destination_port).is_some())
}

#[inline]
fn service_of(config: &Config, port: u16) -> Option<Service> {
    let is = |service_port: Option<u16>| service_port == Some(port);
    match () {
        () if is(config.stamp.as_ref().map(|stamp| stamp.port)) => Some(Service::Stamp),
        () if is(config.twamp.map(|twamp| twamp.port)) => Some(Service::Twamp),
        () if is(config.echo.map(|echo| echo.port)) => Some(Service::Echo),
        () => None,
    }
}

/// A reply comes from the port that was asked; one that asks that port of us is a reply itself. With the OUI filter on, only
/// testers are answered, which do not answer.
#[inline]
fn loop_guard(config: &Config, source_port: u16, port: u16) -> Result<(), Reason> {
    let reply = config.oui.is_none() && !config.same_port && source_port == port;
    if reply { Err(Reason::Loop) } else { Ok(()) }
}

/// Source and destination, if both can be exchanged.
#[inline]
fn addresses(config: &Config, frame: &[u8], ip: &Ip) -> Result<(IpAddr, IpAddr), Reason> {
    let (source, destination) = ip.addresses(frame).ok_or(Reason::Short)?;
    if headers::is_group(source) {
        return Err(Reason::SrcGroup);
    }
    if headers::is_group(destination) && !config.answer_groups {
        return Err(Reason::DstGroup);
    }
    Ok((source, destination))
}

#[inline]
fn allowed(config: &Config, found: Found) -> Result<Found, Reason> {
    let allow = &config.allow;
    let on = |empty: bool, found: bool| empty || found;
    let prefix = match found.addresses {
        Some((source, _)) => allow.prefixes.iter().any(|prefix| prefix.contains(source)),
        None => found.service == Service::Oam,
    };
    let all = on(allow.macs.is_empty(), allow.macs.contains(&found.source))
        && on(allow.vlans.is_empty(), allow.vlans.contains(&found.link.vlan))
        && on(allow.prefixes.is_empty(), prefix);
    if all { Ok(found) } else { Err(Reason::NotAllowed) }
}

/// The signature that a payload has in its place.
#[inline]
fn signature(payload: &[u8]) -> Option<Kind> {
    let find = |at: usize, known: &[(&[u8; SIGNATURE_BYTES], Kind)]| {
        let bytes: &[u8; SIGNATURE_BYTES] = payload.get(at..)?.first_chunk()?;
        known.iter().find(|(signature, _)| *signature == bytes).map(|(_, kind)| *kind)
    };
    find(ITO_OFFSET, &ITO).or_else(|| find(0, &CUSTOM))
}
