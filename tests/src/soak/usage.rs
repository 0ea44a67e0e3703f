//! What the processes of a daemon hold: memory, descriptors, sockets, memberships, BPF objects.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    path::Path,
};

use mcr_lab::Namespace;
use serde_json::{Value, json};

use crate::{held::Held, processes::descendants};

/// A BPF object that a descriptor stands for: `prog`, `map` or `link`, and its number.
pub(super) type BpfObject = (&'static str, u32);

/// One process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ProcessUsage {
    pub(super) pid: u32,
    pub(super) rss_kib: u64,
    /// Of these, memory of its own: neither files nor shared.
    pub(super) anon_kib: u64,
    /// Descriptors by what they are.
    fds: BTreeMap<String, usize>,
    /// Its sockets, as /proc/net shows them.
    sockets: BTreeSet<String>,
}

/// All of a daemon.
#[derive(Debug, Clone)]
pub(super) struct Usage {
    /// By what they do: `supervisor`, `control`, `worker 0`, `reflector NAME`.
    pub(super) processes: BTreeMap<String, ProcessUsage>,
    held: Held,
    /// Network namespaces that they are in.
    namespaces: usize,
    pub(super) bpf: BTreeSet<BpfObject>,
    /// What the whole machine's kernel has in slabs that it cannot give back.
    pub(super) slab_kib: u64,
    /// Bytes of each kind of slab that are in use.
    slabs: BTreeMap<String, u64>,
}

impl Usage {
    /// What a supervisor's processes hold; whoever is not named is control.
    pub(super) fn of(supervisor: u32, named: &[(String, u32)], relay: &Namespace) -> Self {
        let mut processes = BTreeMap::new();
        let (mut bpf, mut namespaces) = (BTreeSet::new(), BTreeSet::new());
        let children = descendants(supervisor).into_iter().map(|child| child.pid);
        for pid in children.chain([supervisor]) {
            let named = named.iter().find(|(_, named)| *named == pid).map(|(role, _)| role.clone());
            let role =
                named.unwrap_or_else(|| if pid == supervisor { "supervisor" } else { "control" }.to_owned());
            let Some(usage) = process(pid, &mut bpf) else { continue };
            namespaces.extend(fs::read_link(format!("/proc/{pid}/ns/net")).ok());
            // Two of a role is one too many, and must be seen.
            let role = if processes.contains_key(&role) { format!("{role} again") } else { role };
            processes.insert(role, usage);
        }
        let (held, namespaces) = (Held::of(relay), namespaces.len());
        Self { processes, held, namespaces, bpf, slab_kib: slab_kib(), slabs: slabs() }
    }

    /// In what two differ that must be alike when the daemon has the same to do; memory is not among it.
    pub(super) fn difference(&self, other: &Self) -> Option<String> {
        let roles = |usage: &Self| usage.processes.keys().cloned().collect::<Vec<_>>();
        if roles(self) != roles(other) {
            return Some(format!("processes {:?}, before {:?}", roles(other), roles(self)));
        }
        for ((role, before), after) in self.processes.iter().zip(other.processes.values()) {
            if before.fds != after.fds {
                let (new, gone) =
                    (after.sockets.difference(&before.sockets), before.sockets.difference(&after.sockets));
                return Some(format!(
                    "descriptors of {role}: {:?}, before {:?}; sockets new {:?}, gone {:?}",
                    after.fds,
                    before.fds,
                    new.collect::<Vec<_>>(),
                    gone.collect::<Vec<_>>()
                ));
            }
        }
        let kinds = |usage: &Self| {
            let mut kinds = BTreeMap::new();
            usage.bpf.iter().for_each(|(kind, _)| *kinds.entry(*kind).or_insert(0) += 1);
            kinds
        };
        if kinds(self) != kinds(other) {
            return Some(format!("BPF objects {:?}, before {:?}", kinds(other), kinds(self)));
        }
        if (&self.held, self.namespaces) != (&other.held, other.namespaces) {
            let gone: Vec<_> = self.held.groups.difference(&other.held.groups).collect();
            let new: Vec<_> = other.held.groups.difference(&self.held.groups).collect();
            return Some(format!(
                "sockets {}, before {}; groups gone {gone:?}, new {new:?}",
                other.counts(),
                self.counts()
            ));
        }
        None
    }

    fn counts(&self) -> Value {
        let Held { packet, udp, raw, groups } = &self.held;
        let kinds: Vec<_> = self.bpf.iter().map(|(kind, _)| *kind).collect();
        let count = |kind: &str| kinds.iter().filter(|known| **known == kind).count();
        json!({
            "packet_sockets": packet, "udp_sockets": udp, "raw_sockets": raw, "groups": groups.len(),
            "bpf_programs": count("prog"), "bpf_maps": count("map"), "bpf_links": count("link"),
            "net_namespaces": self.namespaces,
        })
    }

    /// Memory of each kind of process.
    pub(super) fn rss(&self) -> impl Iterator<Item = (String, u64)> + '_ {
        self.processes
            .iter()
            .map(|(role, usage)| (role.split(' ').next().unwrap_or(role).to_owned(), usage.rss_kib))
    }

    /// The short of it.
    pub(super) fn line(&self) -> String {
        let fds: usize = self.processes.values().flat_map(|usage| usage.fds.values()).sum();
        let rss: u64 = self.processes.values().map(|usage| usage.rss_kib).sum();
        format!("{} processes with {fds} descriptors and {} MiB", self.processes.len(), rss / 1024)
    }

    pub(super) fn to_json(&self) -> Value {
        let processes = self.processes.iter().map(|(role, usage)| {
            let fds: usize = usage.fds.values().sum();
            (role.clone(), json!({"rss_kib": usage.rss_kib, "anon_kib": usage.anon_kib, "fds": fds}))
        });
        let processes: serde_json::Map<_, _> = processes.collect();
        json!({"processes": processes, "held": self.counts(), "slab_kib": self.slab_kib})
    }

    /// Which slabs have grown most, in KiB. They are all the machine's, not the daemon's alone.
    pub(super) fn slabs_grown(&self, before: &Self) -> Value {
        let grown = self.slabs.iter().map(|(name, bytes)| {
            let was = before.slabs.get(name).copied().unwrap_or(0);
            (bytes.saturating_sub(was) / 1024, name)
        });
        let mut grown: Vec<_> = grown.filter(|(kib, _)| *kib > 0).collect();
        grown.sort_by(|a, b| b.cmp(a));
        grown
            .into_iter()
            .take(5)
            .map(|(kib, name)| (name.clone(), kib.into()))
            .collect::<serde_json::Map<_, _>>()
            .into()
    }
}

/// None if it has ended meanwhile.
fn process(pid: u32, bpf: &mut BTreeSet<BpfObject>) -> Option<ProcessUsage> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let (rss_kib, anon_kib) = (kib(&status, "VmRSS:")?, kib(&status, "RssAnon:")?);
    let (mut fds, mut sockets) = (BTreeMap::new(), BTreeSet::new());
    let known = known_sockets(pid);
    for fd in fs::read_dir(format!("/proc/{pid}/fd")).ok()?.filter_map(Result::ok) {
        let Ok(target) = fs::read_link(fd.path()) else { continue };
        let socket = inode(&target).map(|inode| {
            known.get(&inode).cloned().unwrap_or_else(|| ("socket of another kind", format!("{inode}")))
        });
        let kind = socket.as_ref().map_or_else(|| kind(&target), |(kind, _)| (*kind).to_owned());
        *fds.entry(kind).or_default() += 1;
        sockets.extend(socket.map(|(kind, text)| format!("{kind} {text}")));
        let info = format!("/proc/{pid}/fdinfo/{}", fd.file_name().to_string_lossy());
        bpf.extend(bpf_objects(&fs::read_to_string(info).unwrap_or_default()));
    }
    Some(ProcessUsage { pid, rss_kib, anon_kib, fds, sockets })
}

/// The sockets of a process's network namespace, by inode: what kind, and the line of its table in /proc/net.
fn known_sockets(pid: u32) -> HashMap<u64, (&'static str, String)> {
    const UDP: usize = 9;
    let tables = [
        ("unix", 6),
        ("netlink", 9),
        ("packet", 8),
        ("udp", UDP),
        ("udp6", UDP),
        ("raw", UDP),
        ("raw6", UDP),
        ("tcp", UDP),
        ("tcp6", UDP),
    ];
    let mut known = HashMap::new();
    for (table, column) in tables {
        let text = fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default();
        for line in text.lines().skip(1) {
            let words: Vec<_> = line.split_whitespace().collect();
            let inode = words.get(column).and_then(|inode| inode.parse().ok());
            known.extend(inode.map(|inode: u64| (inode, (table, words.join(" ")))));
        }
    }
    known
}

/// That of a socket.
fn inode(target: &Path) -> Option<u64> {
    target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// `socket:[1234]` is a `socket`, a file its path.
fn kind(target: &Path) -> String {
    let text = target.to_string_lossy();
    text.split_once(":[").map_or(&*text, |(kind, _)| kind).to_owned()
}

/// What bpf(2)'s descriptors tell of themselves in fdinfo: a link also names its program.
fn bpf_objects(info: &str) -> impl Iterator<Item = BpfObject> + '_ {
    info.lines().filter_map(|line| {
        let (name, id) = line.split_once(':')?;
        let kind = match name {
            "prog_id" => "prog",
            "map_id" => "map",
            "link_id" => "link",
            _ => return None,
        };
        Some((kind, id.trim().parse().ok()?))
    })
}

/// All BPF objects of the machine.
pub(super) fn loaded_bpf() -> BTreeSet<BpfObject> {
    let loaded = mcr_ebpf::loaded();
    let of = |kind, ids: BTreeSet<u32>| ids.into_iter().map(move |id| (kind, id));
    of("prog", loaded.programs).chain(of("map", loaded.maps)).chain(of("link", loaded.links)).collect()
}

fn slab_kib() -> u64 {
    fs::read_to_string("/proc/meminfo").ok().and_then(|text| kib(&text, "SUnreclaim:")).unwrap_or(0)
}

/// /proc/slabinfo, slabinfo(5): name, objects in use, objects, bytes of each. Only root may read it.
fn slabs() -> BTreeMap<String, u64> {
    let text = fs::read_to_string("/proc/slabinfo").unwrap_or_default();
    let slab = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        let number = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok());
        Some(((*words.first()?).to_owned(), number(1)? * number(3)?))
    };
    text.lines().filter_map(slab).collect()
}

/// `VmRSS:     1234 kB`.
fn kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_is_known_by_its_kind_and_a_bpf_object_by_its_number() {
        assert_eq!(inode(Path::new("socket:[123]")), Some(123));
        assert_eq!(inode(Path::new("pipe:[123]")), None);
        assert_eq!(kind(Path::new("anon_inode:bpf-map")), "anon_inode:bpf-map");
        let link = "pos:\t0\nlink_type:\ttcx\nlink_id:\t7\nprog_tag:\tabcd\nprog_id:\t9\n";
        assert_eq!(bpf_objects(link).collect::<Vec<_>>(), [("link", 7), ("prog", 9)]);
    }

    #[test]
    fn one_descriptor_more_is_a_difference_and_so_is_a_process() {
        let of = |fds: usize| Usage {
            processes: [(
                "control".to_owned(),
                ProcessUsage { fds: [("socket".to_owned(), fds)].into(), ..ProcessUsage::default() },
            )]
            .into(),
            held: Held { packet: 0, udp: 0, raw: 0, groups: BTreeSet::new() },
            namespaces: 1,
            bpf: BTreeSet::new(),
            slab_kib: 0,
            slabs: BTreeMap::new(),
        };
        assert_eq!(of(3).difference(&of(3)), None);
        assert!(of(3).difference(&of(4)).is_some_and(|text| text.contains("control")));
        let mut more = of(3);
        more.processes.insert("worker 0".to_owned(), ProcessUsage::default());
        assert!(of(3).difference(&more).is_some_and(|text| text.contains("worker 0")));
    }
}
