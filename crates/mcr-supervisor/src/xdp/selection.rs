//! From a reflector's options to what the XDP program is to pick out: the same options, the same decisions.

use mcr_ebpf::xsk;
use mcr_reflect::{Config, Kind, Mode};

/// What the program picks out for a reflector with these options. `times` has it tell when each frame came.
pub(super) fn selection(config: &Config, times: bool) -> xsk::Selection {
    let wants = |kind| config.signatures.include(kind);
    let services =
        [config.twamp.map(|twamp| twamp.port), config.stamp.as_ref().map(|stamp| stamp.port)].into_iter();
    let services = services.chain([config.echo.map(|echo| echo.port)]);
    // Something besides the port says whose a frame is.
    let allow = &config.allow;
    let listed = !(allow.prefixes.is_empty() && allow.macs.is_empty() && allow.vlans.is_empty());
    xsk::Selection {
        mac: config.mac,
        mtu: u32::try_from(config.mtu).unwrap_or(u32::MAX / 2),
        to_us: config.mac_filter,
        groups: config.answer_groups,
        oui: config.oui,
        port: config.port,
        signatures: xsk::Signatures {
            probeot: wants(Kind::ProbeOt),
            dataot: wants(Kind::DataOt),
            latency: wants(Kind::Latency),
            rfc2544: wants(Kind::Rfc2544),
            y1564: wants(Kind::Y1564),
        },
        auto: (config.mode == Mode::Auto).then_some(config.oui.is_some() || listed),
        services: services.flatten().collect(),
        oam: config.oam.map(|oam| xsk::Oam {
            level: oam.level,
            lbm: oam.lbm,
            dmm: oam.dmm,
            slm: oam.slm,
            lmm: oam.lmm,
        }),
        tpid_9100: config.tpid_9100,
        first_fragments: config.first_fragments,
        extension_headers: config.extension_headers,
        times,
    }
}

// The frames and options that the parser itself is tested with.
#[cfg(test)]
#[path = "../../../mcr-reflect/tests/frames/mod.rs"]
mod frames;

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use mcr_ebpf::xsk::{Trial, Verdict};
    use mcr_reflect::{
        Meta, Now, Outcome, Reason, Reflector,
        filter::{self, Scope},
    };
    use proptest::{prelude::*, test_runner::TestRunner};

    use super::*;

    /// Refusals of requests that are ours: they are for the reflector to count, and no reason to pass them on.
    fn is_for_user_space(reason: Reason) -> bool {
        use Reason::{Auth, Loop, NotAllowed, Rate, Request};
        matches!(reason, Loop | Rate | NotAllowed | Request | Auth)
    }

    #[test]
    fn the_program_picks_out_what_the_parser_would_answer_and_names_its_reasons_for_the_rest() {
        let Some(()) = mcr_lab::require::netns() else { return };
        let any = Config::new(frames::OURS, 1500);
        let trial = RefCell::new(Trial::new(&selection(&any, false)).expect("the program loads"));
        let mut runner = TestRunner::new(ProptestConfig { cases: 20_000, ..ProptestConfig::default() });
        let (answered, passed) = (RefCell::new(0), RefCell::new(0));
        let held = runner.run(&(frames::with_services(), frames::frame()), |(config, frame)| {
            // The kernel runs no program over less.
            if frame.len() < 14 {
                return Ok(());
            }
            let mut trial = trial.borrow_mut();
            trial.select(&selection(&config, false)).expect("selected");
            let (verdict, near) = trial.run(&frame).expect("run");
            let to_packet_sockets = filter::passes(&filter::program(&config, Scope::NearMisses), &frame);
            prop_assert_eq!(near, to_packet_sockets && verdict != Verdict::NoSocket, "{:?}", verdict);
            let mut reflector = Reflector::new(config).expect("no contradiction");
            let mut room = frame.clone();
            room.resize(frame.len() + 128, 0);
            let outcome = reflector.reflect(&mut room, frame.len(), &Meta::default(), &Now::default());
            match (outcome, verdict) {
                (Outcome::Drop(reason), Verdict::NoSocket) => {
                    // A request to a service can also be shorter than that service's requests are.
                    let refused = is_for_user_space(reason) || reason == Reason::Short;
                    prop_assert!(refused, "picked out, but {reason:?}");
                }
                (Outcome::Drop(reason), passed_for) if !is_for_user_space(reason) => {
                    *passed.borrow_mut() += 1;
                    prop_assert_eq!(passed_for.name(), reason.name());
                }
                (Outcome::Drop(_), _) => {}
                (_, verdict) => {
                    *answered.borrow_mut() += 1;
                    prop_assert_eq!(verdict, Verdict::NoSocket, "the parser answers it");
                }
            }
            Ok(())
        });
        held.unwrap_or_else(|fault| panic!("{fault}"));
        assert!(
            answered.into_inner() > 1000 && passed.into_inner() > 1000,
            "frames of both kinds were tried"
        );
    }
}
