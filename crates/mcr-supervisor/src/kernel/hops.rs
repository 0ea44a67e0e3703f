//! Where an output's frames go: device, source address, next hop. From the network's snapshot alone.

use std::net::{IpAddr, Ipv4Addr};

use mcr_ebpf::Way;
use mcr_netmon::{Link, LinkKind, RouteHit, RouteKind, Snapshot};
use mcr_parse::multicast_mac;
use mcr_proto::{counters::OutputDrop, endpoint::Output};

/// The way of an output's copies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hop {
    pub(super) way: Way,
    /// The interface's address for what goes there.
    pub(super) source: Option<IpAddr>,
    /// The neighbour whose hardware address is needed, known or not.
    pub(super) neighbour: Option<(u32, IpAddr)>,
}

/// Resolves an output as the network is now.
pub(super) fn resolve(output: &Output, network: &Snapshot) -> Hop {
    let nowhere = |reason| Hop { way: Way::Nowhere(reason), source: None, neighbour: None };
    let Some((link, hit)) = device(output, network) else { return nowhere(OutputDrop::NoRoute) };
    if !link.up || !link.running {
        return nowhere(OutputDrop::NoRoute);
    }
    let destination = output.address;
    let next = hit.gateway.unwrap_or(destination);
    let source = hit.source.or_else(|| network.source_towards(link.index, destination));
    let by = |to, from| Way::Device { ifindex: link.index, mtu: link.mtu, to, from };
    let here = |way, neighbour| Hop { way, source, neighbour };
    if link.kind == LinkKind::RawIp {
        return here(by([0; 6], [0; 6]), None);
    }
    let from = link.mac.unwrap_or_default();
    if let Some(to) = mac_of(destination, hit.kind) {
        return here(by(to, from), None);
    }
    let neighbour = network.neighbour(link.index, next).filter(|known| known.state.is_valid());
    let way = match neighbour.and_then(|known| known.mac) {
        Some(to) => by(to, from),
        None => Way::Nowhere(OutputDrop::NoNeighbour),
    };
    here(way, Some((link.index, next)))
}

/// The device and the route by it: the interface that is named, or the one the routes give.
fn device<'a>(output: &Output, network: &'a Snapshot) -> Option<(&'a Link, RouteHit)> {
    match &output.interface {
        Some(name) => {
            let link = network.link_by_name(name.as_str())?;
            Some((link, network.route_by(output.address, link.index)?))
        }
        None => {
            let hit = network.route_to(output.address)?;
            Some((network.link(hit.index)?, hit))
        }
    }
}

/// The hardware address that follows from the destination alone: that of a group, or of all.
fn mac_of(destination: IpAddr, kind: RouteKind) -> Option<[u8; 6]> {
    match destination {
        IpAddr::V4(Ipv4Addr::BROADCAST) => Some([0xff; 6]),
        IpAddr::V4(_) if kind == RouteKind::Broadcast => Some([0xff; 6]),
        _ => multicast_mac(destination),
    }
}

/// Whether others than this host's sockets get an interface's frames: it is a port of a bridge or bond, or has macvlans on top.
pub(super) fn is_shared(network: &Snapshot, ifindex: u32) -> bool {
    let on_top = |link: &Link| {
        link.parent == Some(ifindex)
            && matches!(link.driver.as_deref(), Some("macvlan" | "macvtap" | "ipvlan" | "ipvtap"))
    };
    network.link(ifindex).is_some_and(|link| link.master.is_some()) || network.links().any(on_top)
}
