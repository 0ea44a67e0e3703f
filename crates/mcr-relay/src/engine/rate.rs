//! Rate caps, as a virtual clock (the generic cell rate algorithm, ITU-T I.371): each datagram admitted moves the clock on by
//! the time it may take at the capped rate, and one is refused while the clock is more than a burst ahead of now.

use mcr_proto::endpoint::Rate;

use super::Run;

/// How far ahead of the rate a burst may run. Video frames and polling senders burst at 40 to 50 ms.
const BURST_NS: u64 = 50_000_000;
const NS_PER_S: u64 = 1_000_000_000;

#[derive(Debug)]
pub(super) struct Bucket {
    rate: Rate,
    clock_ns: u64,
}

impl Bucket {
    pub(super) fn new(rate: Rate) -> Self {
        Self { rate, clock_ns: 0 }
    }

    /// How many datagrams of the run, from its first, may be sent.
    pub(super) fn take(&mut self, run: &Run, now_ns: u64) -> u32 {
        self.clock_ns = self.clock_ns.max(now_ns);
        let limit_ns = now_ns.saturating_add(BURST_NS);
        let mut admitted = 0;
        // The clock may stand at the limit but not beyond, so that even a rate of less than one a burst admits one.
        while admitted < run.datagrams() && self.clock_ns < limit_ns {
            self.clock_ns = self.clock_ns.saturating_add(self.cost_ns(run.bytes(admitted, 1)));
            admitted += 1;
        }
        admitted
    }

    fn cost_ns(&self, payload_bytes: u32) -> u64 {
        match self.rate {
            Rate::PacketsPerSecond(rate) => NS_PER_S.div_ceil(rate.max(1)),
            Rate::BitsPerSecond(rate) => {
                let bits = u64::from(payload_bytes) * 8;
                (bits * NS_PER_S).div_ceil(rate.max(1))
            }
        }
    }
}
