//! Which keys of a reflector contradict each other, whatever its interface.

use super::{Platform, Queues, Reflect, ReflectMode};

/// Why a reflector's keys make no sense together, or one of them by itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReflectError {
    /// It would reflect any UDP datagram that carries a signature, to whomever.
    #[error(
        "without MAC filter, OUI filter and port anything would be reflected; keep one of them, or set i_know (--i-know)"
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
        /// The key that has it, too.
        key: &'static str,
        /// The port.
        port: u16,
    },
    /// Authentication without a key.
    #[error("authenticated STAMP takes a key")]
    NoKey,
    /// A level that does not exist.
    #[error("OAM level {level} is not in 0 to 7")]
    Level {
        /// The level.
        level: u16,
    },
    /// An id that does not exist.
    #[error("MEP id {mep} is not in 1 to 8191")]
    Mep {
        /// The id.
        mep: u16,
    },
    /// One frame of none cannot be measured.
    #[error("latency is sampled from one frame of 1 or more, not of 0")]
    Sample,
    /// Some queues of a way that does not tell them apart.
    #[error("a packet socket gets the frames of all queues; a number of queues takes AF_XDP")]
    Queues,
    /// A VLAN id that does not exist.
    #[error("VLAN id {id} is not in 0 to 4095")]
    Vlan {
        /// The id.
        id: u16,
    },
}

impl ReflectError {
    /// The key at fault.
    pub fn key(&self) -> &'static str {
        match self {
            Self::Open => "port",
            Self::AutoUnfiltered => "mode",
            Self::GroupsFiltered => "answer_groups",
            Self::PortTwice { key, .. } => key,
            Self::NoKey => "stamp_authenticated",
            Self::Level { .. } => "oam_level",
            Self::Mep { .. } => "oam_mep",
            Self::Sample => "latency_sample",
            Self::Queues => "queues",
            Self::Vlan { .. } => "allow_vlan",
        }
    }
}

impl Reflect {
    /// Refuses keys that make no sense together; what a single key may not be is checked again, because fields are public.
    ///
    /// # Errors
    /// The first thing found wrong: see [`ReflectError`].
    pub fn check(&self) -> Result<(), ReflectError> {
        if self.oam_level > 7 {
            return Err(ReflectError::Level { level: self.oam_level });
        }
        if self.latency_sample == 0 {
            return Err(ReflectError::Sample);
        }
        if self.platform == Platform::Packet && self.queues != Queues::All {
            return Err(ReflectError::Queues);
        }
        if let Some(id) = self.allow_vlan.iter().find(|id| **id > 4095) {
            return Err(ReflectError::Vlan { id: *id });
        }
        let is_unfiltered = !self.oui_filter && self.port == 0;
        if is_unfiltered && !self.mac_filter && !self.i_know {
            return Err(ReflectError::Open);
        }
        let allows_all =
            self.allow_source.is_empty() && self.allow_mac.is_empty() && self.allow_vlan.is_empty();
        if self.mode == ReflectMode::Auto && is_unfiltered && allows_all {
            return Err(ReflectError::AutoUnfiltered);
        }
        if self.answer_groups && self.mac_filter {
            return Err(ReflectError::GroupsFiltered);
        }
        self.check_services()
    }

    fn check_services(&self) -> Result<(), ReflectError> {
        let services = [("twamp", self.twamp), ("stamp", self.stamp), ("echo", self.echo)];
        for (at, (key, port)) in services.into_iter().enumerate().filter(|(_, (_, port))| *port != 0) {
            if port == self.port || services[..at].iter().any(|(_, other)| *other == port) {
                return Err(ReflectError::PortTwice { key, port });
            }
        }
        if self.stamp != 0 && self.stamp_authenticated && self.stamp_key.0.is_empty() {
            return Err(ReflectError::NoKey);
        }
        if self.oam_mep > 8191 { Err(ReflectError::Mep { mep: self.oam_mep }) } else { Ok(()) }
    }
}
