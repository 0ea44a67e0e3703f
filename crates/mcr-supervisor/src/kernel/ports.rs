//! Source ports of the kernel path, whose copies leave by no socket of their own: one of each family, held for as long as rules are there.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use mcr_socket::{
    Family,
    udp::{self, UdpOutput},
};
use tracing::warn;

/// The ports that are held, IPv4 first.
#[derive(Debug, Default)]
pub(super) struct Ports([Option<Port>; 2]);

/// A source port of this host's that nobody else can have.
#[derive(Debug)]
struct Port {
    number: u16,
    _held: UdpSocket,
}

impl Ports {
    /// The port of a family, taken with the first need; none if the host has none to give.
    pub(super) fn of(&mut self, ipv6: bool) -> Option<u16> {
        let port = &mut self.0[usize::from(ipv6)];
        if port.is_none() {
            *port = reserve(ipv6).inspect_err(|error| warn!("cannot reserve a source port: {error}")).ok();
        }
        port.as_ref().map(|port| port.number)
    }

    /// Gives both back.
    pub(super) fn release(&mut self) {
        self.0 = [None, None];
    }
}

/// Takes a port that is free, for as long as this lives; what is sent to it is dropped.
fn reserve(ipv6: bool) -> Result<Port, String> {
    let (family, any) =
        if ipv6 { (Family::V6, IpAddr::from([0_u16; 8])) } else { (Family::V4, IpAddr::from([0_u8; 4])) };
    let options = UdpOutput {
        family,
        ifindex: None,
        source: Some(SocketAddr::new(any, 0)),
        hop_limit: 64,
        multicast_loop: false,
        send_buffer_bytes: 0,
        report_full_queue: false,
        dscp: None,
        priority: 0,
    };
    let held = UdpSocket::from(udp::open_output(&options).map_err(|error| error.to_string())?);
    let number = held.local_addr().map_err(|error| error.to_string())?.port();
    Ok(Port { number, _held: held })
}
