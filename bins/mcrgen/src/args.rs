//! The command line: text to options, nothing done yet.

use std::net::IpAddr;
use std::num::NonZeroU64;
use std::time::Duration;

use clap::{ArgGroup, Args, Parser, Subcommand};
use mcr_gen::{FLOWS_MAX, RecvOptions, SendOptions, Stop};
use mcr_proto::endpoint::{Codepoint, Endpoint};

const EXAMPLES: &str = "\
Examples:
  mcrgen recv 239.1.1.1:5000@eth0 --idle 2
      join a group, report once it has been silent for 2 s
  mcrgen send 239.1.1.1:5000@eth0 --rate 10k --size 1316 --seconds 10
      10,000 datagrams/s for 10 s
  mcrgen recv '10.0.0.9>232.1.1.1:5000@eth0' --count 1000 --seconds 30 --json
      one source only; exit code 1 unless all 1,000 come within 30 s
  mcrgen send 10.0.0.2:5000 --rate max --gso --flows 4 --seconds 5
      unicast, as fast as possible, four flows, in superframes

Exit codes: 0 done, 1 failed, 2 usage error, 3 not permitted, 4 no such interface.";

/// Sends and receives UDP test traffic: every datagram accounted for, its delay measured.
#[derive(Debug, Parser)]
#[command(name = "mcrgen", version, after_help = EXAMPLES)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Send numbered and stamped datagrams at a steady rate
    #[command(after_help = EXAMPLES)]
    Send(SendArgs),
    /// Receive them and report loss, duplicates, reordering, corruption and delay
    #[command(after_help = EXAMPLES)]
    Recv(RecvArgs),
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("stop").required(true).args(["count", "seconds"]))]
pub(crate) struct SendArgs {
    /// Where to: [SOURCE>]ADDRESS:PORT[@INTERFACE], IPv6 addresses in brackets
    endpoint: Endpoint,
    /// Datagrams a second over all flows, as 1500, 10k or 1.5M; max: as fast as the kernel takes them
    #[arg(long, value_name = "PPS", default_value = "1000", value_parser = rate)]
    rate: Rate,
    /// Payload bytes of each datagram, 32 to 65507
    #[arg(long, value_name = "BYTES", default_value_t = 1316)]
    size: usize,
    /// Stop after so many datagrams
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Stop after so much time
    #[arg(long, value_name = "S", value_parser = seconds)]
    seconds: Option<Duration>,
    /// Flows, each with a source port of its own; datagrams take turns among them
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(FLOWS_MAX)))]
    flows: u32,
    /// Hand the kernel superframes of up to 64 datagrams (UDP_SEGMENT); the rate stays the same
    #[arg(long)]
    gso: bool,
    /// Address to send from [default: that of the interface]
    #[arg(long, value_name = "ADDRESS")]
    source: Option<IpAddr>,
    /// TTL or hop limit
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u8).range(1..))]
    ttl: u8,
    /// DSCP, 0 to 63 or a name such as ef, af41, cs5 [default: the system's]
    #[arg(long)]
    dscp: Option<Codepoint>,
    /// Report as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RecvArgs {
    /// Where to listen: [SOURCE>]ADDRESS:PORT[@INTERFACE], IPv6 addresses in brackets
    endpoint: Endpoint,
    /// Stop after so much time
    #[arg(long, value_name = "S", value_parser = seconds)]
    seconds: Option<Duration>,
    /// Stop after so many datagrams; fewer make the exit code 1
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Stop after so much silence, counted from the first datagram on
    #[arg(long, value_name = "S", value_parser = seconds)]
    idle: Option<Duration>,
    /// Report as one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

/// Datagrams a second; `None`: as many as possible. A type of its own, because clap reads `Option` as "may be absent".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rate(Option<NonZeroU64>);

impl SendArgs {
    pub(crate) fn options(&self) -> SendOptions {
        let stop = match (self.count, self.seconds) {
            (Some(count), _) => Stop::After { count },
            (None, duration) => Stop::For { duration: duration.unwrap_or_default() },
        };
        let mut options = SendOptions::new(self.endpoint.clone(), stop);
        options.rate_pps = self.rate.0;
        options.payload_bytes = self.size;
        options.flows = self.flows;
        options.gso = self.gso;
        options.source = self.source;
        options.ttl = self.ttl;
        options.dscp = self.dscp;
        options
    }
}

impl RecvArgs {
    pub(crate) fn options(&self) -> RecvOptions {
        let mut options = RecvOptions::new(self.endpoint.clone());
        options.count = self.count;
        options.duration = self.seconds;
        options.idle = self.idle;
        options
    }
}

fn rate(text: &str) -> Result<Rate, String> {
    const WANT: &str = "give datagrams a second, as 1500, 10k or 1.5M, or max";
    if text == "max" {
        return Ok(Rate(None));
    }
    let (digits, scale) = match text.as_bytes().last() {
        Some(b'k') => (&text[..text.len() - 1], 1e3),
        Some(b'M') => (&text[..text.len() - 1], 1e6),
        _ => (text, 1.0),
    };
    let number: f64 = digits.parse().map_err(|_| WANT.to_owned())?;
    let rate = (number * scale).round();
    if !(1.0..=1e12).contains(&rate) {
        return Err(WANT.to_owned());
    }
    Ok(Rate(NonZeroU64::new(rate as u64)))
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| "give seconds above 0, as 10 or 0.5".to_owned())
}

/// What clap says of a wrong command line, as one line that says where to read on.
pub(crate) fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let words = text.lines().take_while(|line| !line.is_empty()).flat_map(str::split_whitespace);
    let said = words.collect::<Vec<_>>().join(" ");
    format!("{}; see mcrgen --help", said.strip_prefix("error: ").unwrap_or(&said))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Verb, clap::Error> {
        Cli::try_parse_from(line.split_whitespace()).map(|cli| cli.verb)
    }

    fn send(line: &str) -> SendOptions {
        match parse(&format!("mcrgen send {line}")).expect("a good line") {
            Verb::Send(args) => args.options(),
            Verb::Recv(_) => panic!("not recv"),
        }
    }

    #[test]
    fn the_definition_is_sound() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn every_send_option_arrives() {
        let options = send(
            "[ff15::1]:5000@eth0 --rate 20k --size 1400 --seconds 2.5 --flows 8 --gso --source fd00::1 --ttl 3 --dscp ef",
        );
        assert_eq!(options.endpoint.to_string(), "[ff15::1]:5000@eth0");
        assert_eq!((options.rate_pps, options.payload_bytes), (NonZeroU64::new(20_000), 1400));
        assert_eq!(options.stop, Stop::For { duration: Duration::from_millis(2500) });
        assert_eq!((options.flows, options.gso, options.ttl), (8, true, 3));
        assert_eq!(options.source, "fd00::1".parse().ok());
        assert_eq!(options.dscp.map(Codepoint::value), Some(46));
    }

    #[test]
    fn the_defaults_are_those_of_the_library() {
        let want = SendOptions::new("10.0.0.1:5000".parse().expect("valid"), Stop::After { count: 5 });
        assert_eq!(format!("{:?}", send("10.0.0.1:5000 --count 5")), format!("{want:?}"));
    }

    #[test]
    fn every_recv_option_arrives() {
        let line = "mcrgen recv 10.0.0.9>232.1.1.1:5000@eth0 --seconds 3 --count 7 --idle 0.5 --json";
        let Ok(Verb::Recv(args)) = parse(line) else { panic!("a good line") };
        let options = args.options();
        assert_eq!(options.endpoint.to_string(), "10.0.0.9>232.1.1.1:5000@eth0");
        assert_eq!((options.count, options.duration), (Some(7), Some(Duration::from_secs(3))));
        assert_eq!((options.idle, args.json), (Some(Duration::from_millis(500)), true));
    }

    #[test]
    fn rates_have_suffixes_and_a_maximum() {
        let pps = |text: &str| rate(text).map(|rate| rate.0.map(NonZeroU64::get));
        assert_eq!(pps("1500"), Ok(Some(1500)));
        assert_eq!(pps("1.5M"), Ok(Some(1_500_000)));
        assert_eq!(pps("10k"), Ok(Some(10_000)));
        assert_eq!(pps("max"), Ok(None));
        for wrong in ["", "0", "-1", "k", "10K", "nan", "inf", "1e99", "ten", "1kk", "0.2", "é"] {
            assert!(pps(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn wrong_lines_are_refused_in_one_line_that_helps() {
        for (line, want) in [
            ("send 10.0.0.1:5000", "--count"),
            ("send 10.0.0.1:5000 --count 1 --seconds 1", "cannot be used with"),
            ("send 10.0.0.1:5000 --count 1 --ttl 0", "--ttl"),
            ("send 10.0.0.1:5000 --count 1 --flows 0", "--flows"),
            ("send 10.0.0.1:5000 --seconds -1", "-1"),
            ("send 10.0.0.1:5000 --seconds 0", "above 0"),
            ("send 10.0.0.1 --count 1", "10.0.0.1"),
            ("send 10.0.0.1:5000 --count 1 --rate fast", "or max"),
            ("recv", "<ENDPOINT>"),
            ("play", "play"),
        ] {
            let said = one_line(&parse(&format!("mcrgen {line}")).expect_err("a wrong line"));
            assert!(said.contains(want) && !said.contains('\n'), "{line}: {said}");
            assert!(said.ends_with("see mcrgen --help") && !said.starts_with("error"), "{line}: {said}");
        }
    }
}
