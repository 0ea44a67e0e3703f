//! The plan compiler: whatever the rule and the host, what comes out agrees with what is said of rules and data paths, each said here
//! once more, in the plainest way.
#![no_main]

use std::net::IpAddr;

use libfuzzer_sys::fuzz_target;
use mcr_proto::{
    config::Class,
    endpoint::{IfName, Output, OutputSource},
    message::RuleState,
    plan::{OutputSlot, RuleSlot, SocketId, Via},
    rule::{Datapath, DatapathChoice, RuleSpec},
};
use mcr_relay::{
    classes::Classes,
    compile::{
        Abilities, Compiled, Framing, Hold, Interface, KernelLack, Leads, Network, ReceiverKey, compile,
    },
};

const NAMES: [&str; 3] = ["eth0", "eth1", "eth2"];
const INPUTS: [&str; 6] = [
    "239.1.1.1:5000@eth0",
    "10.0.0.9>232.1.1.1:5000@eth0",
    "10.0.0.1:5000@eth0",
    "10.0.0.9>10.0.0.1:5000@eth0",
    "[ff15::1]:5000@eth0",
    "[fd00::9]>[ff35::1]:5000@eth0",
];
const PLACES: [&str; 4] = ["239.2.2.2:6000", "10.0.0.9:6001", "[ff15::2]:6002", "[fd00::2]:6003"];
const SOURCES: [&str; 4] = ["interface", "keep", "10.0.0.1", "10.0.0.2:4000"];

/// A host with up to three interfaces. Hosts are reached all by one way, groups by the same unless it is the host itself.
struct Host {
    interfaces: [Option<Interface>; 3],
    way: u8,
    has_source: bool,
}

impl Host {
    fn new(bytes: [u8; 4]) -> Self {
        let [one, two, three, ways] = bytes;
        let interface = |index: u32, bits: u8| {
            let framing = [Framing::Ethernet, Framing::Ip, Framing::Other, Framing::Ethernet]
                [usize::from(bits >> 3 & 3)];
            let (up, running, loopback) = (bits & 2 == 0, bits & 4 == 0, bits & 64 != 0);
            let mtu = if bits & 32 == 0 { 1500 } else { 1400 };
            (bits & 1 == 0).then_some(Interface { index, up, running, framing, mtu, loopback })
        };
        let interfaces = [interface(2, one), interface(3, two), interface(4, three)];
        Self { interfaces, way: ways % 4, has_source: ways & 4 == 0 }
    }
}

impl Network for Host {
    fn interface(&self, name: &IfName) -> Option<Interface> {
        NAMES.iter().position(|known| *known == name.as_str()).and_then(|place| self.interfaces[place])
    }

    fn leads(&self, destination: IpAddr) -> Leads {
        match self.way {
            0 => Leads::Nowhere,
            1 if !destination.is_multicast() => Leads::Here,
            way => self.interfaces[usize::from(way.max(2) - 1)].map_or(Leads::Nowhere, Leads::By),
        }
    }

    fn is_own(&self, address: IpAddr) -> bool {
        address == IpAddr::from([10, 0, 0, 1])
    }

    fn has_source(&self, _ifindex: u32, _destination: IpAddr) -> bool {
        self.has_source
    }
}

/// None where the grammar has objections.
fn output(place: u8, keys: u8) -> Option<Output> {
    let interface = NAMES.get(usize::from(place >> 2 & 3)).map_or(String::new(), |name| format!("@{name}"));
    let mut text = format!("{}{interface}", PLACES[usize::from(place & 3)]);
    text += &format!(",source={}", SOURCES[usize::from(keys & 3)]);
    for (bit, key) in [(4, ",ttl=keep"), (8, ",dscp=ef"), (16, ",loop=on"), (32, ",rate=100pps")] {
        if keys & bit != 0 {
            text += key;
        }
    }
    text.parse().ok()
}

/// Whether the kernel path has all that the rule asks for.
fn is_for_the_kernel(spec: &RuleSpec, host: &Host, by_dscp: bool) -> bool {
    let asked_for = spec.datapath == DatapathChoice::Kernel;
    let input = host.interface(&spec.input.interface);
    let sends = |output: &Output| {
        let lead = match (host.leads(output.address), &output.interface) {
            (Leads::Here, _) => return false,
            (_, Some(name)) => host.interface(name).map_or(Leads::Nowhere, Leads::By),
            (lead, None) => lead,
        };
        let is_group = output.address.is_multicast();
        let sent = match lead {
            Leads::By(by) => {
                !by.loopback
                    && by.framing != Framing::Other
                    && (host.has_source || output.source != OutputSource::Interface)
                    && (asked_for || input.is_none_or(|input| by.mtu >= input.mtu))
            }
            _ => true,
        };
        let own = !matches!(output.source, OutputSource::Fixed(address, _) if !host.is_own(address));
        let routed_group = output.interface.is_none() && is_group && output.address.is_ipv6();
        let family = output.address.is_ipv4() == spec.input.address.is_ipv4();
        sent && own
            && family
            && !routed_group
            && output.rate.is_none()
            && !(is_group && output.multicast_loop)
    };
    spec.class.is_none()
        && (asked_for || !by_dscp)
        && input.is_none_or(|input| !input.loopback && input.framing == Framing::Ethernet)
        && spec.outputs.iter().all(sends)
}

fn path(spec: &RuleSpec, host: &Host, abilities: Abilities, by_dscp: bool) -> Option<Datapath> {
    let kernel = abilities.kernel.is_ok() && is_for_the_kernel(spec, host, by_dscp);
    let framing = host.interface(&spec.input.interface).map(|input| input.framing);
    let packet = abilities.raw_sockets && framing != Some(Framing::Other);
    match spec.datapath {
        DatapathChoice::Udp => Some(Datapath::Udp),
        DatapathChoice::Packet => packet.then_some(Datapath::Packet),
        DatapathChoice::Kernel => kernel.then_some(Datapath::Kernel),
        DatapathChoice::Auto if kernel => Some(Datapath::Kernel),
        DatapathChoice::Auto if packet => Some(Datapath::Packet),
        DatapathChoice::Auto => Some(Datapath::Udp),
    }
}

/// What an interface that is named does to who names it.
fn standing(interface: Option<Interface>) -> RuleState {
    match interface {
        None => RuleState::Unresolved,
        Some(one) if one.up && one.running => RuleState::Active,
        Some(_) => RuleState::Paused,
    }
}

fn check_outputs(spec: &RuleSpec, host: &Host, abilities: Abilities, compiled: &Compiled) {
    assert_eq!(compiled.outputs.len(), spec.outputs.len());
    for (output, made) in spec.outputs.iter().zip(&compiled.outputs) {
        let mut want =
            output.interface.as_ref().map_or(RuleState::Active, |name| standing(host.interface(name)));
        let in_kernel = compiled.datapath == Some(Datapath::Kernel);
        if want == RuleState::Active
            && output.source == OutputSource::Keep
            && !abilities.raw_sockets
            && !in_kernel
        {
            want = RuleState::Failed;
        }
        assert_eq!((made.state, made.reason.is_some()), (want, want != RuleState::Active), "{output}");
        assert_eq!(made.sender.is_some(), want == RuleState::Active && !in_kernel, "{output}");
        let Some(sender) = made.sender else { continue };
        assert_eq!(
            (sender.ipv6, sender.raw),
            (output.address.is_ipv6(), output.source == OutputSource::Keep)
        );
        let named = output.interface.as_ref().and_then(|name| host.interface(name)).map(|one| one.index);
        assert_eq!(sender.ifindex, named);
        assert!(!sender.raw || !sender.multicast, "who is told of full queues sends nothing of others");
    }
}

fn check_state(spec: &RuleSpec, host: &Host, compiled: &Compiled) {
    let outputs: Vec<_> = compiled.outputs.iter().map(|output| output.state).collect();
    let by_input = standing(host.interface(&spec.input.interface));
    let nearest = [RuleState::Active, RuleState::Paused, RuleState::Unresolved, RuleState::Failed];
    let want = match (spec.enabled, compiled.datapath) {
        (false, _) => RuleState::Disabled,
        (true, None) => RuleState::Failed,
        _ if by_input != RuleState::Active => by_input,
        _ => nearest.into_iter().find(|state| outputs.contains(state)).expect("a rule has outputs"),
    };
    assert_eq!(compiled.state, want, "{spec:?}");
    let is_well = matches!(want, RuleState::Active | RuleState::Disabled);
    assert_eq!(compiled.reason.is_none(), is_well, "{compiled:?}");
}

fn check_input(spec: &RuleSpec, host: &Host, compiled: &Compiled) {
    let (is_active, index) = (compiled.state == RuleState::Active, host.interfaces[0].map(|one| one.index));
    let by_packet =
        |key: &ReceiverKey| matches!(key, ReceiverKey::Packet { ifindex, .. } if Some(*ifindex) == index);
    let by_udp = |key: &ReceiverKey| matches!(key, ReceiverKey::Udp { ifindex, bound, .. } if Some(*ifindex) == index && *bound == spec.input.socket_addr());
    let receivers = &compiled.receivers;
    let right = match compiled.datapath.filter(|_| is_active) {
        Some(Datapath::Packet) => !receivers.is_empty() && receivers.iter().all(by_packet),
        Some(Datapath::Udp) => receivers.len() == 1 && receivers.iter().all(by_udp),
        Some(Datapath::Kernel) | None => receivers.is_empty(),
    };
    assert!(right, "{compiled:?}");
    let holds = matches!(compiled.state, RuleState::Active | RuleState::Paused)
        && index.is_some()
        && matches!(compiled.datapath, Some(Datapath::Packet | Datapath::Kernel));
    let want = match (spec.input.address, index) {
        (group, Some(ifindex)) if group.is_multicast() => {
            Some(Hold::Join { ifindex, group, source: spec.input.source })
        }
        _ => Some(Hold::Guard { bound: spec.input.socket_addr() }),
    };
    assert_eq!(compiled.hold, want.filter(|_| holds), "{compiled:?}");
}

fn check_route(spec: &RuleSpec, compiled: &Compiled) {
    let slots: Vec<_> = (0..spec.outputs.len() as u32).map(OutputSlot).collect();
    let inputs: Vec<_> = (0..compiled.receivers.len() as u32).map(SocketId).collect();
    let route = compiled.route(spec, RuleSlot(7), inputs.clone(), &slots, |_| Some(SocketId(99)));
    assert_eq!(route.is_some(), compiled.state == RuleState::Active);
    let Some(route) = route else { return };
    assert_eq!((route.rule, route.inputs, route.source), (RuleSlot(7), inputs, spec.input.source));
    assert_eq!((route.address, route.port), (spec.input.address, spec.input.port));
    assert_eq!(route.outputs.iter().map(|output| output.slot).collect::<Vec<_>>(), slots);
    for ((made, output), want) in route.outputs.iter().zip(&compiled.outputs).zip(&spec.outputs) {
        let via = match output.sender {
            Some(sender) if sender.raw => Via::Raw(SocketId(99)),
            Some(_) => Via::Udp(SocketId(99)),
            None => Via::Nowhere,
        };
        assert_eq!(
            (made.via, made.destination, made.ttl, made.rate),
            (via, want.socket_addr(), want.ttl, want.rate)
        );
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((&[what, one, two, three, ways, input, classes], outputs)) = bytes.split_first_chunk() else {
        return;
    };
    let host = Host::new([one, two, three, ways]);
    let kernel = if what & 2 == 0 { Ok(()) } else { Err(KernelLack::Off) };
    let abilities = Abilities { raw_sockets: what & 1 == 0, kernel };
    let class = |name: &str, dscp: &[&str]| Class {
        name: name.into(),
        dscp: dscp.iter().map(|one| one.parse().expect("a codepoint")).collect(),
        priority: classes >> 4 & 7,
        rate: None,
        depth: None,
    };
    let mut all = Vec::new();
    if classes & 1 != 0 {
        all.push(class("marked", &["ef", "af41"]));
    }
    if classes & 2 != 0 {
        all.push(class("named", &[]));
    }
    let mut known = Classes::default();
    known.define(&all);
    let outputs = outputs.chunks_exact(2).take(8).filter_map(|pair| output(pair[0], pair[1])).collect();
    let input = INPUTS[usize::from(input) % INPUTS.len()].parse().expect("an input");
    let mut spec = RuleSpec::new(input, outputs);
    spec.datapath =
        [DatapathChoice::Auto, DatapathChoice::Kernel, DatapathChoice::Packet, DatapathChoice::Udp]
            [usize::from(what >> 2 & 3)];
    spec.enabled = what & 16 == 0;
    spec.class = (classes & 6 == 6).then(|| "named".to_owned());
    if spec.check().is_err() {
        return;
    }
    let compiled = compile(&spec, &host, abilities, &known);
    assert_eq!(
        compiled.datapath,
        path(&spec, &host, abilities, classes & 1 != 0),
        "{spec:?} {}",
        compiled.datapath_reason
    );
    assert!(!compiled.datapath_reason.is_empty());
    check_outputs(&spec, &host, abilities, &compiled);
    check_state(&spec, &host, &compiled);
    check_input(&spec, &host, &compiled);
    check_route(&spec, &compiled);
    // Without memory.
    assert_eq!(compile(&spec, &host, abilities, &known), compiled);
});
