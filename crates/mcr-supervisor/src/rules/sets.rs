//! The sets of rules that are kept so that nobody has to look for their members among all rules.
//!
//! Invariant: a rule is in exactly the sets that its [`Place`] says. [`RuleMut`] sees to it: whoever changes a rule holds one, and
//! when it goes the sets follow.

use std::{
    collections::{BTreeSet, HashMap},
    hash::Hash,
    ops::{Deref, DerefMut},
};

use mcr_proto::{plan::WorkerIndex, rule::RuleId};

use super::Rule;

/// What decides which sets a rule is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    worker: WorkerIndex,
    home: WorkerIndex,
    arriving: bool,
    refused: bool,
}

impl Place {
    fn of(rule: &Rule) -> Self {
        let Rule { worker, home, leaving, status, .. } = rule;
        Self { worker: *worker, home: *home, arriving: leaving.is_some(), refused: status.refused() }
    }
}

/// Empty sets are not kept.
#[derive(Debug, Default)]
pub(super) struct Sets {
    /// By the worker that carries them.
    pub(super) carried: HashMap<WorkerIndex, BTreeSet<RuleId>>,
    /// Carried by another than their home, by home.
    pub(super) away: HashMap<WorkerIndex, BTreeSet<RuleId>>,
    /// Not yet let go of by the worker before, by the worker that carries them now.
    pub(super) arriving: HashMap<WorkerIndex, BTreeSet<RuleId>>,
    /// Where the host refused something.
    pub(super) refused: BTreeSet<RuleId>,
}

impl Sets {
    pub(super) fn insert(&mut self, rule: &Rule) {
        self.enter(rule.id, Place::of(rule));
    }

    pub(super) fn remove(&mut self, rule: &Rule) {
        self.leave(rule.id, Place::of(rule));
    }

    fn enter(&mut self, id: RuleId, place: Place) {
        let Place { worker, home, arriving, refused } = place;
        self.carried.entry(worker).or_default().insert(id);
        if worker != home {
            self.away.entry(home).or_default().insert(id);
        }
        if arriving {
            self.arriving.entry(worker).or_default().insert(id);
        }
        if refused {
            self.refused.insert(id);
        }
    }

    fn leave(&mut self, id: RuleId, place: Place) {
        let Place { worker, home, .. } = place;
        take(&mut self.carried, &worker, id);
        take(&mut self.away, &home, id);
        take(&mut self.arriving, &worker, id);
        self.refused.remove(&id);
    }
}

/// A rule that may be changed; the sets follow when this goes.
#[derive(Debug)]
pub(crate) struct RuleMut<'a> {
    rule: &'a mut Rule,
    sets: &'a mut Sets,
    before: Place,
}

impl<'a> RuleMut<'a> {
    pub(super) fn new(rule: &'a mut Rule, sets: &'a mut Sets) -> Self {
        let before = Place::of(rule);
        Self { rule, sets, before }
    }
}

impl Deref for RuleMut<'_> {
    type Target = Rule;

    fn deref(&self) -> &Rule {
        self.rule
    }
}

impl DerefMut for RuleMut<'_> {
    fn deref_mut(&mut self) -> &mut Rule {
        self.rule
    }
}

impl Drop for RuleMut<'_> {
    fn drop(&mut self) {
        let after = Place::of(self.rule);
        if after != self.before {
            self.sets.leave(self.rule.id, self.before);
            self.sets.enter(self.rule.id, after);
        }
    }
}

/// Takes a rule out of the set of `key`, and the set away with its last one.
pub(super) fn take<K: Hash + Eq>(sets: &mut HashMap<K, BTreeSet<RuleId>>, key: &K, id: RuleId) {
    if let Some(set) = sets.get_mut(key) {
        set.remove(&id);
        if set.is_empty() {
            sets.remove(key);
        }
    }
}

pub(super) fn list(set: Option<&BTreeSet<RuleId>>) -> Vec<RuleId> {
    set.map(|rules| rules.iter().copied().collect()).unwrap_or_default()
}
