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
#[derive(Debug, Default)]
pub(super) struct Beside {
    /// What was read last: as long as it says the same, nothing of it is taken apart.
    text: [String; 3],
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
        self.see(["dev_mcast", "igmp", "igmp6"].map(text))
    }

    fn see(&mut self, text: [String; 3]) -> bool {
        if text == self.text {
            return false;
        }
        let now = Self::parse(text);
        let changed = (&now.users, &now.joined) != (&self.users, &self.joined);
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

    fn parse(text: [String; 3]) -> Self {
        let (mut users_of, mut joined) = (Counts::new(), Counts::new());
        let [dev_mcast, igmp, igmp6] = &text;
        for line in dev_mcast.lines() {
            // Index, name, users, users of the address for all, address.
            let mut words = line.split_whitespace();
            let (index, users) = (words.next(), words.nth(1));
            let (Some(index), Some(users), Some(mac)) =
                (number(index), number(users), words.nth(1).and_then(mac))
            else {
                continue;
            };
            users_of.insert((index, mac), users);
        }
        let groups = joined_v4(igmp).chain(joined_v6(igmp6));
        for (index, group) in groups {
            if let Some(mac) = multicast_mac(group) {
                *joined.entry((index, mac)).or_default() += 1;
            }
        }
        Self { users: users_of, joined, text }
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
        let beside = Beside::parse([users, IGMP, IGMP6].map(String::from));
        beside.has(4, group.parse().expect("address"), &Snapshot::default())
    }

    #[test]
    fn timers_that_run_change_the_text_and_nothing_else() {
        let text =
            |users: &str, timer: &str| [users, &IGMP.replace("0:00000000", timer), IGMP6].map(String::from);
        let mut beside = Beside::default();
        let seen = [
            ("4    eth0            1     0     01005e010101\n", "0:00000000", true),
            ("4    eth0            1     0     01005e010101\n", "0:00000000", false),
            ("4    eth0            1     0     01005e010101\n", "1:0000002a", false),
            ("4    eth0            2     0     01005e010101\n", "1:0000002a", true),
        ];
        for (users, timer, changed) in seen {
            assert_eq!(beside.see(text(users, timer)), changed, "{users} {timer}");
        }
        assert!(beside.has(4, [239, 1, 1, 1].into(), &Snapshot::default()));
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
