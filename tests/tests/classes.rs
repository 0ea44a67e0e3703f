//! Traffic classes: who loses first, what is marked, what is counted.
#![allow(clippy::unwrap_used)] // A test has no better answer to an error than to fail.

use std::{num::NonZero, thread};

use mcr_e2e::{Bed, Cell, StopOnDrop, in_packet_cells, in_worker_cells, law, source, traffic_lock};
use mcr_gen::{Progress, SendOptions, Sender, Stop};
use mcr_lab::require;
use mcr_proto::{
    rpc::{ClassStats, ConfigLoad, Stats, rule_ref},
    rule::{Datapath, DatapathChoice},
};

/// Copies of each datagram, made one by one because they keep its source: what makes a worker slow.
const FAN_OUT: usize = 24;
/// Several times what a receiving socket holds and the worker relays meanwhile.
const BURST: u64 = 120_000;
const FEW: u64 = 2_000;
const CLASSES: &str = "[[class]]\nname = \"voice\"\ndscp = [\"ef\"]\npriority = 0\n\n[[class]]\nname = \"bulk\"\npriority = 6\n";

fn load(bed: &mut Bed, classes: &str) {
    let file = Some("classes.toml".to_owned());
    bed.client.config_load(&ConfigLoad { text: classes.to_owned(), file, replace: false }).unwrap();
}

fn add(bed: &mut Bed, name: &str, class: Option<&str>, input: &str, outputs: &[String]) {
    let outputs: Vec<_> = outputs.iter().map(String::as_str).collect();
    let mut rule = bed.cell.rule(name, input, &outputs);
    rule.class = class.map(Into::into);
    bed.client.rule_add(&rule).unwrap();
}

fn fan() -> Vec<String> {
    (0..FAN_OUT).map(|index| format!("239.2.2.{index}:6000@out0,source=keep")).collect()
}

fn class<'a>(stats: &'a Stats, name: Option<&str>) -> &'a ClassStats {
    stats.classes.iter().find(|class| class.name.as_deref() == name).unwrap_or_else(|| panic!("{stats:#?}"))
}

/// Sends as fast as can be to one group, and a few EF ones a second meanwhile to another or the same.
fn overload(bed: &Bed, many: &str, few: &str) {
    let open = |to: &str, count| {
        let mut options = SendOptions::new(to.parse().unwrap(), Stop::After { count });
        options.payload_bytes = 1_200;
        options.rate_pps = (count == FEW).then_some(4_000).and_then(NonZero::new);
        options.dscp = (count == FEW).then(|| "ef".parse().unwrap());
        bed.line.source.enter(|| Sender::open(&options)).unwrap()
    };
    let (many, few) = (open(many, BURST), open(few, FEW));
    let (flooding, trickling) = (Progress::new(), Progress::new());
    thread::scope(|scope| {
        let _stop = (StopOnDrop(&flooding), StopOnDrop(&trickling));
        let many = scope.spawn(|| source::on_one_core(|| many.run(&flooding).unwrap()));
        let few = scope.spawn(|| source::on_one_core(|| few.run(&trickling).unwrap()));
        assert_eq!((many.join().unwrap().sent, few.join().unwrap().sent), (BURST, FEW));
    });
}

/// Nothing of the few was lost, and much of the many; both are counted.
fn assert_only_the_last_lost(stats: &Stats, first: &ClassStats, last: &ClassStats, few_rule: &str) {
    assert_eq!(
        (first.datagrams, first.matched, first.drops.values().sum::<u64>()),
        (FEW, FEW, 0),
        "{first:?}"
    );
    assert_eq!(last.datagrams, BURST, "{last:?}");
    assert!(last.matched < BURST / 2, "it was not twice what can be done: {last:?}");
    assert_eq!(last.drops["kernel_ring"], BURST - last.matched, "{last:?}");
    for output in &law::rule(stats, few_rule).outputs {
        assert!(law::drops(output).is_empty(), "{output:?}");
    }
}

in_worker_cells! {
    fn under_overload_the_rule_of_a_higher_class_loses_nothing(cell) {
        let mut bed = Bed::new(cell, 1);
        load(&mut bed, CLASSES);
        add(&mut bed, "many", Some("bulk"), "239.1.1.1:5000@in0", &fan());
        add(&mut bed, "few", Some("voice"), "239.1.1.2:5000@in0", &["239.2.3.1:6000@out0".to_owned()]);
        overload(&bed, "239.1.1.1:5000@src0", "239.1.1.2:5000@src0");
        let stats = bed.finish();
        assert_only_the_last_lost(&stats, class(&stats, Some("voice")), class(&stats, Some("bulk")), "few");
        assert_eq!(law::rule(&stats, "few").outputs[0].copies, FEW);
    }
}

in_packet_cells! {
    fn under_overload_marked_datagrams_of_a_rule_lose_nothing(cell) {
        let mut bed = Bed::new(cell, 1);
        load(&mut bed, CLASSES);
        add(&mut bed, "both", None, "239.1.1.1:5000@in0", &fan());
        overload(&bed, "239.1.1.1:5000@src0", "239.1.1.1:5000@src0");
        let stats = bed.finish();
        assert_only_the_last_lost(&stats, class(&stats, Some("voice")), class(&stats, None), "both");
        assert_eq!(class(&stats, Some("bulk")).datagrams, 0);
    }

    fn a_class_takes_what_its_rate_and_depth_allow_and_counts_the_rest(cell) {
        let mut bed = Bed::new(cell, 1);
        load(&mut bed, "[[class]]\nname = \"slow\"\npriority = 1\nrate = \"100pps\"\n\n[[class]]\nname = \"short\"\npriority = 2\ndepth = 64\n");
        add(&mut bed, "slow", Some("slow"), "239.1.1.2:5000@in0", &["239.2.3.1:6000@out0".to_owned()]);
        add(&mut bed, "short", Some("short"), "239.1.1.1:5000@in0", &fan());
        overload(&bed, "239.1.1.1:5000@src0", "239.1.1.2:5000@src0");
        let stats = bed.finish();
        let (slow, short) = (class(&stats, Some("slow")), class(&stats, Some("short")));
        assert_eq!((slow.datagrams, slow.matched + slow.drops["rate"]), (FEW, FEW), "{slow:?}");
        // Half a second at 100/s, and a burst; less where the machine was slow.
        assert!((20..1_000).contains(&slow.matched), "{slow:?}");
        assert_eq!(short.drops["class_full"], BURST - short.matched, "{short:?}");
        assert!(short.drops["class_full"] > 0 && short.drops["kernel_ring"] == 0, "{short:?}");
    }

    fn classes_that_change_while_the_daemon_runs_leave_rules_relaying(cell) {
        let mut bed = Bed::new(cell, 1);
        add(&mut bed, "rule", None, "239.1.1.1:5000@in0", &["239.2.2.2:6000@out0".to_owned()]);
        let sink = bed.sink(0, "239.2.2.2:6000@dst0");
        let source = bed.source("239.1.1.1:5000");
        for (round, classes) in ["", CLASSES, "[[class]]\nname = \"voice\"\ndscp = [\"af41\"]\npriority = 3\n"].into_iter().enumerate() {
            load(&mut bed, classes);
            bed.wait_applied();
            // One mark after the other: order holds within a class, not between classes.
            for (index, mark) in [0, 0xb8, 34 << 2].into_iter().enumerate() {
                let payloads = source::payloads((round * 3 + index) as u64, [700; 20]);
                source.traffic_class(mark);
                source.send(&payloads);
                sink.expect(&payloads);
            }
        }
        let stats = bed.finish();
        assert_eq!(law::input(&stats, "in0").matched, 180);
        // EF in the second round, AF41 in the third.
        assert_eq!(class(&stats, Some("voice")).matched, 20 + 20);
    }
}

#[test]
fn auto_leaves_the_kernel_path_for_classes_and_comes_back() {
    let Some(()) = require::netns() else { return };
    let _lock = traffic_lock::take();
    let mut bed = Bed::new(Cell::KERNEL, 1);
    load(&mut bed, "[[class]]\nname = \"bulk\"\npriority = 6\n");
    for (name, class, input) in
        [("plain", None, "239.1.1.1:5000@in0"), ("bulky", Some("bulk"), "239.1.1.2:5000@in0")]
    {
        let mut rule = bed.cell.rule(name, input, &["239.2.2.2:6000@out0"]);
        (rule.class, rule.datapath) = (class.map(Into::into), DatapathChoice::Auto);
        bed.client.rule_add(&rule).unwrap();
    }
    let sink = bed.sink(0, "239.2.2.2:6000@dst0");
    let (plain, bulky) = (bed.source("239.1.1.1:5000"), bed.source("239.1.1.2:5000"));
    let is_by = |bed: &mut Bed, name: &str, datapath, reason: &str| {
        let rule = bed.client.rules(Some(&rule_ref(name).unwrap())).unwrap().remove(0);
        assert_eq!(rule.datapath, Some(datapath), "{rule:?}");
        assert!(rule.datapath_reason.contains(reason), "{rule:?}");
    };
    let voice = "[[class]]\nname = \"voice\"\npriority = 0\n";
    for (round, (text, path, reason)) in [
        ("", Datapath::Kernel, "fastest"),
        (&*format!("{voice}dscp = [\"ef\"]\n"), Datapath::Packet, "there are classes by DSCP"),
        (voice, Datapath::Kernel, "fastest"),
    ]
    .into_iter()
    .enumerate()
    {
        load(&mut bed, text);
        bed.wait_applied();
        is_by(&mut bed, "plain", path, reason);
        is_by(&mut bed, "bulky", Datapath::Packet, "class bulk takes a socket of its own");
        for (seed, source) in [(1, &plain), (2, &bulky)] {
            let payloads = source::payloads(10 * round as u64 + seed, [300; 20]);
            source.send(&payloads);
            sink.expect(&payloads);
        }
    }
    let stats = bed.finish();
    assert_eq!(law::rule(&stats, "plain").datagrams, 60);
    assert_eq!((class(&stats, Some("bulk")).matched, class(&stats, None).matched), (60, 60));
}
