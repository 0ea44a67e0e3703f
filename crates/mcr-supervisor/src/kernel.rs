//! The kernel data path as the supervisor drives it: which rules are there, resolved to next hops that are kept known, and their
//! counters in a segment of their own, whose one writer this is.
//!
//! What is not here: which rules may go there (`mcr_relay::compile`), memberships (`holds`), the program itself (`mcr_ebpf`).

mod beside;
mod counts;
mod flows;
mod hops;
mod local;
mod neighbours;
mod pace;
mod ports;
pub(crate) mod swallowing;
mod traces;

pub(crate) use local::sockets_at;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use mcr_ebpf::{KernelPath, LoadError, Rule, UpdateError, Way};
use mcr_metrics::Segment;
use mcr_netmon::{Change, LinkKind, Snapshot};
use mcr_proto::{
    counters::OutputDrop,
    endpoint::OutputSource,
    plan::{Generation, InputSlot, OutputSlot, RuleSlot, Span, WorkerIndex},
    rule::RuleSpec,
};
use mcr_relay::compile::KernelLack;
use tracing::{debug, info, warn};

use self::{
    beside::Beside, counts::note_delta, hops::Hop, local::Listeners, neighbours::Neighbours, pace::Pace,
    ports::Ports, swallowing::Swallowing,
};
use crate::{
    clock::{monotonic_ns, wall_offset_ns},
    holds::Holds,
    worker::Retired,
};

/// Everything about the kernel data path.
pub(crate) struct Kernel {
    path: Option<KernelPath>,
    /// Why the program could not be had, when it was last asked for.
    pub(crate) refusal: Option<String>,
    pub(crate) counters: Segment,
    rules: BTreeMap<RuleSlot, Carried>,
    /// Where an interface's input is counted.
    inputs: HashMap<u32, InputSlot>,
    neighbours: Neighbours,
    ports: Ports,
    listeners: Listeners,
    listeners_pace: Pace,
    beside: Beside,
    beside_pace: Pace,
    /// What of the packet rules' datagrams goes no further.
    pub(crate) swallowing: Swallowing,
    /// Rules whose worker has not taken them over yet.
    lingering: BTreeMap<RuleSlot, (WorkerIndex, Generation)>,
    /// Whose place the rule of a slot shall take.
    predecessors: HashMap<RuleSlot, RuleSlot>,
    /// The same, the other way round.
    successors: HashMap<RuleSlot, RuleSlot>,
    /// Counters' places that the program may still count in.
    retired: Vec<Retired>,
    traces: traces::Traces,
    flows: flows::Rows,
    stale: bool,
}

/// A rule in the kernel.
#[derive(Debug)]
struct Carried {
    spec: RuleSpec,
    ifindex: u32,
    outputs: Vec<OutputSlot>,
    hops: BTreeSet<(u32, IpAddr)>,
    /// What of its datagrams it is to take.
    span: Span,
    /// As the program knows it.
    told: Rule,
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kernel").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Kernel {
    /// `swallows`: what packet rules take and nothing else wants may be kept from the IP stack.
    pub(crate) fn new(counters: Segment, swallows: bool) -> Self {
        Self {
            path: None,
            refusal: None,
            counters,
            rules: BTreeMap::new(),
            inputs: HashMap::new(),
            neighbours: Neighbours::default(),
            ports: Ports::default(),
            listeners: Listeners::default(),
            listeners_pace: Pace::default(),
            beside: Beside::default(),
            beside_pace: Pace::default(),
            swallowing: Swallowing::new(swallows),
            lingering: BTreeMap::new(),
            predecessors: HashMap::new(),
            successors: HashMap::new(),
            retired: Vec::new(),
            traces: traces::Traces::default(),
            flows: flows::Rows::default(),
            stale: false,
        }
    }

    /// Does everything for a rule to be taken up that takes time, so that [`Kernel::carry`] takes none; the frames of its input are seen
    /// from here on.
    pub(crate) fn prepare(&mut self, spec: &RuleSpec, network: &Snapshot) -> Result<(), KernelLack> {
        let Some(link) = network.link_by_name(spec.input.interface.as_str()) else {
            return Err(KernelLack::Refused);
        };
        self.open()?;
        if self.rules.is_empty() {
            let heard = self.listeners.read();
            self.swallowing.doubt_heard(&heard);
        }
        self.ports.of(spec.input.address.is_ipv6()).ok_or(KernelLack::Refused)?;
        let Some(path) = &mut self.path else { return Err(KernelLack::Refused) };
        path.attach(link.index).map_err(|error| {
            warn!(input = %spec.input, "{error}");
            KernelLack::Refused
        })
    }

    /// Takes a rule up that was prepared for, or exchanges what is there for it. From here on what came in `span` is relayed.
    pub(crate) fn carry(
        &mut self,
        slot: RuleSlot,
        spec: &RuleSpec,
        outputs: &[OutputSlot],
        input: InputSlot,
        span: Span,
        network: &Snapshot,
    ) -> Result<(), KernelLack> {
        let Some(link) = network.link_by_name(spec.input.interface.as_str()) else {
            return Err(KernelLack::Refused);
        };
        let ifindex = link.index;
        let port = self.ports.of(spec.input.address.is_ipv6()).ok_or(KernelLack::Refused)?;
        let (told, hops) = resolve(&self.listeners, port, spec, outputs, ifindex, network);
        let told = Rule { span, ..told };
        let before = self.predecessors.remove(&slot).unwrap_or(slot);
        self.successors.remove(&before);
        let Some(path) = &mut self.path else { return Err(KernelLack::Refused) };
        if let Err(error) = path.succeed(before, slot, told.clone()) {
            self.tidy();
            return Err(lack_of_room(&error));
        }
        self.inputs.insert(ifindex, input);
        self.lingering.remove(&slot);
        if before != slot
            && let Some(gone) = self.rules.remove(&before)
        {
            self.swallowing.touch(gone.spec.input.socket_addr());
            self.flows.end(&self.counters, before);
        }
        self.neighbours.need(&hops);
        let now = Instant::now();
        hops.iter().for_each(|hop| self.neighbours.ask_for(*hop, network, now));
        let carried = Carried { spec: spec.clone(), ifindex, outputs: outputs.to_vec(), hops, span, told };
        self.rules.insert(slot, carried);
        self.tidy();
        Ok(())
    }

    /// Has a rule that is there take what came in `span`, and nothing else. False if that was refused, for want of memory: it is tried again.
    pub(crate) fn limit(&mut self, slot: RuleSlot, span: Span) -> bool {
        let (Some(path), Some(rule)) = (&mut self.path, self.rules.get_mut(&slot)) else { return true };
        rule.span = span;
        let told = Rule { span, ..rule.told.clone() };
        match path.set_rule(slot, told.clone()) {
            Ok(()) => {
                rule.told = told;
                true
            }
            Err(error) => {
                warn!(input = %rule.spec.input, "{error}");
                self.stale = true;
                false
            }
        }
    }

    /// Has the next rule that is taken up under `slot` take the place of another at the same moment.
    pub(crate) fn succeed(&mut self, before: RuleSlot, slot: RuleSlot) {
        if self.rules.contains_key(&before) {
            self.predecessors.insert(slot, before);
            self.successors.insert(before, slot);
        }
    }

    /// Lets a rule go: at once, or when a worker has the plan that takes it over.
    pub(crate) fn release(&mut self, slot: RuleSlot, until: Option<(WorkerIndex, Generation)>) {
        if let Some(heir) = self.successors.remove(&slot) {
            self.predecessors.remove(&heir);
        }
        match until {
            Some((worker, generation)) if self.rules.contains_key(&slot) => {
                self.lingering.insert(slot, (worker, generation));
            }
            _ => self.remove(slot),
        }
    }

    /// A worker has applied a plan: what it has taken over goes. Before the worker's filters open.
    pub(crate) fn hand_over(&mut self, worker: WorkerIndex, applied: Generation) {
        let lingering = self.lingering.iter();
        let due = lingering.filter(|(_, (to, at))| *to == worker && *at <= applied).map(|(slot, _)| *slot);
        due.collect::<Vec<_>>().into_iter().for_each(|slot| self.remove(slot));
    }

    fn remove(&mut self, slot: RuleSlot) {
        self.lingering.remove(&slot);
        if let Some(rule) = self.rules.remove(&slot) {
            if let Some(path) = &mut self.path {
                path.remove_rule(slot);
            }
            self.swallowing.touch(rule.spec.input.socket_addr());
            self.flows.end(&self.counters, slot);
            self.tidy();
        }
    }

    /// Whether a rule is relayed here, be it only until a worker has taken it over.
    pub(crate) fn carries(&self, slot: RuleSlot) -> bool {
        self.rules.contains_key(&slot)
    }

    /// The interface that a rule takes datagrams in by; none if it is not here.
    pub(crate) fn ifindex_of(&self, slot: RuleSlot) -> Option<u32> {
        self.rules.get(&slot).map(|rule| rule.ifindex)
    }

    /// Decides what of a group the IP stack need not see; nothing, if rules on other data paths take it (`elsewhere`). Right after
    /// [`Kernel::tick`].
    pub(crate) fn settle_swallowing(&mut self, group: SocketAddr, elsewhere: bool, network: &Snapshot) {
        let Self { swallowing, listeners, beside, .. } = self;
        let may = !elsewhere && !listeners.want(group);
        swallowing.settle(group, |ifindex| {
            may && network.link(ifindex).is_some_and(|link| link.kind == LinkKind::Ethernet)
                && !hops::is_shared(network, ifindex)
                && !beside.has(ifindex, group.ip(), network)
        });
        swallowing.tidy();
    }

    /// Whether an interface's frames are seen.
    pub(crate) fn uses(&self, input: InputSlot) -> bool {
        let attached = |ifindex: u32| self.rules.values().any(|rule| rule.ifindex == ifindex);
        self.inputs.iter().any(|(ifindex, slot)| *slot == input && attached(*ifindex))
    }

    /// Counters' places of a rule that is gone, if the program may still count in them; else they are given back.
    pub(crate) fn keep(&mut self, retired: Retired) -> Option<Retired> {
        match &self.path {
            Some(path) if !path.is_settled() => {
                self.retired.push(retired);
                None
            }
            _ => Some(retired),
        }
    }

    /// Takes no notice of the daemon's own guards, as they are now: they let nothing in.
    pub(crate) fn follow_guards(&mut self, holds: &mut Holds) {
        if let Some(guards) = holds.changed_guards() {
            self.listeners.ignore(guards);
        }
    }

    /// Notes what may concern rules that are there.
    pub(crate) fn note(&mut self, changes: &[Change]) {
        for change in changes {
            match change {
                Change::LinkRemoved(link) => self.swallowing.detach(link.index),
                Change::LinkAdded(_) | Change::LinkChanged { .. } => {
                    self.swallowing.doubt();
                    self.beside_pace.hurry();
                }
                _ => {}
            }
        }
        if self.rules.is_empty() {
            return;
        }
        self.stale |= changes.iter().any(|change| match change {
            Change::NeighbourChanged { new: known, .. } | Change::NeighbourRemoved(known) => {
                self.neighbours.has(known.index, known.address)
            }
            _ => true,
        });
        for change in changes {
            if let (Change::LinkRemoved(link), Some(path)) = (change, &mut self.path) {
                path.detach(link.index);
            }
        }
    }

    /// Brings what the program knows in line with the network, if that has changed.
    pub(crate) fn refresh(&mut self, network: &Snapshot) {
        if !std::mem::take(&mut self.stale) {
            return;
        }
        let slots: Vec<_> = self.rules.keys().copied().collect();
        for slot in slots {
            let ipv6 = self.rules.get(&slot).is_some_and(|rule| rule.spec.input.address.is_ipv6());
            let Some(port) = self.ports.of(ipv6) else { continue };
            let (Some(path), Some(rule)) = (&mut self.path, self.rules.get_mut(&slot)) else { continue };
            let (told, hops) =
                resolve(&self.listeners, port, &rule.spec, &rule.outputs, rule.ifindex, network);
            let told = Rule { span: rule.span, ..told };
            if told == rule.told && hops == rule.hops {
                continue;
            }
            match path.set_rule(slot, told.clone()) {
                Ok(()) => {
                    (rule.told, rule.hops) = (told, hops.clone());
                    self.neighbours.need(&hops);
                }
                Err(error) => {
                    warn!(input = %rule.spec.input, "{error}");
                    self.stale = true;
                }
            }
        }
        self.tidy();
        self.neighbours.ask(network, Instant::now());
    }

    /// What is to be done from time to time. Gives counters' places that are free now.
    pub(crate) fn tick(&mut self, network: &Snapshot) -> Vec<Retired> {
        self.count();
        let rules = &self.rules;
        self.neighbours.forget_all_but(|| rules.values().flat_map(|rule| &rule.hops).copied().collect());
        if !self.rules.is_empty() || self.swallowing.is_used() {
            self.look(Instant::now());
        }
        if !self.rules.is_empty() {
            self.refresh(network);
            self.neighbours.ask(network, Instant::now());
        }
        if self.path.as_ref().is_some_and(|path| !path.is_settled()) {
            return Vec::new();
        }
        if self.rules.is_empty() {
            // An idle daemon holds nothing.
            self.leave_traces();
            self.path = None;
            self.neighbours.close();
        }
        std::mem::take(&mut self.retired)
    }

    /// Looks for what else on this host wants datagrams.
    fn look(&mut self, now: Instant) {
        let Self { listeners, beside, swallowing, .. } = self;
        if swallowing.is_used() && self.beside_pace.is_due(now) {
            // Everybody at the same time, so that more can be swallowed.
            self.listeners_pace.hurry();
        }
        let heard = self.listeners_pace.look(now, || listeners.read());
        if let Some(heard) = &heard {
            self.stale |= heard.is_any() && !self.rules.is_empty();
            swallowing.doubt_heard(heard);
        }
        if !swallowing.is_used() {
            return;
        }
        let changed = self.beside_pace.look(now, || beside.read());
        if changed == Some(true) {
            swallowing.doubt();
        }
        swallowing.set_may_grow(heard.is_some() && changed.is_some());
    }

    /// Brings the program's counts into the segment.
    pub(crate) fn count(&mut self) {
        let Self { path: Some(path), counters, inputs, flows, .. } = self else { return };
        let offset_ns = wall_offset_ns();
        path.collect(|delta| note_delta(counters, inputs, flows, offset_ns, delta));
        counters.header().heartbeat_ns.set(monotonic_ns());
    }

    /// Loads the program with the first need.
    fn open(&mut self) -> Result<(), KernelLack> {
        if self.path.is_none() {
            let loading = Instant::now();
            self.path = Some(KernelPath::load().map_err(|error| {
                info!("no kernel data path: {error}");
                self.refusal = Some(error.to_string());
                match error {
                    LoadError::NotPermitted => KernelLack::NotPermitted,
                    _ => KernelLack::Kernel,
                }
            })?);
            self.refusal = None;
            self.tell_traces();
            debug!(ms = loading.elapsed().as_millis() as u64, "program loaded");
        }
        self.neighbours.open();
        Ok(())
    }

    /// Lets go of interfaces that no rule needs.
    fn tidy(&mut self) {
        if let Some(path) = &mut self.path {
            let attached: Vec<_> = path.attached().collect();
            let unused = |ifindex: &u32| !self.rules.values().any(|rule| rule.ifindex == *ifindex);
            attached.into_iter().filter(unused).for_each(|ifindex| path.detach(ifindex));
        }
        if self.rules.is_empty() {
            self.ports.release();
        }
        self.neighbours.doubt();
    }
}

/// A rule with everything resolved, and the next hops it needs. `port` is the source port where an output names none.
fn resolve(
    listeners: &Listeners,
    port: u16,
    spec: &RuleSpec,
    slots: &[OutputSlot],
    ifindex: u32,
    network: &Snapshot,
) -> (Rule, BTreeSet<(u32, IpAddr)>) {
    let mut needed = BTreeSet::new();
    let outputs = spec.outputs.iter().zip(slots).map(|(output, slot)| {
        let Hop { mut way, source, neighbour } = hops::resolve(output, network);
        needed.extend(neighbour);
        let source = match output.source {
            OutputSource::Keep => None,
            OutputSource::Fixed(address, fixed) => Some(SocketAddr::new(address, fixed.unwrap_or(port))),
            OutputSource::Interface => source.map(|address| SocketAddr::new(address, port)),
        };
        if source.is_none() && output.source != OutputSource::Keep {
            way = Way::Nowhere(OutputDrop::NoRoute);
        }
        let destination = output.socket_addr();
        mcr_ebpf::Output { slot: *slot, destination, source, ttl: output.ttl, dscp: output.dscp, way }
    });
    let outputs = outputs.collect();
    let destination = spec.input.socket_addr();
    let local = listeners.want(destination) || hops::is_shared(network, ifindex);
    let (source, span) = (spec.input.source, Span::ALWAYS);
    (Rule { ifindex, destination, source, local, span, outputs }, needed)
}

fn lack_of_room(error: &UpdateError) -> KernelLack {
    warn!("{error}");
    match error {
        UpdateError::Full { .. } => KernelLack::Full,
        _ => KernelLack::Refused,
    }
}
