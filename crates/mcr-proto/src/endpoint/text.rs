//! The grammar as text: `FromStr` and `Display` of inputs, outputs and endpoints.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use super::error::quote;
use super::keys::{Dscp, OutputSource, Ttl};
use super::serial::{OutputDraft, PlaceDraft};
use super::{Endpoint, EndpointError, FromTable, IfName, Input, Output};

/// Keys that may follow the comma of an output.
const OUTPUT_KEYS: &[&str] = &["ttl", "dscp", "source", "loop", "rate"];

/// One endpoint taken apart; nothing but address and port is understood yet.
struct Parts<'a> {
    source: Option<&'a str>,
    address: IpAddr,
    port: u16,
    interface: Option<IfName>,
    /// All after the first comma.
    keys: Option<&'a str>,
}

impl<'a> Parts<'a> {
    fn split(text: &'a str) -> Result<Self, EndpointError> {
        if text.trim().is_empty() {
            return Err(EndpointError::Empty);
        }
        let (head, keys) = split_optional(text, ',');
        let (source, rest) = match head.split_once('>') {
            Some((source, rest)) => (Some(source.trim()), rest.trim()),
            None => (None, head.trim()),
        };
        let (place, interface) = split_optional(rest, '@');
        let (address, port) = parse_place(place)?;
        let interface = interface.map(str::parse).transpose()?;
        Ok(Parts { source, address, port, interface, keys })
    }

    /// For kinds of endpoint that take no keys: the first key that is there is the error.
    fn refuse_keys(&self, kind: &'static str) -> Result<(), EndpointError> {
        let Some(keys) = self.keys else { return Ok(()) };
        let key = keys.split([',', '=']).next().unwrap_or_default().trim();
        if key.is_empty() {
            return Err(EndpointError::NoValue { text: quote(keys) });
        }
        Err(EndpointError::KeyNotTaken { key: quote(key), kind })
    }

    fn place(&self, kind: &'static str) -> Result<PlaceDraft, EndpointError> {
        self.refuse_keys(kind)?;
        let source = self.source.map(|source| parse_address("source", source)).transpose()?;
        Ok(PlaceDraft {
            source,
            address: Some(self.address),
            port: Some(self.port),
            interface: self.interface,
        })
    }
}

fn split_optional(text: &str, separator: char) -> (&str, Option<&str>) {
    match text.split_once(separator) {
        Some((head, tail)) => (head, Some(tail)),
        None => (text, None),
    }
}

/// `ADDRESS:PORT` or `[ADDRESS]:PORT`.
fn parse_place(place: &str) -> Result<(IpAddr, u16), EndpointError> {
    let no_port = || EndpointError::NoPort { text: quote(place) };
    let (address, port) = match place.rfind(']') {
        Some(end) if place.starts_with('[') => {
            let (address, rest) = place.split_at(end + 1);
            (address, rest.strip_prefix(':').ok_or_else(no_port)?)
        }
        _ if place.matches(':').count() > 1 => {
            return Err(EndpointError::Unbracketed { text: quote(place) });
        }
        _ => place.split_once(':').ok_or_else(no_port)?,
    };
    let address = parse_address("address", address)?;
    Ok((address, read_port(port)?))
}

pub(super) fn read_port(text: &str) -> Result<u16, EndpointError> {
    parse_port(text).ok_or_else(|| EndpointError::Port { text: quote(text) })
}

/// Port 0 is a number: what is wrong with it is said by `check`. A leading plus sign is not.
pub(super) fn parse_port(text: &str) -> Option<u16> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// Reads `1.2.3.4`, `ff3e::1` or `[ff3e::1]`; `part` says in the error which address it was.
pub(super) fn parse_address(part: &'static str, text: &str) -> Result<IpAddr, EndpointError> {
    if let Some(address) = parse_ip(text) {
        return Ok(address);
    }
    if text.contains(':') && text.contains('%') {
        return Err(EndpointError::Zone { part, text: quote(text) });
    }
    Err(EndpointError::Address { part, text: quote(text) })
}

pub(super) fn parse_ip(text: &str) -> Option<IpAddr> {
    match text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
        Some(inner) => inner.parse().ok().map(IpAddr::V6),
        None => text.parse().ok(),
    }
}

impl FromStr for Input {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let place = Parts::split(text)?.place("inputs")?;
        <Input as FromTable>::finish(place)
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let place = Parts::split(text)?.place("this endpoint")?;
        <Endpoint as FromTable>::finish(place)
    }
}

impl FromStr for Output {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let parts = Parts::split(text)?;
        if let Some(source) = parts.source {
            return Err(EndpointError::SourceInOutput { text: quote(source) });
        }
        let mut draft = OutputDraft {
            address: Some(parts.address),
            port: Some(parts.port),
            interface: parts.interface,
            ..OutputDraft::default()
        };
        for item in parts.keys.into_iter().flat_map(|keys| keys.split(',')) {
            let item = item.trim();
            let (key, value) = split_optional(item, '=');
            let key = key.trim();
            let value = value.map(str::trim).filter(|value| !value.is_empty() && !key.is_empty());
            let value = value.ok_or_else(|| EndpointError::NoValue { text: quote(item) })?;
            if !OUTPUT_KEYS.contains(&key) {
                return Err(EndpointError::UnknownKey { key: quote(key), known: OUTPUT_KEYS });
            }
            Output::set(&mut draft, key, value)?;
        }
        Output::finish(draft)
    }
}

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_place(f, self.source, self.socket_addr(), Some(&self.interface))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_place(f, self.source, self.socket_addr(), self.interface.as_ref())
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_place(f, None, self.socket_addr(), self.interface.as_ref())?;
        if self.ttl != Ttl::default() {
            write!(f, ",ttl={}", self.ttl)?;
        }
        if self.dscp != Dscp::default() {
            write!(f, ",dscp={}", self.dscp)?;
        }
        if self.source != OutputSource::default() {
            write!(f, ",source={}", self.source)?;
        }
        if self.multicast_loop {
            write!(f, ",loop=on")?;
        }
        self.rate.map_or(Ok(()), |rate| write!(f, ",rate={rate}"))
    }
}

fn write_place(
    f: &mut fmt::Formatter<'_>,
    source: Option<IpAddr>,
    place: SocketAddr,
    interface: Option<&IfName>,
) -> fmt::Result {
    match source {
        Some(IpAddr::V4(source)) => write!(f, "{source}>")?,
        Some(IpAddr::V6(source)) => write!(f, "[{source}]>")?,
        None => {}
    }
    write!(f, "{place}")?;
    interface.map_or(Ok(()), |interface| write!(f, "@{interface}"))
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
