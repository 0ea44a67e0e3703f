//! The answer to `stats.get`: who has which slot from the supervisor, numbers from shared memory.

use std::{cmp::Reverse, collections::BTreeMap, rc::Rc};

use mcr_metrics::{
    FlowSum, INPUT_SLOTS, OUTPUT_SLOTS, RULE_SLOTS, Segment, clock::realtime_ns, sum_latency, sum_output,
    sum_rule,
};
use mcr_proto::{
    counters::{InputDrop, OutputDrop},
    message::{ClassBy, Fault, InputClass, InputView, OutputView, RuleRef, RuleView},
    plan::{FlowSlot, RuleSlot, WorkerIndex},
    rpc::{FlowList, FlowStats, InputStats, Latency, OutputStats, RuleStats, Stats},
    rule::Datapath,
};
use nix::errno::Errno;

use crate::{
    classes,
    rates::{Place, Sampler},
    supervisor::{Supervisor, misunderstood},
    view,
};

/// Flows that are listed, of one rule.
const FLOWS_LISTED_MAX: usize = 256;

/// Reads the counters of one rule and of its input, or of everything.
pub(crate) async fn stats(
    supervisor: &Supervisor,
    segments: &[Segment],
    sampler: &Rc<Sampler>,
    rule: Option<&RuleRef>,
) -> Result<Stats, Fault> {
    let rules = supervisor.rules(rule).await?;
    let mut inputs = supervisor.inputs().await?;
    let reflectors = if rule.is_none() { supervisor.reflectors(None).await? } else { Vec::new() };
    if rule.is_some() {
        inputs.retain(|input| rules.iter().any(|rule| feeds(input, rule)));
    }
    check(&rules, &inputs, segments.len())?;
    // A list of all flows of all rules would be longer than an answer may be.
    let flows =
        if let ([of], true) = (&rules[..], rule.is_some()) { busiest(segments, of.slot) } else { Vec::new() };
    let flow_places = flows.iter().map(|(worker, slot)| Place::Flow(*worker, *slot));
    let places: Vec<_> = places(&rules, &inputs).into_iter().chain(flow_places).collect();
    sampler.prepare(&places, rule.is_none()).await;
    let classes = classes::configured(supervisor).await?;
    let time_ns = realtime_ns();
    let inputs: Vec<_> = inputs.into_iter().map(|input| input_stats(&input, segments, sampler)).collect();
    Ok(Stats {
        time_ns,
        rules: rules
            .into_iter()
            .map(|of| {
                let flow_list = rule.map(|_| flow_list(&flows, segments, of.slot, sampler, time_ns));
                RuleStats { flow_list, ..rule_stats(of, segments, sampler, time_ns) }
            })
            .collect(),
        classes: classes::sums(&classes, &inputs),
        inputs,
        reflectors,
    })
}

/// Whether the rule's datagrams come in there.
fn feeds(input: &InputView, rule: &RuleView) -> bool {
    (input.worker == rule.worker || input.datapath == Datapath::Kernel)
        && input.interface == rule.spec.input.interface
        && Some(input.datapath) == rule.datapath
        && match (&input.class, &rule.spec.class) {
            (Some(InputClass { name, by: ClassBy::Rule }), wanted) => wanted.as_ref() == Some(name),
            // In none, or in one by their codepoint.
            (_, wanted) => wanted.is_none(),
        }
}

/// Slots out of range would be read beyond the tables, which ends the process.
pub(crate) fn check(rules: &[RuleView], inputs: &[InputView], workers: usize) -> Result<(), Fault> {
    let rules_fit = rules.iter().all(|rule| {
        (rule.slot.0 as usize) < RULE_SLOTS
            && rule.outputs.iter().all(|output| (output.slot.0 as usize) < OUTPUT_SLOTS)
    });
    let inputs_fit = inputs
        .iter()
        .all(|input| (input.slot.0 as usize) < INPUT_SLOTS && usize::from(input.worker.0) < workers);
    if rules_fit && inputs_fit { Ok(()) } else { Err(misunderstood("a list of counters")) }
}

fn places(rules: &[RuleView], inputs: &[InputView]) -> Vec<Place> {
    let inputs = inputs.iter().map(|input| Place::Input(input.worker, input.slot));
    let rules = rules.iter().flat_map(|rule| {
        let outputs = rule.outputs.iter().map(|output| Place::Output(output.slot));
        std::iter::once(Place::Rule(rule.slot)).chain(outputs)
    });
    inputs.chain(rules).collect()
}

fn rule_stats(rule: RuleView, segments: &[Segment], sampler: &Sampler, now_ns: u64) -> RuleStats {
    let sum = sum_rule(segments, rule.slot);
    let rate = sampler.rate(Place::Rule(rule.slot));
    let mean = |count: u64| per_second(count, sum.first_seen_ns, now_ns);
    RuleStats {
        id: rule.id,
        name: view::name(rule.id, rule.spec.name),
        state: rule.state,
        datagrams: sum.datagrams,
        bytes: sum.bytes,
        last_seen_ns: Some(sum.last_seen_ns).filter(|time| *time != 0),
        idle_ns: (sum.last_seen_ns != 0).then(|| now_ns.saturating_sub(sum.last_seen_ns)),
        gap_max_ns: sum.gap_max_ns,
        jitter_ns: sum.jitter_ns,
        flows: sum.flows,
        rate_pps: rate.datagrams,
        rate_bps: rate.bits,
        mean_pps: mean(sum.datagrams),
        mean_bps: mean(sum.bytes.saturating_mul(8)),
        flow_list: None,
        latency: latency(segments, rule.slot),
        outputs: rule.outputs.iter().map(|output| output_stats(output, segments, sampler)).collect(),
    }
}

/// Since the first datagram.
fn per_second(count: u64, first_seen_ns: u64, now_ns: u64) -> f64 {
    let ns = now_ns.saturating_sub(first_seen_ns);
    // A fraction of a second would make a rate of one datagram's worth absurdly high.
    if first_seen_ns == 0 { 0.0 } else { count as f64 * 1e9 / ns.max(1_000_000_000) as f64 }
}

/// Where the flows of a rule are counted that have most datagrams, in that order.
fn busiest(segments: &[Segment], rule: RuleSlot) -> Vec<(WorkerIndex, FlowSlot)> {
    let mut flows: Vec<_> = rows(segments, rule).collect();
    // By source where they are equal, so that the order holds still.
    flows.sort_unstable_by_key(|(.., flow)| (Reverse(flow.datagrams), flow.source));
    flows.into_iter().take(FLOWS_LISTED_MAX).map(|(worker, slot, _)| (worker, slot)).collect()
}

fn rows(segments: &[Segment], rule: RuleSlot) -> impl Iterator<Item = (WorkerIndex, FlowSlot, FlowSum)> + '_ {
    let segments = segments.iter().zip(0..);
    segments.flat_map(move |(segment, worker)| {
        segment.flows_of(rule).map(move |(slot, flow)| (WorkerIndex(worker), slot, flow))
    })
}

fn flow_list(
    listed: &[(WorkerIndex, FlowSlot)],
    segments: &[Segment],
    rule: RuleSlot,
    sampler: &Sampler,
    now_ns: u64,
) -> FlowList {
    let flows = listed.iter().filter_map(|(worker, slot)| {
        // Gone, if the rule has left its worker since.
        let flow = segments[usize::from(worker.0)].flow(*slot).of(rule)?;
        let rate = sampler.rate(Place::Flow(*worker, *slot));
        let mean = |count: u64| per_second(count, flow.first_seen_ns, now_ns);
        Some(FlowStats {
            source: flow.source,
            worker: worker.0,
            datagrams: flow.datagrams,
            bytes: flow.bytes,
            first_seen_ns: flow.first_seen_ns,
            last_seen_ns: flow.last_seen_ns,
            rate_pps: rate.datagrams,
            rate_bps: rate.bits,
            mean_pps: mean(flow.datagrams),
            mean_bps: mean(flow.bytes.saturating_mul(8)),
        })
    });
    let flows: Vec<_> = flows.collect();
    FlowList {
        left_out: (rows(segments, rule).count() as u64).saturating_sub(flows.len() as u64),
        overflow_datagrams: segments.iter().map(|segment| segment.flow_overflow(rule)).sum(),
        flows,
    }
}

fn latency(segments: &[Segment], slot: RuleSlot) -> Option<Latency> {
    let sum = sum_latency(segments, slot);
    let datagrams = sum.datagrams();
    Some(Latency {
        datagrams,
        mean_ns: sum.sum_ns().checked_div(datagrams)?,
        p50_ns: sum.quantile_ns(0.5)?,
        p90_ns: sum.quantile_ns(0.9)?,
        p99_ns: sum.quantile_ns(0.99)?,
        p999_ns: sum.quantile_ns(0.999)?,
    })
}

fn output_stats(output: &OutputView, segments: &[Segment], sampler: &Sampler) -> OutputStats {
    let sum = sum_output(segments, output.slot);
    let rate = sampler.rate(Place::Output(output.slot));
    let mut send_errors = BTreeMap::new();
    for (errno, count) in sum.send_errors {
        *send_errors.entry(errno_name(errno)).or_default() += count;
    }
    OutputStats {
        output: output.output.to_string(),
        copies: sum.copies,
        bytes: sum.bytes,
        drops: OutputDrop::ALL
            .iter()
            .map(|reason| (reason.name().into(), sum.drops[*reason as usize]))
            .collect(),
        send_errors,
        rate_pps: rate.datagrams,
        rate_bps: rate.bits,
    }
}

fn input_stats(input: &InputView, segments: &[Segment], sampler: &Sampler) -> InputStats {
    let counters = segments[usize::from(input.worker.0)].input(input.slot);
    let rate = sampler.rate(Place::Input(input.worker, input.slot));
    InputStats {
        worker: input.worker.0,
        interface: input.interface.to_string(),
        datapath: input.datapath,
        class: input.class.as_ref().map(|class| class.name.clone()),
        class_by: input.class.as_ref().map(|class| class.by),
        open: input.open,
        frames: counters.frames.get(),
        datagrams: counters.received(),
        bytes: counters.bytes.get(),
        matched: counters.matched.get(),
        drops: InputDrop::ALL
            .iter()
            .map(|reason| (reason.name().into(), counters.dropped(*reason)))
            .collect(),
        rate_pps: rate.datagrams,
        rate_bps: rate.bits,
    }
}

/// The name as in errno(3); 0 stands for all that the counters had no place for.
pub(crate) fn errno_name(errno: i32) -> String {
    match Errno::from_raw(errno) {
        _ if errno == 0 => "other".into(),
        Errno::UnknownErrno => format!("errno_{errno}"),
        known => format!("{known:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_go_by_their_names() {
        assert_eq!(errno_name(101), "ENETUNREACH");
        assert_eq!(errno_name(0), "other");
        assert_eq!(errno_name(9999), "errno_9999");
    }
}
