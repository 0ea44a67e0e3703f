//! Arbitrary frames against the slow checker of the property tests, with options from the input's first bytes.
#![no_main]

#[path = "../../crates/mcr-reflect/tests/checker/mod.rs"]
mod checker;

use libfuzzer_sys::fuzz_target;
use mcr_reflect::{
    Config, Echo, Meta, Mode, Now, Oam, Outcome, Reflector, Sequence, Stamp, Twamp,
    filter::{self, Scope},
};

const OURS: [u8; 6] = [2, 0, 0, 0, 0, 1];

fn reflect(config: &Config, frame: &[u8]) -> (Outcome, Vec<u8>) {
    let mut reflector = Reflector::new(config.clone()).expect("no contradiction");
    let mut room = frame.to_vec();
    room.resize(frame.len() + 128, 0);
    let outcome = reflector.reflect(&mut room, frame.len(), &Meta::default(), &Now::default());
    (outcome, room)
}

fuzz_target!(|data: &[u8]| {
    let Some(([flags, more], frame)) = data.split_first_chunk::<2>() else { return };
    let frame = &frame[..frame.len().min(9216)];
    let mut config = Config::new(OURS, 1500);
    let on = |bit: u8| flags & 1 << bit != 0;
    config.mac_filter = !on(0);
    config.oui = config.oui.filter(|_| !on(1));
    config.port = if on(2) { 0 } else { 3842 };
    config.mode = [Mode::All, Mode::Mac, Mode::MacIp, Mode::All][usize::from(flags >> 3 & 3)];
    (config.tpid_9100, config.first_fragments, config.extension_headers) = (on(5), on(6), on(7));
    config.i_know = true;
    // Tables of what strangers make us remember are large; most inputs do without, so that there are more of them.
    let tables = more & 1 << 6 == 0;
    config.standard_limits.source = config.standard_limits.source.filter(|_| tables);
    let (outcome, room) = reflect(&config, frame);
    match checker::expected(&config, frame) {
        Some(reply) => {
            assert!(matches!(outcome, Outcome::Send { bytes, .. } if bytes == frame.len()));
            assert_eq!(room[..frame.len()], reply);
        }
        None => {
            assert!(matches!(outcome, Outcome::Drop(_)));
            assert_eq!(room[..frame.len()], *frame);
        }
    }
    let on = |bit: u8| more & 1 << bit != 0;
    let sequence = if on(0) { Sequence::Stateful } else { Sequence::Stateless };
    config.twamp = Some(Twamp { port: 863, sequence });
    config.echo = Some(Echo { port: 7 });
    config.oam = Some(Oam { level: 5, mep: 1, lbm: true, dmm: true, slm: tables, lmm: true });
    let key = on(1).then(|| b"key".to_vec());
    config.stamp = Some(Stamp {
        port: 862,
        sequence,
        authenticated: on(2) && key.is_some(),
        key,
        ssids: Vec::new(),
        dscp_by_request: on(3),
    });
    if on(4) && (config.port != 0 || config.oui.is_some()) {
        config.mode = Mode::Auto;
    }
    let (outcome, room) = reflect(&config, frame);
    match outcome {
        Outcome::Drop(_) => assert_eq!(room[..frame.len()], *frame),
        Outcome::Send { bytes, .. } | Outcome::SendLater { bytes, .. } => {
            assert!(bytes <= frame.len() + 98);
            assert!(filter::passes(&filter::program(&config, Scope::NearMisses), frame));
        }
    }
});
