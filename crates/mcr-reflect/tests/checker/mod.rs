//! What a reflector without services must do, said as slowly as possible: every condition by itself, over a list of optional bytes,
//! and the reply built anew from its parts. It shares no code with the crate.

use mcr_reflect::{Config, Kind, Mode};

/// The bytes from `from`, as many as asked for, if all of them are there.
fn take(frame: &[u8], from: usize, count: usize) -> Option<Vec<u8>> {
    let taken: Vec<u8> = frame.iter().copied().skip(from).take(count).collect();
    (taken.len() == count).then_some(taken)
}

fn number(frame: &[u8], from: usize) -> Option<usize> {
    take(frame, from, 2).map(|two| usize::from(two[0]) * 256 + usize::from(two[1]))
}

/// The reply to a frame, or none; for modes other than `auto`, without services, groups or limits.
pub(crate) fn expected(config: &Config, frame: &[u8]) -> Option<Vec<u8>> {
    let destination = take(frame, 0, 6)?;
    let source = take(frame, 6, 6)?;
    let is_tag = |kind: usize| kind == 0x8100 || kind == 0x88a8 || (config.tpid_9100 && kind == 0x9100);
    let tags = (0..).take_while(|n| number(frame, 12 + 4 * n).is_some_and(is_tag)).count();
    let ip = 14 + 4 * tags;
    let kind = number(frame, ip - 2)?;
    let first = *frame.get(ip)?;

    let (transport, end, addresses, is_first_fragment) = if kind == 0x0800 {
        let header = usize::from(first % 16) * 4;
        let total = number(frame, ip + 2)?;
        let flags = number(frame, ip + 6)?;
        let offset_is_zero = flags % 8192 == 0;
        let more = flags / 8192 % 2 == 1;
        let whole = offset_is_zero && !more;
        let first_part = offset_is_zero && more && config.first_fragments;
        let good = first / 16 == 4 && header >= 20 && total >= header + 8 && frame.len() >= ip + total;
        let udp = *frame.get(ip + 9)? == 17;
        if !(good && udp && (whole || first_part)) {
            return None;
        }
        (ip + header, ip + total, (ip + 12, 4), first_part)
    } else if kind == 0x86dd {
        let payload = number(frame, ip + 4)?;
        let mut next = *frame.get(ip + 6)?;
        let mut at = ip + 40;
        let mut walked = 0;
        while config.extension_headers && (next == 0 || next == 60) && walked < 4 {
            walked += 1;
            if at + 2 > ip + 40 + payload {
                return None;
            }
            next = *frame.get(at)?;
            at += 8 + 8 * usize::from(*frame.get(at + 1)?);
        }
        if !(first / 16 == 6 && next == 17 && frame.len() >= ip + 40 + payload && at + 8 <= ip + 40 + payload)
        {
            return None;
        }
        (at, ip + 40 + payload, (ip + 8, 16), false)
    } else {
        return None;
    };
    let udp_bytes = number(frame, transport + 4)?;
    if udp_bytes < 8 || (transport + udp_bytes > end && !is_first_fragment) {
        return None;
    }
    let (source_port, port) = (number(frame, transport)?, number(frame, transport + 2)?);
    let payload_end = end.min(transport + udp_bytes);
    let payload = &frame[transport + 8..payload_end];
    let known: [(&str, usize, Kind); 5] = [
        ("PROBEOT", 5, Kind::ProbeOt),
        ("DATA:OT", 5, Kind::DataOt),
        ("LATENCY", 5, Kind::Latency),
        ("RFC2544", 0, Kind::Rfc2544),
        ("Y.1564 ", 0, Kind::Y1564),
    ];
    let kind =
        known.iter().find(|(text, at, _)| take(payload, *at, 7).as_deref() == Some(text.as_bytes()))?.2;

    let (address_at, width) = addresses;
    let from = take(frame, address_at, width)?;
    let to = take(frame, address_at + width, width)?;
    let group = |address: &[u8]| match address.len() {
        4 => address[0] / 16 == 14 || address == [255; 4],
        _ => address[0] == 255,
    };
    let conditions = [
        tags <= 2,
        frame.len() <= config.mtu + 14 + 4 * tags,
        !config.mac_filter || destination == config.mac,
        destination[0] % 2 == 0,
        source[0] % 2 == 0,
        source != config.mac,
        config.oui.is_none_or(|oui| source.starts_with(&oui)),
        !group(&from),
        !group(&to),
        config.port == 0 || usize::from(config.port) == port,
        config.signatures.include(kind),
        config.oui.is_some() || config.same_port || source_port != port,
    ];
    if conditions.contains(&false) {
        return None;
    }
    let ports = [take(frame, transport, 2)?, take(frame, transport + 2, 2)?];
    let [low, high] = if config.mode == Mode::All { [ports[1].clone(), ports[0].clone()] } else { ports };
    let [near, far] = if config.mode == Mode::Mac { [from, to] } else { [to, from] };
    let reply = [
        source,
        destination,
        frame[12..address_at].to_vec(),
        near,
        far,
        frame[address_at + 2 * width..transport].to_vec(),
        low,
        high,
        frame[transport + 4..].to_vec(),
    ];
    Some(reply.concat())
}
