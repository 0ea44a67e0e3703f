//! Loads against a state whose interfaces are missing: no sockets, no workers, only what is decided.

use mcr_metrics::Segment;
use mcr_proto::config::parse;
use mcr_relay::compile::{Abilities, KernelLack};

use super::*;
use crate::{kernel::Kernel, worker::Worker};

fn state() -> State {
    let workers =
        (0..2).map(|index| Worker::new(WorkerIndex(index), None, Segment::create().expect("memory")));
    let kernel = Kernel::new(Segment::create().expect("memory"), false);
    State::new(workers.collect(), Abilities { raw_sockets: false, kernel: Err(KernelLack::Off) }, kernel)
}

fn rules(text: &str) -> (Settings, Vec<RuleSpec>) {
    Settings::split(parse(text, "test").unwrap_or_else(|error| panic!("{error}")))
}

fn rule(name: &str, port: u16, outputs: &[&str]) -> String {
    format!("[[rule]]\nname = \"{name}\"\ninput = \"239.1.1.1:{port}@no0\"\noutputs = {outputs:?}\n\n")
}

fn load(state: &mut State, text: &str, replace: bool) -> Result<(u32, u32, u32, u32), Fault> {
    let (settings, rules) = rules(text);
    load_specs(state, settings, rules, replace)
}

fn load_specs(
    state: &mut State,
    settings: Settings,
    rules: Vec<RuleSpec>,
    replace: bool,
) -> Result<(u32, u32, u32, u32), Fault> {
    let load = Load { replace, settings, rules, touched: Instant::now() };
    let (report, _) = state.load(load, &Snapshot::default())?;
    Ok((report.added, report.changed, report.removed, report.unchanged))
}

/// Everything about the rules that a load could change.
fn seen(state: &State) -> Vec<(RuleId, RuleSpec, RuleSlot, Vec<OutputSlot>)> {
    let rules = state.rules.all();
    rules.map(|rule| (rule.id, rule.spec.clone(), rule.slot, rule.output_slots.clone())).collect()
}

#[test]
fn a_merge_adds_and_changes_and_leaves_the_rest_alone() {
    let mut state = state();
    let first = rule("a", 1, &["10.0.0.1:1"]) + &rule("b", 2, &["10.0.0.1:1"]);
    assert_eq!(load(&mut state, &first, false), Ok((2, 0, 0, 0)));
    let before = seen(&state);
    let second = rule("b", 2, &["10.0.0.1:1", "10.0.0.2:2"]) + &rule("c", 3, &["10.0.0.1:1"]);
    assert_eq!(load(&mut state, &second, false), Ok((1, 1, 0, 1)));
    let after = seen(&state);
    assert_eq!(after[0], before[0], "untouched");
    assert_eq!(after[1].0, before[1].0, "a changed rule keeps its id");
    assert_eq!((after[1].1.outputs.len(), after.len()), (2, 3));
    assert_ne!(after[1].2, before[1].2, "and counts anew");
}

#[test]
fn a_replacement_removes_what_it_does_not_have_and_loading_it_again_changes_nothing() {
    let mut state = state();
    let first = rule("a", 1, &["10.0.0.1:1"]) + &rule("b", 2, &["10.0.0.1:1"]);
    load(&mut state, &first, true).expect("good");
    let second =
        rule("b", 2, &["10.0.0.1:1"]) + "[[rule]]\ninput = \"239.9.9.9:9@no0\"\noutputs = [\"10.0.0.9:9\"]\n";
    assert_eq!(load(&mut state, &second, true), Ok((1, 0, 1, 1)));
    let before = seen(&state);
    assert_eq!(load(&mut state, &second, true), Ok((0, 0, 0, 2)), "also for the rule without a name");
    assert_eq!(seen(&state), before);
    let (text, count) = state.to_toml().expect("it can be written");
    assert_eq!(count, 2);
    assert_eq!(load(&mut state, &text, true), Ok((0, 0, 0, 2)), "what is saved is what runs");
    assert_eq!(seen(&state), before);
}

#[test]
fn a_load_with_anything_wrong_changes_nothing() {
    let mut state = state();
    load(&mut state, &rule("a", 1, &["10.0.0.1:1"]), true).expect("good");
    let before = (seen(&state), state.settings.clone());
    let (settings, good) = rules(&(rule("b", 2, &["10.0.0.1:1"]) + &rule("c", 3, &["10.0.0.1:1"])));
    // What control would not send: the supervisor does not rely on it.
    let mut empty = good.clone();
    empty[1].outputs.clear();
    let mut twice = good.clone();
    twice[1].name = good[0].name.clone();
    for (specs, field) in [(empty, "rule[1].outputs"), (twice, "rule[1].name")] {
        let fault = load_specs(&mut state, settings.clone(), specs, true).expect_err("refused");
        assert_eq!((fault.kind, fault.field.as_deref()), (FaultKind::Invalid, Some(field)));
        assert_eq!((seen(&state), state.settings.clone()), before);
    }
}

#[test]
fn a_load_for_which_there_is_no_room_changes_nothing() {
    let mut state = state();
    load(&mut state, &rule("a", 1, &["10.0.0.1:1"]), true).expect("good");
    while state.output_slots.available() > 1 {
        state.output_slots.take();
    }
    let before = seen(&state);
    let fault = load(&mut state, &rule("a", 1, &["10.0.0.1:1", "10.0.0.2:1"]), true).expect_err("no room");
    assert_eq!(fault.kind, FaultKind::Limit);
    assert_eq!(seen(&state), before);
}

#[test]
fn switching_a_rule_off_by_a_load_keeps_its_counters() {
    let mut state = state();
    load(&mut state, &rule("a", 1, &["10.0.0.1:1"]), true).expect("good");
    let before = seen(&state);
    let off = rule("a", 1, &["10.0.0.1:1"]).trim_end().to_owned() + "\nenabled = false\n";
    assert_eq!(load(&mut state, &off, false), Ok((0, 1, 0, 0)));
    let after = seen(&state);
    assert_eq!((after[0].2, after[0].1.enabled), (before[0].2, false));
}

#[test]
fn settings_are_merged_or_replaced_and_saved() {
    let mut state = state();
    load(&mut state, "workers = 3\n[[reflect]]\ninterface = \"eth0\"\n", true).expect("good");
    load(&mut state, "[[class]]\nname = \"video\"\npriority = 1\n", false).expect("good");
    let (text, _) = state.to_toml().expect("it can be written");
    assert!(["workers = 3", "eth0", "video"].iter().all(|word| text.contains(word)), "{text}");
    load(&mut state, "", true).expect("good");
    assert_eq!(state.to_toml().expect("it can be written").0, "");
}

#[test]
fn a_rule_with_a_class_that_nothing_defines_is_refused() {
    let mut state = state();
    let mut spec = rules(&rule("a", 1, &["10.0.0.1:1"])).1.remove(0);
    spec.class = Some("ghost".into());
    let fault = state.add(spec.clone(), &Snapshot::default()).expect_err("no daemon would start with it");
    assert!(fault.message.contains("ghost"), "{fault:?}");
    load(&mut state, "[[class]]\nname = \"ghost\"\npriority = 1\n", false).expect("good");
    state.add(spec, &Snapshot::default()).expect("now there is one");
}

#[test]
fn parts_are_gathered_until_the_commit_and_idle_loads_are_forgotten() {
    let mut loads = Loads::default();
    let (settings, specs) = rules(&(rule("a", 1, &["10.0.0.1:1"]) + &rule("b", 2, &["10.0.0.1:1"])));
    let now = Instant::now();
    let mut step =
        |load, step, at| loads.step(LoadId(load), step, at).map(|load| load.map(|load| load.rules));
    let begin = || LoadStep::Begin { replace: true, settings: settings.clone() };
    assert_eq!(step(1, begin(), now), Ok(None));
    assert_eq!(step(2, begin(), now), Ok(None));
    for spec in &specs {
        assert_eq!(step(1, LoadStep::Part { rules: vec![spec.clone()] }, now), Ok(None));
    }
    assert_eq!(step(1, LoadStep::Commit, now), Ok(Some(specs.clone())));
    assert!(step(1, LoadStep::Commit, now).is_err(), "once");
    assert_eq!(step(2, LoadStep::Abort, now), Ok(None));
    assert!(step(2, LoadStep::Part { rules: specs.clone() }, now).is_err(), "aborted");
    assert_eq!(step(3, begin(), now), Ok(None));
    assert!(step(3, LoadStep::Commit, now + IDLE_MAX).is_err(), "forgotten");
    for load in 10..10 + LOADS_MAX as u64 {
        assert_eq!(step(load, begin(), now), Ok(None));
    }
    assert_eq!(step(99, begin(), now).expect_err("too many").kind, FaultKind::Busy);
}

#[test]
fn what_is_to_be_done_about_rules_is_known_without_looking_at_all_of_them() {
    let mut state = state();
    let text: String = (1..=200).map(|port| rule(&format!("r{port}"), port, &["10.0.0.1:1"])).collect();
    assert_eq!(load(&mut state, &text, false), Ok((200, 0, 0, 0)));
    let of = |state: &State, index| {
        let rules = state.rules.all().filter(|rule| rule.worker == WorkerIndex(index));
        rules.map(|rule| rule.id).collect::<Vec<_>>()
    };
    let check = |state: &State| {
        for index in 0..2 {
            assert_eq!(state.rules.carried_by(WorkerIndex(index)), of(state, index));
        }
    };
    check(&state);
    let (id, from) = state.rules.all().map(|rule| (rule.id, rule.worker)).next().expect("there are some");
    let to = WorkerIndex(1 - from.0);
    state.move_rule(&RuleRef::Id(id), to, &Snapshot::default()).expect("there is such a worker");
    check(&state);
    assert!(!state.rules.are_away_from(to) && !state.rules.are_away_from(from), "its home is there now");
    if let Some(mut rule) = state.rules.get_mut(id) {
        rule.home = from;
        rule.status.state = mcr_proto::message::RuleState::Failed;
    }
    assert_eq!((state.rules.away_from(from), state.rules.refused()), (vec![id], vec![id]));
    state.remove(&RuleRef::Id(id)).expect("it is there");
    assert!(!state.rules.are_away_from(from) && !state.rules.has_refused());
    check(&state);
}
