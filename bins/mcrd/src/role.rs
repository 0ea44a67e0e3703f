//! The other processes of a daemon: this program, started by its supervisor with its channel as standard input.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
};

use nix::sys::stat::{SFlag, fstat};

use crate::exit::Failure;

pub(crate) fn worker() -> Result<(), Failure> {
    mcr_worker::run_confined(channel()?).map_err(|error| match error {
        // The supervisor's log has it.
        mcr_worker::WorkerError::Confine(_) => Failure::silent(1),
        _ => Failure::failed(format!("worker: {}", chain(&error))),
    })
}

pub(crate) fn control() -> Result<(), Failure> {
    mcr_control::run_confined(channel()?).map_err(|error| match error {
        mcr_control::ControlError::Confine(_) => Failure::silent(1),
        _ => Failure::failed(format!("control: {}", chain(&error))),
    })
}

pub(crate) fn reflector() -> Result<(), Failure> {
    mcr_reflector::run(channel()?, mcr_reflector::Confinement::Process).map_err(|error| match error {
        mcr_reflector::ReflectorError::Confine(_) => Failure::silent(1),
        _ => Failure::failed(format!("reflector: {}", chain(&error))),
    })
}

/// The one descriptor that was inherited, under a number of its own; standard input is nothing from then on.
fn channel() -> Result<OwnedFd, Failure> {
    let stdin = io::stdin();
    let is_socket = fstat(&stdin)
        .is_ok_and(|stat| SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFSOCK);
    if !is_socket {
        return Err(Failure::usage("this role is started by `mcrd run`, with its channel as standard input"));
    }
    let taken = stdin.as_fd().try_clone_to_owned().and_then(|channel| {
        nix::unistd::dup2_stdin(File::open("/dev/null")?)?;
        Ok(channel)
    });
    taken
        .map_err(|error| Failure::io(format!("cannot take the channel from standard input: {error}"), &error))
}

/// An error and what caused it, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
