//! Grace periods: has every program that ran at some moment ended?
//!
//! A program reads what it found in a map for as long as it runs, so a place may be written again, or counted for the last time, only
//! after such a period. `membarrier(2)` waits for one (MEMBARRIER_CMD_GLOBAL: "all running threads have passed through a state
//! where ... "; the kernel does it by `synchronize_rcu`, which programs at tc hold off). It takes milliseconds, so a thread of its
//! own waits, begun with the first need.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

/// Where the kernel has no such call (nohz_full): programs run for microseconds.
const INSTEAD: Duration = Duration::from_secs(2);

/// The number of a grace period.
pub(crate) type Ticket = u64;

#[derive(Debug, Default)]
pub(crate) struct Grace {
    asked: Ticket,
    passed: Arc<AtomicU64>,
    waiter: Option<mpsc::Sender<Ticket>>,
}

impl Grace {
    /// A ticket for the period that begins now.
    pub(crate) fn begin(&mut self) -> Ticket {
        self.asked += 1;
        let waiter = self.waiter.get_or_insert_with(|| start(Arc::clone(&self.passed)));
        if waiter.send(self.asked).is_err() {
            // No thread could be started.
            self.wait();
        }
        self.asked
    }

    /// The last ticket whose period has passed, and with it those of all before.
    pub(crate) fn passed(&self) -> Ticket {
        self.passed.load(Ordering::Acquire)
    }

    /// Waits until all periods begun so far have passed.
    pub(crate) fn wait(&self) {
        synchronize();
        self.passed.fetch_max(self.asked, Ordering::AcqRel);
    }
}

fn start(passed: Arc<AtomicU64>) -> mpsc::Sender<Ticket> {
    let (sender, tickets) = mpsc::channel::<Ticket>();
    let wait = move || {
        while let Ok(first) = tickets.recv() {
            // One period serves all who asked before it began.
            let last = tickets.try_iter().last().unwrap_or(first);
            synchronize();
            passed.fetch_max(last, Ordering::AcqRel);
        }
    };
    // If it fails, the receiver is gone and `begin` sees it.
    let _ = thread::Builder::new().name("mcr-grace".to_owned()).spawn(wait);
    sender
}

fn synchronize() {
    const MEMBARRIER_CMD_GLOBAL: libc::c_long = 1;
    // SAFETY: membarrier takes three integers and touches no memory of this process.
    let done = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if done != 0 {
        thread::sleep(INSTEAD);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn a_period_passes_by_itself_and_takes_those_before_it_along() {
        let mut grace = Grace::default();
        let tickets = [grace.begin(), grace.begin(), grace.begin()];
        let deadline = Instant::now() + Duration::from_secs(30);
        while grace.passed() < tickets[2] {
            assert!(Instant::now() < deadline, "the period does not end");
            thread::yield_now();
        }
        let last = grace.begin();
        grace.wait();
        assert_eq!(grace.passed(), last);
    }
}
