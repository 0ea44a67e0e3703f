//! The values of output keys: TTL, DSCP and source.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use super::error::quote;
use super::text::{parse_ip, parse_port};
use super::{EndpointError, string_serde};

/// The TTL (IPv4) or hop limit (IPv6) of copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Ttl {
    /// This value, 1 to 255.
    Fixed(u8),
    /// The incoming value less one; a datagram that has none left is dropped and counted.
    Keep,
}

impl Default for Ttl {
    /// 64, the value RFC 1700 recommends and hosts use.
    fn default() -> Self {
        Ttl::Fixed(64)
    }
}

impl FromStr for Ttl {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        if text == "keep" {
            return Ok(Ttl::Keep);
        }
        match small_number(text) {
            Some(ttl) if ttl > 0 => Ok(Ttl::Fixed(ttl)),
            _ => Err(EndpointError::Value {
                key: "ttl",
                text: quote(text),
                want: "a number from 1 to 255, or keep",
            }),
        }
    }
}

impl fmt::Display for Ttl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ttl::Fixed(ttl) => ttl.fmt(f),
            Ttl::Keep => f.pad("keep"),
        }
    }
}

/// The names of differentiated services codepoints: RFC 2474 (cs), 2597 (af), 3246 (ef), 5865 (va), 8622 (le).
/// The first name of a value is the canonical one.
const CODEPOINTS: [(&str, u8); 25] = [
    ("cs0", 0),
    ("be", 0),
    ("default", 0),
    ("le", 1),
    ("cs1", 8),
    ("af11", 10),
    ("af12", 12),
    ("af13", 14),
    ("cs2", 16),
    ("af21", 18),
    ("af22", 20),
    ("af23", 22),
    ("cs3", 24),
    ("af31", 26),
    ("af32", 28),
    ("af33", 30),
    ("cs4", 32),
    ("af41", 34),
    ("af42", 36),
    ("af43", 38),
    ("cs5", 40),
    ("va", 44),
    ("ef", 46),
    ("cs6", 48),
    ("cs7", 56),
];

/// A differentiated services codepoint, 0 to 63, written by its name if it has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Codepoint(u8);

impl Codepoint {
    /// The codepoint of this value; `None` above 63.
    pub fn new(value: u8) -> Option<Self> {
        (value < 64).then_some(Codepoint(value))
    }

    /// The value, 0 to 63.
    pub fn value(self) -> u8 {
        self.0
    }
}

impl FromStr for Codepoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        codepoint(text).ok_or_else(|| EndpointError::Value {
            key: "dscp",
            text: quote(text),
            want: "a number from 0 to 63, or a name such as ef, af41 or cs5",
        })
    }
}

/// Names are taken in either case, because standards write them in capitals.
fn codepoint(text: &str) -> Option<Codepoint> {
    let named = CODEPOINTS.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)).map(|(_, value)| *value);
    named.or_else(|| small_number(text)).and_then(Codepoint::new)
}

impl fmt::Display for Codepoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match CODEPOINTS.iter().find(|(_, value)| *value == self.0) {
            Some((name, _)) => f.pad(name),
            None => self.0.fmt(f),
        }
    }
}

/// The DSCP of copies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dscp {
    /// That of the incoming datagram.
    #[default]
    Keep,
    /// This value, 0 to 63.
    Fixed(u8),
}

impl FromStr for Dscp {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        if text == "keep" {
            return Ok(Dscp::Keep);
        }
        codepoint(text).map(|codepoint| Dscp::Fixed(codepoint.0)).ok_or_else(|| EndpointError::Value {
            key: "dscp",
            text: quote(text),
            want: "keep, a number from 0 to 63, or a name such as ef, af41 or cs5",
        })
    }
}

impl fmt::Display for Dscp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Dscp::Keep => f.pad("keep"),
            Dscp::Fixed(value) => Codepoint(value).fmt(f),
        }
    }
}

/// The source that receivers of copies see.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum OutputSource {
    /// The address of the interface the copy leaves by, and a port of the relay's.
    #[default]
    Interface,
    /// Address and port of the incoming datagram.
    Keep,
    /// This address, and this port if one is given.
    Fixed(IpAddr, Option<u16>),
}

impl FromStr for OutputSource {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        match text {
            "interface" => return Ok(OutputSource::Interface),
            "keep" => return Ok(OutputSource::Keep),
            _ => {}
        }
        fixed_source(text).ok_or_else(|| EndpointError::Value {
            key: "source",
            text: quote(text),
            want: "interface, keep, ADDRESS or ADDRESS:PORT with IPv6 in brackets, as in [2001:db8::1]:6000",
        })
    }
}

/// `ADDRESS`, `[ADDRESS]`, or either with `:PORT`; IPv6 with a port needs the brackets.
fn fixed_source(text: &str) -> Option<OutputSource> {
    if let Some(address) = parse_ip(text) {
        return Some(OutputSource::Fixed(address, None));
    }
    let (address, port) = text.rsplit_once(':')?;
    let address = parse_ip(address).filter(|ip| ip.is_ipv4() || address.starts_with('['))?;
    Some(OutputSource::Fixed(address, Some(parse_port(port)?)))
}

impl fmt::Display for OutputSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            OutputSource::Interface => f.pad("interface"),
            OutputSource::Keep => f.pad("keep"),
            OutputSource::Fixed(address, Some(port)) => SocketAddr::new(address, port).fmt(f),
            OutputSource::Fixed(IpAddr::V4(address), None) => address.fmt(f),
            OutputSource::Fixed(IpAddr::V6(address), None) => write!(f, "[{address}]"),
        }
    }
}

/// `u8::from_str` would take a leading plus sign.
fn small_number(text: &str) -> Option<u8> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

string_serde!(Ttl, "a TTL from 1 to 255, or keep", or number);
string_serde!(Codepoint, "a DSCP from 0 to 63, or its name", or number);
string_serde!(Dscp, "keep, or a DSCP from 0 to 63, or its name", or number);
string_serde!(OutputSource, "interface, keep, or an address");
