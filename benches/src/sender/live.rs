//! Frames that the kernel makes and hands to the interface's driver itself, as a network card's ring would: no socket, no queue, no
//! cutting. To the relay they look like frames of a card whose driver has judged no checksum; they carry none (RFC 768).

use std::{
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use mcr_lab::Namespace;
use mcr_parse::UdpChecksum;

use super::{IFNAME, Sent, Watch, write_headers};
use crate::{
    bpf::{HEAD_BYTES, Xmit},
    case::Case,
};

/// Runs of the program in one call, of some 50 ns each. A call makes and ends a pool of pages, which takes a millisecond.
const RUNS: u32 = 1 << 19;

/// In the source's namespace, on the sender's core.
pub(super) fn run(
    source: &Namespace,
    case: Case,
    rate_pps: f64,
    duration: Duration,
    watch: &Watch,
) -> anyhow::Result<Sent> {
    let link = source.link(IFNAME)?;
    let frame = frame(link.mac.context("the source's interface has no address")?, case)?;
    let xmit = Xmit::new(link.index, frame.first_chunk().context("a frame has headers")?)
        .context("cannot send live frames (Linux 5.18)")?;
    xmit.schedule(1e9 / rate_pps, duration)?;
    let started = Instant::now();
    while started.elapsed() < duration && !watch.stop.load(Relaxed) {
        xmit.run(&frame, RUNS).context("cannot send live frames")?;
        watch.sent.store(xmit.sent()?, Relaxed);
    }
    // The program sends nothing after the time, in which the last frame has its interval.
    Ok(Sent { datagrams: xmit.sent()?, seconds: duration.min(started.elapsed()).as_secs_f64() })
}

fn frame(mac: [u8; 6], case: Case) -> anyhow::Result<Vec<u8>> {
    let payload = vec![0; case.payload_bytes()];
    let to = *case.inputs().first().context("a case has a stream")?;
    let mut frame = vec![0; HEAD_BYTES];
    write_headers(&mut frame, mac, to, &payload, (true, UdpChecksum::Complete))?;
    frame[HEAD_BYTES - 2..].fill(0);
    frame.extend(payload);
    Ok(frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn live_frames_arrive_at_a_socket() {
        let Some(()) = mcr_lab::require::netns() else { return };
        let line = mcr_lab::Line::new().unwrap();
        line.relay.set_offload("in0", "rx-gro", true).unwrap();
        for case in [Case::One, Case::Small] {
            crate::sender::arrives(&line, case, 20, || {
                let send = || run(&line.source, case, 400.0, Duration::from_millis(50), &Watch::default());
                assert_eq!(line.source.enter(send).unwrap().datagrams, 20);
            });
        }
    }
}
