//! What programs hold of a namespace's network: sockets and memberships, as its /proc/net shows them.

use std::{collections::BTreeSet, fs};

use mcr_lab::Namespace;

/// Sockets and memberships of a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// AF_PACKET sockets.
    pub packet: usize,
    /// UDP sockets of both families.
    pub udp: usize,
    /// Raw sockets of both families.
    pub raw: usize,
    /// Interface and group, as the kernel writes them; without solicited-node groups.
    pub groups: BTreeSet<String>,
}

impl Held {
    /// What is held now.
    ///
    /// # Panics
    /// If the kernel does not say.
    pub fn of(namespace: &Namespace) -> Self {
        namespace.enter(|| Self {
            packet: lines("packet"),
            udp: lines("udp") + lines("udp6"),
            raw: lines("raw") + lines("raw6"),
            groups: groups(),
        })
    }
}

/// A counter of a namespace's /proc/net/snmp, as in `Icmp` and `OutDestUnreachs`; with an empty `table` of its snmp6, as in
/// `Icmp6OutDestUnreachs`.
///
/// # Panics
/// If there is no such counter.
pub fn host_counter(namespace: &Namespace, table: &str, name: &str) -> u64 {
    let text = namespace.enter(|| self::table(if table.is_empty() { "snmp6" } else { "snmp" }));
    let value = if table.is_empty() {
        let lines = text.lines().filter_map(|line| line.split_once(char::is_whitespace));
        lines.filter(|(known, _)| *known == name).map(|(_, value)| value.trim().to_owned()).next()
    } else {
        // A line of names, then one of values.
        let mut lines = text.lines().filter(|line| line.starts_with(&format!("{table}:")));
        let (names, values) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
        let mut pairs = names.split_whitespace().zip(values.split_whitespace());
        pairs.find(|(known, _)| *known == name).map(|(_, value)| value.to_owned())
    };
    value.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no counter {table} {name}"))
}

fn table(name: &str) -> String {
    fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap_or_default()
}

/// Each table has a line of titles.
fn lines(name: &str) -> usize {
    table(name).lines().count().saturating_sub(1)
}

fn groups() -> BTreeSet<String> {
    let mut groups = BTreeSet::new();
    let mut interface = String::new();
    // Interfaces begin a line with their index; the groups of each follow, indented.
    for line in table("igmp").lines().skip(1) {
        let word = |index: usize| line.split_whitespace().nth(index).unwrap_or_default();
        if line.starts_with(char::is_whitespace) {
            groups.insert(format!("{interface} {}", word(0)));
        } else {
            interface = word(1).to_owned();
        }
    }
    let igmp6 = table("igmp6");
    let of_ipv6 =
        igmp6.lines().map(|line| line.split_whitespace().skip(1).take(2).collect::<Vec<_>>().join(" "));
    groups.extend(of_ipv6.filter(|line| !line.contains(" ff0200000000000000000001ff")));
    groups
}
