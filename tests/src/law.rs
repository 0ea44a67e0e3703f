//! The law of the counters: every datagram ends in exactly one of them, for each rule and for each output.

use std::{collections::BTreeMap, thread, time::Duration};

use mcr_client::Client;
use mcr_proto::rpc::{InputStats, OutputStats, RuleStats, Stats};

/// Between two looks at counters that may still move: many times what a datagram takes from one end to the other.
const PAUSE: Duration = Duration::from_millis(20);

/// What came in by an interface, over all workers and data paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InputSum {
    /// As in [`InputStats`].
    pub frames: u64,
    /// As in [`InputStats`].
    pub datagrams: u64,
    /// As in [`InputStats`].
    pub matched: u64,
    /// Those that are not 0.
    pub drops: BTreeMap<String, u64>,
}

/// Which part of the law does not hold, if any.
pub fn broken(stats: &Stats) -> Option<String> {
    let inputs = stats.inputs.iter().filter_map(|input| {
        let InputStats { interface, datagrams, matched, drops, .. } = input;
        (*datagrams != matched + drops.values().sum::<u64>())
            .then(|| format!("{interface}: {datagrams} datagrams are not {matched} matched and {drops:?}"))
    });
    let outputs = stats.rules.iter().flat_map(|rule| {
        rule.outputs.iter().filter_map(|output| {
            let OutputStats { output: place, copies, drops, .. } = output;
            let RuleStats { name, datagrams, .. } = rule;
            (*datagrams != copies + drops.values().sum::<u64>()).then(|| {
                format!("{name}: {datagrams} datagrams are not {copies} copies to {place} and {drops:?}")
            })
        })
    });
    inputs.chain(outputs).next()
}

/// The counters, once they move no more and the law holds.
///
/// # Panics
/// If that does not come.
pub fn at_rest(client: &mut Client) -> Stats {
    try_at_rest(client).unwrap_or_else(|fault| panic!("{fault}"))
}

/// The counters, once they move no more and the law holds.
///
/// # Errors
/// What does not hold, if that does not come.
pub fn try_at_rest(client: &mut Client) -> Result<Stats, String> {
    let mut before = client.stats(None).map_err(|error| error.to_string())?;
    let mut fault = None;
    let waited = mcr_lab::wait_until(crate::PATIENCE, "the counters are at rest", || {
        thread::sleep(PAUSE);
        let now = match client.stats(None) {
            Ok(now) => now,
            Err(error) => {
                fault = Some(error.to_string());
                return false;
            }
        };
        fault = broken(&now);
        let rests = counts(&before) == counts(&now);
        before = now;
        rests && fault.is_none()
    });
    match waited {
        Ok(()) => Ok(before),
        Err(error) => Err(format!("{error}; {fault:?}: {before:#?}")),
    }
}

/// Asserts that no counter of `before` is less in `after`, or gone.
///
/// # Panics
/// If one is.
#[track_caller]
pub fn assert_forward(before: &Stats, after: &Stats) {
    if let Some(fault) = backward(before, after) {
        panic!("{fault}");
    }
}

/// Which counter of `before` is less in `after`, or gone, if any.
pub fn backward(before: &Stats, after: &Stats) -> Option<String> {
    let after = by_name(after);
    by_name(before).into_iter().find_map(|(name, count)| {
        let now = after.get(&name);
        now.is_none_or(|now| *now < count).then(|| format!("{name} went back from {count} to {now:?}"))
    })
}

/// Every counter of a daemon, by a name of its own.
fn by_name(stats: &Stats) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for input in &stats.inputs {
        let class = (&input.class, input.class_by);
        let name = format!("worker {} {} {:?} {class:?}", input.worker, input.interface, input.datapath);
        all.insert(format!("{name} frames"), input.frames);
        all.insert(format!("{name} datagrams"), input.datagrams);
        all.insert(format!("{name} bytes"), input.bytes);
        all.insert(format!("{name} matched"), input.matched);
        all.extend(input.drops.iter().map(|(reason, count)| (format!("{name} {reason}"), *count)));
    }
    for rule in &stats.rules {
        all.insert(format!("{} datagrams", rule.name), rule.datagrams);
        all.insert(format!("{} bytes", rule.name), rule.bytes);
        all.insert(format!("{} flows", rule.name), rule.flows);
        for output in &rule.outputs {
            let name = format!("{} {}", rule.name, output.output);
            all.insert(format!("{name} copies"), output.copies);
            all.insert(format!("{name} bytes"), output.bytes);
            all.extend(output.drops.iter().map(|(reason, count)| (format!("{name} {reason}"), *count)));
        }
    }
    all
}

/// The counters as they are now.
///
/// # Panics
/// If the daemon does not say.
pub fn read(client: &mut Client) -> Stats {
    client.stats(None).unwrap_or_else(|error| panic!("{error}"))
}

/// What came in by `interface`.
pub fn input(stats: &Stats, interface: &str) -> InputSum {
    let mut sum = InputSum::default();
    for input in stats.inputs.iter().filter(|input| input.interface == interface) {
        sum.frames += input.frames;
        sum.datagrams += input.datagrams;
        sum.matched += input.matched;
        for (reason, count) in input.drops.iter().filter(|(_, count)| **count > 0) {
            *sum.drops.entry(reason.clone()).or_default() += count;
        }
    }
    sum
}

/// The counters of one rule.
///
/// # Panics
/// If there is no such rule.
pub fn rule<'a>(stats: &'a Stats, name: &str) -> &'a RuleStats {
    let found = stats.rules.iter().find(|rule| rule.name.to_string() == name);
    found.unwrap_or_else(|| panic!("no rule {name} in {stats:#?}"))
}

/// Those drops of an output that are not 0.
pub fn drops(output: &OutputStats) -> BTreeMap<&str, u64> {
    output
        .drops
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(reason, count)| (reason.as_str(), *count))
        .collect()
}

/// Everything that is counted, without rates and times.
fn counts(stats: &Stats) -> Vec<u64> {
    let inputs = stats.inputs.iter().flat_map(|input| {
        [input.frames, input.datagrams, input.bytes, input.matched]
            .into_iter()
            .chain(input.drops.values().copied())
    });
    let rules = stats.rules.iter().flat_map(|rule| {
        let outputs = rule.outputs.iter();
        let outputs = outputs.flat_map(|output| {
            [output.copies, output.bytes].into_iter().chain(output.drops.values().copied())
        });
        [rule.datagrams, rule.bytes].into_iter().chain(outputs)
    });
    inputs.chain(rules).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(datagrams: u64, copies: u64, rate_drops: u64, no_rule: u64) -> Stats {
        let text = format!(
            r#"{{"time_ns":1,
            "rules":[{{"id":1,"name":"a","state":"active","datagrams":{datagrams},"bytes":0,"last_seen_ns":null,"flows":1,
                "rate_pps":0,"rate_bps":0,"outputs":[{{"output":"10.0.0.1:1","copies":{copies},"bytes":0,
                "drops":{{"rate":{rate_drops}}},"send_errors":{{}},"rate_pps":0,"rate_bps":0}}]}}],
            "inputs":[{{"worker":0,"interface":"in0","datapath":"udp","open":true,"frames":9,"datagrams":9,"bytes":0,
                "matched":7,"drops":{{"no_rule":{no_rule}}},"rate_pps":0,"rate_bps":0}}]}}"#
        );
        serde_json::from_str(&text).expect("counters")
    }

    #[test]
    fn a_copy_or_a_datagram_that_is_in_no_counter_breaks_the_law() {
        assert_eq!(broken(&stats(7, 5, 2, 2)), None);
        assert!(broken(&stats(7, 5, 1, 2)).is_some_and(|fault| fault.contains("10.0.0.1:1")));
        assert!(broken(&stats(7, 6, 2, 2)).is_some(), "one too many is as wrong");
        assert!(broken(&stats(7, 5, 2, 1)).is_some_and(|fault| fault.contains("in0")));
    }
}
