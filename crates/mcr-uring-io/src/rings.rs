//! The packet sockets with rings of an `Io`, for both back ends: in what order and measure they are taken from.
//!
//! Each ring in turn, a fair share each; what one does not use the others get. The ring to begin with changes from wait to
//! wait, so that where the room is less than all have, all get some.

use std::time::Duration;

use crate::frames::Frames;
use crate::table::{Kind, Table};
use crate::{Event, SocketKey};

/// How soon a ring is looked at again that poll(2) cannot tell of: the caller holds the last frame of it.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(1);

#[derive(Debug, Default)]
pub(crate) struct Rings {
    open: Vec<(SocketKey, u16)>,
    first: usize,
    /// The most frames of one wait.
    pub(crate) frames_max: usize,
}

impl Rings {
    pub(crate) fn new(frames_max: usize) -> Self {
        Self { open: Vec::new(), first: 0, frames_max }
    }

    pub(crate) fn add(&mut self, key: SocketKey, ring: u16) {
        self.open.push((key, ring));
    }

    pub(crate) fn remove(&mut self, key: SocketKey) {
        self.open.retain(|(open, _)| *open != key);
    }

    pub(crate) fn open(&self) -> &[(SocketKey, u16)] {
        &self.open
    }

    /// Whether a wait would find frames to take.
    #[inline]
    pub(crate) fn are_ready(&self, frames: &Frames) -> bool {
        self.frames_max > 0 && self.open.iter().any(|(_, ring)| frames.ring(*ring).is_ready())
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
        let count = self.open.len();
        if count == 0 {
            return;
        }
        self.first = if self.first + 1 < count { self.first + 1 } else { 0 };
        // The second time for what some had no use of.
        for _ in 0..2 {
            let share = room.div_ceil(count);
            for at in 0..count {
                let (key, ring) = self.open[(self.first + at) % count];
                let Some(socket) = table.find(key) else { continue };
                debug_assert_eq!(socket.kind, Kind::Ring(ring));
                for _ in 0..share.min(room) {
                    let Some(frame) = frames.take_from_ring(ring, socket.borrow_fd()) else { break };
                    events.push(Event::Received { socket: key, frame });
                    room -= 1;
                }
            }
            if room == 0 || count == 1 {
                return;
            }
        }
    }
}
