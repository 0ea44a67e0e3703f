//! Places of counters in a per-CPU map: who has which, and what of it was told already. Pure.
//!
//! A place whose owner is gone stays readable until no program can count in it any more; what it then holds is told, and only then
//! is it given to another.

use std::{collections::HashMap, hash::Hash};

use crate::grace::Ticket;

#[derive(Debug)]
pub(crate) struct Pool<O, C> {
    max: u32,
    next: u32,
    free: Vec<u32>,
    owners: HashMap<O, u32>,
    told: HashMap<u32, (O, C)>,
    retiring: Vec<(Ticket, u32)>,
}

impl<O: Copy + Eq + Hash, C: Default + Copy> Pool<O, C> {
    pub(crate) fn new(max: u32) -> Self {
        let (owners, told) = (HashMap::new(), HashMap::new());
        Self { max, next: 0, free: Vec::new(), owners, told, retiring: Vec::new() }
    }

    /// An owner's place, given to it the first time; none if all are taken.
    pub(crate) fn place(&mut self, owner: O) -> Option<u32> {
        if let Some(place) = self.owners.get(&owner) {
            return Some(*place);
        }
        let place = match self.free.pop() {
            Some(place) => place,
            None if self.next < self.max => {
                self.next += 1;
                self.next - 1
            }
            None => return None,
        };
        self.owners.insert(owner, place);
        self.told.insert(place, (owner, C::default()));
        Some(place)
    }

    /// The place that an owner has.
    ///
    /// # Panics
    /// If it has none: places are given before anything is made of them.
    pub(crate) fn find(&self, owner: O) -> u32 {
        *self.owners.get(&owner).expect("a place is given before it is used")
    }

    /// Whether the owner of a place still has it.
    pub(crate) fn is_current(&self, place: u32) -> bool {
        self.owner(place).is_some_and(|owner| self.owners.get(&owner) == Some(&place))
    }

    /// Who has, or last had, a place.
    pub(crate) fn owner(&self, place: u32) -> Option<O> {
        self.told.get(&place).map(|(owner, _)| *owner)
    }

    pub(crate) fn has(&self, owner: O) -> bool {
        self.owners.contains_key(&owner)
    }

    /// How many places could be given now.
    pub(crate) fn available(&self) -> u32 {
        self.max - self.next + self.free.len() as u32
    }

    /// The owner is gone; `ticket` is of the grace period after its programs last looked.
    pub(crate) fn retire(&mut self, owner: O, ticket: Ticket) {
        if let Some(place) = self.owners.remove(&owner) {
            self.retiring.push((ticket, place));
        }
    }

    /// Whether any place waits for its grace period.
    pub(crate) fn is_retiring(&self) -> bool {
        !self.retiring.is_empty()
    }

    /// Every place in use, with its owner and what was told of it.
    pub(crate) fn places(&mut self) -> impl Iterator<Item = (u32, O, &mut C)> {
        self.told.iter_mut().map(|(place, (owner, told))| (*place, *owner, told))
    }

    /// The places whose grace period has passed: they count no more. Read them, clear them, then [`Pool::give`] them.
    pub(crate) fn take_ended(&mut self, has_passed: impl Fn(Ticket) -> bool) -> Vec<u32> {
        let (ended, kept): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.retiring).into_iter().partition(|(ticket, _)| has_passed(*ticket));
        self.retiring = kept;
        ended.into_iter().map(|(_, place)| place).collect()
    }

    /// Makes a cleared place free.
    pub(crate) fn give(&mut self, place: u32) {
        self.told.remove(&place);
        self.free.push(place);
    }

    /// All places count from zero again, and there are more of them.
    pub(crate) fn begin_anew(&mut self, max: u32) {
        self.max = max;
        self.told.values_mut().for_each(|(_, told)| *told = C::default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_goes_to_another_only_after_its_grace_period() {
        let mut pool = Pool::<u8, u64>::new(2);
        let first = pool.place(1).expect("room");
        assert_eq!((pool.place(1), pool.available()), (Some(first), 1));
        pool.place(2).expect("room");
        pool.retire(1, 7);
        assert_eq!((pool.place(3), pool.available()), (None, 0));
        assert!(pool.take_ended(|ticket| ticket < 7).is_empty());
        // Meanwhile it is still read for its old owner.
        assert!(pool.places().any(|(place, owner, _)| (place, owner) == (first, 1)));
        assert_eq!(pool.take_ended(|ticket| ticket <= 7), [first]);
        pool.give(first);
        assert_eq!(pool.place(3), Some(first));
    }
}
