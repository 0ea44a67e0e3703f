//! One reflector: its interface as it comes and goes, its socket, its process and the next one.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

use mcr_metrics::Numbers;
use mcr_netmon::{Link, LinkKind, Snapshot};
use mcr_proto::{message::Ids, reflect::Reflect};
use mcr_reflect::{Config, Count, Counters, FromReflector, Latency, Layout, Reason, ToReflector};
use tokio::sync::mpsc;
use tracing::{error, info, warn};

use super::{
    config,
    guard::guards,
    way::{NoWay, Way},
};
use crate::{
    backoff::Backoff,
    child::{ChildEvent, Happened, Role, Running},
};

/// Tags of descriptors, as `mcr-reflector` knows them.
const TAG_COUNTERS: u32 = 1;
/// A process that shows no sign of life for so long is ended.
const SILENT_MAX: Duration = Duration::from_secs(5);

/// Whether a reflector reflects, and if not, why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Its interface does not exist.
    Unresolved,
    /// Its interface is down.
    Paused,
    /// Its process is being started.
    Starting,
    /// It reflects.
    Active,
    /// It cannot.
    Failed(String),
}

/// A reflector's counters at a point in time.
#[derive(Debug, Clone)]
pub struct Report {
    /// The reflector as it was asked for.
    pub reflect: Reflect,
    /// Whether it reflects.
    pub state: State,
    /// How it gets and sends frames; none while it has no socket.
    pub platform: Option<&'static str>,
    /// Time since it was added.
    pub uptime: Duration,
    /// What was counted.
    pub counters: Counters,
    /// Turn-round times.
    pub latency: Latency,
}

/// What of its interface a reflector depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Port {
    ifindex: u32,
    mac: [u8; 6],
    mtu: usize,
    up: bool,
}

/// A reflector, of whichever state.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) reflect: Reflect,
    ids: Option<Ids>,
    numbers: Numbers,
    port: Option<Port>,
    config: Option<Config>,
    way: Option<Way>,
    // Never read: they are there to be dropped.
    guards: Vec<OwnedFd>,
    /// Frames that sockets of before had dropped.
    drops_before: u64,
    /// Frames that programs of before had passed to the stack, by reason.
    passed_before: BTreeMap<&'static str, u64>,
    failed: Option<(String, io::ErrorKind)>,
    running: Option<Running>,
    ready: bool,
    /// Its process is to end because its socket is gone; the next must not begin before, for both count in one place.
    closing: bool,
    starts: u32,
    started: Instant,
    backoff: Backoff,
    start_at: Option<Instant>,
    added: Instant,
}

impl Entry {
    pub(crate) fn new(reflect: Reflect, ids: Option<Ids>) -> Result<Self, mcr_metrics::AttachError> {
        Ok(Self {
            reflect,
            ids,
            numbers: Numbers::create(Layout::LEN)?,
            port: None,
            config: None,
            way: None,
            guards: Vec::new(),
            drops_before: 0,
            passed_before: BTreeMap::new(),
            failed: None,
            running: None,
            ready: false,
            closing: false,
            starts: 0,
            started: Instant::now(),
            backoff: Backoff::new(),
            start_at: None,
            added: Instant::now(),
        })
    }

    /// Its process, if one runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.running.as_ref().map(|running| running.pid)
    }

    /// How often its process was started again.
    pub(crate) fn restarts(&self) -> u32 {
        self.starts.saturating_sub(1)
    }

    /// When something is to be done that no event tells of.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.start_at
    }

    /// Whether and how opening failed last.
    pub(crate) fn failure(&self) -> Option<(&str, io::ErrorKind)> {
        self.failed.as_ref().map(|(why, kind)| (why.as_str(), *kind))
    }

    pub(crate) fn state(&self) -> State {
        match (&self.port, &self.failed) {
            (None, _) => State::Unresolved,
            (_, Some((why, _))) => State::Failed(why.clone()),
            (Some(port), _) if !port.up => State::Paused,
            _ if self.ready => State::Active,
            _ => State::Starting,
        }
    }

    pub(crate) fn report(&self) -> Report {
        let row: Vec<u64> = self.numbers.all().iter().map(mcr_metrics::Counter::get).collect();
        let mut counters = Layout::counters(&row);
        let dropped = self.way.as_ref().map_or(0, Way::dropped);
        counters.counts[Count::RxRingDrop.index()] = self.drops_before + dropped;
        let passed = self.way.as_ref().map(|way| way.passed(&self.reflect)).unwrap_or_default();
        let passed =
            passed.into_iter().chain(self.passed_before.iter().map(|(name, frames)| (*name, *frames)));
        for (name, frames) in passed {
            count_passed(&mut counters, name, frames);
        }
        Report {
            reflect: self.reflect.clone(),
            state: self.state(),
            platform: self.way.as_ref().map(Way::name),
            uptime: self.added.elapsed(),
            counters,
            latency: Layout::latency(&row),
        }
    }

    /// Follows the interface. `force` has the filter attached anew even if nothing has changed.
    pub(crate) fn follow(&mut self, network: &Snapshot, force: bool) {
        let link = network.link_by_name(self.reflect.interface.as_str());
        let port = link.and_then(port);
        if link.is_some() && port.is_none() {
            self.close();
            self.fail("it is no Ethernet interface with an address".into(), io::ErrorKind::Unsupported);
            self.port = Some(Port { ifindex: 0, mac: [0; 6], mtu: 0, up: false });
            return;
        }
        if port == self.port && !force && (self.way.is_some() || port.is_none()) {
            return;
        }
        let old = std::mem::replace(&mut self.port, port.clone());
        let Some(new) = port else {
            warn!(interface = %self.reflect.interface, "the interface does not exist; waiting for it");
            return self.close();
        };
        let config = match config::config(&self.reflect, new.mac, new.mtu) {
            Ok(config) => config,
            Err(fault) => return self.fail(fault.to_string(), io::ErrorKind::InvalidInput),
        };
        // Another interface takes another socket; a longer frame takes a process with more room.
        let same = old.is_some_and(|old| old.ifindex == new.ifindex && old.mtu == new.mtu);
        if same && self.way.is_some() {
            self.reconfigure(config);
        } else {
            self.close();
            self.open(&new, config);
        }
    }

    fn open(&mut self, port: &Port, config: Config) {
        match Way::open(&self.reflect, port.ifindex, &config) {
            Ok(way) => {
                let ports = [self.reflect.port, self.reflect.twamp, self.reflect.stamp, self.reflect.echo];
                let ports = ports.into_iter().filter(|port| *port != 0);
                // Those of before have the ports until they are gone.
                self.guards.clear();
                self.guards = guards(self.reflect.interface.as_str(), ports);
                (self.way, self.config, self.failed) = (Some(way), Some(config), None);
                self.start_at = Some(Instant::now());
            }
            Err(NoWay { why, kind }) => self.fail(why, kind),
        }
    }

    fn reconfigure(&mut self, config: Config) {
        let Some(way) = &mut self.way else { return };
        way.select(&self.reflect, &config);
        if self.config.as_ref() == Some(&config) {
            return;
        }
        if let Some(running) = &self.running {
            let message = ToReflector::Configure { config: config.clone() };
            if let Err(problem) = running.send(&message, Vec::new()) {
                warn!(interface = %self.reflect.interface, "cannot tell the reflector its options: {problem}");
            }
        }
        self.config = Some(config);
    }

    /// Notes why it cannot reflect.
    fn fail(&mut self, why: String, kind: io::ErrorKind) {
        if self.failed.as_ref().is_none_or(|(before, _)| *before != why) {
            error!(interface = %self.reflect.interface, "cannot reflect: {why}");
        }
        self.failed = Some((why, kind));
    }

    /// Starts the process if it is time to.
    pub(crate) fn start_due<E: 'static>(
        &mut self,
        now: Instant,
        events: &mpsc::Sender<E>,
        wrap: impl Fn(ChildEvent<FromReflector>) -> E + 'static,
    ) -> io::Result<()> {
        if self.start_at.is_none_or(|at| at > now) || self.running.is_some() {
            return Ok(());
        }
        let (Some(way), Some(config)) = (&mut self.way, &self.config) else { return Ok(()) };
        self.start_at = None;
        self.starts += 1;
        self.started = now;
        self.backoff.started(now);
        let running = Running::start(Role::Reflector, self.starts, events.clone(), wrap)?;
        let (back_end, mut fds) = way.hand_over()?;
        let start = ToReflector::Start {
            config: config.clone(),
            back_end,
            latency_every: if self.reflect.latency { self.reflect.latency_sample } else { 0 },
            ids: self.ids.map(|Ids { uid, gid }| (uid, gid)),
            core: None,
        };
        fds.push((TAG_COUNTERS, self.numbers.as_fd().try_clone_to_owned()?));
        running.send(&start, fds).map_err(io::Error::other)?;
        self.running = Some(running);
        Ok(())
    }

    /// Notes what its process did.
    pub(crate) fn note(&mut self, event: ChildEvent<FromReflector>) {
        if event.start != self.starts {
            return;
        }
        let interface = self.reflect.interface;
        match event.what {
            Happened::Said(FromReflector::Ready) if self.closing => {}
            Happened::Said(FromReflector::Ready) => {
                let Some(way) = &mut self.way else { return };
                let platform = way.name();
                if let Err(NoWay { why, kind }) = way.begin() {
                    return self.fail(why, kind);
                }
                self.ready = true;
                info!(%interface, platform, mode = %self.reflect.mode, port = self.reflect.port, "reflecting");
            }
            Happened::Said(FromReflector::Log { error: true, text }) => warn!(%interface, "{text}"),
            Happened::Said(FromReflector::Log { error: false, text }) => info!(%interface, "{text}"),
            Happened::Ended { clean, how } => {
                (self.running, self.ready) = (None, false);
                self.settle();
                let closed = std::mem::take(&mut self.closing);
                let pause = self.backoff.ended(Instant::now(), clean);
                if self.way.is_some() && !closed {
                    warn!(%interface, "reflector ended ({how}); starting it again in {} ms", pause.as_millis());
                    self.renew_spent();
                    self.start_at = self.way.is_some().then(|| Instant::now() + pause);
                }
            }
        }
    }

    /// Notes what its process did after it was told to stop: no other follows it.
    pub(crate) fn end_with(&mut self, event: ChildEvent<FromReflector>) {
        if event.start == self.starts && matches!(event.what, Happened::Ended { .. }) {
            (self.running, self.ready) = (None, false);
            self.settle();
        }
    }

    /// Counts what its dead process had not sent as what cannot be sent any more.
    fn settle(&self) {
        let numbers = self.numbers.all();
        let in_flight = &numbers[Layout::count(Count::InFlight)];
        numbers[Layout::count(Count::TxError)].add(in_flight.get());
        in_flight.set(0);
    }

    /// Ends its process if that shows no sign of life; its end is noted like any other.
    pub(crate) fn look_after(&self, now: Instant, monotonic_ns: u64) {
        let Some(running) = &self.running else { return };
        let beat_ns = self.numbers.all()[Layout::HEARTBEAT].get();
        let silent = Duration::from_nanos(monotonic_ns.saturating_sub(beat_ns));
        if now.duration_since(self.started) > SILENT_MAX && silent > SILENT_MAX {
            error!(interface = %self.reflect.interface, "reflector is stuck; ending it");
            running.kill();
        }
    }

    /// Has the process stop, which answers what it has taken first.
    pub(crate) fn stop(&mut self) {
        self.start_at = None;
        if let Some(running) = &self.running {
            let _ = running.send(&ToReflector::Stop, Vec::new());
        }
    }

    pub(crate) fn kill(&self) {
        if let Some(running) = &self.running {
            running.kill();
        }
    }

    pub(crate) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Lets go of the interface, and has the process end.
    fn close(&mut self) {
        self.stop();
        self.closing = self.running.is_some();
        self.ready = false;
        self.let_go();
        self.guards.clear();
    }

    /// Opens anew what the process that died took with it.
    fn renew_spent(&mut self) {
        let (true, Some(port), Some(config)) =
            (self.way.as_ref().is_some_and(Way::is_spent), self.port.clone(), self.config.clone())
        else {
            return;
        };
        self.let_go();
        self.open(&port, config);
    }

    /// Closes the way, and keeps what it counted.
    fn let_go(&mut self) {
        let Some(way) = self.way.take() else { return };
        self.drops_before += way.dropped();
        for (name, frames) in way.passed(&self.reflect) {
            *self.passed_before.entry(name).or_default() += frames;
        }
    }
}

/// Frames that the kernel's program judged, as if they had been handed up: a packet socket would have got them.
fn count_passed(counters: &mut Counters, name: &str, frames: u64) {
    if let Some(reason) = Reason::ALL.iter().find(|reason| reason.name() == name) {
        counters.reasons[reason.index()] += frames;
        counters.counts[Count::Received.index()] += frames;
    }
}

fn port(link: &Link) -> Option<Port> {
    let mac = link.mac.filter(|mac| link.kind == LinkKind::Ethernet && *mac != [0; 6])?;
    Some(Port { ifindex: link.index, mac, mtu: link.mtu as usize, up: link.up })
}
