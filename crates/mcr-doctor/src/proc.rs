//! What the kernel says in files: sysctls, memberships, the receive queues' drops. The files are those of the calling
//! thread's network namespace. Parsing is apart from reading.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
};

/// The file of a sysctl; a dot inside an interface's name is written as a slash in the key, as sysctl(8) does.
fn path(key: &str) -> PathBuf {
    let swap = |c| match c {
        '.' => '/',
        '/' => '.',
        c => c,
    };
    format!("/proc/sys/{}", key.chars().map(swap).collect::<String>()).into()
}

/// An interface's name as a part of a sysctl's key.
pub(crate) fn key_part(ifname: &str) -> String {
    ifname.replace('.', "/")
}

/// A sysctl that is a number; none if this kernel or namespace does not have it.
pub(crate) fn sysctl(key: &str) -> Option<i64> {
    fs::read_to_string(path(key)).ok()?.trim().parse().ok()
}

/// What the host is a member of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Memberships {
    pub(crate) groups: BTreeMap<u32, BTreeSet<IpAddr>>,
    /// The IGMP version spoken on an interface.
    pub(crate) igmp_versions: BTreeMap<u32, u8>,
}

impl Memberships {
    pub(crate) fn read() -> io::Result<Self> {
        let mut memberships = Self::default();
        memberships.read_igmp(&fs::read_to_string("/proc/thread-self/net/igmp")?);
        // A kernel without IPv6 has no such file.
        memberships.read_igmp6(&fs::read_to_string("/proc/thread-self/net/igmp6").unwrap_or_default());
        Ok(memberships)
    }

    pub(crate) fn has(&self, index: u32, group: IpAddr) -> bool {
        self.groups.get(&index).is_some_and(|groups| groups.contains(&group))
    }

    /// `net/ipv4/igmp.c`, `igmp_mc_seq_show`: a line for each interface, then one for each group, whose address is the 32 bits as
    /// this machine holds them.
    fn read_igmp(&mut self, text: &str) {
        let mut index = None;
        for line in text.lines().skip(1) {
            let words: Vec<_> = line.split_whitespace().collect();
            if line.starts_with(|c: char| c.is_ascii_digit()) {
                index = words.first().and_then(|word| word.parse().ok());
                let version = words.last().and_then(|word| word.strip_prefix('V')?.parse().ok());
                if let Some((index, version)) = index.zip(version) {
                    self.igmp_versions.insert(index, version);
                }
            } else if let Some(index) = index
                && let Some(raw) = words.first().and_then(|word| u32::from_str_radix(word, 16).ok())
            {
                let group = Ipv4Addr::from(raw.to_ne_bytes());
                self.groups.entry(index).or_default().insert(group.into());
            }
        }
    }

    /// `net/ipv6/mcast.c`, `igmp6_mc_seq_show`: index, name, address without colons.
    fn read_igmp6(&mut self, text: &str) {
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let index = words.next().and_then(|word| word.parse().ok());
            let group = words.nth(1).and_then(|word| u128::from_str_radix(word, 16).ok());
            if let Some((index, group)) = index.zip(group) {
                self.groups.entry(index).or_default().insert(Ipv6Addr::from(group).into());
            }
        }
    }
}

/// Frames that every core's receive queue (`net.core.netdev_max_backlog`) had no room for.
pub(crate) fn backlog_drops() -> io::Result<u64> {
    fs::read_to_string("/proc/net/softnet_stat").map(|text| read_softnet(&text))
}

/// `net/core/net-procfs.c`, `softnet_seq_show`: a line a core, the second number is what was dropped.
fn read_softnet(text: &str) -> u64 {
    let dropped = |line: &str| u64::from_str_radix(line.split_whitespace().nth(1)?, 16).ok();
    text.lines().filter_map(dropped).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memberships_are_read_as_the_kernel_writes_them() {
        let mut memberships = Memberships::default();
        let raw = format!("{:08X}", u32::from_ne_bytes([239, 1, 1, 1]));
        memberships.read_igmp(&format!(
            "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n\
             1\tlo        :     1      V3\n\t\t\t\t010000E0     1 0:00000000\t\t0\n\
             2\teth0      :     2      V2\n\t\t\t\t{raw}     1 0:00000000\t\t1\n"
        ));
        memberships.read_igmp6("2    eth0            ff150000000000000000000000000001     1 00000004 0\n");
        assert!(memberships.has(2, "239.1.1.1".parse().expect("an address")));
        assert!(memberships.has(2, "ff15::1".parse().expect("an address")));
        assert!(!memberships.has(1, "239.1.1.1".parse().expect("an address")));
        assert_eq!(memberships.igmp_versions, BTreeMap::from([(1, 3), (2, 2)]));
    }

    #[test]
    fn the_backlogs_drops_are_summed_over_the_cores() {
        let text = "0000a1 00000010 00000001 0 0\n0000b2 00000002 00000000 0 0\n";
        assert_eq!(read_softnet(text), 18);
    }

    #[test]
    fn an_interface_with_a_dot_has_a_key() {
        let key = format!("net.ipv4.conf.{}.rp_filter", key_part("eth0.5"));
        assert_eq!(path(&key).to_str(), Some("/proc/sys/net/ipv4/conf/eth0.5/rp_filter"));
    }
}
