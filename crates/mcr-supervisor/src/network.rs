//! The host's interfaces as the plan compiler wants them, and the data paths that this process may use.

use std::net::IpAddr;

use mcr_netmon::{Link, LinkKind, RouteHit, RouteKind, Snapshot};
use mcr_proto::{endpoint::IfName, message::InterfaceView};
use mcr_relay::compile::{Abilities, Framing, Interface, KernelLack, Leads, Network};
use mcr_socket::{
    filter::Filter,
    packet::{self, PacketOptions},
};

/// A snapshot, seen through the compiler's eyes.
pub(crate) struct Interfaces<'a>(pub(crate) &'a Snapshot);

impl Network for Interfaces<'_> {
    fn interface(&self, name: &IfName) -> Option<Interface> {
        self.0.link_by_name(name.as_str()).map(interface)
    }

    fn leads(&self, destination: IpAddr) -> Leads {
        match self.0.route_to(destination) {
            None => Leads::Nowhere,
            Some(RouteHit { kind: RouteKind::Local, .. }) => Leads::Here,
            Some(hit) => self.0.link(hit.index).map_or(Leads::Nowhere, |link| Leads::By(interface(link))),
        }
    }

    fn is_own(&self, address: IpAddr) -> bool {
        self.0.addresses().any(|own| own.address == address)
    }

    fn has_source(&self, ifindex: u32, destination: IpAddr) -> bool {
        self.0.source_towards(ifindex, destination).is_some()
    }
}

fn interface(link: &Link) -> Interface {
    Interface {
        index: link.index,
        up: link.up,
        running: link.running,
        framing: match link.kind {
            // Loopback frames carry an Ethernet header of zeroes.
            LinkKind::Ethernet | LinkKind::Loopback => Framing::Ethernet,
            LinkKind::RawIp => Framing::Ip,
            _ => Framing::Other,
        },
        mtu: link.mtu,
        loopback: link.kind == LinkKind::Loopback,
    }
}

/// The interfaces for clients, those with an index above `after`; `rules` says how many rules use a name.
pub(crate) fn views<'a>(
    snapshot: &'a Snapshot,
    after: Option<u32>,
    rules: impl Fn(&str) -> u32 + 'a,
) -> impl Iterator<Item = InterfaceView> + 'a {
    let links = snapshot.links().filter(move |link| after.is_none_or(|after| link.index > after));
    links.map(move |link| InterfaceView {
        index: link.index,
        name: link.name.clone(),
        up: link.up,
        running: link.running,
        multicast: link.multicast,
        mtu: link.mtu,
        mac: link.mac,
        addresses: snapshot.addresses_of(link.index).map(|address| address.address).collect(),
        kind: link.driver.clone(),
        rules: rules(&link.name),
    })
}

/// Tries what this process may do. Whether programs can be loaded is found out with the first rule that needs them.
pub(crate) fn abilities(ebpf: bool) -> Abilities {
    const LOOPBACK: u32 = 1;
    let filter = Filter::drop_all();
    let options = PacketOptions {
        ifindex: LOOPBACK,
        vnet_hdr: true,
        receive_buffer_bytes: 0,
        ring: None,
        filter: &filter,
    };
    let kernel = if ebpf { Ok(()) } else { Err(KernelLack::Off) };
    Abilities { raw_sockets: packet::open(&options).is_ok(), kernel }
}
