//! Every kind of address in every place: families, groups by the thousand, sources that are wanted and those that are not, and
//! the relay's own addresses.
#![allow(clippy::unwrap_used)] // A test has no better answer to an error than to fail.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    io::ErrorKind,
    net::UdpSocket,
};

use mcr_e2e::{
    Bed, Cell, Daemon, Sink, Source, eventually, held::host_counter, in_every_cell, in_worker_cells, law,
    source,
};
use mcr_lab::{Line, Namespace};

/// Inputs of all kinds, and what to send to.
const INPUTS: [(&str, &str); 4] = [
    ("239.1.1.1:5000@in0", "239.1.1.1:5000"),
    ("10.1.0.2:5000@in0", "10.1.0.2:5000"),
    ("[ff15::1]:5000@in0", "[ff15::1]:5000"),
    ("[fd00:1::2]:5000@in0", "[fd00:1::2]:5000"),
];

/// Sources that a host receives of a group, as /proc/net/mcfilter and mcfilter6 show them: group, source, includes, excludes.
fn source_filters(namespace: &Namespace) -> BTreeSet<(String, String, String, String)> {
    namespace.enter(|| {
        let tables = ["mcfilter", "mcfilter6"];
        let tables = tables.map(|name| fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap());
        let lines = tables.iter().flat_map(|table| table.lines()).filter(|line| !line.starts_with("Idx"));
        let fields = lines.map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
        fields.map(|field| (field[2].clone(), field[3].clone(), field[4].clone(), field[5].clone())).collect()
    })
}

/// A daemon with a rule for each of `count` groups of both families, all to one output; each must get its datagrams.
fn many_groups(cell: Cell, count: usize) {
    let group = |index: usize| match index % 5 {
        4 => format!("[ff15::1:{index:x}]:5000"),
        _ => format!("239.1.{}.{}:5000", index / 250, index % 250 + 1),
    };
    // The `kernel` path does not translate between families.
    let outputs = ["239.2.2.2:6000", "[ff15::2:2]:6000"];
    let output = |index: usize| outputs[usize::from(index % 5 == 4)];
    let path = cell.datapath.to_string();
    let mut config = String::new();
    for index in 0..count {
        let (input, datapath) = (group(index), &path);
        writeln!(
            config,
            "[[rule]]\nname = \"group-{index}\"\ninput = \"{input}@in0\"\ndatapath = \"{datapath}\""
        )
        .unwrap();
        writeln!(config, "outputs = [\"{}@out0\"]", output(index)).unwrap();
    }
    let line = Line::with_outputs(1).unwrap();
    line.pin_neighbours().unwrap();
    let options = mcr_e2e::DaemonOptions { config: Some(config), ..cell.daemon(2) };
    let daemon = Daemon::start(&line.relay, &options);
    let mut client = daemon.client();
    let mut bed = Bed { client: daemon.client(), daemon, line, cell };
    bed.wait_applied();
    let rules = client.rules(None).unwrap();
    let active = rules.iter().filter(|rule| rule.datapath == Some(cell.datapath)).count();
    assert_eq!(active, count, "{:?}", rules.iter().find(|rule| rule.datapath != Some(cell.datapath)));

    let sinks = outputs.map(|to| bed.sink(0, &format!("{to}@dst0")));
    let mut payloads = source::payloads(1, std::iter::repeat_n(60, 2 * count));
    let sources = [bed.source("239.1.1.1:1"), bed.source("[ff15::1]:1")];
    for (index, pair) in payloads.chunks(2).enumerate() {
        let to = group(index);
        sources[usize::from(to.starts_with('['))].send_to(&to, pair);
    }
    let stats = bed.finish();
    // Groups may have sockets of their own, between which there is no order.
    let came = sinks.iter().flat_map(Sink::drain);
    let mut came: Vec<_> = came.map(|one| one.payload).collect();
    came.sort();
    payloads.sort();
    assert_eq!(came.len(), payloads.len());
    assert!(came == payloads, "the payloads differ");
    let relayed =
        stats.rules.iter().filter(|rule| (rule.datagrams, rule.outputs[0].copies) == (2, 2)).count();
    assert_eq!(relayed, count, "each rule took the two of its group");
    let input = law::input(&stats, "in0");
    assert_eq!((input.matched, input.datagrams), (2 * count as u64, 2 * count as u64));
}

in_every_cell! {
    fn only_wanted_sources_are_joined_and_relayed_in_both_families(cell) {
        let mut bed = Bed::new(cell, 1);
        for host in [8, 9] {
            bed.line.source.add_address("src0", [10, 1, 0, host].into(), 24).unwrap();
            bed.line.source.add_address("src0", [0xfd00, 1, 0, 0, 0, 0, 0, u16::from(host)].into(), 64).unwrap();
        }
        // A list of two sources of one group, in IPv4; one in IPv6.
        bed.add("a", "10.1.0.8>232.1.1.1:5000@in0", &["239.2.2.2:6000@out0"]);
        bed.add("b", "10.1.0.9>232.1.1.1:5000@in0", &["239.2.2.3:6000@out0"]);
        bed.add("c", "[fd00:1::9]>[ff3e::1]:5000@in0", &["[ff15::2]:6000@out0"]);
        let (group, group6) = ("0xe8010101", "ff3e0000000000000000000000000001");
        let included = |group: &str, source: &str| (group.to_owned(), source.to_owned(), "1".to_owned(), "0".to_owned());
        let c = included(group6, "fd000001000000000000000000000009");
        let all = BTreeSet::from([included(group, "0x0a010008"), included(group, "0x0a010009"), c.clone()]);
        assert_eq!(source_filters(&bed.line.relay), all);

        let sinks = [("239.2.2.2:6000@dst0", 8), ("239.2.2.3:6000@dst0", 9)].map(|(place, host)| (bed.sink(0, place), host));
        let sink6 = bed.sink(0, "[ff15::2]:6000@dst0");
        // Unwanted ones first, so that the arrival of the others shows that they would have come.
        let unwanted = source::payloads(9, [200; 30]);
        bed.source("232.1.1.1:5000").send(&unwanted);
        for from in ["[fd00:1::1]:0", "[fd00:1::8]:0"] {
            Source::open(&bed.line.source, from, "[ff3e::1]:5000").send(&unwanted);
        }
        for (sink, host) in &sinks {
            let payloads = source::payloads(*host, [300; 40]);
            Source::open(&bed.line.source, &format!("10.1.0.{host}:0"), "232.1.1.1:5000").send(&payloads);
            sink.expect(&payloads);
        }
        let payloads = source::payloads(1, [300; 40]);
        Source::open(&bed.line.source, "[fd00:1::9]:0", "[ff3e::1]:5000").send(&payloads);
        sink6.expect(&payloads);

        bed.remove("a");
        bed.remove("b");
        eventually("the sources are left", || source_filters(&bed.line.relay) == BTreeSet::from([c.clone()]));
        Source::open(&bed.line.source, "10.1.0.8:0", "232.1.1.1:5000").send(&unwanted);
        let stats = bed.finish();
        sinks.iter().map(|(sink, _)| sink).chain([&sink6]).for_each(Sink::expect_nothing_more);
        let input = law::input(&stats, "in0");
        assert_eq!((input.datagrams, input.matched, input.drops), (120, 120, BTreeMap::new()));
    }
}

in_every_cell! {
    fn twenty_five_groups_are_joined_and_relayed(cell) {
        many_groups(cell, 25);
    }

    fn twelve_hundred_groups_are_joined_and_relayed(cell) {
        many_groups(cell, 1_200);
    }
}

// The `kernel` path does not translate between IPv4 and IPv6.
in_worker_cells! {
    fn datagrams_pass_between_groups_and_hosts_of_both_families(cell) {
        let mut bed = Bed::new(cell, 4);
        let mut sinks = Vec::new();
        for (number, (input, _)) in (1..).zip(INPUTS) {
            let port = 6000 + number;
            let outputs = [
                format!("239.2.2.{number}:{port}@out0"),
                format!("10.3.0.2:{port}"),
                format!("[ff15::2:{number}]:{port}@out2"),
                format!("[fd00:5::2]:{port}"),
            ];
            bed.add(&format!("rule-{number}"), input, &outputs.each_ref().map(String::as_str));
            let listen = [format!("239.2.2.{number}:{port}@dst0"), outputs[1].clone(), format!("[ff15::2:{number}]:{port}@dst2"), outputs[3].clone()];
            sinks.push([0, 1, 2, 3].map(|index| bed.sink(index, &listen[index])));
        }
        for ((number, (_, to)), sinks) in (1..).zip(INPUTS).zip(&sinks) {
            let payloads = source::assorted(number, to.starts_with('['));
            bed.source(to).send(&payloads);
            for (sink, own) in sinks.iter().zip(["10.2.0.1", "10.3.0.1", "fd00:4::1", "fd00:5::1"]) {
                let from = sink.expect(&payloads)[0].from;
                assert_eq!(from.ip().to_string(), own, "source=interface, from an input {to}");
            }
        }
        let stats = bed.finish();
        sinks.iter().flatten().for_each(Sink::expect_nothing_more);
        assert_eq!(law::input(&stats, "in0").datagrams, 800);
        for rule in &stats.rules {
            assert!(rule.outputs.iter().all(|output| output.copies == 200), "{rule:?}");
        }
    }
}

in_every_cell! {
    fn senders_to_the_relay_itself_are_told_of_no_closed_port(cell) {
        let mut bed = Bed::new(cell, 1);
        bed.add("v4", "10.1.0.2:5000@in0", &["239.2.2.2:6000@out0"]);
        bed.add("v6", "[fd00:1::2]:5000@in0", &["[ff15::3]:6000@out0"]);
        let sinks = [bed.sink(0, "239.2.2.2:6000@dst0"), bed.sink(0, "[ff15::3]:6000@dst0")];
        let connect = |from: &str, to: &str| {
            let socket = bed.line.source.enter(|| UdpSocket::bind(from)).unwrap();
            socket.connect(to).unwrap();
            socket
        };
        let senders = [connect("10.1.0.1:0", "10.1.0.2:5000"), connect("[fd00:1::1]:0", "[fd00:1::2]:5000")];
        let payloads = source::payloads(1, [100; 50]);
        for (sender, sink) in senders.iter().zip(&sinks) {
            // An ICMP error would fail one of the sends.
            payloads.iter().for_each(|payload| assert_eq!(sender.send(payload).unwrap(), 100));
            sink.expect(&payloads);
            assert!(sender.take_error().unwrap().is_none());
        }
        let relay = bed.line.relay.clone();
        assert_eq!(host_counter(&relay, "Icmp", "OutDestUnreachs"), 0);
        assert_eq!(host_counter(&relay, "", "Icmp6OutDestUnreachs"), 0);
        assert_eq!(law::input(&bed.at_rest(), "in0").datagrams, 100);

        // And it is the rule that keeps the host from saying so.
        bed.remove("v4");
        bed.remove("v6");
        for sender in &senders {
            eventually("the port is closed", || match sender.send(b"anybody there?") {
                Ok(_) => false,
                Err(error) => error.kind() == ErrorKind::ConnectionRefused,
            });
        }
        sinks.iter().for_each(Sink::expect_nothing_more);
        bed.finish();
    }
}
