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

/// What a process may do, as far as it decides on eBPF; none where the kernel does not say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Rights {
    /// Bit n is capability n.
    pub(crate) capabilities: Option<u64>,
    /// Whether a seccomp filter is on it.
    pub(crate) filtered: bool,
    /// Whether its user namespace is another than the first.
    pub(crate) own_user_namespace: bool,
    /// How far the kernel is locked down, if it is.
    pub(crate) lockdown: Option<String>,
}

impl Rights {
    pub(crate) fn read() -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        Self::parse(
            &text("/proc/thread-self/status"),
            &text("/proc/self/uid_map"),
            &text("/sys/kernel/security/lockdown"),
        )
    }

    /// The first as in proc_pid_status(5), the second as in user_namespaces(7); the third has the level in force in brackets
    /// (`security/lockdown/lockdown.c`).
    fn parse(status: &str, uid_map: &str, lockdown: &str) -> Self {
        let line = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
        let whole: Vec<_> = uid_map.split_whitespace().collect();
        let level = lockdown.split_whitespace().find_map(|word| word.strip_prefix('[')?.strip_suffix(']'));
        Self {
            capabilities: line("CapEff:").and_then(|mask| u64::from_str_radix(mask, 16).ok()),
            filtered: line("Seccomp:") == Some("2"),
            own_user_namespace: !whole.is_empty() && whole != ["0", "0", "4294967295"],
            lockdown: level.filter(|level| *level != "none").map(Into::into),
        }
    }

    /// Which of these, by name and number, are missing.
    pub(crate) fn lacks<'a>(&self, wanted: &[(&'a str, u32)]) -> Vec<&'a str> {
        let Some(held) = self.capabilities else { return Vec::new() };
        wanted.iter().filter(|(_, number)| held >> number & 1 == 0).map(|(name, _)| *name).collect()
    }
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
    fn rights_are_read_as_the_kernel_writes_them() {
        let status = "Name:\tmcrd\nCapPrm:\t0000000000000000\nCapEff:\t0000008000001000\nSeccomp:\t2\nSeccomp_filters:\t1\n";
        let rights =
            Rights::parse(status, "         0       1000          1\n", "none [integrity] confidentiality\n");
        let wanted = [("CAP_NET_ADMIN", 12), ("CAP_NET_RAW", 13), ("CAP_BPF", 39)];
        assert_eq!(rights.lacks(&wanted), ["CAP_NET_RAW"]);
        assert!(rights.filtered && rights.own_user_namespace);
        assert_eq!(rights.lockdown.as_deref(), Some("integrity"));
        let first = "         0          0 4294967295\n";
        let plain = Rights::parse("Seccomp:\t0\n", first, "[none] integrity confidentiality\n");
        assert_eq!(plain, Rights::default());
        assert_eq!(plain.lacks(&wanted), [""; 0], "what is not known is not missing");
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
