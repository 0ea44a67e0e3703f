//! Single datagrams as the program shows them.

use mcr_ebpf::{TraceCounts, TraceWhat, TracedCopy, TracedDatagram, Way};
use mcr_lab::require;
use mcr_proto::{
    counters::{InputDrop, OutputDrop},
    endpoint::Ttl,
    message::Sampling,
    plan::{OutputSlot, RuleSlot},
};
use mcr_socket::packet::VNET_HEADER_BYTES;

use crate::{
    frames::{SOURCE_MAC, read, v4},
    rig::{IN, OUT, Rig, Seen, mac_of},
};

const ALL: Sampling = Sampling { one_in: 1, count: None, snap_bytes: 1920 };
const RULE: TraceWhat = TraceWhat::Rule(RuleSlot(1));

/// What was shown of a datagram.
#[derive(Debug)]
struct Shown {
    traces: u8,
    bytes: u32,
    place: (u16, u16),
    drop: Option<InputDrop>,
    frame_bytes: usize,
    frame: Vec<u8>,
    copies: Vec<TracedCopy>,
}

fn shown(rig: &mut Rig) -> Vec<Shown> {
    let mut all = Vec::new();
    let mut note = |datagram: &TracedDatagram<'_>| {
        let TracedDatagram { traces, bytes, index, datagrams, drop, frame_bytes, frame, .. } = *datagram;
        let copies = datagram.copies().collect();
        let (frame, frame_bytes) = (frame.to_vec(), frame_bytes as usize);
        all.push(Shown { traces, bytes, place: (index, datagrams), drop, frame_bytes, frame, copies });
    };
    while !rig.path.read_traces(100, &mut note) {}
    all
}

fn begin(rig: &mut Rig, place: u8, what: TraceWhat, sampling: Sampling) {
    rig.path.begin_trace(place, &[what], sampling, TraceCounts::default()).expect("it begins");
}

#[test]
fn a_frame_is_shown_as_it_came_with_what_became_of_each_copy() {
    let Some(()) = require::netns() else { return };
    let mut rig = Rig::new(1);
    rig.watch(&[OUT]);
    let mut outputs: Vec<_> = (1..=4).map(|slot| rig.output(0, slot, OUT)).collect();
    outputs[1].way = Way::Nowhere(OutputDrop::NoNeighbour);
    outputs[2].ttl = Ttl::Keep;
    if let Way::Device { mtu, .. } = &mut outputs[3].way {
        *mtu = 40;
    }
    rig.rule(1, IN, outputs);
    let [long, short] = [&[7; 300][..], b"short"].map(|payload| v4("10.1.0.1:4000", IN, 1, 0, payload));
    rig.send(&short);
    begin(&mut rig, 3, RULE, ALL);
    rig.send(&long);
    rig.send(&short);
    rig.seen();
    let all = shown(&mut rig);
    assert_eq!(all.len(), 2, "{all:?}");
    for (shown, frame) in all.iter().zip([&long, &short]) {
        assert_eq!((shown.traces, shown.place, shown.drop), (1 << 3, (0, 1), None));
        assert_eq!((shown.bytes as usize, shown.frame_bytes), (frame.len() - 42, frame.len()));
        assert_eq!(shown.frame, *frame);
        let outcomes: Vec<_> =
            shown.copies.iter().map(|copy| (copy.output.0, copy.drop, copy.errno)).collect();
        let too_big = (frame.len() > 54).then_some(OutputDrop::TooBig);
        let kept = Some(OutputDrop::HopLimit);
        let want = [(1, None, 0), (2, Some(OutputDrop::NoNeighbour), 0), (3, kept, 0), (4, too_big, 0)];
        assert_eq!(outcomes, want);
        assert!(shown.copies.iter().all(|copy| copy.traces == 1 << 3));
    }
    rig.path.end_traces(1 << 3);
    rig.send(&long);
    rig.seen();
    assert!(shown(&mut rig).is_empty(), "it has ended");
    assert_eq!(rig.path.trace_counts(3), None);
    assert_eq!(rig.totals().matched, 4);
}

#[test]
fn samples_and_counts_of_several_traces_are_exact() {
    let Some(()) = require::netns() else { return };
    let mut rig = Rig::new(1);
    let [input, to] = rig.one_rule(false, 1);
    let other = rig.output(0, 7, to);
    rig.rule(2, input, vec![other]);
    begin(&mut rig, 0, RULE, Sampling { one_in: 10, snap_bytes: 20, ..ALL });
    begin(&mut rig, 1, RULE, Sampling { count: Some(5), ..ALL });
    begin(&mut rig, 2, TraceWhat::Rule(RuleSlot(2)), Sampling { one_in: 50, ..ALL });
    for number in 0..95_u32 {
        rig.send(&v4("10.1.0.1:4000", input, 9, 0, &number.to_be_bytes()));
    }
    rig.seen();
    let all = shown(&mut rig);
    let numbers = |place: u8| -> Vec<u32> {
        let of = all.iter().filter(|shown| shown.traces >> place & 1 != 0);
        // The other's copies are not shown to it.
        of.inspect(|shown| {
            assert_eq!(shown.copies.iter().filter(|copy| copy.traces >> place & 1 != 0).count(), 1)
        })
        .map(|shown| {
            shown.frame.get(42..46).map_or(u32::MAX, |four| u32::from_be_bytes(four.try_into().unwrap()))
        })
        .collect()
    };
    assert_eq!(numbers(0).len(), 10);
    assert_eq!(numbers(1), (0..5).collect::<Vec<_>>());
    assert_eq!(numbers(2), [0, 50]);
    let alone = all.iter().filter(|shown| shown.traces == 1);
    assert!(alone.clone().count() > 0 && alone.clone().all(|shown| shown.frame.len() == 20));
    let counts = |seen, recorded| Some(TraceCounts { seen, recorded, missed: 0 });
    assert_eq!(
        [0, 1, 2].map(|place| rig.path.trace_counts(place)),
        [counts(95, 10), counts(5, 5), counts(95, 2)]
    );
}

#[test]
fn datagrams_of_a_superframe_are_cut_out_as_a_device_would() {
    let Some(()) = require::netns() else { return };
    for ipv6 in [false, true] {
        let mut rig = Rig::new(1);
        let [input, _] = rig.one_rule(ipv6, 1);
        begin(&mut rig, 0, RULE, ALL);
        let payload: Vec<u8> = (0..3 * 1001 + 7).map(|index| (index % 251) as u8).collect();
        let destination: std::net::SocketAddr = input.parse().unwrap();
        let frame = crate::frames::build(&crate::frames::Fields {
            macs: [mac_of(destination.ip()), SOURCE_MAC],
            source: if ipv6 { "[fd00:1::1]:4000" } else { "10.1.0.1:4000" }.parse().unwrap(),
            destination,
            hop_limit: 9,
            traffic_class: 0,
            payload: payload.clone(),
        });
        let header_bytes = frame.len() - payload.len();
        // `virtio_net_hdr`: checksum to be completed, UDP_L4 (5), of 1,001 bytes each.
        let mut vnet = vec![1, 5];
        for word in [header_bytes, 1001, header_bytes - 8, 6] {
            vnet.extend((word as u16).to_le_bytes());
        }
        assert_eq!(vnet.len(), VNET_HEADER_BYTES);
        let mut partial = frame.clone();
        let sum = crate::frames::pseudo_sum(
            if ipv6 { "[fd00:1::1]:4000" } else { "10.1.0.1:4000" }.parse().unwrap(),
            destination,
            (payload.len() + 8) as u16,
        );
        partial[header_bytes - 2..header_bytes].copy_from_slice(&sum.to_be_bytes());
        rig.send_with(&vnet, &partial);
        rig.seen();
        let all = shown(&mut rig);
        assert_eq!(all.len(), 4);
        for (index, (shown, part)) in all.iter().zip(payload.chunks(1001)).enumerate() {
            assert_eq!((shown.place, shown.bytes as usize), ((index as u16, 4), part.len()));
            assert_eq!(shown.frame_bytes, shown.frame.len());
            // Lengths and checksums are verified in reading.
            let fields = read(&Seen { vnet: vec![0; VNET_HEADER_BYTES], frame: shown.frame.clone() });
            assert_eq!((&fields.payload[..], fields.destination), (part, destination));
            if !ipv6 {
                assert_eq!(u16::from_be_bytes([shown.frame[18], shown.frame[19]]), 0x1234 + index as u16);
            }
            assert_eq!(shown.copies.len(), 1);
        }
    }
}

#[test]
fn what_is_dropped_at_the_input_is_shown_to_its_rule_and_to_those_who_ask_for_drops() {
    let Some(()) = require::netns() else { return };
    let mut rig = Rig::new(1);
    let [input, _] = rig.one_rule(false, 1);
    let good = v4("10.1.0.1:4000", input, 9, 0, b"good");
    let mut bad = good.clone();
    bad[45] ^= 1;
    let mut fragment = good.clone();
    fragment[20] = 0x20;
    fragment[24] -= 0x20;
    begin(&mut rig, 0, RULE, ALL);
    let input = rig.input;
    begin(&mut rig, 1, TraceWhat::Drops(input), Sampling { snap_bytes: 60, ..ALL });
    for frame in [&bad, &good, &fragment] {
        rig.send(frame);
    }
    rig.seen();
    let all = shown(&mut rig);
    let reasons: Vec<_> = all.iter().map(|shown| (shown.traces, shown.drop, shown.frame.clone())).collect();
    let want = [
        (0b11, Some(InputDrop::Checksum), bad),
        (0b01, None, good),
        (0b10, Some(InputDrop::Fragment), fragment),
    ];
    assert_eq!(reasons, want);
}

#[test]
fn a_full_ring_misses_datagrams_and_counts_them_and_relaying_goes_on() {
    let Some(()) = require::netns() else { return };
    let mut rig = Rig::new(1);
    let [input, _] = rig.one_rule(false, 1);
    begin(&mut rig, 0, RULE, ALL);
    let frame = v4("10.1.0.1:4000", input, 9, 0, &[1; 1400]);
    let mut other = rig.injector();
    other.send_steadily((0..1500).map(|_| frame.clone()));
    assert_eq!(rig.seen_at_first().len(), 1500);
    let counts = rig.path.trace_counts(0).unwrap();
    let recorded = shown(&mut rig).len() as u64;
    assert_eq!((counts.seen, counts.recorded, counts.recorded + counts.missed), (1500, recorded, 1500));
    // A mebibyte of about 1,540 bytes each.
    assert!((600..700).contains(&recorded), "{recorded}");
    rig.send(&frame);
    rig.seen();
    assert_eq!(shown(&mut rig).len(), 1, "there is room again");
}

#[test]
fn a_trace_of_a_rule_that_comes_later_or_grows_the_maps_goes_on() {
    let Some(()) = require::netns() else { return };
    let mut rig = Rig::new(1);
    begin(&mut rig, 0, RULE, Sampling { one_in: 3, ..ALL });
    let [input, to] = rig.one_rule(false, 1);
    let send = |rig: &mut Rig, count: usize| {
        (0..count).for_each(|_| rig.send(&v4("10.1.0.1:4000", input, 9, 0, b"x")));
        rig.seen();
    };
    send(&mut rig, 4);
    // More outputs than a new path has room for.
    let many: Vec<_> = (1000..2030).map(|slot| rig.output(0, slot, to)).collect();
    rig.rule(2, "239.1.1.9:5000", many);
    send(&mut rig, 5);
    let all = shown(&mut rig);
    assert_eq!(all.len(), 3, "the first, the fourth and the seventh");
    assert!(all.iter().all(|shown| shown.copies.len() == 1 && shown.copies[0].output == OutputSlot(1)));
    assert_eq!(rig.path.trace_counts(0), Some(TraceCounts { seen: 9, recorded: 3, missed: 0 }));
}
