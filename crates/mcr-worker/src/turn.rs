//! How many frames are taken from packet sockets' rings in one turn.
//!
//! A slot stays taken until the whole batch is sent, and the kernel needs free ones meanwhile, so a turn is as short as it can be.
//! But a send costs nearly the same for one datagram as for sixty-four, and only datagrams of one batch can share one: where many
//! streams are interleaved, a long turn makes runs of what would be a send each. So a turn grows while runs are short, and shrinks while
//! they are long. Nobody waits for frames: a turn takes what is there already, and as many are there only when the worker is behind.

/// Frames of a turn at first, and when all runs are long.
const MIN: usize = 256;
/// Most frames of a turn: of the slots of a ring for frames of 1,500 bytes (some 10,000), some are left to the kernel.
pub(crate) const MAX: usize = 4096;
/// Turns grow while runs have fewer datagrams than this: half of what a send is worth is gained by then.
const SHORT: usize = 16;
/// Turns shrink while runs have more: a run of 1,400-byte datagrams has 46, and a few are not full.
const LONG: usize = 32;

/// The size of turns, as streams come and go.
#[derive(Debug)]
pub(crate) struct TurnSize {
    frames: usize,
    /// Datagrams and runs of the turn at hand.
    datagrams: usize,
    runs: usize,
}

impl Default for TurnSize {
    fn default() -> Self {
        Self { frames: MIN, datagrams: 0, runs: 0 }
    }
}

impl TurnSize {
    /// How many frames may be taken.
    pub(crate) fn frames(&self) -> usize {
        self.frames
    }

    /// These runs were made of frames of the turn.
    pub(crate) fn note(&mut self, datagrams: usize, runs: usize) {
        self.datagrams += datagrams;
        self.runs += runs;
    }

    /// The turn is over; it had so many frames.
    pub(crate) fn end(&mut self, frames: usize) {
        let (datagrams, runs) = (std::mem::take(&mut self.datagrams), std::mem::take(&mut self.runs));
        // One that was not full says nothing: there was nothing more to take.
        if frames < self.frames || runs == 0 {
            return;
        }
        if datagrams < SHORT * runs {
            self.frames = (2 * self.frames).min(MAX);
        } else if datagrams > LONG * runs {
            self.frames = (self.frames / 2).max(MIN);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Full turns of so many streams in turn, runs of at most 46 datagrams; what comes of it.
    fn settled(turn: &mut TurnSize, streams: usize) -> usize {
        for _ in 0..32 {
            let (frames, each) = (turn.frames(), turn.frames().div_ceil(streams));
            turn.note(frames, frames.min(streams) * each.div_ceil(46));
            turn.end(frames);
        }
        turn.frames()
    }

    #[test]
    fn turns_are_as_long_as_streams_are_many_and_no_longer() {
        let mut turn = TurnSize::default();
        assert_eq!(settled(&mut turn, 1), MIN);
        assert_eq!(settled(&mut turn, 50), 1024);
        assert_eq!(settled(&mut turn, 1000), MAX);
        assert_eq!(settled(&mut turn, 100_000), MAX);
        assert_eq!(settled(&mut turn, 1), MIN);
    }

    #[test]
    fn a_turn_that_was_not_full_says_nothing() {
        let mut turn = TurnSize::default();
        turn.note(MIN - 1, MIN - 1);
        turn.end(MIN - 1);
        assert_eq!(turn.frames(), MIN);
        // Nor does one without a run: of frames that no rule wants.
        turn.end(MIN);
        assert_eq!(turn.frames(), MIN);
        // And what a turn was made of is forgotten with it.
        turn.note(MIN, 1);
        turn.end(MIN);
        assert_eq!(turn.frames(), MIN);
    }
}
