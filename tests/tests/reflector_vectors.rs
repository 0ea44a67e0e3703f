//! Every vector of the reflector and of the standards on a real cable, on both back ends: exactly its one reply, or none.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use mcr_e2e::reflector::{Bed, PLATFORMS, counter, echo, probe};
use mcr_lab::require;
use nix::sys::signal::Signal;
use serde_json::Value;

const VECTORS: &str = include_str!("../../crates/mcr-reflect/tests/data/vectors.json");
const STANDARDS: &str = include_str!("../../crates/mcr-reflect/tests/data/std_vectors.json");

fn vectors(file: &str) -> Vec<Value> {
    let mut file: Value = serde_json::from_str(file).expect("JSON");
    match file["vectors"].take() {
        Value::Array(vectors) => vectors,
        other => panic!("no list: {other}"),
    }
}

fn bytes(hex: &Value) -> Option<Vec<u8>> {
    let hex = hex.as_str()?;
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).ok()).collect()
}

#[test]
fn every_vector_gets_exactly_its_one_reply_on_the_wire() {
    let Some(()) = require::netns() else { return };
    let vectors = vectors(VECTORS);
    let mut groups: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    for vector in &vectors {
        groups.entry(vector["options"].as_str().expect("options")).or_default().push(vector);
    }
    for platform in PLATFORMS {
        for (options, vectors) in &groups {
            let mut options: Vec<_> = options.split_whitespace().collect();
            options.extend(platform);
            options.push("--i-know");
            let mut bed = Bed::new(&options);
            let mut expected = Vec::new();
            for vector in vectors {
                bed.tester.send(&bytes(&vector["in"]).expect("hex"));
                expected.extend(bytes(&vector["out"]).map(|out| (vector["id"].to_string(), out)));
            }
            // Replies keep their order: when this one is back, all others are.
            let (ask, last) = probe_for(&options);
            bed.tester.send(&ask);
            let mut replies = bed.tester.until(&last);
            replies.pop();
            assert_eq!(replies.len(), expected.len(), "{options:?}");
            for ((id, expected), reply) in expected.iter().zip(replies) {
                assert_eq!(&reply, expected, "{id} {options:?}");
            }
            let report = bed.reflecting.stop(Signal::SIGTERM).0;
            assert_eq!(counter(&report, "reflected"), expected.len() as u64 + 1, "{report}");
        }
    }
}

/// A frame that is reflected whatever the vectors' options, and its reply.
fn probe_for(options: &[&str]) -> (Vec<u8>, Vec<u8>) {
    let mut ask = probe(100, 99);
    let custom = options.iter().any(|option| ["rfc2544", "custom"].contains(option));
    let signature: (usize, &[u8; 7]) = match () {
        () if custom => (42, b"RFC2544"),
        () if options.contains(&"y1564") => (42, b"Y.1564 "),
        () => (47, b"DATA:OT"),
    };
    ask[signature.0..signature.0 + 7].copy_from_slice(signature.1);
    let mut reply = echo(&ask);
    if options.contains(&"mac") {
        reply[26..38].copy_from_slice(&ask[26..38]);
    } else if options.contains(&"mac-ip") {
        reply[34..38].copy_from_slice(&ask[34..38]);
    }
    (ask, reply)
}

/// The option that has a vector of the standards answered, and the counter of its replies.
fn service(id: &str, params: &Value) -> (&'static [&'static str], &'static str) {
    const OAM: &[&str] = &["--oam-mep", "1", "--oam-level", "5", "--oam-lmm"];
    match id {
        _ if id.starts_with("twamp") => (&["--twamp", "862"], "twamp"),
        _ if params["mode"] == "stateful" => (&["--stamp", "862", "--stamp-sequence", "stateful"], "stamp"),
        _ if id.starts_with("stamp") => (&["--stamp", "862"], "stamp"),
        "udp_echo_7" => (&["--echo", "7"], "echo"),
        _ if id.starts_with("lbm") => (OAM, "lbm"),
        "dmm" => (OAM, "dmm"),
        "lmm" => (OAM, "lmm"),
        "ito_ipv6" => (&[], "dataot"),
        _ => (&[], "probeot"),
    }
}

/// What a vector's reply is where the reflector has a clock of its own and counts from 0: as in the file, but for `reply`'s time
/// stamps, which must be those of this moment.
fn as_of_now(id: &str, params: &Value, mut expected: Vec<u8>, reply: &[u8]) -> Vec<u8> {
    assert_eq!(reply.len(), expected.len(), "{id}");
    let word = |at: usize| u64::from_be_bytes(*reply[at..].first_chunk().expect("long enough"));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    let recent = |seconds: u64| assert!(now.as_secs().abs_diff(seconds) < 30, "{id}: {seconds}");
    if params["T2"].is_string() {
        // NTP counts from 1900 (RFC 5905, figure 4).
        let (sent, received) = (word(46), word(58));
        recent((sent >> 32) - 2_208_988_800);
        assert!(received <= sent && sent - received < 10 << 32, "{id}: {received:x} {sent:x}");
        expected[46..54].copy_from_slice(&reply[46..54]);
        expected[58..66].copy_from_slice(&reply[58..66]);
        // The host's clock is not known to be synchronised, which the error estimate and the time stamp TLV say.
        expected[54..56].copy_from_slice(&[0x20, 0x01]);
        match id {
            "stamp_tlv_timestamp_info" => expected[90..94].copy_from_slice(&[5, 2, 5, 2]),
            // One request received, and before it no reply sent.
            "stamp_tlv_direct_measurement" => expected[94..102].copy_from_slice(&[0, 0, 0, 1, 0, 0, 0, 0]),
            _ => {}
        }
        let checksum = udp_checksum(&expected);
        expected[40..42].copy_from_slice(&checksum);
    } else if id == "dmm" {
        let (received, sent) = (word(26), word(34));
        recent(sent >> 32);
        assert!(received <= sent && (received as u32) < 1_000_000_000, "{id}: {received:x} {sent:x}");
        expected[26..42].copy_from_slice(&reply[26..42]);
    } else if id == "lmm" {
        // Frames received from the peer and sent to it so far.
        expected[22..30].fill(0);
    }
    expected
}

/// Of an untagged IPv4 frame without options.
fn udp_checksum(frame: &[u8]) -> [u8; 2] {
    let udp_bytes = u16::from_be_bytes([frame[38], frame[39]]);
    let mut bytes = [&frame[26..34], &[0, 17], &udp_bytes.to_be_bytes(), &frame[34..40], &[0, 0]].concat();
    bytes.extend(&frame[42..34 + usize::from(udp_bytes)]);
    bytes.resize(bytes.len().next_multiple_of(2), 0);
    let mut sum: u32 = bytes.chunks(2).map(|two| u32::from(two[0]) << 8 | u32::from(two[1])).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    match !(sum as u16) {
        0 => [0xff; 2],
        checksum => checksum.to_be_bytes(),
    }
}

#[test]
fn every_request_of_a_standard_gets_exactly_its_one_reply_on_the_wire() {
    let Some(()) = require::netns() else { return };
    for platform in PLATFORMS {
        for vector in vectors(STANDARDS) {
            let id = vector["id"].as_str().expect("a name");
            let params = &vector["params"];
            let (options, kind) = service(id, params);
            // Each has a reflector of its own, which has counted nothing yet.
            let mut bed = Bed::new(&[platform, options].concat());
            let begun = Instant::now();
            bed.tester.send(&bytes(&vector["in"]).expect("hex"));
            let reply = bed.tester.one();
            // A multicast loopback is answered within a second, by chance at once.
            assert!(begun.elapsed() < Duration::from_secs(5), "{id}");
            let expected = as_of_now(id, params, bytes(&vector["out"]).expect("hex"), &reply);
            assert_eq!(reply, expected, "{id} {platform:?}");
            let last = probe(100, 1);
            bed.tester.send(&last);
            assert_eq!(bed.tester.until(&echo(&last)).len(), 1, "{id}: one reply");
            let report = bed.reflecting.stop(Signal::SIGTERM).0;
            let counted = u64::from(kind == "dataot") + 1;
            assert_eq!(
                (counter(&report, kind), counter(&report, "reflected")),
                (counted, 2),
                "{id}: {report}"
            );
        }
    }
}
