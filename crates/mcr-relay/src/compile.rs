//! From a rule and the state of the network to what the rule needs: a receiving socket, a membership or guard, and a sending
//! socket for each output. One rule at a time and without memory, so that a change touches only the rules it concerns.
//!
//! What is not here: opening any of it, and the numbers (slots, socket ids) that a worker knows it by.

mod kernel;

use std::net::{IpAddr, SocketAddr};

use crate::classes::{Classes, Lane};
use mcr_proto::{
    endpoint::{Dscp, IfName, Input, Output, OutputSource, Ttl},
    message::RuleState,
    plan::{OutputSlot, Route, RouteOutput, RuleSlot, SocketId, Via},
    rule::{Datapath, DatapathChoice, RuleSpec},
};

/// What the compiler needs to know of the host's interfaces.
pub trait Network {
    /// The interface of this name, if there is one.
    fn interface(&self, name: &IfName) -> Option<Interface>;

    /// Where the routes lead to.
    fn leads(&self, destination: IpAddr) -> Leads;

    /// Whether an address is one of this host's.
    fn is_own(&self, address: IpAddr) -> bool;

    /// Whether an interface has a source address for what goes to a destination.
    fn has_source(&self, ifindex: u32, destination: IpAddr) -> bool;
}

/// Where a destination leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leads {
    /// No route.
    Nowhere,
    /// To this host itself.
    Here,
    /// Out by an interface.
    By(Interface),
}

/// An interface, as far as a rule cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interface {
    /// The kernel's number; changes when the interface is made again.
    pub index: u32,
    /// Administratively up.
    pub up: bool,
    /// Carrier present.
    pub running: bool,
    /// What its frames start with.
    pub framing: Framing,
    /// Largest IP packet, in bytes.
    pub mtu: u32,
    /// The loopback device.
    pub loopback: bool,
}

/// What frames of an interface start with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Framing {
    /// An Ethernet header.
    Ethernet,
    /// The IP header (tun and the like).
    Ip,
    /// Something else; no `packet` path.
    Other,
}

/// What the daemon is able to do on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Abilities {
    /// Packet and raw sockets may be opened (CAP_NET_RAW).
    pub raw_sockets: bool,
    /// Programs may be loaded into the kernel, or why not.
    pub kernel: Result<(), KernelLack>,
}

/// Why the kernel data path cannot be used, whatever the rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KernelLack {
    /// No CAP_BPF, or programs are forbidden altogether.
    NotPermitted,
    /// The kernel is too old, or refuses the program.
    Kernel,
    /// Switched off where the daemon was started.
    Off,
    /// Rules lead its datagrams back to its input.
    Circle,
    /// No room for more.
    Full,
    /// Refused for this rule; the log says more.
    Refused,
}

impl std::fmt::Display for KernelLack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NotPermitted => "eBPF is not permitted (it takes CAP_BPF and CAP_NET_ADMIN)",
            Self::Kernel => "this kernel does not take the program (Linux 5.19 does)",
            Self::Off => "eBPF is switched off",
            Self::Circle => "rules lead back to its input, and only workers know own copies",
            Self::Full => "there is no room for more rules or outputs in the kernel",
            Self::Refused => "the kernel refused it; the log says why",
        })
    }
}

/// A receiving socket, by what it receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ReceiverKey {
    /// One AF_PACKET socket for all datagrams of a lane, of all rules of a worker on an interface.
    Packet {
        /// The interface.
        ifindex: u32,
        /// Whether frames start with an Ethernet header.
        ethernet: bool,
        /// Which datagrams.
        lane: Lane,
    },
    /// One UDP socket for all rules of a worker with this address, port and source on an interface, and of one class.
    Udp {
        /// The interface.
        ifindex: u32,
        /// Address and port it is bound to.
        bound: SocketAddr,
        /// The one source it takes a group from (SSM); any, if not given.
        source: Option<IpAddr>,
        /// How it is treated; it takes all codepoints.
        lane: Lane,
    },
}

impl ReceiverKey {
    /// The interface.
    pub fn ifindex(&self) -> u32 {
        match self {
            Self::Packet { ifindex, .. } | Self::Udp { ifindex, .. } => *ifindex,
        }
    }

    /// Whether the kernel gives what one of both would get to only one of them: UDP sockets at one address of this host. That is the one
    /// that was bound last.
    pub fn rivals(&self, other: &Self) -> bool {
        match (*self, *other) {
            (Self::Udp { ifindex, bound, .. }, Self::Udp { ifindex: index, bound: address, .. }) => {
                let is_host = !bound.ip().is_multicast() && !bound.ip().is_unspecified();
                self != other && is_host && (ifindex, bound) == (index, address)
            }
            _ => false,
        }
    }

    /// Which datagrams come through, and how they are treated.
    pub fn lane(&self) -> Lane {
        match self {
            Self::Packet { lane, .. } | Self::Udp { lane, .. } => *lane,
        }
    }
}

/// What else must be held so that the network delivers, and the host does not object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Hold {
    /// Membership of a group.
    Join {
        /// On this interface.
        ifindex: u32,
        /// The group.
        group: IpAddr,
        /// Only from this source (SSM).
        source: Option<IpAddr>,
    },
    /// A socket bound to a unicast address that takes nothing: without one the host would answer each datagram with an ICMP
    /// port unreachable while the `packet` path relays it.
    Guard {
        /// Address and port.
        bound: SocketAddr,
    },
}

/// A sending socket, by what its copies look like. Outputs that agree in all of it share one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SenderKey {
    /// IPv6, or IPv4.
    pub ipv6: bool,
    /// The interface copies leave by; without one the route decides.
    pub ifindex: Option<u32>,
    /// Source address, and port if fixed.
    pub source: Option<(IpAddr, Option<u16>)>,
    /// TTL or hop limit, unless set with each send.
    pub hop_limit: u8,
    /// Whether it sends to groups, or to hosts: only what is about groups is free of ICMP errors, so that it can be told of full queues.
    pub multicast: bool,
    /// Whether local listeners get multicast copies.
    pub multicast_loop: bool,
    /// A raw socket, for copies that keep the incoming source.
    pub raw: bool,
    /// Priority in this host's queues.
    pub priority: u8,
    /// DSCP, where it is the socket's: one set with each send would set the priority as well (`IP_TOS` in ip(7)).
    pub dscp: Option<u8>,
}

/// A rule, compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compiled {
    /// Whether it relays.
    pub state: RuleState,
    /// Why not.
    pub reason: Option<String>,
    /// The data path, and why this one.
    pub datapath: Option<Datapath>,
    /// Why this data path.
    pub datapath_reason: String,
    /// The receiving sockets; none unless active, and none on the kernel path.
    pub receivers: Vec<ReceiverKey>,
    /// What to hold; none unless active or paused.
    pub hold: Option<Hold>,
    /// In the order of the rule.
    pub outputs: Vec<CompiledOutput>,
}

/// An output, compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompiledOutput {
    /// Whether it can be sent to.
    pub state: RuleState,
    /// Why not.
    pub reason: Option<String>,
    /// The sending socket; none unless active, and none on the kernel path.
    pub sender: Option<SenderKey>,
}

/// Compiles a rule.
pub fn compile(spec: &RuleSpec, network: &impl Network, abilities: Abilities, classes: &Classes) -> Compiled {
    let interface = network.interface(&spec.input.interface);
    let (datapath, datapath_reason) = choose(spec, interface, network, abilities, classes);
    let priority = classes.send_priority(spec.class.as_deref());
    let outputs: Vec<_> = spec
        .outputs
        .iter()
        .map(|output| compile_output(output, network, abilities, datapath, priority))
        .collect();
    let (state, reason) = match (spec.enabled, &datapath) {
        (false, _) => (RuleState::Disabled, None),
        (true, None) => (RuleState::Failed, Some(datapath_reason.clone())),
        (true, Some(_)) => rule_state(&spec.input.interface, interface, &outputs),
    };
    let lanes = match (&spec.class, datapath) {
        (Some(class), _) => vec![classes.of_rule(class)],
        (None, Some(Datapath::Packet)) => classes.by_dscp(),
        // A UDP socket counts what its filter refuses as dropped, so that several with filters could not be told from loss.
        (None, _) => vec![Lane::NONE],
    };
    let (receivers, hold) = match (state, interface, datapath) {
        (RuleState::Active, Some(interface), Some(datapath)) => {
            let (receivers, hold): (Vec<_>, Vec<_>) =
                lanes.into_iter().map(|lane| receive_by(datapath, &spec.input, interface, lane)).unzip();
            (receivers.into_iter().flatten().collect(), hold.into_iter().flatten().next())
        }
        // A membership outlives the pause, so that a flapping link does not make the network forget the group.
        (RuleState::Paused, Some(interface), Some(datapath)) => {
            (Vec::new(), receive_by(datapath, &spec.input, interface, Lane::NONE).1)
        }
        _ => (Vec::new(), None),
    };
    Compiled { state, reason, datapath, datapath_reason, receivers, hold, outputs }
}

impl Compiled {
    /// The route of an active rule: `sender` and `slots` say what its sockets and counters are called. None for any other.
    pub fn route(
        &self,
        spec: &RuleSpec,
        rule: RuleSlot,
        inputs: Vec<SocketId>,
        slots: &[OutputSlot],
        sender: impl Fn(&SenderKey) -> Option<SocketId>,
    ) -> Option<Route> {
        if self.state != RuleState::Active {
            return None;
        }
        let outputs = spec.outputs.iter().zip(&self.outputs).zip(slots);
        let outputs = outputs.map(|((output, compiled), slot)| {
            let via = compiled.sender.as_ref().and_then(|key| sender(key).map(|socket| (key.raw, socket)));
            RouteOutput {
                slot: *slot,
                destination: output.socket_addr(),
                via: match via {
                    Some((true, socket)) => Via::Raw(socket),
                    Some((false, socket)) => Via::Udp(socket),
                    None => Via::Nowhere,
                },
                ttl: output.ttl,
                // What the socket bears needs not be set with each send.
                dscp: match compiled.sender {
                    Some(SenderKey { dscp: Some(_), .. }) => Dscp::Fixed(0),
                    _ => output.dscp,
                },
                rate: output.rate,
            }
        });
        Some(Route {
            rule,
            inputs,
            source: spec.input.source,
            address: spec.input.address,
            port: spec.input.port,
            outputs: outputs.collect(),
        })
    }
}

fn rule_state(
    name: &IfName,
    interface: Option<Interface>,
    outputs: &[CompiledOutput],
) -> (RuleState, Option<String>) {
    let (state, reason) = interface_state(name, interface);
    if state != RuleState::Active {
        return (state, reason);
    }
    if outputs.iter().any(|output| output.state == RuleState::Active) {
        return (RuleState::Active, None);
    }
    // None can be sent to. The one that is nearest to working says what to do about it.
    let nearest = [RuleState::Paused, RuleState::Unresolved, RuleState::Failed]
        .into_iter()
        .find_map(|state| outputs.iter().find(|output| output.state == state));
    nearest.map_or((RuleState::Active, None), |output| (output.state, output.reason.clone()))
}

fn interface_state(name: &IfName, interface: Option<Interface>) -> (RuleState, Option<String>) {
    match interface {
        None => (RuleState::Unresolved, Some(format!("interface {name} does not exist"))),
        Some(Interface { up: false, .. }) => (RuleState::Paused, Some(format!("interface {name} is down"))),
        Some(Interface { running: false, .. }) => {
            (RuleState::Paused, Some(format!("interface {name} has no carrier")))
        }
        Some(_) => (RuleState::Active, None),
    }
}

/// The data path a rule gets, or none, and why.
fn choose(
    spec: &RuleSpec,
    interface: Option<Interface>,
    network: &impl Network,
    abilities: Abilities,
    classes: &Classes,
) -> (Option<Datapath>, String) {
    let (datapath, mut reason) = choose_path(spec, interface, network, abilities, classes);
    if matches!(datapath, Some(Datapath::Udp | Datapath::Kernel))
        && spec.class.is_none()
        && classes.are_by_dscp()
    {
        reason += "; classes by DSCP need the packet data path, here a class must be the rule's";
    }
    (datapath, reason)
}

fn choose_path(
    spec: &RuleSpec,
    interface: Option<Interface>,
    network: &impl Network,
    abilities: Abilities,
    classes: &Classes,
) -> (Option<Datapath>, String) {
    let packet = match (abilities.raw_sockets, interface.map(|interface| interface.framing)) {
        (false, _) => Err("no CAP_NET_RAW"),
        (true, Some(Framing::Other)) => Err("the interface has neither Ethernet nor IP framing"),
        (true, _) => Ok(()),
    };
    // The kernel path is the fastest, so that its reason is worth saying whichever other is taken.
    let kernel = || match abilities.kernel {
        Ok(()) => kernel::carries(spec, interface, network, classes),
        Err(lack) => Err(lack.to_string()),
    };
    match (spec.datapath, packet) {
        (DatapathChoice::Kernel, _) => match kernel() {
            Ok(()) => (Some(Datapath::Kernel), "asked for".into()),
            Err(why) => (None, format!("the kernel data path cannot be used: {why}")),
        },
        (DatapathChoice::Udp, _) => (Some(Datapath::Udp), "asked for".into()),
        (DatapathChoice::Packet, Ok(())) => (Some(Datapath::Packet), "asked for".into()),
        (DatapathChoice::Packet, Err(why)) => (None, format!("the packet data path cannot be used: {why}")),
        (DatapathChoice::Auto, packet) => match (kernel(), packet) {
            (Ok(()), _) => (Some(Datapath::Kernel), "fastest that this host allows".into()),
            (Err(why), Ok(())) => (Some(Datapath::Packet), format!("kernel cannot be used: {why}")),
            (Err(kernel), Err(packet)) => {
                let why = format!("packet cannot be used: {packet}; kernel cannot be used: {kernel}");
                (Some(Datapath::Udp), why)
            }
        },
    }
}

/// The socket, and what else to hold; the kernel path has no socket.
fn receive_by(
    datapath: Datapath,
    input: &Input,
    interface: Interface,
    lane: Lane,
) -> (Option<ReceiverKey>, Option<Hold>) {
    let ifindex = interface.index;
    let bound = input.socket_addr();
    if datapath == Datapath::Udp {
        // The socket itself joins: it is bound to one group, and goes when the last rule of the group goes. Rules of a unicast
        // address share one whatever their sources are, because the kernel gives a unicast datagram to one socket only.
        let source = input.source.filter(|_| input.address.is_multicast());
        return (Some(ReceiverKey::Udp { ifindex, bound, source, lane }), None);
    }
    let hold = if input.address.is_multicast() {
        Some(Hold::Join { ifindex, group: input.address, source: input.source })
    } else {
        Some(Hold::Guard { bound })
    };
    let ethernet = interface.framing == Framing::Ethernet;
    (Some(ReceiverKey::Packet { ifindex, ethernet, lane }).filter(|_| datapath == Datapath::Packet), hold)
}

fn compile_output(
    output: &Output,
    network: &impl Network,
    abilities: Abilities,
    datapath: Option<Datapath>,
    priority: u8,
) -> CompiledOutput {
    let interface = output.interface.as_ref().map(|name| (name, network.interface(name)));
    let (state, reason) = match interface {
        Some((name, interface)) => interface_state(name, interface),
        None => (RuleState::Active, None),
    };
    // The kernel path sends by no socket.
    if state != RuleState::Active || datapath == Some(Datapath::Kernel) {
        return CompiledOutput { state, reason, sender: None };
    }
    let raw = output.source == OutputSource::Keep;
    if raw && !abilities.raw_sockets {
        let reason = Some("source=keep needs CAP_NET_RAW; run mcrd as root or use source=interface".into());
        return CompiledOutput { state: RuleState::Failed, reason, sender: None };
    }
    let sender = SenderKey {
        ipv6: output.address.is_ipv6(),
        ifindex: interface.and_then(|(_, interface)| interface).map(|interface| interface.index),
        source: match output.source {
            OutputSource::Fixed(address, port) => Some((address, port)),
            OutputSource::Interface | OutputSource::Keep => None,
        },
        // Raw copies carry their own, and kept ones set it with each send.
        hop_limit: match output.ttl {
            Ttl::Fixed(ttl) if !raw => ttl,
            Ttl::Fixed(_) | Ttl::Keep => 64,
        },
        multicast: output.address.is_multicast() && !raw,
        multicast_loop: output.multicast_loop,
        raw,
        priority,
        dscp: match output.dscp {
            Dscp::Fixed(point) if priority > 0 && !raw => Some(point),
            _ => None,
        },
    };
    CompiledOutput { state, reason: None, sender: Some(sender) }
}
