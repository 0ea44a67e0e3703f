//! Ready-made networks: namespaces in a row.
//!
//! ```text
//! Line:   source src0 ---- in0 relay out0 ---- dst0 sinks[0]
//!                                    out1 ---- dst1 sinks[1]  ...
//! Chain:  source src0 ---- in0 relays[0] out0 ---- in0 relays[1] out0 ---- dst0 sink
//! ```
//! Cable `n`, counted from 1 at the source, is 10.n.0.0/24 and fd00:n::/64 (n in decimal digits); the end nearer
//! to the source has host number 1, the other 2. Everything is up and running when a constructor returns,
//! IPv6 is quiet, reverse path filters are off, and nothing forwards but what the test starts.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::error::LabError;
use crate::link::veth;
use crate::namespace::Namespace;

/// One relay between a source and any number of sinks.
#[derive(Debug)]
pub struct Line {
    /// Has `src0`: 10.1.0.1/24, fd00:1::1/64; multicast goes out by it.
    pub source: Namespace,
    /// Has `in0` (10.1.0.2/24, fd00:1::2/64) and an output `outI` (10.(2+I).0.1/24) for each sink.
    pub relay: Namespace,
    /// Sink I has `dstI`: 10.(2+I).0.2/24, fd00:(2+I)::2/64.
    pub sinks: Vec<Namespace>,
}

impl Line {
    /// A relay with one sink.
    pub fn new() -> Result<Self, LabError> {
        Self::with_outputs(1)
    }

    /// A relay with `outputs` sinks.
    ///
    /// # Panics
    /// If `outputs` is above 250: the addresses end there.
    pub fn with_outputs(outputs: u8) -> Result<Self, LabError> {
        assert!(outputs <= 250, "a line has at most 250 outputs");
        let (source, relay) = (node()?, node()?);
        cable((&source, "src0"), (&relay, "in0"), 1)?;
        source.add_multicast_route("src0")?;
        let mut sinks = Vec::new();
        for index in 0..outputs {
            let sink = node()?;
            let (near, far) = (format!("out{index}"), format!("dst{index}"));
            cable((&relay, &near), (&sink, &far), 2 + index)?;
            back_route(&sink, &far, 2 + index)?;
            sinks.push(sink);
        }
        Ok(Self { source, relay, sinks })
    }

    /// The IPv4 address of sink `index`.
    pub fn sink_v4(index: u8) -> Ipv4Addr {
        host_v4(2 + index, 2)
    }

    /// The IPv6 address of sink `index`.
    pub fn sink_v6(index: u8) -> Ipv6Addr {
        host_v6(2 + index, 2)
    }

    /// Makes relay and sinks know each other's hardware addresses for good, so that no first datagram waits for
    /// ARP or neighbour discovery. For tests that count exactly and do not test resolution.
    pub fn pin_neighbours(&self) -> Result<(), LabError> {
        pin((&self.source, "src0"), (&self.relay, "in0"), 1)?;
        for (index, sink) in (0..).zip(&self.sinks) {
            pin((&self.relay, &format!("out{index}")), (sink, &format!("dst{index}")), 2 + index)?;
        }
        Ok(())
    }
}

/// Relays in a row.
#[derive(Debug)]
pub struct Chain {
    /// Has `src0`: 10.1.0.1/24, fd00:1::1/64; multicast goes out by it.
    pub source: Namespace,
    /// Relay I has `in0` on cable I+1 and `out0` on cable I+2.
    pub relays: Vec<Namespace>,
    /// Has `dst0`: 10.(N+1).0.2/24, fd00:(N+1)::2/64 behind N relays.
    pub sink: Namespace,
}

impl Chain {
    /// A source, `relays` relays and a sink.
    ///
    /// # Panics
    /// If `relays` is above 250: the addresses end there.
    pub fn new(relays: u8) -> Result<Self, LabError> {
        assert!(relays <= 250, "a chain has at most 250 relays");
        let (source, sink) = (node()?, node()?);
        let relays = (0..relays).map(|_| node()).collect::<Result<Vec<_>, _>>()?;
        let mut near = (&source, "src0");
        let mut number = 1;
        for relay in &relays {
            cable(near, (relay, "in0"), number)?;
            near = (relay, "out0");
            number += 1;
        }
        cable(near, (&sink, "dst0"), number)?;
        back_route(&sink, "dst0", number)?;
        source.add_multicast_route("src0")?;
        Ok(Self { source, relays, sink })
    }
}

/// The IPv4 address of host `host` on cable `number`.
fn host_v4(number: u8, host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, number, 0, host)
}

/// The IPv6 address of host `host` on cable `number`, whose decimal digits are written as they are.
fn host_v6(number: u8, host: u8) -> Ipv6Addr {
    let (n, host) = (u16::from(number), u16::from(host));
    let digits = (n / 100) << 8 | (n / 10 % 10) << 4 | (n % 10);
    Ipv6Addr::new(0xfd00, digits, 0, 0, 0, 0, 0, host)
}

fn node() -> Result<Namespace, LabError> {
    let node = Namespace::new()?;
    node.quiet_ipv6()?;
    // A new namespace copies these from the first one, and a test must not depend on the machine.
    node.sysctl("net.ipv4.conf.all.rp_filter", "0")?;
    node.sysctl("net.ipv4.conf.default.rp_filter", "0")?;
    Ok(node)
}

/// Connects two nodes and waits until frames pass in both directions.
fn cable(near: (&Namespace, &str), far: (&Namespace, &str), number: u8) -> Result<(), LabError> {
    veth(near, far)?;
    for ((node, ifname), host) in [(near, 1), (far, 2)] {
        node.set_up(ifname)?;
        node.add_address(ifname, host_v4(number, host).into(), 24)?;
        node.add_address(ifname, host_v6(number, host).into(), 64)?;
    }
    near.0.wait_running(near.1)?;
    far.0.wait_running(far.1)
}

/// A sink can answer, and accepts, any source address.
fn back_route(sink: &Namespace, ifname: &str, number: u8) -> Result<(), LabError> {
    for via in [IpAddr::V4(host_v4(number, 1)), IpAddr::V6(host_v6(number, 1))] {
        sink.add_route(None, Some(via), ifname)?;
    }
    Ok(())
}

fn pin(near: (&Namespace, &str), far: (&Namespace, &str), number: u8) -> Result<(), LabError> {
    for ((node, ifname), (other, other_ifname), host) in [(near, far, 2), (far, near, 1)] {
        if let Some(mac) = other.link(other_ifname)?.mac {
            node.add_neighbour(ifname, host_v4(number, host).into(), mac)?;
            node.add_neighbour(ifname, host_v6(number, host).into(), mac)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_group_of_an_ipv6_address_reads_as_the_cable_number() {
        assert_eq!(host_v6(1, 2).to_string(), "fd00:1::2");
        assert_eq!(host_v6(12, 1).to_string(), "fd00:12::1");
        assert_eq!(host_v6(250, 1).to_string(), "fd00:250::1");
    }
}
