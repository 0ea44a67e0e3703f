//! `/metrics`: every counter under its name in Prometheus. docs/operations.md says what raises each.
//!
//! Labels are what the configuration names: rules, outputs, reflectors, interfaces, classes, workers, and reasons of a fixed list. Flows and senders are
//! counted, not named. Beyond [`OUTPUTS_MAX`] outputs their series are left out, and a metric says how many.

mod reflectors;

use hyper::StatusCode;
use mcr_metrics::{
    LatencySum, OutputSum, RuleSum, Segment,
    clock::monotonic_ns,
    prometheus::{CONTENT_TYPE, Exposition, Kind, Value},
    sum_latency, sum_output, sum_rule,
};
use mcr_proto::{
    counters::{InputDrop, OutputDrop},
    message::{
        Fault, InputView, InterfaceView, OutputView, ReflectView, RuleState, RuleView, WorkerState,
        WorkerView,
    },
    rpc::PROTOCOL,
    rule::RuleName,
};

use super::{Document, Web, shelf};
use crate::{answer::VERSION, stats, view};

/// Outputs with series of their own, in the order of rules; about 1.5 kB each.
const OUTPUTS_MAX: usize = 10_000;

/// Rules with a histogram of latencies, in the order of rules; about 2 kB each.
const LATENCIES_MAX: usize = 1_000;

const STATES: [RuleState; 5] =
    [RuleState::Active, RuleState::Paused, RuleState::Unresolved, RuleState::Failed, RuleState::Disabled];

/// What there is, as it stands.
#[derive(Debug)]
pub(super) struct Looked {
    pub(super) rules: Vec<RuleView>,
    pub(super) inputs: Vec<InputView>,
    pub(super) workers: Vec<WorkerView>,
    pub(super) interfaces: Vec<InterfaceView>,
    pub(super) reflectors: Vec<ReflectView>,
}

impl Web {
    pub(super) async fn metrics(&self) -> Document {
        let make = async {
            match self.look_at_all().await {
                Ok(looked) => {
                    let text = render(&looked, &self.service.segments, monotonic_ns());
                    Document::new(StatusCode::OK, CONTENT_TYPE, text)
                }
                Err(fault) => Document::plain(StatusCode::SERVICE_UNAVAILABLE, fault.message),
            }
        };
        self.shelf.get(shelf::Kind::Metrics, make).await
    }

    async fn look_at_all(&self) -> Result<Looked, Fault> {
        let supervisor = &self.service.supervisor;
        let looked = Looked {
            rules: supervisor.rules(None).await?,
            inputs: supervisor.inputs().await?,
            workers: supervisor.workers().await?,
            interfaces: supervisor.interfaces().await?,
            reflectors: supervisor.reflectors(None).await?,
        };
        stats::check(&looked.rules, &looked.inputs, self.service.segments.len())?;
        Ok(looked)
    }
}

/// A rule with its counters.
struct Rule<'a> {
    name: RuleName,
    view: &'a RuleView,
    sum: RuleSum,
}

/// An output with its counters.
struct Output<'a> {
    rule: &'a RuleName,
    text: String,
    view: &'a OutputView,
    sum: OutputSum,
}

/// The whole text. The slots must be within the segments.
pub(super) fn render(looked: &Looked, segments: &[Segment], now_ns: u64) -> String {
    let rules: Vec<_> = looked.rules.iter().map(|rule| Rule::new(rule, segments)).collect();
    let all = rules.iter().flat_map(|rule| rule.view.outputs.iter().map(|output| (&rule.name, output)));
    let left_out = all.clone().count().saturating_sub(OUTPUTS_MAX);
    let outputs: Vec<_> =
        all.take(OUTPUTS_MAX).map(|(rule, output)| Output::new(rule, output, segments)).collect();
    let mut text = Exposition::default();
    daemon(&mut text, left_out);
    rule_series(&mut text, &rules);
    latency_series(&mut text, &rules, segments);
    output_series(&mut text, &outputs);
    input_series(&mut text, &looked.inputs, segments);
    worker_series(&mut text, &looked.workers, segments, now_ns);
    interface_series(&mut text, &looked.interfaces);
    reflectors::series(&mut text, &looked.reflectors);
    text.finish()
}

impl<'a> Rule<'a> {
    fn new(view: &'a RuleView, segments: &[Segment]) -> Self {
        let name = view::name(view.id, view.spec.name.clone());
        Self { name, view, sum: sum_rule(segments, view.slot) }
    }
}

impl<'a> Output<'a> {
    fn new(rule: &'a RuleName, view: &'a OutputView, segments: &[Segment]) -> Self {
        Self { rule, text: view.output.to_string(), view, sum: sum_output(segments, view.slot) }
    }
}

fn daemon(text: &mut Exposition, outputs_left_out: usize) {
    let mut info = text.family("mcr_build_info", Kind::Gauge, "Always 1; the labels say which mcrd this is.");
    info.sample(&[("version", &VERSION), ("protocol", &PROTOCOL)], 1_u32);
    let help = "Outputs whose series are left out here because there are too many.";
    text.family("mcr_outputs_left_out", Kind::Gauge, help).sample(&[], outputs_left_out as u64);
}

fn rule_series(text: &mut Exposition, rules: &[Rule<'_>]) {
    let mut family = text.family("mcr_rules", Kind::Gauge, "Rules by state.");
    for state in STATES {
        let count = rules.iter().filter(|rule| rule.view.state == state).count();
        family.sample(&[("state", &state)], count as u64);
    }
    let mut family =
        text.family("mcr_rule_state", Kind::Gauge, "1 for the state that the rule is in, 0 for others.");
    for rule in rules {
        for state in STATES {
            family.sample(&[("rule", &rule.name), ("state", &state)], rule.view.state == state);
        }
    }
    let help = "Always 1; the labels say where the rule takes its datagrams and who carries it.";
    let mut family = text.family("mcr_rule_info", Kind::Gauge, help);
    for rule in rules {
        let (input, worker) = (&rule.view.spec.input, rule.view.worker.0);
        let datapath = rule.view.datapath.map(|datapath| datapath.to_string()).unwrap_or_default();
        let labels: [(_, &dyn std::fmt::Display); 4] =
            [("rule", &rule.name), ("input", input), ("worker", &worker), ("datapath", &datapath)];
        family.sample(&labels, 1_u32);
    }
    let mut each = |name, kind, help, value: &dyn Fn(&Rule<'_>) -> Option<Value>| {
        let mut family = text.family(name, kind, help);
        for rule in rules {
            if let Some(value) = value(rule) {
                family.sample(&[("rule", &rule.name)], value);
            }
        }
    };
    each("mcr_rule_datagrams_total", Kind::Counter, "Datagrams that matched the rule.", &|rule| {
        Some(rule.sum.datagrams.into())
    });
    each(
        "mcr_rule_bytes_total",
        Kind::Counter,
        "Payload bytes of the datagrams that matched the rule.",
        &|rule| Some(rule.sum.bytes.into()),
    );
    each(
        "mcr_rule_flows_total",
        Kind::Counter,
        "Different source addresses and ports seen by the rule.",
        &|rule| Some(rule.sum.flows.into()),
    );
    let help = "When the rule's last datagram came, in seconds since 1970; absent before the first.";
    each("mcr_rule_last_datagram_timestamp_seconds", Kind::Gauge, help, &|rule| {
        (rule.sum.last_seen_ns > 0).then(|| (rule.sum.last_seen_ns as f64 / 1e9).into())
    });
    let help = "When the rule's first datagram came, in seconds since 1970; absent before it.";
    each("mcr_rule_first_datagram_timestamp_seconds", Kind::Gauge, help, &|rule| {
        (rule.sum.first_seen_ns > 0).then(|| (rule.sum.first_seen_ns as f64 / 1e9).into())
    });
    let seconds = |ns: u64| Value::from(ns as f64 / 1e9);
    let help = "The longest time between two arrivals while the rule was carried; absent before the second.";
    each("mcr_rule_gap_max_seconds", Kind::Gauge, help, &|rule| rule.sum.gap_max_ns.map(seconds));
    let help = "How much the time between arrivals varies, smoothed as in RFC 3550; absent before the third.";
    each("mcr_rule_jitter_seconds", Kind::Gauge, help, &|rule| rule.sum.jitter_ns.map(seconds));
}

fn latency_series(text: &mut Exposition, rules: &[Rule<'_>], segments: &[Segment]) {
    let mut seen: Vec<(&RuleName, LatencySum)> = Vec::new();
    let mut left_out = 0_u64;
    // A rule that relayed nothing has nothing to say, nor has one that only the kernel carried.
    let is_timed = |rule: &&Rule<'_>| segments.iter().any(|segment| segment.rule(rule.view.slot).is_timed());
    for rule in rules.iter().filter(is_timed) {
        if seen.len() < LATENCIES_MAX {
            seen.push((&rule.name, sum_latency(segments, rule.view.slot)));
        } else {
            left_out += 1;
        }
    }
    let help = "Rules with latencies that are left out here because there are too many.";
    text.family("mcr_rule_latencies_left_out", Kind::Gauge, help).sample(&[], left_out);
    let help = "How long datagrams took from reception to the kernel having taken, or refused, their last copy; absent on the kernel path.";
    let mut family = text.family("mcr_rule_latency_seconds", Kind::Histogram, help);
    for (rule, sum) in seen {
        let below = sum.doublings().map(|(ns, count)| (ns as f64 / 1e9, count));
        family.histogram(&[("rule", rule)], below, sum.datagrams(), sum.sum_ns() as f64 / 1e9);
    }
}

fn output_series(text: &mut Exposition, outputs: &[Output<'_>]) {
    let mut each = |name, kind, help, value: fn(&Output<'_>) -> Value| {
        let mut family = text.family(name, kind, help);
        for output in outputs {
            family.sample(&[("rule", output.rule), ("output", &output.text)], value(output));
        }
    };
    each("mcr_output_active", Kind::Gauge, "Whether the output can send.", |output| {
        (output.view.state == RuleState::Active).into()
    });
    each(
        "mcr_output_copies_total",
        Kind::Counter,
        "Datagrams handed to the kernel for the output.",
        |output| output.sum.copies.into(),
    );
    each(
        "mcr_output_bytes_total",
        Kind::Counter,
        "Payload bytes handed to the kernel for the output.",
        |output| output.sum.bytes.into(),
    );
    let help = "Copies that were not sent to the output, by reason.";
    let mut family = text.family("mcr_output_drops_total", Kind::Counter, help);
    for output in outputs {
        for reason in OutputDrop::ALL {
            let labels: [(_, &dyn std::fmt::Display); 3] =
                [("rule", output.rule), ("output", &output.text), ("reason", &reason.name())];
            family.sample(&labels, output.sum.drops[*reason as usize]);
        }
    }
    let help = "Failed sends to the output by the kernel's error; those that occurred.";
    let mut family = text.family("mcr_output_send_errors_total", Kind::Counter, help);
    for output in outputs {
        for (errno, count) in &output.sum.send_errors {
            let errno = stats::errno_name(*errno);
            family.sample(&[("rule", output.rule), ("output", &output.text), ("errno", &errno)], *count);
        }
    }
}

fn input_series(text: &mut Exposition, inputs: &[InputView], segments: &[Segment]) {
    let counters = |input: &InputView| segments[usize::from(input.worker.0)].input(input.slot);
    let mut each = |name, kind, help, value: &dyn Fn(&InputView) -> Value| {
        let mut family = text.family(name, kind, help);
        for input in inputs {
            family.sample(&input_labels(input), value(input));
        }
    };
    each("mcr_input_open", Kind::Gauge, "Whether a socket is open for the input.", &|input| {
        input.open.into()
    });
    let help = "Frames taken from the kernel; one that the kernel merged of many is one.";
    each("mcr_input_frames_total", Kind::Counter, help, &|input| counters(input).frames.get().into());
    let help = "Datagrams that came, those that the kernel dropped included.";
    each("mcr_input_datagrams_total", Kind::Counter, help, &|input| counters(input).received().into());
    let help = "Payload bytes of the datagrams taken from the kernel.";
    each("mcr_input_bytes_total", Kind::Counter, help, &|input| counters(input).bytes.get().into());
    let help = "Datagrams that at least one rule took.";
    each("mcr_input_matched_total", Kind::Counter, help, &|input| counters(input).matched.get().into());
    let help = "Datagrams that no rule got, by reason.";
    let mut family = text.family("mcr_input_drops_total", Kind::Counter, help);
    for input in inputs {
        for reason in InputDrop::ALL {
            let name = reason.name();
            let mut labels = input_labels(input);
            labels.push(("reason", &name));
            family.sample(&labels, counters(input).dropped(*reason));
        }
    }
}

/// Only inputs of a class say which.
fn input_labels(input: &InputView) -> Vec<(&'static str, &dyn std::fmt::Display)> {
    let mut labels: Vec<(_, &dyn std::fmt::Display)> =
        vec![("worker", &input.worker.0), ("interface", &input.interface), ("datapath", &input.datapath)];
    if let Some(class) = &input.class {
        labels.extend([("class", &class.name as &dyn std::fmt::Display), ("class_by", &class.by)]);
    }
    labels
}

fn worker_series(text: &mut Exposition, workers: &[WorkerView], segments: &[Segment], now_ns: u64) {
    let mut each = |name, kind, help, value: &dyn Fn(&WorkerView) -> Option<Value>| {
        let mut family = text.family(name, kind, help);
        for worker in workers {
            if let Some(value) = value(worker) {
                family.sample(&[("worker", &worker.index.0)], value);
            }
        }
    };
    each("mcr_worker_up", Kind::Gauge, "Whether the worker takes rules.", &|worker| {
        Some((worker.state == WorkerState::Running).into())
    });
    each("mcr_worker_restarts_total", Kind::Counter, "How often the worker was started again.", &|worker| {
        Some(worker.restarts.into())
    });
    let header = |worker: &WorkerView| Some(segments.get(usize::from(worker.index.0))?.header());
    let help = "Seconds since the worker's loop turned; it turns at least twice a second.";
    each("mcr_worker_heartbeat_age_seconds", Kind::Gauge, help, &|worker| {
        let beat_ns = header(worker)?.heartbeat_ns.get();
        (beat_ns > 0).then(|| (now_ns.saturating_sub(beat_ns) as f64 / 1e9).into())
    });
    each("mcr_worker_turns_total", Kind::Counter, "Turns of the worker's loop.", &|worker| {
        Some(header(worker)?.turns.get().into())
    });
    each("mcr_worker_rules", Kind::Gauge, "Rules that the worker carries.", &|worker| {
        Some(worker.rules.into())
    });
    each("mcr_worker_sockets", Kind::Gauge, "Sockets that the worker holds.", &|worker| {
        Some(worker.sockets.into())
    });
    let help = "Whether the worker has not applied yet what it should have.";
    each("mcr_worker_plan_pending", Kind::Gauge, help, &|worker| {
        Some((worker.applied < worker.desired).into())
    });
}

/// Only interfaces that rules use: a host of containers has thousands.
fn interface_series(text: &mut Exposition, interfaces: &[InterfaceView]) {
    let help = "Whether an interface that rules use is up and has a carrier.";
    let mut family = text.family("mcr_interface_up", Kind::Gauge, help);
    for interface in interfaces.iter().filter(|interface| interface.rules > 0) {
        family.sample(&[("interface", &interface.name)], interface.up && interface.running);
    }
}
