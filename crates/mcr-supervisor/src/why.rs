//! What would become of a datagram: the rules' routes asked through the engine itself, and the network asked for the rest.

use std::{collections::BTreeMap, net::SocketAddr};

use mcr_doctor::Way;
use mcr_netmon::{LinkKind, NeighbourState, Snapshot};
use mcr_parse::multicast_mac;
use mcr_proto::{
    counters::{InputDrop, OutputDrop},
    endpoint::{Dscp, Output, OutputSource, Ttl},
    message::{
        CounterValue, EXPLAINED_OUTPUTS_MAX, EXPLAINED_RULES_MAX, ExplainedOutput, ExplainedRule,
        Explanation, InputView, NearRule, RuleState, Verdict,
    },
    plan::{OutputSlot, Route, RuleSlot, SocketId, Via, WorkerIndex},
    probe::Probe,
    rule::Datapath,
};
use mcr_relay::{
    compile::{Compiled, CompiledOutput, ReceiverKey},
    engine::Send,
    explain::{Difference, differences, explain},
};

use crate::{rules::Rule, state::State};

/// Rules that nearly take it.
const NEAREST_MAX: usize = 5;
/// What every route of one explanation is said to receive from: they are asked one socket at a time.
const SOCKET: SocketId = SocketId(0);

/// What became of each copy, by its output.
type Fates = BTreeMap<OutputSlot, Result<Send, OutputDrop>>;

impl State {
    /// What would become of a datagram.
    pub(crate) fn explain(&self, probe: &Probe, network: &Snapshot) -> Explanation {
        let mut sockets: BTreeMap<(WorkerIndex, Option<ReceiverKey>), Vec<&Rule>> = BTreeMap::new();
        let here = self.rules.using(probe.interface.as_str());
        let here = here.iter().filter_map(|id| self.rules.get(*id));
        for rule in here.filter(|rule| rule.spec.input.interface == probe.interface) {
            if rule.status.state == RuleState::Active {
                sockets
                    .entry((rule.worker, rule.acquired.receivers.first().copied()))
                    .or_default()
                    .push(rule);
            }
        }
        let mut taken: Vec<RuleSlot> = Vec::new();
        let mut ended = None;
        let mut fates = Fates::new();
        for rules in sockets.values() {
            let routes = rules.iter().filter_map(|rule| {
                let compiled = rule.compiled.as_ref()?;
                let route =
                    compiled
                        .route(&rule.spec, rule.slot, vec![SOCKET], &rule.output_slots, |_| Some(SOCKET))?;
                Some(if compiled.datapath == Some(Datapath::Kernel) {
                    without_sockets(route, compiled)
                } else {
                    route
                })
            });
            let outcome = explain(SOCKET, routes.collect(), probe);
            taken.extend(outcome.rules);
            fates.extend(outcome.copies);
            // A rule that drops says more than one that does not want it.
            ended = ended.max(outcome.input.filter(|reason| *reason != InputDrop::NoRule));
        }
        let mut rules: Vec<_> =
            sockets.values().flatten().filter(|rule| taken.contains(&rule.slot)).collect();
        rules.sort_by_key(|rule| rule.id);
        let inputs = self.inputs.views(None, &self.classes, |_, _| true);
        let explained = rules.iter().take(EXPLAINED_RULES_MAX);
        let explained: Vec<_> =
            explained.map(|rule| self.explain_rule(rule, &fates, probe, network)).collect();
        let (verdict, reason) = self.verdict(&explained, ended, probe, network);
        Explanation {
            datagram: probe.to_string(),
            verdict,
            reason,
            rules_left_out: u32::try_from(rules.len() - explained.len()).unwrap_or(u32::MAX),
            rules: explained,
            nearest: self.nearest(&taken, probe),
            obstacles: Vec::new(),
            counters: self.input_counters(inputs.iter().filter(|input| input.interface == probe.interface)),
        }
    }

    fn verdict(
        &self,
        rules: &[ExplainedRule],
        ended: Option<InputDrop>,
        probe: &Probe,
        network: &Snapshot,
    ) -> (Verdict, String) {
        let outputs = rules.iter().flat_map(|rule| &rule.outputs);
        let (sending, all) = (outputs.clone().filter(|output| output.sends).count(), outputs.count());
        if sending > 0 {
            return (Verdict::Relayed, format!("{}, and {sending} of {all} outputs send it", count(rules)));
        }
        if !rules.is_empty() {
            return (Verdict::Dropped, format!("{}, and no output can send it", count(rules)));
        }
        if let Some(reason) = ended {
            let why = "its TTL is used up, and every output of the rules that want it keeps the TTL";
            return (Verdict::Dropped, format!("{why}: it counts as {}", reason.name()));
        }
        let interface = probe.interface;
        let why = if network.link_by_name(interface.as_str()).is_none() {
            format!("this host has no interface {interface}")
        } else if !self.rules.all().any(|rule| rule.spec.input.interface == interface) {
            format!("no rule has an input on {interface}, so nothing is received there")
        } else {
            "no rule takes it; it is not received, or counts as no_rule where the kernel's filter lets it through".into()
        };
        (Verdict::NoRule, why)
    }

    fn explain_rule(&self, rule: &Rule, fates: &Fates, probe: &Probe, network: &Snapshot) -> ExplainedRule {
        let view = self.view(rule);
        let compiled = rule.compiled.as_ref().map(|compiled| compiled.outputs.as_slice()).unwrap_or_default();
        let outputs =
            rule.spec.outputs.iter().zip(&rule.output_slots).zip(compiled).zip(&rule.status.outputs);
        let outputs =
            outputs.take(EXPLAINED_OUTPUTS_MAX).map(|(((output, slot), compiled), (_, refused))| {
                let mut explained = ExplainedOutput {
                    output: output.to_string(),
                    sends: false,
                    drop: None,
                    reason: refused.clone(),
                    interface: None,
                    source: None,
                    destination: output.socket_addr().to_string(),
                    next_hop: None,
                    mac: None,
                    ttl: None,
                    dscp: None,
                    counters: self.output_counters(*slot),
                };
                match fates.get(slot) {
                    Some(Ok(send)) => {
                        explained.dscp = match output.dscp {
                            Dscp::Fixed(point) => Some(point),
                            Dscp::Keep => None,
                        };
                        leave(&mut explained, output, *send, compiled, probe, network);
                    }
                    Some(Err(reason)) => explained.drop = Some(reason.name().into()),
                    None => {}
                }
                explained
            });
        let outputs: Vec<_> = outputs.collect();
        ExplainedRule {
            id: rule.id,
            name: rule.name.clone(),
            worker: view.datapath.filter(|path| *path != Datapath::Kernel).map(|_| rule.worker.0),
            datapath: view.datapath,
            datapath_reason: view.datapath_reason,
            outputs_left_out: u32::try_from(rule.spec.outputs.len() - outputs.len()).unwrap_or(u32::MAX),
            outputs,
            counters: self.rule_counters(rule.slot),
        }
    }

    fn nearest(&self, taken: &[RuleSlot], probe: &Probe) -> Vec<NearRule> {
        let others = self.rules.all().filter(|rule| !taken.contains(&rule.slot));
        let mut near: Vec<_> = others.map(|rule| (differences(&rule.spec, probe), rule)).collect();
        // One with neither the address nor the port is near nothing.
        near.retain(|(found, _)| {
            !(found.contains(&Difference::Address) && found.contains(&Difference::Port))
        });
        near.sort_by_key(|(found, rule)| (found.len(), rule.id));
        near.truncate(NEAREST_MAX);
        let words = |(found, rule): (Vec<Difference>, &Rule)| NearRule {
            id: rule.id,
            name: rule.name.clone(),
            input: rule.spec.input.to_string(),
            differs: found.into_iter().map(|found| said(found, rule, probe)).chain(idle(rule)).collect(),
        };
        // One that differs in nothing takes the datagram, and it ended at the input.
        near.into_iter().map(words).filter(|near| !near.differs.is_empty()).collect()
    }

    fn rule_counters(&self, slot: RuleSlot) -> Vec<CounterValue> {
        let sum = |of: &dyn Fn(&mcr_metrics::RuleCounters) -> u64| {
            self.segments().map(|counters| of(counters.rule(slot))).sum()
        };
        vec![
            value("datagrams", sum(&|rule| rule.datagrams.get())),
            value("flows", sum(&|rule| rule.flows.get())),
        ]
    }

    fn output_counters(&self, slot: OutputSlot) -> Vec<CounterValue> {
        let outputs = || self.segments().map(|counters| counters.output(slot));
        let copies = outputs().map(|output| output.copies.get()).sum();
        let drops = OutputDrop::ALL.iter().map(|reason| {
            let sum: u64 = outputs().map(|output| output.drops[*reason as usize].get()).sum();
            value(reason.name(), sum)
        });
        [value("copies", copies)].into_iter().chain(drops.filter(|drop| drop.value > 0)).collect()
    }

    fn input_counters<'a>(&self, inputs: impl Iterator<Item = &'a InputView>) -> Vec<CounterValue> {
        let mut values = Vec::new();
        for input in inputs {
            let Some(counters) = self.segments().nth(usize::from(input.worker.0)) else { continue };
            let counters = counters.input(input.slot);
            let by = match input.datapath {
                Datapath::Kernel => String::new(),
                _ => format!(", worker {}", input.worker),
            };
            let name = |name: &str| format!("{} ({}{by}) {name}", input.interface, input.datapath);
            values.push(value(&name("datagrams"), counters.received()));
            values.push(value(&name("matched"), counters.matched.get()));
            let drops = InputDrop::ALL.iter().map(|reason| (reason.name(), counters.dropped(*reason)));
            values.extend(
                drops.filter(|(_, count)| *count > 0).map(|(reason, count)| value(&name(reason), count)),
            );
        }
        values
    }
}

fn value(name: &str, value: u64) -> CounterValue {
    CounterValue { name: name.into(), value }
}

fn count(rules: &[ExplainedRule]) -> String {
    match rules {
        [one] => format!("rule {} takes it", one.name),
        _ => format!("{} rules take it", rules.len()),
    }
}

/// A route of the kernel path, which sends without sockets, as the engine takes it.
fn without_sockets(mut route: Route, compiled: &Compiled) -> Route {
    for (output, compiled) in route.outputs.iter_mut().zip(&compiled.outputs) {
        if compiled.state == RuleState::Active {
            output.via = Via::Udp(SOCKET);
        }
    }
    route
}

/// What becomes of a copy once the kernel has it.
fn leave(
    explained: &mut ExplainedOutput,
    output: &Output,
    send: Send,
    compiled: &CompiledOutput,
    probe: &Probe,
    network: &Snapshot,
) {
    // On the kernel path there is no sending socket, and what one would be set to is in the output.
    let sender = compiled.sender;
    let fixed_ttl = if let Ttl::Fixed(ttl) = output.ttl { Some(ttl) } else { None };
    explained.ttl = send.hop_limit.or(sender.map(|sender| sender.hop_limit)).or(fixed_ttl);
    let Some(way) = Way::to(output, network) else {
        explained.drop = Some(OutputDrop::NoRoute.name().into());
        explained.reason = Some(format!("no route leads to {}", explained.destination));
        return;
    };
    explained.sends = true;
    let link = network.link(way.index);
    explained.interface = link.map(|link| link.name.clone());
    explained.next_hop = way.gateway.then_some(way.next_hop);
    if link.is_some_and(|link| link.kind == LinkKind::Ethernet) && !way.local {
        explained.mac = multicast_mac(way.next_hop).or(way.mac).map(written);
    }
    let raw = sender.map_or(output.source == OutputSource::Keep, |sender| sender.raw);
    let fixed = match (sender, output.source) {
        (Some(sender), _) => sender.source,
        (None, OutputSource::Fixed(address, port)) => Some((address, port)),
        (None, _) => None,
    };
    let source = match fixed {
        _ if raw => Some(probe.source),
        Some((address, port)) => Some(SocketAddr::new(address, port.unwrap_or(0))),
        None => network.source_towards(way.index, way.next_hop).map(|address| SocketAddr::new(address, 0)),
    };
    explained.source = source.map(|source| source.to_string());
    if matches!(way.neighbour, Some(NeighbourState::Failed | NeighbourState::Incomplete)) {
        let hop = way.next_hop;
        explained.reason =
            Some(format!("{hop} has not answered on the link: the copy waits for it, and is dropped"));
    }
}

fn written(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn said(found: Difference, rule: &Rule, probe: &Probe) -> String {
    let input = &rule.spec.input;
    match found {
        Difference::Interface => format!("it listens on {}, not on {}", input.interface, probe.interface),
        Difference::Address => {
            format!("it takes what is sent to {}, not to {}", input.address, probe.destination.ip())
        }
        Difference::Port => format!("its port is {}, not {}", input.port, probe.destination.port()),
        Difference::Source => {
            let source = input.source.map_or_else(String::new, |source| source.to_string());
            format!("it takes only what {source} sends, not {}", probe.source.ip())
        }
    }
}

/// Why a rule takes nothing at all.
fn idle(rule: &Rule) -> Option<String> {
    if rule.status.state == RuleState::Active {
        return None;
    }
    let reason = rule.status.why(&rule.spec).map(|reason| format!(": {reason}")).unwrap_or_default();
    Some(format!("it is {}{reason}", rule.status.state))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_have_the_link_layer_addresses_of_the_rfcs() {
        for (group, mac) in [
            ("224.128.1.2", Some("01:00:5e:00:01:02")),
            ("239.255.1.2", Some("01:00:5e:7f:01:02")),
            ("ff15::1:2:3:4", Some("33:33:00:03:00:04")),
            ("10.0.0.1", None),
        ] {
            let found = multicast_mac(group.parse().expect("an address")).map(written);
            assert_eq!(found.as_deref(), mac, "{group}");
        }
    }
}
