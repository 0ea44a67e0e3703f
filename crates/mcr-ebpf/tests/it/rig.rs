//! A relay namespace with the program at its input, frames put in by hand and taken out as they come.

use std::{
    fs::File,
    io::{Read, Write},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use mcr_ebpf::{Delta, KernelPath, Output, Rule, Times, Way};
use mcr_lab::{Line, Namespace, wait_until};
use mcr_proto::{
    counters::{InputDrop, OutputDrop},
    endpoint::{Dscp, Ttl},
    plan::{OutputSlot, RuleSlot, Span},
};
use mcr_socket::{
    filter::{Filter, FilterLink, Wanted},
    packet::{self, PacketOptions, VNET_HEADER_BYTES},
};

/// Where rules of these tests take datagrams in, and where they send them.
pub(crate) const IN: &str = "239.1.1.1:5000";
pub(crate) const OUT: &str = "239.2.2.2:6000";
pub(crate) const IN6: &str = "[ff3e::1:2:3]:5000";
pub(crate) const OUT6: &str = "[ff3e::4:5:6]:6000";
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);
/// The rule whose datagrams say that all before them have come.
const END: RuleSlot = RuleSlot(60_000);
pub(crate) const END_V4: &str = "239.255.255.250:65535";

pub(crate) struct Rig {
    pub(crate) line: Line,
    pub(crate) path: KernelPath,
    pub(crate) input: u32,
    inject: Injector,
    taps: Vec<File>,
    pub(crate) totals: Totals,
}

/// A frame as it came out, with what the kernel says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    /// `virtio_net_hdr`.
    pub(crate) vnet: Vec<u8>,
    pub(crate) frame: Vec<u8>,
}

impl Seen {
    pub(crate) fn gso_size(&self) -> u16 {
        u16::from_le_bytes([self.vnet[4], self.vnet[5]])
    }
    /// Whether the checksum is left to a device.
    pub(crate) fn is_partial(&self) -> bool {
        self.vnet[0] & 1 != 0
    }
}

/// Everything counted so far.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    pub(crate) frames: u64,
    pub(crate) datagrams: u64,
    pub(crate) matched: u64,
    pub(crate) input_drops: Vec<(InputDrop, u64)>,
    pub(crate) rules: std::collections::BTreeMap<u32, (u64, u64, u64)>,
    /// Datagrams and bytes by rule and source.
    pub(crate) flows: std::collections::BTreeMap<(u32, SocketAddr), (u64, u64)>,
    pub(crate) overflow: std::collections::BTreeMap<u32, u64>,
    /// Those told last, by rule.
    pub(crate) times: std::collections::BTreeMap<u32, Times>,
    pub(crate) copies: std::collections::BTreeMap<u32, (u64, u64)>,
    pub(crate) output_drops: Vec<(u32, OutputDrop, u64)>,
    pub(crate) errnos: Vec<i32>,
}

impl Totals {
    pub(crate) fn note(&mut self, delta: Delta) {
        match delta {
            Delta::Input { frames, datagrams, matched, drops, .. } => {
                self.frames += frames;
                self.datagrams += datagrams;
                self.matched += matched;
                self.input_drops.extend(drops.iter().filter(|(_, count)| *count > 0));
            }
            Delta::Flow { slot, source, datagrams, bytes, first_seen_ns, last_seen_ns } => {
                assert!(first_seen_ns > 0 && first_seen_ns <= last_seen_ns, "{first_seen_ns} {last_seen_ns}");
                let flow = self.flows.entry((slot.0, source)).or_default();
                *flow = (flow.0 + datagrams, flow.1 + bytes);
            }
            Delta::Rule {
                slot,
                datagrams,
                bytes,
                flows,
                flow_overflow,
                first_seen_ns,
                last_seen_ns,
                times,
            } => {
                self.times.insert(slot.0, times);
                *self.overflow.entry(slot.0).or_default() += flow_overflow;
                assert!(first_seen_ns > 0 && first_seen_ns <= last_seen_ns, "{first_seen_ns} {last_seen_ns}");
                let rule = self.rules.entry(slot.0).or_default();
                *rule = (rule.0 + datagrams, rule.1 + bytes, rule.2 + flows);
            }
            Delta::Output { slot, copies, bytes, drops, errno } => {
                let output = self.copies.entry(slot.0).or_default();
                *output = (output.0 + copies, output.1 + bytes);
                let drops = drops.iter().filter(|(_, count)| *count > 0);
                self.output_drops.extend(drops.map(|(reason, count)| (slot.0, *reason, *count)));
                self.errnos.extend(errno.map(|(errno, _)| errno));
            }
        }
    }

    /// Datagrams received = matched + drops; what was not matched has gone on.
    pub(crate) fn check_law(&self) {
        let dropped: u64 = self.input_drops.iter().map(|(_, count)| count).sum();
        assert_eq!(self.datagrams, self.matched + dropped, "{self:?}");
    }
}

impl Rig {
    pub(crate) fn new(outputs: u8) -> Self {
        let line = Line::with_outputs(outputs).expect("a line");
        let mut path = KernelPath::load().expect("the program loads");
        let input = line.relay.link_index("in0").expect("in0");
        line.relay.enter(|| path.attach(input)).expect("attached");
        let inject = Injector(open(&line.source, "src0", &[]));
        let taps =
            line.sinks.iter().enumerate().map(|(index, sink)| open(sink, &format!("dst{index}"), &[END_V4]));
        let mut rig = Self { taps: taps.collect(), line, path, input, inject, totals: Totals::default() };
        let ends = (0..outputs).map(|index| rig.output(index, 200_000 + u32::from(index), END_V4));
        let ends = ends.collect();
        rig.rule(END.0, END_V4, ends);
        rig
    }

    /// Has the taps see these destinations, too.
    pub(crate) fn watch(&mut self, destinations: &[&str]) {
        let wanted = [destinations, &[END_V4]].concat();
        let sinks = self.line.sinks.iter().enumerate();
        self.taps = sinks.map(|(index, sink)| open(sink, &format!("dst{index}"), &wanted)).collect();
    }

    /// An output by sink `index`, with the keys' defaults but for a fixed source.
    pub(crate) fn output(&self, index: u8, slot: u32, destination: &str) -> Output {
        let destination: SocketAddr = destination.parse().expect("an address");
        let source: &str = if destination.is_ipv6() { "[fd00:99::1]:4444" } else { "10.99.0.1:4444" };
        let to = match destination.ip() {
            group if group.is_multicast() => mac_of(group),
            _ => self.sink_mac(index),
        };
        Output {
            slot: OutputSlot(slot),
            destination,
            source: Some(source.parse().expect("an address")),
            ttl: Ttl::Fixed(64),
            dscp: Dscp::Keep,
            way: self.way(index, to),
        }
    }

    pub(crate) fn way(&self, index: u8, to: [u8; 6]) -> Way {
        let link = self.line.relay.link(&format!("out{index}")).expect("a link");
        Way::Device { ifindex: link.index, mtu: link.mtu, to, from: link.mac.expect("a MAC") }
    }

    pub(crate) fn sink_mac(&self, index: u8) -> [u8; 6] {
        let link = self.line.sinks[usize::from(index)].link(&format!("dst{index}"));
        link.expect("a link").mac.expect("a MAC")
    }

    pub(crate) fn rule(&mut self, slot: u32, destination: &str, outputs: Vec<Output>) {
        let rule = self.rule_of(destination, outputs);
        self.path.set_rule(RuleSlot(slot), rule).expect("the rule is taken");
    }

    /// Rule 1, the only one, with so many outputs to one destination at sink 0, which is watched; gives its input and that destination.
    pub(crate) fn one_rule(&mut self, ipv6: bool, outputs: u32) -> [&'static str; 2] {
        let [input, to] = if ipv6 { [IN6, OUT6] } else { [IN, OUT] };
        self.watch(&[to]);
        let outputs = (1..=outputs).map(|slot| self.output(0, slot, to)).collect();
        self.rule(1, input, outputs);
        [input, to]
    }

    pub(crate) fn rule_of(&self, destination: &str, outputs: Vec<Output>) -> Rule {
        let destination = destination.parse().expect("an address");
        Rule { ifindex: self.input, destination, source: None, local: false, span: Span::ALWAYS, outputs }
    }

    /// Puts in a frame with a checksum of its own.
    pub(crate) fn send(&mut self, frame: &[u8]) {
        self.send_with(&[0; VNET_HEADER_BYTES], frame);
    }

    pub(crate) fn send_with(&mut self, vnet: &[u8], frame: &[u8]) {
        self.inject.send_with(vnet, frame);
    }

    /// A second hand that puts frames in.
    pub(crate) fn injector(&self) -> Injector {
        Injector(open(&self.line.source, "src0", &[]))
    }

    /// What came out of each sink since the last time, in order, up to the mark that is put in now.
    pub(crate) fn seen(&mut self) -> Vec<Vec<Seen>> {
        self.send(&crate::frames::v4("10.1.0.1:9", END_V4, 64, 0, b"end"));
        let taps = &mut self.taps;
        taps.iter_mut().map(until_end).collect()
    }

    /// Only sink 0.
    pub(crate) fn seen_at_first(&mut self) -> Vec<Seen> {
        self.seen().swap_remove(0)
    }

    /// Counts of everything since the beginning, without the marks.
    pub(crate) fn totals(&mut self) -> &Totals {
        let Self { path, totals, .. } = self;
        path.settle();
        path.collect(|delta| totals.note(delta));
        let ends = totals.rules.remove(&END.0).map_or(0, |(datagrams, ..)| datagrams);
        totals.copies.retain(|slot, _| *slot < 200_000);
        totals.frames -= ends;
        totals.datagrams -= ends;
        totals.matched -= ends;
        totals.check_law();
        totals
    }
}

/// Puts frames in.
pub(crate) struct Injector(File);

impl Injector {
    /// One with a checksum of its own.
    pub(crate) fn send(&mut self, frame: &[u8]) {
        self.send_with(&[0; VNET_HEADER_BYTES], frame);
    }

    /// About a hundred in a millisecond: no more at once than a busy core's backlog holds (1,000 frames), and long enough for whoever
    /// changes something meanwhile.
    pub(crate) fn send_steadily(&mut self, frames: impl Iterator<Item = Vec<u8>>) {
        for (number, frame) in frames.enumerate() {
            self.send(&frame);
            if number % 100 == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }

    pub(crate) fn send_with(&mut self, vnet: &[u8], frame: &[u8]) {
        let whole = [vnet, frame].concat();
        let written = self.0.write(&whole).expect("the frame is taken");
        assert_eq!(written, whole.len());
    }
}

/// A packet socket with virtio-net headers that sees UDP to these destinations.
fn open(net: &Namespace, ifname: &str, destinations: &[&str]) -> File {
    let wanted: Vec<_> = destinations.iter().map(|text| wanted(text)).collect();
    let filter = Filter::compile(&wanted, FilterLink::Ethernet);
    let ifindex = net.link_index(ifname).expect("a link");
    let options = PacketOptions {
        ifindex,
        vnet_hdr: true,
        receive_buffer_bytes: 64 << 20,
        ring: None,
        filter: &filter,
    };
    net.enter(|| packet::open(&options)).expect("a packet socket").into()
}

fn wanted(text: &str) -> Wanted {
    let address: SocketAddr = text.parse().expect("an address");
    Wanted { destination: address.ip(), port: address.port(), source: None }
}

fn until_end(tap: &mut File) -> Vec<Seen> {
    let mut seen = Vec::new();
    let mut buffer = vec![0; 70_000];
    let mut ended = false;
    wait_until(DEADLINE, "the mark has come", || {
        while let Ok(bytes) = tap.read(&mut buffer) {
            let (vnet, frame) = buffer[..bytes].split_at(VNET_HEADER_BYTES);
            if frame.ends_with(b"end") {
                ended = true;
                break;
            }
            seen.push(Seen { vnet: vnet.to_vec(), frame: frame.to_vec() });
        }
        ended
    })
    .expect("the mark");
    seen
}

/// RFC 1112, section 6.4, and RFC 2464, section 7.
pub(crate) fn mac_of(group: IpAddr) -> [u8; 6] {
    match group {
        IpAddr::V4(v4) => {
            let [_, b, c, d] = v4.octets();
            [0x01, 0x00, 0x5e, b & 0x7f, c, d]
        }
        IpAddr::V6(v6) => {
            let octets = v6.octets();
            [0x33, 0x33, octets[12], octets[13], octets[14], octets[15]]
        }
    }
}
