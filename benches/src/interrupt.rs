//! Ctrl-C: noticed between and within trials, so that everything is put back before the program ends.

use std::{
    sync::atomic::Ordering::Relaxed,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use nix::sys::signal::Signal;

use crate::sys;

/// A signal is noticed at least this often.
const STEP: Duration = Duration::from_millis(20);

/// From now on a signal that asks for the end is an error of the next [`check`], and not the end at once.
pub(crate) fn arm() -> anyhow::Result<()> {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        sys::catch(signal).with_context(|| format!("cannot catch {signal}"))?;
    }
    Ok(())
}

pub(crate) fn is_caught() -> bool {
    sys::CAUGHT.load(Relaxed)
}

pub(crate) fn check() -> anyhow::Result<()> {
    if is_caught() {
        bail!("interrupted");
    }
    Ok(())
}

/// Sleeps, unless a signal comes.
pub(crate) fn sleep(duration: Duration) -> anyhow::Result<()> {
    let end = Instant::now() + duration;
    loop {
        check()?;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(STEP));
    }
}
