//! Which place in the shared counters belongs to whom.
//!
//! A slot that was given back is not given out again before every worker has stopped counting in it and it was cleared; the
//! caller decides when that is.

/// Numbers below a limit, each given out to one owner at a time, lowest first.
#[derive(Debug)]
pub(crate) struct Slots {
    next: u32,
    free: Vec<u32>,
    limit: u32,
}

impl Slots {
    pub(crate) fn new(limit: usize) -> Self {
        Self { next: 0, free: Vec::new(), limit: u32::try_from(limit).unwrap_or(u32::MAX) }
    }

    /// How many can be given out now.
    pub(crate) fn available(&self) -> usize {
        self.free.len() + (self.limit - self.next) as usize
    }

    pub(crate) fn take(&mut self) -> Option<u32> {
        self.free.pop().or_else(|| {
            let fresh = (self.next < self.limit).then_some(self.next);
            self.next += u32::from(fresh.is_some());
            fresh
        })
    }

    pub(crate) fn give(&mut self, slot: u32) {
        debug_assert!(slot < self.next && !self.free.contains(&slot), "slot {slot} given back twice");
        self.free.push(slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_has_one_owner_at_a_time_and_the_limit_holds() {
        let mut slots = Slots::new(2);
        assert_eq!((slots.take(), slots.take(), slots.take()), (Some(0), Some(1), None));
        slots.give(0);
        assert_eq!((slots.available(), slots.take(), slots.take()), (1, Some(0), None));
    }
}
