//! One process of a reflector: what it counts, its life and the next one's.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    time::{Duration, Instant},
};

use mcr_metrics::{AttachError, Counter, Numbers};
use mcr_proto::message::Ids;
use mcr_reflect::{BackEnd, Config, Count, Counters, FromReflector, Latency, Layout, ToReflector, tag};
use tokio::sync::mpsc;
use tracing::{error, warn};

use crate::{
    backoff::Backoff,
    child::{ChildEvent, Role, Running},
};

/// How often it is tried again to get what a process is to have: what the kernel has yet to give back, and what others have.
const PASSING_PAUSE: Duration = Duration::from_millis(5);
const LACKING_PAUSE: Duration = Duration::from_millis(500);
/// What the kernel gives back of a dead process it does within this time.
const PASSING_MAX: Duration = Duration::from_millis(200);
/// A process that shows no sign of life for so long is ended.
const SILENT_MAX: Duration = Duration::from_secs(5);

/// A place for a process, which one after the other has.
#[derive(Debug)]
pub(super) struct Worker {
    numbers: Numbers,
    running: Option<Running>,
    pub(super) ready: bool,
    /// Its process is to end because its socket is gone; the next must not begin before, for both count in one place.
    closing: bool,
    starts: u32,
    started: Instant,
    backoff: Backoff,
    start_at: Option<Instant>,
    lack: Option<Lack>,
}

/// What a process that is due cannot have.
#[derive(Debug)]
struct Lack {
    since: Instant,
    why: String,
    said: bool,
}

/// What a process is started with.
#[derive(Debug)]
pub(super) struct Start<'a> {
    pub(super) config: &'a Config,
    pub(super) latency_every: u32,
    pub(super) ids: Option<Ids>,
    pub(super) core: Option<u32>,
    pub(super) back_end: BackEnd,
    pub(super) fds: Vec<(u32, OwnedFd)>,
}

/// How a process ended.
#[derive(Debug)]
pub(super) struct Ended {
    /// It was told to, because its socket is gone.
    pub(super) told: bool,
    /// The pause to make before another is started.
    pub(super) pause: Duration,
}

impl Worker {
    pub(super) fn new() -> Result<Self, AttachError> {
        Ok(Self {
            numbers: Numbers::create(Layout::LEN)?,
            running: None,
            ready: false,
            closing: false,
            starts: 0,
            started: Instant::now(),
            backoff: Backoff::new(),
            start_at: None,
            lack: None,
        })
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.running.as_ref().map(|running| running.pid)
    }

    pub(super) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// How often a process was started after the first.
    pub(super) fn restarts(&self) -> u32 {
        self.starts.saturating_sub(1)
    }

    /// What its processes counted.
    pub(super) fn counters(&self) -> Counters {
        let row: Vec<u64> = self.numbers.all()[..Layout::LATENCY[0]].iter().map(Counter::get).collect();
        Layout::counters(&row)
    }

    /// The turn-round times of its processes: some thousand numbers.
    pub(super) fn latency(&self) -> Latency {
        let row: Vec<u64> = self.numbers.all().iter().map(Counter::get).collect();
        Layout::latency(&row)
    }

    pub(super) fn start_at(&mut self, at: Option<Instant>) {
        self.start_at = at;
    }

    /// When the next is to be started; one that runs has to end first.
    pub(super) fn due(&self) -> Option<Instant> {
        self.start_at.filter(|_| self.running.is_none())
    }

    /// Notes why there is nothing to start a process with, which says nothing about the process; it is tried again, at a steady pace.
    pub(super) fn lacks(&mut self, interface: &dyn std::fmt::Display, now: Instant, why: String) {
        let lack = self.lack.get_or_insert_with(|| Lack { since: now, why: String::new(), said: false });
        lack.why = why;
        let is_passing = now.duration_since(lack.since) < PASSING_MAX;
        if !is_passing && !std::mem::replace(&mut lack.said, true) {
            warn!(%interface, "no socket for a reflector: {}", lack.why);
        }
        self.start_at = Some(now + if is_passing { PASSING_PAUSE } else { LACKING_PAUSE });
    }

    /// Why there is no process though one is due, where that does not pass at once.
    pub(super) fn lack(&self, now: Instant) -> Option<&str> {
        let lack = self.lack.as_ref()?;
        (now.duration_since(lack.since) >= PASSING_MAX).then_some(&lack.why)
    }

    /// Starts a process, which events come of.
    pub(super) fn start<E: 'static>(
        &mut self,
        now: Instant,
        events: &mpsc::Sender<E>,
        wrap: impl Fn(ChildEvent<FromReflector>) -> E + 'static,
        start: Start<'_>,
    ) -> io::Result<()> {
        let Start { config, latency_every, ids, core, back_end, mut fds } = start;
        (self.start_at, self.lack) = (None, None);
        self.starts += 1;
        self.started = now;
        self.backoff.started(now);
        let running = Running::start(Role::Reflector, self.starts, events.clone(), wrap)?;
        let message = ToReflector::Start {
            config: config.clone(),
            back_end,
            latency_every,
            ids: ids.map(|Ids { uid, gid }| (uid, gid)),
            core,
        };
        fds.push((tag::COUNTERS, self.numbers.as_fd().try_clone_to_owned()?));
        running.send(&message, fds).map_err(io::Error::other)?;
        self.running = Some(running);
        Ok(())
    }

    /// Whether an event is of the process that runs, and not of one before.
    pub(super) fn is_of(&self, event: &ChildEvent<FromReflector>) -> bool {
        event.start == self.starts
    }

    /// Notes that its process said that it is ready; false if it is to end all the same.
    pub(super) fn is_welcome(&self) -> bool {
        !self.closing
    }

    /// Notes the end of its process.
    pub(super) fn ended(&mut self, clean: bool) -> Ended {
        (self.running, self.ready) = (None, false);
        self.settle();
        let told = std::mem::take(&mut self.closing);
        Ended { told, pause: self.backoff.ended(Instant::now(), clean) }
    }

    /// Counts what its dead process had not sent as what cannot be sent any more.
    fn settle(&self) {
        let numbers = self.numbers.all();
        let in_flight = &numbers[Layout::count(Count::InFlight)];
        numbers[Layout::count(Count::TxError)].add(in_flight.get());
        in_flight.set(0);
    }

    /// Tells its process other options.
    pub(super) fn configure(&self, interface: &dyn std::fmt::Display, config: &Config) {
        let Some(running) = &self.running else { return };
        let message = ToReflector::Configure { config: config.clone() };
        if let Err(problem) = running.send(&message, Vec::new()) {
            warn!(%interface, "cannot tell the reflector its options: {problem}");
        }
    }

    /// Ends its process if that shows no sign of life; its end is noted like any other.
    pub(super) fn look_after(&self, interface: &dyn std::fmt::Display, now: Instant, monotonic_ns: u64) {
        let Some(running) = &self.running else { return };
        let beat_ns = self.numbers.all()[Layout::HEARTBEAT].get();
        let silent = Duration::from_nanos(monotonic_ns.saturating_sub(beat_ns));
        if now.duration_since(self.started) > SILENT_MAX && silent > SILENT_MAX {
            error!(%interface, "reflector is stuck; ending it");
            running.kill();
        }
    }

    /// Has the process stop, which answers what it has taken first.
    pub(super) fn stop(&mut self) {
        (self.start_at, self.lack) = (None, None);
        if let Some(running) = &self.running {
            let _ = running.send(&ToReflector::Stop, Vec::new());
        }
    }

    /// Has the process stop because its socket is gone; another may follow.
    pub(super) fn close(&mut self) {
        self.stop();
        self.closing = self.running.is_some();
        self.ready = false;
    }

    pub(super) fn kill(&self) {
        if let Some(running) = &self.running {
            running.kill();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_process_lacks_is_waited_for_at_a_steady_pace_and_said_when_it_lasts() {
        let mut worker = Worker::new().expect("memory");
        let mut now = Instant::now();
        let begun = now;
        let mut tries = 0;
        while now < begun + PASSING_MAX {
            worker.lacks(&"port0", now, "the queue is busy".into());
            assert_eq!(worker.lack(now), None, "it may pass");
            now = worker.due().expect("it is tried again");
            tries += 1;
        }
        assert_eq!(tries, PASSING_MAX.as_millis() / PASSING_PAUSE.as_millis());
        for _ in 0..100 {
            worker.lacks(&"port0", now, "no memory".into());
            assert_eq!(worker.lack(now), Some("no memory"));
            let next = worker.due().expect("it is tried again");
            assert_eq!(next - now, LACKING_PAUSE);
            now = next;
        }
        worker.stop();
        assert_eq!((worker.lack(now), worker.due()), (None, None));
    }
}
