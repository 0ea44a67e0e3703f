//! Rates out of counters that only ever grow: look twice, divide.
//!
//! A place is looked at once a period for as long as anybody asks, and its rate is what its last two looks give: the average
//! over one period, at most one period old. The counts of the kernel data path are brought here by the supervisor from time to time: those are
//! divided by the time between. A place that has not been looked at twice, because nobody asked for a while
//! or because its rule is new, is looked at twice in quick succession while the asker waits. When nobody has asked for long
//! enough, all looks are forgotten and the looking stops: an idle daemon has no timer.

use std::{cell::RefCell, collections::HashMap, rc::Rc, time::Duration};

use mcr_metrics::{Segment, clock::monotonic_ns};
use mcr_proto::plan::{FlowSlot, InputSlot, OutputSlot, RuleSlot, WorkerIndex};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};

use crate::limits::Limits;

/// Longer than it takes until the kernel data path's counts are brought again.
const KERNEL_WAIT_MAX: Duration = Duration::from_secs(1);

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

/// Datagrams and bytes.
type Count = (u64, u64);

/// What a place has counted.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Counted {
    workers: Count,
    /// By the kernel data path, whose counts are brought here from time to time.
    kernel: Count,
}

/// When it was looked, and when the kernel data path's counts were brought here before that.
#[derive(Debug, Clone, Copy)]
struct When {
    now: Instant,
    brought: Instant,
}

#[derive(Debug, Clone, Copy)]
struct Look {
    at: When,
    count: Counted,
}

#[derive(Debug, Clone, Copy)]
struct Track {
    previous: Option<Look>,
    last: Look,
}

impl Track {
    fn look(&mut self, at: When, count: Counted) {
        self.previous = Some(std::mem::replace(&mut self.last, Look { at, count }));
    }

    fn rate(&self) -> Rate {
        let Some(previous) = self.previous else { return Rate::default() };
        let is_in_kernel =
            self.last.count.kernel != (0, 0) && self.last.count.workers == previous.count.workers;
        let seconds = if is_in_kernel {
            self.last.at.brought.saturating_duration_since(previous.at.brought).as_secs_f64()
        } else {
            (self.last.at.now - previous.at.now).as_secs_f64()
        };
        if seconds <= 0.0 {
            return Rate::default();
        }
        // A slot that was given to another rule in between starts at zero again.
        let (last, previous) = (self.last.count.sum(), previous.count.sum());
        let (datagrams, bytes) = (last.0.saturating_sub(previous.0), last.1.saturating_sub(previous.1));
        Rate { datagrams: datagrams as f64 / seconds, bits: bytes as f64 * 8.0 / seconds }
    }
}

impl Counted {
    fn sum(self) -> Count {
        (self.workers.0 + self.kernel.0, self.workers.1 + self.kernel.1)
    }
}

/// The looks at all places. Pure: the time and the counts are given.
#[derive(Debug, Default)]
struct Tracks(HashMap<Place, Track>);

impl Tracks {
    /// Looks at the places that have not been looked at. With `all`, the places are all there are: others are forgotten.
    fn begin(&mut self, places: &[Place], all: bool, now: When, count: impl Fn(Place) -> Counted) {
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
    fn pair(&mut self, places: &[Place], now: When, count: impl Fn(Place) -> Counted) {
        for place in places {
            if let Some(track) = self.0.get_mut(place).filter(|track| track.previous.is_none()) {
                track.look(now, count(*place));
            }
        }
    }

    /// Looks again wherever the last look is at least this old; a shorter period would make the rate jump.
    fn advance(&mut self, now: When, age_min: Duration, count: impl Fn(Place) -> Counted) {
        for (place, track) in &mut self.0 {
            if now.now - track.last.at.now >= age_min {
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
    /// Of the workers, and last of the kernel data path.
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
            state.tracks.begin(places, all, self.now(), |place| self.count(place));
            state.tracks.any_single(places)
        };
        if single {
            let brought = self.brought_ns();
            sleep(self.limits.first_rate_period).await;
            if brought > 0 && places.iter().any(|place| self.count(*place).kernel != (0, 0)) {
                self.wait_for_kernel(brought).await;
            }
            self.state.borrow_mut().tracks.pair(places, self.now(), |place| self.count(place));
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
            state.tracks.advance(self.now(), period / 2, |place| self.count(place));
        }
    }

    /// Until the kernel data path's counts have been brought here again; not for ever, for it may have just lost its last rule.
    async fn wait_for_kernel(&self, before_ns: u64) {
        let end = Instant::now() + KERNEL_WAIT_MAX;
        while self.brought_ns() == before_ns && Instant::now() < end {
            sleep(KERNEL_WAIT_MAX / 50).await;
        }
    }

    /// The monotonic time at which the kernel data path's counts were last brought here; 0 if never.
    fn brought_ns(&self) -> u64 {
        self.segments.last().map_or(0, |kernel| kernel.header().heartbeat_ns.get())
    }

    fn now(&self) -> When {
        let now = Instant::now();
        let age = match self.brought_ns() {
            0 => Duration::ZERO,
            brought_ns => Duration::from_nanos(monotonic_ns().saturating_sub(brought_ns)),
        };
        When { now, brought: now.checked_sub(age).unwrap_or(now) }
    }

    fn count(&self, place: Place) -> Counted {
        let (kernel, workers) = match &*self.segments {
            [workers @ .., kernel] => (Some(kernel), workers),
            [] => (None, &[][..]),
        };
        let each = |one: &dyn Fn(&Segment) -> Count| Counted {
            workers: workers.iter().map(one).fold((0, 0), |sum, count| (sum.0 + count.0, sum.1 + count.1)),
            kernel: kernel.map(one).unwrap_or_default(),
        };
        let of = |worker: WorkerIndex, count: Count| match usize::from(worker.0) == workers.len() {
            true => Counted { workers: (0, 0), kernel: count },
            false => Counted { workers: count, kernel: (0, 0) },
        };
        match place {
            Place::Rule(slot) => each(&|segment| {
                let counters = segment.rule(slot);
                (counters.datagrams.get(), counters.bytes.get())
            }),
            Place::Output(slot) => each(&|segment| {
                let counters = segment.output(slot);
                (counters.copies.get(), counters.bytes.get())
            }),
            Place::Flow(worker, slot) => of(worker, self.segments[usize::from(worker.0)].flow(slot).counts()),
            Place::Input(worker, slot) => {
                let counters = self.segments[usize::from(worker.0)].input(slot);
                of(worker, (counters.received(), counters.bytes.get()))
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

    fn at(now: Instant) -> When {
        When { now, brought: now }
    }

    fn by_workers(datagrams: u64, bytes: u64) -> Counted {
        Counted { workers: (datagrams, bytes), kernel: (0, 0) }
    }

    #[test]
    fn a_rate_is_the_growth_between_the_last_two_looks_per_second() {
        let start = Instant::now();
        let mut tracks = Tracks::default();
        tracks.begin(&[RULE], true, at(start), |_| by_workers(100, 1000));
        assert!(tracks.any_single(&[RULE]));
        assert_eq!(tracks.rate(RULE), Rate::default());
        tracks.pair(&[RULE], at(start + SECOND / 4), |_| by_workers(150, 1500));
        assert!(!tracks.any_single(&[RULE]));
        assert_eq!(tracks.rate(RULE), Rate { datagrams: 200.0, bits: 16_000.0 });
        tracks.advance(at(start + SECOND / 2), SECOND / 2, |_| by_workers(1_000_000, 0));
        assert_eq!(tracks.rate(RULE).datagrams, 200.0, "too soon to look again");
        tracks.advance(at(start + SECOND * 5 / 4), SECOND / 2, |_| by_workers(160, 1500));
        assert_eq!(tracks.rate(RULE), Rate { datagrams: 10.0, bits: 0.0 });
    }

    #[test]
    fn a_counter_that_starts_again_gives_no_negative_rate() {
        let start = Instant::now();
        let mut tracks = Tracks::default();
        tracks.begin(&[RULE], true, at(start), |_| by_workers(100, 1000));
        tracks.pair(&[RULE], at(start + SECOND), |_| by_workers(3, 5));
        assert_eq!(tracks.rate(RULE), Rate::default());
    }

    #[test]
    fn counts_of_the_kernel_are_divided_by_the_time_between_their_arrivals() {
        let start = Instant::now();
        let in_kernel = |datagrams| Counted { workers: (7, 7), kernel: (datagrams, 0) };
        let mut tracks = Tracks::default();
        let when = |now, brought| When { now: start + now, brought: start + brought };
        tracks.begin(&[RULE], true, when(SECOND, SECOND * 9 / 10), |_| in_kernel(100));
        tracks.pair(&[RULE], when(SECOND * 2, SECOND * 14 / 10), |_| in_kernel(150));
        assert_eq!(tracks.rate(RULE).datagrams.round(), 100.0);
        tracks.advance(when(SECOND * 3, SECOND * 14 / 10), SECOND, |_| in_kernel(150));
        assert_eq!(tracks.rate(RULE), Rate::default(), "nothing was brought");
        // It has gone to a worker.
        let moved = |_| Counted { workers: (17, 7), kernel: (150, 0) };
        tracks.advance(when(SECOND * 4, SECOND * 14 / 10), SECOND, moved);
        assert_eq!(tracks.rate(RULE).datagrams, 10.0);
    }

    #[test]
    fn places_that_are_gone_are_forgotten_only_when_all_are_listed() {
        let now = Instant::now();
        let mut tracks = Tracks::default();
        tracks.begin(&[RULE, OTHER], true, at(now), |_| by_workers(0, 0));
        tracks.begin(&[RULE], false, at(now), |_| by_workers(0, 0));
        assert_eq!(tracks.0.len(), 2);
        tracks.begin(&[RULE], true, at(now), |_| by_workers(0, 0));
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
