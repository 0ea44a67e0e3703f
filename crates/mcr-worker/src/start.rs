//! From an inherited descriptor to a worker that is ready.

use std::{
    ffi::CString,
    os::fd::{AsFd, OwnedFd},
};

use mcr_confine::{Policy, Role, confine};
use mcr_fdpass::{Received, Tag};
use mcr_metrics::{Access, Segment};
use mcr_proto::{
    message::{FromWorker, Ids, IoChoice, LogLevel, ToWorker, tag},
    plan::WorkerIndex,
};
use mcr_uring_io::{Backend, Choice, Io, IoConfig};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    sys::{
        prctl,
        resource::{Resource, getrlimit},
    },
    unistd::Pid,
};

use crate::{
    Confinement, WorkerError,
    event_loop::{BUFFERS, EVENTS_MAX, SENDS_MAX, Worker},
    link::{Heard, Link, chain},
};

/// Sockets a worker can have, if RLIMIT_NOFILE allows as many.
const FILES_MAX: u16 = 2048;

/// Waits for the first message and does what it says; none if the supervisor is gone before it says anything.
pub(crate) fn start(channel: OwnedFd, confinement: Confinement) -> Result<Option<Worker>, WorkerError> {
    let mut link = Link::new(channel);
    link.channel().set_nonblocking(false).map_err(WorkerError::Channel)?;
    let (index, core, choice, ids, fds) = match link.hear() {
        Heard::Message(ToWorker::Start { index, core, io, ids }, fds) => (index, core, io, ids, fds),
        Heard::Message(..) => return Err(WorkerError::NotStarted { why: "it is another".into() }),
        Heard::Unreadable(why) => return Err(WorkerError::NotStarted { why }),
        Heard::Nothing | Heard::End => return Ok(None),
    };
    let segment = attach(fds)?;
    name(index);
    let unpinned = core.and_then(|core| pin(core).err().map(|why| (core, why)));
    let mut io = Io::open(&config(choice)).map_err(WorkerError::Io)?;

    link.channel().set_nonblocking(true).map_err(WorkerError::Channel)?;
    let watched = link.channel().as_fd().try_clone_to_owned().map_err(WorkerError::Channel)?;
    let watch = io.add_watch(watched).map_err(WorkerError::Watch)?;
    if confinement == Confinement::Process {
        give_up_rights(&mut link, &io, ids)?;
    }
    link.answer(&ready(&io))?;
    if let Some((core, why)) = unpinned {
        link.log(LogLevel::Warn, format!("worker {index} cannot run on core {core} alone: {why}"))?;
    }
    Ok(Some(Worker::new(io, segment, link, watch)))
}

fn attach(mut fds: Received) -> Result<Segment, WorkerError> {
    let fd = fds.take(Tag(tag::COUNTERS)).ok_or(WorkerError::NoCounters)?;
    Segment::attach(fd, Access::Write).map_err(WorkerError::Counters)
}

/// From here on the process can do what its work takes, and nothing else. All that takes more has been done.
fn give_up_rights(link: &mut Link, io: &Io, ids: Option<Ids>) -> Result<(), WorkerError> {
    let role = match io.backend() {
        Backend::Uring => Role::UringWorker,
        Backend::Syscalls => Role::SyscallWorker,
    };
    let ids = ids.map(|Ids { uid, gid }| mcr_confine::Ids { uid, gid });
    match confine(&Policy { role, ids }) {
        Ok(confined) => link.log(LogLevel::Info, confined.to_string()),
        Err(error) => {
            let error = WorkerError::Confine(error);
            link.log(LogLevel::Error, chain(&error))?;
            Err(error)
        }
    }
}

/// For people who look at `top`; a process without a name works as well.
fn name(index: WorkerIndex) {
    let _ = CString::new(format!("mcrd-worker-{index}")).map(|name| prctl::set_name(&name));
}

fn pin(core: u16) -> nix::Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core.into())?;
    sched_setaffinity(Pid::from_raw(0), &cores)
}

fn config(choice: IoChoice) -> IoConfig {
    // io_uring refuses a table of more files than the process may open (io_uring_register(2)).
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::from(FILES_MAX), |(soft, _)| soft);
    IoConfig {
        backend: match choice {
            IoChoice::Auto => Choice::Auto,
            IoChoice::Uring => Choice::Uring,
            IoChoice::Syscalls => Choice::Syscalls,
        },
        buffers: BUFFERS,
        sends_max: SENDS_MAX,
        files_max: u16::try_from(limit).unwrap_or(FILES_MAX).clamp(1, FILES_MAX),
        events_max: EVENTS_MAX,
        ..IoConfig::default()
    }
}

fn ready(io: &Io) -> FromWorker {
    FromWorker::Ready {
        io: match io.backend() {
            Backend::Uring => IoChoice::Uring,
            Backend::Syscalls => IoChoice::Syscalls,
        },
        fallback: io.fallback_reason().map(|reason| chain(reason)),
    }
}
