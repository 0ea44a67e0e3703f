//! What the daemon says, brought by two threads. They end with the receiver they send to, or with the process.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use mcr_client::{Client, ClientError, Options};
use mcr_proto::{
    message::{FaultKind, RuleRef},
    rpc::{Event, InterfaceInfo, RuleInfo, Stats, Subscribe, WorkerInfo},
};

/// Between two looks; rates are averages over a second anyway.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Between two attempts to reach a daemon.
const TRY_EVERY: Duration = Duration::from_millis(500);
/// A daemon that does not answer for so long is said to be gone.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Updates that wait to be shown; then the threads wait.
const UPDATES_MAX: usize = 64;

/// Everything at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Look {
    pub(crate) stats: Stats,
    pub(crate) rules: Vec<RuleInfo>,
    pub(crate) workers: Vec<WorkerInfo>,
    pub(crate) interfaces: Vec<InterfaceInfo>,
}

#[derive(Debug)]
pub(crate) enum Update {
    Look(Box<Look>),
    Event(Box<Event>),
    /// The daemon is not there, and why.
    Gone(String),
}

/// The rule whose flows are wanted: its number, or 0 for none.
pub(crate) type Wanted = Arc<AtomicU64>;

pub(crate) fn start(socket: PathBuf, wanted: Wanted) -> io::Result<Receiver<Update>> {
    let (sender, updates) = sync_channel(UPDATES_MAX);
    let (events, path) = (sender.clone(), socket.clone());
    thread::Builder::new().name("looks".into()).spawn(move || looks(&socket, &wanted, &sender))?;
    thread::Builder::new().name("events".into()).spawn(move || follow(&path, &events))?;
    Ok(updates)
}

fn connect(socket: &Path) -> Result<Client, ClientError> {
    Client::connect(socket, Options { deadline: ANSWER_WITHIN })
}

fn looks(socket: &Path, wanted: &AtomicU64, updates: &SyncSender<Update>) {
    let mut client = None;
    loop {
        let begun = Instant::now();
        let looked = match client.take() {
            Some(client) => Ok(client),
            None => connect(socket),
        };
        let looked = looked.and_then(|mut connected| {
            let look = look(&mut connected, wanted.load(Ordering::Relaxed))?;
            client = Some(connected);
            Ok(look)
        });
        let pause = if looked.is_ok() { LOOK_EVERY } else { TRY_EVERY };
        let update = match looked {
            Ok(look) => Update::Look(Box::new(look)),
            Err(error) => Update::Gone(error.to_string()),
        };
        if updates.send(update).is_err() {
            return;
        }
        thread::sleep(pause.saturating_sub(begun.elapsed()));
    }
}

fn look(client: &mut Client, wanted: u64) -> Result<Look, ClientError> {
    let mut stats = client.stats(None)?;
    if let Some(rule) = stats.rules.iter_mut().find(|rule| rule.id.0 == wanted) {
        match client.stats(Some(&RuleRef::Id(rule.id))) {
            Ok(one) => rule.flow_list = one.rules.into_iter().next().and_then(|one| one.flow_list),
            // Gone in between.
            Err(ClientError::Fault(fault)) if fault.kind == FaultKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Look {
        stats,
        rules: client.rules(None)?,
        workers: client.workers()?,
        interfaces: client.interfaces()?,
    })
}

fn follow(socket: &Path, updates: &SyncSender<Update>) {
    loop {
        let followed = connect(socket).and_then(|mut client| {
            client.subscribe(&Subscribe::default())?;
            loop {
                if let Some(event) = client.next_event(None)?
                    && updates.send(Update::Event(Box::new(event))).is_err()
                {
                    return Ok(());
                }
            }
        });
        // The other thread says what is wrong.
        if followed.is_ok() {
            return;
        }
        thread::sleep(TRY_EVERY);
    }
}
