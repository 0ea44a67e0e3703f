//! From the rules of one destination to the keys and blocks that the programs look up. Pure.
//!
//! A datagram finds one block. Rules that name no source stand in the block of any source; a source that some rule names has a block
//! of its own, with the rules of any source in front. So whatever rules there are, each datagram is taken to all that want it.
//!
//! Where rules begin or end at some time, a key has a chain of blocks, one for each time between.

use std::net::{IpAddr, SocketAddr};

use mcr_proto::{
    counters::OutputDrop,
    endpoint::{Dscp, Ttl},
    plan::{RuleSlot, Span},
};

use crate::{
    counts::OUTPUT_DROPS,
    layout::{Key, OutputEntry, head, output, words},
    rule::{Output, Rule, Way},
};

/// What stands in a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) flags: u8,
    pub(crate) traces: u8,
    pub(crate) input: u32,
    pub(crate) outputs: Vec<OutputEntry>,
}

/// The most blocks of a key: `BLOCKS_MAX` of relay.h.
const BLOCKS_MAX: usize = 16;

/// The blocks of a key, each with the stamp from which it is in force; that of the first is 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chain(pub(crate) Vec<(u64, Content)>);

impl Chain {
    /// How many entries its blocks take.
    pub(crate) fn entries(&self) -> u32 {
        self.0.iter().map(|(_, content)| content.outputs.len() as u32 + 1).sum()
    }
}

/// Places of counters, by what is counted.
pub(crate) trait Places {
    fn input(&self, ifindex: u32) -> u32;
    fn rule(&self, slot: RuleSlot) -> u32;
    fn output(&self, output: &Output) -> u32;
    /// The traces of a rule; bit n is the nth.
    fn traces(&self, slot: RuleSlot) -> u8;
}

/// The stamps from which another set of rules is in force, 0 first. Where there are too many, what is long past is taken for what comes
/// after it.
pub(crate) fn times<'a>(rules: impl Iterator<Item = &'a Rule>) -> Vec<u64> {
    let ends = rules.flat_map(|rule| [rule.span.from_ns, rule.span.until_ns]);
    let mut times: Vec<_> = ends.filter(|at_ns| (1..u64::MAX).contains(at_ns)).collect();
    times.sort_unstable();
    times.dedup();
    times.drain(..times.len().saturating_sub(BLOCKS_MAX - 1));
    times.insert(0, 0);
    times
}

/// The keys of a destination with their blocks, in the order in which they may be written: first those of sources, then that of any
/// source, which tells that there are such.
pub(crate) fn compile(
    ifindex: u32,
    destination: SocketAddr,
    rules: &[(RuleSlot, &Rule)],
    places: &impl Places,
) -> Vec<(Key, Chain)> {
    let times = times(rules.iter().map(|(_, rule)| *rule));
    let mut sources: Vec<IpAddr> = rules.iter().filter_map(|(_, rule)| rule.source).collect();
    sources.sort_unstable();
    sources.dedup();
    let mut keys: Vec<_> = sources
        .iter()
        .map(|source| {
            let wants = |rule: &Rule| rule.source.is_none_or(|wanted| wanted == *source);
            let chain = chain(&times, rules, wants, |wanting| {
                content(wanting.iter(), places.input(ifindex), places, 0)
            });
            (Key::new(ifindex, destination, Some(*source)), chain)
        })
        .collect();
    if rules.is_empty() {
        return keys;
    }
    let sourced = if sources.is_empty() { 0 } else { head::SOURCED };
    let chain = chain(
        &times,
        rules,
        |rule| rule.source.is_none(),
        |any| {
            let empty = if any.is_empty() { head::EMPTY } else { 0 };
            content(any.iter(), places.input(ifindex), places, sourced | empty)
        },
    );
    keys.push((Key::new(ifindex, destination, None), chain));
    keys
}

/// The blocks of a key, from those of the rules that want its datagrams which are there at each time.
fn chain<'a>(
    times: &[u64],
    rules: &[(RuleSlot, &'a Rule)],
    wants: impl Fn(&Rule) -> bool,
    content: impl Fn(&[(RuleSlot, &'a Rule)]) -> Content,
) -> Chain {
    let next = times.iter().skip(1).copied().chain([u64::MAX]);
    let blocks = times.iter().zip(next).map(|(&at_ns, next_ns)| {
        // The last stamp of it: what is cut off at the beginning is long past.
        let is_there = |span: Span| span.has(next_ns - 1);
        let wanting = rules.iter().filter(|(_, rule)| wants(rule) && is_there(rule.span)).copied();
        (at_ns, content(&wanting.collect::<Vec<_>>()))
    });
    Chain(blocks.collect())
}

fn content<'a>(
    rules: impl Iterator<Item = &'a (RuleSlot, &'a Rule)>,
    input: u32,
    places: &impl Places,
    flags: u8,
) -> Content {
    let mut content = Content { flags, traces: 0, input, outputs: Vec::new() };
    for (slot, rule) in rules {
        if rule.local {
            content.flags |= head::LOCAL;
        }
        let traces = places.traces(*slot);
        content.traces |= traces;
        for (index, to) in rule.outputs.iter().enumerate() {
            let first = if index == 0 { output::FIRST } else { 0 };
            let entry = entry(to, first, places.rule(*slot), places.output(to));
            content.outputs.push(OutputEntry { traces, ..entry });
        }
    }
    let keeps = |entry: &OutputEntry| entry.flags & output::KEEP_HOP_LIMIT != 0;
    if !content.outputs.is_empty() && content.outputs.iter().all(keeps) {
        content.flags |= head::ALL_KEEP;
    }
    content
}

fn entry(to: &Output, first: u8, rule: u32, counter: u32) -> OutputEntry {
    let mut entry = OutputEntry {
        rule,
        counter,
        flags: first,
        address: words(to.destination.ip()),
        port: to.destination.port().to_be(),
        ..OutputEntry::default()
    };
    match to.source {
        Some(source) => (entry.source, entry.source_port) = (words(source.ip()), source.port().to_be()),
        None => entry.flags |= output::KEEP_SOURCE,
    }
    match to.ttl {
        Ttl::Fixed(ttl) => entry.hop_limit = ttl,
        Ttl::Keep => entry.flags |= output::KEEP_HOP_LIMIT,
    }
    match to.dscp {
        Dscp::Fixed(point) => entry.traffic_class = point << 2,
        Dscp::Keep => entry.flags |= output::KEEP_DSCP,
    }
    match to.way {
        Way::Device { ifindex, mtu, to, from } => {
            (entry.ifindex, entry.mtu, entry.macs) = (ifindex, mtu, [to, from]);
        }
        Way::Nowhere(reason) => entry.drop = drop_of(reason),
    }
    entry
}

/// The reason's place in `enum output_drop`, plus 1; what is not there counts as `no_route`.
fn drop_of(reason: OutputDrop) -> u8 {
    let place = |wanted| OUTPUT_DROPS.iter().position(|known| *known == wanted);
    place(reason).or_else(|| place(OutputDrop::NoRoute)).map_or(0, |index| index as u8 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mcr_proto::plan::OutputSlot;

    struct Same;

    impl Places for Same {
        fn input(&self, ifindex: u32) -> u32 {
            ifindex
        }
        fn rule(&self, slot: RuleSlot) -> u32 {
            slot.0
        }
        fn output(&self, output: &Output) -> u32 {
            output.slot.0
        }
        fn traces(&self, slot: RuleSlot) -> u8 {
            // Rule n has trace n.
            1u8.checked_shl(slot.0).unwrap_or(0)
        }
    }

    fn rule(source: Option<&str>, slots: &[u32], ttl: Ttl) -> Rule {
        let output = |slot: &u32| Output {
            slot: OutputSlot(*slot),
            destination: "10.0.0.2:6000".parse().expect("address"),
            source: None,
            ttl,
            dscp: Dscp::Keep,
            way: Way::Nowhere(OutputDrop::NoNeighbour),
        };
        Rule {
            ifindex: 3,
            destination: destination(),
            source: source.map(|text| text.parse().expect("address")),
            local: false,
            span: Span::ALWAYS,
            outputs: slots.iter().map(output).collect(),
        }
    }

    fn destination() -> SocketAddr {
        "239.1.1.1:5000".parse().expect("address")
    }

    /// Slot of each output with whether it begins a rule, for each key.
    #[allow(clippy::type_complexity)]
    fn compiled(rules: &[Rule]) -> Vec<(bool, u8, Vec<(u32, bool)>)> {
        let rules: Vec<_> =
            rules.iter().enumerate().map(|(index, rule)| (RuleSlot(index as u32), rule)).collect();
        let keys = compile(3, destination(), &rules, &Same);
        let slots = |content: &Content| {
            content.outputs.iter().map(|entry| (entry.counter, entry.flags & output::FIRST != 0)).collect()
        };
        let one = |chain: &Chain| match &chain.0[..] {
            [(0, content)] => (content.flags, slots(content)),
            other => panic!("{other:?}"),
        };
        keys.iter().map(|(key, chain)| (key.sourced == 1, one(chain).0, one(chain).1)).collect()
    }

    #[test]
    fn rules_of_any_source_are_in_the_blocks_of_named_sources_too() {
        let rules = [
            rule(None, &[1, 2], Ttl::Fixed(9)),
            rule(Some("10.0.0.9"), &[3], Ttl::Fixed(9)),
            rule(Some("10.0.0.8"), &[4], Ttl::Fixed(9)),
        ];
        let keys = compiled(&rules);
        assert_eq!(
            keys,
            [
                (true, 0, vec![(1, true), (2, false), (4, true)]),
                (true, 0, vec![(1, true), (2, false), (3, true)]),
                (false, head::SOURCED, vec![(1, true), (2, false)]),
            ]
        );
    }

    #[test]
    fn named_sources_alone_leave_nothing_for_any_other() {
        let keys = compiled(&[rule(Some("10.0.0.9"), &[3], Ttl::Fixed(9))]);
        assert_eq!(keys[1], (false, head::SOURCED | head::EMPTY, vec![]));
    }

    #[test]
    fn a_hop_limit_ends_at_the_input_only_if_all_outputs_of_all_rules_keep_it() {
        let both = [rule(None, &[1], Ttl::Keep), rule(None, &[2], Ttl::Fixed(9))];
        assert_eq!(compiled(&both)[0].1, 0);
        assert_eq!(compiled(&both[..1])[0].1, head::ALL_KEEP);
    }

    #[test]
    fn a_block_has_the_traces_of_all_its_rules_and_each_output_those_of_its_own() {
        let rules = [rule(None, &[1, 2], Ttl::Keep), rule(None, &[3], Ttl::Keep)];
        let rules: Vec<_> =
            rules.iter().enumerate().map(|(index, rule)| (RuleSlot(index as u32), rule)).collect();
        let (_, chain) = &compile(3, destination(), &rules, &Same)[0];
        let (_, content) = &chain.0[0];
        let traces: Vec<_> = content.outputs.iter().map(|output| output.traces).collect();
        assert_eq!((content.traces, traces), (0b11, vec![0b01, 0b01, 0b10]));
    }

    /// For each key its blocks: from when, and the outputs.
    #[allow(clippy::type_complexity)]
    fn chains(rules: &[Rule]) -> Vec<(bool, Vec<(u64, Vec<u32>)>)> {
        let rules: Vec<_> =
            rules.iter().enumerate().map(|(index, rule)| (RuleSlot(index as u32), rule)).collect();
        let outputs = |content: &Content| content.outputs.iter().map(|entry| entry.counter).collect();
        let blocks = |chain: &Chain| chain.0.iter().map(|(at, content)| (*at, outputs(content))).collect();
        let keys = compile(3, destination(), &rules, &Same);
        keys.iter().map(|(key, chain)| (key.sourced == 1, blocks(chain))).collect()
    }

    #[test]
    fn rules_that_begin_and_end_have_a_block_for_each_time_between_and_every_key_has_all_of_them() {
        let [mut goes, mut comes, stays] = [(Some("10.0.0.9"), 1), (None, 2), (None, 3)]
            .map(|(source, slot)| rule(source, &[slot], Ttl::Keep));
        goes.span = Span::until(70);
        comes.span = Span::from(80);
        let mut never = rule(None, &[4], Ttl::Keep);
        never.span = Span::NEVER;
        assert_eq!(
            chains(&[goes.clone(), comes, stays, never]),
            [
                (true, vec![(0, vec![1, 3]), (70, vec![3]), (80, vec![2, 3])]),
                (false, vec![(0, vec![3]), (70, vec![3]), (80, vec![2, 3])]),
            ]
        );
        assert_eq!(
            chains(&[goes]),
            [(true, vec![(0, vec![1]), (70, vec![])]), (false, vec![(0, vec![]), (70, vec![])])]
        );
    }

    #[test]
    fn of_too_many_times_the_oldest_are_passed_over() {
        let rules: Vec<_> = (1..=20)
            .map(|at: u32| Rule { span: Span::until(at.into()), ..rule(None, &[at], Ttl::Keep) })
            .collect();
        let (_, blocks) = &chains(&rules)[0];
        assert_eq!(blocks.len(), BLOCKS_MAX);
        assert_eq!(blocks[0], (0, (6..=20).collect()), "what ended at 5 has ended");
        assert_eq!(blocks[1], (6, (7..=20).collect()));
        assert_eq!(blocks[15], (20, vec![]));
    }

    #[test]
    fn no_rules_have_no_keys() {
        assert_eq!(compiled(&[]), []);
    }
}
