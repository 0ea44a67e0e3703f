//! Places of a fixed number, in rows: first fit, neighbours joined when they are given back. Pure.

use std::collections::BTreeMap;

#[derive(Debug)]
pub(crate) struct Arena {
    /// Free rows: where each begins, and its length.
    free: BTreeMap<u32, u32>,
}

impl Arena {
    pub(crate) fn new(places: u32) -> Self {
        Self { free: BTreeMap::from([(0, places)]) }
    }

    /// A row of so many places, or none where no row is long enough.
    pub(crate) fn take(&mut self, places: u32) -> Option<u32> {
        let (&base, &length) = self.free.iter().find(|(_, length)| **length >= places)?;
        self.free.remove(&base);
        if length > places {
            self.free.insert(base + places, length - places);
        }
        Some(base)
    }

    /// Takes a row back.
    pub(crate) fn give(&mut self, base: u32, places: u32) {
        let (mut base, mut places) = (base, places);
        if let Some((&before, &length)) = self.free.range(..base).next_back()
            && before + length == base
        {
            self.free.remove(&before);
            (base, places) = (before, places + length);
        }
        if let Some(length) = self.free.remove(&(base + places)) {
            places += length;
        }
        self.free.insert(base, places);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_given_back_in_any_order_become_one_again() {
        let mut arena = Arena::new(100);
        let rows: Vec<_> = [10, 20, 30, 40].map(|places| (arena.take(places).expect("room"), places)).into();
        assert_eq!(rows.iter().map(|row| row.0).collect::<Vec<_>>(), [0, 10, 30, 60]);
        assert_eq!(arena.take(1), None);
        for index in [1, 3, 0, 2] {
            let (base, places) = rows[index];
            arena.give(base, places);
        }
        assert_eq!(arena.free, BTreeMap::from([(0, 100)]));
    }

    #[test]
    fn a_row_is_taken_from_the_first_gap_that_holds_it() {
        let mut arena = Arena::new(100);
        let [first, _second] = [arena.take(10), arena.take(10)].map(|row| row.expect("room"));
        arena.give(first, 10);
        assert_eq!(arena.take(11), Some(20));
        assert_eq!(arena.take(4), Some(0));
        assert_eq!(arena.take(6), Some(4));
    }
}
