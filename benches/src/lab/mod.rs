//! Source, relay and sinks, tuned so that all the relay costs is on one core and all that leaves it is counted.

mod drop_all;
mod steering;

use std::fs;

use anyhow::{Context as _, ensure};
use mcr_lab::{Line, Namespace};

pub(crate) use drop_all::DropAll;

use crate::{
    args::SenderKind,
    case::{self, Case},
    cores,
};

/// Frames that may wait for the relay's core, far above what a burst of the sender is.
const BACKLOG_FRAMES: u32 = 30_000;
/// Of a frame: Ethernet, IPv4, UDP.
const HEADER_BYTES: u64 = 14 + 20 + 8;
const BACKLOG: &str = "/proc/sys/net/core/netdev_max_backlog";

/// The network of all trials.
#[derive(Debug)]
pub(crate) struct Lab {
    pub(crate) line: Line,
    pub(crate) sender: SenderKind,
    /// The relay's outputs take superframes whole.
    offload: bool,
    _backlog: Backlog,
}

impl Lab {
    /// Steered to the relay's core or, without steering, left on the core that the sender works on. With offload, the relay's outputs are
    /// handed superframes; else these are cut before, so that what leaves is counted frame by frame.
    pub(crate) fn new(sender: SenderKind, is_steered: bool, offload: bool) -> anyhow::Result<Self> {
        let backlog = Backlog::raise()?;
        let line = Line::with_outputs(case::OUTPUTS_MAX)?;
        line.pin_neighbours()?;
        if is_steered {
            steering::to_core(&line.relay, "in0", cores::RELAY)?;
        }
        for output in 0..case::OUTPUTS_MAX {
            line.relay.set_offload(&output_name(output), "tx-udp-segmentation", offload)?;
        }
        // Both are per namespace; whoever joins every group from one socket needs more than 20.
        line.relay.sysctl("net.ipv4.igmp_max_memberships", &(2 * case::STREAMS_MAX).to_string())?;
        Ok(Self { line, sender, offload, _backlog: backlog })
    }

    /// Frames that reached the sinks of a case since they exist; of a superframe, those that a network card would have made of it.
    pub(crate) fn frames_received(&self, case: Case) -> anyhow::Result<u64> {
        let mut frames = 0;
        for (index, sink) in self.sinks(case.outputs()) {
            let stats = sink.link_stats(&format!("dst{index}"))?;
            frames += match self.offload {
                true => datagrams(stats.rx_packets, stats.rx_bytes, case.payload_bytes()),
                false => stats.rx_packets,
            };
        }
        Ok(frames)
    }

    /// Makes the sinks drop all frames before their stack sees them, as long as the result lives.
    pub(crate) fn drop_all(&self, outputs: u8) -> anyhow::Result<Vec<DropAll>> {
        self.sinks(outputs).map(|(index, sink)| DropAll::new(sink, &format!("dst{index}"))).collect()
    }

    /// IP packets that the stacks of the first `outputs` sinks have seen: none while frames are dropped before.
    pub(crate) fn packets_in_stack(&self, outputs: u8) -> anyhow::Result<u64> {
        let mut packets = 0;
        for (_, sink) in self.sinks(outputs) {
            let text = sink.try_enter(|| fs::read_to_string("/proc/thread-self/net/snmp"))??;
            packets += ip_received(&text).context("/proc/net/snmp does not tell of received packets")?;
        }
        Ok(packets)
    }

    fn sinks(&self, outputs: u8) -> impl Iterator<Item = (u8, &Namespace)> {
        (0..outputs).zip(&self.line.sinks)
    }
}

/// Datagrams of one size in so many frames, superframes among them, of so many bytes together: each frame has its headers once.
fn datagrams(frames: u64, bytes: u64, payload_bytes: usize) -> u64 {
    bytes.saturating_sub(frames * HEADER_BYTES) / payload_bytes as u64
}

/// The relay's interface to sink `index`.
pub(crate) fn output_name(index: u8) -> String {
    format!("out{index}")
}

/// `Ip: InReceives` of `/proc/net/snmp`, which has a line of names and one of values for each protocol.
fn ip_received(snmp: &str) -> Option<u64> {
    let mut lines = snmp.lines().filter_map(|line| line.strip_prefix("Ip:"));
    let column = lines.next()?.split_whitespace().position(|name| name == "InReceives")?;
    lines.next()?.split_whitespace().nth(column)?.parse().ok()
}

/// The machine's queue of frames for each core, which no namespace has for itself; put back when dropped.
#[derive(Debug)]
pub(crate) struct Backlog {
    before: String,
}

impl Backlog {
    pub(crate) fn raise() -> anyhow::Result<Self> {
        let before = fs::read_to_string(BACKLOG).with_context(|| format!("cannot read {BACKLOG}"))?;
        let frames: u32 = before.trim().parse().with_context(|| format!("{BACKLOG} is no number"))?;
        if frames < BACKLOG_FRAMES {
            fs::write(BACKLOG, BACKLOG_FRAMES.to_string())
                .with_context(|| format!("cannot write {BACKLOG}, which needs root"))?;
        }
        let now = fs::read_to_string(BACKLOG)?;
        ensure!(now.trim().parse::<u32>().is_ok_and(|now| now >= BACKLOG_FRAMES), "{BACKLOG} stays at {now}");
        Ok(Self { before })
    }
}

impl Drop for Backlog {
    fn drop(&mut self) {
        if let Err(error) = fs::write(BACKLOG, self.before.trim()) {
            eprintln!("cannot put {BACKLOG} back to {}: {error}", self.before.trim());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn datagrams_of_superframes_are_counted_by_their_bytes() {
        assert_eq!(datagrams(3, 3 * (42 + 1400), 1400), 3);
        assert_eq!(datagrams(2, 42 + 46 * 1400 + 42 + 1400, 1400), 47);
        // Frames of other protocols are smaller than one datagram, and none of them.
        assert_eq!(datagrams(4, 42 + 46 * 1400 + 3 * 60, 1400), 46);
        assert_eq!(datagrams(1, 14, 1400), 0);
    }

    #[test]
    fn the_ip_counter_is_found_by_its_name() {
        let snmp = "Ip: Forwarding DefaultTTL InReceives\nIp: 1 64 17\nUdp: InDatagrams\nUdp: 5\n";
        assert_eq!(ip_received(snmp), Some(17));
        assert_eq!(ip_received("Udp: InDatagrams\nUdp: 5\n"), None);
    }

    #[test]
    fn a_sink_that_drops_all_counts_frames_that_its_stack_never_sees() {
        let Some(()) = mcr_lab::require::netns() else { return };
        let line = Line::new().unwrap();
        line.pin_neighbours().unwrap();
        let relay = line.relay.enter(|| UdpSocket::bind("10.2.0.1:0")).unwrap();
        let sink = line.sinks[0].enter(|| UdpSocket::bind("10.2.0.2:6000")).unwrap();
        sink.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
        let frames = || line.sinks[0].link_stats("dst0").unwrap().rx_packets;

        let dropping = DropAll::new(&line.sinks[0], "dst0").unwrap();
        let before = frames();
        for _ in 0..10 {
            relay.send_to(b"dropped", "10.2.0.2:6000").unwrap();
        }
        mcr_lab::wait_until(std::time::Duration::from_secs(5), "ten frames are counted", || {
            frames() >= before + 10
        })
        .unwrap();

        drop(dropping);
        relay.send_to(b"seen", "10.2.0.2:6000").unwrap();
        let mut bytes = [0; 16];
        assert_eq!(sink.recv(&mut bytes).unwrap(), 4, "the first that the stack sees is the one sent after");
    }

    #[test]
    fn receive_steering_reads_back_as_it_was_set() {
        let Some(()) = mcr_lab::require::netns() else { return };
        let line = Line::new().unwrap();
        steering::to_core(&line.relay, "in0", 0).unwrap();
    }
}
