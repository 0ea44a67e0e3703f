//! How a run is watched and ended from another thread.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// A run seen from outside: it shows how far it is and ends when told to. Share it as `&Progress` or in an `Arc`; one
/// for each run.
///
/// The numbers are for a live display; they lag by at most a batch. The report at the end is exact.
#[derive(Debug, Default)]
pub struct Progress {
    stop: AtomicBool,
    datagrams: AtomicU64,
    bytes: AtomicU64,
    lost: AtomicU64,
    retries: AtomicU64,
}

impl Progress {
    /// Nothing done yet, nothing to stop.
    pub fn new() -> Self {
        Progress::default()
    }

    /// Ends the run within about 50 ms; its report covers what was done until then. A receiver first takes what its
    /// socket already holds.
    pub fn stop(&self) {
        self.stop.store(true, Relaxed);
    }

    /// Whether [`Progress::stop`] was called.
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Relaxed)
    }

    /// Datagrams sent, or received intact and for the first time.
    pub fn datagrams(&self) -> u64 {
        self.datagrams.load(Relaxed)
    }

    /// Payload bytes of those datagrams.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// Datagrams missing so far: always 0 for a sender.
    pub fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }

    /// Sends that the kernel had no room for and that were tried again: always 0 for a receiver.
    pub fn retries(&self) -> u64 {
        self.retries.load(Relaxed)
    }

    pub(crate) fn publish_sent(&self, datagrams: u64, bytes: u64, retries: u64) {
        self.datagrams.store(datagrams, Relaxed);
        self.bytes.store(bytes, Relaxed);
        self.retries.store(retries, Relaxed);
    }

    pub(crate) fn publish_received(&self, datagrams: u64, bytes: u64, lost: u64) {
        self.datagrams.store(datagrams, Relaxed);
        self.bytes.store(bytes, Relaxed);
        self.lost.store(lost, Relaxed);
    }
}
