//! Who else has an interface's frames to groups: devices on top of it, wherever they are. A macvlan or ipvlan in another network namespace
//! cannot be seen from here, but the groups that are joined there are handed down: the interface's list of multicast addresses
//! counts one user more than there are groups joined on it.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use mcr_netmon::Snapshot;
use mcr_parse::multicast_mac;

type Mac = [u8; 6];
type Counts = BTreeMap<(u32, Mac), u32>;

/// Users of multicast addresses.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Beside {
    /// By `/proc/net/dev_mcast`.
    users: Counts,
    /// Groups joined here that have the address.
    joined: Counts,
}

impl Beside {
    /// Looks again. Whether anything has changed.
    pub(super) fn read(&mut self) -> bool {
        let text =
            |name: &str| fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap_or_default();
        let now = Self::parse(&text("dev_mcast"), &text("igmp"), &text("igmp6"));
        let changed = now != *self;
        *self = now;
        changed
    }

    /// Whether somebody beside this host's own sockets has a group on an interface.
    pub(super) fn has(&self, ifindex: u32, group: IpAddr, network: &Snapshot) -> bool {
        let Some(mac) = multicast_mac(group) else { return false };
        let count = |counts: &Counts, ifindex| counts.get(&(ifindex, mac)).copied().unwrap_or(0);
        // A VLAN of this namespace hands down what it has itself, and its frames are others.
        let vlans = network.links().filter(|link| {
            link.parent == Some(ifindex)
                && link.driver.as_deref() == Some("vlan")
                && count(&self.users, link.index) > 0
        });
        count(&self.users, ifindex) > count(&self.joined, ifindex) + vlans.count() as u32
    }

    fn parse(dev_mcast: &str, igmp: &str, igmp6: &str) -> Self {
        let mut new = Self::default();
        for line in dev_mcast.lines() {
            // Index, name, users, users of the address for all, address.
            let mut words = line.split_whitespace();
            let (index, users) = (words.next(), words.nth(1));
            let (Some(index), Some(users), Some(mac)) =
                (number(index), number(users), words.nth(1).and_then(mac))
            else {
                continue;
            };
            new.users.insert((index, mac), users);
        }
        let groups = joined_v4(igmp).chain(joined_v6(igmp6));
        for (index, group) in groups {
            if let Some(mac) = multicast_mac(group) {
                *new.joined.entry((index, mac)).or_default() += 1;
            }
        }
        new
    }
}

/// A line for each interface, then one for each group, its address in hexadecimal in the machine's order.
fn joined_v4(text: &str) -> impl Iterator<Item = (u32, IpAddr)> {
    let mut index = None;
    let groups = text.lines().skip(1).filter_map(move |line| {
        let first = line.split_whitespace().next()?;
        if !line.starts_with(char::is_whitespace) {
            index = first.parse().ok();
            return None;
        }
        let group = u32::from_str_radix(first, 16).ok()?;
        Some((index?, IpAddr::from(Ipv4Addr::from(group.to_ne_bytes()))))
    });
    groups.collect::<Vec<_>>().into_iter()
}

/// Index, name, group.
fn joined_v6(text: &str) -> impl Iterator<Item = (u32, IpAddr)> {
    text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let index = words.next()?.parse().ok()?;
        let group = u128::from_str_radix(words.nth(1)?, 16).ok()?;
        Some((index, IpAddr::from(Ipv6Addr::from(group))))
    })
}

fn number(word: Option<&str>) -> Option<u32> {
    word?.parse().ok()
}

fn mac(word: &str) -> Option<Mac> {
    let mut mac = [0; 6];
    for (at, byte) in mac.iter_mut().enumerate() {
        *byte = u8::from_str_radix(word.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    const IGMP: &str = "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n\
        4\teth0      :     1      V3\n\t\t\t\t010101EF     1 0:00000000\t\t0\n\t\t\t\t010000E0     1 0:00000000\t\t0\n";
    const IGMP6: &str = "4    eth0            ff3e0000000000000000000000000001     1 00000004 0\n";

    fn has(users: &str, group: &str) -> bool {
        let beside = Beside::parse(users, IGMP, IGMP6);
        beside.has(4, group.parse().expect("address"), &Snapshot::default())
    }

    #[test]
    fn a_group_that_has_more_users_than_are_here_is_had_by_somebody_else() {
        assert!(!has("4    eth0            1     0     01005e010101\n", "239.1.1.1"));
        assert!(has("4    eth0            2     0     01005e010101\n", "239.1.1.1"));
        assert!(!has("5    eth1            2     0     01005e010101\n", "239.1.1.1"), "of another interface");
        assert!(has("4    eth0            1     0     01005e010102\n", "239.1.1.2"), "not joined here");
        assert!(!has("4    eth0            1     0     333300000001\n", "ff3e::1"));
        assert!(has("4    eth0            2     0     333300000001\n", "ff3e::1"));
    }
}
