//! Where it happens: a source, a relay and two sinks, three more cables from the source that come and go, a tester's cable; and the
//! rules, those that nobody touches, those that are moved about, and those that come and go.

use std::{
    fmt::Write as _,
    net::{Ipv4Addr, SocketAddr},
};

use mcr_lab::{LabError, Line, Namespace, veth};
use mcr_proto::rule::Datapath;

use super::trouble::Dice;
use crate::reflector::{REFLECTOR_IF, REFLECTOR_MAC, TESTER_IF, TESTER_MAC};

/// Interfaces that come and go.
pub(super) const FLAPS: usize = 3;
/// Streams of IPv4, of each data path, and one more of IPv6.
const STREAMS: usize = 4;
/// Streams whose rules are moved about.
pub(super) const MOVING: usize = 3;
/// Rules that come and go, at most.
const CHURN: usize = 150;
const DATAPATHS: [Datapath; 3] = [Datapath::Packet, Datapath::Udp, Datapath::Kernel];
/// The reflector's name.
pub(super) const REFLECTOR: &str = "bench";

/// A stream with its rule.
#[derive(Debug)]
pub(super) struct Stream {
    /// The rule's name.
    pub(super) rule: String,
    /// Whether its rule is left alone.
    pub(super) steady: bool,
    pub(super) to: SocketAddr,
    /// Where copies are looked at.
    pub(super) listen: String,
    text: String,
}

/// The networks, and what is configured.
#[derive(Debug)]
pub(super) struct Scene {
    pub(super) line: Line,
    /// At the other end of the reflector's cable.
    pub(super) tester: Namespace,
    /// The data path of each moving rule.
    pub(super) moving: [Datapath; MOVING],
    /// Whether the reflector is asked to use AF_XDP.
    pub(super) reflect_xdp: bool,
    /// The rules that come and go, as the configuration has them now.
    pub(super) churn: Vec<String>,
}

/// The group of an interface that comes and goes.
pub(super) fn flap_group(flap: usize) -> Ipv4Addr {
    Ipv4Addr::new(239, 8, flap as u8, 1)
}

impl Scene {
    pub(super) fn new() -> Result<Self, LabError> {
        let line = Line::with_outputs(2)?;
        line.pin_neighbours()?;
        let tester = Namespace::new()?;
        tester.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
        veth((&tester, TESTER_IF), (&line.relay, REFLECTOR_IF))?;
        tester.set_mac(TESTER_IF, TESTER_MAC)?;
        line.relay.set_mac(REFLECTOR_IF, REFLECTOR_MAC)?;
        tester.set_up(TESTER_IF)?;
        line.relay.set_up(REFLECTOR_IF)?;
        line.relay.wait_running(REFLECTOR_IF)?;
        let scene = Self { line, tester, moving: DATAPATHS, reflect_xdp: false, churn: Vec::new() };
        for flap in 0..FLAPS {
            scene.make_flap(flap)?;
        }
        Ok(scene)
    }

    /// A cable from the source to the relay, up at both ends, with a route to its group.
    pub(super) fn make_flap(&self, flap: usize) -> Result<(), LabError> {
        let (near, far) = (format!("flap{flap}"), format!("far{flap}"));
        veth((&self.line.relay, &near), (&self.line.source, &far))?;
        let address = |host: u8| Ipv4Addr::new(10, 70, flap as u8, host).into();
        self.line.source.add_address(&far, address(2), 24)?;
        self.line.source.set_up(&far)?;
        self.line.relay.set_up(&near)?;
        self.line.relay.add_address(&near, address(1), 24)?;
        self.line.source.add_route(Some((flap_group(flap).into(), 32)), None, &far)
    }

    /// All streams: those of rules that stay, then those of rules that move.
    pub(super) fn streams(&self) -> Vec<Stream> {
        let mut streams = Vec::new();
        for (at, datapath) in DATAPATHS.into_iter().enumerate() {
            for stream in 0..STREAMS {
                let name = format!("{datapath}-{stream}");
                // What is looked at comes first; the second sink's cable is taken down now and then.
                let more = [format!("239.3.{at}.{stream}:6000@out1,ttl=9"), "10.3.0.2:9000".to_owned()];
                streams.push(stream_v4(&name, true, (10 + at, stream), datapath, &more[..stream % 3]));
            }
            let (to, out) = (format!("[ff15::1:{at}]:5000"), format!("[ff15::2:{at}]:6000"));
            let rule = format!("{datapath}-ipv6");
            let text =
                rule_text(&rule, &format!("{to}@in0"), &[format!("{out}@out0")], &datapath.to_string());
            let (to, listen) = (to.parse().expect("an address"), format!("{out}@dst0"));
            streams.push(Stream { rule, steady: true, to, listen, text });
        }
        for (at, datapath) in self.moving.into_iter().enumerate() {
            streams.push(stream_v4(&format!("moving-{at}"), false, (20, at), datapath, &[]));
        }
        streams
    }

    /// The configuration as it is meant to be now.
    pub(super) fn config(&self) -> String {
        let mut text: String = self.streams().into_iter().map(|stream| stream.text).collect();
        for flap in 0..FLAPS {
            let input = format!("{}:5000@flap{flap}", flap_group(flap));
            let output = format!("239.9.{flap}.1:6000@out0");
            text += &rule_text(&format!("flap-{flap}"), &input, &[output], "auto");
        }
        self.churn.iter().for_each(|rule| text += rule);
        let platform = if self.reflect_xdp { "xdp" } else { "packet" };
        write!(
            text,
            "[[reflect]]\nname = \"{REFLECTOR}\"\ninterface = \"{REFLECTOR_IF}\"\nplatform = \"{platform}\"\n"
        )
        .expect("memory");
        text
    }

    /// Back to what was configured at first: no rules but those that stay and those that move, these on the data path they had.
    pub(super) fn forget_changes(&mut self) {
        self.churn.clear();
        self.moving = DATAPATHS;
    }

    /// Throws the rules that come and go anew: any number, of any kind.
    pub(super) fn throw_churn(&mut self, dice: &mut Dice) {
        let count = dice.roll(CHURN + 1);
        self.churn = (0..count).map(|number| churn_rule(number, dice)).collect();
    }
}

fn stream_v4(
    name: &str,
    steady: bool,
    (net, host): (usize, usize),
    datapath: Datapath,
    more: &[String],
) -> Stream {
    let (to, out) = (format!("239.1.{net}.{host}:5000"), format!("239.2.{net}.{host}:6000"));
    let outputs: Vec<_> = [format!("{out}@out0")].into_iter().chain(more.iter().cloned()).collect();
    let text = rule_text(name, &format!("{to}@in0"), &outputs, &datapath.to_string());
    let (to, listen) = (to.parse().expect("an address"), format!("{out}@dst0"));
    Stream { rule: name.to_owned(), steady, to, listen, text }
}

fn rule_text(name: &str, input: &str, outputs: &[String], datapath: &str) -> String {
    format!(
        "[[rule]]\nname = \"{name}\"\ninput = \"{input}\"\noutputs = {outputs:?}\ndatapath = \"{datapath}\"\n\n"
    )
}

/// A rule that may stand beside any other: no stream goes to its port.
fn churn_rule(number: usize, dice: &mut Dice) -> String {
    let group = [
        // A group that streams go to, or one of its own; also of one source alone.
        format!("239.1.{}.{}:{}", 10 + dice.roll(3), dice.roll(STREAMS), 7000 + number),
        format!("239.7.{}.{}:5000", number / 50, number % 50),
        format!("10.1.0.77>239.7.100.{number}:5000"),
        format!("[ff15::7:{number:x}]:5000"),
    ];
    let from = ["in0", "in0", "in0", "flap0", "flap1", "flap2", "absent0"][dice.roll(7)];
    let kind = dice.roll(group.len());
    let outputs: Vec<_> = (0..=dice.roll(4))
        .map(|output| {
            let keys = ["", ",ttl=3", ",dscp=ef", ",ttl=keep", ",rate=100pps", ",source=keep"][dice.roll(6)];
            let place = match (kind, dice.roll(3)) {
                (3, _) => format!("[ff15::8:{number:x}]:{}@out{}", 8000 + output, output % 2),
                (_, 0) => format!("10.{}.0.2:{}", 2 + output % 2, 8000 + output),
                _ => format!("239.10.{output}.{number}:8000@out{}", output % 2),
            };
            place + keys
        })
        .collect();
    let datapath = ["auto", "auto", "packet", "udp"][dice.roll(4)];
    rule_text(&format!("churn-{number}"), &format!("{}@{from}", group[kind]), &outputs, datapath)
}
