//! What the daemon knows, as far as a diagnosis needs it: small, owned, and without a way back to the daemon.

use std::net::IpAddr;

use mcr_netmon::{Link, NeighbourState, Snapshot};
use mcr_proto::{
    counters::{InputDrop, OutputDrop},
    endpoint::{IfName, Output},
    message::{InputView, OutputView, RuleState, RuleView},
    plan::{InputSlot, OutputSlot},
    rule::{Datapath, RuleSpec},
};

/// What was dropped at an output, by reason.
pub type OutputDrops = [u64; OutputDrop::COUNT];
/// What was dropped at an input, by reason.
pub type InputDrops = [u64; InputDrop::COUNT];

/// Rules, inputs and interfaces at one moment, and what was dropped since a moment before.
#[derive(Debug, Clone, Default)]
pub struct Survey {
    /// The interfaces.
    pub links: Vec<Link>,
    /// The rules.
    pub rules: Vec<RuleFacts>,
    /// The inputs.
    pub inputs: Vec<InputFacts>,
    /// How a command for the daemon begins: `mcrctl`, with the socket where that is not the usual one.
    pub mcrctl: String,
    /// Why there are no packet sockets, if so.
    pub no_packet_sockets: bool,
    /// Workers that do their I/O by system calls though nobody asked for that.
    pub workers_without_uring: u32,
    /// Why the kernel took no eBPF program of the daemon's, if it was asked to and refused.
    pub no_bpf: Option<String>,
}

/// A rule.
#[derive(Debug, Clone)]
pub struct RuleFacts {
    /// Its name.
    pub name: String,
    /// As configured.
    pub spec: RuleSpec,
    /// Its state.
    pub state: RuleState,
    /// Why it is in this state, if not active.
    pub reason: Option<String>,
    /// The data path that carries it.
    pub datapath: Option<Datapath>,
    /// The interface by which its one sender would be answered, if it names one and there is a route.
    pub back_to_source: Option<u32>,
    /// In the order of the rule.
    pub outputs: Vec<OutputFacts>,
}

/// An output.
#[derive(Debug, Clone)]
pub struct OutputFacts {
    /// Its counters.
    pub slot: OutputSlot,
    /// As configured.
    pub output: Output,
    /// Its state.
    pub state: RuleState,
    /// The way of its copies; none where there is no route.
    pub way: Option<Way>,
    /// What was dropped since it was added.
    pub drops: OutputDrops,
    /// What of that was dropped just now.
    pub recent: OutputDrops,
}

/// How copies get to their destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    /// The interface they leave by.
    pub index: u32,
    /// The next hop on it.
    pub next_hop: IpAddr,
    /// Whether the next hop is not the destination.
    pub gateway: bool,
    /// Whether it is this host.
    pub local: bool,
    /// What the neighbour cache says of the next hop; none if it is not in there.
    pub neighbour: Option<NeighbourState>,
    /// The next hop's link-layer address.
    pub mac: Option<[u8; 6]>,
}

/// An input.
#[derive(Debug, Clone)]
pub struct InputFacts {
    /// Its counters.
    pub slot: InputSlot,
    /// The worker that reads it.
    pub worker: u16,
    /// The interface.
    pub interface: IfName,
    /// The data path.
    pub datapath: Datapath,
    /// What was dropped since it was first used.
    pub drops: InputDrops,
    /// What of that was dropped just now.
    pub recent: InputDrops,
}

impl Survey {
    /// A host without a daemon: its interfaces.
    pub fn of_host(network: &Snapshot) -> Self {
        Self { links: network.links().cloned().collect(), mcrctl: "mcrctl".into(), ..Self::default() }
    }

    /// Adds a rule as it stands.
    pub fn add_rule(&mut self, view: RuleView, network: &Snapshot) {
        let RuleView { id, spec, state, reason, datapath, outputs, .. } = view;
        let back = spec.input.source.and_then(|source| network.route_to(source)).map(|hit| hit.index);
        let name = spec.name.as_ref().map_or_else(|| id.to_string(), ToString::to_string);
        let outputs = outputs.into_iter().map(|output| OutputFacts::new(output, network)).collect();
        self.rules.push(RuleFacts { name, spec, state, reason, datapath, back_to_source: back, outputs });
    }

    /// Adds an input as it stands.
    pub fn add_input(&mut self, view: &InputView) {
        self.inputs.push(InputFacts {
            slot: view.slot,
            worker: view.worker.0,
            interface: view.interface,
            datapath: view.datapath,
            drops: [0; InputDrop::COUNT],
            recent: [0; InputDrop::COUNT],
        });
    }

    /// Notes the drops as they are now; what came since the time before is recent.
    pub fn count(
        &mut self,
        input: impl Fn(u16, InputSlot) -> InputDrops,
        output: impl Fn(OutputSlot) -> OutputDrops,
    ) {
        for facts in &mut self.inputs {
            (facts.recent, facts.drops) = grown(facts.drops, input(facts.worker, facts.slot));
        }
        for facts in self.rules.iter_mut().flat_map(|rule| &mut rule.outputs) {
            (facts.recent, facts.drops) = grown(facts.drops, output(facts.slot));
        }
    }

    /// An interface by name.
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    /// An interface by index.
    pub(crate) fn link_at(&self, index: u32) -> Option<&Link> {
        self.links.iter().find(|link| link.index == index)
    }
}

fn grown<const N: usize>(before: [u64; N], now: [u64; N]) -> ([u64; N], [u64; N]) {
    // A slot that was given to another rule in between starts at zero again.
    (std::array::from_fn(|index| now[index].saturating_sub(before[index])), now)
}

impl OutputFacts {
    fn new(view: OutputView, network: &Snapshot) -> Self {
        let OutputView { slot, output, state, .. } = view;
        let way = Way::to(&output, network);
        Self { slot, output, state, way, drops: [0; OutputDrop::COUNT], recent: [0; OutputDrop::COUNT] }
    }
}

impl Way {
    /// The way of an output's copies; none if its interface is missing or there is no route.
    pub fn to(output: &Output, network: &Snapshot) -> Option<Self> {
        let hit = network.route_to(output.address);
        let index = match &output.interface {
            Some(name) => network.link_by_name(name.as_str())?.index,
            None => hit?.index,
        };
        // The route counts only where it leads out by this interface. A group is its own next hop.
        let hit = hit.filter(|hit| hit.index == index);
        let gateway = hit.and_then(|hit| hit.gateway).filter(|_| !output.address.is_multicast());
        let next_hop = gateway.unwrap_or(output.address);
        let neighbour = network.neighbour(index, next_hop);
        Some(Self {
            index,
            next_hop,
            gateway: gateway.is_some(),
            local: hit.is_some_and(|hit| hit.kind == mcr_netmon::RouteKind::Local),
            neighbour: neighbour.map(|neighbour| neighbour.state),
            mac: neighbour.and_then(|neighbour| neighbour.mac),
        })
    }
}
