//! Delay from source to sink, by stamps in the payloads (mcr-gen), at a few rates; and the same without a relay.

use std::{net::Ipv4Addr, num::NonZeroU64, sync::Arc, time::Duration};

use anyhow::{Context as _, anyhow};
use mcr_gen::{Progress, Receiver, RecvOptions, RecvReport, SendOptions, SendReport, Sender, Stop};
use mcr_lab::Namespace;
use mcr_proto::endpoint::Endpoint;

use crate::{
    case::{self, Case},
    cores, interrupt,
    lab::Lab,
    record,
};

/// The peer's name in results when there is no relay: source and receiver at two ends of one cable.
pub(crate) const NO_RELAY: &str = "no-relay";
/// Rates that every peer is measured at, in datagrams a second.
pub(crate) const RATES: [u64; 2] = [1_000, 50_000];
/// What the third is called: half of the loss-free rate of the peer.
pub(crate) const HALF: &str = "half";
/// After the sender's last datagram.
const SETTLE: Duration = Duration::from_millis(100);

/// Where the receiver listens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Listen<'a> {
    pub(crate) namespace: &'a Namespace,
    pub(crate) ifname: &'a str,
    pub(crate) group: Ipv4Addr,
    pub(crate) port: u16,
}

impl<'a> Listen<'a> {
    /// In the first sink, for what a relay sends to `group` and `port`.
    pub(crate) fn sink(lab: &'a Lab, (group, port): (Ipv4Addr, u16)) -> Self {
        Self { namespace: &lab.line.sinks[0], ifname: "dst0", group, port }
    }

    /// In the relay's place.
    pub(crate) fn without_relay(lab: &'a Lab) -> Self {
        let group = case::group(case::INPUT_BYTE, 0);
        Self { namespace: &lab.line.relay, ifname: "in0", group, port: case::INPUT_PORT }
    }
}

/// Sends at `rate_pps` for `duration`. The sinks must not drop meanwhile.
pub(crate) fn run(
    lab: &Lab,
    case: Case,
    listen: Listen<'_>,
    (load, rate_pps): (&str, u64),
    duration: Duration,
    (peer, round): (&str, u32),
) -> anyhow::Result<record::Latency> {
    let (sent, received) = exchange(lab, case, listen, rate_pps, duration)?;
    let latency = received.latency_us.context("nothing came through while the delay was measured")?;
    Ok(record::Latency {
        case: case.name().into(),
        peer: peer.into(),
        round,
        load: load.into(),
        offered_pps: rate_pps,
        reached: sent.rate_reached,
        sent: sent.sent,
        received: received.received,
        receiver_drops: received.kernel_drops,
        p50_us: latency.p50,
        p99_us: latency.p99,
        p99_9_us: latency.p99_9,
    })
}

fn exchange(
    lab: &Lab,
    case: Case,
    listen: Listen<'_>,
    rate_pps: u64,
    duration: Duration,
) -> anyhow::Result<(SendReport, RecvReport)> {
    let at = |group: Ipv4Addr, port, ifname: &str| -> anyhow::Result<Endpoint> {
        Ok(format!("{group}:{port}@{ifname}").parse()?)
    };
    let options = RecvOptions::new(at(listen.group, listen.port, listen.ifname)?);
    let receiver = listen.namespace.try_enter(|| Receiver::open(&options))??;
    let to = at(case::group(case::INPUT_BYTE, 0), case::INPUT_PORT, "src0")?;
    let mut options = SendOptions::new(to, Stop::For { duration });
    options.rate_pps = NonZeroU64::new(rate_pps);
    options.payload_bytes = case.payload_bytes();
    let sender = lab.line.source.try_enter(|| Sender::open(&options))??;

    let (sending, receiving) = (Arc::new(Progress::new()), Arc::new(Progress::new()));
    let receiver = {
        let progress = Arc::clone(&receiving);
        std::thread::spawn(move || -> anyhow::Result<_> {
            cores::pin(cores::watcher())?;
            Ok(receiver.run(&progress)?)
        })
    };
    let sender = {
        let progress = Arc::clone(&sending);
        std::thread::spawn(move || -> anyhow::Result<_> {
            cores::pin(cores::SENDER)?;
            Ok(sender.run(&progress)?)
        })
    };
    // Both are always waited for; each ends when told to.
    let mut watched = Ok(());
    while watched.is_ok() && !sender.is_finished() {
        watched = interrupt::sleep(Duration::from_millis(20));
    }
    sending.stop();
    let sent = sender.join().map_err(|_| anyhow!("the sender has panicked"));
    if watched.is_ok() {
        watched = interrupt::sleep(SETTLE);
    }
    receiving.stop();
    let received = receiver.join().map_err(|_| anyhow!("the receiver has panicked"));
    watched?;
    Ok((sent??, received??))
}
