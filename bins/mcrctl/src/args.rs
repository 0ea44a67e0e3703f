//! What can be typed.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

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
    /// Show one rule in full, or how the running rules differ from the startup configuration
    #[command(
        after_help = "Examples:\n  mcrctl show studio-video\n  mcrctl --json show 3\n  mcrctl show --diff\n\n\
        --diff compares with the daemon's configuration file: + runs but is not in the file, - is in the file but does\n\
        not run, ~ is in both and not the same."
    )]
    Show {
        /// Name or id
        #[arg(required_unless_present = "diff", conflicts_with = "diff")]
        rule: Option<String>,
        /// Compare the running rules with the startup configuration
        #[arg(long)]
        diff: bool,
    },
    /// Have a rule carried by another worker from now on
    #[command(
        after_help = "Example:\n  mcrctl move studio-video 1\n\nThe old worker relays until the new one has the rule."
    )]
    Move {
        /// Name or id
        rule: String,
        /// Its number, as `mcrctl workers` shows it
        worker: u16,
    },
    /// Switch a rule on again
    #[command(after_help = "Example:\n  mcrctl enable studio-video")]
    Enable {
        /// Name or id
        rule: String,
    },
    /// Switch a rule off and keep it; it has no sockets and no memberships then
    #[command(after_help = "Example:\n  mcrctl disable studio-video")]
    Disable {
        /// Name or id
        rule: String,
    },
    /// Load a configuration file into the running daemon
    #[command(
        after_help = "Examples:\n  mcrctl load /etc/mcr/mcr.toml\n  mcrctl load rules.toml --replace\n  \
        mcrctl --socket /run/other/mcrd.sock save --stdout | mcrctl load -\n\n\
        Rules are told apart by name. Those that stay as they are lose nothing; with any error nothing changes at all."
    )]
    Load {
        /// Configuration file (TOML); - reads standard input
        file: PathBuf,
        /// Also remove the rules that the file does not have
        #[arg(long)]
        replace: bool,
    },
    /// Have the daemon write what runs to the configuration file it was started with
    #[command(after_help = "Examples:\n  mcrctl save\n  mcrctl save --stdout > rules.toml\n\n\
        The file is replaced as a whole; comments in it are lost.")]
    Save {
        /// Print it instead
        #[arg(long)]
        stdout: bool,
    },
    /// Check a configuration file; no daemon is asked
    #[command(
        after_help = "Example:\n  mcrctl check /etc/mcr/mcr.toml\n\nEvery error names file, line and key. Exit code 2 if there is one."
    )]
    Check {
        /// Configuration file (TOML); - reads standard input
        file: PathBuf,
    },
    /// Watch what happens to rules, interfaces and workers
    #[command(
        after_help = "Examples:\n  mcrctl events\n  mcrctl events --kind rule --count 1\n  mcrctl --json events | jq .reason\n\nEnds with Ctrl-C."
    )]
    Events(Events),
    /// Show or set the level of the daemon's log
    #[command(
        after_help = "Examples:\n  mcrctl log-level\n  mcrctl log-level debug --facility rules\n  mcrctl log-level info\n\n\
        Levels: error, warn, info, debug, trace. Facilities: supervisor, control, worker, network, rules.\n\
        A level set so is forgotten when the daemon ends."
    )]
    LogLevel {
        /// The least severe lines to log; without it, shows the levels
        level: Option<String>,
        /// Of what [default: of everything]
        #[arg(long, value_name = "NAME")]
        facility: Option<String>,
    },
    /// Show what was relayed and what was dropped, and why
    #[command(
        after_help = "Examples:\n  mcrctl stats\n  mcrctl stats studio-video\n  mcrctl stats --classes\n  mcrctl stats --watch\n  \
        mcrctl --json stats --watch | jq '.rules[0].rate_pps'\n  \
        mcrctl --json stats studio-video | jq '.rules[0].flow_list.flows[].source'\n\n\
        PPS and BIT/S are averages over the last second, MEAN PPS since the first datagram. Drops are\n\
        shown by reason, where there are any. LAST is how long ago the last datagram came, GAP the longest\n\
        time between two, JITTER how much that time varies (RFC 3550), P50 and P99 what half and 99 % of\n\
        the datagrams took at most from reception to their last copy's departure. Of the kernel data\n\
        path GAP is right to a few milliseconds, JITTER comes from samples, and there is no P50 or P99.\n\n\
        With RULE, its flows are listed too: who sends, how much, and since when (256 at most)."
    )]
    Stats {
        /// Name or id; without one, all rules
        rule: Option<String>,
        /// Show them again every second, until Ctrl-C; with --json a line each time
        #[arg(long)]
        watch: bool,
        /// By traffic class instead
        #[arg(long)]
        classes: bool,
    },
    /// Show what becomes of single datagrams: when and where each was received, and what came of each copy
    #[command(after_help = "Examples:\n  mcrctl trace studio-video --count 10\n  \
        mcrctl trace studio-video --sample 1/1000 --pcapng video.pcapng\n  \
        mcrctl trace studio-video --pcapng - | wireshark -k -i -\n  mcrctl trace --drops eth0\n  \
        mcrctl --json trace studio-video --count 1 | jq '.outputs[] | select(.outcome != \"sent\")'\n\n\
        Relaying never waits for a trace: where too much comes, datagrams are missed and counted;\n\
        --sample takes fewer. Times are the kernel's, or marked (taken) when the worker took the datagram.\n\
        Ends with Ctrl-C.")]
    Trace(Trace),
    /// Live view in the terminal: rules by rate, drops, workers, interfaces, events
    #[command(after_help = "Example:\n  mcrctl top\n\n\
        Tab or 1-4 chooses rules, workers, interfaces or events; arrows, j and k move, Enter shows a rule's outputs, Esc goes\n\
        back. / filters by name, endpoint or state; r, d, n and s sort by rate, drops, name or state, i turns the order\n\
        round. Red is dropped now, yellow was dropped. q, Esc or Ctrl-C ends it. If the daemon goes, it is waited for.")]
    Top,
    /// Reflectors of test packets
    #[command(
        after_help = "Examples:\n  mcrctl reflect add eth2\n  mcrctl reflect add eth2 --name bench-port sig=custom oui_filter=false\n  \
        mcrctl reflect list\n  mcrctl reflect remove bench-port"
    )]
    Reflect {
        #[command(subcommand)]
        verb: ReflectVerb,
    },
    /// List the daemon's workers
    #[command(
        after_help = "Example:\n  mcrctl workers\n\nPLAN is the generation applied, and the one to come if they differ."
    )]
    Workers,
    /// List the network interfaces as the daemon sees them
    #[command(after_help = "Example:\n  mcrctl interfaces")]
    Interfaces,
    /// Look for what on the daemon's host breaks or slows relaying, and how to mend it
    #[command(
        after_help = "Examples:\n  mcrctl doctor\n  mcrctl --json doctor | jq -r '.findings[].fix // empty'\n\n\
        Each finding says what is so, why it matters, and the command that mends it. Nothing is changed. Where no daemon\n\
        is reached, what can be seen from here is shown. Exit code 1 if there is a finding of severity error."
    )]
    Doctor,
    /// Ask what would become of a datagram: which rule takes it, where its copies go, or why not
    #[command(after_help = "Examples:\n  mcrctl why \"10.0.0.9:4000 > 239.1.1.1:5000@eth0\"\n  \
        mcrctl why \"10.0.0.9 > 239.1.1.1:5000@eth0,ttl=1\"\n  mcrctl --json why \"[fd00::9]:4000 > [ff15::1]:5000@eth0\"\n\n\
        The datagram is written SOURCE[:PORT] > ADDRESS:PORT@INTERFACE[,ttl=N] as it would arrive. The relay's own lookup\n\
        answers; nothing is sent.")]
    Why {
        /// The datagram, in quotes because of the `>`
        datagram: String,
    },
    /// Ask whether the daemon is there
    #[command(after_help = "Example:\n  mcrctl ping && echo running")]
    Ping,
    /// Show the versions of mcrctl and of the daemon
    #[command(after_help = "Example:\n  mcrctl version")]
    Version,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ReflectVerb {
    /// Send test packets that arrive on an interface back
    #[command(
        after_help = "Examples:\n  mcrctl reflect add eth2\n  mcrctl reflect add eth2 --mode mac latency=true\n  \
        mcrctl reflect add eth3 stamp=862 'allow_source=[\"192.0.2.0/24\"]'\n\n\
        The keys are those of [[reflect]] in the configuration file. Prints the reflector's name."
    )]
    Add(ReflectAdd),
    /// Remove reflectors
    #[command(after_help = "Example:\n  mcrctl reflect remove bench-port")]
    Remove {
        /// Names, as `mcrctl reflect list` shows them
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
    /// List reflectors, what they reflected, and why not
    #[command(after_help = "Example:\n  mcrctl --json reflect list bench-port")]
    List {
        /// A name; without one, all
        name: Option<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ReflectAdd {
    /// The interface to reflect on
    #[arg(value_name = "INTERFACE")]
    pub(crate) interface: String,
    /// A name that no other reflector has [default: INTERFACE-PORT]
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// UDP port of test packets, 0 for any [default: 3842]
    #[arg(long, value_name = "PORT")]
    pub(crate) port: Option<u16>,
    /// What to exchange: mac, mac-ip, all, auto [default: all]
    #[arg(long, value_name = "MODE")]
    pub(crate) mode: Option<String>,
    /// Other options
    #[arg(value_name = "KEY=VALUE")]
    pub(crate) options: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Events {
    /// Only of these; can be given several times [default: of everything]
    #[arg(long, value_enum, value_name = "KIND")]
    pub(crate) kind: Vec<Kind>,
    /// End after so many
    #[arg(long, value_name = "N")]
    pub(crate) count: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct Trace {
    /// Name or id
    #[arg(required_unless_present = "drops", conflicts_with = "drops")]
    pub(crate) rule: Option<String>,
    /// Instead of those of a rule, the datagrams that come in by this interface and that no rule gets, and why
    #[arg(long, value_name = "INTERFACE")]
    pub(crate) drops: Option<String>,
    /// End after so many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// Only one in N, the first included
    #[arg(long, value_name = "1/N")]
    pub(crate) sample: Option<String>,
    /// End after so many seconds [default: 3600, which is also the most]
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub(crate) seconds: Option<u32>,
    /// Also write the frames to this file, for Wireshark; - writes them to standard output instead of the lines
    #[arg(long, value_name = "FILE")]
    pub(crate) pcapng: Option<PathBuf>,
    /// Bytes to keep of each frame, at most 1920; with --json they are shown as hexadecimal digits [default: 1920 with --pcapng, else 0]
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u16).range(0..=1920))]
    pub(crate) snap: Option<u16>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Kind {
    Rule,
    Interface,
    Worker,
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
    /// The traffic class of its datagrams, one that the configuration defines [default: by their DSCP]
    #[arg(long, value_name = "NAME")]
    pub(crate) class: Option<String>,
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
