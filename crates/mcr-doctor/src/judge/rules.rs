//! What concerns a rule or an output.

use std::collections::{BTreeMap, HashMap};

use mcr_netmon::NeighbourState;
use mcr_proto::{
    counters::{InputDrop, OutputDrop},
    endpoint::Ttl,
    message::{Finding, RuleState, Severity},
    rule::{Datapath, DatapathChoice, RuleSpec},
};

use super::{advised, found, mended, quoted, some};
use crate::{
    facts::Facts,
    survey::{OutputFacts, RuleFacts, Survey},
};

pub(super) fn check(survey: &Survey, facts: &Facts, findings: &mut Vec<Finding>) {
    for rule in survey.rules.iter().filter(|rule| rule.spec.enabled) {
        findings.extend(failed(rule));
        findings.extend(membership(rule, survey, facts));
        for output in &rule.outputs {
            findings.extend(reach(rule, output));
            findings.extend(dropped(rule, output, survey));
        }
        findings.extend(smaller_mtu(rule, survey));
    }
    findings.extend(used_up(survey));
    findings.extend(fragments(survey));
    findings.extend(feeding(survey));
}

fn failed(rule: &RuleFacts) -> Option<Finding> {
    let reason = rule.reason.as_deref().filter(|_| rule.state == RuleState::Failed)?;
    let finding = found(
        "rule_failed",
        Severity::Error,
        &rule.name,
        format!("rule {} does not relay: {reason}", rule.name),
        "the host refused something it needs; the daemon tries again every second",
    );
    Some(finding)
}

/// Lost with an address or the interface's IPv6, for instance when its MTU fell below what the protocol needs; the sockets that
/// asked for it are not told.
fn membership(rule: &RuleFacts, survey: &Survey, facts: &Facts) -> Option<Finding> {
    let input = &rule.spec.input;
    let link = survey.link(input.interface.as_str())?;
    let memberships = facts.memberships.as_ref()?;
    let wanted = rule.state == RuleState::Active && input.address.is_multicast();
    if !wanted || memberships.has(link.index, input.address) {
        return None;
    }
    let finding = found(
        "membership_lost",
        Severity::Error,
        &rule.name,
        format!("the host is no member of {} on {} any more", input.address, input.interface),
        "the network need not deliver the group; the kernel forgets memberships when an interface loses its addresses or IPv6",
    );
    let (mcrctl, name) = (&survey.mcrctl, quoted(&rule.name));
    Some(mended(finding, format!("{mcrctl} disable {name} && {mcrctl} enable {name}")))
}

fn reach(rule: &RuleFacts, facts: &OutputFacts) -> Option<Finding> {
    let output = &facts.output;
    let subject = format!("{} > {output}", rule.name);
    let Some(way) = facts.way else {
        if output.interface.is_some() {
            // Said of the interface.
            return None;
        }
        let finding = found(
            "no_route",
            Severity::Error,
            &subject,
            format!("no route leads to {}", output.address),
            "its copies cannot be sent and count as no_route",
        );
        let bits = if output.address.is_ipv4() { 32 } else { 128 };
        return Some(advised(
            finding,
            format!(
                "name the interface (`{output}@INTERFACE`), or add a route: `ip route add {}/{bits} via GATEWAY`",
                output.address
            ),
        ));
    };
    let failed = matches!(way.neighbour, Some(NeighbourState::Failed | NeighbourState::Incomplete));
    if output.address.is_multicast() || way.local || !failed {
        return None;
    }
    let finding = found(
        "no_neighbour",
        Severity::Error,
        &subject,
        format!("{} does not answer on the link", way.next_hop),
        "its link-layer address is not known, so nothing can be sent to it",
    );
    Some(advised(finding, "look whether that host is up, on that link, and has that address"))
}

fn dropped(rule: &RuleFacts, facts: &OutputFacts, survey: &Survey) -> Vec<Finding> {
    let reasons = OutputDrop::ALL.iter().filter(|reason| {
        // Said where their cause is; a cap is meant to drop; a death is in the log.
        !matches!(reason, OutputDrop::Rate | OutputDrop::HopLimit | OutputDrop::WorkerLost)
    });
    let counted = reasons.filter(|reason| facts.drops[**reason as usize] > 0);
    let finding = |reason: &OutputDrop| {
        let (total, recent) = (facts.drops[*reason as usize], facts.recent[*reason as usize]);
        let severity = if recent > 0 { Severity::Error } else { Severity::Info };
        let now = if recent > 0 { format!("{recent} just now, ") } else { "none just now, ".to_owned() };
        let what = format!("{now}{total} in all: copies were not sent ({})", reason.name());
        let finding =
            found(reason.name(), severity, &format!("{} > {}", rule.name, facts.output), what, why(*reason));
        let link = facts.way.and_then(|way| survey.link_at(way.index));
        match (reason, link) {
            (OutputDrop::TooBig, Some(link)) => {
                let mtu = survey.link(rule.spec.input.interface.as_str()).map_or(1500, |input| input.mtu);
                let mtu = mtu.max(link.mtu).max(1500);
                mended(finding, format!("ip link set dev {} mtu {mtu}", quoted(&link.name)))
            }
            (OutputDrop::TooBig, None) => advised(finding, "raise the MTU on the way to it"),
            (OutputDrop::QueueFull, _) => advised(
                finding,
                "the device is slower than what is sent: cap the output (rate=) or use a faster one",
            ),
            (OutputDrop::NoRoute, _) => advised(finding, "look at `ip route get` of its address"),
            (OutputDrop::NoNeighbour, _) => advised(finding, "look whether the next hop answers on the link"),
            _ => advised(finding, "`mcrctl stats` names the error; a packet filter on output gives EPERM"),
        }
    };
    counted.map(finding).collect()
}

fn why(reason: OutputDrop) -> &'static str {
    match reason {
        OutputDrop::TooBig => "they are larger than the output's MTU allows",
        OutputDrop::QueueFull => "the socket's or the device's queue was full",
        OutputDrop::NoRoute => "there was no route to the destination, or its interface was missing or down",
        OutputDrop::NoNeighbour => "the next hop's link-layer address was not known",
        _ => "the kernel refused to send them",
    }
}

/// What fits in need not fit out.
fn smaller_mtu(rule: &RuleFacts, survey: &Survey) -> Vec<Finding> {
    let Some(input) = survey.link(rule.spec.input.interface.as_str()) else { return Vec::new() };
    let links: BTreeMap<u32, _> = rule
        .outputs
        .iter()
        .filter_map(|output| Some((output, survey.link_at(output.way?.index)?)))
        .filter(|(_, link)| link.mtu < input.mtu && input.kind != mcr_netmon::LinkKind::Loopback)
        .map(|(_, link)| (link.index, link))
        .collect();
    let finding = |link: &mcr_netmon::Link| {
        let finding = found(
            "mtu",
            Severity::Warning,
            &rule.name,
            format!(
                "{} takes packets of {} bytes, {} only of {}",
                input.name, input.mtu, link.name, link.mtu
            ),
            "copies of larger datagrams are sent in fragments or count as too_big",
        );
        mended(finding, format!("ip link set dev {} mtu {}", quoted(&link.name), input.mtu))
    };
    links.into_values().map(finding).collect()
}

/// Datagrams came with a TTL of 1 where it is to be kept.
fn used_up(survey: &Survey) -> Vec<Finding> {
    let mut findings = Vec::new();
    for rule in survey.rules.iter().filter(|rule| rule.spec.enabled) {
        let keeps = rule.spec.outputs.iter().filter(|output| output.ttl == Ttl::Keep).count();
        if keeps == 0 {
            continue;
        }
        let at_input: u64 = survey
            .inputs
            .iter()
            .filter(|input| input.interface == rule.spec.input.interface && keeps == rule.spec.outputs.len())
            .map(|input| input.drops[InputDrop::HopLimit as usize])
            .sum();
        let at_outputs: u64 =
            rule.outputs.iter().map(|output| output.drops[OutputDrop::HopLimit as usize]).sum();
        if at_input + at_outputs == 0 {
            continue;
        }
        let mut changed = rule.spec.clone();
        changed
            .outputs
            .iter_mut()
            .filter(|output| output.ttl == Ttl::Keep)
            .for_each(|output| output.ttl = Ttl::Fixed(16));
        let finding = found(
            "hop_limit",
            Severity::Error,
            &rule.name,
            format!(
                "{} datagrams reached {} with a TTL of 1, and rule {} keeps the TTL",
                at_input + at_outputs,
                rule.spec.input.interface,
                rule.name
            ),
            "a TTL that is kept is one less at each relay, and these are dropped; many senders use 1 for multicast",
        );
        findings.push(mended(finding, again(survey, rule, &changed)));
    }
    findings
}

fn fragments(survey: &Survey) -> Vec<Finding> {
    let of = |input: &crate::survey::InputFacts| input.drops[InputDrop::Fragment as usize];
    let mut findings = Vec::new();
    for input in survey.inputs.iter().filter(|input| of(input) > 0) {
        let on_it: Vec<_> = survey
            .rules
            .iter()
            .filter(|rule| {
                rule.spec.enabled
                    && rule.spec.input.interface == input.interface
                    && rule.datapath == Some(input.datapath)
                    && input.datapath != Datapath::Udp
            })
            .collect();
        let [rule, ..] = on_it[..] else { continue };
        let names = some(on_it.iter().map(|rule| rule.name.as_str()).collect::<Vec<_>>());
        let finding = found(
            "fragments",
            Severity::Error,
            input.interface.as_str(),
            format!(
                "{} fragments of UDP datagrams have come to {} and were dropped",
                of(input),
                input.interface
            ),
            &format!(
                "a link on the way has a smaller MTU than the sender's datagrams, and only the udp path puts them together; rules there: {names}"
            ),
        );
        let changed = RuleSpec { datapath: DatapathChoice::Udp, ..rule.spec.clone() };
        findings.push(if on_it.len() == 1 {
            mended(finding, again(survey, rule, &changed))
        } else {
            advised(
                finding,
                "make the sender's datagrams smaller, or give the rule concerned `--datapath udp`",
            )
        });
    }
    findings
}

/// The command that replaces a rule by a changed one.
fn again(survey: &Survey, rule: &RuleFacts, changed: &RuleSpec) -> String {
    let (mcrctl, name) = (&survey.mcrctl, quoted(&rule.name));
    let outputs: Vec<_> = changed.outputs.iter().map(|output| quoted(&output.to_string())).collect();
    let datapath = match changed.datapath {
        DatapathChoice::Auto => String::new(),
        other => format!(" --datapath {other}"),
    };
    let input = quoted(&changed.input.to_string());
    format!("{mcrctl} remove {name} && {mcrctl} add {input} {} --name {name}{datapath}", outputs.join(" "))
}

/// Rules that send to what others of them take in, in a circle. By address and port: whether the interfaces are on one network
/// cannot be told from here.
fn feeding(survey: &Survey) -> Vec<Finding> {
    let enabled: Vec<_> = survey.rules.iter().filter(|rule| rule.spec.enabled).collect();
    let mut by_input: HashMap<_, Vec<usize>> = HashMap::new();
    for (index, rule) in enabled.iter().enumerate() {
        by_input.entry(rule.spec.input.socket_addr()).or_default().push(index);
    }
    let feeds = |index: usize| -> Vec<usize> {
        let outputs = enabled[index].spec.outputs.iter();
        let mut fed: Vec<_> =
            outputs.filter_map(|output| by_input.get(&output.socket_addr())).flatten().copied().collect();
        fed.sort_unstable();
        fed.dedup();
        fed
    };
    let mut findings = Vec::new();
    let mut done = vec![false; enabled.len()];
    for start in 0..enabled.len() {
        if done[start] {
            continue;
        }
        let Some(circle) = circle_from(start, &feeds, &mut done) else { continue };
        let names = circle.iter().map(|index| enabled[*index].name.as_str()).collect::<Vec<_>>();
        let what = match names[..] {
            [one] => format!("rule {one} sends to the address and port that it takes in"),
            _ => format!("rules feed each other in a circle: {}", names.join(" > ")),
        };
        let finding = found(
            "loop",
            Severity::Warning,
            names[0],
            what,
            "where the interfaces are on one network each datagram goes round until its TTL ends, or for ever",
        );
        let first = quoted(names[0]);
        findings.push(mended(finding, format!("{} disable {first}", survey.mcrctl)));
    }
    findings
}

/// A circle that can be reached from a rule, if there is one among rules that were not looked at before.
fn circle_from(start: usize, feeds: &impl Fn(usize) -> Vec<usize>, done: &mut [bool]) -> Option<Vec<usize>> {
    let mut path = vec![(start, feeds(start))];
    let mut on_path: HashMap<usize, usize> = HashMap::from([(start, 0)]);
    done[start] = true;
    let mut circle = None;
    while let Some((index, rest)) = path.last_mut() {
        let index = *index;
        match rest.pop() {
            Some(next) => {
                if let Some(place) = on_path.get(&next) {
                    circle.get_or_insert_with(|| path[*place..].iter().map(|(index, _)| *index).collect());
                } else if !std::mem::replace(&mut done[next], true) {
                    on_path.insert(next, path.len());
                    path.push((next, feeds(next)));
                }
            }
            None => {
                on_path.remove(&index);
                path.pop();
            }
        }
    }
    circle
}
