//! The kernel path: its rules, and what stands in the maps because of them.
//!
//! Invariants: the programs see a datagram's outputs as they were before a change or as they are after it, never a part of each: a
//! new block is written where nothing is read, and one word makes it the one that is read. A place (of a block, of a counter) is used
//! again only when every program that may know it has ended. All is held by descriptors: it ends with this value or its process.

mod collect;
mod trace;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
};

use mcr_proto::plan::{OutputSlot, RuleSlot, Span};

use crate::{
    arena::Arena,
    counts::Delta,
    error::{AttachError, LoadError, UpdateError},
    flows::Flows,
    grace::{Grace, Ticket},
    group::{self, Chain, Content, Places},
    layout::{Entry, Head, InputCounts, Key, OutputCounts, RuleCounts, route},
    object::{Link, Object, Sizes, map_error},
    pool::Pool,
    rule::{Output, Rule},
};

pub use trace::{TraceCounts, TraceWhat, TracedCopy, TracedDatagram};

/// What a new path has room for. It grows by doubling.
const SIZES: Sizes = Sizes { inputs: 16, rules: 256, outputs: 1024, entries: 4096 };
/// What it may grow to; with its counters for each CPU that is a few hundred bytes of kernel memory for each output.
const SIZES_MAX: Sizes = Sizes { inputs: 1024, rules: 16_384, outputs: 65_536, entries: 262_144 };

/// One destination on one interface.
type Group = (u32, SocketAddr);

/// Relaying in the kernel. Nothing of it outlives this value.
///
/// Belongs to the network namespace of the threads that call [`KernelPath::attach`].
pub struct KernelPath {
    object: Object,
    sizes: Sizes,
    links: HashMap<u32, Link>,
    rules: BTreeMap<RuleSlot, Rule>,
    groups: BTreeMap<Group, BTreeSet<RuleSlot>>,
    blocks: BTreeMap<Key, Block>,
    arena: Arena,
    /// Blocks that some program may still read.
    leaving: Vec<(Ticket, Row)>,
    generation: u32,
    grace: Grace,
    counters: Counters,
    /// Counted by an object that is no more.
    carried: Vec<Delta>,
    flows: Flows,
    traces: trace::Traces,
}

#[derive(Debug)]
struct Block {
    row: Row,
    chain: Chain,
}

/// Where a block stands.
#[derive(Debug, Clone, Copy)]
struct Row {
    base: u32,
    entries: u32,
}

#[derive(Debug)]
struct Counters {
    inputs: Pool<u32, InputCounts>,
    rules: Pool<RuleSlot, RuleCounts>,
    outputs: Pool<OutputSlot, OutputCounts>,
    /// The traces of rules, whether they are there or not; bit n is the nth.
    traced: HashMap<RuleSlot, u8>,
}

impl Places for Counters {
    fn input(&self, ifindex: u32) -> u32 {
        self.inputs.find(ifindex)
    }
    fn rule(&self, slot: RuleSlot) -> u32 {
        self.rules.find(slot)
    }
    fn output(&self, output: &Output) -> u32 {
        self.outputs.find(output.slot)
    }
    fn traces(&self, slot: RuleSlot) -> u8 {
        self.traced.get(&slot).copied().unwrap_or(0)
    }
}

impl KernelPath {
    /// Loads the programs; nothing is attached yet.
    ///
    /// # Errors
    /// [`LoadError::NotPermitted`] without CAP_BPF and CAP_NET_ADMIN, [`LoadError::Kernel`] where the kernel is too old.
    pub fn load() -> Result<Self, LoadError> {
        Ok(Self {
            object: Object::load(SIZES)?,
            sizes: SIZES,
            links: HashMap::new(),
            rules: BTreeMap::new(),
            groups: BTreeMap::new(),
            blocks: BTreeMap::new(),
            arena: Arena::new(SIZES.entries),
            leaving: Vec::new(),
            generation: 0,
            grace: Grace::default(),
            counters: Counters {
                inputs: Pool::new(SIZES.inputs),
                rules: Pool::new(SIZES.rules),
                outputs: Pool::new(SIZES.outputs),
                traced: HashMap::new(),
            },
            carried: Vec::new(),
            flows: Flows::default(),
            traces: trace::Traces::default(),
        })
    }

    /// Has the frames of an interface seen, if they are not already. It must be in the calling thread's network namespace.
    ///
    /// # Errors
    /// [`AttachError`]; then nothing has changed.
    pub fn attach(&mut self, ifindex: u32) -> Result<(), AttachError> {
        if !self.links.contains_key(&ifindex) {
            let link = self.object.attach(ifindex)?;
            self.links.insert(ifindex, link);
        }
        Ok(())
    }

    /// Sees the frames of an interface no more. To be called also when it is gone.
    pub fn detach(&mut self, ifindex: u32) {
        self.links.remove(&ifindex);
    }

    /// The interfaces whose frames are seen.
    pub fn attached(&self) -> impl Iterator<Item = u32> + '_ {
        self.links.keys().copied()
    }

    /// Adds a rule, or exchanges the one of the same slot, at once for each datagram.
    ///
    /// # Errors
    /// [`UpdateError`]; then the rule is as it was.
    ///
    /// # Panics
    /// If it has no outputs.
    pub fn set_rule(&mut self, slot: RuleSlot, rule: Rule) -> Result<(), UpdateError> {
        self.succeed(slot, slot, rule)
    }

    /// As [`KernelPath::set_rule`], in the place of another rule, which is removed. If both are of one interface and destination, no
    /// datagram finds both of them, or neither.
    ///
    /// # Errors
    /// [`UpdateError`]; then everything is as it was.
    ///
    /// # Panics
    /// If it has no outputs.
    pub fn succeed(&mut self, before: RuleSlot, slot: RuleSlot, rule: Rule) -> Result<(), UpdateError> {
        assert!(!rule.outputs.is_empty(), "a rule has outputs");
        let ipv6 = rule.destination.is_ipv6();
        let is_other = |output: &Output| {
            output.destination.is_ipv6() != ipv6
                || output.source.is_some_and(|source| source.is_ipv6() != ipv6)
        };
        if rule.outputs.iter().any(is_other) {
            return Err(UpdateError::Family);
        }
        self.make_room(slot, &rule)?;
        let new = group_of(&rule);
        let gone = if before == slot { None } else { self.exchange(before, None) };
        let old = self.exchange(slot, Some(rule));
        let mut result = self.install(new);
        for group in [&gone, &old].into_iter().flatten().map(group_of).filter(|group| *group != new) {
            result = result.and_then(|()| self.install(group));
        }
        if let Err(error) = result {
            // What was written so far is written back; what cannot be stays until the next change of the destination.
            let failed = self.exchange(slot, old);
            if gone.is_some() {
                self.exchange(before, gone);
            }
            let _ = self.install(new);
            self.retire_counters(failed.as_ref(), slot);
            return Err(error);
        }
        self.retire_counters(gone.as_ref(), before);
        self.retire_counters(old.as_ref(), slot);
        Ok(())
    }

    /// Removes a rule, if it is there: no datagram that arrives from now on is taken for it.
    pub fn remove_rule(&mut self, slot: RuleSlot) {
        let old = self.exchange(slot, None);
        if let Some(old) = &old {
            // What cannot be written now is written with the destination's next change; to remove a key takes no memory.
            let _ = self.install(group_of(old));
        }
        self.retire_counters(old.as_ref(), slot);
    }

    /// Waits until every change has taken effect on all CPUs: milliseconds. Then [`KernelPath::collect`] is exact for what was
    /// removed. Blocks.
    pub fn settle(&mut self) {
        self.grace.wait();
    }

    /// Whether all that is gone has been told of for the last time: [`KernelPath::collect`] will name only what is there.
    pub fn is_settled(&self) -> bool {
        !self.counters.is_retiring() && self.carried.is_empty()
    }

    /// Puts a rule in its place among the others, and gives back the one that was there.
    fn exchange(&mut self, slot: RuleSlot, rule: Option<Rule>) -> Option<Rule> {
        let old = self.rules.remove(&slot);
        if let Some(old) = &old
            && let Some(slots) = self.groups.get_mut(&group_of(old))
        {
            slots.remove(&slot);
        }
        if let Some(rule) = rule {
            self.groups.entry(group_of(&rule)).or_default().insert(slot);
            self.rules.insert(slot, rule);
        }
        old
    }

    /// Writes what has changed of a destination's keys and blocks.
    fn install(&mut self, group: Group) -> Result<(), UpdateError> {
        let (ifindex, destination) = group;
        let slots = self.groups.get(&group).cloned().unwrap_or_default();
        let rules: Vec<_> = slots.iter().filter_map(|slot| Some((*slot, self.rules.get(slot)?))).collect();
        let wanted = group::compile(ifindex, destination, &rules, &self.counters);
        let is_used = !rules.is_empty();
        let keys: BTreeSet<Key> = wanted.iter().map(|(key, _)| *key).collect();
        if is_used {
            let input = self.counters.input(ifindex);
            let address = Key::of_address(ifindex, destination.ip());
            self.object.addresses.insert(address, input, 0).map_err(map_error)?;
        }
        for (key, chain) in wanted {
            self.put(key, chain)?;
        }
        let [any, sourced] = Key::all_of(ifindex, destination);
        let there = self.blocks.range(any).chain(self.blocks.range(sourced)).map(|(key, _)| *key);
        let gone: Vec<Key> = there.filter(|key| !keys.contains(key)).collect();
        for key in gone {
            self.object.routes.remove(&key).map_err(map_error)?;
            if let Some(block) = self.blocks.remove(&key) {
                self.leave(block.row);
            }
        }
        if !is_used {
            self.groups.remove(&group);
            let port = |port| (ifindex, SocketAddr::new(destination.ip(), port));
            if self.groups.range(port(0)..=port(u16::MAX)).next().is_none() {
                // Not there if it could not be written.
                let _ = self.object.addresses.remove(&Key::of_address(ifindex, destination.ip()));
            }
        }
        Ok(())
    }

    /// Has a key lead to these blocks.
    fn put(&mut self, key: Key, chain: Chain) -> Result<(), UpdateError> {
        if self.blocks.get(&key).is_some_and(|block| block.chain == chain) {
            return Ok(());
        }
        let entries = chain.entries();
        let base =
            self.arena.take(entries).ok_or(UpdateError::Full { what: "outputs", max: SIZES_MAX.outputs })?;
        self.generation = self.generation.wrapping_add(1);
        let row = Row { base, entries };
        let written = write(&mut self.object, key, &chain, row, self.generation);
        if let Err(error) = written {
            self.leave(row);
            return Err(error);
        }
        if let Some(old) = self.blocks.insert(key, Block { row, chain }) {
            self.leave(old.row);
        }
        Ok(())
    }

    fn leave(&mut self, row: Row) {
        self.leaving.push((self.grace.begin(), row));
    }

    /// Takes back what no program reads any more.
    fn reclaim(&mut self) {
        let passed = self.grace.passed();
        for (ticket, row) in std::mem::take(&mut self.leaving) {
            if ticket <= passed {
                self.arena.give(row.base, row.entries);
            } else {
                self.leaving.push((ticket, row));
            }
        }
    }

    /// Gives back the counters of a rule that was, as far as the one of the same slot now does not have them.
    fn retire_counters(&mut self, old: Option<&Rule>, slot: RuleSlot) {
        let Some(old) = old else { return };
        let now = self.rules.get(&slot);
        let kept: BTreeSet<_> = now.iter().flat_map(|rule| &rule.outputs).map(|output| output.slot).collect();
        let ticket = self.grace.begin();
        let gone = old.outputs.iter().map(|output| output.slot).filter(|slot| !kept.contains(slot));
        gone.for_each(|slot| self.counters.outputs.retire(slot, ticket));
        if now.is_none() {
            self.counters.rules.retire(slot, ticket);
        }
        if !self.rules.values().any(|rule| rule.ifindex == old.ifindex) {
            self.counters.inputs.retire(old.ifindex, ticket);
        }
    }

    /// Sees to it that a rule has its counters and room for its blocks.
    fn make_room(&mut self, slot: RuleSlot, rule: &Rule) -> Result<(), UpdateError> {
        self.reclaim();
        let group = group_of(rule);
        // A rule of any source is in the block of each source that others name.
        let others = self.groups.get(&group).into_iter().flatten().filter_map(|slot| self.rules.get(slot));
        // One that takes nothing yet will be divided by time, when there is no time to move everything into larger maps.
        let spare = if rule.span == Span::NEVER { 2 } else { 0 };
        let times = group::times(others.clone().chain([rule])).len() + spare;
        let (mut blocks, mut outputs) = (1 + usize::from(rule.source.is_some()), rule.outputs.len());
        for other in others {
            blocks += usize::from(other.source.is_some());
            outputs += other.outputs.len();
        }
        let entries = (times * blocks * (outputs + 1)) as u32;
        if !self.has_room(slot, rule, entries) {
            // Perhaps it is only that programs may read what is on its way out.
            if !self.leaving.is_empty() || self.counters.is_retiring() {
                self.grace.wait();
                self.reclaim();
                let mut carried = std::mem::take(&mut self.carried);
                self.collect(|delta| carried.push(delta));
                self.carried = carried;
            }
            while !self.has_room(slot, rule, entries) {
                self.grow()?;
            }
        }
        let Counters { inputs, rules, outputs, .. } = &mut self.counters;
        let is_new = !inputs.has(rule.ifindex);
        // There is room: it was just asked for.
        let _ = (inputs.place(rule.ifindex), rules.place(slot));
        rule.outputs.iter().for_each(|output| _ = outputs.place(output.slot));
        if is_new { self.show_drops_of(rule.ifindex) } else { Ok(()) }
    }

    fn has_room(&mut self, slot: RuleSlot, rule: &Rule, entries: u32) -> bool {
        let Counters { inputs, rules, outputs, .. } = &self.counters;
        let new = rule.outputs.iter().filter(|output| !outputs.has(output.slot)).count();
        let room = outputs.available() as usize >= new
            && (rules.has(slot) || rules.available() > 0)
            && (inputs.has(rule.ifindex) || inputs.available() > 0);
        // The longest row there is tells whether blocks of so many entries, in whichever rows, fit.
        room && self.arena.take(entries).map(|base| self.arena.give(base, entries)).is_some()
    }

    /// Moves everything into maps of twice the size. Interfaces are never without a program; the counts go on.
    fn grow(&mut self) -> Result<(), UpdateError> {
        let Sizes { inputs, rules, outputs, entries } = self.sizes;
        if self.sizes == SIZES_MAX {
            return Err(UpdateError::Full { what: "rules and outputs", max: SIZES_MAX.outputs });
        }
        let sizes = Sizes {
            inputs: (inputs * 2).min(SIZES_MAX.inputs),
            rules: (rules * 2).min(SIZES_MAX.rules),
            outputs: (outputs * 2).min(SIZES_MAX.outputs),
            entries: (entries * 2).min(SIZES_MAX.entries),
        };
        let grow = |error| UpdateError::Grow(Box::new(error));
        let mut object = Object::load(sizes).map_err(grow)?;
        let mut arena = Arena::new(sizes.entries);
        let mut rows = HashMap::new();
        for (key, block) in &self.blocks {
            let entries = block.row.entries;
            // All of them fitted into half of it.
            let Some(base) = arena.take(entries) else { continue };
            let row = Row { base, entries };
            self.generation = self.generation.wrapping_add(1);
            write(&mut object, *key, &block.chain, row, self.generation)?;
            rows.insert(*key, row);
        }
        for (ifindex, destination) in self.groups.keys() {
            let address = Key::of_address(*ifindex, destination.ip());
            object.addresses.insert(address, self.counters.input(*ifindex), 0).map_err(map_error)?;
        }
        object.copy_flows(&self.object);
        self.copy_traces(&mut object)?;
        object.take_over(&mut self.object, &mut self.links).map_err(grow)?;
        // From here on nobody counts in the old maps: tell the last of them, then begin anew.
        self.grace.wait();
        let mut carried = std::mem::take(&mut self.carried);
        self.collect(|delta| carried.push(delta));
        self.carried = carried;
        self.leave_traces();
        self.flows.begin_anew();
        self.object = object;
        (self.arena, self.sizes) = (arena, sizes);
        self.leaving.clear();
        for (key, row) in rows {
            if let Some(block) = self.blocks.get_mut(&key) {
                block.row = row;
            }
        }
        self.counters.inputs.begin_anew(sizes.inputs);
        self.counters.rules.begin_anew(sizes.rules);
        self.counters.outputs.begin_anew(sizes.outputs);
        Ok(())
    }
}

impl std::fmt::Debug for KernelPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut interfaces: Vec<_> = self.links.keys().collect();
        interfaces.sort_unstable();
        f.debug_struct("KernelPath").field("interfaces", &interfaces).field("rules", &self.rules).finish()
    }
}

impl Counters {
    fn is_retiring(&self) -> bool {
        self.inputs.is_retiring() || self.rules.is_retiring() || self.outputs.is_retiring()
    }
}

fn group_of(rule: &Rule) -> Group {
    (rule.ifindex, rule.destination)
}

/// Writes blocks, one behind the other, then the word that leads to the first.
fn write(object: &mut Object, key: Key, chain: &Chain, row: Row, generation: u32) -> Result<(), UpdateError> {
    let Key { ifindex, port, address, .. } = key;
    let mut base = row.base;
    let next_times = chain.0.iter().skip(1).map(|(at_ns, _)| *at_ns).chain([0]);
    for ((_, content), then_ns) in chain.0.iter().zip(next_times) {
        let Content { flags, traces, input, outputs } = content;
        let (flags, traces, input) = (*flags, *traces, *input);
        let count = outputs.len() as u32;
        let then = base + 1 + count;
        let head = Head {
            generation,
            count,
            ifindex,
            address,
            port,
            flags,
            traces,
            input,
            then,
            then_ns,
            ..Head::default()
        };
        object.blocks.set(base, Entry::from(head), 0).map_err(map_error)?;
        for (place, entry) in (base + 1..).zip(outputs) {
            object.blocks.set(place, Entry::from(*entry), 0).map_err(map_error)?;
        }
        base = then;
    }
    object.routes.insert(key, route(row.base, generation), 0).map_err(map_error)
}
