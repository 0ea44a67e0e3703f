//! A datagram that somebody asks about: `SOURCE[:PORT] > ADDRESS:PORT@INTERFACE[,ttl=N]`.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

use crate::endpoint::{EndpointError, IfName, Input, quote};

/// The TTL of a datagram that is asked about without one: above every threshold.
const TTL_UNTOLD: u8 = 64;

/// A datagram as it would arrive.
///
/// ```
/// use mcr_proto::probe::Probe;
///
/// let probe: Probe = "10.0.0.9:4000 > 239.1.1.1:5000@eth0".parse()?;
/// assert_eq!(probe.destination.to_string(), "239.1.1.1:5000");
/// assert_eq!(probe.to_string(), "10.0.0.9:4000 > 239.1.1.1:5000@eth0,ttl=64");
/// # Ok::<(), mcr_proto::probe::ProbeError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// Who sent it; port 0 if that was not said.
    pub source: SocketAddr,
    /// What it was sent to.
    pub destination: SocketAddr,
    /// The interface it arrives on.
    pub interface: IfName,
    /// The TTL or hop limit it arrives with.
    pub ttl: u8,
}

/// Why a text is no [`Probe`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// There is no `>`.
    #[error("`{text}` has no sender; write it as in \"10.0.0.9:4000 > 239.1.1.1:5000@eth0\"")]
    NoSource {
        /// The text.
        text: String,
    },
    /// What stands before the `>` is no sender.
    #[error(
        "sender `{text}` is not ADDRESS or ADDRESS:PORT of a host; IPv6 addresses with a port stand in brackets"
    )]
    Source {
        /// The text.
        text: String,
    },
    /// What stands behind the `>` is no destination.
    #[error("destination: {0}")]
    Destination(EndpointError),
    /// One is IPv4, the other IPv6.
    #[error("{from} cannot send to {to}: one is IPv4, the other IPv6")]
    Family {
        /// The sender.
        from: IpAddr,
        /// The destination.
        to: IpAddr,
    },
    /// A key other than `ttl`, or a value out of range.
    #[error("`{text}` is not understood; only ttl=N with N from 0 to 255 may follow the interface")]
    Key {
        /// The text.
        text: String,
    },
}

impl FromStr for Probe {
    type Err = ProbeError;

    fn from_str(text: &str) -> Result<Self, ProbeError> {
        let (source, rest) =
            text.split_once('>').ok_or_else(|| ProbeError::NoSource { text: quote(text) })?;
        let source = source.trim();
        let from = parse_source(source).ok_or_else(|| ProbeError::Source { text: quote(source) })?;
        let (place, keys) = match rest.split_once(',') {
            Some((place, keys)) => (place, Some(keys.trim())),
            None => (rest, None),
        };
        let Input { source: second, address, port, interface } =
            place.trim().parse().map_err(ProbeError::Destination)?;
        if second.is_some() {
            return Err(ProbeError::Source { text: quote(text) });
        }
        if from.is_ipv4() != address.is_ipv4() {
            return Err(ProbeError::Family { from: from.ip(), to: address });
        }
        let ttl = match keys {
            None => TTL_UNTOLD,
            Some(keys) => keys
                .strip_prefix("ttl=")
                .and_then(|value| value.parse().ok())
                .ok_or_else(|| ProbeError::Key { text: quote(keys) })?,
        };
        Ok(Self { source: from, destination: SocketAddr::new(address, port), interface, ttl })
    }
}

fn parse_source(text: &str) -> Option<SocketAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let alone = || bare.parse().ok().map(|address: IpAddr| SocketAddr::new(address, 0));
    let source = text.parse().ok().or_else(alone)?;
    let ip: IpAddr = source.ip();
    let host = !ip.is_multicast() && ip.to_canonical() == ip;
    // A scope such as %2 would be a second way to name an interface.
    host.then(|| SocketAddr::new(ip, source.port()))
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { source, destination, interface, ttl } = self;
        write!(f, "{source} > {destination}@{interface},ttl={ttl}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_comes_back_from_its_canonical_form() {
        for (text, canonical) in [
            ("10.0.0.9:4000 > 239.1.1.1:5000@eth0", "10.0.0.9:4000 > 239.1.1.1:5000@eth0,ttl=64"),
            ("10.0.0.9>239.1.1.1:5000@eth0,ttl=1", "10.0.0.9:0 > 239.1.1.1:5000@eth0,ttl=1"),
            ("[fe80::1]:7 > [ff02::1]:9@eth0", "[fe80::1]:7 > [ff02::1]:9@eth0,ttl=64"),
            ("fd00::1 > [ff15::1]:9@eth0, ttl=0", "[fd00::1]:0 > [ff15::1]:9@eth0,ttl=0"),
        ] {
            let probe: Probe = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(probe.to_string(), canonical);
            assert_eq!(canonical.parse(), Ok(probe));
        }
    }

    #[test]
    fn what_is_wrong_with_a_probe_is_named() {
        for (text, words) in [
            ("239.1.1.1:5000@eth0", "has no sender"),
            ("239.1.1.9:1 > 239.1.1.1:5000@eth0", "of a host"),
            ("host > 239.1.1.1:5000@eth0", "of a host"),
            ("10.0.0.9 > 239.1.1.1:5000", "destination"),
            ("10.0.0.9 > [ff15::1]:5000@eth0", "one is IPv4"),
            ("10.0.0.9 > 239.1.1.1:5000@eth0,ttl=256", "ttl=N"),
            ("10.0.0.9 > 239.1.1.1:5000@eth0,dscp=ef", "ttl=N"),
            ("10.0.0.9 > 10.0.0.8>239.1.1.1:5000@eth0", "sender"),
        ] {
            let error = text.parse::<Probe>().expect_err(text).to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
