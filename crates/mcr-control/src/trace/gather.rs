//! What workers recorded of one trace, read from shared memory and put together: each datagram with the outcomes of its copies.

use std::collections::BTreeMap;

use mcr_metrics::{
    Segment,
    trace::{TRACED_DATAGRAMS, TRACES_MAX, TraceCursor, TraceProgress, TracedCopy, TracedDatagram},
};

/// Outputs that a rule can have.
const OUTPUTS_MAX: u32 = 1024;

/// A datagram of which all is known that will be.
#[derive(Debug)]
pub(super) struct Datagram {
    /// Counted from 1 over all workers, those missed included.
    pub(super) number: u64,
    pub(super) worker: u16,
    pub(super) record: TracedDatagram,
    pub(super) frame: Vec<u8>,
    pub(super) copies: Vec<TracedCopy>,
    /// Its worker died before it had settled it.
    pub(super) is_lost: bool,
}

/// What [`Gathering::take`] gives.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    pub(super) datagrams: Vec<Datagram>,
    pub(super) seen: u64,
    pub(super) missed: u64,
    /// Nothing more will come.
    pub(super) done: bool,
    /// Why it has ended, if nobody has ended it.
    pub(super) ended: Option<&'static str>,
}

#[derive(Debug)]
pub(super) struct Gathering {
    id: u64,
    place: usize,
    workers: Vec<Worker>,
    given: u64,
    skipped: u64,
}

/// How far the end of a trace is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    NotYet,
    /// Workers were told.
    Told,
    /// They have had their time; what they have not settled is not waited for.
    Overdue,
}

/// What is known of one worker's part.
#[derive(Debug)]
struct Worker {
    cursor: TraceCursor,
    /// As it last was while this trace had the place.
    progress: TraceProgress,
    /// The place is another's, or nobody's, after it was this trace's.
    is_over: bool,
    life: u32,
    waiting: BTreeMap<u64, Waiting>,
    /// The number of the last that was given away, and how many were.
    last: u64,
    given: u64,
}

#[derive(Debug)]
struct Waiting {
    record: TracedDatagram,
    frame: Vec<u8>,
    copies: Vec<TracedCopy>,
}

impl Gathering {
    /// None if there is no such place.
    pub(super) fn new(id: u64, place: u8, cursors: Vec<TraceCursor>) -> Option<Self> {
        let worker = |cursor| Worker {
            cursor,
            progress: TraceProgress::default(),
            is_over: false,
            life: 0,
            waiting: BTreeMap::new(),
            last: 0,
            given: 0,
        };
        let place = usize::from(place);
        let workers = cursors.into_iter().map(worker).collect();
        (place < TRACES_MAX).then_some(Self { id, place, workers, given: 0, skipped: 0 })
    }

    /// Whether the worker with this segment has begun.
    pub(super) fn is_on_in(&self, segment: &Segment) -> bool {
        segment.trace().places()[self.place].progress().id == self.id
    }

    /// What has been settled since the last time, up to about `bytes_max` of it.
    pub(super) fn take(
        &mut self,
        segments: &[Segment],
        count: Option<u64>,
        end: End,
        bytes_max: usize,
    ) -> Gathered {
        let Self { id, place, workers, given, skipped } = self;
        for (worker, segment) in workers.iter_mut().zip(segments) {
            worker.read(*id, *place, segment);
        }
        let mut gathered = Gathered::default();
        let mut bytes = 0;
        for (index, worker) in workers.iter_mut().enumerate() {
            while bytes < bytes_max && count.is_none_or(|count| *given < count) {
                let Some((missed, Waiting { record, frame, copies })) = worker.next(end) else { break };
                bytes += 512 + 128 * copies_max(&record) + 2 * frame.len();
                *given += 1;
                *skipped += missed;
                let is_lost = record.life != worker.life || end == End::Overdue;
                let (number, worker) = (*given + *skipped, index as u16);
                gathered.datagrams.push(Datagram { number, worker, record, frame, copies, is_lost });
            }
        }
        let is_full = count.is_some_and(|count| *given >= count);
        let recorded: u64 = workers.iter().map(|worker| worker.progress.recorded).sum();
        let is_all_over = workers.iter().any(|worker| worker.progress.id == *id)
            && workers.iter().all(|worker| worker.is_over() || worker.progress.id != *id);
        gathered.ended = match count {
            Some(count) if recorded >= count => Some("complete"),
            _ if is_all_over => Some("its rule is gone"),
            _ => None,
        };
        let is_settled = match end {
            End::NotYet => is_all_over,
            End::Told => workers.iter().all(|worker| worker.is_over() || worker.is_settled()),
            End::Overdue => true,
        };
        let nothing_waits = workers.iter().all(|worker| worker.waiting.is_empty());
        gathered.done = is_full || (is_settled && nothing_waits);
        gathered.seen = workers.iter().map(|worker| worker.progress.seen).sum();
        gathered.missed = workers.iter().map(|worker| worker.missed(gathered.done)).sum();
        gathered
    }
}

/// How many outcomes a datagram can have. A worker may say anything; a rule has no more outputs.
fn copies_max(record: &TracedDatagram) -> usize {
    record.outputs.min(OUTPUTS_MAX) as usize
}

impl Worker {
    fn read(&mut self, id: u64, place: usize, segment: &Segment) {
        // What is read of the rings is bounded by what has been given away.
        if self.waiting.len() >= TRACED_DATAGRAMS {
            return;
        }
        let trace = segment.trace();
        // Before the rings: what is settled then is in them.
        let progress = trace.places()[place].progress();
        let life = trace.life();
        if progress.id == id {
            self.progress = progress;
        } else if self.progress.id == id {
            self.is_over = true;
        }
        let Self { cursor, waiting, last, .. } = self;
        // Of what is recorded from here on, outcomes could be read without their datagrams.
        let end = trace.end();
        trace.read_datagrams(cursor, |record, frame| {
            if record.trace == id && record.number > *last {
                let frame = frame.to_vec();
                waiting.insert(record.number, Waiting { record, frame, copies: Vec::new() });
            }
        });
        trace.read_copies(cursor, end, |copy| {
            if copy.trace == id
                && let Some(known) = waiting.get_mut(&copy.number)
                && known.copies.len() < copies_max(&known.record)
            {
                known.copies.push(copy);
            }
        });
        self.life = life;
    }

    /// The next datagram that nothing more will be known of, and how many before it are missed.
    fn next(&mut self, end: End) -> Option<(u64, Waiting)> {
        let entry = self.waiting.first_entry()?;
        let is_of_the_dead = entry.get().record.life != self.life;
        let is_settled = *entry.key() <= self.progress.settled || self.is_over;
        if !is_settled && !is_of_the_dead && end != End::Overdue {
            return None;
        }
        let (number, waiting) = entry.remove_entry();
        let missed = number - self.last - 1;
        (self.last, self.given) = (number, self.given + 1);
        Some((missed, waiting))
    }

    /// Nothing more is recorded there.
    fn is_over(&self) -> bool {
        self.is_over || self.progress.ended
    }

    fn is_settled(&self) -> bool {
        self.progress.settled >= self.progress.recorded
    }

    /// How many it has recorded, or should have, that were not and will not be given away.
    fn missed(&self, done: bool) -> u64 {
        let upto = if done { self.progress.recorded.max(self.last) } else { self.last };
        self.progress.omitted + (upto - self.given)
    }
}
