//! What an endpoint may not say even though it can be written down.

use std::net::{IpAddr, Ipv4Addr};

use super::keys::{Dscp, OutputSource, Ttl};
use super::{Endpoint, EndpointError, Input, Output};

impl Input {
    /// Refuses port 0, an unspecified address, and a source that is no host of the same family.
    pub fn check(&self) -> Result<(), EndpointError> {
        check_place(self.address, self.port)?;
        self.source.map_or(Ok(()), |source| check_source("source", source, self.address))
    }
}

impl Endpoint {
    /// Refuses what [`Input::check`] refuses, and a link-local address without its interface.
    pub fn check(&self) -> Result<(), EndpointError> {
        check_place(self.address, self.port)?;
        if self.interface.is_none() {
            check_reach(self.address)?;
        }
        self.source.map_or(Ok(()), |source| check_source("source", source, self.address))
    }
}

impl Output {
    /// Refuses port 0, an unspecified address, a link-local address without its interface, a fixed source that is no
    /// host of the same family, and key values outside their range.
    pub fn check(&self) -> Result<(), EndpointError> {
        check_place(self.address, self.port)?;
        if self.interface.is_none() {
            check_reach(self.address)?;
        }
        if let OutputSource::Fixed(address, port) = self.source {
            check_source("key `source`: address", address, self.address)?;
            if port == Some(0) {
                return Err(EndpointError::PortZero { part: "port of key `source`" });
            }
        }
        // Only a value made by hand can fail these: the parsers of the keys refuse them.
        let want = match *self {
            Output { ttl: Ttl::Fixed(0), .. } => ("ttl", "a number from 1 to 255, or keep"),
            Output { dscp: Dscp::Fixed(64..), .. } => ("dscp", "keep, or a number from 0 to 63"),
            Output { rate: Some(rate), .. } if rate.is_zero() => ("rate", "a rate above 0, or leave it out"),
            _ => return Ok(()),
        };
        let text = match want.0 {
            "ttl" => self.ttl.to_string(),
            "dscp" => self.dscp.to_string(),
            _ => "0".to_owned(),
        };
        Err(EndpointError::Value { key: want.0, text, want: want.1 })
    }
}

fn check_place(address: IpAddr, port: u16) -> Result<(), EndpointError> {
    check_address("address", address)?;
    if port == 0 { Err(EndpointError::PortZero { part: "port" }) } else { Ok(()) }
}

fn check_address(part: &'static str, address: IpAddr) -> Result<(), EndpointError> {
    if address.is_unspecified() {
        return Err(EndpointError::Unspecified { part, address });
    }
    match address.to_canonical() {
        canonical if canonical == address => Ok(()),
        v4 => Err(EndpointError::Mapped { part, address, v4 }),
    }
}

fn check_source(part: &'static str, source: IpAddr, address: IpAddr) -> Result<(), EndpointError> {
    check_address(part, source)?;
    if source.is_multicast() || source == IpAddr::V4(Ipv4Addr::BROADCAST) {
        return Err(EndpointError::NotUnicast { part, address: source });
    }
    if source.is_ipv4() != address.is_ipv4() {
        return Err(EndpointError::Family { part, source_address: source, address });
    }
    Ok(())
}

/// Whether an address can be sent to without naming a link.
fn check_reach(address: IpAddr) -> Result<(), EndpointError> {
    let IpAddr::V6(v6) = address else { return Ok(()) };
    // RFC 4291, 2.7: the low half of the second octet is the scope; 1 is interface-local, 2 link-local.
    let scoped = v6.is_multicast() && matches!(v6.octets()[1] & 0x0f, 1 | 2);
    if scoped || v6.is_unicast_link_local() { Err(EndpointError::LinkLocal { address }) } else { Ok(()) }
}

/// RFC 4607, section 1: 232.0.0.0/8 and ff3x::/32.
pub(super) fn is_source_specific(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.octets()[0] == 232,
        IpAddr::V6(v6) => v6.segments()[0] & 0xfff0 == 0xff30 && v6.segments()[1] == 0,
    }
}
