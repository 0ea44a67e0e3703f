//! What is compared: programs that reflect, each started on the reflector's core.

use std::{env, path::Path};

use anyhow::Context as _;
use clap::ValueEnum;

use super::lab::{Cable, REFLECTOR_IF};
use crate::{cores, peer::Process};

/// A way to reflect frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Peer {
    /// mcrd reflect, AF_XDP
    McrdXdp,
    /// mcrd reflect, AF_PACKET
    McrdPacket,
    /// A packet socket, recvmmsg, sendmmsg
    Swapper,
}

impl Peer {
    pub(crate) const ALL: [Self; 3] = [Self::McrdXdp, Self::McrdPacket, Self::Swapper];

    /// The name on the command line and in results.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::McrdXdp => "mcrd-xdp",
            Self::McrdPacket => "mcrd-packet",
            Self::Swapper => "swapper",
        }
    }

    /// What a reader of the table is told.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::McrdXdp => "mcrd reflect, AF_XDP (copy mode)",
            Self::McrdPacket => "mcrd reflect, AF_PACKET",
            Self::Swapper => "swapper: recvmmsg, sendmmsg",
        }
    }

    /// Starts it. It may need a moment before it reflects.
    pub(super) fn start(self, cable: &Cable, bin_dir: &Path) -> anyhow::Result<Process> {
        let mcrd = |platform| {
            let mut command = cable.reflector.command(bin_dir.join("mcrd"));
            command.args(["reflect", REFLECTOR_IF, "--platform", platform, "--log", "warn"]);
            command
        };
        let command = match self {
            Self::McrdXdp => mcrd("xdp"),
            Self::McrdPacket => mcrd("packet"),
            Self::Swapper => {
                let program = env::current_exe().context("this program has no path")?;
                let mut command = cable.reflector.command(program);
                command.args(["swapper", REFLECTOR_IF]);
                command
            }
        };
        Process::start(command)
    }

    /// Makes sure of all threads it has.
    pub(super) fn confine(process: &Process) -> anyhow::Result<()> {
        cores::confine(process.id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_called_in_results_as_on_the_command_line() {
        for peer in Peer::ALL {
            let value = peer.to_possible_value();
            assert_eq!(value.map(|value| value.get_name().to_owned()).as_deref(), Some(peer.name()));
        }
    }
}
