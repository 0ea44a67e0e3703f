//! What goes on beside a run: signals that end it and a line that shows it.

use std::io::{self, IsTerminal, Write};
use std::process;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use mcr_gen::Progress;
use nix::sys::signal::{SigSet, Signal};

use crate::report;

const LINE_EVERY: Duration = Duration::from_millis(500);
/// Back to the first column, and clear to the end of the line (ECMA-48 EL).
const CLEAR_LINE: &str = "\r\x1b[K";

/// Makes SIGINT and SIGTERM end the run of `progress`; a second one ends the process. To be called before any other
/// thread is started, so that all threads leave the signals to this one.
pub(crate) fn end_on_signals(progress: &Arc<Progress>) -> anyhow::Result<()> {
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
    signals.thread_block().context("cannot block signals")?;
    let progress = Arc::clone(progress);
    thread::spawn(move || {
        while signals.wait().is_ok() {
            if progress.is_stopped() {
                process::exit(1);
            }
            progress.stop();
        }
    });
    Ok(())
}

/// Runs `work` in a thread, and shows `progress` on stderr meanwhile if that is a terminal.
pub(crate) fn watched<T: Send>(word: &str, progress: &Progress, work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let (alive, ended) = channel::<()>();
        let worker = scope.spawn(move || {
            let result = work();
            drop(alive);
            result
        });
        if io::stderr().is_terminal() {
            let (mut before, mut at) = (0, Instant::now());
            while ended.recv_timeout(LINE_EVERY) == Err(RecvTimeoutError::Timeout) {
                let datagrams = progress.datagrams();
                let rate_pps = (datagrams - before) as f64 / at.elapsed().as_secs_f64();
                (before, at) = (datagrams, Instant::now());
                // A terminal that went away is no reason to end the run.
                let _ = write!(io::stderr(), "{CLEAR_LINE}{}", report::live(word, progress, rate_pps));
            }
            let _ = write!(io::stderr(), "{CLEAR_LINE}");
        }
        worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
