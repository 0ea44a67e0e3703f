//! The compiler, sentence by sentence.

use std::{collections::BTreeMap, net::IpAddr};

use mcr_proto::{
    endpoint::{Dscp, IfName, Rate, Ttl},
    message::RuleState,
    plan::{OutputSlot, RuleSlot, SocketId, Via},
    rule::{Datapath, DatapathChoice, RuleSpec},
};
use mcr_relay::classes::{Classes, Lane};
use mcr_relay::compile::{
    Abilities, Compiled, Framing, Hold, Interface, KernelLack, Leads, Network, ReceiverKey, SenderKey,
    compile,
};

pub(super) const BPF: Abilities = Abilities { raw_sockets: true, kernel: Ok(()) };
pub(super) const ROOT: Abilities = Abilities { raw_sockets: true, kernel: Err(KernelLack::Off) };
pub(super) const USER: Abilities = Abilities { raw_sockets: false, kernel: Err(KernelLack::NotPermitted) };

pub(super) struct Host(BTreeMap<IfName, Interface>);

/// Has the address 10.0.0.1 on each interface, one to itself at 10.0.0.7, and routes to 10.0.0.0/8 by eth2.
impl Network for Host {
    fn interface(&self, name: &IfName) -> Option<Interface> {
        self.0.get(name).copied()
    }

    fn leads(&self, destination: IpAddr) -> Leads {
        match destination {
            IpAddr::V4(v4) if v4.octets() == [10, 0, 0, 7] => Leads::Here,
            IpAddr::V4(v4) if v4.octets()[0] == 10 => {
                self.0.get(&"eth2".parse().unwrap()).map_or(Leads::Nowhere, |eth2| Leads::By(*eth2))
            }
            _ => Leads::Nowhere,
        }
    }

    fn is_own(&self, address: IpAddr) -> bool {
        address == ip("10.0.0.1")
    }

    fn has_source(&self, _ifindex: u32, destination: IpAddr) -> bool {
        destination.is_ipv4()
    }
}

impl Host {
    /// eth0 to eth2 with numbers 2 to 4, all well.
    pub(super) fn new() -> Self {
        let all_well = |index| Interface {
            index,
            up: true,
            running: true,
            framing: Framing::Ethernet,
            mtu: 1500,
            loopback: false,
        };
        let names = ["eth0", "eth1", "eth2"].map(|name| name.parse().unwrap());
        Self(names.into_iter().zip((2..).map(all_well)).collect())
    }

    fn change(mut self, name: &str, change: impl Fn(&mut Interface)) -> Self {
        change(self.0.get_mut(&name.parse().unwrap()).unwrap());
        self
    }

    fn without(mut self, name: &str) -> Self {
        self.0.remove(&name.parse().unwrap());
        self
    }

    fn framed(self, framing: Framing) -> Self {
        self.change("eth0", |interface| interface.framing = framing)
    }
}

pub(super) fn spec(input: &str, outputs: &[&str]) -> RuleSpec {
    let outputs = outputs.iter().map(|output| output.parse().unwrap()).collect();
    let spec = RuleSpec::new(input.parse().unwrap(), outputs);
    spec.check().unwrap();
    spec
}

pub(super) fn video() -> RuleSpec {
    spec("239.1.1.1:5000@eth0", &["239.2.2.2:6000@eth1", "10.100.0.2:6000"])
}

pub(super) fn by(datapath: DatapathChoice, spec: RuleSpec) -> RuleSpec {
    RuleSpec { datapath, ..spec }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn assert_not_relaying(compiled: &Compiled, state: RuleState, reason: &str) {
    assert_eq!(compiled.state, state);
    assert_eq!(compiled.reason.as_deref(), Some(reason));
    assert_eq!(compiled.receivers, []);
}

#[test]
fn a_rule_is_active_when_its_interfaces_are_there_up_and_have_a_carrier() {
    let compiled = compile(&video(), &Host::new(), ROOT, &Classes::default());
    assert_eq!((compiled.state, &compiled.reason), (RuleState::Active, &None));
    assert_eq!(compiled.receivers, [ReceiverKey::Packet { ifindex: 2, ethernet: true, lane: Lane::NONE }]);
    assert!(compiled.outputs.iter().all(|output| output.state == RuleState::Active));
}

#[test]
fn a_rule_whose_input_is_missing_is_unresolved_and_holds_nothing() {
    let compiled = compile(&video(), &Host::new().without("eth0"), ROOT, &Classes::default());
    assert_not_relaying(&compiled, RuleState::Unresolved, "interface eth0 does not exist");
    assert_eq!(compiled.hold, None);
}

#[test]
fn a_rule_whose_input_is_down_is_paused_and_keeps_its_membership() {
    let join = Some(Hold::Join { ifindex: 2, group: ip("239.1.1.1"), source: None });
    let down = Host::new().change("eth0", |interface| (interface.up, interface.running) = (false, false));
    let compiled = compile(&video(), &down, ROOT, &Classes::default());
    assert_not_relaying(&compiled, RuleState::Paused, "interface eth0 is down");
    assert_eq!(compiled.hold, join);

    let unplugged = Host::new().change("eth0", |interface| interface.running = false);
    let compiled = compile(&video(), &unplugged, ROOT, &Classes::default());
    assert_not_relaying(&compiled, RuleState::Paused, "interface eth0 has no carrier");
    assert_eq!(compiled.hold, join);
}

#[test]
fn a_disabled_rule_needs_no_reason_and_holds_nothing() {
    for host in [Host::new(), Host::new().without("eth0")] {
        let compiled = compile(&RuleSpec { enabled: false, ..video() }, &host, ROOT, &Classes::default());
        assert_eq!((compiled.state, compiled.reason), (RuleState::Disabled, None));
        assert_eq!((compiled.receivers, compiled.hold), (Vec::new(), None));
    }
}

#[test]
fn one_output_that_works_is_enough() {
    let compiled = compile(&video(), &Host::new().without("eth1"), ROOT, &Classes::default());
    assert_eq!((compiled.state, compiled.reason), (RuleState::Active, None));
    let [multicast, unicast] = &compiled.outputs[..] else { panic!("two outputs") };
    assert_eq!(multicast.state, RuleState::Unresolved);
    assert_eq!(multicast.reason.as_deref(), Some("interface eth1 does not exist"));
    assert_eq!(multicast.sender, None);
    assert_eq!(unicast.state, RuleState::Active);
}

#[test]
fn when_no_output_works_the_one_nearest_to_working_says_why() {
    let outputs = ["239.2.2.2:6000@eth9", "239.2.2.2:6000@eth1", "239.2.2.2:6000@eth2,source=keep"];
    let down = Host::new().change("eth1", |interface| interface.up = false);
    let all = spec("239.1.1.1:5000@eth0", &outputs);
    assert_not_relaying(
        &compile(&all, &down, USER, &Classes::default()),
        RuleState::Paused,
        "interface eth1 is down",
    );
    let two = spec("239.1.1.1:5000@eth0", &[outputs[2], outputs[0]]);
    let reason = "interface eth9 does not exist";
    assert_not_relaying(&compile(&two, &down, USER, &Classes::default()), RuleState::Unresolved, reason);
    let one = spec("239.1.1.1:5000@eth0", &outputs[2..]);
    let reason = "source=keep needs CAP_NET_RAW; run mcrd as root or use source=interface";
    assert_not_relaying(&compile(&one, &down, USER, &Classes::default()), RuleState::Failed, reason);
}

#[test]
fn the_input_s_own_trouble_comes_before_that_of_outputs() {
    let host = Host::new().without("eth1").change("eth0", |interface| interface.up = false);
    let rule = spec("239.1.1.1:5000@eth0", &["239.2.2.2:6000@eth1"]);
    assert_not_relaying(
        &compile(&rule, &host, ROOT, &Classes::default()),
        RuleState::Paused,
        "interface eth0 is down",
    );
}

#[test]
fn auto_is_kernel_else_packet_else_udp_and_says_why() {
    let chosen = |host: Host, abilities| {
        let compiled = compile(&video(), &host, abilities, &Classes::default());
        (compiled.datapath, compiled.datapath_reason)
    };
    let kernel = (Some(Datapath::Kernel), "fastest that this host allows".to_owned());
    assert_eq!(chosen(Host::new(), BPF), kernel);
    let packet = |why: &str| (Some(Datapath::Packet), format!("kernel cannot be used: {why}"));
    assert_eq!(chosen(Host::new(), ROOT), packet("eBPF is switched off"));
    assert_eq!(
        chosen(Host::new().framed(Framing::Ip), BPF),
        packet("frames of the input have no Ethernet header")
    );
    let udp = |why: &str| (Some(Datapath::Udp), why.to_owned());
    assert_eq!(
        chosen(Host::new().framed(Framing::Other), ROOT),
        udp(
            "packet cannot be used: the interface has neither Ethernet nor IP framing; kernel cannot be used: eBPF is \
             switched off"
        )
    );
    assert_eq!(
        chosen(Host::new(), USER),
        udp(
            "packet cannot be used: no CAP_NET_RAW; kernel cannot be used: eBPF is not permitted (it takes CAP_BPF and \
             CAP_NET_ADMIN)"
        )
    );
}

#[test]
fn the_kernel_path_carries_a_rule_only_with_every_feature_of_it() {
    let why = |output: &str, host: Host| {
        let compiled = compile(
            &spec("239.1.1.1:5000@eth0", &["239.9.9.9:1@eth1", output]),
            &host,
            BPF,
            &Classes::default(),
        );
        match compiled.datapath {
            Some(Datapath::Kernel) => None,
            Some(Datapath::Packet) => {
                let prefix = format!("kernel cannot be used: output {output}: ");
                Some(compiled.datapath_reason.strip_prefix(&prefix).unwrap().to_owned())
            }
            other => panic!("{other:?}"),
        }
    };
    for carried in [
        "239.2.2.2:6000@eth1,ttl=keep",
        "239.2.2.2:6000@eth1,dscp=ef,source=keep",
        "239.2.2.2:6000@eth1,source=10.0.0.1",
        "10.100.0.2:6000",
        "10.100.0.2:6000@eth9",
        "192.0.2.1:6000",
    ] {
        assert_eq!(why(carried, Host::new()), None, "{carried}");
    }
    for (refused, reason) in [
        ("239.2.2.2:6000@eth1,rate=8M", "a rate cap"),
        ("239.2.2.2:6000@eth1,loop=on", "loop=on"),
        ("[ff05::2]:6000@eth1", "it is translated between IPv4 and IPv6"),
        ("239.2.2.2:6000@eth1,source=10.0.0.2", "its source is no address of this host"),
        ("10.0.0.7:6000", "it is to this host"),
    ] {
        let canonical = refused.parse::<mcr_proto::endpoint::Output>().unwrap().to_string();
        assert_eq!(why(&canonical, Host::new()).as_deref(), Some(reason), "{refused}");
    }
    let small = || Host::new().change("eth1", |interface| interface.mtu = 1400);
    let compiled = compile(&video(), &small(), BPF, &Classes::default());
    assert_eq!(compiled.datapath, Some(Datapath::Packet));
    assert!(compiled.datapath_reason.contains("MTU is below that of the input"), "{compiled:?}");
    // Who asks for it has what is too large dropped.
    let compiled = compile(&by(DatapathChoice::Kernel, video()), &small(), BPF, &Classes::default());
    assert_eq!(compiled.datapath, Some(Datapath::Kernel));
}

#[test]
fn a_rule_in_the_kernel_holds_its_membership_and_has_no_sockets() {
    let compiled = compile(&by(DatapathChoice::Kernel, video()), &Host::new(), BPF, &Classes::default());
    assert_eq!((compiled.state, compiled.datapath_reason.as_str()), (RuleState::Active, "asked for"));
    assert_eq!(compiled.receivers, []);
    assert_eq!(compiled.hold, Some(Hold::Join { ifindex: 2, group: ip("239.1.1.1"), source: None }));
    assert!(compiled.outputs.iter().all(|output| output.sender.is_none()));
    let missing =
        compile(&by(DatapathChoice::Kernel, video()), &Host::new().without("eth0"), BPF, &Classes::default());
    assert_not_relaying(&missing, RuleState::Unresolved, "interface eth0 does not exist");
}

#[test]
fn a_data_path_asked_for_is_used_or_the_rule_fails_with_the_reason() {
    let compiled = compile(&by(DatapathChoice::Udp, video()), &Host::new(), ROOT, &Classes::default());
    assert_eq!((compiled.datapath, compiled.datapath_reason.as_str()), (Some(Datapath::Udp), "asked for"));
    let compiled = compile(&by(DatapathChoice::Packet, video()), &Host::new(), ROOT, &Classes::default());
    assert_eq!((compiled.datapath, compiled.datapath_reason.as_str()), (Some(Datapath::Packet), "asked for"));

    for (datapath, host, abilities, reason) in [
        (DatapathChoice::Packet, Host::new(), USER, "the packet data path cannot be used: no CAP_NET_RAW"),
        (
            DatapathChoice::Packet,
            Host::new().framed(Framing::Other),
            ROOT,
            "the packet data path cannot be used: the interface has neither Ethernet nor IP framing",
        ),
        (
            DatapathChoice::Kernel,
            Host::new(),
            ROOT,
            "the kernel data path cannot be used: eBPF is switched off",
        ),
    ] {
        let compiled = compile(&by(datapath, video()), &host, abilities, &Classes::default());
        assert_not_relaying(&compiled, RuleState::Failed, reason);
        assert_eq!((compiled.datapath, compiled.hold), (None, None));
    }
}

#[test]
fn frames_without_an_ethernet_header_are_received_as_such() {
    let compiled = compile(&video(), &Host::new().framed(Framing::Ip), ROOT, &Classes::default());
    assert_eq!(compiled.receivers, [ReceiverKey::Packet { ifindex: 2, ethernet: false, lane: Lane::NONE }]);
}

#[test]
fn the_packet_path_joins_groups_and_guards_unicast_addresses() {
    let hold = |input: &str| {
        compile(&spec(input, &["10.100.0.2:6000"]), &Host::new(), ROOT, &Classes::default()).hold
    };
    let any = Hold::Join { ifindex: 2, group: ip("239.1.1.1"), source: None };
    assert_eq!(hold("239.1.1.1:5000@eth0"), Some(any));
    let one = Hold::Join { ifindex: 2, group: ip("232.1.1.1"), source: Some(ip("10.0.0.9")) };
    assert_eq!(hold("10.0.0.9>232.1.1.1:5000@eth0"), Some(one));
    let ipv6 = Hold::Join { ifindex: 2, group: ip("ff3e::1"), source: Some(ip("2001:db8::9")) };
    assert_eq!(hold("2001:db8::9>[ff3e::1]:5000@eth0"), Some(ipv6));
    let guard = Hold::Guard { bound: ([10, 0, 0, 2], 5000).into() };
    assert_eq!(hold("10.0.0.2:5000@eth0"), Some(guard));
    assert_eq!(hold("10.0.0.9>10.0.0.2:5000@eth0"), Some(guard));
}

#[test]
fn the_udp_path_binds_to_the_address_and_holds_nothing_else() {
    let udp = |input: &str| {
        let rule = by(DatapathChoice::Udp, spec(input, &["10.100.0.2:6000"]));
        let compiled = compile(&rule, &Host::new(), USER, &Classes::default());
        assert_eq!(compiled.hold, None);
        compiled.receivers[0]
    };
    let key = |address: &str, source: Option<&str>| ReceiverKey::Udp {
        ifindex: 2,
        bound: (ip(address), 5000).into(),
        source: source.map(ip),
        lane: Lane::NONE,
    };
    assert_eq!(udp("239.1.1.1:5000@eth0"), key("239.1.1.1", None));
    assert_eq!(udp("10.0.0.9>232.1.1.1:5000@eth0"), key("232.1.1.1", Some("10.0.0.9")));
    assert_eq!(udp("[ff3e::1]:5000@eth0"), key("ff3e::1", None));
    assert_eq!(udp("10.0.0.2:5000@eth0"), key("10.0.0.2", None));
}

#[test]
fn udp_rules_of_one_unicast_address_share_a_socket_whatever_their_sources_are() {
    let receiver = |input: &str| {
        let rule = by(DatapathChoice::Udp, spec(input, &["10.100.0.2:6000"]));
        compile(&rule, &Host::new(), USER, &Classes::default()).receivers
    };
    assert_eq!(receiver("10.0.0.9>10.0.0.2:5000@eth0"), receiver("10.0.0.2:5000@eth0"));
}

#[test]
fn a_paused_udp_rule_holds_nothing() {
    let down = Host::new().change("eth0", |interface| interface.up = false);
    let compiled = compile(&by(DatapathChoice::Udp, video()), &down, USER, &Classes::default());
    assert_eq!((compiled.state, compiled.receivers, compiled.hold), (RuleState::Paused, Vec::new(), None));
}

fn sender(output: &str) -> SenderKey {
    let compiled = compile(&spec("239.1.1.1:5000@eth0", &[output]), &Host::new(), ROOT, &Classes::default());
    compiled.outputs[0].sender.unwrap()
}

#[test]
fn a_sending_socket_is_what_its_output_says() {
    let plain = SenderKey {
        ipv6: false,
        ifindex: None,
        source: None,
        hop_limit: 64,
        multicast: false,
        multicast_loop: false,
        raw: false,
        priority: 0,
        dscp: None,
    };
    assert_eq!(sender("10.100.0.2:6000"), plain);
    assert_eq!(sender("239.2.2.2:6000@eth1"), SenderKey { ifindex: Some(3), multicast: true, ..plain });
    assert_eq!(
        sender("[ff05::2]:6000@eth2"),
        SenderKey { ipv6: true, ifindex: Some(4), multicast: true, ..plain }
    );
    assert_eq!(sender("10.100.0.2:6000,ttl=16"), SenderKey { hop_limit: 16, ..plain });
    let looped = SenderKey { ifindex: Some(3), multicast: true, multicast_loop: true, ..plain };
    assert_eq!(sender("239.2.2.2:6000@eth1,loop=on"), looped);
    let fixed = SenderKey { source: Some((ip("10.0.0.1"), Some(7000))), ..plain };
    assert_eq!(sender("10.100.0.2:6000,source=10.0.0.1:7000"), fixed);
    let address = SenderKey { source: Some((ip("10.0.0.1"), None)), ..plain };
    assert_eq!(sender("10.100.0.2:6000,source=10.0.0.1"), address);
    assert_eq!(sender("10.100.0.2:6000,source=keep"), SenderKey { raw: true, ..plain });
}

#[test]
fn outputs_that_differ_in_what_is_set_with_each_send_share_a_socket() {
    let plain = sender("10.100.0.2:6000");
    for same in
        ["10.100.0.3:6001", "10.100.0.2:6000,dscp=ef", "10.100.0.2:6000,rate=8M", "10.100.0.2:6000,ttl=keep"]
    {
        assert_eq!(sender(same), plain, "{same}");
    }
    // Raw copies carry their own TTL.
    assert_eq!(sender("10.100.0.2:6000,source=keep,ttl=3"), sender("10.100.0.2:6000,source=keep"));
}

#[test]
fn an_output_that_keeps_the_source_fails_without_rights_and_the_others_go_on() {
    let rule = spec("239.1.1.1:5000@eth0", &["10.100.0.2:6000,source=keep", "10.100.0.3:6000"]);
    let compiled = compile(&rule, &Host::new(), USER, &Classes::default());
    assert_eq!(compiled.state, RuleState::Active);
    assert_eq!(compiled.outputs[0].state, RuleState::Failed);
    assert_eq!(compiled.outputs[0].sender, None);
    assert!(compiled.outputs[0].reason.as_ref().unwrap().contains("CAP_NET_RAW"));
    assert_eq!(compiled.outputs[1].state, RuleState::Active);
}

#[test]
fn a_route_names_sockets_and_counters_and_sends_nowhere_what_has_no_socket() {
    let outputs = [
        "239.2.2.2:6000@eth1,ttl=keep,dscp=ef,rate=500pps",
        "10.100.0.2:6000,source=keep,ttl=3",
        "239.2.2.2:6000@eth9",
        "10.100.0.3:6000,ttl=9",
    ];
    let rule = spec("10.0.0.9>232.1.1.1:5000@eth0", &outputs);
    let compiled = compile(&rule, &Host::new(), ROOT, &Classes::default());
    let slots = [1, 2, 3, 4].map(OutputSlot);
    // The socket of the last could not be opened.
    let socket = |key: &SenderKey| match key {
        SenderKey { hop_limit: 9, .. } => None,
        SenderKey { raw: true, .. } => Some(SocketId(31)),
        _ => Some(SocketId(30)),
    };
    let route = compiled.route(&rule, RuleSlot(7), vec![SocketId(20)], &slots, socket).unwrap();
    assert_eq!((route.rule, route.inputs), (RuleSlot(7), vec![SocketId(20)]));
    assert_eq!((route.address, route.port, route.source), (ip("232.1.1.1"), 5000, Some(ip("10.0.0.9"))));
    assert_eq!(route.outputs.iter().map(|output| output.slot).collect::<Vec<_>>(), slots);
    let vias: Vec<_> = route.outputs.iter().map(|output| output.via).collect();
    assert_eq!(vias, [Via::Udp(SocketId(30)), Via::Raw(SocketId(31)), Via::Nowhere, Via::Nowhere]);
    let first = &route.outputs[0];
    assert_eq!(first.destination, ([239, 2, 2, 2], 6000).into());
    assert_eq!((first.ttl, first.dscp), (Ttl::Keep, Dscp::Fixed(46)));
    assert_eq!(first.rate, Some(Rate::PacketsPerSecond(500)));
    assert_eq!(route.outputs[1].ttl, Ttl::Fixed(3));
}

#[test]
fn a_rule_that_is_not_active_has_no_route() {
    for (rule, host) in [
        (video(), Host::new().without("eth0")),
        (video(), Host::new().change("eth0", |interface| interface.up = false)),
        (RuleSpec { enabled: false, ..video() }, Host::new()),
        (by(DatapathChoice::Kernel, video()), Host::new()),
    ] {
        let compiled = compile(&rule, &host, ROOT, &Classes::default());
        let slots = [OutputSlot(1), OutputSlot(2)];
        assert_eq!(
            compiled.route(&rule, RuleSlot(1), vec![SocketId(1)], &slots, |_| Some(SocketId(2))),
            None
        );
    }
}
