//! The loop: one event at a time changes the state, then the state is reconciled.

mod children;
mod config;
mod heard;
mod look;
mod reflectors;

use std::{
    collections::{HashMap, VecDeque},
    net::{SocketAddr, TcpListener},
    os::fd::AsFd,
    time::{Duration, Instant},
};

use mcr_metrics::Segment;
use mcr_netmon::Monitor;
use mcr_proto::{
    message::{Fault, FaultKind, FromControl, FromWorker, IoChoice, Reply, Request, ToControl, WorkerState},
    plan::WorkerIndex,
};
use mcr_reflect::FromReflector;
use nix::{
    sched::{CpuSet, sched_getaffinity},
    unistd::Pid,
};
use tokio::{
    io::unix::AsyncFd,
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    time::{Interval, MissedTickBehavior},
};
use tracing::{error, info, warn};

use crate::{
    backoff::Backoff,
    child::{ChildEvent, Running},
    health::LOOK_EVERY,
    kernel::Kernel,
    listen::{self, Listener},
    logs, network,
    options::{Options, SupervisorError, Watchdog},
    reflect::set,
    requests::{ANSWER_WITHIN, Outcome, Waiting, handle},
    rights,
    state::State,
    worker::Worker,
};

/// Events taken before the loop goes on; more wait with their senders.
const EVENTS_MAX: usize = 1024;
/// How often what the host refused is tried again.
const RETRY_EVERY: Duration = Duration::from_secs(1);

enum Event {
    Worker(usize, ChildEvent<FromWorker>),
    Control(ChildEvent<FromControl>),
    Reflector(set::Id, usize, ChildEvent<FromReflector>),
    /// The configuration was written, or not, for a request of control's life `start`.
    Saved {
        start: u32,
        seq: u64,
        reply: Result<Reply, Fault>,
    },
    /// The host was looked at, for these requests of control's life `start`.
    Looked {
        start: u32,
        seqs: Vec<u64>,
        doctor: bool,
        looked: look::Looked,
    },
}

/// Runs the daemon until SIGTERM or SIGINT. `ready` is called once, when rules relay and clients are served.
///
/// # Errors
/// Any [`SupervisorError`]; nothing is left behind then.
pub fn run(options: Options, ready: impl FnOnce()) -> Result<(), SupervisorError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(SupervisorError::system("start the event loop"))?;
    tokio::task::LocalSet::new().block_on(&runtime, async {
        // Before there is anything that a signal, were it to end the process, would leave behind.
        let signals = Signals::listen()?;
        let mut supervisor = Supervisor::start(options, Box::new(ready))?;
        supervisor.attend(signals).await
    })
}

/// The signals that the daemon acts on.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn listen() -> Result<Self, SupervisorError> {
        let listen_to = |kind| signal(kind).map_err(SupervisorError::system("listen to signals"));
        Ok(Self {
            terminate: listen_to(SignalKind::terminate())?,
            interrupt: listen_to(SignalKind::interrupt())?,
            hangup: listen_to(SignalKind::hangup())?,
        })
    }
}

struct Supervisor<'a> {
    options: Options,
    state: State,
    monitor: Monitor,
    listener: Listener,
    http: Option<TcpListener>,
    control: Control,
    /// When children were looked at last.
    looked: Instant,
    reflectors: set::Reflectors,
    /// Clients that wait for a reflector to reflect: request, name, whether it is new, and until when.
    reflect_waiting: Vec<(u64, String, bool, Instant)>,
    waiting: VecDeque<Waiting>,
    /// Requests that would disturb rules which are changing their ways.
    held_up: VecDeque<(u64, Request)>,
    events: mpsc::Receiver<Event>,
    sender: mpsc::Sender<Event>,
    retry_at: Option<Instant>,
    /// The configuration is to be loaded again, and control has been told to so often.
    reload_wanted: Option<u32>,
    saving: bool,
    /// Whether it was said that workers do without io_uring.
    fallback_said: bool,
    patients: look::Patients,
    ready: Option<Box<dyn FnOnce() + 'a>>,
}

struct Control {
    running: Option<Running>,
    starts: u32,
    ready: bool,
    /// When it was started, or last showed that it is alive.
    heard: Instant,
    backoff: Backoff,
    start_at: Option<Instant>,
}

impl<'a> Supervisor<'a> {
    fn start(options: Options, ready: Box<dyn FnOnce() + 'a>) -> Result<Self, SupervisorError> {
        rights::raise_file_limit();
        let listener = Listener::open(&options.socket, options.group, options.others_may_read)?;
        let http = options.http.as_ref().map(|(address, _)| listen_for_http(*address)).transpose()?;
        // Made and given to its group: from here on no more is done than these few rights allow.
        rights::give_up_all_but_few()?;
        let monitor = Monitor::open().map_err(|error| SupervisorError::Network(error.to_string()))?;
        let abilities = network::abilities(options.ebpf);
        if !abilities.raw_sockets {
            info!("no CAP_NET_RAW: rules use the udp data path; run as root for packet");
        }
        let cores = cores();
        let count = options.workers.map_or(cores.len(), usize::from);
        let workers = (0..count).map(|index| {
            let core = cores.get(index % cores.len().max(1)).copied();
            Ok(Worker::new(WorkerIndex(index as u16), core, Segment::create()?))
        });
        let workers = workers.collect::<Result<Vec<_>, SupervisorError>>()?;
        let mut state =
            State::new(workers, abilities, Kernel::new(Segment::create()?, options.ebpf && options.swallow));
        state.set_settings(options.settings.clone(), &HashMap::new(), monitor.snapshot());
        for spec in &options.rules {
            let name = spec.name.as_ref().map_or_else(|| spec.input.to_string(), ToString::to_string);
            let added = state.add(spec.clone(), monitor.snapshot());
            added.map_err(|fault| SupervisorError::Rule { name, reason: fault.message })?;
        }
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let control = Control {
            running: None,
            starts: 0,
            ready: false,
            heard: Instant::now(),
            backoff: Backoff::new(),
            start_at: Some(Instant::now()),
        };
        for worker in &mut state.workers {
            worker.start_at = Some(Instant::now());
        }
        let (waiting, held_up) = (VecDeque::new(), VecDeque::new());
        Ok(Self {
            options,
            state,
            monitor,
            listener,
            http,
            control,
            looked: Instant::now(),
            reflectors: set::Reflectors::default(),
            reflect_waiting: Vec::new(),
            waiting,
            held_up,
            events,
            sender,
            retry_at: None,
            reload_wanted: None,
            saving: false,
            fallback_said: false,
            patients: look::Patients::default(),
            ready: Some(ready),
        })
    }

    async fn attend(&mut self, signals: Signals) -> Result<(), SupervisorError> {
        let Signals { mut terminate, mut interrupt, mut hangup } = signals;
        let netlink = self
            .monitor
            .as_fd()
            .try_clone_to_owned()
            .map_err(SupervisorError::system("duplicate a socket"))?;
        // Deprecated for types that might not own the descriptor they name; an `OwnedFd` does, and what replaces it is unsafe.
        #[allow(deprecated)]
        let netlink =
            AsyncFd::new(netlink).map_err(SupervisorError::system("wait for the network's changes"))?;
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut beats = self.options.watchdog.map(Beats::new);
        loop {
            self.start_due_children()?;
            self.state.settle_carriers(Instant::now(), self.monitor.snapshot());
            self.state.settle_drains(Instant::now());
            self.state.settle_moves(Instant::now(), self.monitor.snapshot());
            self.handle_held_up();
            self.state.refresh_guards(self.monitor.snapshot());
            self.state.follow_routes(self.monitor.snapshot());
            self.state.reconcile();
            self.state.kernel.follow_traces(Instant::now());
            self.reconcile_reflectors()?;
            self.answer_waiting();
            self.tell_events();
            self.say_ready();
            let timer = self.next_timer();
            tokio::select! {
                event = self.events.recv() => {
                    if let Some(event) = event {
                        self.note(event);
                    }
                    // What else is there is handled before anything is sent, so that changes are gathered.
                    while let Ok(event) = self.events.try_recv() {
                        self.note(event);
                    }
                }
                readable = netlink.readable() => {
                    let mut readable = readable.map_err(SupervisorError::system("wait for the network's changes"))?;
                    readable.clear_ready();
                    self.follow_network();
                }
                () = until(timer) => self.retry_due(),
                _ = look.tick() => {
                    self.look_after_children();
                    self.state.tend_kernel(self.monitor.snapshot());
                    self.options.log.output.tick();
                }
                _ = hangup.recv() => self.reload(),
                () = beat(&mut beats) => {}
                () = stopped(&mut terminate, &mut interrupt) => {
                    info!("stopping");
                    self.stop().await;
                    self.options.log.output.tick();
                    return Ok(());
                }
            }
        }
    }

    fn handle(&mut self, seq: u64, request: Request) {
        match handle(request, &mut self.state, self.monitor.snapshot()) {
            Outcome::Now(reply) => self.reply(seq, reply),
            Outcome::When { needs, then } => {
                let until = Instant::now() + ANSWER_WITHIN;
                self.waiting.push_back(Waiting { seq, needs, then, until, is_settled: false });
            }
        }
    }

    /// Carries out what had to wait for moves to end.
    fn handle_held_up(&mut self) {
        while !self.state.moves.hold_up(Instant::now())
            && let Some((seq, request)) = self.held_up.pop_front()
        {
            self.handle(seq, request);
        }
    }

    fn reply(&self, seq: u64, reply: Result<Reply, Fault>) {
        let Some(control) = &self.control.running else { return };
        if let Err(problem) = control.send(&ToControl::Reply { seq, reply }, Vec::new()) {
            let fault = Fault::new(FaultKind::Limit, format!("the answer cannot be sent: {problem}"));
            let _ = control.send(&ToControl::Reply { seq, reply: Err(fault) }, Vec::new());
        }
    }

    fn answer_waiting(&mut self) {
        let now = Instant::now();
        for mut waiting in std::mem::take(&mut self.waiting) {
            waiting.settle(&self.state);
            match waiting.answer(&self.state, now) {
                Some(reply) => {
                    // The filters must let through what the client was told is relayed.
                    self.state.reconcile();
                    self.reply(waiting.seq, reply);
                }
                None => self.waiting.push_back(waiting),
            }
        }
    }

    fn follow_network(&mut self) {
        // All of them: the descriptor is reported readable once for everything that is there.
        loop {
            match self.monitor.changes() {
                Ok(changes) => self.state.network_changed(&changes, self.monitor.snapshot()),
                Err(problem) => {
                    error!(
                        target: logs::NETWORK,
                        "cannot read the network's changes: {problem}; reading all of its state anew soon"
                    );
                    self.retry_at = Some(Instant::now() + RETRY_EVERY);
                    return;
                }
            }
            self.reflectors.follow(self.monitor.snapshot());
            if self.monitor.caught_up() {
                break;
            }
        }
    }

    fn retry_due(&mut self) {
        let now = Instant::now();
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
            self.follow_network();
            self.state.retry_refused(self.monitor.snapshot());
        }
    }

    fn next_timer(&mut self) -> Option<Instant> {
        if self.retry_at.is_none() && self.state.rules.has_refused() {
            self.retry_at = Some(Instant::now() + RETRY_EVERY);
        }
        let starts = self.state.workers.iter().filter_map(|worker| worker.start_at);
        let waits = self.waiting.iter().map(|waiting| waiting.until);
        let settle = self.state.settle_at();
        let reflectors =
            self.reflectors.due().into_iter().chain(self.reflect_waiting.iter().map(|waiting| waiting.3));
        starts
            .chain(self.control.start_at)
            .chain(settle)
            .chain(self.state.drain_at())
            .chain(self.state.moves.at(&self.state.workers, Instant::now()))
            .chain(self.state.kernel.trace_at())
            .chain(self.state.hand_over_at())
            .chain(self.retry_at)
            .chain(waits)
            .chain(reflectors)
            .min()
    }

    /// Says once that the daemon is ready: clients are served, and each worker has what it should have.
    fn say_ready(&mut self) {
        let workers = &self.state.workers;
        let settled =
            |worker: &Worker| worker.state == WorkerState::Running && worker.applied >= worker.desired;
        if self.control.ready
            && workers.iter().all(settled)
            && let Some(ready) = self.ready.take()
        {
            let io = workers.first().and_then(|worker| worker.io).unwrap_or(IoChoice::Auto);
            info!(workers = workers.len(), ?io, rules = self.state.rules.count(), socket = %self.options.socket.display(), "ready");
            ready();
        }
    }
}

/// The address is said as it turned out: port 0 is one of the kernel's choice.
fn listen_for_http(wanted: SocketAddr) -> Result<TcpListener, SupervisorError> {
    let listener = listen::http(wanted)?;
    let address = listener.local_addr().map_err(SupervisorError::system("ask for a listener's address"))?;
    info!("http://{address}/ shows metrics at /metrics, health at /readyz, and a page");
    if !address.ip().is_loopback() {
        warn!(
            "http://{address}/ can be reached from other hosts, without encryption: whoever reaches it sees rules and counters"
        );
    }
    Ok(listener)
}

/// The watchdog's calls in time.
struct Beats {
    interval: Interval,
    alive: fn(),
}

impl Beats {
    fn new(watchdog: Watchdog) -> Self {
        let mut interval = tokio::time::interval(watchdog.every);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { interval, alive: watchdog.alive }
    }
}

/// Says in time that the loop turns, if anybody wants to hear it.
async fn beat(beats: &mut Option<Beats>) {
    match beats {
        Some(Beats { interval, alive }) => {
            interval.tick().await;
            alive();
        }
        None => std::future::pending().await,
    }
}

async fn until(timer: Option<Instant>) {
    match timer {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

async fn stopped(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// The cores this process may run on.
pub(crate) fn cores() -> Vec<u16> {
    let Ok(set) = sched_getaffinity(Pid::from_raw(0)) else { return vec![0] };
    let cores: Vec<u16> = (0..CpuSet::count())
        .filter(|core| set.is_set(*core).unwrap_or(false))
        .map(|core| core as u16)
        .collect();
    if cores.is_empty() { vec![0] } else { cores }
}
