//! Links: making, connecting, changing and reading them.

use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::time::Duration;

use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoMacVlan, InfoVeth, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
    MacVlanMode, Stats64,
};
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage, TcOption};

use crate::error::LabError;
use crate::namespace::Namespace;
use crate::wait::wait_until;

/// IANA's port for VXLAN (RFC 7348 section 8).
const VXLAN_PORT: u16 = 4789;
/// The kernel's link watch runs within a second of a carrier change, or at once.
const CARRIER_WAIT: Duration = Duration::from_secs(10);

/// What the kernel says of one link.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LinkState {
    /// Interface index.
    pub index: u32,
    /// Interface name.
    pub name: String,
    /// Hardware address, if it has six bytes.
    pub mac: Option<[u8; 6]>,
    /// Largest payload of a frame, in bytes.
    pub mtu: u32,
    /// Administratively up (IFF_UP).
    pub up: bool,
    /// Able to carry frames (IFF_RUNNING).
    pub running: bool,
    /// Counters of the device.
    pub stats: LinkStats,
}

/// Counters of a device, as netdevice drivers keep them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LinkStats {
    /// Packets received, superframes counted as one.
    pub rx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Received packets that were dropped.
    pub rx_dropped: u64,
    /// Receive errors of all kinds.
    pub rx_errors: u64,
    /// Packets sent, superframes counted as one.
    pub tx_packets: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets dropped instead of being sent.
    pub tx_dropped: u64,
    /// Send errors of all kinds.
    pub tx_errors: u64,
}

/// Connects two namespaces by a pair of virtual Ethernet devices, `a.1` in `a.0` and `b.1` in `b.0`, both down.
pub fn veth(a: (&Namespace, &str), b: (&Namespace, &str)) -> Result<(), LabError> {
    veth_with_queues(a, b, 1)
}

/// As [`veth`], with so many send and receive queues at each end. A frame arrives on the queue by which it was sent.
pub fn veth_with_queues(a: (&Namespace, &str), b: (&Namespace, &str), queues: u32) -> Result<(), LabError> {
    let counts = [LinkAttribute::NumTxQueues(queues), LinkAttribute::NumRxQueues(queues)];
    let mut peer = named(b.1);
    peer.attributes.push(LinkAttribute::NetNsFd(b.0.fd().as_raw_fd()));
    peer.attributes.extend(counts.clone());
    let mut link = named(a.1);
    link.attributes.extend(counts);
    link.attributes.push(info(InfoKind::Veth, Some(InfoData::Veth(InfoVeth::Peer(peer)))));
    a.0.new_link(|| format!("make veth pair {} and {}", a.1, b.1), link)
}

/// Makes `child.1` in `child.0`, a macvlan in bridge mode on top of link `parent.1` of `parent.0`.
pub fn macvlan(parent: (&Namespace, &str), child: (&Namespace, &str)) -> Result<(), LabError> {
    let mut link = named(child.1);
    link.attributes.push(LinkAttribute::Link(parent.0.link_index(parent.1)?));
    link.attributes.push(LinkAttribute::NetNsFd(child.0.fd().as_raw_fd()));
    let mode = vec![InfoMacVlan::Mode(MacVlanMode::Bridge)];
    link.attributes.push(info(InfoKind::MacVlan, Some(InfoData::MacVlan(mode))));
    parent.0.new_link(|| format!("make macvlan {} on {}", child.1, parent.1), link)
}

impl Namespace {
    /// Makes a bridge, down.
    pub fn bridge(&self, name: &str) -> Result<(), LabError> {
        let mut link = named(name);
        link.attributes.push(info(InfoKind::Bridge, None));
        self.new_link(|| format!("make bridge {name}"), link)
    }

    /// Makes a unicast VXLAN tunnel `name` with network identifier `vni` from `local` to `remote`, down.
    pub fn vxlan(&self, name: &str, vni: u32, local: Ipv4Addr, remote: Ipv4Addr) -> Result<(), LabError> {
        let mut link = named(name);
        let data = vec![
            InfoVxlan::Id(vni),
            InfoVxlan::Local(local),
            InfoVxlan::Group(remote),
            InfoVxlan::Port(VXLAN_PORT),
        ];
        link.attributes.push(info(InfoKind::Vxlan, Some(InfoData::Vxlan(data))));
        self.new_link(|| format!("make vxlan {name}"), link)
    }

    /// Makes `ifname` a port of bridge `master`, or of none.
    pub fn set_master(&self, ifname: &str, master: Option<&str>) -> Result<(), LabError> {
        let index = master.map_or(Ok(0), |m| self.link_index(m))?;
        let what = || format!("set master of {ifname} to {}", master.unwrap_or("none"));
        self.set_link(ifname, what, |link| link.attributes.push(LinkAttribute::Controller(index)))
    }

    /// Brings a link up. A veth device carries frames once both ends are up; see [`Namespace::wait_running`].
    pub fn set_up(&self, ifname: &str) -> Result<(), LabError> {
        self.set_link(
            ifname,
            || format!("set {ifname} up"),
            |link| {
                link.header.flags = LinkFlags::Up;
                link.header.change_mask = LinkFlags::Up;
            },
        )
    }

    /// Takes a link down.
    pub fn set_down(&self, ifname: &str) -> Result<(), LabError> {
        self.set_link(ifname, || format!("set {ifname} down"), |link| link.header.change_mask = LinkFlags::Up)
    }

    /// Gives a link another name. Kernels before 6.2 do so only while it is down.
    pub fn rename_link(&self, ifname: &str, to: &str) -> Result<(), LabError> {
        let what = || format!("rename {ifname} to {to}");
        self.set_link(ifname, what, |link| link.attributes.push(LinkAttribute::IfName(to.to_owned())))
    }

    /// Sets the largest payload of a frame, in bytes.
    pub fn set_mtu(&self, ifname: &str, mtu: u32) -> Result<(), LabError> {
        let what = || format!("set mtu of {ifname} to {mtu}");
        self.set_link(ifname, what, |link| link.attributes.push(LinkAttribute::Mtu(mtu)))
    }

    /// Sets the hardware address.
    pub fn set_mac(&self, ifname: &str, mac: [u8; 6]) -> Result<(), LabError> {
        let what = || format!("set hardware address of {ifname} to {mac:02x?}");
        self.set_link(ifname, what, |link| link.attributes.push(LinkAttribute::Address(mac.to_vec())))
    }

    /// Takes the queue away that the kernel keeps in front of a device: what the device does not take at once is dropped, and
    /// the sender told.
    pub fn set_noqueue(&self, ifname: &str) -> Result<(), LabError> {
        self.set_queue(ifname, || format!("take the queue of {ifname} away"), "noqueue", Vec::new())
    }

    /// Lets a device send at most so much on average (tc-tbf(8)), with a queue and a burst of `queue_bytes` each; what the queue has
    /// no room for is dropped, and the sender told.
    pub fn set_rate_limit(&self, ifname: &str, bytes_per_s: u32, queue_bytes: u32) -> Result<(), LabError> {
        // Of linux/pkt_sched.h: TCA_TBF_PARMS is a `struct tc_tbf_qopt`, TCA_TBF_BURST takes the place of its buffer.
        const PARAMETERS: u16 = 1;
        const BURST: u16 = 6;
        const LINK_LAYER_ETHERNET: u8 = 1;
        let mut parameters = vec![0; 36];
        parameters[1] = LINK_LAYER_ETHERNET;
        parameters[8..12].copy_from_slice(&bytes_per_s.to_ne_bytes());
        parameters[24..28].copy_from_slice(&queue_bytes.to_ne_bytes());
        let options = [(PARAMETERS, parameters), (BURST, queue_bytes.to_ne_bytes().to_vec())];
        let options = options.map(|(kind, value)| TcOption::Other(DefaultNla::new(kind, value)));
        self.set_queue(ifname, || format!("limit the rate of {ifname}"), "tbf", options.to_vec())
    }

    fn set_queue(
        &self,
        ifname: &str,
        what: impl FnOnce() -> String,
        kind: &str,
        options: Vec<TcOption>,
    ) -> Result<(), LabError> {
        let mut queue = TcMessage::default();
        queue.header.index = self.link_index(ifname)? as i32;
        queue.header.parent = TcHandle::ROOT;
        queue.attributes.push(TcAttribute::Kind(kind.to_owned()));
        if !options.is_empty() {
            queue.attributes.push(TcAttribute::Options(options));
        }
        let flags = NLM_F_CREATE | NLM_F_REPLACE;
        self.request(what, flags, &RouteNetlinkMessage::NewQueueDiscipline(queue)).map(drop)
    }

    /// Deletes a link; of a veth pair the other end goes too.
    pub fn delete_link(&self, ifname: &str) -> Result<(), LabError> {
        let mut link = LinkMessage::default();
        link.header.index = self.link_index(ifname)?;
        let what = || format!("delete link {ifname}");
        self.request(what, 0, &RouteNetlinkMessage::DelLink(link)).map(drop)
    }

    /// The index of a link.
    pub fn link_index(&self, ifname: &str) -> Result<u32, LabError> {
        Ok(self.link(ifname)?.index)
    }

    /// The device counters of a link.
    pub fn link_stats(&self, ifname: &str) -> Result<LinkStats, LabError> {
        Ok(self.link(ifname)?.stats)
    }

    /// What the kernel says of a link.
    pub fn link(&self, ifname: &str) -> Result<LinkState, LabError> {
        let what = || format!("read link {ifname}");
        let request = RouteNetlinkMessage::GetLink(named(ifname));
        let answers = self.request(what, 0, &request)?;
        let found = answers.into_iter().find_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(link) => Some(link_state(link)),
            _ => None,
        });
        found.ok_or_else(|| LabError::Answer { what: what(), reason: "it holds no link".to_owned() })
    }

    /// Waits until a link can carry frames. Before that the kernel drops what is sent to it: the queue of a
    /// veth device is put in place only after its carrier was noticed.
    pub fn wait_running(&self, ifname: &str) -> Result<(), LabError> {
        let mut failure = None;
        let waited = wait_until(CARRIER_WAIT, &format!("{ifname} is running"), || match self.link(ifname) {
            Ok(link) => link.running,
            Err(error) => {
                failure = Some(error);
                true
            }
        });
        failure.map_or(waited, Err)
    }

    fn new_link(&self, what: impl FnOnce() -> String, link: LinkMessage) -> Result<(), LabError> {
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        self.request(what, flags, &RouteNetlinkMessage::NewLink(link)).map(drop)
    }

    fn set_link(
        &self,
        ifname: &str,
        what: impl FnOnce() -> String,
        change: impl FnOnce(&mut LinkMessage),
    ) -> Result<(), LabError> {
        let mut link = LinkMessage::default();
        link.header.index = self.link_index(ifname)?;
        change(&mut link);
        self.request(what, 0, &RouteNetlinkMessage::SetLink(link)).map(drop)
    }
}

fn named(ifname: &str) -> LinkMessage {
    let mut link = LinkMessage::default();
    link.attributes.push(LinkAttribute::IfName(ifname.to_owned()));
    link
}

fn info(kind: InfoKind, data: Option<InfoData>) -> LinkAttribute {
    let mut info = vec![LinkInfo::Kind(kind)];
    info.extend(data.map(LinkInfo::Data));
    LinkAttribute::LinkInfo(info)
}

fn link_state(link: LinkMessage) -> LinkState {
    let flags = link.header.flags;
    let mut state = LinkState {
        index: link.header.index,
        name: String::new(),
        mac: None,
        mtu: 0,
        up: flags.contains(LinkFlags::Up),
        running: flags.contains(LinkFlags::Running),
        stats: LinkStats::default(),
    };
    for attribute in link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => state.name = name,
            LinkAttribute::Address(bytes) => state.mac = bytes.try_into().ok(),
            LinkAttribute::Mtu(mtu) => state.mtu = mtu,
            LinkAttribute::Stats64(stats) => state.stats = link_stats(&stats),
            _ => {}
        }
    }
    state
}

fn link_stats(stats: &Stats64) -> LinkStats {
    LinkStats {
        rx_packets: stats.rx_packets,
        rx_bytes: stats.rx_bytes,
        rx_dropped: stats.rx_dropped,
        rx_errors: stats.rx_errors,
        tx_packets: stats.tx_packets,
        tx_bytes: stats.tx_bytes,
        tx_dropped: stats.tx_dropped,
        tx_errors: stats.tx_errors,
    }
}
