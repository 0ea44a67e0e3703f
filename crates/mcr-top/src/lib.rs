//! A live view of the daemon in a terminal: rules by rate, drops, workers, interfaces, events.
//!
//! What is shown is a function of a model (`model`), which changes by what the daemon says and by the keys that are pressed. Around
//! them is a thin shell: a thread that asks the daemon once a second, one that follows its events, and the terminal, which is given
//! back as it was however the view ends.
//!
//! What it does not do: change anything at the daemon, or work without a terminal.
#![forbid(unsafe_code)]

mod feed;
mod keys;
mod model;
mod render;
mod screen;
mod text;

use std::{io, path::PathBuf};

pub use text::human;

/// Why there is no view, or no more.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TopError {
    /// Not a terminal.
    #[error("{what} is not a terminal; `mcrctl stats --watch` writes to anything")]
    NoTerminal {
        /// Which end is none.
        what: &'static str,
    },
    /// The terminal failed.
    #[error("the terminal: {0}")]
    Terminal(#[source] io::Error),
    /// A thread could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(#[source] io::Error),
}

/// Shows the daemon at `socket` until the user, or SIGTERM, ends it. A daemon that is not there, or goes, is said so and waited for.
///
/// # Errors
/// Any [`TopError`].
pub fn run(socket: PathBuf) -> Result<(), TopError> {
    screen::require_terminal()?;
    let wanted = feed::Wanted::default();
    let updates = feed::start(socket.clone(), wanted.clone()).map_err(TopError::Thread)?;
    screen::show(model::Model::new(socket.display().to_string()), &updates, &wanted)
}
