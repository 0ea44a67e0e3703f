//! The log of the supervisor, on standard error. Children send theirs to it.

use std::io::{self, IsTerminal};

use tracing_subscriber::filter::LevelFilter;

use crate::args::Log;

pub(crate) fn start(level: Log) {
    let level = match level {
        Log::Error => LevelFilter::ERROR,
        Log::Warn => LevelFilter::WARN,
        Log::Info => LevelFilter::INFO,
        Log::Debug => LevelFilter::DEBUG,
        Log::Trace => LevelFilter::TRACE,
    };
    let log = tracing_subscriber::fmt().with_writer(io::stderr).with_max_level(level).with_target(false);
    log.with_ansi(io::stderr().is_terminal()).init();
}
