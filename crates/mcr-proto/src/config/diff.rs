//! How the rules of two configurations differ.

use std::collections::{HashMap, HashSet};

use crate::rule::{RuleName, RuleSpec};

/// One difference, or none, between two lists of rules. Numbers are places in the lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuleChange {
    /// Both have it.
    Same {
        /// In the old list.
        old: usize,
        /// In the new list.
        new: usize,
    },
    /// Both have a rule of this name, and they are not the same.
    Changed {
        /// In the old list.
        old: usize,
        /// In the new list.
        new: usize,
    },
    /// Only the new list has it.
    Added {
        /// In the new list.
        new: usize,
    },
    /// Only the old list has it.
    Removed {
        /// In the old list.
        old: usize,
    },
}

/// What has to happen to the rules of `old` to make them those of `new`: what becomes of each rule of `new`, in order, then what
/// is removed.
///
/// Rules are the same thing if they have the same name. A rule of `new` without a name is a rule of `old` that is the same but
/// for its name, if there is one that no other rule of `new` is.
pub fn diff(old: &[&RuleSpec], new: &[&RuleSpec]) -> Vec<RuleChange> {
    let names: HashMap<&RuleName, usize> =
        old.iter().enumerate().filter_map(|(index, rule)| Some((rule.name.as_ref()?, index))).collect();
    let by_name = |rule: &RuleSpec| rule.name.as_ref().and_then(|name| names.get(name)).copied();
    let mut taken: HashSet<usize> = new.iter().filter_map(|rule| by_name(rule)).collect();
    let mut alike: HashMap<String, Vec<usize>> = HashMap::new();
    for (index, rule) in old.iter().enumerate().rev().filter(|(index, _)| !taken.contains(index)) {
        alike.entry(rule.input.to_string()).or_default().push(index);
    }
    let mut changes = Vec::with_capacity(new.len());
    for (new, rule) in new.iter().enumerate() {
        let known = match &rule.name {
            Some(_) => by_name(rule),
            None => alike.get_mut(&rule.input.to_string()).and_then(|candidates| {
                let place = candidates.iter().rposition(|index| old[*index].is_like(rule))?;
                Some(candidates.remove(place))
            }),
        };
        changes.push(match known {
            Some(known) if old[known].is_like(rule) => RuleChange::Same { old: known, new },
            Some(known) => RuleChange::Changed { old: known, new },
            None => RuleChange::Added { new },
        });
        taken.extend(known);
    }
    changes.extend((0..old.len()).filter(|old| !taken.contains(old)).map(|old| RuleChange::Removed { old }));
    changes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rule(name: Option<&str>, port: u16, output: u16) -> RuleSpec {
        let input = format!("239.1.1.1:{port}@eth0").parse().expect("an input");
        let mut rule = RuleSpec::new(input, vec![format!("10.0.0.1:{output}").parse().expect("an output")]);
        rule.name = name.map(|name| name.parse().expect("a name"));
        rule
    }

    #[test]
    fn rules_are_told_apart_by_name() {
        let old = [rule(Some("a"), 1, 1), rule(Some("b"), 2, 1), rule(Some("c"), 3, 1)];
        let new = [rule(Some("c"), 3, 2), rule(Some("a"), 1, 1), rule(Some("d"), 2, 1)];
        let changes = diff(&old.each_ref(), &new.each_ref());
        assert_eq!(
            changes,
            [
                RuleChange::Changed { old: 2, new: 0 },
                RuleChange::Same { old: 0, new: 1 },
                RuleChange::Added { new: 2 },
                RuleChange::Removed { old: 1 },
            ]
        );
    }

    #[test]
    fn a_rule_without_a_name_is_the_one_that_is_the_same_but_for_its_name_and_no_two_are_one() {
        let old = [rule(Some("rule-1"), 1, 1), rule(Some("rule-2"), 1, 1), rule(Some("rule-3"), 2, 1)];
        let new = [rule(None, 1, 1), rule(None, 1, 1), rule(None, 1, 1), rule(None, 2, 2)];
        let changes = diff(&old.each_ref(), &new.each_ref());
        assert_eq!(
            changes,
            [
                RuleChange::Same { old: 0, new: 0 },
                RuleChange::Same { old: 1, new: 1 },
                RuleChange::Added { new: 2 },
                RuleChange::Added { new: 3 },
                RuleChange::Removed { old: 2 },
            ]
        );
    }

    proptest! {
        #[test]
        fn carrying_out_the_changes_makes_the_old_rules_the_new_ones(
            old in prop::collection::btree_map(0u8..8, (1u16..4, 1u16..4), 0..8),
            new in prop::collection::vec((prop::option::of(0u8..8), 1u16..4, 1u16..4), 0..8),
        ) {
            let name = |number: u8| format!("r{number}");
            let old: Vec<_> = old.into_iter().map(|(n, (port, output))| rule(Some(&name(n)), port, output)).collect();
            let mut names = HashSet::new();
            let new: Vec<_> = new.into_iter().filter(|(n, ..)| n.is_none_or(|n| names.insert(n)))
                .map(|(n, port, output)| rule(n.map(name).as_deref(), port, output)).collect();
            let changes = diff(&old.iter().collect::<Vec<_>>(), &new.iter().collect::<Vec<_>>());
            let (mut olds, mut news, mut made) = (Vec::new(), Vec::new(), Vec::new());
            for change in changes {
                match change {
                    RuleChange::Same { old: o, new: n } => { olds.push(o); news.push(n); made.push(old[o].clone()); }
                    RuleChange::Changed { old: o, new: n } => { olds.push(o); news.push(n); made.push(new[n].clone()); }
                    RuleChange::Added { new: n } => { news.push(n); made.push(new[n].clone()); }
                    RuleChange::Removed { old: o } => olds.push(o),
                }
            }
            olds.sort_unstable();
            prop_assert_eq!(olds, (0..old.len()).collect::<Vec<_>>(), "each old rule once");
            prop_assert_eq!(news, (0..new.len()).collect::<Vec<_>>(), "each new rule once, in order");
            prop_assert!(made.iter().zip(&new).all(|(made, new)| made.is_like(new)));
        }
    }
}
