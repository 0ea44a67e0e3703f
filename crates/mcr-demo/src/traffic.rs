//! The traffic: one sender, a receiver for each output, and a line that tells how it goes.

use std::{
    io::{self, IsTerminal, Write},
    num::NonZeroU64,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use mcr_gen::{Progress, RecvReport, SendOptions, SendReport, Sender, Stop};

use crate::{
    DemoError,
    stage::{PAYLOAD_BYTES, RATE_PPS, Stage},
};

/// How long the last datagrams may take.
const SETTLE: Duration = Duration::from_secs(2);

pub(crate) struct Traffic {
    pub(crate) sent: SendReport,
    pub(crate) received: Vec<RecvReport>,
}

/// Sends for `seconds` and returns what was sent and what came.
pub(crate) fn run(stage: &mut Stage, seconds: u32) -> Result<Traffic, DemoError> {
    let receivers = std::mem::take(&mut stage.receivers);
    let stage = &*stage;
    let sending = Progress::new();
    let receiving: Vec<Progress> = receivers.iter().map(|_| Progress::new()).collect();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let threads: Vec<_> = receivers
            .into_iter()
            .zip(&receiving)
            .map(|(receiver, progress)| scope.spawn(move || receiver.run(progress)))
            .collect();
        scope.spawn(|| show(&sending, &receiving, &over, seconds));
        let sent = send(stage, seconds, &sending);
        if let Ok(sent) = &sent {
            let started = Instant::now();
            while receiving.iter().any(|progress| progress.datagrams() < sent.sent)
                && started.elapsed() < SETTLE
            {
                thread::sleep(Duration::from_millis(5));
            }
        }
        over.store(true, Relaxed);
        receiving.iter().for_each(Progress::stop);
        let received = threads.into_iter().map(|thread| {
            let report = thread.join().map_err(|_| DemoError::part("receive", "the receiver panicked"))?;
            report.map_err(|error| DemoError::part("receive", error))
        });
        let received = received.collect::<Result<_, _>>()?;
        Ok(Traffic { sent: sent?, received })
    })
}

fn send(stage: &Stage, seconds: u32, progress: &Progress) -> Result<SendReport, DemoError> {
    let duration = Duration::from_secs(u64::from(seconds));
    let mut options = SendOptions::new(stage.send_to.clone(), Stop::For { duration });
    options.rate_pps = NonZeroU64::new(RATE_PPS);
    options.payload_bytes = PAYLOAD_BYTES;
    let sender = stage
        .at_source(|| Sender::open(&options))
        .map_err(|error| DemoError::part("open the sender", error))?;
    sender.run(progress).map_err(|error| DemoError::part("send", error))
}

/// Shows how it goes: in place on a terminal, a line a second elsewhere.
fn show(sending: &Progress, receiving: &[Progress], over: &AtomicBool, seconds: u32) {
    let terminal = io::stderr().is_terminal();
    let every = if terminal { Duration::from_millis(100) } else { Duration::from_secs(1) };
    let started = Instant::now();
    let mut shown = started;
    while !over.load(Relaxed) {
        thread::sleep(Duration::from_millis(20));
        if shown.elapsed() < every {
            continue;
        }
        shown = Instant::now();
        let elapsed = started.elapsed().as_secs_f64().min(f64::from(seconds));
        let mut line = format!("{elapsed:4.1} of {seconds} s  sent {}", sending.datagrams());
        for (index, progress) in receiving.iter().enumerate() {
            line += &format!("  sink {} got {}", index + 1, progress.datagrams());
        }
        let (start, end) = if terminal { ("\r\x1b[K", "") } else { ("", "\n") };
        let mut stderr = io::stderr().lock();
        let _ = write!(stderr, "{start}{line}{end}").and_then(|()| stderr.flush());
    }
    if terminal {
        let _ = writeln!(io::stderr().lock());
    }
}
