//! What is compared: each peer is started for a case, relays until it is dropped, and leaves nothing.

mod kernel;
mod mcrd;
mod process;

use std::{env, os::fd::OwnedFd, path::Path};

use anyhow::{Context as _, bail};
use clap::ValueEnum;
use mcr_proto::rule::Datapath;

pub(crate) use self::process::Process;
use crate::{
    case::{self, Case},
    lab::{Lab, output_name},
};

/// A way to relay UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Peer {
    /// mcrd, eBPF at tc ingress
    McrdKernel,
    /// mcrd, packet sockets, io_uring
    McrdPacket,
    /// mcrd, packet sockets, io_uring; the IP stack sees everything, too (--no-swallow)
    McrdPacketStack,
    /// mcrd, packet sockets, recvmmsg and sendmmsg
    McrdPacketSyscalls,
    /// mcrd, UDP sockets, io_uring
    McrdUdp,
    /// One UDP socket, recvmmsg, sendmmsg for each output
    Baseline,
    /// Multicast routing in the kernel, as smcroute sets it up; does not translate groups
    Kernel,
    /// socat, one stream to one place
    Socat,
}

impl Peer {
    pub(crate) const ALL: [Self; 8] = [
        Self::McrdKernel,
        Self::McrdPacket,
        Self::McrdPacketStack,
        Self::McrdPacketSyscalls,
        Self::McrdUdp,
        Self::Baseline,
        Self::Kernel,
        Self::Socat,
    ];

    /// The name on the command line and in results.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::McrdKernel => "mcrd-kernel",
            Self::McrdPacket => "mcrd-packet",
            Self::McrdPacketStack => "mcrd-packet-stack",
            Self::McrdPacketSyscalls => "mcrd-packet-syscalls",
            Self::McrdUdp => "mcrd-udp",
            Self::Baseline => "baseline",
            Self::Kernel => "kernel",
            Self::Socat => "socat",
        }
    }

    /// What a reader of the table is told.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::McrdKernel => "mcrd kernel, eBPF",
            Self::McrdPacket => "mcrd packet, io_uring",
            Self::McrdPacketStack => "mcrd packet, io_uring, --no-swallow",
            Self::McrdPacketSyscalls => "mcrd packet, system calls",
            Self::McrdUdp => "mcrd udp, io_uring",
            Self::Baseline => "baseline: UDP socket, recvmmsg, sendmmsg",
            Self::Kernel => "kernel multicast routing",
            Self::Socat => "socat",
        }
    }

    /// Starts it for a case. It may need a moment before it relays. An error says why it cannot be measured.
    pub(crate) fn start(self, lab: &Lab, case: Case, bin_dir: &Path) -> anyhow::Result<Relay> {
        let mcrd = |datapath, options: &[&str]| {
            mcrd::start(lab, case, bin_dir, datapath, options).map(Relay::process)
        };
        match self {
            Self::McrdKernel => mcrd(Datapath::Kernel, &[]),
            Self::McrdPacket => mcrd(Datapath::Packet, &["--io", "uring"]),
            Self::McrdPacketStack => mcrd(Datapath::Packet, &["--io", "uring", "--no-swallow"]),
            Self::McrdPacketSyscalls => mcrd(Datapath::Packet, &["--io", "syscalls"]),
            Self::McrdUdp => mcrd(Datapath::Udp, &["--io", "uring"]),
            Self::Baseline => start_baseline(lab, case).map(Relay::process),
            Self::Kernel => kernel::start(lab, case).map(Relay::routes),
            Self::Socat => start_socat(lab, case).map(Relay::process),
        }
    }
}

/// A peer at work.
#[derive(Debug)]
pub(crate) struct Relay {
    process: Option<Process>,
    /// The socket that the kernel's multicast routes live as long as.
    routes: Option<OwnedFd>,
}

impl Relay {
    fn process(process: Process) -> Self {
        Self { process: Some(process), routes: None }
    }

    fn routes(socket: OwnedFd) -> Self {
        Self { process: None, routes: Some(socket) }
    }

    /// The process that all its processes descend from, if it is not part of the kernel.
    pub(crate) fn root(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// Where the first stream arrives at a sink.
    pub(crate) fn first_output(&self) -> (std::net::Ipv4Addr, u16) {
        match self.routes {
            Some(_) => (case::group(case::INPUT_BYTE, 0), case::INPUT_PORT),
            None => (case::group(case::OUTPUT_BYTE, 0), case::OUTPUT_PORT),
        }
    }

    /// Fails with what it said if it has ended.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        self.process.as_mut().map_or(Ok(()), Process::check)
    }
}

fn start_baseline(lab: &Lab, case: Case) -> anyhow::Result<Process> {
    let program = env::current_exe().context("this program has no path")?;
    let mut command = lab.line.relay.command(program);
    let outputs: Vec<_> = (0..case.outputs()).map(output_name).collect();
    command.args(["baseline", "--inputs", &case.rules().to_string(), "--outputs", &outputs.join(",")]);
    Process::start(command)
}

fn start_socat(lab: &Lab, case: Case) -> anyhow::Result<Process> {
    if (case.rules(), case.outputs()) != (1, 1) {
        bail!("relays one stream to one place");
    }
    let from = case::group(case::INPUT_BYTE, 0);
    let to = case::group(case::OUTPUT_BYTE, 0);
    let input = format!(
        "UDP4-RECV:{},bind={from},ip-add-membership={from}:in0,reuseaddr,rcvbuf={}",
        case::INPUT_PORT,
        8 << 20
    );
    let output = format!("UDP4-DATAGRAM:{to}:{},so-bindtodevice=out0,ip-multicast-loop=0", case::OUTPUT_PORT);
    let mut command = lab.line.relay.command("socat");
    // The end if nothing comes for this many seconds: it does not outlive this program for long.
    command.args(["-u", "-T", "60", "-b", "65536", &input, &output]);
    Process::start(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_called_in_results_as_on_the_command_line() {
        for peer in Peer::ALL {
            assert_eq!(
                peer.to_possible_value().map(|value| value.get_name().to_owned()).as_deref(),
                Some(peer.name())
            );
        }
    }
}
