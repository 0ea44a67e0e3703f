//! Which lines were said too often. Pure: lines and times in, decisions out.

use std::{
    collections::HashMap,
    hash::Hash,
    mem,
    time::{Duration, Instant},
};

/// So often a line is said ...
const SAID_MAX: u64 = 10;
/// ... in this time; more are counted instead.
const WINDOW: Duration = Duration::from_secs(10);
/// Lines that are told apart. When so many different ones come at a time, those beyond are let through.
const LINES_MAX: usize = 512;

#[derive(Debug)]
pub(crate) struct Repeats<L> {
    windows: HashMap<L, Window>,
}

#[derive(Debug)]
struct Window {
    began: Instant,
    count: u64,
}

impl<L> Default for Repeats<L> {
    fn default() -> Self {
        Self { windows: HashMap::new() }
    }
}

impl<L: Hash + Eq> Repeats<L> {
    /// Whether to say a line.
    pub(crate) fn admit(&mut self, line: L, now: Instant) -> bool {
        if !self.windows.contains_key(&line) {
            if self.windows.len() >= LINES_MAX {
                self.windows.retain(|_, window| !window.is_over(now) || window.count > SAID_MAX);
            }
            if self.windows.len() >= LINES_MAX {
                return true;
            }
        }
        let window = self.windows.entry(line).or_insert(Window { began: now, count: 0 });
        window.count += 1;
        window.count <= SAID_MAX
    }

    /// The lines whose time is over and that were held back, and how often.
    pub(crate) fn due(&mut self, now: Instant) -> Vec<(L, u64)> {
        let (over, going) =
            mem::take(&mut self.windows).into_iter().partition(|(_, window)| window.is_over(now));
        self.windows = going;
        let over: HashMap<L, Window> = over;
        let held_back = over.into_iter().filter(|(_, window)| window.count > SAID_MAX);
        held_back.map(|(line, window)| (line, window.count - SAID_MAX)).collect()
    }
}

impl Window {
    fn is_over(&self, now: Instant) -> bool {
        now.duration_since(self.began) >= WINDOW
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_said_ten_times_and_then_counted_until_its_time_is_over() {
        let (mut repeats, start) = (Repeats::default(), Instant::now());
        let said = (0..25).filter(|_| repeats.admit("a", start)).count();
        assert_eq!(said, 10);
        assert!(repeats.admit("b", start), "another line");
        assert_eq!(repeats.due(start + WINDOW / 2), []);
        assert_eq!(repeats.due(start + WINDOW), [("a", 15)]);
        assert_eq!(repeats.due(start + WINDOW), [], "once");
        assert!(repeats.admit("a", start + WINDOW));
    }

    #[test]
    fn a_line_that_comes_now_and_then_is_always_said() {
        let (mut repeats, start) = (Repeats::default(), Instant::now());
        for second in 0..100 {
            let now = start + Duration::from_secs(second);
            assert_eq!(repeats.due(now), []);
            assert!(repeats.admit("a", now));
        }
    }

    #[test]
    fn what_is_remembered_is_bounded_and_what_is_held_back_is_not_forgotten() {
        let (mut repeats, start) = (Repeats::default(), Instant::now());
        for _ in 0..20 {
            repeats.admit(0, start);
        }
        for line in 1..10_000 {
            assert!(repeats.admit(line, start));
        }
        assert_eq!(repeats.windows.len(), LINES_MAX);
        assert!(repeats.admit(10_000, start + WINDOW));
        assert_eq!(repeats.due(start + WINDOW), [(0, 10)]);
    }
}
