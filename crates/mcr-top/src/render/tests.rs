//! Pictures of the model at the two sizes that must be usable.

use mcr_proto::rpc::{Event, InterfaceInfo, RuleInfo, Stats, WorkerInfo};
use ratatui::{
    Terminal,
    backend::TestBackend,
    buffer::Buffer,
    crossterm::event::{KeyCode, KeyEvent, KeyModifiers},
};
use serde_json::json;

use super::*;
use crate::{
    feed::{Look, Update},
    keys::press,
};

const SECOND: u64 = 1_000_000_000;

/// Rule, state, datagrams a second, drops in all of its one output.
type Rule<'a> = (&'a str, &'a str, f64, u64);

fn rule(id: usize, (name, state, _, _): Rule<'_>) -> RuleInfo {
    let text = json!({
        "id": id, "name": name, "input": format!("239.1.1.{id}:5000@eth0"),
        "outputs": [format!("239.2.2.{id}:6000@eth1")], "output_states": [{ "state": state }], "enabled": true,
        "state": state, "worker": 0, "datapath": "packet", "datapath_wanted": "auto", "datapath_reason": "fastest",
        "reason": (state != "active").then_some("interface eth1 is down"),
    });
    serde_json::from_value(text).expect("a rule")
}

fn stats(seconds: u64, rules: &[Rule<'_>]) -> Stats {
    let rules = rules.iter().enumerate().map(|(index, (name, state, pps, drops))| {
        json!({
            "id": index + 1, "name": name, "state": state, "datagrams": 1000, "bytes": 1_000_000, "last_seen_ns": null,
            "flows": 1, "rate_pps": pps, "rate_bps": pps * 8000.0,
            "outputs": [{
                "output": format!("239.2.2.{}:6000@eth1", index + 1), "copies": 1000, "bytes": 1_000_000,
                "drops": { "too_big": drops, "rate": 0 }, "send_errors": {}, "rate_pps": pps, "rate_bps": pps * 8000.0,
            }],
        })
    });
    let rules: Vec<_> = rules.collect();
    serde_json::from_value(json!({ "time_ns": seconds * SECOND, "rules": rules, "inputs": [] }))
        .expect("counters")
}

fn look(seconds: u64, rules: &[Rule<'_>]) -> Update {
    let worker = json!({
        "index": 0, "pid": 4711, "state": "backoff", "core": 1, "io": "uring", "restarts": 2, "rules": 3, "sockets": 4,
        "desired_generation": 7, "applied_generation": 6,
    });
    let interface = json!({
        "index": 2, "name": "eth0", "up": true, "running": false, "multicast": true, "mtu": 1500, "mac": null,
        "addresses": ["10.0.0.1"], "kind": "veth", "rules": 3,
    });
    let workers: Vec<WorkerInfo> = vec![serde_json::from_value(worker).expect("a worker")];
    let interfaces: Vec<InterfaceInfo> = vec![serde_json::from_value(interface).expect("an interface")];
    let infos = rules.iter().enumerate().map(|(index, of)| rule(index + 1, *of)).collect();
    Update::Look(Box::new(Look { stats: stats(seconds, rules), rules: infos, workers, interfaces }))
}

fn event(what: &str, reason: &str) -> Update {
    let event = json!({
        "seq": 1, "time_ns": 3661 * SECOND, "kind": "rule", "what": what, "rule": "video", "id": 1, "worker": 0, "reason": reason,
    });
    Update::Event(Box::new(serde_json::from_value::<Event>(event).expect("an event")))
}

/// Three rules, of which the slowest has begun to drop.
fn model() -> Model {
    let mut model = Model::new("/run/mcr/mcrd.sock".into());
    model.update(look(
        1,
        &[("slow", "active", 10.0, 5), ("video", "active", 1.0, 0), ("off", "paused", 0.0, 0)],
    ));
    model.update(look(
        3,
        &[("slow", "active", 10.0, 25), ("video", "active", 31_250.0, 0), ("off", "paused", 0.0, 0)],
    ));
    model
}

fn draw(model: &Model, width: u16, height: u16) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("memory");
    terminal.draw(|frame| render(model, frame)).expect("memory");
    terminal.backend().buffer().clone()
}

fn lines(buffer: &Buffer) -> Vec<String> {
    let width = usize::from(buffer.area.width);
    let rows = buffer.content.chunks(width);
    rows.map(|row| row.iter().map(|cell| cell.symbol()).collect::<String>().trim_end().to_owned()).collect()
}

/// The colour of the first cell of a word.
#[track_caller]
fn colour(buffer: &Buffer, word: &str) -> Color {
    for (y, line) in (0..).zip(lines(buffer)) {
        if let Some(at) = line.find(word) {
            let x = line[..at].chars().count() as u16;
            return buffer[(x, y)].fg;
        }
    }
    panic!("no {word} in {:#?}", lines(buffer));
}

fn keys(model: &mut Model, text: &str) {
    for c in text.chars() {
        let code = match c {
            '\n' => KeyCode::Enter,
            '\t' => KeyCode::Tab,
            '\u{1b}' => KeyCode::Esc,
            '\u{8}' => KeyCode::Backspace,
            c => KeyCode::Char(c),
        };
        assert!(press(model, KeyEvent::new(code, KeyModifiers::NONE)), "{c:?} ended it");
    }
}

#[test]
fn at_80_by_24_rules_are_sorted_by_rate_with_what_they_drop() {
    let picture = draw(&model(), 80, 24);
    assert_eq!(
        lines(&picture)[..6],
        [
            "mcr  3 rules  31.3k pps  250Mbit/s  10 drops/s",
            " 1 Rules  2 Workers  3 Interfaces  4 Events  5 Reflectors",
            "RULE         STATE          PPS   BIT/S  DROP/S  DROPPED OUT INPUT",
            "video        active       31.2k    250M       0        0   1 239.1.1.2:5000@eth0",
            "slow         active          10   80.0k      10       25   1 239.1.1.1:5000@eth0",
            "off          paused           0       0       0        0   1 239.1.1.3:5000@eth0",
        ]
    );
    assert_eq!(lines(&picture)[23], "enter outputs  / filter  sort r/d/n/s (rate)  i invert  q quit");
    assert_eq!((colour(&picture, "slow"), colour(&picture, "video")), (Color::Red, Color::Reset));
    assert_eq!((colour(&picture, "paused"), colour(&picture, "active")), (Color::Yellow, Color::Green));
}

#[test]
fn at_40_by_10_what_matters_most_is_left() {
    let picture = draw(&model(), 40, 10);
    assert_eq!(
        lines(&picture)[..6],
        [
            "mcr  3 rules  31.3k pps  10 drops/s",
            " 1 Rules  2 Workers  3 Interfaces  4 Eve",
            "RULE                STATE     PPS DROP/S",
            "video               active  31.2k      0",
            "slow                active     10     10",
            "off                 paused      0      0",
        ]
    );
    assert_eq!(colour(&picture, "slow"), Color::Red);
}

#[test]
fn keys_sort_filter_and_open() {
    let mut model = model();
    let first = |model: &Model| model.rows()[0].info.name.to_string();
    keys(&mut model, "d");
    assert_eq!(first(&model), "slow");
    keys(&mut model, "n");
    assert_eq!(first(&model), "off");
    keys(&mut model, "i");
    assert_eq!(first(&model), "video");
    keys(&mut model, "is");
    assert_eq!(first(&model), "off");
    keys(&mut model, "r/slo");
    assert_eq!(lines(&draw(&model, 80, 24))[23], "filter: slo_");
    // While it is typed, letters are letters.
    keys(&mut model, "q\u{8}\n");
    assert_eq!(model.rows().len(), 1);
    keys(&mut model, "\n");
    let picture = draw(&model, 80, 24);
    assert_eq!(
        lines(&picture)[2..6],
        [
            "slow  active  packet, worker 0",
            "from 239.1.1.1:5000@eth0",
            "OUTPUT                                PPS  COPIES  DROP/S DROPPED",
            "239.2.2.1:6000@eth1                    10   1.00k      10 too_big 25",
        ]
    );
    assert_eq!(colour(&picture, "too_big"), Color::Red);
    keys(&mut model, "\u{1b}\u{1b}");
    assert_eq!((model.opened, model.filter.as_str(), model.rows().len()), (None, "", 3));
    assert!(
        !press(&mut model, KeyEvent::new(KeyCode::Esc, KeyModifiers::NONE)),
        "with nothing to go back from it leaves"
    );
    assert!(!press(&mut model, KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)));
}

#[test]
fn a_rule_that_is_opened_shows_who_sends_below_its_outputs() {
    let mut model = model();
    let update =
        look(5, &[("slow", "active", 10.0, 25), ("video", "active", 31_250.0, 0), ("off", "paused", 0.0, 0)]);
    let Update::Look(mut look) = update else { panic!("a look") };
    let flow = |port: u16, seconds: u64| {
        json!({
            "source": format!("10.0.0.9:{port}"), "worker": 0, "datagrams": 12_345, "bytes": 1, "first_seen_ns": 0,
            "last_seen_ns": (5 - seconds) * SECOND, "rate_pps": 31_000.0, "rate_bps": 248e6, "mean_pps": 1.0, "mean_bps": 8.0,
        })
    };
    let list = json!({ "flows": [flow(4000, 0), flow(4001, 3)], "left_out": 0, "overflow_datagrams": 0 });
    look.stats.rules[1].flow_list = Some(serde_json::from_value(list).expect("flows"));
    model.update(Update::Look(look));
    keys(&mut model, "\n");
    assert_eq!(
        lines(&draw(&model, 80, 24))[4..10],
        [
            "OUTPUT                                PPS  COPIES  DROP/S DROPPED",
            "239.2.2.2:6000@eth1                 31.2k   1.00k       0",
            "",
            "FLOW FROM                                         PPS   BIT/S DATAGRAMS     LAST",
            "10.0.0.9:4000                                   31.0k    248M     12.3k      now",
            "10.0.0.9:4001                                   31.0k    248M     12.3k       3s",
        ]
    );
    // Down they scroll as one list, to the last flow and no further.
    keys(&mut model, "jjjj");
    assert_eq!(
        lines(&draw(&model, 40, 10))[4..6],
        ["FLOW FROM                            PPS", "10.0.0.9:4001                      31.0k"]
    );
}

#[test]
fn the_selection_stays_on_its_rule_when_the_order_changes() {
    let mut model = model();
    keys(&mut model, "j");
    let selected = |model: &Model| {
        let rows = model.rows();
        rows[model.selected_place(&rows)].info.name.to_string()
    };
    assert_eq!(selected(&model), "slow");
    model.update(look(
        4,
        &[("slow", "active", 99_999.0, 25), ("video", "active", 1.0, 0), ("off", "paused", 0.0, 0)],
    ));
    assert_eq!((selected(&model), model.rows()[0].info.name.as_str()), ("slow".to_owned(), "slow"));
    keys(&mut model, "jjjjjj");
    assert_eq!(selected(&model), "off", "the end holds it");
}

#[test]
fn a_long_list_scrolls_so_that_the_selected_rule_is_seen() {
    let names: Vec<_> = (0..50).map(|index| format!("rule-{index:02}")).collect();
    let rules: Vec<Rule<'_>> = names.iter().map(|name| (name.as_str(), "active", 0.0, 0)).collect();
    let mut model = Model::new(String::new());
    model.update(look(1, &rules));
    for _ in 0..30 {
        keys(&mut model, "j");
    }
    let picture = lines(&draw(&model, 40, 10));
    assert!(picture.iter().any(|line| line.starts_with("rule-30")), "{picture:#?}");
    assert!(!picture.iter().any(|line| line.starts_with("rule-31")), "{picture:#?}");
}

#[test]
fn the_other_tabs_show_workers_interfaces_and_events() {
    let mut model = model();
    keys(&mut model, "\t");
    let picture = draw(&model, 80, 24);
    assert!(lines(&picture)[3].starts_with("0      backoff"), "{:#?}", lines(&picture));
    assert_eq!(colour(&picture, "backoff"), Color::Red);
    keys(&mut model, "3");
    let picture = draw(&model, 40, 10);
    assert!(lines(&picture)[3].starts_with("eth0            no carrier 3"), "{:#?}", lines(&picture));
    keys(&mut model, "4");
    assert!(lines(&draw(&model, 40, 10))[2].starts_with("Nothing has happened"));
    model.update(event("active", ""));
    model.update(event("paused", "eth1 is\u{1b}[31m down"));
    let picture = draw(&model, 80, 24);
    assert_eq!(
        lines(&picture)[2],
        "01:01:01 rule video paused: eth1 is[31m down",
        "newest first, and it paints nothing"
    );
    assert_eq!(colour(&picture, "01:01:01"), Color::Yellow);
}

/// At a time in seconds: frames reflected, frames lost.
fn with_reflector(seconds: u64, reflected: u64, lost: u64) -> Update {
    let Update::Look(mut look) = look(seconds, &[]) else { panic!("a look") };
    let bench = json!({
        "name": "bench-port", "interface": "eth2", "port": 3842, "mode": "all", "state": "active", "reason": null,
        "platform": "xdp-native", "pid": 7, "restarts": 0, "options": { "interface": "eth2" },
        "counters": { "received": reflected + 12, "reflected": reflected, "rx_ring_drop": lost, "tx_full": 0 },
        "rejected": { "port": 5, "runt": 7 }, "signatures": {},
        "latency": {
            "count": 9, "min_ns": 900, "mean_ns": 2000, "p50_ns": 1900, "p90_ns": 3000, "p99_ns": 8400, "p999_ns": 9000,
            "max_ns": 9100,
        },
    });
    let mut waits = bench.clone();
    for (key, value) in [
        ("name", json!("other")),
        ("state", json!("unresolved")),
        ("reason", json!("the interface does not exist")),
        ("platform", json!(null)),
        ("latency", json!(null)),
    ] {
        waits[key] = value;
    }
    look.stats.reflectors = serde_json::from_value(json!([bench, waits])).expect("reflectors");
    Update::Look(look)
}

#[test]
fn reflectors_show_what_they_send_back_and_lose() {
    let mut model = Model::new(String::new());
    model.update(look(1, &[]));
    keys(&mut model, "5");
    assert!(lines(&draw(&model, 80, 24))[2].starts_with("No reflectors"));
    model.update(with_reflector(2, 1_000, 3));
    model.update(with_reflector(4, 21_000, 5));
    let picture = draw(&model, 80, 24);
    assert_eq!(
        lines(&picture)[2..5],
        [
            "REFLECTOR        STATE      FRAMES/S LOST   REJECTED P99     INTERFACE  PLATFORM",
            "bench-port       active     10.0k    5      12       8us     eth2       xdp-nati",
            "other            unresolved 10.0k    5      12       -       eth2       the inte",
        ]
    );
    assert_eq!((colour(&picture, "active"), colour(&picture, "unresolved")), (Color::Green, Color::Yellow));
    assert_eq!(colour(&picture, "5      12"), Color::Red, "it loses now");
    model.update(with_reflector(5, 21_000, 5));
    assert_eq!(colour(&draw(&model, 80, 24), "5      12"), Color::Reset);
}

#[test]
fn a_reflector_that_runs_and_does_not_reflect_is_unhealthy_and_says_why() {
    let mut model = Model::new(String::new());
    keys(&mut model, "5");
    let Update::Look(mut look) = with_reflector(2, 1_000, 0) else { panic!("a look") };
    look.stats.reflectors[0].fault = Some("the link is down".into());
    model.update(Update::Look(look));
    let picture = draw(&model, 120, 24);
    assert!(lines(&picture)[3].starts_with("bench-port       unhealthy"), "{:?}", lines(&picture)[3]);
    assert!(lines(&picture)[3].ends_with("the link is down"), "{:?}", lines(&picture)[3]);
    assert_eq!(colour(&picture, "unhealthy"), Color::Red);
}

#[test]
fn a_daemon_that_is_gone_is_said_so_over_what_was_last_seen() {
    let mut model = Model::new("/run/mcr/mcrd.sock".into());
    assert!(lines(&draw(&model, 80, 24))[2].contains("/run/mcr/mcrd.sock"));
    model.update(Update::Gone("no daemon".into()));
    assert!(lines(&draw(&model, 80, 24))[2].contains("tried again"));
    let mut model = self::model();
    model.update(Update::Gone("connection closed".into()));
    let picture = draw(&model, 80, 24);
    assert!(lines(&picture)[3].starts_with("video"));
    assert_eq!(lines(&picture)[23], "daemon gone, reconnecting: connection closed");
    assert_eq!(colour(&picture, "daemon gone"), Color::Red);
    model.update(look(9, &[("video", "active", 1.0, 0)]));
    assert!(!lines(&draw(&model, 80, 24))[23].contains("gone"));
}

#[test]
fn no_size_is_too_small_to_draw() {
    let mut model = model();
    for tab in ["1", "2", "3", "4", "5", "1\n"] {
        keys(&mut model, tab);
        for (width, height) in [(1, 1), (2, 3), (10, 4), (200, 2), (300, 100)] {
            draw(&model, width, height);
        }
    }
}
