//! From what a user asked for to what a reflector is given.

use mcr_proto::reflect::{Reflect, ReflectError, ReflectMode, Sequence, SignatureFamily};
use mcr_reflect::{
    Allow, Config, ConfigError, Echo, Limit, Limits, Mode, Oam, Prefix, Signatures, Stamp, Twamp,
};

/// Why a reflector cannot be as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigFault {
    /// Keys make no sense together.
    #[error(transparent)]
    Keys(#[from] ReflectError),
    /// What is made of them makes none for the reflector.
    #[error(transparent)]
    Contradiction(#[from] ConfigError),
}

/// A MAC address to check options with before there is an interface.
const ANY_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// Whether a reflector can be as it is asked for, on an interface that has what it takes.
///
/// # Errors
/// [`ConfigFault`]: what contradicts what.
pub fn check(reflect: &Reflect) -> Result<(), ConfigFault> {
    config(reflect, ANY_MAC, 1500).map(drop)
}

/// What the reflector is given, on an interface of this address and MTU.
pub(crate) fn config(reflect: &Reflect, mac: [u8; 6], mtu: usize) -> Result<Config, ConfigFault> {
    reflect.check()?;
    let mut config = Config::new(mac, mtu);
    config.port = reflect.port;
    config.mode = match reflect.mode {
        ReflectMode::Mac => Mode::Mac,
        ReflectMode::MacIp => Mode::MacIp,
        ReflectMode::Auto => Mode::Auto,
        _ => Mode::All,
    };
    config.signatures = match reflect.sig {
        SignatureFamily::Ito => Signatures::Ito,
        SignatureFamily::Rfc2544 => Signatures::Rfc2544,
        SignatureFamily::Y1564 => Signatures::Y1564,
        SignatureFamily::Custom => Signatures::Custom,
        _ => Signatures::All,
    };
    config.mac_filter = reflect.mac_filter;
    config.oui = reflect.oui_filter.then_some(reflect.oui.0);
    config.allow = Allow {
        prefixes: reflect
            .allow_source
            .iter()
            .map(|prefix| Prefix { address: prefix.address, bits: prefix.bits })
            .collect(),
        macs: reflect.allow_mac.iter().map(|mac| mac.0).collect(),
        vlans: reflect.allow_vlan.clone(),
    };
    config.limits = Limits {
        total: limit(reflect.rate_pps, reflect.rate_bps),
        source: limit(reflect.source_rate_pps, reflect.source_rate_bps),
    };
    config.standard_limits = Limits {
        total: limit(reflect.standard_rate_pps, 0),
        source: limit(reflect.standard_source_rate_pps, 0),
    };
    config.first_fragments = reflect.first_fragments;
    config.tpid_9100 = reflect.tpid_9100;
    config.extension_headers = reflect.extension_headers;
    config.answer_groups = reflect.answer_groups;
    config.same_port = reflect.same_port;
    config.i_know = reflect.i_know;
    services(&mut config, reflect);
    config.check()?;
    Ok(config)
}

fn services(config: &mut Config, reflect: &Reflect) {
    let port = |port: u16| (port != 0).then_some(port);
    let sequence = |sequence| match sequence {
        Sequence::Stateless => mcr_reflect::Sequence::Stateless,
        _ => mcr_reflect::Sequence::Stateful,
    };
    config.twamp = port(reflect.twamp).map(|port| Twamp { port, sequence: sequence(reflect.twamp_sequence) });
    config.stamp = port(reflect.stamp).map(|port| Stamp {
        port,
        sequence: sequence(reflect.stamp_sequence),
        key: (!reflect.stamp_key.0.is_empty()).then(|| reflect.stamp_key.0.clone()),
        authenticated: reflect.stamp_authenticated,
        ssids: reflect.stamp_ssid.clone(),
        dscp_by_request: reflect.stamp_dscp,
    });
    config.echo = port(reflect.echo).map(|port| Echo { port });
    config.oam = (reflect.oam_mep != 0).then_some(Oam {
        // No more than 7, by what was checked.
        level: reflect.oam_level as u8,
        mep: reflect.oam_mep,
        lbm: reflect.oam_lbm,
        dmm: reflect.oam_dmm,
        slm: reflect.oam_slm,
        lmm: reflect.oam_lmm,
    });
}

/// 0 is no limit.
fn limit(pps: u64, bits_per_second: u64) -> Option<Limit> {
    let some = |number: u64| (number != 0).then_some(number);
    let limit = Limit { pps: some(pps), bits_per_second: some(bits_per_second) };
    (limit != Limit::default()).then_some(limit)
}

#[cfg(test)]
mod tests {
    use mcr_proto::reflect::Platform;

    use super::*;

    #[test]
    fn the_defaults_of_a_user_are_those_of_the_reflector() {
        let reflect = Reflect::new("eth0".parse().expect("a name"));
        assert_eq!(config(&reflect, ANY_MAC, 1500), Ok(Config::new(ANY_MAC, 1500)));
    }

    #[test]
    fn what_cannot_be_is_said_before_there_is_an_interface() {
        let with = |change: fn(&mut Reflect)| {
            let mut reflect = Reflect::new("eth0".parse().expect("a name"));
            change(&mut reflect);
            check(&reflect)
        };
        let open = |reflect: &mut Reflect| {
            (reflect.mac_filter, reflect.oui_filter, reflect.port) = (false, false, 0);
        };
        assert_eq!(with(open), Err(ReflectError::Open.into()));
        assert_eq!(with(|reflect| reflect.oam_level = 8), Err(ReflectError::Level { level: 8 }.into()));
        assert_eq!(with(|reflect| reflect.latency_sample = 0), Err(ReflectError::Sample.into()));
        assert_eq!(
            with(|reflect| reflect.allow_vlan = vec![4096]),
            Err(ReflectError::Vlan { id: 4096 }.into())
        );
        let some_queues = |reflect: &mut Reflect| {
            (reflect.platform, reflect.queues) = (Platform::Packet, "2".parse().expect("a number"));
        };
        assert_eq!(with(some_queues), Err(ReflectError::Queues.into()));
        assert_eq!(with(|reflect| reflect.stamp_authenticated = true), Ok(()), "STAMP is off");
    }

    #[test]
    fn the_reflector_has_no_objection_to_what_configurations_are_checked_for() {
        let ports = [0, 7, 862, 3842];
        let switches = 0..64u32;
        for ((bits, port), (stamp, echo)) in switches
            .flat_map(|bits| ports.map(|port| (bits, port)))
            .flat_map(|one| ports.iter().flat_map(move |stamp| ports.map(|echo| (one, (*stamp, echo)))))
        {
            let on = |bit: u32| bits >> bit & 1 == 1;
            let mut reflect = Reflect::new("eth0".parse().expect("a name"));
            (reflect.port, reflect.stamp, reflect.echo) = (port, stamp, echo);
            (reflect.mac_filter, reflect.oui_filter, reflect.i_know) = (on(0), on(1), on(2));
            (reflect.answer_groups, reflect.stamp_authenticated) = (on(3), on(4));
            reflect.mode = if on(5) { ReflectMode::Auto } else { ReflectMode::All };
            let found = check(&reflect);
            assert!(!matches!(found, Err(ConfigFault::Contradiction(_))), "{found:?} {reflect:?}");
        }
    }
}
