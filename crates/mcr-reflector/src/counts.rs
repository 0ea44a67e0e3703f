//! Counting into shared memory: a batch's sums are gathered, then written at once.

use mcr_metrics::Numbers;
use mcr_reflect::{Count, Kind, Latency, Layout, Reason};

use crate::back_end::Sent;

/// The row of numbers that this process writes.
#[derive(Debug)]
pub(crate) struct Counts {
    numbers: Numbers,
}

/// What a batch came to.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    received: u64,
    received_bytes: u64,
    reasons: [u32; Reason::ALL.len()],
    kinds: [u32; Kind::ALL.len()],
}

impl Batch {
    #[inline]
    pub(crate) fn note_frame(&mut self, bytes: usize) {
        self.received += 1;
        self.received_bytes += bytes as u64;
    }

    #[inline]
    pub(crate) fn note_dropped(&mut self, reason: Reason) {
        self.reasons[reason.index()] += 1;
    }

    #[inline]
    pub(crate) fn note_answered(&mut self, kind: Kind) {
        self.kinds[kind.index()] += 1;
    }
}

impl Counts {
    pub(crate) fn new(numbers: Numbers) -> Self {
        Self { numbers }
    }

    fn add(&self, place: usize, count: u64) {
        if count != 0 {
            self.numbers.all()[place].add(count);
        }
    }

    pub(crate) fn read(&self, count: Count) -> u64 {
        self.numbers.all()[Layout::count(count)].get()
    }

    pub(crate) fn alive(&self, now_ns: u64) {
        self.numbers.all()[Layout::HEARTBEAT].set(now_ns);
    }

    /// Writes what came of a batch.
    pub(crate) fn write(&self, batch: &Batch, sent: &Sent) {
        self.add(Layout::count(Count::Received), batch.received);
        self.add(Layout::count(Count::ReceivedBytes), batch.received_bytes);
        for reason in Reason::ALL {
            self.add(Layout::reason(*reason), batch.reasons[reason.index()].into());
        }
        for kind in Kind::ALL {
            self.add(Layout::kind(*kind), batch.kinds[kind.index()].into());
        }
        self.write_sent(sent);
    }

    pub(crate) fn write_sent(&self, sent: &Sent) {
        self.add(Layout::count(Count::Reflected), sent.frames);
        self.add(Layout::count(Count::ReflectedBytes), sent.bytes);
        self.add(Layout::count(Count::TxFull), sent.full);
        self.add(Layout::count(Count::TxError), sent.errors);
    }

    pub(crate) fn set_in_flight(&self, frames: usize) {
        self.numbers.all()[Layout::count(Count::InFlight)].set(frames as u64);
    }

    pub(crate) fn note_invalid(&self, descriptors: u64) {
        self.add(Layout::count(Count::RxInvalidDesc), descriptors);
    }

    pub(crate) fn note_full(&self) {
        self.add(Layout::count(Count::TxFull), 1);
    }

    pub(crate) fn note_latency(&self, ns: u64, stamped: bool) {
        let numbers = self.numbers.all();
        let [count, sum, least, greatest, with_stamp] = Layout::LATENCY.map(|place| &numbers[place]);
        if count.get() == 0 || ns < least.get() {
            least.set(ns);
        }
        if ns > greatest.get() {
            greatest.set(ns);
        }
        sum.add(ns);
        with_stamp.add(stamped.into());
        numbers[Layout::bucket(Latency::bucket(ns))].add(1);
        // Last, so that there is a least as soon as there is a count.
        count.add(1);
    }
}
