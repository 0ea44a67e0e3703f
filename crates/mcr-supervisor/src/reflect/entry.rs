//! One reflector: its interface as it comes and goes, its sockets, and its processes.

use std::{
    collections::BTreeMap,
    io,
    ops::Range,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use mcr_netmon::{Link, LinkKind, Snapshot};
use mcr_proto::{message::Ids, reflect::Reflect};
use mcr_reflect::{Config, Count, Counters, FromReflector, Latency, Reason};
use tokio::sync::mpsc;
use tracing::{error, info, warn};

use super::{
    config,
    guard::guards,
    health::Health,
    way::{NoWay, Way},
    worker::{Start, Worker},
};
use crate::{
    child::{ChildEvent, Happened},
    run::cores,
};

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
    /// What is wrong, if anything is.
    pub fault: Option<String>,
    /// Its processes.
    pub workers: Vec<WorkerReport>,
}

/// One process of a reflector at a point in time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerReport {
    /// The queues whose frames it gets; empty where they are not told apart.
    pub queues: Range<u32>,
    /// The process, if one runs.
    pub pid: Option<u32>,
    /// Whether it reflects.
    pub ready: bool,
    /// How often it was started again.
    pub restarts: u32,
    /// Frames it received.
    pub received: u64,
    /// Frames it reflected.
    pub reflected: u64,
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
    /// As many as the way wants; more if one of before wanted more. Their counters stay.
    workers: Vec<Worker>,
    /// All processes of the way have been ready once.
    begun: bool,
    health: Health,
    /// It was told to stop, for good: that nothing runs any more is no fault.
    stopped: bool,
    added: Instant,
}

impl Entry {
    pub(crate) fn new(reflect: Reflect, ids: Option<Ids>) -> Result<Self, mcr_metrics::AttachError> {
        Ok(Self {
            reflect,
            ids,
            port: None,
            config: None,
            way: None,
            guards: Vec::new(),
            drops_before: 0,
            passed_before: BTreeMap::new(),
            failed: None,
            workers: vec![Worker::new()?],
            begun: false,
            health: Health::default(),
            stopped: false,
            added: Instant::now(),
        })
    }

    /// The first of its processes that runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.workers.iter().find_map(Worker::pid)
    }

    /// How often its processes were started again.
    pub(crate) fn restarts(&self) -> u32 {
        self.workers.iter().map(Worker::restarts).sum()
    }

    /// When something is to be done that no event tells of.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.workers.iter().filter_map(Worker::due).min()
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
            _ if self.is_ready() || (self.begun && self.ready() > 0) => State::Active,
            _ => State::Starting,
        }
    }

    /// How many processes there are to be.
    fn processes(&self) -> usize {
        self.way.as_ref().map_or(0, Way::processes)
    }

    /// How many of them reflect.
    fn ready(&self) -> usize {
        self.workers.iter().filter(|worker| worker.ready).count()
    }

    fn is_ready(&self) -> bool {
        self.processes() > 0 && self.ready() == self.processes()
    }

    /// What is wrong: it does not reflect, some of its processes do not, or frames come and none goes back.
    fn fault(&self) -> Option<String> {
        if self.stopped {
            return None;
        }
        match self.state() {
            State::Unresolved => return Some("the interface does not exist".into()),
            State::Paused => return Some("the interface is down".into()),
            State::Failed(why) => return Some(why),
            State::Starting | State::Active => {}
        }
        if let Some(why) = self.workers.iter().find_map(|worker| worker.lack(Instant::now())) {
            return Some(format!("no socket for a process: {why}"));
        }
        let (ready, processes) = (self.ready(), self.processes());
        if ready < processes && (self.begun || self.restarts() > 0) {
            return Some(format!("{} of {processes} processes do not run", processes - ready));
        }
        let time = self.health.unanswered_for(Instant::now())?;
        Some(format!("frames come and none was reflected for {} s", time.as_secs()))
    }

    /// What its processes, the kernel and the kernel's program counted.
    fn counters(&self) -> Counters {
        let mut counters = Counters::default();
        self.workers.iter().for_each(|worker| counters.add(&worker.counters()));
        let dropped = self.way.as_ref().map_or(0, Way::dropped);
        counters.counts[Count::RxRingDrop.index()] = self.drops_before + dropped;
        let passed = self.way.as_ref().map(|way| way.passed(&self.reflect)).unwrap_or_default();
        let passed =
            passed.into_iter().chain(self.passed_before.iter().map(|(name, frames)| (*name, *frames)));
        for (name, frames) in passed {
            count_passed(&mut counters, name, frames);
        }
        counters
    }

    fn latency(&self) -> Latency {
        let mut latency = Latency::default();
        self.workers.iter().for_each(|worker| latency.add(&worker.latency()));
        latency
    }

    pub(crate) fn report(&self) -> Report {
        Report {
            reflect: self.reflect.clone(),
            state: self.state(),
            platform: self.way.as_ref().map(Way::name),
            uptime: self.added.elapsed(),
            counters: self.counters(),
            latency: self.latency(),
            fault: self.fault(),
            workers: self.worker_reports(),
        }
    }

    fn worker_reports(&self) -> Vec<WorkerReport> {
        let Some(way) = &self.way else { return Vec::new() };
        let reports = self.workers.iter().take(way.processes()).enumerate().map(|(process, worker)| {
            let counters = worker.counters();
            WorkerReport {
                queues: way.queues(process),
                pid: worker.pid(),
                ready: worker.ready,
                restarts: worker.restarts(),
                received: counters.count(Count::Received),
                reflected: counters.count(Count::Reflected),
            }
        });
        reports.collect()
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
                if let Err(problem) = self.make_room_for(way.processes()) {
                    return self.fail(format!("cannot count: {problem}"), io::ErrorKind::Other);
                }
                let ports = [self.reflect.port, self.reflect.twamp, self.reflect.stamp, self.reflect.echo];
                let ports = ports.into_iter().filter(|port| *port != 0);
                // Those of before have the ports until they are gone.
                self.guards.clear();
                self.guards = guards(self.reflect.interface.as_str(), ports);
                let now = Instant::now();
                for (process, worker) in self.workers.iter_mut().enumerate() {
                    worker.start_at((process < way.processes()).then_some(now));
                }
                (self.way, self.config, self.failed, self.begun) = (Some(way), Some(config), None, false);
            }
            Err(NoWay { why, kind }) => self.fail(why, kind),
        }
    }

    fn make_room_for(&mut self, processes: usize) -> Result<(), mcr_metrics::AttachError> {
        while self.workers.len() < processes {
            self.workers.push(Worker::new()?);
        }
        Ok(())
    }

    fn reconfigure(&mut self, config: Config) {
        let Some(way) = &mut self.way else { return };
        way.select(&self.reflect, &config);
        if self.config.as_ref() == Some(&config) {
            return;
        }
        for worker in &self.workers {
            worker.configure(&self.reflect.interface, &config);
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

    /// Starts the processes that it is time for. `wrap` is given the process's number.
    pub(crate) fn start_due<E: 'static>(
        &mut self,
        now: Instant,
        events: &mpsc::Sender<E>,
        wrap: impl Fn(usize, ChildEvent<FromReflector>) -> E + Copy + 'static,
    ) -> io::Result<()> {
        let (Some(way), Some(config)) = (&mut self.way, &self.config) else { return Ok(()) };
        let cores = cores();
        let several = way.processes() > 1;
        for (process, worker) in self.workers.iter_mut().enumerate() {
            if worker.due().is_none_or(|at| at > now) {
                continue;
            }
            // At first what its predecessor had may be on its way back.
            let less_will_do = worker.lack(now).is_some();
            let (back_end, fds) = match way.hand_over(process, less_will_do) {
                Ok(handed) => handed,
                Err(NoWay { why, .. }) => {
                    worker.lacks(&self.reflect.interface, now, why);
                    continue;
                }
            };
            let start = Start {
                config,
                latency_every: if self.reflect.latency { self.reflect.latency_sample } else { 0 },
                ids: self.ids,
                // One alone runs wherever there is time for it.
                core: several.then(|| u32::from(cores[process % cores.len()])),
                back_end,
                fds,
            };
            worker.start(now, events, move |event| wrap(process, event), start)?;
        }
        Ok(())
    }

    /// Notes what a process did.
    pub(crate) fn note(&mut self, process: usize, event: ChildEvent<FromReflector>) {
        let interface = self.reflect.interface;
        let Some(worker) = self.workers.get_mut(process).filter(|worker| worker.is_of(&event)) else {
            return;
        };
        match event.what {
            Happened::Said(FromReflector::Ready) if !worker.is_welcome() => {}
            Happened::Said(FromReflector::Ready) => self.note_ready(process),
            Happened::Said(FromReflector::Log { error: true, text }) => warn!(%interface, "{text}"),
            Happened::Said(FromReflector::Log { error: false, text }) => info!(%interface, "{text}"),
            Happened::Ended { clean, how } => {
                let ended = worker.ended(clean);
                if ended.told || self.way.is_none() {
                    return;
                }
                warn!(%interface, process, "reflector ended ({how}); starting it again in {} ms", ended.pause.as_millis());
                worker.start_at(Some(Instant::now() + ended.pause));
                self.take_back(process, ended.pause);
            }
        }
    }

    fn note_ready(&mut self, process: usize) {
        let Some(way) = &mut self.way else { return };
        if let Err(NoWay { why, kind }) = way.begin(process) {
            // Opened anew with the next look.
            self.close();
            return self.fail(why, kind);
        }
        let (platform, processes) = (way.name(), way.processes());
        self.workers[process].ready = true;
        if self.is_ready() {
            self.begun = true;
            let Reflect { interface, mode, port, .. } = &self.reflect;
            info!(%interface, platform, processes, %mode, port, "reflecting");
        }
    }

    /// Notes what a process did after all were told to stop: no other follows it.
    pub(crate) fn end_with(&mut self, process: usize, event: ChildEvent<FromReflector>) {
        let Some(worker) = self.workers.get_mut(process).filter(|worker| worker.is_of(&event)) else {
            return;
        };
        if matches!(event.what, Happened::Ended { .. }) {
            worker.ended(true);
        }
    }

    /// Ends processes that show no sign of life, and looks whether frames go back.
    pub(crate) fn look_after(&mut self, now: Instant, monotonic_ns: u64) {
        for worker in &self.workers {
            worker.look_after(&self.reflect.interface, now, monotonic_ns);
        }
        let counters = self.counters();
        self.health.look(now, counters.count(Count::Received), counters.count(Count::Reflected));
    }

    /// Has the processes stop, which answer what they have taken first.
    pub(crate) fn stop(&mut self) {
        self.stopped = true;
        self.workers.iter_mut().for_each(Worker::stop);
    }

    pub(crate) fn kill(&self) {
        self.workers.iter().for_each(Worker::kill);
    }

    pub(crate) fn is_running(&self) -> bool {
        self.running() > 0
    }

    /// How many of its processes run.
    pub(crate) fn running(&self) -> usize {
        self.workers.iter().filter(|worker| worker.is_running()).count()
    }

    /// Lets go of the interface, and has the processes end.
    fn close(&mut self) {
        self.workers.iter_mut().for_each(Worker::close);
        self.let_go();
        self.guards.clear();
    }

    /// Takes from a process that died what it had. What cannot be made again for it alone is opened anew at once.
    fn take_back(&mut self, process: usize, pause: Duration) {
        if let Some(way) = &mut self.way {
            way.take_back(process);
        }
        let (true, Some(port), Some(config)) =
            (self.way.as_ref().is_some_and(Way::is_spent), self.port.clone(), self.config.clone())
        else {
            return;
        };
        self.let_go();
        self.open(&port, config);
        // Where that failed there is nothing to start it with; it is tried again with the interface.
        let again = self.way.is_some().then(|| Instant::now() + pause);
        self.workers[process].start_at(again);
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
