//! What the packet filter does to relaying.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use mcr_netmon::Link;
use mcr_proto::{
    message::{Finding, RuleState, Severity},
    probe::Probe,
    rule::Datapath,
};

use super::{found, mended, quoted};
use crate::{
    facts::Facts,
    firewall::{Dropper, INET, IPV4, IPV6, NETDEV, Packet, Way},
    survey::{RuleFacts, Survey},
};

/// Packets that are followed through the rules at most in one diagnosis.
const PACKETS_MAX: usize = 4096;

const IGMP: u8 = 2;
const ICMPV6: u8 = 58;
/// MLD query (RFC 2710, RFC 3810).
const MLD_QUERY: u8 = 130;

pub(super) fn check(survey: &Survey, facts: &Facts, findings: &mut Vec<Finding>) {
    let Some(firewall) = &facts.firewall else { return };
    let mut asked: Vec<(u32, bool)> = Vec::new();
    let mut packets = 0;
    for rule in survey.rules.iter().filter(|rule| rule.state == RuleState::Active) {
        let Some(link) = survey.link(rule.spec.input.interface.as_str()) else { continue };
        packets += 1 + rule.outputs.len();
        if packets > PACKETS_MAX {
            break;
        }
        if rule.datapath == Some(Datapath::Udp) {
            let source = rule.spec.input.source.map(|source| SocketAddr::new(source, 0));
            let packet =
                Packet::datagram(Way::In, source, rule.spec.input.socket_addr()).at(link.index, &link.name);
            findings.extend(
                firewall
                    .dropper(&packet)
                    .map(|dropper| incoming(&rule.name, rule.spec.input.socket_addr(), link, &dropper)),
            );
        }
        let family = (link.index, rule.spec.input.address.is_ipv4());
        if rule.spec.input.address.is_multicast() && !asked.contains(&family) {
            asked.push(family);
            findings.extend(queries(facts, link, family.1));
        }
        findings.extend(outgoing(rule, survey, facts));
    }
}

/// What on this host keeps a datagram from the udp path, and how much of that concerns it.
pub fn obstacles(survey: &Survey, facts: &Facts, probe: &Probe, back_to_source: Option<u32>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let Some(link) = survey.link(probe.interface.as_str()) else { return findings };
    let own = facts.interfaces.get(&link.index).and_then(|settings| settings.rp_filter).unwrap_or(0);
    let mode = own.max(facts.all.rp_filter.unwrap_or(0));
    let refused = mode > 0 && (back_to_source.is_none() || (mode == 1 && back_to_source != Some(link.index)));
    if probe.source.is_ipv4() && refused {
        let finding = found(
            "rp_filter",
            Severity::Error,
            &link.name,
            format!("rp_filter = {mode} on {} drops what {} sends", link.name, probe.source.ip()),
            "no route by that interface leads back to it; sockets of the udp path and other programs do not see it",
        );
        let part = crate::proc::key_part(&link.name);
        let keys = quoted(&format!("net.ipv4.conf.{part}.rp_filter=0"));
        findings.push(mended(finding, format!("sysctl -w net.ipv4.conf.all.rp_filter=0 {keys}")));
    }
    if let Some(firewall) = &facts.firewall {
        let packet =
            Packet::datagram(Way::In, Some(probe.source), probe.destination).at(link.index, &link.name);
        let dropper = firewall.dropper(&packet);
        findings.extend(dropper.map(|dropper| incoming(&link.name, probe.destination, link, &dropper)));
    }
    findings
}

fn by(dropper: &Dropper) -> String {
    let place = dropper.place();
    if dropper.by_policy {
        format!("the policy of chain {place}")
    } else {
        format!("a rule of chain {place}")
    }
}

fn incoming(subject: &str, to: SocketAddr, link: &Link, dropper: &Dropper) -> Finding {
    let finding = found(
        "firewall_input",
        Severity::Error,
        subject,
        format!("{} drops what comes to {to} by {}", by(dropper), link.name),
        "the udp path takes datagrams from a socket, and they do not get that far",
    );
    mended(finding, insert(dropper, &format!("{} udp dport {}", daddr(to.ip()), to.port())))
}

/// Without an answer to its queries the network forgets that this host is a member.
fn queries(facts: &Facts, link: &Link, v4: bool) -> Option<Finding> {
    let firewall = facts.firewall.as_ref()?;
    let (protocol, destination): (u8, IpAddr) = if v4 {
        (IGMP, Ipv4Addr::new(224, 0, 0, 1).into())
    } else {
        (ICMPV6, Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).into())
    };
    let mut packet =
        Packet::datagram(Way::In, None, SocketAddr::new(destination, 0)).at(link.index, &link.name);
    (packet.protocol, packet.destination_port) = (protocol, None);
    packet.message_type = Some(if v4 { 0x11 } else { MLD_QUERY });
    let dropper = firewall.dropper(&packet)?;
    let name = if v4 { "IGMP" } else { "MLD" };
    let finding = found(
        "firewall_membership",
        Severity::Error,
        &link.name,
        format!("{} drops {name} queries that come by {}", by(&dropper), link.name),
        "nobody hears that this host still wants its groups, and after some minutes they stop coming",
    );
    let accepted =
        if v4 { "ip protocol igmp".to_owned() } else { "icmpv6 type mld-listener-query".to_owned() };
    Some(mended(finding, insert(&dropper, &accepted)))
}

fn outgoing(rule: &RuleFacts, survey: &Survey, facts: &Facts) -> Vec<Finding> {
    let Some(firewall) = &facts.firewall else { return Vec::new() };
    if rule.datapath == Some(Datapath::Kernel) {
        // Redirected frames do not come by these hooks.
        return Vec::new();
    }
    let mut findings = Vec::new();
    for output in rule.outputs.iter().filter(|output| output.state == RuleState::Active) {
        let Some(link) = output.way.and_then(|way| survey.link_at(way.index)) else { continue };
        let to = output.output.socket_addr();
        let packet = Packet::datagram(Way::Out, None, to).at(link.index, &link.name);
        let Some(dropper) = firewall.dropper(&packet) else { continue };
        let finding = found(
            "firewall_output",
            Severity::Error,
            &format!("{} > {}", rule.name, output.output),
            format!("{} drops copies to {to} that leave by {}", by(&dropper), link.name),
            "they count as send_error (EPERM) or are lost in silence, as the filter will have it",
        );
        findings
            .push(mended(finding, insert(&dropper, &format!("{} udp dport {}", daddr(to.ip()), to.port()))));
    }
    findings
}

fn daddr(address: IpAddr) -> String {
    if address.is_ipv4() { format!("ip daddr {address}") } else { format!("ip6 daddr {address}") }
}

/// The command that accepts it before anything in that chain is asked.
fn insert(dropper: &Dropper, matches: &str) -> String {
    let family = match dropper.family {
        INET => "inet",
        IPV4 => "ip",
        IPV6 => "ip6",
        NETDEV => "netdev",
        _ => "bridge",
    };
    let (table, chain) = (quoted(&dropper.table), quoted(&dropper.chain));
    format!("nft insert rule {family} {table} {chain} {matches} accept")
}
