//! Frames that are nearly right, and options: what the parser and both kernel filters are tried with.

use mcr_reflect::{Config, Echo, Limit, Limits, Mode, Oam, Sequence, Signatures, Stamp, Twamp};
use proptest::prelude::*;

pub(crate) const OURS: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(crate) const TESTER: [u8; 6] = [0, 0xc0, 0x17, 0x54, 5, 0x98];

fn mostly<T: std::fmt::Debug + Clone + 'static>(
    usual: T,
    other: impl Strategy<Value = T> + 'static,
) -> BoxedStrategy<T> {
    prop_oneof![12 => Just(usual), 1 => other].boxed()
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    let texts = ["PROBEOT", "DATA:OT", "LATENCY", "RFC2544", "Y.1564 ", "PROBEOX", "RFC2889"];
    let signature = prop::sample::select(texts.to_vec());
    (signature, prop::sample::select(vec![0usize, 0, 5, 5, 5, 4]), 0usize..60, any::<u8>()).prop_map(
        |(text, at, more, fill)| {
            let mut payload = vec![fill; at];
            payload.extend(text.bytes());
            payload.resize(payload.len() + more, fill);
            payload
        },
    )
}

fn udp() -> impl Strategy<Value = Vec<u8>> {
    let port = prop_oneof![8 => Just(3842u16), 1 => Just(862), 1 => Just(7), 1 => any::<u16>()];
    let source_port = prop_oneof![6 => Just(50_000u16), 1 => Just(3842), 1 => any::<u16>()];
    (source_port, port, mostly(0i32, -40i32..40), payload()).prop_map(|(source_port, port, lie, payload)| {
        let length = (payload.len() as i32 + 8 + lie).max(0) as u16;
        [&source_port.to_be_bytes()[..], &port.to_be_bytes(), &length.to_be_bytes(), &[0, 0], &payload]
            .concat()
    })
}

fn ipv4() -> impl Strategy<Value = Vec<u8>> {
    let first = prop_oneof![10 => Just(0x45u8), 2 => 0x45u8..0x50, 1 => any::<u8>()];
    let flags = mostly(0x4000u16, prop::sample::select(vec![0x2000u16, 0x0005, 0x2005, 0x8000]));
    let address = mostly([192, 0, 2, 1], prop::sample::select(vec![[239, 1, 1, 1], [255; 4], [10, 0, 0, 1]]));
    (first, flags, mostly(17u8, any::<u8>()), address.clone(), address, mostly(0i32, -60i32..60), udp())
        .prop_map(|(first, flags, protocol, source, destination, lie, udp)| {
            let header_bytes = usize::from(first & 15).max(5) * 4;
            let total = ((header_bytes + udp.len()) as i32 + lie).max(0) as u16;
            let mut ip = vec![first, 0];
            ip.extend(total.to_be_bytes());
            ip.extend([0x12, 0x34]);
            ip.extend(flags.to_be_bytes());
            ip.extend([64, protocol, 0, 0]);
            ip.extend(source);
            ip.extend(destination);
            ip.resize(header_bytes, 1);
            [ip, udp].concat()
        })
}

fn ipv6() -> impl Strategy<Value = Vec<u8>> {
    let next = prop_oneof![8 => Just(17u8), 3 => prop::sample::select(vec![0u8, 60, 44, 58])];
    let extension = (prop::sample::select(vec![17u8, 17, 17, 0, 60, 6]), 0u8..3);
    (mostly(0x60u8, any::<u8>()), next, any::<bool>(), extension, mostly(0i32, -60i32..60), udp()).prop_map(
        |(first, next, group, (after, words), lie, udp)| {
            let mut rest = Vec::new();
            if next != 17 {
                rest.extend([after, words]);
                rest.resize((usize::from(words) + 1) * 8, 0);
            }
            rest.extend(udp);
            let length = (rest.len() as i32 + lie).max(0) as u16;
            let mut ip = vec![first, 0, 0, 0];
            ip.extend(length.to_be_bytes());
            ip.extend([next, 64]);
            ip.extend([0x20; 16]);
            ip.extend(if group && length.is_multiple_of(5) { [0xff; 16] } else { [0x20; 16] });
            [ip, rest].concat()
        },
    )
}

pub(crate) fn frame() -> impl Strategy<Value = Vec<u8>> {
    let other = prop::sample::select(vec![
        [2, 0, 0, 0, 0, 2],
        [0xff; 6],
        [1, 0x80, 0xc2, 0, 0, 0x35],
        OURS,
        [0, 0x19, 0xb3, 1, 1, 1],
    ]);
    let tags =
        prop::collection::vec((prop::sample::select(vec![0x8100u16, 0x88a8, 0x9100]), any::<u16>()), 0..4);
    let oam = (
        any::<u8>(),
        prop::sample::select(vec![3u8, 47, 55, 43, 1]),
        prop::sample::select(vec![4u8, 12, 16, 32]),
        0usize..60,
    )
        .prop_map(|(level, opcode, offset, rest)| [vec![level, opcode, 0, offset], vec![0; rest]].concat());
    let body = prop_oneof![
        6 => ipv4().prop_map(|ip| (0x0800u16, ip)),
        4 => ipv6().prop_map(|ip| (0x86ddu16, ip)),
        1 => oam.prop_map(|pdu| (0x8902u16, pdu)),
        1 => (any::<u16>(), prop::collection::vec(any::<u8>(), 0..80)),
    ];
    let cut = mostly(0usize, 0usize..80);
    (mostly(OURS, other.clone()), mostly(TESTER, other), tags, body, cut, 0usize..20).prop_map(
        |(destination, source, tags, (kind, body), cut, padding)| {
            let mut frame = [destination, source].concat();
            for (tpid, tci) in tags {
                frame.extend(tpid.to_be_bytes());
                frame.extend(tci.to_be_bytes());
            }
            frame.extend(kind.to_be_bytes());
            frame.extend(body);
            frame.resize(frame.len() + padding, 0);
            frame.truncate(frame.len() - cut.min(frame.len()));
            frame
        },
    )
}

pub(crate) fn plain() -> impl Strategy<Value = Config> {
    let mode = prop::sample::select(vec![Mode::Mac, Mode::MacIp, Mode::All]);
    let families =
        vec![Signatures::All, Signatures::Ito, Signatures::Rfc2544, Signatures::Y1564, Signatures::Custom];
    let family = prop_oneof![3 => Just(Signatures::All), 2 => prop::sample::select(families)];
    let port = prop_oneof![3 => Just(3842u16), 1 => Just(0u16)];
    let mtu = prop_oneof![3 => Just(1500usize), 1 => Just(80usize)];
    (mode, family, port, mtu, any::<[bool; 6]>()).prop_map(|(mode, signatures, port, mtu, flags)| {
        let mut config = Config::new(OURS, mtu);
        let [mac_filter, oui, tpid_9100, first_fragments, extension_headers, same_port] = flags;
        config.oui = config.oui.filter(|_| oui);
        // No limit: the slow model has none.
        let all = Limits { total: Some(Limit { pps: Some(u64::MAX), bits_per_second: None }), source: None };
        Config {
            mode,
            signatures,
            port,
            mac_filter,
            tpid_9100,
            first_fragments,
            extension_headers,
            same_port,
            limits: all,
            i_know: true,
            ..config
        }
    })
}

pub(crate) fn with_services() -> impl Strategy<Value = Config> {
    (plain(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
        |(mut config, auto, twamp, echo, oam, stamp)| {
            let sequence = Sequence::Stateless;
            config.twamp = twamp.then_some(Twamp { port: 863, sequence });
            config.echo = echo.then_some(Echo { port: 7 });
            config.oam = oam.then_some(Oam { level: 5, mep: 1, lbm: true, dmm: true, slm: true, lmm: true });
            config.stamp = stamp.then_some(Stamp {
                port: 862,
                sequence,
                key: None,
                authenticated: false,
                ssids: Vec::new(),
                dscp_by_request: true,
            });
            if auto && (config.port != 0 || config.oui.is_some()) {
                config.mode = Mode::Auto;
            }
            config
        },
    )
}
