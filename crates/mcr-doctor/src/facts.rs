//! What the host says when it is asked.

use std::{
    collections::{BTreeMap, BTreeSet},
    thread,
    time::{Duration, Instant},
};

use mcr_netmon::Link;

use crate::{
    bridge::{self, Bridge},
    firewall::{self, Firewall},
    offload::{Features, Offloads},
    proc::{self, Memberships, Rights, key_part, sysctl},
    survey::Survey,
};

/// Interfaces whose settings are looked at.
const INTERFACES_MAX: usize = 256;

/// Settings of one interface.
#[derive(Debug, Clone, Default)]
pub(crate) struct InterfaceSettings {
    pub(crate) rp_filter: Option<i64>,
    pub(crate) force_igmp_version: Option<i64>,
    pub(crate) force_mld_version: Option<i64>,
    pub(crate) disable_ipv6: Option<i64>,
    pub(crate) features: Option<Features>,
}

/// Settings of the whole host, and of what is watched on it.
#[derive(Debug, Default)]
pub struct Facts {
    /// `net.ipv4.conf.all` and the like.
    pub(crate) all: InterfaceSettings,
    /// By index.
    pub(crate) interfaces: BTreeMap<u32, InterfaceSettings>,
    pub(crate) igmp_max_memberships: Option<i64>,
    pub(crate) rmem_max: Option<i64>,
    pub(crate) netdev_max_backlog: Option<i64>,
    pub(crate) io_uring_disabled: Option<i64>,
    /// What this process, which is the daemon's where there is one, may do.
    pub(crate) rights: Rights,
    /// Frames dropped at the receive queues' ends: since the host started, and while it was watched.
    pub(crate) backlog_drops: Option<(u64, u64)>,
    pub(crate) bridges: BTreeMap<u32, Bridge>,
    pub(crate) memberships: Option<Memberships>,
    pub(crate) firewall: Option<Firewall>,
    /// What could not be looked at, and why.
    pub(crate) unknown: Vec<String>,
}

impl Facts {
    /// Asks about the host and the interfaces that the survey's rules use, or all where there are no rules. Takes at least as
    /// long as `watch`, during which drops that the kernel counts are watched.
    pub fn gather(survey: &Survey, watch: Duration) -> Self {
        let until = Instant::now() + watch;
        let mut facts = Self::default();
        let before = facts.note("receive queues", proc::backlog_drops());
        facts.read_sysctls();
        facts.rights = Rights::read();
        for link in interesting(survey) {
            facts.interfaces.insert(link.index, of_interface(&link.name));
        }
        facts.read_features();
        facts.bridges = facts.note("bridges", bridge::all()).unwrap_or_default();
        facts.memberships = facts.note("memberships", Memberships::read());
        facts.firewall = facts.note("packet filter (nf_tables)", firewall::read());
        thread::sleep(until.saturating_duration_since(Instant::now()));
        let after = before.and_then(|_| proc::backlog_drops().ok());
        facts.backlog_drops = before.zip(after).map(|(before, after)| (after, after.saturating_sub(before)));
        facts
    }

    fn read_sysctls(&mut self) {
        self.all = of_interface("all");
        self.igmp_max_memberships = sysctl("net.ipv4.igmp_max_memberships");
        self.rmem_max = sysctl("net.core.rmem_max");
        self.netdev_max_backlog = sysctl("net.core.netdev_max_backlog");
        self.io_uring_disabled = sysctl("kernel.io_uring_disabled");
    }

    fn read_features(&mut self) {
        let Some(mut offloads) = self.note("offloads (ethtool)", Offloads::open()) else { return };
        for (index, settings) in &mut self.interfaces {
            // One that has just gone is no loss.
            settings.features = offloads.of(*index).ok();
        }
    }

    fn note<T>(&mut self, what: &str, read: std::io::Result<T>) -> Option<T> {
        read.map_err(|error| self.unknown.push(format!("{what}: {error}"))).ok()
    }
}

fn of_interface(name: &str) -> InterfaceSettings {
    let part = key_part(name);
    let v4 = |key: &str| sysctl(&format!("net.ipv4.conf.{part}.{key}"));
    let v6 = |key: &str| sysctl(&format!("net.ipv6.conf.{part}.{key}"));
    InterfaceSettings {
        rp_filter: v4("rp_filter"),
        force_igmp_version: v4("force_igmp_version"),
        force_mld_version: v6("force_mld_version"),
        disable_ipv6: v6("disable_ipv6"),
        features: None,
    }
}

/// The interfaces that rules use; without rules all but loopback.
pub(crate) fn interesting(survey: &Survey) -> Vec<&Link> {
    if survey.rules.is_empty() {
        let links = survey.links.iter().filter(|link| link.up && link.kind != mcr_netmon::LinkKind::Loopback);
        return links.take(INTERFACES_MAX).collect();
    }
    let mut names = BTreeSet::new();
    for rule in survey.rules.iter().filter(|rule| rule.spec.enabled) {
        names.insert(rule.spec.input.interface.as_str());
        names.extend(rule.outputs.iter().filter_map(|output| {
            let way = output.way.and_then(|way| survey.link_at(way.index));
            way.map(|link| link.name.as_str())
        }));
    }
    names.into_iter().filter_map(|name| survey.link(name)).take(INTERFACES_MAX).collect()
}
