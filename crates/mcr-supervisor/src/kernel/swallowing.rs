//! What of the `packet` rules' datagrams the host's IP stack need not see: those to groups that nothing else on this host wants. A packet
//! socket has taken them before the program that swallows them is asked.
//!
//! More is swallowed only right after everybody who may want it was looked at: who listened before misses nothing. Whatever may
//! need the stack is let go at once where the daemon itself brings it about, else with the next look.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
};

use mcr_ebpf::{Senders, Swallow, SwallowError};
use mcr_proto::rule::RuleId;
use tracing::{debug, info};

use super::local::Heard;

/// What a rule takes by a packet socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) ifindex: u32,
    pub(crate) group: SocketAddr,
    pub(crate) source: Option<IpAddr>,
}

#[derive(Debug)]
pub(crate) struct Swallowing {
    /// May be done; not where it is switched off, or was refused.
    on: bool,
    program: Option<Swallow>,
    rules: BTreeMap<RuleId, Taken>,
    by_group: HashMap<SocketAddr, BTreeSet<RuleId>>,
    /// The interfaces on which a group is swallowed.
    told: HashMap<SocketAddr, BTreeSet<u32>>,
    /// Groups to be decided on with the next look.
    stale: BTreeSet<SocketAddr>,
    /// Groups of which more may be swallowed when everybody has been looked at.
    postponed: BTreeSet<SocketAddr>,
    /// Everybody was looked at just now.
    may_grow: bool,
}

impl Swallowing {
    pub(super) fn new(on: bool) -> Self {
        Self {
            on,
            program: None,
            rules: BTreeMap::new(),
            by_group: HashMap::new(),
            told: HashMap::new(),
            stale: BTreeSet::new(),
            postponed: BTreeSet::new(),
            may_grow: false,
        }
    }

    /// Says what a rule takes now; none if no packet socket does.
    pub(crate) fn note(&mut self, rule: RuleId, taken: Option<Taken>) {
        let taken = taken.filter(|taken| self.on && taken.group.ip().is_multicast());
        let before = match taken {
            Some(taken) => self.rules.insert(rule, taken),
            None => self.rules.remove(&rule),
        };
        if before == taken {
            return;
        }
        if let Some(Taken { group, .. }) = before {
            if let Some(rules) = self.by_group.get_mut(&group) {
                rules.remove(&rule);
                if rules.is_empty() {
                    self.by_group.remove(&group);
                }
            }
            self.stale.insert(group);
        }
        if let Some(Taken { group, .. }) = taken {
            self.by_group.entry(group).or_default().insert(rule);
            self.stale.insert(group);
        }
    }

    /// Has a group's datagrams go on to the stack at once: another data path is about to take them. Until the next look at least.
    pub(crate) fn let_go(&mut self, group: SocketAddr) {
        let told = self.told.remove(&group);
        if let Some(program) = &mut self.program {
            told.into_iter().flatten().for_each(|ifindex| program.remove(ifindex, group));
        }
        self.touch(group);
    }

    /// Something about a group has changed.
    pub(crate) fn touch(&mut self, group: SocketAddr) {
        if self.by_group.contains_key(&group) {
            self.stale.insert(group);
        }
    }

    /// Who has groups, or the network, has changed.
    pub(super) fn doubt(&mut self) {
        self.stale.extend(self.by_group.keys());
    }

    /// What listens has changed.
    pub(super) fn doubt_heard(&mut self, heard: &Heard) {
        let concerned = |group: &&SocketAddr| heard.greedy || heard.ports.contains(&group.port());
        self.stale.extend(self.by_group.keys().filter(concerned));
    }

    /// Says whether everybody who may want datagrams was looked at just now, so that more can be swallowed.
    pub(super) fn set_may_grow(&mut self, may_grow: bool) {
        self.may_grow = may_grow;
        if may_grow {
            self.stale.append(&mut self.postponed);
        }
    }

    /// An interface is gone.
    pub(super) fn detach(&mut self, ifindex: u32) {
        if let Some(program) = &mut self.program {
            program.detach(ifindex);
        }
        self.told.values_mut().for_each(|interfaces| _ = interfaces.remove(&ifindex));
    }

    /// Whether there is anything to look after.
    pub(super) fn is_used(&self) -> bool {
        let idle = self.rules.is_empty() && self.told.is_empty() && self.stale.is_empty();
        self.on && !(idle && self.postponed.is_empty())
    }

    /// Whether what a rule takes goes no further.
    pub(crate) fn swallows(&self, rule: RuleId) -> bool {
        let (Some(taken), Some(program)) = (self.rules.get(&rule), &self.program) else { return false };
        program.swallows(taken.ifindex, taken.group)
    }

    /// Groups that are to be decided on.
    pub(crate) fn take_stale(&mut self) -> BTreeSet<SocketAddr> {
        std::mem::take(&mut self.stale)
    }

    /// Swallows what of a group the rules take, on interfaces where it may be, and nothing else of it; nothing more than before, but where
    /// [everybody was looked at](Self::set_may_grow).
    pub(super) fn settle(&mut self, group: SocketAddr, may: impl Fn(u32) -> bool) {
        let mut wanted = self.wanted(group);
        wanted.retain(|ifindex, _| may(*ifindex));
        let told = self.told.remove(&group).unwrap_or_default();
        if let Some(program) = &mut self.program {
            let gone = told.iter().filter(|ifindex| !wanted.contains_key(ifindex));
            gone.for_each(|ifindex| program.remove(*ifindex, group));
        }
        if !self.may_grow && !wanted.is_empty() {
            let kept: BTreeSet<_> = told.into_iter().filter(|ifindex| wanted.contains_key(ifindex)).collect();
            if !kept.is_empty() {
                self.told.insert(group, kept);
            }
            self.postponed.insert(group);
            return;
        }
        for (ifindex, senders) in wanted {
            if self.swallow(ifindex, group, senders) {
                self.told.entry(group).or_default().insert(ifindex);
            }
        }
    }

    /// Holds nothing that is not needed.
    pub(super) fn tidy(&mut self) {
        if self.program.as_ref().is_some_and(Swallow::is_idle) {
            self.program = None;
        }
    }

    /// Whose datagrams to a group the rules take, by interface.
    fn wanted(&self, group: SocketAddr) -> BTreeMap<u32, Senders> {
        let mut wanted = BTreeMap::new();
        let rules = self.by_group.get(&group).into_iter().flatten();
        for taken in rules.filter_map(|rule| self.rules.get(rule)) {
            let senders = wanted.entry(taken.ifindex).or_insert_with(|| Senders::These(BTreeSet::new()));
            match (taken.source, senders) {
                (None, senders) => *senders = Senders::All,
                (Some(source), Senders::These(sources)) => _ = sources.insert(source),
                (Some(_), Senders::All) => {}
            }
        }
        wanted
    }

    fn swallow(&mut self, ifindex: u32, group: SocketAddr, senders: Senders) -> bool {
        if !self.on {
            return false;
        }
        let program = match &mut self.program {
            Some(program) => program,
            empty => match Swallow::load() {
                Ok(program) => empty.insert(program),
                Err(error) => {
                    self.refuse(&error);
                    return false;
                }
            },
        };
        match program.set(ifindex, group, senders) {
            Ok(()) => true,
            Err(error @ SwallowError::NoTcx) => {
                self.refuse(&error);
                false
            }
            Err(error) => {
                debug!(%group, "goes on to the IP stack: {error}");
                false
            }
        }
    }

    /// Once: the next time it would be no better.
    fn refuse(&mut self, error: &dyn std::error::Error) {
        info!("what packet rules take goes on to the IP stack as well: {error}");
        self.on = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(ifindex: u32, source: Option<&str>) -> Option<Taken> {
        let source = source.map(|text| text.parse().expect("address"));
        Some(Taken { ifindex, group: group(), source })
    }

    fn group() -> SocketAddr {
        "239.1.1.1:5000".parse().expect("address")
    }

    #[test]
    fn of_a_group_is_swallowed_what_some_rule_takes() {
        let mut swallowing = Swallowing::new(true);
        swallowing.note(RuleId(1), taken(3, Some("10.0.0.1")));
        swallowing.note(RuleId(2), taken(3, Some("10.0.0.2")));
        swallowing.note(RuleId(3), taken(4, None));
        swallowing.note(RuleId(4), taken(4, Some("10.0.0.2")));
        let two = ["10.0.0.1", "10.0.0.2"].map(|text| text.parse().expect("address"));
        let wanted = BTreeMap::from([(3, Senders::These(two.into())), (4, Senders::All)]);
        assert_eq!(swallowing.wanted(group()), wanted);
        swallowing.note(RuleId(3), None);
        let one = Senders::These(BTreeSet::from([two[1]]));
        assert_eq!(swallowing.wanted(group())[&4], one);
    }

    #[test]
    fn a_group_is_decided_on_when_its_rules_change_and_not_otherwise() {
        let mut swallowing = Swallowing::new(true);
        swallowing.note(RuleId(1), taken(3, None));
        assert_eq!(swallowing.take_stale(), BTreeSet::from([group()]));
        swallowing.note(RuleId(1), taken(3, None));
        assert_eq!(swallowing.take_stale(), BTreeSet::new());
        swallowing.let_go("239.9.9.9:1".parse().expect("address"));
        assert_eq!(swallowing.take_stale(), BTreeSet::new(), "of no rule");
        swallowing.doubt();
        assert_eq!(swallowing.take_stale(), BTreeSet::from([group()]));
        swallowing.note(RuleId(1), None);
        assert_eq!(swallowing.take_stale(), BTreeSet::from([group()]));
    }

    #[test]
    fn between_looks_at_everybody_a_group_is_let_go_and_nothing_more_of_it_is_swallowed() {
        let mut swallowing = Swallowing::new(true);
        swallowing.note(RuleId(1), taken(3, None));
        swallowing.note(RuleId(2), taken(4, None));
        // As if it had been told to the program.
        swallowing.told.insert(group(), BTreeSet::from([3]));
        swallowing.take_stale();
        swallowing.set_may_grow(false);
        swallowing.settle(group(), |_| true);
        assert_eq!(swallowing.told[&group()], BTreeSet::from([3]), "what was swallowed still is");
        assert_eq!(swallowing.take_stale(), BTreeSet::new());
        swallowing.settle(group(), |ifindex| ifindex != 3);
        assert!(!swallowing.told.contains_key(&group()), "somebody wants it");
        swallowing.set_may_grow(true);
        assert_eq!(swallowing.take_stale(), BTreeSet::from([group()]), "the rest is decided on now");
        assert!(swallowing.postponed.is_empty());
    }

    #[test]
    fn groups_are_in_doubt_by_the_ports_at_which_sockets_came_or_went() {
        let mut swallowing = Swallowing::new(true);
        swallowing.note(RuleId(1), taken(3, None));
        swallowing.take_stale();
        let doubted = |swallowing: &mut Swallowing, ports: &[u16], greedy| {
            swallowing.doubt_heard(&Heard { ports: ports.iter().copied().collect(), greedy });
            !swallowing.take_stale().is_empty()
        };
        assert!(doubted(&mut swallowing, &[5000], false));
        assert!(!doubted(&mut swallowing, &[5001], false));
        assert!(doubted(&mut swallowing, &[], true));
    }

    #[test]
    fn unicast_is_never_swallowed_and_nothing_where_it_is_switched_off() {
        let unicast = Taken { ifindex: 3, group: "10.0.0.2:5000".parse().expect("address"), source: None };
        let mut swallowing = Swallowing::new(true);
        swallowing.note(RuleId(1), Some(unicast));
        assert!(!swallowing.is_used());
        let mut off = Swallowing::new(false);
        off.note(RuleId(1), taken(3, None));
        assert!(!off.is_used());
    }
}
