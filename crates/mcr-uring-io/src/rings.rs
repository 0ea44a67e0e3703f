//! The packet sockets with rings of an `Io`, for both back ends: in what order and measure they are taken from.
//!
//! Those that come first (see [`Io::prioritize`](crate::Io::prioritize)) are emptied before others are looked at. Among equals
//! each ring in turn, a fair share each; what one does not use the others get. The ring to begin with changes from wait to
//! wait, so that where the room is less than all have, all get some.

use std::ops::Range;
use std::time::Duration;

use crate::frames::Frames;
use crate::table::{Kind, Table};
use crate::{Event, SocketKey};

/// How soon a ring is looked at again that poll(2) cannot tell of: the caller holds the last frame of it.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(1);

#[derive(Debug, Clone, Copy)]
pub(crate) struct Open {
    pub(crate) key: SocketKey,
    pub(crate) ring: u16,
    priority: u8,
}

#[derive(Debug, Default)]
pub(crate) struct Rings {
    /// In order of priority.
    open: Vec<Open>,
    first: usize,
    /// The most frames of one wait.
    pub(crate) frames_max: usize,
}

impl Rings {
    pub(crate) fn new(frames_max: usize) -> Self {
        Self { open: Vec::new(), first: 0, frames_max }
    }

    pub(crate) fn add(&mut self, key: SocketKey, ring: u16) {
        self.open.push(Open { key, ring, priority: 0 });
        self.open.sort_by_key(|open| open.priority);
    }

    pub(crate) fn prioritize(&mut self, key: SocketKey, priority: u8) {
        self.open.iter_mut().filter(|open| open.key == key).for_each(|open| open.priority = priority);
        self.open.sort_by_key(|open| open.priority);
    }

    pub(crate) fn remove(&mut self, key: SocketKey) {
        self.open.retain(|open| open.key != key);
    }

    pub(crate) fn open(&self) -> &[Open] {
        &self.open
    }

    /// Whether a wait would find frames to take.
    #[inline]
    pub(crate) fn are_ready(&self, frames: &Frames) -> bool {
        self.frames_max > 0 && self.open.iter().any(|open| frames.ring(open.ring).is_ready())
    }

    /// Takes at most `room` frames.
    #[inline]
    pub(crate) fn take<S>(
        &mut self,
        frames: &mut Frames,
        table: &Table<S>,
        room: usize,
        events: &mut Vec<Event>,
    ) {
        let mut room = room.min(self.frames_max);
        self.first = self.first.wrapping_add(1);
        let mut from = 0;
        while let Some(first) = self.open.get(from)
            && room > 0
        {
            let priority = first.priority;
            let equals = self.open[from..].partition_point(|open| open.priority == priority);
            room = self.take_fairly(from..from + equals, frames, table, room, events);
            from += equals;
        }
    }

    /// Takes at most `room` frames from rings of equal priority; how much room is left.
    #[inline]
    fn take_fairly<S>(
        &self,
        equals: Range<usize>,
        frames: &mut Frames,
        table: &Table<S>,
        mut room: usize,
        events: &mut Vec<Event>,
    ) -> usize {
        let open = &self.open[equals];
        let count = open.len();
        // The second time for what some had no use of.
        for _ in 0..2 {
            let share = room.div_ceil(count);
            for at in 0..count {
                let Open { key, ring, .. } = open[(self.first % count + at) % count];
                let Some(socket) = table.find(key) else { continue };
                debug_assert_eq!(socket.kind, Kind::Ring(ring));
                for _ in 0..share.min(room) {
                    let Some(frame) = frames.take_from_ring(ring, socket.borrow_fd()) else { break };
                    events.push(Event::Received { socket: key, frame });
                    room -= 1;
                }
            }
            if room == 0 || count == 1 {
                break;
            }
        }
        room
    }
}
