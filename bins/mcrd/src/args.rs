//! The command line.

#[path = "reflect/args.rs"]
mod reflect;

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use mcr_proto::message::LogLevel;

pub(crate) use self::reflect::ReflectArgs;

/// Relays UDP datagrams, multicast above all, to where the network does not carry them.
#[derive(Parser)]
#[command(name = "mcrd", version, max_term_width = 100, after_help = EXAMPLES)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXAMPLES: &str = "\
Examples:
  mcrd demo                                  watch it relay, with nothing configured and no rights
  mcrd run                                   run the daemon; `mcrctl add` gives it rules
  mcrd run --config /etc/mcr/mcr.toml        run it with rules from a file
  mcrd check /etc/mcr/mcr.toml               say what is wrong with a file
  mcrd reflect eth2                          send test packets back

Exit codes: 0 done, 1 failed, 2 usage or config error, 3 not permitted.";

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Run the daemon in the foreground
    Run(RunArgs),
    /// Check a configuration file and say what is wrong with it
    Check(CheckArgs),
    /// Show the relay at work: real processes and datagrams in namespaces of its own
    Demo(DemoArgs),
    /// Send test packets back to where they came from
    Reflect(Box<ReflectArgs>),
    /// A data-plane process (started by `mcrd run`)
    #[command(hide = true)]
    RoleWorker,
    /// The control-plane process (started by `mcrd run`)
    #[command(hide = true)]
    RoleControl,
    /// A reflecting process (started by `mcrd run` and `mcrd reflect`)
    #[command(hide = true)]
    RoleReflector,
}

fn http_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "write an address and a port, as in 127.0.0.1:9650 or [::1]:9650".to_owned())
}

#[derive(ClapArgs)]
#[command(after_help = "\
Examples:
  mcrd run
  mcrd run --config /etc/mcr/mcr.toml --group mcr-control
  mcrd run --socket /tmp/mcrd.sock --workers 1 --log debug
  mcrd run --http 127.0.0.1:9650                              metrics at /metrics, a page at /
  mcrd run --http 127.0.0.1:9650 --http-token-file /etc/mcr/http.token

SIGTERM and SIGINT stop it, SIGHUP loads the configuration file again; systemd is told when it is ready
(Type=notify). `mcrctl save` writes the running configuration back to the file.")]
pub(crate) struct RunArgs {
    /// Configuration file (TOML); without one there are no rules to begin with
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Control socket [default: /run/mcr/mcrd.sock, or $XDG_RUNTIME_DIR/mcr/mcrd.sock for a user]
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// Serve metrics, health and a web page here, as in 127.0.0.1:9650 [default: `http` of the configuration, else nowhere]
    #[arg(long, value_name = "ADDR", value_parser = http_address)]
    pub(crate) http: Option<SocketAddr>,
    /// A name by which HTTP clients may reach it, beside addresses, `localhost` and this host's name; may be repeated
    #[arg(long, value_name = "NAME", value_parser = host_name)]
    pub(crate) http_name: Vec<String>,
    /// Whoever shows the text of this file may change rules over HTTP; without one nobody may
    #[arg(long, value_name = "FILE")]
    pub(crate) http_token_file: Option<PathBuf>,
    /// Number of workers [default: from the configuration, else one per core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=i64::from(mcr_proto::config::WORKERS_MAX)))]
    pub(crate) workers: Option<u16>,
    /// Whom workers and control run as [default: mcr if there is such a user, else nobody]; only root can choose
    #[arg(long, value_name = "USER")]
    pub(crate) user: Option<String>,
    /// Group whose members may control the daemon
    #[arg(long, value_name = "GROUP")]
    pub(crate) group: Option<String>,
    /// How workers do their I/O
    #[arg(long, value_enum, default_value_t = Io::Auto)]
    pub(crate) io: Io,
    /// Least severe messages to log
    #[arg(long, value_enum, default_value_t = LogLevelArg::Info, value_name = "LEVEL")]
    pub(crate) log: LogLevelArg,
    /// How to write the log
    #[arg(long, value_enum, default_value_t = LogFormat::Text, value_name = "FORMAT")]
    pub(crate) log_format: LogFormat,
    /// Let the host's IP stack see all that `packet` rules relay, also where nothing there wants it
    #[arg(long)]
    pub(crate) no_swallow: bool,
    /// Do without the kernel data path (for tests)
    #[arg(long, hide = true)]
    pub(crate) no_ebpf: bool,
    /// Stop when the process that started this one ends (for `mcrd demo` and tests)
    #[arg(long, hide = true)]
    pub(crate) with_parent: bool,
}

#[derive(ClapArgs)]
#[command(after_help = "\
Examples:
  mcrd check /etc/mcr/mcr.toml
  mcrctl save --stdout | mcrd check -

Every error names file, line and key. Exit code 2 if there is one.")]
pub(crate) struct CheckArgs {
    /// Configuration file (TOML); - reads standard input
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
}

#[derive(ClapArgs)]
#[command(after_help = "\
Examples:
  mcrd demo
  mcrd demo --seconds 10
  mcrd demo --json

Needs no rights and touches nothing of the host. Exit code 0 only if no datagram was lost.")]
pub(crate) struct DemoArgs {
    /// How long to send
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub(crate) seconds: u32,
    /// End with one JSON object instead of a table
    #[arg(long)]
    pub(crate) json: bool,
    /// Which network to use
    #[arg(long, value_enum, default_value_t = DemoNetwork::Auto, hide = true)]
    pub(crate) network: DemoNetwork,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum DemoNetwork {
    Auto,
    Namespaces,
    Loopback,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum Io {
    /// io_uring where it works, else system calls
    Auto,
    /// io_uring or nothing
    Uring,
    /// recvmmsg and sendmmsg
    Syscalls,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum LogLevelArg {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl From<LogLevelArg> for LogLevel {
    fn from(level: LogLevelArg) -> Self {
        match level {
            LogLevelArg::Error => Self::Error,
            LogLevelArg::Warn => Self::Warn,
            LogLevelArg::Info => Self::Info,
            LogLevelArg::Debug => Self::Debug,
            LogLevelArg::Trace => Self::Trace,
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum LogFormat {
    /// A line of text for people
    Text,
    /// A JSON object a line
    Json,
}

fn host_name(text: &str) -> Result<String, String> {
    match mcr_proto::config::is_host_name(text) {
        true => Ok(text.to_owned()),
        false => Err("a host's name without a port is expected, as in relay1.example.com".into()),
    }
}
