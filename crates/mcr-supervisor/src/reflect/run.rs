//! `mcrd reflect`: one reflector in the foreground, until it is told to stop.

use std::{
    io,
    os::fd::AsFd,
    time::{Duration, Instant},
};

use mcr_netmon::Monitor;
use mcr_proto::{message::Ids, reflect::Reflect};
use mcr_reflect::FromReflector;
use tokio::{
    io::unix::AsyncFd,
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    time::{Instant as Timer, MissedTickBehavior},
};
use tracing::info;

use super::{
    config::{self, ConfigFault},
    entry::{Entry, Report},
};
use crate::{child::ChildEvent, clock::monotonic_ns, rights};

/// What a process of which number did.
type Event = (usize, ChildEvent<FromReflector>);

const EVENTS_MAX: usize = 64;
/// How often the processes are looked after, and what the host refused is tried again.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long the processes may take to stop, and after that the kernel to end them.
const STOP_WITHIN: Duration = Duration::from_millis(100);

/// What a reflector in the foreground is started with.
#[derive(Debug)]
pub struct ReflectOptions {
    /// The reflector.
    pub reflect: Reflect,
    /// Whom its process runs as; none if this process has not the right to choose.
    pub ids: Option<Ids>,
    /// How often statistics are told.
    pub interval: Duration,
}

/// Why statistics are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Occasion {
    /// It is time to.
    Interval,
    /// SIGUSR1 came.
    Asked,
    /// The reflector has stopped.
    End,
}

/// Why it could not reflect.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReflectError {
    /// Options that make no sense.
    #[error(transparent)]
    Config(#[from] ConfigFault),
    /// The interface does not exist.
    #[error("no interface {name}; `ip link` lists those there are")]
    NoInterface {
        /// Its name.
        name: String,
    },
    /// A right is missing.
    #[error("{0}")]
    NotPermitted(String),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

/// Reflects until SIGTERM or SIGINT. `tell` is given statistics at each [`Occasion`]; those of the end are told when the process
/// has ended, so nothing is missing in them.
///
/// # Errors
/// Any [`ReflectError`].
pub fn run(options: ReflectOptions, tell: &mut dyn FnMut(Occasion, &Report)) -> Result<(), ReflectError> {
    config::check(&options.reflect)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| failed("start the event loop", &error))?;
    tokio::task::LocalSet::new().block_on(&runtime, attend(options, tell))
}

fn failed(what: &str, error: &io::Error) -> ReflectError {
    ReflectError::Failed(format!("cannot {what}: {error}"))
}

async fn attend(
    options: ReflectOptions,
    tell: &mut dyn FnMut(Occasion, &Report),
) -> Result<(), ReflectError> {
    // Before anything else, so that a signal during the start is not lost.
    let listen_to = |kind| signal(kind).map_err(|error| failed("listen to signals", &error));
    let mut terminate = listen_to(SignalKind::terminate())?;
    let mut interrupt = listen_to(SignalKind::interrupt())?;
    let mut hangup = listen_to(SignalKind::hangup())?;
    let mut asked = listen_to(SignalKind::user_defined1())?;
    rights::give_up_all_but_few().map_err(|error| ReflectError::Failed(error.to_string()))?;
    let mut monitor = Monitor::open().map_err(|error| ReflectError::Failed(error.to_string()))?;
    let netlink =
        monitor.as_fd().try_clone_to_owned().map_err(|error| failed("duplicate a socket", &error))?;
    #[allow(deprecated)]
    let netlink = AsyncFd::new(netlink).map_err(|error| failed("wait for the network's changes", &error))?;

    let mut entry = open(&options, &monitor)?;
    let (sender, mut events) = mpsc::channel::<Event>(EVENTS_MAX);
    let first = Timer::now() + options.interval;
    let mut interval = tokio::time::interval_at(first, options.interval);
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        entry
            .start_due(Instant::now(), &sender, |process, event| (process, event))
            .map_err(|error| failed("start the reflector", &error))?;
        let due = entry.due();
        tokio::select! {
            event = events.recv() => {
                if let Some((process, event)) = event {
                    entry.note(process, event);
                }
            }
            readable = netlink.readable() => {
                readable.map_err(|error| failed("wait for the network's changes", &error))?.clear_ready();
                follow(&mut monitor)?;
                entry.follow(monitor.snapshot(), false);
            }
            _ = look.tick() => {
                entry.look_after(Instant::now(), monotonic_ns());
                entry.follow(monitor.snapshot(), false);
            }
            _ = interval.tick() => tell(Occasion::Interval, &entry.report()),
            _ = asked.recv() => tell(Occasion::Asked, &entry.report()),
            _ = hangup.recv() => {
                follow(&mut monitor)?;
                entry.follow(monitor.snapshot(), true);
                info!(interface = %options.reflect.interface, "filters and interface read anew");
            }
            () = until(due) => {}
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    stop(&mut entry, &mut events).await;
    tell(Occasion::End, &entry.report());
    Ok(())
}

fn open(options: &ReflectOptions, monitor: &Monitor) -> Result<Entry, ReflectError> {
    let name = options.reflect.interface;
    if monitor.snapshot().link_by_name(name.as_str()).is_none() {
        return Err(ReflectError::NoInterface { name: name.to_string() });
    }
    let entry = Entry::new(options.reflect.clone(), options.ids);
    let mut entry = entry.map_err(|error| ReflectError::Failed(error.to_string()))?;
    entry.follow(monitor.snapshot(), false);
    match entry.failure() {
        None => Ok(entry),
        Some((why, io::ErrorKind::PermissionDenied)) => Err(ReflectError::NotPermitted(why.to_owned())),
        Some((_, io::ErrorKind::NotFound)) => Err(ReflectError::NoInterface { name: name.to_string() }),
        Some((why, _)) => Err(ReflectError::Failed(format!("{name}: {why}"))),
    }
}

fn follow(monitor: &mut Monitor) -> Result<(), ReflectError> {
    loop {
        monitor.changes().map_err(|error| ReflectError::Failed(error.to_string()))?;
        if monitor.caught_up() {
            return Ok(());
        }
    }
}

/// Waits for the processes to end, a while of their own accord.
async fn stop(entry: &mut Entry, events: &mut mpsc::Receiver<Event>) {
    entry.stop();
    for _ in 0..2 {
        let until = Timer::now() + STOP_WITHIN;
        while entry.is_running() {
            match tokio::time::timeout_at(until, events.recv()).await {
                Ok(Some((process, event))) => entry.end_with(process, event),
                Ok(None) => return,
                Err(_) => break,
            }
        }
        entry.kill();
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}
