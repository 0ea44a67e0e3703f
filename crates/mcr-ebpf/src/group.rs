//! From the rules of one destination to the keys and blocks that the programs look up. Pure.
//!
//! A datagram finds one block. Rules that name no source stand in the block of any source; a source that some rule names has a block
//! of its own, with the rules of any source in front. So whatever rules there are, each datagram is taken to all that want it.

use std::net::{IpAddr, SocketAddr};

use mcr_proto::{
    counters::OutputDrop,
    endpoint::{Dscp, Ttl},
    plan::RuleSlot,
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

/// Places of counters, by what is counted.
pub(crate) trait Places {
    fn input(&self, ifindex: u32) -> u32;
    fn rule(&self, slot: RuleSlot) -> u32;
    fn output(&self, output: &Output) -> u32;
    /// The traces of a rule; bit n is the nth.
    fn traces(&self, slot: RuleSlot) -> u8;
}

/// The keys of a destination with their blocks, in the order in which they may be written: first those of sources, then that of any
/// source, which tells that there are such.
pub(crate) fn compile(
    ifindex: u32,
    destination: SocketAddr,
    rules: &[(RuleSlot, &Rule)],
    places: &impl Places,
) -> Vec<(Key, Content)> {
    let mut sources: Vec<IpAddr> = rules.iter().filter_map(|(_, rule)| rule.source).collect();
    sources.sort_unstable();
    sources.dedup();
    let mut keys: Vec<_> = sources
        .iter()
        .map(|source| {
            let wanting = rules.iter().filter(|(_, rule)| rule.source.is_none_or(|wanted| wanted == *source));
            let content = content(wanting, places.input(ifindex), places, 0);
            (Key::new(ifindex, destination, Some(*source)), content)
        })
        .collect();
    if rules.is_empty() {
        return keys;
    }
    let any: Vec<_> = rules.iter().filter(|(_, rule)| rule.source.is_none()).collect();
    let sourced = if sources.is_empty() { 0 } else { head::SOURCED };
    let empty = if any.is_empty() { head::EMPTY } else { 0 };
    let content = content(any.into_iter(), places.input(ifindex), places, sourced | empty);
    keys.push((Key::new(ifindex, destination, None), content));
    keys
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
            1 << slot.0
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
        keys.iter().map(|(key, content)| (key.sourced == 1, content.flags, slots(content))).collect()
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
        let (_, content) = &compile(3, destination(), &rules, &Same)[0];
        let traces: Vec<_> = content.outputs.iter().map(|output| output.traces).collect();
        assert_eq!((content.traces, traces), (0b11, vec![0b01, 0b01, 0b10]));
    }

    #[test]
    fn no_rules_have_no_keys() {
        assert_eq!(compiled(&[]), []);
    }
}
