//! The reference's frames, in and out, through the pure function.

use mcr_reflect::{
    Config, Echo, Meta, Mode, Now, Oam, Outcome, Reason, Reflector, Sequence, Signatures, Stamp, Traffic,
    Twamp, WallTime,
    filter::{self, Scope},
};
use serde_json::Value;

const REFLECTOR: [u8; 6] = [2, 0, 0, 0, 0, 1];

fn vectors(text: &str) -> Vec<Value> {
    let file: Value = serde_json::from_str(text).expect("JSON");
    file["vectors"].as_array().expect("a list").clone()
}

fn bytes(hex: &Value) -> Option<Vec<u8>> {
    let hex = hex.as_str()?;
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).ok()).collect()
}

/// The options that the vectors use.
fn configured(options: &str) -> Config {
    let mut config = Config::new(REFLECTOR, 1500);
    let mut words = options.split_whitespace();
    while let Some(option) = words.next() {
        match option {
            "--no-mac-filter" => config.mac_filter = false,
            "--no-oui-filter" => config.oui = None,
            "--port" => config.port = words.next().and_then(|port| port.parse().ok()).expect("a port"),
            "--mode" => {
                config.mode = match words.next() {
                    Some("mac") => Mode::Mac,
                    Some("mac-ip") => Mode::MacIp,
                    other => panic!("mode {other:?}"),
                }
            }
            "--sig" => {
                config.signatures = match words.next() {
                    Some("ito") => Signatures::Ito,
                    Some("rfc2544") => Signatures::Rfc2544,
                    Some("y1564") => Signatures::Y1564,
                    Some("custom") => Signatures::Custom,
                    other => panic!("family {other:?}"),
                }
            }
            other => panic!("option {other}"),
        }
    }
    // The vectors without any filter mean it.
    config.i_know = true;
    config
}

fn reflected(reflector: &mut Reflector, frame: &[u8], meta: &Meta, now: &Now) -> (Outcome, Vec<u8>) {
    let mut room = frame.to_vec();
    room.resize(frame.len() + 128, 0xee);
    let outcome = reflector.reflect(&mut room, frame.len(), meta, now);
    let length = match outcome {
        Outcome::Send { bytes, .. } | Outcome::SendLater { bytes, .. } => bytes,
        Outcome::Drop(_) => frame.len(),
    };
    assert!(room[length.max(frame.len())..].iter().all(|byte| *byte == 0xee), "wrote beyond the reply");
    room.truncate(length);
    (outcome, room)
}

#[test]
fn every_frame_of_the_reference_comes_back_as_it_must_or_not_at_all() {
    let vectors = vectors(include_str!("data/vectors.json"));
    assert!(vectors.len() >= 60);
    for vector in vectors {
        let id = vector["id"].as_str().expect("a name");
        let config = configured(vector["options"].as_str().expect("options"));
        let program = filter::program(&config, Scope::NearMisses);
        let mut reflector = Reflector::new(config).expect(id);
        let frame = bytes(&vector["in"]).expect("hex");
        let (outcome, reply) = reflected(&mut reflector, &frame, &Meta::default(), &Now::default());
        match bytes(&vector["out"]) {
            Some(expected) => {
                assert_eq!(reply, expected, "{id}: {outcome:?}");
                assert!(matches!(outcome, Outcome::Send { .. }), "{id}: {outcome:?}");
                assert!(filter::passes(&program, &frame), "{id}: the filter refuses it");
            }
            None => {
                assert!(matches!(outcome, Outcome::Drop(_)), "{id}: {outcome:?}");
                assert_eq!(reply, frame, "{id}: a dropped frame was changed");
            }
        }
    }
}

#[test]
fn every_refusal_says_why() {
    let expected = [
        ("all/rfc2544_at5", Reason::Signature),
        ("all/probeot_at0", Reason::Signature),
        ("all/wrongport", Reason::Port),
        ("all/wrongoui", Reason::SrcOui),
        ("all/wrongdst", Reason::DstMac),
        ("all/bcast", Reason::DstMac),
        ("all/mcast", Reason::DstMac),
        ("all/tcp", Reason::Protocol),
        ("all/ihl4", Reason::IpHeader),
        ("all/frag_first", Reason::Fragment),
        ("all/frag_later", Reason::Fragment),
        ("all/iptotlen_lie", Reason::LengthField),
        ("open/mcast", Reason::DstGroup),
        ("sig_ito/rfc2544", Reason::FamilyOff),
    ];
    let vectors = vectors(include_str!("data/vectors.json"));
    for (id, reason) in expected {
        let vector = vectors.iter().find(|vector| vector["id"] == id).expect(id);
        let config = configured(vector["options"].as_str().expect("options"));
        let mut reflector = Reflector::new(config).expect(id);
        let frame = bytes(&vector["in"]).expect("hex");
        let (outcome, _) = reflected(&mut reflector, &frame, &Meta::default(), &Now::default());
        assert_eq!(outcome, Outcome::Drop(reason), "{id}");
    }
}

/// The services that a vector of the standards speaks to, and the times it was made with.
fn standard(id: &str, params: &Value) -> (Config, Meta, Now, Traffic) {
    let mut config = Config::new(REFLECTOR, 1500);
    let number = |name: &str| params[name].as_u64().unwrap_or(0);
    let hex = |name: &str| u64::from_str_radix(params[name].as_str().unwrap_or("0"), 16).expect("hex");
    if id.starts_with("twamp") {
        config.twamp = Some(Twamp { port: 862, sequence: Sequence::Stateful });
    } else if id.starts_with("stamp") {
        let sequence = if params["mode"] == "stateful" { Sequence::Stateful } else { Sequence::Stateless };
        config.stamp = Some(Stamp {
            port: 862,
            sequence,
            key: None,
            authenticated: false,
            ssids: Vec::new(),
            dscp_by_request: false,
        });
    } else if id == "udp_echo_7" {
        config.echo = Some(Echo { port: 7 });
    } else {
        config.oam = Some(Oam { level: 5, mep: 1, lbm: true, dmm: true, slm: true, lmm: true });
    }
    if let Some(estimate) = params["reflector_error_estimate"].as_str() {
        config.error_estimate = u16::from_str_radix(estimate, 16).expect("hex");
    }
    let ptp = |bits: u64| WallTime::from_unix_ns((bits >> 32) * 1_000_000_000 + (bits & 0xffff_ffff));
    let (received, sent) = if params["RxTimeStampf"].is_string() {
        (ptp(hex("RxTimeStampf")), ptp(hex("TxTimeStampb")))
    } else {
        (WallTime::from_ntp(hex("T2")), WallTime::from_ntp(hex("T3")))
    };
    let meta = Meta { received: Some(received), ..Meta::default() };
    let traffic = if params["R_RxC"].is_u64() {
        // This request counts as well.
        Traffic { received: number("R_RxC") - 1, sent: number("R_TxC") }
    } else {
        Traffic { received: number("RxFCl"), sent: number("TxFCl") }
    };
    (config, meta, Now { monotonic_ns: 1, wall: sent }, traffic)
}

#[test]
fn every_request_of_a_standard_is_answered_to_the_byte() {
    let vectors = vectors(include_str!("data/std_vectors.json"));
    assert!(vectors.len() >= 18);
    for vector in vectors {
        let id = vector["id"].as_str().expect("a name");
        let (config, meta, now, traffic) = standard(id, &vector["params"]);
        let program = filter::program(&config, Scope::NearMisses);
        let mut reflector = Reflector::new(config).expect(id);
        reflector.resume(traffic);
        let frame = bytes(&vector["in"]).expect("hex");
        let (outcome, reply) = reflected(&mut reflector, &frame, &meta, &now);
        assert_eq!(Some(reply), bytes(&vector["out"]), "{id}: {outcome:?}");
        assert!(filter::passes(&program, &frame), "{id}: the filter refuses it");
        let delayed = matches!(outcome, Outcome::SendLater { delay_ns, .. } if delay_ns <= 1_000_000_000);
        assert_eq!(delayed, id == "lbm_multicast", "{id}: {outcome:?}");
    }
}
