//! The same frames, valid and not, through a relay on the kernel path and one on the packet path, with the same rules: the same frames
//! come out and the same is counted. What may differ is in [`comparable`].
#![allow(clippy::unwrap_used)] // A test has no better answer to an error than to fail.

use std::{collections::BTreeMap, env, fmt::Write as _};

use mcr_e2e::{
    Bed, Cell, Macs, Wire, law,
    random::{self, Places, Random, Stimulus},
    traffic_lock,
};
use mcr_proto::rpc::Stats;

const OUTPUTS: u8 = 2;
/// Frames of a run of the suite; `MCR_FRAMES` asks for more, `MCR_SEED` for others.
const FRAMES: usize = 2_000;
const SEED: u64 = 1;
/// Frames sent at once: no queue is ever full.
const BATCH: usize = 100;

/// Rules of either family, of any source and of one, to groups and hosts, two on one input.
const RULES: &[(&str, &str, &[&str])] = &[
    (
        "fan",
        "239.1.1.1:5000@in0",
        &[
            "239.2.2.2:6000@out0",
            "239.2.2.3:6001@out1,ttl=keep,dscp=af41",
            "10.2.0.2:7000",
            "10.3.0.2:7001,ttl=9,dscp=0",
        ],
    ),
    ("same", "239.1.1.1:5000@in0", &["239.9.9.9:9000@out1,source=10.3.0.1:4444"]),
    ("keep", "239.1.1.2:5001@in0", &["239.2.2.4:6002@out0,ttl=keep,source=keep"]),
    ("ssm", "10.1.0.9>232.1.1.1:5000@in0", &["239.2.2.5:6003@out1,source=10.3.0.1:4444"]),
    ("any", "232.1.1.1:5000@in0", &["239.2.2.6:6004@out0,source=keep"]),
    ("host", "10.1.0.2:5002@in0", &["239.2.2.7:6005@out0,dscp=ef"]),
    (
        "fan6",
        "[ff15::1]:5000@in0",
        &["[ff15::2]:6000@out0", "[fd00:3::2]:7000", "[ff15::5]:6001@out1,ttl=keep,dscp=8"],
    ),
    ("keep6", "[ff15::3]:5000@in0", &["[ff15::4]:6002@out0,ttl=keep,source=keep"]),
    ("host6", "[fd00:1::2]:5002@in0", &["[ff15::6]:6003@out1,source=[fd00:3::1]:4444"]),
];

const FROM: &[&str] = &[
    "10.1.0.1:4000",
    "10.1.0.9:4001",
    "192.0.2.7:65535",
    "[fd00:1::1]:4000",
    "[fd00:1::9]:1",
    "[2001:db8::7]:4002",
];

const TO: &[&str] = &[
    "239.1.1.1:5000",
    "239.1.1.2:5001",
    "232.1.1.1:5000",
    "10.1.0.2:5002",
    "239.1.1.1:5000",
    "239.1.1.9:5000",
    "[ff15::1]:5000",
    "[ff15::3]:5000",
    "[fd00:1::2]:5002",
    "[ff15::1]:5000",
    "[ff15::9]:5000",
];

/// Ports at outputs whose copies keep or are given a source port; others get one of the relay's choice.
const FIXED_SOURCE: &[u16] = &[9000, 6002, 6003, 6004];

/// A relay of one path, what goes in, and what comes out.
struct Side {
    bed: Bed,
    wire: Wire,
    captures: Vec<Wire>,
    before: BTreeMap<String, u64>,
}

/// What became of some frames.
#[derive(PartialEq)]
struct Outcome {
    /// Which of them the kernel refused to send.
    refused: Vec<usize>,
    /// What left each output, as far as it must not differ, in no order.
    frames: Vec<Vec<Vec<u8>>>,
    /// What was counted.
    counts: BTreeMap<String, u64>,
}

impl Side {
    fn new(cell: Cell) -> Self {
        let mut bed = Bed::new(cell, OUTPUTS);
        // Both sides have the same hardware addresses, so that the same bytes are sent and expected.
        for index in 0..OUTPUTS {
            let (near, far) = (format!("out{index}"), format!("dst{index}"));
            // As a device without offloads sends: every datagram as a frame of its own, every checksum complete.
            for feature in ["tx-udp-segmentation", "tx-checksum-ip-generic"] {
                bed.line.relay.set_offload(&near, feature, false).unwrap();
            }
            bed.line.relay.set_mac(&near, [2, 0, 0, 0, 1, index]).unwrap();
            bed.line.sinks[usize::from(index)].set_mac(&far, [2, 0, 0, 0, 2, index]).unwrap();
        }
        bed.line.source.set_mac("src0", [2, 0, 0, 0, 0, 1]).unwrap();
        bed.line.relay.set_mac("in0", [2, 0, 0, 0, 0, 2]).unwrap();
        bed.line.pin_neighbours().unwrap();
        for (name, input, outputs) in RULES {
            bed.add(name, input, outputs);
        }
        let wire = Wire::open(&bed.line.source, "src0", &[]);
        let captures = (0..OUTPUTS).zip(&bed.line.sinks);
        let captures =
            captures.map(|(index, sink)| Wire::open_for_everything(sink, &format!("dst{index}"))).collect();
        let before = counts(&bed.at_rest());
        Self { bed, wire, captures, before }
    }

    fn run(&mut self, stimuli: &[Stimulus]) -> Outcome {
        let sent = stimuli.iter().map(|stimulus| self.wire.try_send(stimulus.vnet_header, &stimulus.bytes));
        let refused = sent.enumerate().filter(|(_, sent)| sent.is_err()).map(|(index, _)| index).collect();
        let after = counts(&self.bed.at_rest());
        let frames = self.captures.iter().map(|capture| {
            let captured = capture.captured();
            let mut frames: Vec<_> = captured.iter().filter_map(|frame| comparable(&frame.bytes)).collect();
            frames.sort();
            frames
        });
        let frames = frames.collect();
        let before = std::mem::replace(&mut self.before, after);
        let change = |(name, now): (&String, &u64)| {
            let change = now - before.get(name).copied().unwrap_or(0);
            (change > 0).then(|| (name.clone(), change))
        };
        Outcome { refused, frames, counts: self.before.iter().filter_map(change).collect() }
    }
}

/// A frame of UDP without what may differ: the IP identification, the flags beside it and a flow label, which stay as they came on the
/// kernel path; a source port that the rule leaves to the relay; the value of a right checksum, and that there is one where IPv4 came
/// without. None for what is no relayed datagram (ARP, neighbour discovery, membership reports).
fn comparable(frame: &[u8]) -> Option<Vec<u8>> {
    let mut frame = frame.to_vec();
    let (udp, addresses, length_at) = match frame.get(12..14)? {
        [0x08, 0x00] if *frame.get(23)? != 2 => {
            let right = frame.get(14) == Some(&0x45) && sum(&frame[14..34]) == 0xffff;
            frame[18..20].fill(0);
            frame[20] &= !0xc0;
            frame[24..26].copy_from_slice(if right { b"ok" } else { b"!!" });
            (34, 26..34, 16)
        }
        [0x86, 0xdd] if ![0, 58].contains(frame.get(20)?) => {
            frame[15] &= 0xf0;
            frame[16..18].fill(0);
            (54, 22..54, 18)
        }
        _ => return None,
    };
    let udp_bytes = usize::from(u16::from_be_bytes([frame[udp + 4], frame[udp + 5]]));
    let ip_bytes = usize::from(u16::from_be_bytes([frame[length_at], frame[length_at + 1]]));
    let headers = if udp == 34 { 20 } else { 0 };
    if ip_bytes.checked_sub(headers) != Some(udp_bytes) || frame.len() < udp + udp_bytes {
        // Never equal to one of the other side: it is shown with its length.
        return Some([b"wrong length ", &frame[..]].concat());
    }
    let pseudo =
        [&frame[addresses], &[0, 17], &frame[udp + 4..udp + 6], &frame[udp..udp + udp_bytes]].concat();
    let right = sum(&pseudo) == 0xffff;
    let absent = frame[udp + 6..udp + 8] == [0, 0] && udp == 34;
    // A wrong one is shown, and equal to no right one.
    frame[udp + 6..udp + 8].copy_from_slice(if right || absent { b"ok" } else { b"!!" });
    if !FIXED_SOURCE.contains(&u16::from_be_bytes([frame[udp + 2], frame[udp + 3]])) {
        frame[udp..udp + 2].fill(0);
    }
    Some(frame)
}

/// The folded sum of 16-bit words (RFC 1071).
fn sum(bytes: &[u8]) -> u16 {
    let word = |word: &[u8]| u64::from(word[0]) << 8 | word.get(1).map_or(0, |low| u64::from(*low));
    let sum: u64 = bytes.chunks(2).map(word).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// Every counter of input, rules and outputs, by name.
fn counts(stats: &Stats) -> BTreeMap<String, u64> {
    let input = law::input(stats, "in0");
    let mut counts: BTreeMap<_, _> =
        input.drops.into_iter().map(|(reason, count)| (format!("in0 {reason}"), count)).collect();
    let bytes: u64 = stats.inputs.iter().map(|input| input.bytes).sum();
    for (name, count) in [
        ("frames", input.frames),
        ("datagrams", input.datagrams),
        ("bytes", bytes),
        ("matched", input.matched),
    ] {
        counts.insert(format!("in0 {name}"), count);
    }
    for rule in &stats.rules {
        for (name, count) in [("datagrams", rule.datagrams), ("bytes", rule.bytes), ("flows", rule.flows)] {
            counts.insert(format!("{} {name}", rule.name), count);
        }
        for output in &rule.outputs {
            let name = format!("{} {}", rule.name, output.output);
            counts.insert(format!("{name} copies"), output.copies);
            counts.insert(format!("{name} bytes"), output.bytes);
            counts.extend(
                law::drops(output).into_iter().map(|(reason, count)| (format!("{name} {reason}"), count)),
            );
        }
    }
    counts
}

/// Whether a frame's IPv6 header, be it behind tags, is followed by anything but UDP.
fn is_extended(stimulus: &Stimulus) -> bool {
    let mut kind = 12;
    while matches!(stimulus.bytes.get(kind..kind + 2), Some([0x81, 0x00] | [0x88, 0xa8])) {
        kind += 4;
    }
    let next = stimulus.bytes.get(kind + 8);
    stimulus.bytes.get(kind..kind + 2) == Some(&[0x86, 0xdd]) && next.is_some_and(|next| *next != 17)
}

/// Behind IPv6 extension headers the packet path's filter sees no port, so the worker gets such datagrams to any port of an address, and
/// counts why it does not relay them. The program looks, and leaves them alone.
fn is_only_looked_at(stimulus: &Stimulus, kernel: &Outcome, packet: &Outcome) -> bool {
    let [nothing, dropped] = [kernel, packet].map(|side| side.frames.iter().all(Vec::is_empty));
    let drops = packet.counts.keys().all(|name| name.starts_with("in0 ") && name != "in0 matched");
    is_extended(stimulus) && nothing && dropped && kernel.counts.is_empty() && drops
}

/// In which way two outcomes differ, for a person.
fn difference(kernel: &Outcome, packet: &Outcome) -> String {
    let mut text = format!("refused: {:?} {:?}\n", kernel.refused, packet.refused);
    let names: std::collections::BTreeSet<_> = kernel.counts.keys().chain(packet.counts.keys()).collect();
    for name in names {
        let [of_kernel, of_packet] = [kernel, packet].map(|side| side.counts.get(name).copied().unwrap_or(0));
        if of_kernel != of_packet {
            writeln!(text, "{name}: kernel {of_kernel}, packet {of_packet}").unwrap();
        }
    }
    for (index, (of_kernel, of_packet)) in kernel.frames.iter().zip(&packet.frames).enumerate() {
        let only = |these: &[Vec<u8>], others: &[Vec<u8>], side: &str, text: &mut String| {
            for frame in these.iter().filter(|frame| !others.contains(frame)).take(3) {
                let head = &frame[..frame.len().min(80)];
                writeln!(text, "out{index}, {side} only, {} bytes: {head:02x?}", frame.len()).unwrap();
            }
        };
        only(of_kernel, of_packet, "kernel", &mut text);
        only(of_packet, of_kernel, "packet", &mut text);
    }
    text
}

/// Sends frames through both, and what makes a difference again by halves until each frame that does is found. A flow that is known is
/// none the second time. Whether there was one, tolerated or not.
fn find_differences(sides: [&mut Side; 2], frames: &[Stimulus], differences: &mut Vec<String>) -> bool {
    let [kernel, packet] = sides;
    let (of_kernel, of_packet) = (kernel.run(frames), packet.run(frames));
    if of_kernel == of_packet {
        return false;
    }
    if let [stimulus @ Stimulus { what, vnet_header, bytes }] = frames {
        if !is_only_looked_at(stimulus, &of_kernel, &of_packet) {
            let head = &bytes[..bytes.len().min(120)];
            let difference = difference(&of_kernel, &of_packet);
            differences.push(format!("{what}\n{vnet_header:02x?} {head:02x?}\n{difference}"));
        }
        return true;
    }
    let (first, second) = frames.split_at(frames.len() / 2);
    let found = [first, second].map(|half| find_differences([&mut *kernel, &mut *packet], half, differences));
    if found == [false; 2] {
        let difference = difference(&of_kernel, &of_packet);
        differences
            .push(format!("{} frames differ and neither half of them does\n{difference}", frames.len()));
    }
    true
}

/// A number from the environment.
fn number(name: &str) -> Option<u64> {
    env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

#[test]
fn the_same_frames_come_out_of_the_kernel_path_and_the_packet_path() {
    let Some(()) = mcr_lab::require::netns() else { return };
    let _lock = traffic_lock::take();
    let seed = number("MCR_SEED").unwrap_or(SEED);
    let frames = number("MCR_FRAMES").map_or(FRAMES, |frames| frames as usize);
    let [mut kernel, mut packet] = [Cell::KERNEL, Cell::PACKET_URING].map(Side::new);
    let macs = Macs { from: [2, 0, 0, 0, 0, 1], to: [2, 0, 0, 0, 0, 2] };
    let places = Places { macs, from: FROM, to: TO };
    let mut random = Random::new(seed);
    let stimuli: Vec<_> = (0..frames).map(|_| random::frame(&mut random, &places)).collect();
    // Of these many make a difference that is tolerated, and to be found in a batch they would have to be sent again and again.
    let (extended, others): (Vec<_>, Vec<_>) = stimuli.into_iter().partition(is_extended);
    let mut differences = Vec::new();
    for batch in others.chunks(BATCH).chain(extended.chunks(1)) {
        find_differences([&mut kernel, &mut packet], batch, &mut differences);
        if differences.len() > 10 {
            break;
        }
    }
    assert!(differences.is_empty(), "seed {seed}: {} frames:\n{}", differences.len(), differences.join("\n"));
    // Not all was refused on both sides.
    let relayed = law::rule(&kernel.bed.at_rest(), "fan").datagrams;
    assert!(relayed as usize > frames / 50, "{relayed}");
    kernel.bed.finish();
    packet.bed.finish();
}
