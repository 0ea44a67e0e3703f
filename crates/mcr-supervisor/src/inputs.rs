//! Which place in a worker's counters an input has. An input keeps it for as long as the daemon lives, in use or not, so that
//! its counters never go back.

use std::collections::BTreeMap;

use mcr_metrics::INPUT_SLOTS;
use mcr_proto::{
    endpoint::IfName,
    message::{ClassBy, InputView},
    plan::{InputSlot, WorkerIndex},
    rule::Datapath,
};
use mcr_relay::classes::{ClassId, Classes};

/// The class of an input, and what put its datagrams there.
pub(crate) type Classed = Option<(ClassId, ClassBy)>;

#[derive(Debug, Default)]
pub(crate) struct Inputs {
    slots: BTreeMap<(WorkerIndex, IfName, Datapath, Classed), InputSlot>,
    next: u32,
}

impl Inputs {
    /// The place of an input, given to it the first time; none if all are taken.
    pub(crate) fn slot(
        &mut self,
        worker: WorkerIndex,
        interface: IfName,
        datapath: Datapath,
        class: Classed,
    ) -> Option<InputSlot> {
        if let Some(slot) = self.slots.get(&(worker, interface, datapath, class)) {
            return Some(*slot);
        }
        let slot = InputSlot(self.next);
        if self.next as usize >= INPUT_SLOTS {
            return None;
        }
        self.next += 1;
        self.slots.insert((worker, interface, datapath, class), slot);
        Some(slot)
    }

    /// A worker's.
    pub(crate) fn of(&self, worker: WorkerIndex) -> impl Iterator<Item = InputSlot> {
        self.slots.iter().filter(move |((owner, ..), _)| *owner == worker).map(|(_, slot)| *slot)
    }

    /// All of them behind `after`, in order of slot; `open` says whether one has a socket now.
    pub(crate) fn views(
        &self,
        after: Option<InputSlot>,
        classes: &Classes,
        open: impl Fn(WorkerIndex, InputSlot) -> bool,
    ) -> Vec<InputView> {
        let mut views: Vec<_> = self
            .slots
            .iter()
            .filter(|(_, slot)| after.is_none_or(|after| **slot > after))
            .map(|((worker, interface, datapath, class), slot)| InputView {
                slot: *slot,
                worker: *worker,
                interface: *interface,
                datapath: *datapath,
                class: class.map(|(class, by)| classes.input_class(class, by)),
                open: open(*worker, *slot),
            })
            .collect();
        views.sort_unstable_by_key(|view| view.slot);
        views
    }
}
