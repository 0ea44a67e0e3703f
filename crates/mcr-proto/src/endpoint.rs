//! Endpoints: where datagrams come in and where their copies go out, as one line of text.
//!
//! The grammar is `[SOURCE>]ADDRESS:PORT[@INTERFACE][,key=value...]`, IPv6 addresses in brackets. [`Input`], [`Output`]
//! and [`Endpoint`] are three readings of it that differ in what they require and refuse:
//!
//! | | `SOURCE>` | `@INTERFACE` | keys |
//! |---|---|---|---|
//! | [`Input`] | optional: take datagrams of this sender only | required | refused |
//! | [`Output`] | refused, the key `source` is meant | optional: without it the route decides | `ttl dscp source loop rate` |
//! | [`Endpoint`] | optional | optional | refused |
//!
//! `Display` writes the canonical form: no blanks, keys in the order above, defaults left out. What `FromStr` accepts
//! comes back equal from its canonical form. Host names are not looked up, interfaces are not asked for: this module
//! does no I/O.
//!
//! Fields are public, so a value can also be put together by hand; `check` says whether it means anything, and every
//! value that was parsed or deserialised has passed it.
//!
//! In serde a value is its string. Human-readable formats (TOML, JSON) may also give a table, as
//! `{ address = "239.1.1.1", port = 5000, interface = "eth0" }`.

mod check;
mod error;
mod interface;
mod keys;
mod rate;
mod serial;
mod text;

use std::net::{IpAddr, SocketAddr};

pub use error::EndpointError;
pub(crate) use error::{listed, nearest, quote};
pub use interface::IfName;
pub use keys::{Codepoint, Dscp, OutputSource, Ttl};
pub use rate::Rate;
pub(crate) use serial::{FromTable, string_serde};

/// Where a rule takes datagrams in: `[SOURCE>]ADDRESS:PORT@INTERFACE`.
///
/// ```
/// use mcr_proto::endpoint::Input;
///
/// let input: Input = "10.0.0.9>232.1.1.1:5000@eth0".parse()?;
/// assert_eq!(input.interface.as_str(), "eth0");
/// assert_eq!(input.to_string(), "10.0.0.9>232.1.1.1:5000@eth0");
/// # Ok::<(), mcr_proto::endpoint::EndpointError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Input {
    /// Take datagrams from this sender only; with a multicast address this is a source-specific membership.
    pub source: Option<IpAddr>,
    /// The group, or an address of this host, that datagrams are sent to.
    pub address: IpAddr,
    /// The UDP port they are sent to; never 0.
    pub port: u16,
    /// The interface they arrive on.
    pub interface: IfName,
}

/// One place a rule sends copies to: `ADDRESS:PORT[@INTERFACE][,key=value...]`.
///
/// ```
/// use mcr_proto::endpoint::{Output, Ttl};
///
/// let output: Output = "239.2.2.2:6000@eth1,dscp=34,ttl=16,loop=off".parse()?;
/// assert_eq!(output.ttl, Ttl::Fixed(16));
/// assert_eq!(output.to_string(), "239.2.2.2:6000@eth1,ttl=16,dscp=af41");
/// # Ok::<(), mcr_proto::endpoint::EndpointError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Output {
    /// The group, host or broadcast address that copies go to.
    pub address: IpAddr,
    /// The UDP port they go to; never 0.
    pub port: u16,
    /// The interface they leave by; without one the route to `address` decides.
    pub interface: Option<IfName>,
    /// The TTL or hop limit of copies.
    pub ttl: Ttl,
    /// The DSCP of copies.
    pub dscp: Dscp,
    /// The source address and port that receivers see.
    pub source: OutputSource,
    /// Whether listeners on this host get multicast copies too (key `loop`).
    pub multicast_loop: bool,
    /// Cap on what is sent; the excess is dropped and counted.
    pub rate: Option<Rate>,
}

/// A place to send to or to listen at, with nothing required but address and port:
/// `[SOURCE>]ADDRESS:PORT[@INTERFACE]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    /// The only sender to take datagrams from.
    pub source: Option<IpAddr>,
    /// The group, host or broadcast address.
    pub address: IpAddr,
    /// The UDP port; never 0.
    pub port: u16,
    /// The interface to use; without one the kernel chooses.
    pub interface: Option<IfName>,
}

impl Input {
    /// An input for datagrams of any sender.
    pub fn new(address: IpAddr, port: u16, interface: IfName) -> Self {
        Input { source: None, address, port, interface }
    }

    /// Address and port that datagrams are sent to.
    pub fn socket_addr(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.port)
    }

    /// Whether the group lies in the range set aside for source-specific multicast (RFC 4607: 232.0.0.0/8 and ff3x::/32)
    /// while no source is named. Such an input is legal, but networks seldom carry what it asks for.
    pub fn lacks_source(&self) -> bool {
        self.source.is_none() && check::is_source_specific(self.address)
    }
}

impl Output {
    /// An output with every key at its default, the interface left to the route.
    pub fn new(address: IpAddr, port: u16) -> Self {
        Output {
            address,
            port,
            interface: None,
            ttl: Ttl::default(),
            dscp: Dscp::default(),
            source: OutputSource::default(),
            multicast_loop: false,
            rate: None,
        }
    }

    /// Address and port that copies go to.
    pub fn socket_addr(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.port)
    }
}

impl Endpoint {
    /// An endpoint for any sender, the interface left to the kernel.
    pub fn new(address: IpAddr, port: u16) -> Self {
        Endpoint { source: None, address, port, interface: None }
    }

    /// Address and port.
    pub fn socket_addr(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.port)
    }
}
