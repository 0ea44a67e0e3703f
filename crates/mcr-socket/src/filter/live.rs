//! A filter that changes as what is wanted changes, one thing at a time.

#[cfg(test)]
mod tests;

use super::program::{ANY_SOURCE, Key, SOME_SOURCES, program};
use super::{AttachError, Codepoints, Filter, FilterLink, INSTRUCTIONS_MAX, Precision, Wanted, attach};
use crate::sys::bpf;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Up to so many destinations a compiled program is used, from there on a map: a program of that many compares no longer than a
/// map takes to be looked up in, and costs no memory.
const COMPILED_MAX: usize = 64;
/// Entries of one thing that is wanted: its destination, its source, and its address for packets without a port.
const ENTRIES_EACH_MAX: usize = 3;
/// Entries of the first map; one that is full is followed by one four times as large.
const ENTRIES_MIN: u32 = 1024;

/// A filter for a socket that lives while what it shall receive changes.
///
/// What is wanted is counted: what was inserted twice is let through until it was removed twice. Nothing changes at the socket
/// until [`LiveFilter::apply`].
///
/// Few destinations are compiled into classic BPF, see [`Filter`]. More of them go into an eBPF map, where each change costs the
/// same however many there are, and the filter stays exact for any number; for that the process needs CAP_BPF (or
/// CAP_SYS_ADMIN, or `kernel.unprivileged_bpf_disabled=0`). Without it they are compiled anew with each change, and coarser as
/// they become more.
#[derive(Debug)]
pub struct LiveFilter {
    link: FilterLink,
    marked: Codepoints,
    wanted: Counted,
    /// What came or went since the socket's filter was last brought in line.
    changed: HashSet<Wanted>,
    map: Option<Map>,
    /// The kernel has refused a map; it is not asked again.
    maps_refused: bool,
    /// The coarsest program is in force, for packets of these families: IPv4, IPv6.
    coarse: Option<(bool, bool)>,
}

/// What is wanted, and how often.
#[derive(Debug, Default)]
struct Counted {
    destinations: BTreeMap<(IpAddr, u16), Sources>,
    addresses: HashMap<IpAddr, usize>,
    ipv4: usize,
}

#[derive(Debug, Default)]
struct Sources {
    any: usize,
    some: BTreeMap<IpAddr, usize>,
}

/// A map in the kernel and the program that looks into it.
#[derive(Debug)]
struct Map {
    entries: bpf::HashMap<Key, u32>,
    /// What is in it.
    known: HashMap<Key, u32>,
    entries_max: u32,
    program: OwnedFd,
}

impl LiveFilter {
    /// For a socket on a link of this kind; nothing is wanted yet.
    pub fn new(link: FilterLink) -> Self {
        Self::marked(link, Codepoints::ALL)
    }

    /// As [`LiveFilter::new`], but only packets that bear one of these codepoints are let through, whatever is wanted.
    pub fn marked(link: FilterLink, marked: Codepoints) -> Self {
        Self {
            link,
            marked,
            wanted: Counted::default(),
            changed: HashSet::new(),
            map: None,
            maps_refused: false,
            coarse: None,
        }
    }

    /// Lets something through, from the next [`LiveFilter::apply`] on.
    pub fn insert(&mut self, wanted: Wanted) {
        if self.wanted.insert(wanted) {
            self.changed.insert(wanted);
        }
    }

    /// Takes back one [`LiveFilter::insert`] of the same; without one nothing happens.
    pub fn remove(&mut self, wanted: Wanted) {
        if self.wanted.remove(wanted) {
            self.changed.insert(wanted);
        }
    }

    /// How many different destinations (address and port) are wanted.
    pub fn len(&self) -> usize {
        self.wanted.destinations.len()
    }

    /// Whether nothing is wanted.
    pub fn is_empty(&self) -> bool {
        self.wanted.destinations.is_empty()
    }

    /// Brings a socket's filter in line with what is wanted; always the same socket. It may be live and in use by another process
    /// through a duplicate: at no moment is anything refused that was wanted before and after. What is queued at it already
    /// stays queued.
    ///
    /// Returns the precision that is now in force.
    ///
    /// # Errors
    /// [`AttachError`].
    pub fn apply(&mut self, fd: impl AsFd) -> Result<Precision, AttachError> {
        let fd = fd.as_fd();
        // Half as many again before it is compiled, so that one rule more or less does not change it back and forth.
        let most = if self.map.is_some() { COMPILED_MAX / 2 } else { COMPILED_MAX };
        if self.len() > most && !self.maps_refused {
            match self.apply_map(fd) {
                Ok(()) => {
                    self.changed.clear();
                    self.coarse = None;
                    return Ok(Precision::Exact);
                }
                // No right to it, or no memory for it.
                Err(_) => self.maps_refused = true,
            }
        }
        let precision = self.apply_compiled(fd)?;
        self.map = None;
        self.changed.clear();
        Ok(precision)
    }

    fn apply_map(&mut self, fd: BorrowedFd<'_>) -> io::Result<()> {
        let Self { link, marked, wanted, map, changed, .. } = self;
        if let Some(map) = map
            && map.has_room(changed.len())
        {
            return map.update(wanted, changed.iter().copied());
        }
        let mut new = Map::new(*link, *marked, wanted)?;
        new.update(wanted, wanted.list().into_iter())?;
        bpf::attach_loaded_filter(fd, &new.program)?;
        *map = Some(new);
        Ok(())
    }

    fn apply_compiled(&mut self, fd: BorrowedFd<'_>) -> Result<Precision, AttachError> {
        // A search among addresses takes an instruction to divide them, and one to compare each.
        let fits = 2 * self.wanted.addresses.len() <= INSTRUCTIONS_MAX;
        if !fits {
            let families = (self.wanted.ipv4 > 0, self.wanted.ipv4 < self.wanted.addresses.len());
            if self.coarse != Some(families) {
                attach(fd, &Filter::any_udp(families, self.link, self.marked))?;
                self.coarse = Some(families);
            }
            return Ok(Precision::AnyUdp);
        }
        self.coarse = None;
        attach(fd, &Filter::compile_marked(&self.wanted.list(), self.link, self.marked))
    }
}

impl Counted {
    /// Whether that changes what is let through.
    fn insert(&mut self, wanted: Wanted) -> bool {
        let Wanted { destination, port, source } = wanted;
        if !is_sane(&wanted) {
            return false;
        }
        let sources = self.destinations.entry((destination, port)).or_insert_with(|| {
            let users = self.addresses.entry(destination).or_default();
            self.ipv4 += usize::from(*users == 0 && destination.is_ipv4());
            *users += 1;
            Sources::default()
        });
        let count = match source {
            None => &mut sources.any,
            Some(source) => sources.some.entry(source).or_default(),
        };
        *count += 1;
        *count == 1
    }

    fn remove(&mut self, wanted: Wanted) -> bool {
        let Wanted { destination, port, source } = wanted;
        let Some(sources) = self.destinations.get_mut(&(destination, port)) else { return false };
        let left = match source {
            None => sources.any.checked_sub(1).inspect(|left| sources.any = *left),
            Some(source) => sources.some.get_mut(&source).and_then(|count| {
                *count = count.checked_sub(1)?;
                Some(*count)
            }),
        };
        if left != Some(0) {
            return false;
        }
        if let Some(source) = source {
            sources.some.remove(&source);
        }
        if sources.any == 0 && sources.some.is_empty() {
            self.destinations.remove(&(destination, port));
            if let Some(users) = self.addresses.get_mut(&destination) {
                *users -= 1;
                if *users == 0 {
                    self.addresses.remove(&destination);
                    self.ipv4 -= usize::from(destination.is_ipv4());
                }
            }
        }
        true
    }

    fn list(&self) -> Vec<Wanted> {
        let of = |(&(destination, port), sources): (&(IpAddr, u16), &Sources)| {
            let any = (sources.any > 0).then_some(None);
            let some: Vec<_> = sources.some.keys().copied().map(Some).collect();
            any.into_iter()
                .chain(some)
                .map(move |source| Wanted { destination, port, source })
                .collect::<Vec<_>>()
        };
        self.destinations.iter().flat_map(of).collect()
    }

    /// Most entries a map could need for this: one for each destination, address and source.
    fn entries(&self) -> usize {
        let sources: usize = self.destinations.values().map(|sources| sources.some.len()).sum();
        self.destinations.len() + self.addresses.len() + sources
    }
}

/// Of another family than the destination a source matches nothing.
fn is_sane(wanted: &Wanted) -> bool {
    wanted.source.is_none_or(|source| source.is_ipv4() == wanted.destination.is_ipv4())
}

impl Map {
    /// An empty one with room for what is wanted and as much again.
    fn new(link: FilterLink, marked: Codepoints, wanted: &Counted) -> io::Result<Self> {
        let needed = u32::try_from(2 * wanted.entries()).map_err(io::Error::other)?;
        let mut entries_max = ENTRIES_MIN;
        while entries_max < needed {
            entries_max = entries_max.saturating_mul(4);
        }
        let entries = bpf::HashMap::create(entries_max)?;
        let program = bpf::load_filter(&program(link, marked, entries.number()))?;
        Ok(Self { entries, known: HashMap::new(), entries_max, program })
    }

    /// Whether so many changes fit in.
    fn has_room(&self, changes: usize) -> bool {
        self.known.len() + ENTRIES_EACH_MAX * changes <= self.entries_max as usize
    }

    /// Brings the entries that have to do with these in line. What is wanted before and after is let through at every moment
    /// between: sources come before the entries that send packets to them, and go after those.
    fn update(&mut self, wanted: &Counted, changed: impl Iterator<Item = Wanted> + Clone) -> io::Result<()> {
        let of_source = |one: Wanted| {
            let source = one.source?;
            let sources = wanted.destinations.get(&(one.destination, one.port));
            let is_wanted = sources.is_some_and(|sources| sources.some.contains_key(&source));
            Some((Key::new(one.destination, one.port, Some(source)), is_wanted))
        };
        let of_address =
            |one: Wanted| (Key::portless(one.destination), wanted.addresses.contains_key(&one.destination));
        let others = || changed.clone().filter_map(of_source).chain(changed.clone().map(of_address));
        for (key, _) in others().filter(|(_, is_wanted)| *is_wanted) {
            self.set(key, Some(ANY_SOURCE))?;
        }
        for Wanted { destination, port, .. } in changed.clone() {
            let value = wanted.destinations.get(&(destination, port)).map(|sources| match sources.any {
                0 => SOME_SOURCES,
                _ => ANY_SOURCE,
            });
            self.set(Key::new(destination, port, None), value)?;
        }
        others().filter(|(_, is_wanted)| !is_wanted).try_for_each(|(key, _)| self.set(key, None))
    }

    fn set(&mut self, key: Key, value: Option<u32>) -> io::Result<()> {
        if self.known.get(&key).copied() == value {
            return Ok(());
        }
        match value {
            Some(value) => {
                self.entries.put(&key, &value)?;
                self.known.insert(key, value);
            }
            None => {
                self.entries.remove(&key)?;
                self.known.remove(&key);
            }
        }
        Ok(())
    }
}
