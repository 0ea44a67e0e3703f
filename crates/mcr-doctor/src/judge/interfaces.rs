//! What concerns an interface.

use std::collections::BTreeMap;

use mcr_netmon::{Link, LinkKind};
use mcr_proto::{
    counters::InputDrop,
    message::{Finding, Severity},
    rule::{Datapath, DatapathChoice},
};

use super::{advised, found, mended, quoted, some};
use crate::{
    facts::{Facts, interesting},
    proc::key_part,
    survey::{RuleFacts, Survey},
};

/// The rules that use an interface.
#[derive(Default)]
struct Users<'a> {
    inputs: Vec<&'a RuleFacts>,
    outputs: Vec<&'a RuleFacts>,
}

pub(super) fn check(survey: &Survey, facts: &Facts, findings: &mut Vec<Finding>) {
    let mut users: BTreeMap<&str, Users<'_>> = BTreeMap::new();
    for rule in survey.rules.iter().filter(|rule| rule.spec.enabled) {
        users.entry(rule.spec.input.interface.as_str()).or_default().inputs.push(rule);
        let mut names: Vec<_> =
            rule.outputs.iter().filter_map(|output| output.output.interface.as_ref()).collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            users.entry(name.as_str()).or_default().outputs.push(rule);
        }
    }
    for (name, users) in &users {
        match survey.link(name) {
            Some(link) => state(link, users, findings),
            None => findings.push(missing(name, users)),
        }
    }
    let none = Users::default();
    let any_rules = !survey.rules.is_empty();
    for link in interesting(survey) {
        let users = users.get(link.name.as_str()).unwrap_or(&none);
        if !any_rules || !users.inputs.is_empty() {
            findings.extend(rp_filter(link, users, facts));
            findings.extend(forced_version(link, users, facts));
            findings.extend(querier_version(link, users, facts));
            findings.extend(no_ipv6(link, users, facts));
        }
        findings.extend(bridge(link, survey, facts));
        findings.extend(offloads(link, users, any_rules, facts));
    }
    findings.extend(survey.inputs.iter().filter_map(|input| {
        let missed = InputDrop::KernelRing as usize;
        let (total, recent) = (input.drops[missed], input.recent[missed]);
        (recent > 0).then(|| {
            let finding = found(
                "kernel_ring",
                Severity::Error,
                input.interface.as_str(),
                format!(
                    "worker {} does not keep up: {recent} datagrams were lost just now, {total} in all",
                    input.worker
                ),
                "they came while the receive queue was full",
            );
            advised(
                finding,
                "give the daemon more workers or cores, move rules (`mcrctl move`), or relay in the kernel",
            )
        })
    }));
}

fn names<'a>(rules: &[&'a RuleFacts]) -> String {
    some(rules.iter().map(|rule| rule.name.as_str()).collect::<Vec<&'a str>>())
}

fn concerned(users: &Users<'_>) -> String {
    let mut all: Vec<&str> =
        users.inputs.iter().chain(&users.outputs).map(|rule| rule.name.as_str()).collect();
    all.dedup();
    format!("rules that wait for it: {}", some(all))
}

fn missing(name: &str, users: &Users<'_>) -> Finding {
    let finding = found(
        "interface_missing",
        Severity::Error,
        name,
        format!("there is no interface {name}"),
        &concerned(users),
    );
    advised(finding, "make it or correct the rules' spelling; they take it up when it appears")
}

fn state(link: &Link, users: &Users<'_>, findings: &mut Vec<Finding>) {
    let name = &link.name;
    if !link.up {
        let finding =
            found("interface_down", Severity::Error, name, format!("{name} is down"), &concerned(users));
        findings.push(mended(finding, format!("ip link set dev {} up", quoted(name))));
    } else if !link.running {
        let finding =
            found("no_carrier", Severity::Error, name, format!("{name} has no carrier"), &concerned(users));
        findings.push(advised(
            finding,
            "look at the cable, the other end, or whatever the interface is built on",
        ));
    }
    let groups = |rule: &&&RuleFacts| rule.spec.input.address.is_multicast();
    let sends = |rule: &&&RuleFacts| rule.spec.outputs.iter().any(|output| output.address.is_multicast());
    let concerned =
        users.inputs.iter().any(|rule| groups(&rule)) || users.outputs.iter().any(|rule| sends(&rule));
    if !link.multicast && link.kind != LinkKind::Loopback && concerned {
        let finding = found(
            "no_multicast",
            Severity::Error,
            name,
            format!("{name} is not set to carry multicast"),
            "the kernel neither asks the network for groups there nor routes groups out by it",
        );
        findings.push(mended(finding, format!("ip link set dev {} multicast on", quoted(name))));
    }
}

fn by_udp(rule: &RuleFacts) -> bool {
    rule.datapath == Some(Datapath::Udp)
        || (rule.datapath.is_none() && rule.spec.datapath == DatapathChoice::Udp)
}

fn rp_filter(link: &Link, users: &Users<'_>, facts: &Facts) -> Option<Finding> {
    let own = facts.interfaces.get(&link.index)?.rp_filter?;
    // The larger of the two counts (`IN_DEV_RPFILTER`).
    let mode = own.max(facts.all.rp_filter.unwrap_or(0));
    if mode == 0 {
        return None;
    }
    let v4 = |rule: &&&RuleFacts| rule.spec.input.address.is_ipv4();
    let udp: Vec<_> = users.inputs.iter().filter(v4).filter(|rule| by_udp(rule)).copied().collect();
    let fails = |rule: &&RuleFacts| {
        let back = rule.back_to_source;
        rule.spec.input.source.is_some() && (back.is_none() || (mode == 1 && back != Some(link.index)))
    };
    let lost: Vec<_> = udp.iter().copied().filter(|rule| fails(rule)).collect();
    let known_good = |rule: &&RuleFacts| rule.spec.input.source.is_some() && !fails(rule);
    let (severity, why) = if !lost.is_empty() {
        (
            Severity::Error,
            format!("it drops what the sender of {} sends, whose answers would go another way", names(&lost)),
        )
    } else if udp.iter().any(|rule| !known_good(rule)) {
        let who =
            "senders that no route by this interface leads to are dropped before the udp path sees them";
        (Severity::Warning, format!("{who}; rules: {}", names(&udp)))
    } else if users.inputs.is_empty() {
        (Severity::Info, "rules of the udp path would lose senders that no route by it leads to; packet and kernel see them all".into())
    } else {
        (Severity::Info, "it does not concern the rules there are: they see frames before it; it would those of the udp path".into())
    };
    let name = &link.name;
    let kind = if mode == 1 { "strict" } else { "loose" };
    let what = format!("{name} drops datagrams by their source's route (rp_filter = {mode}, {kind})");
    let part = key_part(name);
    let mut keys = Vec::new();
    if facts.all.rp_filter.unwrap_or(0) > 0 {
        keys.push("net.ipv4.conf.all.rp_filter=0".to_owned());
    }
    if own > 0 {
        keys.push(quoted(&format!("net.ipv4.conf.{part}.rp_filter=0")));
    }
    let finding = found("rp_filter", severity, name, what, &why);
    Some(mended(finding, format!("sysctl -w {}", keys.join(" "))))
}

fn forced_version(link: &Link, users: &Users<'_>, facts: &Facts) -> Option<Finding> {
    let settings = facts.interfaces.get(&link.index)?;
    let ssm = |v4: bool| {
        let wants = |rule: &&&RuleFacts| {
            let input = &rule.spec.input;
            input.address.is_multicast() && input.address.is_ipv4() == v4 && input.source.is_some()
        };
        users.inputs.iter().filter(wants).copied().collect::<Vec<_>>()
    };
    let families = [
        (
            "IGMP",
            "ipv4",
            "force_igmp_version",
            settings.force_igmp_version,
            facts.all.force_igmp_version,
            3,
            true,
        ),
        (
            "MLD",
            "ipv6",
            "force_mld_version",
            settings.force_mld_version,
            facts.all.force_mld_version,
            2,
            false,
        ),
    ];
    families.into_iter().find_map(|(protocol, family, key, own, all, current, v4)| {
        let forces = |value: Option<i64>| value.is_some_and(|value| value > 0 && value < current);
        let version = all.filter(|_| forces(all)).or(own.filter(|_| forces(own)))?;
        let concerned = ssm(v4);
        let (severity, why) = if concerned.is_empty() {
            (Severity::Warning, format!("a rule that names its sender needs {protocol}v{current} there"))
        } else {
            let names = names(&concerned);
            (
                Severity::Error,
                format!("the network is not told the senders of {names}, and need not deliver them"),
            )
        };
        let what = format!("{} is forced to speak {protocol}v{version} ({key})", link.name);
        let scopes = [("all".to_owned(), all), (key_part(&link.name), own)];
        let keys = scopes.into_iter().filter(|(_, value)| forces(*value));
        let keys: Vec<_> =
            keys.map(|(scope, _)| quoted(&format!("net.{family}.conf.{scope}.{key}=0"))).collect();
        let finding =
            found(if v4 { "igmp_version" } else { "mld_version" }, severity, &link.name, what, &why);
        Some(mended(finding, format!("sysctl -w {}", keys.join(" "))))
    })
}

/// The network itself speaks an old version: the kernel follows it for some minutes after each query.
fn querier_version(link: &Link, users: &Users<'_>, facts: &Facts) -> Option<Finding> {
    let settings = facts.interfaces.get(&link.index)?;
    let forced = |value: Option<i64>| value.is_some_and(|value| value == 1 || value == 2);
    if forced(settings.force_igmp_version) || forced(facts.all.force_igmp_version) {
        return None;
    }
    let version = *facts.memberships.as_ref()?.igmp_versions.get(&link.index)?;
    let ssm = |rule: &&&RuleFacts| {
        let input = &rule.spec.input;
        input.address.is_multicast() && input.address.is_ipv4() && input.source.is_some()
    };
    let concerned: Vec<_> = users.inputs.iter().filter(ssm).copied().collect();
    if version >= 3 || concerned.is_empty() {
        return None;
    }
    let finding = found(
        "igmp_querier_version",
        Severity::Warning,
        &link.name,
        format!("a querier behind {} speaks IGMPv{version}", link.name),
        &format!(
            "in that version no sender can be named, so {} get what the network makes of it",
            names(&concerned)
        ),
    );
    Some(advised(finding, "set the querier (a router or switch) to IGMPv3"))
}

fn no_ipv6(link: &Link, users: &Users<'_>, facts: &Facts) -> Option<Finding> {
    let settings = facts.interfaces.get(&link.index)?;
    let v6 = |rule: &&&RuleFacts| rule.spec.input.address.is_ipv6();
    let concerned: Vec<_> = users.inputs.iter().filter(v6).copied().collect();
    if settings.disable_ipv6 != Some(1) || concerned.is_empty() {
        return None;
    }
    let finding = found(
        "no_ipv6",
        Severity::Error,
        &link.name,
        format!("IPv6 is switched off on {}", link.name),
        &format!("no IPv6 group can be joined there; rules: {}", names(&concerned)),
    );
    let key = quoted(&format!("net.ipv6.conf.{}.disable_ipv6=0", key_part(&link.name)));
    Some(mended(finding, format!("sysctl -w {key}")))
}

fn bridge(link: &Link, survey: &Survey, facts: &Facts) -> Option<Finding> {
    let index = if facts.bridges.contains_key(&link.index) { link.index } else { link.master? };
    let bridge = facts.bridges.get(&index)?;
    if !bridge.snooping || bridge.querier || bridge.other_querier {
        return None;
    }
    let name = survey.link_at(index).map_or_else(|| format!("bridge {index}"), |link| link.name.clone());
    let through =
        if index == link.index { String::new() } else { format!(", which {} is a port of", link.name) };
    let finding = found(
        "bridge_querier",
        Severity::Warning,
        &name,
        format!("bridge {name}{through}, snoops on memberships and nobody asks for them"),
        "memberships run out after some minutes unless a querier asks: groups stop, or flood every port",
    );
    Some(mended(finding, format!("ip link set dev {} type bridge mcast_querier 1", quoted(&name))))
}

fn offloads(link: &Link, users: &Users<'_>, any_rules: bool, facts: &Facts) -> Vec<Finding> {
    let Some(features) = facts.interfaces.get(&link.index).and_then(|settings| settings.features.as_ref())
    else {
        return Vec::new();
    };
    let name = &link.name;
    let command = |feature: &str, to: &str| format!("ethtool -K {} {feature} {to}", quoted(name));
    let mut findings = Vec::new();
    if features.active.contains("rx-lro") && (!any_rules || !users.inputs.is_empty()) {
        let finding = found(
            "lro",
            Severity::Warning,
            name,
            format!("{name} merges packets itself (large-receive-offload)"),
            "what a device merges cannot always be taken apart again as it came",
        );
        findings.push(mended(finding, command("large-receive-offload", "off")));
    }
    if features.could_be_on("tx-udp-segmentation") && (!any_rules || !users.outputs.is_empty()) {
        let finding = found(
            "tx_udp_segmentation",
            Severity::Info,
            name,
            format!("{name} does not cut UDP segments itself"),
            "the kernel cuts them on the core that relays",
        );
        findings.push(mended(finding, command("tx-udp-segmentation", "on")));
    }
    if features.could_be_on("rx-udp-gro-forwarding") && (!any_rules || !users.inputs.is_empty()) {
        let finding = found(
            "rx_udp_gro",
            Severity::Info,
            name,
            format!("{name} hands each datagram over by itself"),
            "merged datagrams of a flow take one lookup and one send; boundaries are kept",
        );
        findings.push(mended(finding, command("rx-udp-gro-forwarding", "on")));
    }
    findings
}
