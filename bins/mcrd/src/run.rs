//! `mcrd run`.

use std::path::absolute;

use mcr_proto::{
    config::Config,
    message::{IoChoice, Settings},
};
use mcr_supervisor::{ListenError, Options, SupervisorError, Watchdog};
use nix::{
    sys::{prctl::set_pdeathsig, signal::Signal},
    unistd::{Group, getppid},
};

use crate::{
    args::{Io, RunArgs},
    check,
    exit::Failure,
    http, log, user,
};

pub(crate) fn run(args: RunArgs) -> Result<(), Failure> {
    let config = args.config.as_deref().map(check::read).transpose()?.unwrap_or_default();
    let options = options(&args, config)?;
    if args.with_parent {
        stop_with_parent()?;
    }
    mcr_supervisor::run(options, say_ready).map_err(|error| failure(&error))
}

fn stop_with_parent() -> Result<(), Failure> {
    let parent = getppid();
    set_pdeathsig(Signal::SIGTERM)
        .map_err(|errno| Failure::failed(format!("cannot watch the parent: {errno}")))?;
    // It may have ended before the kernel was asked to tell.
    if getppid() == parent { Ok(()) } else { Err(Failure::failed("the parent has ended")) }
}

fn options(args: &RunArgs, config: Config) -> Result<Options, Failure> {
    let group = args.group.as_deref().map(group_id).transpose()?;
    let ids = user::ids(args.user.as_deref())?;
    if let Some(ids) = ids.filter(|ids| group == Some(ids.gid)) {
        // A worker that somebody has turned must not be one of those who may control the daemon.
        let message =
            format!("workers are in group {} themselves; choose another group, or another --user", ids.gid);
        return Err(Failure::usage(message));
    }
    // A relative name would mean another file to whoever asks for it.
    let path = args.config.as_deref().map(absolute).transpose();
    let path = path.map_err(|error| Failure::io(format!("--config: {error}"), &error))?;
    let workers = args.workers.or(config.workers);
    let others_may_read = config.allow_read;
    let http = http::options(args, config.http.as_ref())?;
    let (settings, rules) = Settings::split(config);
    Ok(Options {
        socket: args.socket.clone().unwrap_or_else(mcr_client::default_socket_path),
        workers,
        group,
        others_may_read,
        http,
        ids,
        ebpf: !args.no_ebpf,
        swallow: !args.no_swallow,
        io: match args.io {
            Io::Auto => IoChoice::Auto,
            Io::Uring => IoChoice::Uring,
            Io::Syscalls => IoChoice::Syscalls,
        },
        rules,
        settings,
        config: path,
        log: log::start(args.log, args.log_format),
        watchdog: watchdog(),
    })
}

fn group_id(name: &str) -> Result<u32, Failure> {
    match Group::from_name(name) {
        Ok(Some(group)) => Ok(group.gid.as_raw()),
        Ok(None) => {
            Err(Failure::usage(format!("no group named {name}; make it with groupadd, or choose another")))
        }
        Err(errno) => Err(Failure::failed(format!("cannot look up group {name}: {errno}"))),
    }
}

/// systemd's, if it is one: it takes a daemon that says nothing for so long for dead.
fn watchdog() -> Option<Watchdog> {
    let patience = sd_notify::watchdog_enabled().filter(|patience| !patience.is_zero())?;
    let alive = || drop(sd_notify::notify(&[sd_notify::NotifyState::Watchdog]));
    Some(Watchdog { every: patience / 2, alive })
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
        SupervisorError::Listen(ListenError::Io { source, .. } | ListenError::Http { source, .. })
        | SupervisorError::System { source, .. } => Failure::io(message, source),
        SupervisorError::Rule { .. } | SupervisorError::Listen(ListenError::TooLong { .. }) => {
            Failure::usage(message)
        }
        _ => Failure::failed(message),
    }
}
