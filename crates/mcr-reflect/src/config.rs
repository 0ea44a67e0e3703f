//! What is to be reflected, and what a choice of options must not be.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{headers::Mac, outcome::Kind};

/// Which addresses a reply has exchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Mode {
    /// MAC addresses.
    Mac,
    /// MAC and IP addresses.
    MacIp,
    /// MAC and IP addresses and UDP ports.
    #[default]
    All,
    /// As many of these as the frame has, whatever it carries: no signature is asked for ("smart loop").
    Auto,
}

/// Which signatures count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Signatures {
    /// All five.
    #[default]
    All,
    /// `PROBEOT`, `DATA:OT`, `LATENCY`.
    Ito,
    /// `RFC2544`.
    Rfc2544,
    /// `Y.1564 `.
    Y1564,
    /// `RFC2544` and `Y.1564 `.
    Custom,
}

impl Signatures {
    /// Whether frames with this signature are reflected.
    #[must_use]
    pub const fn include(self, kind: Kind) -> bool {
        let ito = matches!(kind, Kind::ProbeOt | Kind::DataOt | Kind::Latency);
        match self {
            Self::All => ito || matches!(kind, Kind::Rfc2544 | Kind::Y1564),
            Self::Ito => ito,
            Self::Rfc2544 => matches!(kind, Kind::Rfc2544),
            Self::Y1564 => matches!(kind, Kind::Y1564),
            Self::Custom => matches!(kind, Kind::Rfc2544 | Kind::Y1564),
        }
    }
}

/// Addresses that begin with the same bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prefix {
    /// Any address among them.
    pub address: IpAddr,
    /// How many bits are the same; at most 32 or 128.
    pub bits: u8,
}

impl Prefix {
    /// Whether the address is one of them.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let rest = |width: u8| u32::from(width.saturating_sub(self.bits));
        match (self.address, address) {
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => {
                u64::from(ours.to_bits() ^ theirs.to_bits()) >> rest(32) == 0
            }
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => {
                (ours.to_bits() ^ theirs.to_bits()).checked_shr(rest(128)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

/// Who is answered. A list that is empty excludes nobody; of those that are not, a frame must be on each.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Allow {
    /// Source addresses; frames without IP are on no such list, but OAM frames need not be.
    pub prefixes: Vec<Prefix>,
    /// Source MAC addresses.
    pub macs: Vec<Mac>,
    /// VLAN ids of the outer tag; 0 for frames without a tag, or with one for priority alone.
    pub vlans: Vec<u16>,
}

impl Allow {
    pub(crate) fn is_empty(&self) -> bool {
        self.prefixes.is_empty() && self.macs.is_empty() && self.vlans.is_empty()
    }
}

/// A rate of replies; each part that is not given is no limit. A tenth of a second's worth may come at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Limit {
    /// Frames a second.
    pub pps: Option<u64>,
    /// Bits a second, of frames without FCS.
    pub bits_per_second: Option<u64>,
}

/// Limits of one kind of service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Limits {
    /// For all replies together.
    pub total: Option<Limit>,
    /// For each source address, or MAC address where there is no other.
    pub source: Option<Limit>,
}

/// How replies are numbered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sequence {
    /// With the number of the request.
    Stateless,
    /// From 0, for each session of its own, so that loss on the way there and on the way back can be told apart.
    Stateful,
}

/// TWAMP-Light (RFC 5357, appendix I), unauthenticated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Twamp {
    /// UDP port.
    pub port: u16,
    /// Numbering.
    pub sequence: Sequence,
}

/// STAMP (RFC 8762) with its TLVs (RFC 8972).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// UDP port.
    pub port: u16,
    /// Numbering.
    pub sequence: Sequence,
    /// Key of HMAC-SHA-256. Without one, HMAC TLVs are not understood.
    pub key: Option<Vec<u8>>,
    /// Only authenticated requests are answered. Takes a key.
    pub authenticated: bool,
    /// Session identifiers that are answered; empty for all.
    pub ssids: Vec<u16>,
    /// A Class of Service TLV may choose the reply's DSCP.
    pub dscp_by_request: bool,
}

/// UDP echo (RFC 862).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Echo {
    /// UDP port.
    pub port: u16,
}

/// Y.1731 and IEEE 802.1ag responders.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Oam {
    /// Level of our maintenance end point, 0 to 7.
    pub level: u8,
    /// Its id, 1 to 8191.
    pub mep: u16,
    /// Loopback is answered.
    pub lbm: bool,
    /// Delay measurement is answered.
    pub dmm: bool,
    /// Synthetic loss measurement is answered.
    pub slm: bool,
    /// Loss measurement is answered, with the counts of test frames received and reflected.
    pub lmm: bool,
}

/// All options of a reflector. [`Config::new`] has the defaults.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// The interface's own address.
    pub mac: Mac,
    /// The interface's MTU: the longest frame has this and its Ethernet header and tags.
    pub mtu: usize,
    /// Only frames to our own address are reflected.
    pub mac_filter: bool,
    /// Only test frames of sources with this OUI are reflected.
    pub oui: Option<[u8; 3]>,
    /// UDP destination port of test frames; 0 for any.
    pub port: u16,
    /// What is exchanged.
    pub mode: Mode,
    /// Which signatures count.
    pub signatures: Signatures,
    /// Who is answered, of those who ask for whatever.
    pub allow: Allow,
    /// Limits of test frames.
    pub limits: Limits,
    /// Limits of the services of standards.
    pub standard_limits: Limits,
    /// First fragments count as whole datagrams.
    pub first_fragments: bool,
    /// 0x9100 counts as a VLAN tag's protocol id, too.
    pub tpid_9100: bool,
    /// IPv6 hop-by-hop and destination options are skipped.
    pub extension_headers: bool,
    /// Frames to group addresses are answered, with our own address as the source. Takes `mac_filter` off.
    pub answer_groups: bool,
    /// Frames whose source port is the service's own are answered even with the OUI filter off.
    pub same_port: bool,
    /// A filter-less reflector of any port is what is wanted.
    pub i_know: bool,
    /// Error estimate of our clock, as TWAMP and STAMP have it; its last byte is not 0.
    pub error_estimate: u16,
    /// TWAMP-Light, if it is to be answered.
    pub twamp: Option<Twamp>,
    /// STAMP, if it is to be answered.
    pub stamp: Option<Stamp>,
    /// UDP echo, if it is to be answered.
    pub echo: Option<Echo>,
    /// Y.1731, if it is to be answered.
    pub oam: Option<Oam>,
}

/// Why options cannot be used together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// It would reflect any UDP datagram that carries a signature, to whomever.
    #[error(
        "without MAC filter, OUI filter and port anything would be reflected; keep one of them, or say --i-know"
    )]
    Open,
    /// Mode `auto` looks at no signature.
    #[error("mode auto takes a filter: a port, an OUI or a list of those allowed")]
    AutoUnfiltered,
    /// Groups are answered only without MAC filter.
    #[error("frames to groups are answered only without the MAC filter")]
    GroupsFiltered,
    /// Two services on one port.
    #[error("port {port} is that of two services")]
    PortTwice {
        /// The port.
        port: u16,
    },
    /// A service on port 0.
    #[error("a service needs a port of its own, not 0")]
    PortZero,
    /// Authentication without a key.
    #[error("authenticated STAMP takes a key")]
    NoKey,
    /// A level that does not exist.
    #[error("OAM level {level} is not in 0 to 7")]
    Level {
        /// The level.
        level: u8,
    },
    /// An id that does not exist.
    #[error("MEP id {mep} is not in 1 to 8191")]
    Mep {
        /// The id.
        mep: u16,
    },
    /// RFC 8762: receivers discard it.
    #[error("the error estimate's multiplier, its low byte, must not be 0")]
    ErrorEstimate,
    /// The interface's own address is a group's or zero.
    #[error("the interface has no usable MAC address")]
    Mac,
    /// A limit of 0 would let nothing through.
    #[error("a limit of 0 lets nothing through; leave the service off instead")]
    ZeroLimit,
}

/// Not synchronised, within a second or so: what can be said of a clock nobody has looked at.
const ERROR_ESTIMATE: u16 = 0x2001;
/// NetAlly's.
const OUI: [u8; 3] = [0x00, 0xc0, 0x17];
const PORT: u16 = 3842;
/// Services of standards answer anybody, so each source gets only so much.
const STANDARD_PPS: u64 = 10_000;
const STANDARD_SOURCE_PPS: u64 = 1_000;
/// Without both filters replies may be reflected by another reflector; this bounds how fast they can circle.
const OPEN_SOURCE_PPS: u64 = 100_000;

impl Config {
    /// The defaults, for an interface of this address and MTU.
    #[must_use]
    pub fn new(mac: Mac, mtu: usize) -> Self {
        let pps = |pps| Some(Limit { pps: Some(pps), bits_per_second: None });
        Self {
            mac,
            mtu,
            mac_filter: true,
            oui: Some(OUI),
            port: PORT,
            mode: Mode::All,
            signatures: Signatures::All,
            allow: Allow::default(),
            limits: Limits::default(),
            standard_limits: Limits { total: pps(STANDARD_PPS), source: pps(STANDARD_SOURCE_PPS) },
            first_fragments: false,
            tpid_9100: false,
            extension_headers: false,
            answer_groups: false,
            same_port: false,
            i_know: false,
            error_estimate: ERROR_ESTIMATE,
            twamp: None,
            stamp: None,
            echo: None,
            oam: None,
        }
    }

    /// The limits that test frames have: those that were set, or, where a filter is off, what bounds a loop.
    pub(crate) fn effective_limits(&self) -> Limits {
        let guarded = self.mac_filter && self.oui.is_some();
        if guarded || self.limits != Limits::default() {
            return self.limits;
        }
        Limits { total: None, source: Some(Limit { pps: Some(OPEN_SOURCE_PPS), bits_per_second: None }) }
    }

    /// Whether what becomes of a frame depends on the others: there are limits, or replies tell counts of frames. Then one process
    /// has to see all of them.
    #[must_use]
    pub fn counts_frames_together(&self) -> bool {
        let serves = self.service_ports().next().is_some() || self.oam.is_some();
        let tells_counts = self.stamp.is_some() || self.oam.is_some_and(|oam| oam.lmm);
        let limited = serves && self.standard_limits != Limits::default();
        limited || tells_counts || self.effective_limits() != Limits::default()
    }

    /// Ports of services of standards.
    pub(crate) fn service_ports(&self) -> impl Iterator<Item = u16> + '_ {
        let twamp = self.twamp.map(|twamp| twamp.port);
        let stamp = self.stamp.as_ref().map(|stamp| stamp.port);
        [twamp, stamp, self.echo.map(|echo| echo.port)].into_iter().flatten()
    }

    /// Checks what no option by itself can be wrong about.
    ///
    /// # Errors
    /// The first contradiction found.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.mac == [0; 6] || self.mac[0] & 1 != 0 {
            return Err(ConfigError::Mac);
        }
        let open = !self.mac_filter && self.oui.is_none() && self.port == 0;
        if open && !self.i_know {
            return Err(ConfigError::Open);
        }
        if self.mode == Mode::Auto && self.port == 0 && self.oui.is_none() && self.allow.is_empty() {
            return Err(ConfigError::AutoUnfiltered);
        }
        if self.answer_groups && self.mac_filter {
            return Err(ConfigError::GroupsFiltered);
        }
        if self.error_estimate & 0xff == 0 {
            return Err(ConfigError::ErrorEstimate);
        }
        self.check_services()?;
        let limits =
            [self.limits.total, self.limits.source, self.standard_limits.total, self.standard_limits.source];
        let zero = |limit: &Limit| limit.pps == Some(0) || limit.bits_per_second == Some(0);
        if limits.iter().flatten().any(zero) { Err(ConfigError::ZeroLimit) } else { Ok(()) }
    }

    fn check_services(&self) -> Result<(), ConfigError> {
        let ports: Vec<_> = self.service_ports().collect();
        for (at, port) in ports.iter().enumerate() {
            if *port == 0 {
                return Err(ConfigError::PortZero);
            }
            if ports[..at].contains(port) || *port == self.port {
                return Err(ConfigError::PortTwice { port: *port });
            }
        }
        if self.stamp.as_ref().is_some_and(|stamp| stamp.authenticated && stamp.key.is_none()) {
            return Err(ConfigError::NoKey);
        }
        match self.oam {
            Some(Oam { level, .. }) if level > 7 => Err(ConfigError::Level { level }),
            Some(Oam { mep, .. }) if !(1..=8191).contains(&mep) => Err(ConfigError::Mep { mep }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = [2, 0, 0, 0, 0, 1];

    fn checked(change: impl FnOnce(&mut Config)) -> Result<(), ConfigError> {
        let mut config = Config::new(MAC, 1500);
        change(&mut config);
        config.check()
    }

    #[test]
    fn the_defaults_are_no_contradiction() {
        assert_eq!(checked(|_| {}), Ok(()));
    }

    #[test]
    fn reflecting_anything_takes_a_word_of_its_own() {
        let open = |config: &mut Config| (config.mac_filter, config.oui, config.port) = (false, None, 0);
        assert_eq!(checked(open), Err(ConfigError::Open));
        assert_eq!(checked(|config| (open(config), config.i_know = true).1), Ok(()));
        assert_eq!(checked(|config| (config.oui, config.port) = (None, 0)), Ok(()));
    }

    #[test]
    fn only_limits_and_replies_with_counts_take_all_frames_to_be_seen_together() {
        let together = |change: fn(&mut Config)| {
            let mut config = Config::new(MAC, 1500);
            change(&mut config);
            config.counts_frames_together()
        };
        let limit = Some(Limit { pps: Some(5), bits_per_second: None });
        assert!(!together(|_| {}));
        assert!(together(|config| config.oui = None), "what bounds a loop is a limit");
        assert!(together(|config| config.echo = Some(Echo { port: 7 })), "standards are limited");
        let unlimited_echo = |config: &mut Config| {
            (config.echo, config.standard_limits) = (Some(Echo { port: 7 }), Limits::default());
        };
        assert!(!together(unlimited_echo));
        assert!(together(|config| {
            config.standard_limits = Limits::default();
            config.oam = Some(Oam { level: 0, mep: 1, lbm: true, dmm: true, slm: true, lmm: true });
        }));
        let mut config = Config::new(MAC, 1500);
        config.limits.source = limit;
        assert!(config.counts_frames_together());
    }

    #[test]
    fn mode_auto_takes_a_filter() {
        let auto = |config: &mut Config| (config.mode, config.oui, config.port) = (Mode::Auto, None, 0);
        assert_eq!(checked(auto), Err(ConfigError::AutoUnfiltered));
        assert_eq!(checked(|config| (auto(config), config.allow.vlans = vec![7]).1), Ok(()));
    }

    #[test]
    fn services_do_not_share_a_port() {
        let both = |config: &mut Config| {
            config.twamp = Some(Twamp { port: 862, sequence: Sequence::Stateful });
            config.echo = Some(Echo { port: 862 });
        };
        assert_eq!(checked(both), Err(ConfigError::PortTwice { port: 862 }));
        assert_eq!(
            checked(|config| config.echo = Some(Echo { port: 3842 })),
            Err(ConfigError::PortTwice { port: 3842 })
        );
        assert_eq!(checked(|config| config.echo = Some(Echo { port: 0 })), Err(ConfigError::PortZero));
    }

    #[test]
    fn a_prefix_holds_the_addresses_that_begin_like_it() {
        let prefix = |text: &str, bits| Prefix { address: text.parse().expect("an address"), bits };
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        assert!(prefix("192.0.2.0", 24).contains(ip("192.0.2.255")));
        assert!(!prefix("192.0.2.0", 24).contains(ip("192.0.3.0")));
        assert!(prefix("0.0.0.0", 0).contains(ip("255.1.2.3")));
        assert!(!prefix("0.0.0.0", 0).contains(ip("::")));
        assert!(prefix("::", 0).contains(ip("2001:db8::1")));
        assert!(prefix("2001:db8::", 32).contains(ip("2001:db8:ffff::1")));
        assert!(!prefix("2001:db8::1", 128).contains(ip("2001:db8::2")));
        assert!(prefix("192.0.2.7", 32).contains(ip("192.0.2.7")));
    }
}
