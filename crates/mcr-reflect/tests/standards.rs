//! STAMP's authentication and extensions, sessions, OAM and the guards, beyond what the vectors have.

use hmac::{Hmac, KeyInit as _, Mac as _};
use mcr_reflect::{
    Config, Echo, Kind, Limit, Limits, Meta, Now, Oam, Outcome, Reason, Reflector, Sequence, Stamp, WallTime,
};
use sha2::Sha256;

const OURS: [u8; 6] = [2, 0, 0, 0, 0, 1];
const TESTER: [u8; 6] = [0, 0xc0, 0x17, 0x54, 5, 0x98];
const KEY: &[u8] = b"a key of both ends";
const PAYLOAD: usize = 42;

fn stamp(change: impl FnOnce(&mut Stamp)) -> Reflector {
    let mut stamp = Stamp {
        port: 862,
        sequence: Sequence::Stateful,
        key: None,
        authenticated: false,
        ssids: Vec::new(),
        dscp_by_request: false,
    };
    change(&mut stamp);
    let mut config = Config::new(OURS, 1500);
    config.stamp = Some(stamp);
    Reflector::new(config).expect("no contradiction")
}

fn oam() -> Reflector {
    let mut config = Config::new(OURS, 1500);
    config.oam = Some(Oam { level: 5, mep: 0x0123, lbm: true, dmm: true, slm: true, lmm: false });
    Reflector::new(config).expect("no contradiction")
}

fn datagram(source_port: u16, port: u16, traffic_class: u8, payload: &[u8]) -> Vec<u8> {
    let udp_bytes = payload.len() as u16 + 8;
    let mut frame = [&OURS[..], &TESTER, &[8, 0, 0x45, traffic_class]].concat();
    frame.extend((udp_bytes + 20).to_be_bytes());
    frame.extend([0, 1, 0x40, 0, 255, 17, 0, 0, 192, 0, 2, 10, 192, 0, 2, 1]);
    frame.extend(source_port.to_be_bytes());
    frame.extend(port.to_be_bytes());
    frame.extend(udp_bytes.to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(payload);
    frame
}

fn at(ns: u64) -> Now {
    Now { monotonic_ns: ns, wall: WallTime::from_unix_ns(1_700_000_000_000_000_000 + ns) }
}

fn answer(reflector: &mut Reflector, frame: &[u8], now: &Now) -> Result<Vec<u8>, Reason> {
    let mut room = frame.to_vec();
    room.resize(frame.len() + 128, 0xee);
    match reflector.reflect(&mut room, frame.len(), &Meta::default(), now) {
        Outcome::Drop(reason) => Err(reason),
        Outcome::Send { bytes, .. } | Outcome::SendLater { bytes, .. } => {
            room.truncate(bytes);
            Ok(room)
        }
    }
}

fn hmac(parts: &[&[u8]]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(KEY).expect("any length");
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes()[..16].to_vec()
}

/// An authenticated base packet of this number.
fn authenticated(sequence: u32) -> Vec<u8> {
    let mut payload = vec![0; 96];
    payload[..4].copy_from_slice(&sequence.to_be_bytes());
    payload[16..26].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8, 0x80, 1]);
    payload[26..28].copy_from_slice(&[0xab, 0xcd]);
    let mac = hmac(&[&payload]);
    [payload, mac].concat()
}

fn open(sequence: u32, tlvs: &[u8]) -> Vec<u8> {
    let mut payload = vec![0; 44];
    payload[..4].copy_from_slice(&sequence.to_be_bytes());
    [&payload, tlvs].concat()
}

fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    [&[0x80, kind], &(value.len() as u16).to_be_bytes()[..], value].concat()
}

#[test]
fn an_authenticated_request_gets_an_authenticated_answer() {
    let mut reflector = stamp(|stamp| (stamp.key, stamp.authenticated) = (Some(KEY.to_vec()), true));
    let reply =
        answer(&mut reflector, &datagram(40_000, 862, 0, &authenticated(77)), &at(0)).expect("an answer");
    let payload = &reply[PAYLOAD..];
    assert_eq!(payload.len(), 112);
    assert_eq!(payload[96..], hmac(&[&payload[..96]]));
    assert_eq!(payload[..4], [0; 4], "the session's first");
    assert_eq!(payload[26..28], [0xab, 0xcd]);
    assert_eq!(payload[48..52], 77u32.to_be_bytes());
    assert_eq!(payload[64..74], [1, 2, 3, 4, 5, 6, 7, 8, 0x80, 1]);
    assert_eq!(payload[80], 255);
    for zero in [4..16, 28..32, 40..48, 52..64, 74..80, 81..96] {
        assert!(payload[zero.clone()].iter().all(|byte| *byte == 0), "{zero:?}");
    }
}

#[test]
fn a_request_with_a_wrong_or_no_hmac_is_not_answered() {
    let mut reflector = stamp(|stamp| (stamp.key, stamp.authenticated) = (Some(KEY.to_vec()), true));
    for broken in 0..112 {
        let mut payload = authenticated(1);
        payload[broken] ^= 1;
        let got = answer(&mut reflector, &datagram(40_000, 862, 0, &payload), &at(0));
        assert_eq!(got, Err(Reason::Auth), "byte {broken}");
    }
    let got = answer(&mut reflector, &datagram(40_000, 862, 0, &open(1, &[])), &at(0));
    assert_eq!(got, Err(Reason::Auth));
}

#[test]
fn extensions_of_an_authenticated_request_take_an_hmac_of_their_own() {
    let mut reflector = stamp(|stamp| (stamp.key, stamp.authenticated) = (Some(KEY.to_vec()), true));
    let base = authenticated(9);
    let direct = tlv(5, &[0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0]);
    let sealed = tlv(8, &hmac(&[&base[..4], &direct]));
    let padding = tlv(1, &[9; 6]);
    let mut ask = |tlvs: Vec<Vec<u8>>| {
        let payload = [base.clone(), tlvs.concat()].concat();
        let reply = answer(&mut reflector, &datagram(40_000, 862, 0, &payload), &at(0)).expect("an answer");
        reply[PAYLOAD..].to_vec()
    };
    let good = ask(vec![direct.clone(), sealed.clone(), padding.clone()]);
    assert_eq!((good[112], good[128], good[148]), (0, 0, 0), "all understood");
    assert_eq!(good[120..124], 1u32.to_be_bytes(), "one received");
    assert_eq!(
        good[132..148],
        hmac(&[&good[..4], &good[112..128]]),
        "sealed anew, with the reply's own number"
    );
    assert_eq!(good[148..], [&[0, 1, 0, 6][..], &[9; 6]].concat());

    let mut forged = sealed.clone();
    forged[10] ^= 1;
    for (name, tlvs) in [
        ("forged", vec![direct.clone(), forged]),
        ("missing", vec![direct.clone()]),
        ("not last", vec![sealed, direct.clone()]),
    ] {
        let bad = ask(tlvs);
        assert_eq!(bad[112], 0x20, "{name}: integrity");
        let direct_at = if name == "not last" { 132 } else { 112 };
        assert_eq!(bad[direct_at + 8..direct_at + 16], [0; 8], "{name}: nothing was filled in");
    }
    assert_eq!(ask(vec![padding])[112], 0, "padding alone needs none");
}

#[test]
fn sessions_are_numbered_apart_and_forgotten_when_idle() {
    let mut reflector = stamp(|_| {});
    let mut number = |source_port: u16, now: u64| {
        let frame = datagram(source_port, 862, 0, &open(500, &[]));
        let reply = answer(&mut reflector, &frame, &at(now)).expect("an answer");
        u32::from_be_bytes(*reply[PAYLOAD..].first_chunk().expect("four bytes"))
    };
    assert_eq!([number(1, 0), number(1, 1), number(2, 2), number(1, 3)], [0, 1, 0, 2]);
    assert_eq!(number(1, 1_000_000_000_000), 0);
}

#[test]
fn follow_up_telemetry_tells_of_the_reply_before() {
    let mut reflector = stamp(|_| {});
    let frame = datagram(40_000, 862, 0, &open(1, &tlv(7, &[0xff; 16])));
    let first = answer(&mut reflector, &frame, &at(5)).expect("an answer");
    assert_eq!(first[PAYLOAD + 44..][..20], [&[0, 7, 0, 16][..], &[0; 12], &[0xff; 4]].concat());
    let second = answer(&mut reflector, &frame, &at(1000)).expect("an answer");
    let value = &second[PAYLOAD + 48..];
    assert_eq!(value[..4], 0u32.to_be_bytes());
    assert_eq!(value[4..12], first[PAYLOAD + 4..PAYLOAD + 12], "the time it was sent");
    assert_eq!(value[12], 2, "by software");
}

#[test]
fn class_of_service_tells_what_came_and_chooses_only_where_it_may() {
    let request = datagram(40_000, 862, 0xb9, &open(1, &tlv(4, &[34 << 2, 0, 0, 0])));
    let expected = |rp: u8| [34 << 2 | 46 >> 4, ((46 & 15) << 4) | 1 << 2 | rp, 0, 0];
    let mut strict = stamp(|_| {});
    let reply = answer(&mut strict, &request, &at(0)).expect("an answer");
    assert_eq!(reply[PAYLOAD + 48..], expected(1));
    assert_eq!(reply[15], 46 << 2, "with the DSCP that came");
    let mut obliging = stamp(|stamp| stamp.dscp_by_request = true);
    let reply = answer(&mut obliging, &request, &at(0)).expect("an answer");
    assert_eq!(reply[PAYLOAD + 48..], expected(0));
    assert_eq!(reply[15], 34 << 2);
}

#[test]
fn location_tells_ports_addresses_and_the_senders_mac() {
    let subs = [tlv(1, &[0xff; 8]), tlv(4, &[0; 16]), tlv(7, &[0; 16]), tlv(99, &[1])].concat();
    let value = [vec![0; 4], subs].concat();
    let mut reflector = stamp(|_| {});
    let request = datagram(40_000, 862, 0, &open(1, &tlv(2, &value)));
    let reply = answer(&mut reflector, &request, &at(0)).expect("an answer");
    let value = &reply[PAYLOAD + 48..];
    assert_eq!(value[..4], [862u16.to_be_bytes(), 40_000u16.to_be_bytes()].concat());
    assert_eq!(value[4..16], [&[0, 2, 0, 8][..], &TESTER, &[0, 0]].concat());
    assert_eq!(value[16..24], [0, 5, 0, 16, 192, 0, 2, 1]);
    assert_eq!(value[36..44], [0, 8, 0, 16, 192, 0, 2, 10]);
    assert_eq!(value[56..], [0x80, 99, 0, 1, 1]);
}

#[test]
fn a_wrong_length_ends_the_extensions_and_the_rest_is_copied() {
    let mut reflector = stamp(|_| {});
    let tlvs = [tlv(1, &[7]), tlv(5, &[0; 8]), tlv(4, &[0; 4])].concat();
    let reply =
        answer(&mut reflector, &datagram(40_000, 862, 0, &open(1, &tlvs)), &at(0)).expect("an answer");
    let row = &reply[PAYLOAD + 44..];
    assert_eq!((row[0], row[5], row[17]), (0, 0x40, 0x80));
}

#[test]
fn only_sessions_that_were_provisioned_are_answered() {
    let mut reflector = stamp(|stamp| stamp.ssids = vec![5]);
    let mut payload = open(1, &[]);
    assert_eq!(answer(&mut reflector, &datagram(40_000, 862, 0, &payload), &at(0)), Err(Reason::NotAllowed));
    payload[15] = 5;
    assert!(answer(&mut reflector, &datagram(40_000, 862, 0, &payload), &at(0)).is_ok());
}

#[test]
fn services_do_not_answer_answers() {
    let mut config = Config::new(OURS, 1500);
    config.echo = Some(Echo { port: 7 });
    let mut reflector = Reflector::new(config).expect("no contradiction");
    for port in [7, 13, 17, 19] {
        let frame = datagram(port, 7, 0, b"hello");
        assert_eq!(answer(&mut reflector, &frame, &at(0)), Err(Reason::Loop), "port {port}");
    }
    assert!(answer(&mut reflector, &datagram(40_000, 7, 0, b"hello"), &at(0)).is_ok());
    let mut reflector = stamp(|_| {});
    assert_eq!(answer(&mut reflector, &datagram(862, 862, 0, &open(1, &[])), &at(0)), Err(Reason::Loop));
}

#[test]
fn a_service_is_limited_from_the_beginning_and_by_source() {
    let mut config = Config::new(OURS, 1500);
    config.echo = Some(Echo { port: 7 });
    let one = Limit { pps: Some(100), bits_per_second: None };
    config.standard_limits = Limits { total: None, source: Some(one) };
    let mut reflector = Reflector::new(config).expect("no contradiction");
    let frame = datagram(40_000, 7, 0, b"hello");
    let got: Vec<_> = (0..12).map(|_| answer(&mut reflector, &frame, &at(0))).collect();
    assert_eq!(got.iter().filter(|got| got.is_ok()).count(), 10);
    assert_eq!(got[10], Err(Reason::Rate));
    let mut other = frame;
    other[29] = 11;
    assert!(answer(&mut reflector, &other, &at(0)).is_ok(), "another source");
}

#[test]
fn a_synthetic_loss_test_counts_its_own_answers() {
    let mut reflector = oam();
    let mut ask = |id: u8, level: u8| {
        let fields = [0, 9, 0, 0, 0, 0, 0, id, 0, 0, 0, 50, 0, 0, 0, 0, 0];
        let frame = [&OURS[..], &TESTER, &[0x89, 2, level << 5, 55, 0, 16], &fields].concat();
        answer(&mut reflector, &frame, &at(0)).map(|reply| reply[14..].to_vec())
    };
    let first = ask(1, 5).expect("an answer");
    assert_eq!(
        first,
        [&[0xa0, 54, 0, 16, 0, 9, 1, 0x23, 0, 0, 0, 1, 0, 0, 0, 50, 0, 0, 0, 1, 0][..]].concat()
    );
    assert_eq!(ask(1, 5).expect("an answer")[19], 2);
    assert_eq!(ask(2, 5).expect("an answer")[19], 1);
    assert_eq!((ask(1, 4), ask(1, 6)), (Err(Reason::Level), Err(Reason::Level)));
}

#[test]
fn what_was_not_switched_on_is_not_answered() {
    let mut reflector = oam();
    let lmm = [&OURS[..], &TESTER, &[0x89, 2, 0xa0, 43, 0, 12], &[0; 40]].concat();
    assert_eq!(answer(&mut reflector, &lmm, &at(0)), Err(Reason::Request));
    let mut plain = Reflector::new(Config::new(OURS, 1500)).expect("no contradiction");
    assert_eq!(answer(&mut plain, &lmm, &at(0)), Err(Reason::EtherType));
    let other_group =
        [&[1, 0x80, 0xc2, 0, 0, 0x34][..], &TESTER, &[0x89, 2, 0xa0, 3, 0, 4], &[0; 40]].concat();
    assert_eq!(answer(&mut reflector, &other_group, &at(0)), Err(Reason::DstMac));
}

#[test]
fn a_partial_checksum_is_completed() {
    let mut reflector = Reflector::new(Config::new(OURS, 1500)).expect("no contradiction");
    let frame = datagram(50_000, 3842, 0, b"\x09\x10\xea\x1d\x00PROBEOT and then some");
    let mut room = frame.clone();
    let meta = Meta { partial_checksum: true, ..Meta::default() };
    let outcome = reflector.reflect(&mut room, frame.len(), &meta, &at(0));
    assert_eq!(outcome, Outcome::Send { bytes: frame.len(), kind: Kind::ProbeOt });
    let sliced = etherparse::SlicedPacket::from_ethernet(&room).expect("a frame");
    let (Some(etherparse::NetSlice::Ipv4(ip)), Some(etherparse::TransportSlice::Udp(udp))) =
        (sliced.net, sliced.transport)
    else {
        panic!("no UDP");
    };
    let right =
        udp.to_header().calc_checksum_ipv4(&ip.header().to_header(), udp.payload()).expect("short enough");
    assert_eq!(udp.checksum(), right);
}

#[test]
fn a_checksum_of_which_nothing_is_known_is_completed_only_if_it_is_partial_and_wrong() {
    let reply = |checksum: [u8; 2]| {
        let mut reflector = Reflector::new(Config::new(OURS, 1500)).expect("no contradiction");
        let mut frame = datagram(50_000, 3842, 0, b"\x09\x10\xea\x1d\x00PROBEOT and then some");
        frame[40..42].copy_from_slice(&checksum);
        let bytes = frame.len();
        let meta = Meta { partial_checksum_unknown: true, ..Meta::default() };
        let outcome = reflector.reflect(&mut frame, bytes, &meta, &at(0));
        assert_eq!(outcome, Outcome::Send { bytes, kind: Kind::ProbeOt });
        [frame[40], frame[41]]
    };
    let frame = datagram(50_000, 3842, 0, b"\x09\x10\xea\x1d\x00PROBEOT and then some");
    let words = frame[26..34].chunks(2).map(|two| u32::from(two[0]) << 8 | u32::from(two[1]));
    let bare: u32 = words.sum::<u32>() + 17 + (frame.len() as u32 - 34);
    let bare = ((bare & 0xffff) + (bare >> 16)) as u16;
    let whole = {
        let mut reflector = Reflector::new(Config::new(OURS, 1500)).expect("no contradiction");
        let mut frame = frame.clone();
        let bytes = frame.len();
        let meta = Meta { partial_checksum: true, ..Meta::default() };
        let _ = reflector.reflect(&mut frame, bytes, &meta, &at(0));
        [frame[40], frame[41]]
    };
    assert_eq!(reply(bare.to_be_bytes()), whole);
    assert_eq!(reply(whole), whole);
    for wrong in [[0, 0], [0x12, 0x34], (bare ^ 1).to_be_bytes()] {
        assert_eq!(reply(wrong), wrong);
    }
}

#[test]
fn two_reflectors_back_to_back_answer_one_frame_at_most_once_each() {
    let there = [2, 0, 0, 0, 0, 2];
    let other = |mac| {
        let mut config = Config::new(mac, 1500);
        config.oui = None;
        Reflector::new(config).expect("no contradiction")
    };
    let mut reflectors = [other(OURS), other(there)];
    for (source_port, replies) in [(3842, 0), (50_000, 1)] {
        let mut frame = datagram(source_port, 3842, 0, b"\x09\x10\xea\x1d\x00PROBEOT");
        frame[6..12].copy_from_slice(&there);
        let mut got = [0; 2];
        for hop in 0..100 {
            match answer(&mut reflectors[hop % 2], &frame, &at(hop as u64)) {
                Ok(reply) => (got[hop % 2], frame) = (got[hop % 2] + 1, reply),
                Err(_) => break,
            }
        }
        assert_eq!(got, [replies, 0], "from port {source_port}");
    }
}
