//! How many frames are taken from packet sockets' rings in one turn.
//!
//! A slot stays taken until the whole batch is sent, and the kernel needs free ones meanwhile, so a turn is as short as it can be.
//! But a send costs nearly the same for one datagram as for sixty-four, and only datagrams of one batch can share one: where many
//! streams are interleaved, a long turn makes runs of what would be a send each. So turns grow while runs are short of what they could hold, and
//! shrink while they are full. Where growing gains nothing (sizes that change with each datagram, more streams than a turn has frames), they go back to the
//! least, and the same where a turn takes so long that commands would wait. Nobody waits for frames: a turn takes what is there already, and as
//! many are there only when the worker is behind.

/// Frames of a turn at first, and while runs are full.
const MIN: usize = 256;
/// Most frames of a turn.
pub(crate) const MAX: usize = 4096;
/// A turn should not take longer.
const LONG_NS: u64 = 50_000_000;
/// So many turns are not tried to be longer where that gained nothing.
const REST: u32 = 4096;
/// After so many turns in a row that use less than half of it, the size is halved.
const UNUSED_MAX: u32 = 64;

/// How full runs are: datagrams, of so many that they could hold.
#[derive(Debug, Clone, Copy, Default)]
struct Fill {
    datagrams: usize,
    room: usize,
}

/// The size of turns, as streams come and go.
#[derive(Debug)]
pub(crate) struct TurnSize {
    frames: usize,
    begun_ns: u64,
    /// Of the turn at hand.
    fill: Fill,
    /// When the size began to grow, if it has not done anything else since.
    least: Option<Fill>,
    /// Full turns until growing is tried again.
    rest: u32,
    unused: u32,
}

impl Fill {
    fn is_below_a_third(self) -> bool {
        3 * self.datagrams < self.room
    }

    fn is_above_two_thirds(self) -> bool {
        3 * self.datagrams > 2 * self.room
    }

    /// Whether runs are at least half as full again.
    fn gained(self, least: Self) -> bool {
        2 * self.datagrams * least.room >= 3 * least.datagrams * self.room
    }
}

impl Default for TurnSize {
    fn default() -> Self {
        Self { frames: MIN, begun_ns: 0, fill: Fill::default(), least: None, rest: 0, unused: 0 }
    }
}

impl TurnSize {
    /// How many frames may be taken.
    pub(crate) fn frames(&self) -> usize {
        self.frames
    }

    /// A turn begins, at this time of a monotonic clock.
    pub(crate) fn begin(&mut self, now_ns: u64) {
        self.begun_ns = now_ns;
        self.fill = Fill::default();
    }

    /// A run was made of frames of the turn.
    #[inline]
    pub(crate) fn note(&mut self, datagrams: u32, room: u32) {
        self.fill.datagrams += datagrams as usize;
        self.fill.room += room as usize;
    }

    /// The turn is over; it had so many frames, and no more than `frames_max` would be given, whatever its size.
    pub(crate) fn end(&mut self, frames: usize, frames_max: usize, now_ns: u64) {
        let frames_max = frames_max.clamp(MIN, MAX);
        let fill = self.fill;
        if 2 * frames < self.frames {
            self.unused += 1;
            if self.unused == UNUSED_MAX {
                self.shrink();
            }
            return;
        }
        self.unused = 0;
        if now_ns.saturating_sub(self.begun_ns) > LONG_NS {
            self.rest = REST;
            self.shrink();
        } else if fill.is_above_two_thirds() {
            self.shrink();
        } else if !fill.is_below_a_third() {
            self.least = None;
        } else if frames >= self.frames.min(frames_max) {
            self.grow(fill, frames_max);
        }
    }

    fn grow(&mut self, fill: Fill, frames_max: usize) {
        if self.rest > 0 {
            self.rest -= 1;
        } else if self.frames < frames_max {
            self.least.get_or_insert(fill);
            self.frames = (2 * self.frames).min(frames_max);
        } else if !self.least.is_some_and(|least| fill.gained(least)) {
            self.rest = if self.least.is_some() { REST } else { 0 };
            (self.frames, self.least) = (MIN, None);
        }
    }

    fn shrink(&mut self) {
        self.frames = (self.frames / 2).max(MIN);
        self.unused = 0;
        self.least = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Full turns of so many streams in turn, runs of at most `room` datagrams; what comes of it.
    fn settled(turn: &mut TurnSize, streams: usize, room: u32, frames_max: usize) -> usize {
        for _ in 0..32 {
            let frames = turn.frames().min(frames_max);
            turn.begin(0);
            for stream in 0..streams.min(frames) {
                let mut left = ((frames - stream).div_ceil(streams)) as u32;
                while left > 0 {
                    turn.note(left.min(room), room);
                    left -= left.min(room);
                }
            }
            turn.end(frames, frames_max, 1_000_000);
        }
        turn.frames()
    }

    #[test]
    fn turns_are_as_long_as_streams_are_many_and_no_longer() {
        let mut turn = TurnSize::default();
        assert_eq!(settled(&mut turn, 1, 46, usize::MAX), MIN);
        assert_eq!(settled(&mut turn, 50, 46, usize::MAX), 1024);
        assert_eq!(settled(&mut turn, 1000, 46, usize::MAX), MAX);
        assert_eq!(settled(&mut turn, 1, 46, usize::MAX), MIN);
        // Runs of large datagrams are full with few.
        assert_eq!(settled(&mut turn, 1, 7, usize::MAX), MIN);
    }

    #[test]
    fn turns_that_gain_nothing_go_back_to_the_least_and_rest() {
        let mut turn = TurnSize::default();
        assert_eq!(settled(&mut turn, 100_000, 46, usize::MAX), MIN);
        assert!(turn.rest > 0);
    }

    #[test]
    fn a_turn_is_no_longer_than_rings_give_and_shrinks_from_there() {
        let mut turn = TurnSize::default();
        assert_eq!(settled(&mut turn, 400, 46, 896), 896);
        assert_eq!(settled(&mut turn, 1, 46, 896), MIN);
    }

    #[test]
    fn a_turn_that_takes_long_is_halved_and_one_that_is_not_used_too() {
        let mut turn = TurnSize::default();
        assert_eq!(settled(&mut turn, 1000, 46, usize::MAX), MAX);
        turn.begin(0);
        turn.note(1, 46);
        turn.end(MAX, usize::MAX, LONG_NS + 1);
        assert_eq!(turn.frames(), MAX / 2);
        for _ in 0..4 * UNUSED_MAX {
            turn.begin(0);
            turn.note(1, 46);
            turn.end(1, usize::MAX, 1);
        }
        assert_eq!(turn.frames(), MIN);
    }
}
