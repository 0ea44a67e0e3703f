//! From the command line to what is asked for.

use mcr_proto::{
    endpoint::IfName,
    reflect::{Hex, Reflect},
};

use super::output::Format;
use crate::{
    args::{LogLevelArg, ReflectArgs},
    exit::Failure,
};

impl ReflectArgs {
    /// The interface to report on, if that is what is asked for.
    pub(super) fn nic(&self) -> Result<Option<String>, Failure> {
        match self.interface.as_slice() {
            [nic, interface] if nic == "nic" => Ok(Some(interface.clone())),
            [_] => Ok(None),
            _ => Err(Failure::usage("one interface, please; `mcrd reflect nic INTERFACE` reports on one")),
        }
    }

    pub(super) fn log_level(&self) -> LogLevelArg {
        self.log.unwrap_or(if self.verbose { LogLevelArg::Debug } else { LogLevelArg::Info })
    }

    pub(super) fn format(&self) -> Format {
        match (self.json, self.csv, self.compat_json) {
            (true, ..) => Format::Json,
            (_, true, _) => Format::Csv,
            (.., true) => Format::CompatJson,
            _ => Format::Text,
        }
    }

    /// The reflector asked for.
    pub(super) fn reflect(&self) -> Result<Reflect, Failure> {
        let name = self.interface.first().map_or("", String::as_str);
        let interface: IfName = name.parse().map_err(|error| Failure::usage(format!("reflect: {error}")))?;
        let Self { who, reading, standards, .. } = self;
        Ok(Reflect {
            port: self.port,
            mode: self.mode,
            sig: self.sig,
            oui: self.oui,
            oui_filter: !self.no_oui_filter,
            mac_filter: !self.no_mac_filter,
            i_know: self.i_know,
            platform: self.platform,
            queues: self.queues,
            latency: self.latency,
            latency_sample: self.latency_sample,
            explain: self.explain,
            allow_source: who.allow_source.clone(),
            allow_mac: who.allow_mac.clone(),
            allow_vlan: who.allow_vlan.clone(),
            rate_pps: who.rate_pps,
            rate_bps: who.rate_bps,
            source_rate_pps: who.source_rate_pps,
            source_rate_bps: who.source_rate_bps,
            standard_rate_pps: who.standard_rate_pps,
            standard_source_rate_pps: who.standard_source_rate_pps,
            answer_groups: who.answer_groups,
            same_port: who.same_port,
            first_fragments: reading.first_fragments,
            tpid_9100: reading.tpid_9100,
            extension_headers: reading.extension_headers,
            twamp: standards.twamp,
            twamp_sequence: standards.twamp_sequence,
            stamp: standards.stamp,
            stamp_sequence: standards.stamp_sequence,
            stamp_key: self.stamp_key()?,
            stamp_authenticated: standards.stamp_authenticated,
            stamp_ssid: standards.stamp_ssid.clone(),
            stamp_dscp: standards.stamp_dscp,
            echo: standards.echo,
            oam_mep: standards.oam_mep,
            oam_level: standards.oam_level,
            oam_lbm: !standards.no_oam_lbm,
            oam_dmm: !standards.no_oam_dmm,
            oam_slm: !standards.no_oam_slm,
            oam_lmm: standards.oam_lmm,
            ..Reflect::new(interface)
        })
    }

    /// From a file, for a command line can be read by everybody.
    fn stamp_key(&self) -> Result<Hex, Failure> {
        let Some(path) = &self.standards.stamp_key_file else { return Ok(Hex::default()) };
        let text = std::fs::read_to_string(path)
            .map_err(|error| Failure::usage(format!("--stamp-key-file {}: {error}", path.display())))?;
        let key: Result<Hex, _> = text.trim().parse();
        key.map_err(|error| Failure::usage(format!("--stamp-key-file {}: {error}", path.display())))
    }
}
