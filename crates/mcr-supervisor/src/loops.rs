//! Datagrams that come back: which destinations rules can lead to again, what own copies look like, and what is refused.
//!
//! Rules make a graph of destinations, from the one of the input to those of the outputs. A destination on a circle of that graph is
//! guarded: a bridge, a switch or a router that joins the networks of its rules would have every datagram go round for ever. The same
//! rules are right and common where nothing joins them (one group relayed both ways between two networks), so they are not refused;
//! workers are told how this host's own copies look, and count those that come back as `loop`. A destination on no circle is not
//! guarded: rules may well feed one another.

use std::{collections::HashMap, hash::Hash, net::SocketAddr};

use mcr_netmon::{Link, LinkKind, Snapshot};
use mcr_proto::{
    message::{Fault, FaultKind},
    plan::Own,
    rule::WayBack,
};

use crate::{rules::Rules, state::State};

/// Everything that `from` leads to, itself included, and whether it leads back to itself. Looks at nothing else.
pub(crate) fn circles<N: Copy + Eq + Hash>(
    from: impl IntoIterator<Item = N>,
    next: impl Fn(N) -> Vec<N>,
) -> HashMap<N, bool> {
    /// Of a search that is under way: a place, what it leads to, and how far of that has been gone.
    struct Step<N> {
        at: N,
        next: Vec<N>,
        done: usize,
    }
    // Tarjan's strongly connected components, without recursion, because a chain of rules may be long.
    let mut circles = HashMap::new();
    let mut order: HashMap<N, (usize, usize)> = HashMap::new();
    let mut open: Vec<N> = Vec::new();
    for start in from {
        if order.contains_key(&start) {
            continue;
        }
        let mut path = Vec::new();
        let mut enter = Some(start);
        loop {
            if let Some(at) = enter.take() {
                let number = order.len();
                order.insert(at, (number, number));
                open.push(at);
                path.push(Step { at, next: next(at), done: 0 });
            }
            let Some(step) = path.last_mut() else { break };
            let at = step.at;
            if let Some(&to) = step.next.get(step.done) {
                step.done += 1;
                match order.get(&to) {
                    None => enter = Some(to),
                    // Closed already: no way leads back from there.
                    Some(_) if circles.contains_key(&to) => {}
                    Some(&(number, _)) => lower(&mut order, at, number),
                }
                continue;
            }
            let itself = step.next.contains(&at);
            path.pop();
            let (number, low) = order[&at];
            if let Some(before) = path.last() {
                lower(&mut order, before.at, low);
            }
            if number == low {
                let place = open.iter().rposition(|one| *one == at).unwrap_or(0);
                let members = open.split_off(place);
                let is_circle = members.len() > 1 || itself;
                circles.extend(members.into_iter().map(|member| (member, is_circle)));
            }
        }
    }
    circles
}

fn lower<N: Eq + Hash>(order: &mut HashMap<N, (usize, usize)>, at: N, number: usize) {
    if let Some((_, low)) = order.get_mut(&at) {
        *low = (*low).min(number);
    }
}

impl State {
    /// Brings the guards in line with rules and network.
    pub(crate) fn refresh_guards(&mut self, network: &Snapshot) {
        let Self { rules, guards, workers, guards_stale, recompile, .. } = self;
        let mut touched = rules.take_touched();
        if std::mem::take(guards_stale) {
            touched.extend(guards.keys().copied());
        }
        if touched.is_empty() {
            return;
        }
        for (destination, is_circle) in circles(touched, |at| rules.led_to(at)) {
            let own = if is_circle { own(rules, destination, network) } else { Own::default() };
            if guards.get(&destination).unwrap_or(&Own::default()) == &own {
                continue;
            }
            // The kernel data path does not know own copies, so it leaves guarded destinations to workers.
            *recompile = true;
            workers.iter_mut().for_each(|worker| worker.guard(destination, own.clone()));
            if own == Own::default() {
                guards.remove(&destination);
            } else {
                guards.insert(destination, own);
            }
        }
    }
}

/// What the copies look like that rules send to a destination.
fn own(rules: &Rules, destination: SocketAddr, network: &Snapshot) -> Own {
    let mut own = Own::default();
    for output in rules.sending_to(destination) {
        let links: Vec<&Link> = match &output.interface {
            Some(name) => network.link_by_name(name.as_str()).into_iter().collect(),
            None => network.links().filter(|link| link.kind != LinkKind::Loopback).collect(),
        };
        for link in links {
            own.macs.extend(link.mac.filter(|mac| *mac != [0; 6]));
            own.addresses.extend(network.addresses_of(link.index).map(|address| address.address));
        }
    }
    own.macs.sort_unstable();
    own.macs.dedup();
    own.addresses.sort_unstable();
    own.addresses.dedup();
    own
}

/// What whoever asked for such a rule is told.
pub(crate) fn refused(way: &WayBack) -> Fault {
    Fault::new(FaultKind::Invalid, way.to_string()).at("outputs")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_place_is_on_a_circle_if_and_only_if_it_leads_back_to_itself() {
        // 1 -> 2 -> 3 -> 1, 3 -> 4 -> 4, 0 -> 1, 5 -> 6, and 7, to which nothing leads.
        let next = |at: u32| match at {
            0 => vec![1],
            1 => vec![2],
            2 => vec![3],
            3 => vec![1, 4],
            4 => vec![4],
            5 => vec![6],
            _ => vec![],
        };
        let found = circles([0, 5, 4], next);
        let on: Vec<_> = (0..8).filter_map(|at| Some((at, *found.get(&at)?))).collect();
        assert_eq!(
            on,
            [(0, false), (1, true), (2, true), (3, true), (4, true), (5, false), (6, false)],
            "7 is not looked at"
        );
    }

    #[test]
    fn circles_are_those_of_a_slow_search() {
        let mut seed = 1u64;
        let mut random = |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % below
        };
        for _ in 0..300 {
            let edges: Vec<(u64, u64)> = (0..random(14)).map(|_| (random(8), random(8))).collect();
            let next =
                |at: u64| edges.iter().filter(|(from, _)| *from == at).map(|(_, to)| *to).collect::<Vec<_>>();
            let reached = |at: u64| {
                let mut seen: Vec<u64> = next(at);
                let mut done = 0;
                while let Some(&one) = seen.get(done) {
                    seen.extend(
                        next(one).into_iter().filter(|to| !seen.contains(to)).collect::<HashSet<_>>(),
                    );
                    done += 1;
                }
                seen
            };
            let found = circles(0..8, next);
            for at in 0..8 {
                assert_eq!(found[&at], reached(at).contains(&at), "{at} in {edges:?}");
            }
        }
    }

    #[test]
    fn a_long_chain_needs_no_deep_stack() {
        let found = circles([0u32], |at| vec![if at < 200_000 { at + 1 } else { 100_000 }]);
        assert_eq!(found.values().filter(|is_circle| **is_circle).count(), 100_001);
    }
}
