//! A table of bounded size for what strangers can make us remember: the entry used longest ago of a few gives way.
//!
//! Never allocates after it was made, never searches more than one set, and never fails to find room.

use std::hash::{BuildHasher, Hash, RandomState};

/// Entries that share a place; the one used longest ago is replaced.
const WAYS: usize = 4;

#[derive(Debug)]
struct Entry<K, V> {
    key: K,
    value: V,
    used_ns: u64,
}

type Set<K, V> = [Option<Entry<K, V>>; WAYS];

/// At most `sets * 4` values by key, each forgotten once it was not used for `idle_ns`.
#[derive(Debug)]
pub(crate) struct Table<K, V> {
    entries: Box<[Set<K, V>]>,
    idle_ns: u64,
    // Keyed, so that nobody can choose keys that all fall into one set.
    hasher: RandomState,
}

impl<K: Hash + Eq, V> Table<K, V> {
    pub(crate) fn new(sets: usize, idle_ns: u64) -> Self {
        assert!(sets.is_power_of_two());
        let entries = (0..sets).map(|_| [const { None }; WAYS]).collect();
        Self { entries, idle_ns, hasher: RandomState::new() }
    }

    /// The value of `key`, made anew if there is none or it was idle too long.
    pub(crate) fn entry(&mut self, key: K, now_ns: u64, new: impl FnOnce() -> V) -> &mut V {
        let set = self.hasher.hash_one(&key) as usize & (self.entries.len() - 1);
        let set = &mut self.entries[set];
        let found = set.iter().position(|entry| entry.as_ref().is_some_and(|entry| entry.key == key));
        let way = found.unwrap_or_else(|| oldest(set));
        let fresh = |entry: &Entry<K, V>| now_ns.saturating_sub(entry.used_ns) < self.idle_ns;
        let kept = if found.is_some() { set[way].take().filter(fresh) } else { None };
        let value = kept.map_or_else(new, |entry| entry.value);
        &mut set[way].insert(Entry { key, value, used_ns: now_ns }).value
    }
}

fn oldest<K, V>(set: &Set<K, V>) -> usize {
    let age = |way: &usize| set[*way].as_ref().map(|entry| entry.used_ns);
    // An empty place is older than any entry.
    (0..WAYS).min_by_key(age).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_entry_used_longest_ago_gives_way_and_no_other() {
        let mut table = Table::new(1, u64::MAX);
        for key in 0..4u32 {
            *table.entry(key, u64::from(key), || 0) = key;
        }
        table.entry(0, 10, || unreachable!());
        assert_eq!(*table.entry(9, 11, || 9), 9);
        for key in [0, 2, 3, 9] {
            assert_eq!(*table.entry(key, 12, || 100), key);
        }
        assert_eq!(*table.entry(1, 13, || 100), 100);
    }

    #[test]
    fn an_idle_entry_is_forgotten() {
        let mut table = Table::new(4, 100);
        *table.entry("a", 0, || 0) = 5;
        assert_eq!(*table.entry("a", 99, || 0), 5);
        assert_eq!(*table.entry("a", 199, || 0), 0);
    }
}
