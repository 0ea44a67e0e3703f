//! Rates out of counters that only ever grow: look twice, divide.
//!
//! A place is looked at once a period for as long as anybody asks, and its rate is what its last two looks give: the average
//! over one period, at most one period old. A place that has not been looked at twice, because nobody asked for a while
//! or because its rule is new, is looked at twice in quick succession while the asker waits. When nobody has asked for long
//! enough, all looks are forgotten and the looking stops: an idle daemon has no timer.

use std::{cell::RefCell, collections::HashMap, rc::Rc, time::Duration};

use mcr_metrics::Segment;
use mcr_proto::plan::{FlowSlot, InputSlot, OutputSlot, RuleSlot, WorkerIndex};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};

use crate::limits::Limits;

/// What has a rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    Input(WorkerIndex, InputSlot),
    Rule(RuleSlot),
    Output(OutputSlot),
    /// Whichever flow is counted there.
    Flow(WorkerIndex, FlowSlot),
}

/// Per second.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Rate {
    pub(crate) datagrams: f64,
    pub(crate) bits: f64,
}

/// What a place has counted: datagrams and bytes.
type Count = (u64, u64);

#[derive(Debug, Clone, Copy)]
struct Look {
    at: Instant,
    count: Count,
}

#[derive(Debug, Clone, Copy)]
struct Track {
    previous: Option<Look>,
    last: Look,
}

impl Track {
    fn look(&mut self, at: Instant, count: Count) {
        self.previous = Some(std::mem::replace(&mut self.last, Look { at, count }));
    }

    fn rate(&self) -> Rate {
        let Some(previous) = self.previous else { return Rate::default() };
        let seconds = (self.last.at - previous.at).as_secs_f64();
        if seconds <= 0.0 {
            return Rate::default();
        }
        // A slot that was given to another rule in between starts at zero again.
        let datagrams = self.last.count.0.saturating_sub(previous.count.0);
        let bytes = self.last.count.1.saturating_sub(previous.count.1);
        Rate { datagrams: datagrams as f64 / seconds, bits: bytes as f64 * 8.0 / seconds }
    }
}

/// The looks at all places. Pure: the time and the counts are given.
#[derive(Debug, Default)]
struct Tracks(HashMap<Place, Track>);

impl Tracks {
    /// Looks at the places that have not been looked at. With `all`, the places are all there are: others are forgotten.
    fn begin(&mut self, places: &[Place], all: bool, now: Instant, count: impl Fn(Place) -> Count) {
        if all {
            let listed: std::collections::HashSet<_> = places.iter().copied().collect();
            // Flows are listed with one rule only; they are as few as there are places for them.
            self.0.retain(|place, _| matches!(place, Place::Flow(..)) || listed.contains(place));
        }
        for place in places {
            self.0
                .entry(*place)
                .or_insert_with(|| Track { previous: None, last: Look { at: now, count: count(*place) } });
        }
    }

    /// Whether any of the places has been looked at only once.
    fn any_single(&self, places: &[Place]) -> bool {
        places.iter().any(|place| self.0.get(place).is_none_or(|track| track.previous.is_none()))
    }

    /// Looks a second time where that has not been done.
    fn pair(&mut self, places: &[Place], now: Instant, count: impl Fn(Place) -> Count) {
        for place in places {
            if let Some(track) = self.0.get_mut(place).filter(|track| track.previous.is_none()) {
                track.look(now, count(*place));
            }
        }
    }

    /// Looks again wherever the last look is at least this old; a shorter period would make the rate jump.
    fn advance(&mut self, now: Instant, age_min: Duration, count: impl Fn(Place) -> Count) {
        for (place, track) in &mut self.0 {
            if now - track.last.at >= age_min {
                track.look(now, count(*place));
            }
        }
    }

    fn rate(&self, place: Place) -> Rate {
        self.0.get(&place).map(Track::rate).unwrap_or_default()
    }
}

#[derive(Debug)]
struct State {
    tracks: Tracks,
    asked: Instant,
    looking: bool,
}

/// Looks at counters while somebody asks for rates.
#[derive(Debug)]
pub(crate) struct Sampler {
    segments: Rc<[Segment]>,
    limits: Limits,
    state: RefCell<State>,
}

impl Sampler {
    pub(crate) fn new(segments: Rc<[Segment]>, limits: Limits) -> Rc<Self> {
        let state = State { tracks: Tracks::default(), asked: Instant::now(), looking: false };
        Rc::new(Self { segments, limits, state: RefCell::new(state) })
    }

    /// Makes rates of these places available, waiting for a second look if one is needed. With `all`, these are all the
    /// places there are. The slots must be within the segments.
    pub(crate) async fn prepare(self: &Rc<Self>, places: &[Place], all: bool) {
        let single = {
            let mut state = self.state.borrow_mut();
            state.asked = Instant::now();
            if !std::mem::replace(&mut state.looking, true) {
                tokio::task::spawn_local(Rc::clone(self).look_on());
            }
            state.tracks.begin(places, all, Instant::now(), |place| self.count(place));
            state.tracks.any_single(places)
        };
        if single {
            sleep(self.limits.first_rate_period).await;
            self.state.borrow_mut().tracks.pair(places, Instant::now(), |place| self.count(place));
        }
    }

    pub(crate) fn rate(&self, place: Place) -> Rate {
        self.state.borrow().tracks.rate(place)
    }

    /// Whether a timer runs.
    #[cfg(test)]
    pub(crate) fn is_looking(&self) -> bool {
        self.state.borrow().looking
    }

    async fn look_on(self: Rc<Self>) {
        let period = self.limits.rate_period;
        let mut ticks = interval_at(Instant::now() + period, period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let mut state = self.state.borrow_mut();
            if state.asked.elapsed() >= self.limits.rates_unasked {
                state.tracks = Tracks::default();
                state.looking = false;
                return;
            }
            state.tracks.advance(Instant::now(), period / 2, |place| self.count(place));
        }
    }

    fn count(&self, place: Place) -> Count {
        let sum = |one: &dyn Fn(&Segment) -> Count| {
            self.segments.iter().map(one).fold((0, 0), |sum, count| (sum.0 + count.0, sum.1 + count.1))
        };
        match place {
            Place::Rule(slot) => sum(&|segment| {
                let counters = segment.rule(slot);
                (counters.datagrams.get(), counters.bytes.get())
            }),
            Place::Output(slot) => sum(&|segment| {
                let counters = segment.output(slot);
                (counters.copies.get(), counters.bytes.get())
            }),
            Place::Flow(worker, slot) => self.segments[usize::from(worker.0)].flow(slot).counts(),
            Place::Input(worker, slot) => {
                let counters = self.segments[usize::from(worker.0)].input(slot);
                (counters.received(), counters.bytes.get())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: Place = Place::Rule(RuleSlot(1));
    const OTHER: Place = Place::Rule(RuleSlot(2));
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_rate_is_the_growth_between_the_last_two_looks_per_second() {
        let start = Instant::now();
        let mut tracks = Tracks::default();
        tracks.begin(&[RULE], true, start, |_| (100, 1000));
        assert!(tracks.any_single(&[RULE]));
        assert_eq!(tracks.rate(RULE), Rate::default());
        tracks.pair(&[RULE], start + SECOND / 4, |_| (150, 1500));
        assert!(!tracks.any_single(&[RULE]));
        assert_eq!(tracks.rate(RULE), Rate { datagrams: 200.0, bits: 16_000.0 });
        tracks.advance(start + SECOND / 2, SECOND / 2, |_| (1_000_000, 0));
        assert_eq!(tracks.rate(RULE).datagrams, 200.0, "too soon to look again");
        tracks.advance(start + SECOND * 5 / 4, SECOND / 2, |_| (160, 1500));
        assert_eq!(tracks.rate(RULE), Rate { datagrams: 10.0, bits: 0.0 });
    }

    #[test]
    fn a_counter_that_starts_again_gives_no_negative_rate() {
        let start = Instant::now();
        let mut tracks = Tracks::default();
        tracks.begin(&[RULE], true, start, |_| (100, 1000));
        tracks.pair(&[RULE], start + SECOND, |_| (3, 5));
        assert_eq!(tracks.rate(RULE), Rate::default());
    }

    #[test]
    fn places_that_are_gone_are_forgotten_only_when_all_are_listed() {
        let now = Instant::now();
        let mut tracks = Tracks::default();
        tracks.begin(&[RULE, OTHER], true, now, |_| (0, 0));
        tracks.begin(&[RULE], false, now, |_| (0, 0));
        assert_eq!(tracks.0.len(), 2);
        tracks.begin(&[RULE], true, now, |_| (0, 0));
        assert_eq!(tracks.0.len(), 1);
    }

    #[test]
    fn looking_stops_when_nobody_asks_and_starts_again() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let limits = Limits {
            rate_period: Duration::from_millis(5),
            first_rate_period: Duration::from_millis(5),
            rates_unasked: Duration::from_millis(20),
            ..Limits::default()
        };
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let segment = Segment::create().unwrap();
            let sampler = Sampler::new(Rc::new([segment]), limits);
            for _ in 0..2 {
                sampler.prepare(&[RULE], true).await;
                assert!(sampler.is_looking());
                let stopped = async {
                    while sampler.is_looking() {
                        tokio::task::yield_now().await;
                    }
                };
                tokio::time::timeout(Duration::from_secs(5), stopped).await.expect("stops");
                assert!(sampler.state.borrow().tracks.0.is_empty());
            }
        });
    }
}
