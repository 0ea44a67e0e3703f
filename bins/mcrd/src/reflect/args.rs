//! The command line of `mcrd reflect`. Names and defaults are those that users of other reflectors know.

use clap::{ArgAction, Args};
use mcr_proto::reflect::{
    AddressPrefix, MacAddress, Oui, Platform, Queues, REFLECT_PORT, ReflectMode, Sequence, SignatureFamily,
};

use super::{LogFormat, LogLevelArg};

#[derive(Args)]
#[command(
    version,
    after_help = "\
Examples:
  mcrd reflect eth2                                  answer the test frames of NetAlly testers on port 3842
  mcrd reflect eth2 --json --stats-interval 1        one JSON object a second
  mcrd reflect eth2 --no-oui-filter --sig custom     testers of any make, RFC2544 and Y.1564 signatures
  mcrd reflect eth2 --latency                        measure turn-round times, too
  mcrd reflect eth2 --stamp 862 --echo 7             answer STAMP and UDP echo as well
  mcrd reflect eth2 --platform xdp --queues 2        AF_XDP on queues 0 and 1, a process each
  mcrd reflect nic eth2                              what the interface can do

SIGTERM and SIGINT stop it, SIGUSR1 prints statistics, SIGHUP reads interface and filters anew. Statistics go to standard
output, everything else to standard error. Exit codes: 0 stopped, 1 failed, 2 usage, 3 not permitted, 4 no such interface."
)]
pub(crate) struct ReflectArgs {
    /// Interface to reflect on; `nic INTERFACE` says what one can do
    #[arg(value_name = "INTERFACE", required = true, num_args = 1..=2)]
    pub(crate) interface: Vec<String>,
    /// Also say what is only of use in looking for a fault
    #[arg(short, long)]
    pub(crate) verbose: bool,
    /// Print statistics as one JSON object a line
    #[arg(long, overrides_with_all = ["csv", "compat_json"])]
    pub(crate) json: bool,
    /// Print statistics as CSV with a header line
    #[arg(long, overrides_with_all = ["json", "compat_json"])]
    pub(crate) csv: bool,
    /// Print JSON with the keys of the reference reflector, one object a line
    #[arg(long, overrides_with_all = ["json", "csv"])]
    pub(crate) compat_json: bool,
    /// Measure turn-round times
    #[arg(long)]
    pub(crate) latency: bool,
    /// Measure one frame of so many
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) latency_sample: u32,
    /// Seconds between statistics
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=i64::from(i32::MAX)))]
    pub(crate) stats_interval: u32,
    /// UDP destination port of test frames; 0 for any
    #[arg(long, value_name = "N", default_value_t = REFLECT_PORT)]
    pub(crate) port: u16,
    /// Reflect whatever the source's OUI
    #[arg(long)]
    pub(crate) no_oui_filter: bool,
    /// Reflect whatever the destination MAC address (but groups)
    #[arg(long)]
    pub(crate) no_mac_filter: bool,
    /// OUI of testers
    #[arg(long, value_name = "XX:XX:XX", default_value_t = Oui::NETALLY)]
    pub(crate) oui: Oui,
    /// What to exchange: mac, mac-ip, all, auto
    #[arg(long, value_name = "MODE", default_value_t = ReflectMode::All)]
    pub(crate) mode: ReflectMode,
    /// Signatures that count: all, ito, rfc2544, y1564, custom
    #[arg(long, value_name = "FAMILY", default_value_t = SignatureFamily::All)]
    pub(crate) sig: SignatureFamily,
    /// Reflect even with no filter at all
    #[arg(long)]
    pub(crate) i_know: bool,
    /// How to get and send frames: auto, packet, xdp
    #[arg(long, value_name = "PLATFORM", default_value_t = Platform::Auto)]
    pub(crate) platform: Platform,
    /// Receive queues to serve on AF_XDP, the first N or all, each by a process of its own; the others are the stack's
    #[arg(long, value_name = "N", default_value_t = Queues::All)]
    pub(crate) queues: Queues,
    /// Count every frame on the interface with its reason, not only those that nearly match
    #[arg(long)]
    pub(crate) explain: bool,
    #[command(flatten)]
    pub(crate) who: WhoArgs,
    #[command(flatten)]
    pub(crate) reading: ReadingArgs,
    #[command(flatten)]
    pub(crate) standards: StandardArgs,
    /// Whom the reflecting process runs as [default: mcr if there is such a user, else nobody]; only root can choose
    #[arg(long, value_name = "USER")]
    pub(crate) user: Option<String>,
    /// Least severe messages to log
    #[arg(long, value_enum, value_name = "LEVEL")]
    pub(crate) log: Option<LogLevelArg>,
    /// How to write the log
    #[arg(long, value_enum, default_value_t = LogFormat::Text, value_name = "FORMAT")]
    pub(crate) log_format: LogFormat,
}

#[derive(Args)]
#[command(next_help_heading = "Who is answered, and how fast")]
pub(crate) struct WhoArgs {
    /// Answer only these source addresses
    #[arg(long, value_name = "PREFIX", value_delimiter = ',', action = ArgAction::Append)]
    pub(crate) allow_source: Vec<AddressPrefix>,
    /// Answer only these source MAC addresses
    #[arg(long, value_name = "MAC", value_delimiter = ',', action = ArgAction::Append)]
    pub(crate) allow_mac: Vec<MacAddress>,
    /// Answer only these VLANs; 0 is untagged
    #[arg(long, value_name = "ID", value_delimiter = ',', action = ArgAction::Append)]
    pub(crate) allow_vlan: Vec<u16>,
    /// Most replies a second to test frames; 0 for no limit
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) rate_pps: u64,
    /// Most bits a second in replies to test frames; 0 for no limit
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) rate_bps: u64,
    /// The same for each source
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) source_rate_pps: u64,
    /// The same for each source
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) source_rate_bps: u64,
    /// Most replies a second of TWAMP, STAMP, echo and OAM together; 0 for no limit
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    pub(crate) standard_rate_pps: u64,
    /// The same for each source
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    pub(crate) standard_source_rate_pps: u64,
    /// Answer frames to groups, too, from the interface's own address (with --no-mac-filter)
    #[arg(long)]
    pub(crate) answer_groups: bool,
    /// Answer frames from the service's own port even with --no-oui-filter
    #[arg(long)]
    pub(crate) same_port: bool,
}

#[derive(Args)]
#[command(next_help_heading = "How frames are read")]
pub(crate) struct ReadingArgs {
    /// Reflect first fragments
    #[arg(long)]
    pub(crate) first_fragments: bool,
    /// Take 0x9100 for a VLAN tag
    #[arg(long)]
    pub(crate) tpid_9100: bool,
    /// Skip IPv6 hop-by-hop and destination options
    #[arg(long)]
    pub(crate) extension_headers: bool,
}

#[derive(Args)]
#[command(next_help_heading = "Standards (off unless asked for)")]
pub(crate) struct StandardArgs {
    /// Answer TWAMP-Light on this UDP port
    #[arg(long, value_name = "PORT", default_value_t = 0, num_args = 0..=1, default_missing_value = "862", require_equals = false, hide_default_value = true)]
    pub(crate) twamp: u16,
    /// How to number its replies: stateful, stateless
    #[arg(long, value_name = "HOW", default_value_t = Sequence::Stateful)]
    pub(crate) twamp_sequence: Sequence,
    /// Answer STAMP on this UDP port
    #[arg(long, value_name = "PORT", default_value_t = 0, num_args = 0..=1, default_missing_value = "862", hide_default_value = true)]
    pub(crate) stamp: u16,
    /// How to number its replies: stateful, stateless
    #[arg(long, value_name = "HOW", default_value_t = Sequence::Stateless)]
    pub(crate) stamp_sequence: Sequence,
    /// File with STAMP's HMAC key, in hexadecimal digits
    #[arg(long, value_name = "FILE")]
    pub(crate) stamp_key_file: Option<std::path::PathBuf>,
    /// Answer only authenticated STAMP
    #[arg(long)]
    pub(crate) stamp_authenticated: bool,
    /// Answer only these STAMP session ids
    #[arg(long, value_name = "ID", value_delimiter = ',', action = ArgAction::Append)]
    pub(crate) stamp_ssid: Vec<u16>,
    /// Let a STAMP request choose its reply's DSCP
    #[arg(long)]
    pub(crate) stamp_dscp: bool,
    /// Answer UDP echo on this port
    #[arg(long, value_name = "PORT", default_value_t = 0, num_args = 0..=1, default_missing_value = "7", hide_default_value = true)]
    pub(crate) echo: u16,
    /// Answer Y.1731 loopback, delay and synthetic loss as this MEP
    #[arg(long, value_name = "MEP", default_value_t = 0, hide_default_value = true)]
    pub(crate) oam_mep: u16,
    /// The MEP's level
    #[arg(long, value_name = "LEVEL", default_value_t = 0)]
    pub(crate) oam_level: u16,
    /// Do not answer loopback
    #[arg(long)]
    pub(crate) no_oam_lbm: bool,
    /// Do not answer delay measurement
    #[arg(long)]
    pub(crate) no_oam_dmm: bool,
    /// Do not answer synthetic loss measurement
    #[arg(long)]
    pub(crate) no_oam_slm: bool,
    /// Answer loss measurement, too
    #[arg(long)]
    pub(crate) oam_lmm: bool,
}
