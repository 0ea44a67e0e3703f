//! A steady stream by `mcrgen`'s sender and receiver while a test changes something.

use std::{num::NonZeroU64, thread, time::Duration};

use mcr_gen::{Progress, Receiver, RecvOptions, RecvReport, SendOptions, SendReport, Sender, Stop};

use crate::{Bed, StopOnDrop, eventually, source};

/// Where it is sent.
pub const TO: &str = "239.1.1.1:5000";
/// Where it is expected, at the first sink.
pub const LISTEN: &str = "239.2.2.2:6000@dst0";

impl Bed {
    /// Sends `count` datagrams to [`TO`] and calls `meanwhile` until they are sent. What of them has not come to [`LISTEN`] when all is
    /// at rest is lost.
    ///
    /// # Panics
    /// If sender or receiver fail, or the counters do not come to rest lawfully.
    pub fn under_traffic(
        &mut self,
        count: u64,
        rate_pps: u64,
        mut meanwhile: impl FnMut(&mut Self),
    ) -> (SendReport, RecvReport) {
        let receiver = RecvOptions::new(LISTEN.parse().expect("an endpoint"));
        let receiver = self.line.sinks[0].enter(|| Receiver::open(&receiver)).expect("a sink can listen");
        let to = format!("{TO}@src0").parse().expect("an endpoint");
        let mut options = SendOptions::new(to, Stop::After { count });
        options.rate_pps = NonZeroU64::new(rate_pps);
        let sender = self.line.source.enter(|| Sender::open(&options)).expect("the source can send");
        let (sending, receiving) = (Progress::new(), Progress::new());
        thread::scope(|scope| {
            let received = scope.spawn(|| receiver.run(&receiving).expect("it receives"));
            let sent = scope.spawn(|| source::on_one_core(|| sender.run(&sending).expect("it sends")));
            let _stop = [StopOnDrop(&sending), StopOnDrop(&receiving)];
            while !sent.is_finished() {
                meanwhile(self);
            }
            let sent = sent.join().expect("the sender did not panic");
            self.at_rest();
            // What has left the relay is in the sink's buffer.
            let mut before = u64::MAX;
            eventually("the receiver has read what came", || {
                thread::sleep(Duration::from_millis(50));
                let now = receiving.datagrams();
                std::mem::replace(&mut before, now) == now
            });
            receiving.stop();
            (sent, received.join().expect("the receiver did not panic"))
        })
    }
}
