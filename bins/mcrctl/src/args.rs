//! What can be typed.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Command line of the MCR relay daemon.
#[derive(Debug, Parser)]
#[command(
    name = "mcrctl",
    version,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Exit codes: 0 done, 1 failed, 2 usage or config error, 3 not permitted, 4 not found, 5 daemon unreachable\n\n\
                  Example:\n  mcrctl add 239.1.1.1:5000@eth0 10.100.0.2:6000 --name video\n  mcrctl stats video"
)]
pub(crate) struct Cli {
    /// The daemon's control socket [default: /run/mcr/mcrd.sock, or $XDG_RUNTIME_DIR/mcr/mcrd.sock for a user]
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// Print the daemon's result as one JSON document
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Add a rule: take datagrams in at INPUT and send each to every OUTPUT
    #[command(after_help = "Examples:\n  \
        mcrctl add 239.1.1.1:5000@eth0 239.2.2.2:6000@eth1,ttl=16\n  \
        mcrctl add 239.1.1.1:5000@eth0 10.100.0.2:6000 10.100.0.3:6000 --name studio-video\n  \
        mcrctl add '10.0.0.9>232.1.1.1:5000@eth0' '[ff3e::1]:5000@eth1,dscp=af41' --datapath udp\n\n\
        INPUT is [SOURCE>]ADDRESS:PORT@INTERFACE, OUTPUT is ADDRESS:PORT[@INTERFACE][,key=value...]\n\
        with the keys ttl, dscp, source, loop and rate; IPv6 addresses stand in brackets.\n\
        Prints the rule's name. A rule may be added before its interfaces exist.")]
    Add(Add),
    /// Remove rules
    #[command(after_help = "Examples:\n  mcrctl remove studio-video\n  mcrctl remove 3 4 5")]
    Remove {
        /// Names or ids
        #[arg(required = true, value_name = "RULE")]
        rules: Vec<String>,
    },
    /// List all rules, their states, and why
    #[command(
        after_help = "Examples:\n  mcrctl list\n  mcrctl --json list | jq '.rules[] | select(.state != \"active\")'"
    )]
    List,
    /// Show one rule in full
    #[command(after_help = "Examples:\n  mcrctl show studio-video\n  mcrctl --json show 3")]
    Show {
        /// Name or id
        rule: String,
    },
    /// Show what was relayed and what was dropped, and why
    #[command(
        after_help = "Examples:\n  mcrctl stats\n  mcrctl stats studio-video\n  watch -n 1 mcrctl stats\n\n\
        PPS and BIT/S are averages over the last second. Drops are shown by reason, where there are any."
    )]
    Stats {
        /// Name or id; without one, all rules
        rule: Option<String>,
    },
    /// List the daemon's workers
    #[command(
        after_help = "Example:\n  mcrctl workers\n\nPLAN is the generation applied, and the one to come if they differ."
    )]
    Workers,
    /// List the network interfaces as the daemon sees them
    #[command(after_help = "Example:\n  mcrctl interfaces")]
    Interfaces,
    /// Ask whether the daemon is there
    #[command(after_help = "Example:\n  mcrctl ping && echo running")]
    Ping,
    /// Show the versions of mcrctl and of the daemon
    #[command(after_help = "Example:\n  mcrctl version")]
    Version,
}

#[derive(Debug, Args)]
pub(crate) struct Add {
    /// Where datagrams come in, as in 239.1.1.1:5000@eth0
    #[arg(value_name = "INPUT")]
    pub(crate) input: String,
    /// Where copies go, as in 10.100.0.2:6000 or 239.2.2.2:6000@eth1,ttl=16
    #[arg(value_name = "OUTPUT", required = true)]
    pub(crate) outputs: Vec<String>,
    /// A name that no other rule has [default: made from the id]
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// How to carry the rule: auto, kernel, packet or udp
    #[arg(long, value_name = "PATH", default_value = "auto")]
    pub(crate) datapath: String,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_do_not_contradict_each_other() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_verb_has_an_example() {
        for verb in Cli::command().get_subcommands() {
            let help = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains(&format!("mcrctl {}", verb.get_name())), "{}", verb.get_name());
        }
    }
}
