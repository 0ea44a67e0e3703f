//! The command line.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

use crate::{case::Case, peer::Peer, reflect, rounds::Rounds};

/// Compares MCR with other ways to relay UDP, in network namespaces of its own.
#[derive(Parser)]
#[command(bin_name = "cargo xtask bench", max_term_width = 100)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Measure peers against each other (needs root and two cores that nothing else uses)
    Peers(Peers),
    /// Measure reflectors against each other (needs root and two cores that nothing else uses)
    Reflect(Reflect),
    /// Make Markdown tables of the results of `peers --json` or `reflect --json`
    Table {
        /// What was written
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Measure two builds of mcrd against each other, in turn (`cargo xtask bench compare REV` builds them)
    Compare(Compare),
    /// The relay that everything is compared with (started by `peers`)
    #[command(hide = true)]
    Baseline {
        /// Groups to join
        #[arg(long)]
        inputs: u16,
        /// Interfaces to send by
        #[arg(long, value_delimiter = ',')]
        outputs: Vec<String>,
    },
    /// The reflector that others are compared with (started by `reflect`)
    #[command(hide = true)]
    Swapper {
        /// Interface to reflect on
        interface: String,
    },
}

#[derive(ClapArgs)]
pub(crate) struct Peers {
    #[command(flatten)]
    pub(crate) common: Rounds,
    /// Half a second a trial and a coarse search: to see that all works, not for numbers
    #[arg(long)]
    pub(crate) quick: bool,
    /// Length of a trial
    #[arg(long, value_name = "MS", default_value_t = 2000, conflicts_with = "quick", value_parser = clap::value_parser!(u64).range(100..=60_000))]
    pub(crate) trial_ms: u64,
    /// What to compare
    #[arg(long, value_delimiter = ',', value_enum, value_name = "PEER,..", default_values_t = Peer::ALL)]
    pub(crate) peers: Vec<Peer>,
    /// What to relay
    #[arg(long, value_delimiter = ',', value_enum, value_name = "CASE,..", default_values_t = Case::ALL)]
    pub(crate) cases: Vec<Case>,
    /// What to measure
    #[arg(long, value_delimiter = ',', value_enum, value_name = "WHAT,..", default_values_t = [Measure::Rate, Measure::Cost, Measure::Latency])]
    pub(crate) measure: Vec<Measure>,
    /// Rounds that measure cost and delay as well; rates are measured in all [default: all]
    #[arg(long, value_name = "N")]
    pub(crate) fixed_rounds: Option<u32>,
    /// Who makes the frames of cases with one stream, one output and no superframes
    #[arg(long, value_enum, value_name = "SENDER", default_value_t = SenderKind::Packet)]
    pub(crate) sender: SenderKind,
    /// Leave what the relay receives to the sender's core instead of steering it (RPS) to the relay's
    #[arg(long)]
    pub(crate) no_steering: bool,
    /// Leave tx-udp-segmentation of the relay's outputs on, as of a network card that cuts superframes itself
    #[arg(long)]
    pub(crate) offload: bool,
}

/// A kind of sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SenderKind {
    /// A packet socket
    Packet,
    /// Frames that the kernel makes itself (XDP live frames): faster, and slows the other core down by its use of memory
    Live,
}

#[derive(ClapArgs)]
pub(crate) struct Compare {
    /// Where the mcrd is that stands for 1
    #[arg(long, value_name = "DIR")]
    pub(crate) a: PathBuf,
    /// Where the mcrd is that is compared with it
    #[arg(long, value_name = "DIR")]
    pub(crate) b: PathBuf,
    /// How often each of the two takes its turn in each case
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rounds: u32,
    /// Half a second a trial and a coarse search: to see that all works, not for numbers
    #[arg(long)]
    pub(crate) quick: bool,
    /// Length of a trial
    #[arg(long, value_name = "MS", default_value_t = 2000, conflicts_with = "quick", value_parser = clap::value_parser!(u64).range(100..=60_000))]
    pub(crate) trial_ms: u64,
    /// Write each trial, and the ratios, here as lines of JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// What of mcrd to compare
    #[arg(long, value_delimiter = ',', value_enum, value_name = "PEER,..", default_values_t = [Peer::McrdKernel, Peer::McrdPacket, Peer::McrdUdp])]
    pub(crate) peers: Vec<Peer>,
    /// What to relay
    #[arg(long, value_delimiter = ',', value_enum, value_name = "CASE,..", default_values_t = [Case::One, Case::FanOut])]
    pub(crate) cases: Vec<Case>,
}

/// A kind of measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Measure {
    /// The loss-free rate
    Rate,
    /// Time of the relay's core for each copy
    Cost,
    /// Delay from source to sink, in cases with one stream and one output
    Latency,
    /// What is delivered at twice the loss-free rate
    Overload,
    /// Time of the relay's core for each datagram of a million a second that no rule wants, in cases with one stream and one output
    Foreign,
}

#[derive(ClapArgs)]
pub(crate) struct Reflect {
    #[command(flatten)]
    pub(crate) common: Rounds,
    /// A fifth of a second a trial and a coarse search: to see that all works, not for numbers
    #[arg(long)]
    pub(crate) quick: bool,
    /// Length of a trial
    #[arg(long, value_name = "MS", default_value_t = 1000, conflicts_with = "quick", value_parser = clap::value_parser!(u64).range(100..=60_000))]
    pub(crate) trial_ms: u64,
    /// What to compare
    #[arg(long, value_delimiter = ',', value_enum, value_name = "PEER,..", default_values_t = reflect::Peer::ALL)]
    pub(crate) peers: Vec<reflect::Peer>,
    /// What to send
    #[arg(long, value_delimiter = ',', value_enum, value_name = "CASE,..", default_values_t = reflect::Case::ALL)]
    pub(crate) cases: Vec<reflect::Case>,
    /// What to measure
    #[arg(long, value_delimiter = ',', value_enum, value_name = "WHAT,..", default_values_t = ReflectMeasure::ALL)]
    pub(crate) measure: Vec<ReflectMeasure>,
}

/// A kind of measurement of a reflector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ReflectMeasure {
    /// The loss-free rate
    Rate,
    /// Bursts of 2,000 frames at once
    Bursts,
    /// Turn-round times at 10,000 frames a second
    TurnRound,
    /// Processor time of a reflector that has nothing to do
    Idle,
}

impl ReflectMeasure {
    const ALL: [Self; 4] = [Self::Rate, Self::Bursts, Self::TurnRound, Self::Idle];
}
