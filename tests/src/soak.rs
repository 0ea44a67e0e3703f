//! One daemon under everything at once, for as long as one likes: streams on all data paths, and meanwhile kills, flaps, loads,
//! moves and clients that mean harm. At the end every datagram must be accounted for, and what the daemon holds must be what it held
//! before.
//!
//! First every kind of trouble happens once; then all is put back to rest and what is held is written down; then trouble comes by
//! dice until time is up; then all is put back again, and compared. What differs, or is not as it must be, is a fault of the
//! [`Report`]; nothing panics but what cannot be set up at all.
//!
//! - `scene`: the networks, the rules that stay and those that change.
//! - `traffic`: numbered streams, and what came of them.
//! - `trouble`: what happens.
//! - `usage`: what processes hold.

mod acts;
mod scene;
mod traffic;
mod trouble;
mod usage;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use mcr_proto::rpc::Stats;
use serde_json::{Value, json};

use self::{
    traffic::{Flow, Traffic},
    trouble::Trouble,
    usage::Usage,
};
use crate::law;

/// Memory of its own that a process may have more at the end: allocators keep what was needed once.
const ANON_GROWTH_KIB: u64 = 4 * 1024;
/// All memory that a process may have more: counters of slots that were used for the first time are shared memory.
const RSS_GROWTH_KIB: u64 = 24 * 1024;
/// What the whole machine's kernel may have more in slabs that it cannot give back. Others use it, too.
const SLAB_GROWTH_KIB: u64 = 64 * 1024;
/// Parts of a thousand that what was sent and what came to the relay may differ by: a rule that changes its data path loses and doubles
/// nothing, but a load, a removal, or an interface that goes meanwhile ends the change at once, and what came between is not counted.
const UNCOUNTED_PERMILLE: u64 = 1;
/// What a worker may have taken from a UDP socket, and not yet counted, when it was killed.
const LOST_A_KILL: u64 = 128;
/// Between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(10);
/// Faults that are kept; more of the same help nobody.
const FAULTS_MAX: usize = 100;

/// What a soak is told.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How long trouble comes by dice. What comes before and after takes some 40 s more.
    pub trouble: Duration,
    /// Which trouble: the same seed throws the same dice.
    pub seed: u64,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Report {
    /// All of it, for a machine.
    pub json: Value,
    /// What was not as it must be; none if all was well.
    pub faults: Vec<String>,
}

/// Runs it, with a line of progress now and then.
///
/// # Panics
/// If networks or the daemon cannot be made.
pub fn run(options: &Options, say: &mut dyn FnMut(&str)) -> Report {
    let begun = Instant::now();
    let mut trouble = Trouble::new(options.seed);
    let traffic = Traffic::start(trouble.scene());
    trouble.once(say);
    trouble.rest();
    for fault in &trouble.faults {
        say(fault);
    }
    let before = trouble.usage();
    say(&format!("at rest after {} s; what is held is written down", begun.elapsed().as_secs()));
    let peak = throw(&mut trouble, &traffic, options.trouble, say);
    trouble.rest();
    let after = trouble.usage_like(&before);
    compare(&before, &after, &mut trouble.faults);
    let (sent, flows) = traffic.stop(&mut trouble);
    let stats = trouble.at_rest();
    balance(&mut trouble, sent, &flows, stats.as_ref());
    let acts = trouble.acts.clone();
    let (kills, busy, reconnects) = (trouble.kills, trouble.busy, trouble.reconnects);
    let mut faults = trouble.stop(&before, &after);
    let more = faults.len().saturating_sub(FAULTS_MAX);
    faults.truncate(FAULTS_MAX);
    if more > 0 {
        faults.push(format!("and {more} more"));
    }
    let json = json!({
        "seconds": begun.elapsed().as_secs(),
        "seed": options.seed,
        "acts": acts,
        "kills": kills,
        "answers_busy": busy,
        "reconnects": reconnects,
        "sent": sent,
        "flows": flows.iter().map(Flow::to_json).collect::<Vec<_>>(),
        "inputs": stats.as_ref().map(inputs),
        "before": before.to_json(),
        "after": after.to_json(),
        "peak_rss_kib": peak,
        "slabs_grown_kib": after.slabs_grown(&before),
        "faults": faults,
    });
    Report { json, faults }
}

/// Trouble by dice until the time is up. The most memory that any process of each kind had.
fn throw(
    trouble: &mut Trouble,
    traffic: &Traffic,
    time: Duration,
    say: &mut dyn FnMut(&str),
) -> BTreeMap<String, u64> {
    let (begun, mut peak) = (Instant::now(), BTreeMap::new());
    let mut told = begun;
    while begun.elapsed() < time {
        trouble.act();
        if told.elapsed() < PROGRESS {
            continue;
        }
        told = Instant::now();
        let usage = trouble.usage();
        for (role, rss_kib) in usage.rss() {
            let most = peak.entry(role).or_insert(0);
            *most = rss_kib.max(*most);
        }
        let acts: u64 = trouble.acts.values().sum();
        say(&format!(
            "{} of {} s: {acts} acts, {} datagrams sent, {} copies came, {}, {} faults",
            begun.elapsed().as_secs(),
            time.as_secs(),
            traffic.sent(),
            traffic.received(),
            usage.line(),
            trouble.faults.len()
        ));
    }
    peak
}

/// What each kind of process holds must be what it held.
fn compare(before: &Usage, after: &Usage, faults: &mut Vec<String>) {
    if let Some(difference) = before.difference(after) {
        faults.push(format!("what is held is not what was held: {difference}"));
    }
    for (role, was) in &before.processes {
        let Some(is) = after.processes.get(role) else { continue };
        for (what, was, is, growth) in [
            ("memory of its own", was.anon_kib, is.anon_kib, ANON_GROWTH_KIB),
            ("memory in all", was.rss_kib, is.rss_kib, RSS_GROWTH_KIB),
        ] {
            if is > was + growth {
                faults.push(format!("{role}: {what} has grown from {was} to {is} KiB"));
            }
        }
    }
    if after.slab_kib > before.slab_kib + SLAB_GROWTH_KIB {
        faults.push(format!("slabs have grown from {} to {} KiB", before.slab_kib, after.slab_kib));
    }
}

/// What was sent has come in, and what was counted as a copy has come out, once and in order.
fn balance(trouble: &mut Trouble, sent: u64, flows: &[Flow], stats: Option<&Stats>) {
    let Some(stats) = stats else { return };
    let came = law::input(stats, "in0").datagrams;
    let slack = sent * UNCOUNTED_PERMILLE / 1000 + trouble.kills * LOST_A_KILL;
    if sent.abs_diff(came) > slack {
        trouble.faults.push(format!("{sent} datagrams were sent, {came} are counted"));
    }
    for flow in flows.iter().filter(|flow| flow.steady) {
        let name = &flow.name;
        let Some(rule) = stats.rules.iter().find(|rule| rule.name.to_string() == *name) else {
            trouble.faults.push(format!("{name} is gone"));
            continue;
        };
        let (copies, uncertain) = (rule.outputs[0].copies, rule.outputs[0].drops["worker_lost"]);
        // What was under way in a worker that was killed may have left, or not.
        if !(copies..=copies + uncertain).contains(&flow.received) {
            let received = flow.received;
            trouble
                .faults
                .push(format!("{name}: {received} came of {copies} copies and {uncertain} unknown"));
        }
        if flow.out_of_place > 0 {
            trouble.faults.push(format!("{name}: {} datagrams out of order or twice", flow.out_of_place));
        }
    }
    for flow in flows.iter().filter(|flow| flow.damaged > 0 || flow.received == 0) {
        trouble.faults.push(format!("{flow:?}"));
    }
}

fn inputs(stats: &Stats) -> Value {
    let names: std::collections::BTreeSet<_> = stats.inputs.iter().map(|input| &input.interface).collect();
    let sum = |name: &str| {
        let sum = law::input(stats, name);
        json!({"frames": sum.frames, "datagrams": sum.datagrams, "matched": sum.matched, "drops": sum.drops})
    };
    names.into_iter().map(|name| (name.clone(), sum(name))).collect::<serde_json::Map<_, _>>().into()
}
