//! `mcrd run`.

use mcr_proto::{config::Config, message::IoChoice};
use mcr_supervisor::{ListenError, Options, SupervisorError};
use nix::{
    sys::{prctl::set_pdeathsig, signal::Signal},
    unistd::{Group, getppid},
};

use crate::{
    args::{Io, RunArgs},
    check,
    exit::Failure,
    log,
};

pub(crate) fn run(args: RunArgs) -> Result<(), Failure> {
    let config = args.config.as_deref().map(check::read).transpose()?.unwrap_or_default();
    let options = options(&args, config)?;
    log::start(args.log);
    if args.with_parent {
        stop_with_parent()?;
    }
    mcr_supervisor::run(options, say_ready).map_err(|error| failure(&error))
}

fn stop_with_parent() -> Result<(), Failure> {
    let parent = getppid();
    set_pdeathsig(Signal::SIGTERM).map_err(|errno| Failure::failed(format!("cannot watch the parent: {errno}")))?;
    // It may have ended before the kernel was asked to tell.
    if getppid() == parent { Ok(()) } else { Err(Failure::failed("the parent has ended")) }
}

fn options(args: &RunArgs, config: Config) -> Result<Options, Failure> {
    Ok(Options {
        socket: args.socket.clone().unwrap_or_else(mcr_client::default_socket_path),
        workers: args.workers.or(config.workers),
        group: args.group.as_deref().map(group_id).transpose()?,
        others_may_read: config.allow_read,
        io: match args.io {
            Io::Auto => IoChoice::Auto,
            Io::Uring => IoChoice::Uring,
            Io::Syscalls => IoChoice::Syscalls,
        },
        rules: config.rules,
    })
}

fn group_id(name: &str) -> Result<u32, Failure> {
    match Group::from_name(name) {
        Ok(Some(group)) => Ok(group.gid.as_raw()),
        Ok(None) => Err(Failure::usage(format!("no group named {name}; make it with groupadd, or choose another"))),
        Err(errno) => Err(Failure::failed(format!("cannot look up group {name}: {errno}"))),
    }
}

/// Tells systemd, if it started us.
fn say_ready() {
    // Without NOTIFY_SOCKET this does nothing, and a notification that fails leaves nothing to do.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
}

fn failure(error: &SupervisorError) -> Failure {
    let source = std::error::Error::source(error).map(|source| format!(": {source}")).unwrap_or_default();
    let message = match error {
        // These say it all themselves.
        SupervisorError::Listen(_) | SupervisorError::System { .. } => error.to_string(),
        _ => format!("{error}{source}"),
    };
    match error {
        SupervisorError::Listen(ListenError::Io { source, .. }) | SupervisorError::System { source, .. } => {
            Failure::io(message, source)
        }
        SupervisorError::Rule { .. } => Failure::usage(message),
        _ => Failure::failed(message),
    }
}
