//! Rules whose outputs change while datagrams flow; and rules of one output to as many as there may be.
#![allow(clippy::unwrap_used)] // A test has no better answer to an error than to fail.

use std::{collections::BTreeMap, fs};

use mcr_e2e::{
    Bed, Wire,
    host_setting::{BACKLOG, HostSetting},
    in_every_cell, law, source,
};
use mcr_proto::{
    rpc::ConfigLoad,
    rule::{Datapath, OUTPUTS_MAX},
};

const INPUT: &str = "239.1.1.1:5000@in0";
const OUTPUT: &str = "239.2.2.2:6000@out0";
const RATE_PPS: u64 = 5_000;

/// Gives the rule these outputs on this path, in place of what it had.
fn load(bed: &mut Bed, datapath: &str, outputs: &[&str]) {
    let text = format!(
        "[[rule]]\nname = \"rule\"\ninput = \"{INPUT}\"\noutputs = {outputs:?}\ndatapath = \"{datapath}\"\n"
    );
    let load = ConfigLoad { text, file: None, replace: true };
    bed.client.config_load(&load).unwrap_or_else(|error| panic!("{error}"));
    bed.wait_active("rule");
}

in_every_cell! {
    fn outputs_change_under_traffic_and_the_one_that_stays_gets_every_datagram_once(cell) {
        let mut bed = Bed::new(cell, 2);
        let path = cell.datapath.to_string();
        load(&mut bed, &path, &[OUTPUT]);
        let others: Vec<_> = (0..40).map(|port| format!("239.3.3.3:{}@out1,ttl=9", 7000 + port)).collect();
        let mut changes = 0;
        let (sent, received) = bed.under_traffic(2 * RATE_PPS, RATE_PPS, |bed| {
            // The one that stays is first, last and in the middle.
            let count = [0, 1, 7, 40][changes % 4];
            let mut outputs: Vec<_> = others.iter().take(count).map(String::as_str).collect();
            outputs.insert([0, count, count / 2][changes % 3], OUTPUT);
            load(bed, &path, &outputs);
            changes += 1;
        });
        assert!(changes >= 10, "{changes} changes");
        assert_eq!(received.received, sent.sent, "{received:?}");
        assert_eq!((received.duplicates, received.reordered, received.corrupt, received.lost), (0, 0, 0, 0), "{received:?}");
        let stats = bed.finish();
        let input = law::input(&stats, "in0");
        assert_eq!((input.datagrams, input.matched), (sent.sent, sent.sent), "{input:?}");
    }

    fn one_ten_and_as_many_outputs_as_a_rule_takes_all_get_every_datagram(cell) {
        let mut bed = Bed::new(cell, 1);
        // The kernel path makes all copies of a datagram at once, and a virtual device keeps no more of them than this for the core.
        let _room = HostSetting::set(BACKLOG, 30_000);
        let waiting: usize = fs::read_to_string(BACKLOG).map_or(1000, |text| text.trim().parse().unwrap());
        let outputs_max = if cell.datapath == Datapath::Kernel { OUTPUTS_MAX.min(waiting) } else { OUTPUTS_MAX };
        let places: Vec<_> = (0..11 + outputs_max as u32).map(|n| format!("239.2.{}.{}:{}", n / 250, n % 250 + 1, 6000 + n)).collect();
        let groups = [("one", &places[..1], 50), ("ten", &places[1..11], 50), ("most", &places[11..], 5)];
        let wanted: Vec<_> = places.iter().map(String::as_str).collect();
        let captures: Vec<_> =
            wanted.chunks(60).map(|some| Wire::open(&bed.line.sinks[0], "dst0", some)).collect();
        for feature in ["tx-udp-segmentation", "tx-checksum-ip-generic"] {
            bed.line.relay.set_offload("out0", feature, false).unwrap();
        }
        let mut expected = BTreeMap::new();
        for (port, (name, places, count)) in (5000..).zip(groups) {
            let outputs: Vec<_> = places.iter().map(|place| format!("{place}@out0")).collect();
            let outputs: Vec<_> = outputs.iter().map(String::as_str).collect();
            bed.add(name, &format!("239.1.1.1:{port}@in0"), &outputs);
            let payloads = source::payloads(port, vec![300; count]);
            bed.source(&format!("239.1.1.1:{port}")).send(&payloads);
            bed.at_rest();
            expected.extend(places.iter().map(|place| (place.parse().unwrap(), payloads.clone())));
        }
        let stats = bed.at_rest();
        for (name, places, count) in groups {
            let rule = law::rule(&stats, name);
            let copies: Vec<_> = rule.outputs.iter().map(|output| output.copies).collect();
            assert_eq!((rule.datagrams, copies), (count as u64, vec![count as u64; places.len()]), "{name}");
        }
        let mut arrived: BTreeMap<std::net::SocketAddr, Vec<Vec<u8>>> = BTreeMap::new();
        for frame in captures.iter().flat_map(Wire::captured) {
            let parsed = frame.parse();
            arrived.entry(parsed.to).or_default().push(parsed.payload);
        }
        assert!(arrived == expected, "each output has what was sent, in order and to the byte");
        bed.finish();
    }
}
