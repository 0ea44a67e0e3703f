//! A traced datagram as clients see it: with names for slots.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write,
};

use mcr_metrics::trace::{FrameKind, TracedCopy};
use mcr_proto::{
    message::{InputView, RuleView},
    plan::{InputSlot, OutputSlot},
    rpc::{TraceClock, TraceLink, TraceOutput, TraceRecord, TraceSuperframe},
    rule::{Datapath, RuleName},
};

use super::gather::Datagram;
use crate::{stats::errno_name, view};

/// Names of what records refer to.
#[derive(Debug, Default)]
pub(super) struct Names {
    rule: Option<RuleName>,
    inputs: HashMap<InputSlot, (String, Datapath)>,
    outputs: BTreeMap<OutputSlot, String>,
}

impl Names {
    pub(super) fn of(rule: Option<&RuleView>) -> Self {
        let mut names =
            Self { rule: rule.map(|rule| view::name(rule.id, rule.spec.name.clone())), ..Self::default() };
        rule.into_iter().for_each(|rule| names.learn_outputs(rule));
        names
    }

    pub(super) fn learn_inputs(&mut self, views: &[InputView]) {
        let inputs = views.iter().map(|view| (view.slot, (view.interface.to_string(), view.datapath)));
        self.inputs.extend(inputs);
    }

    /// Those of a rule whose outputs were exchanged meanwhile come beside the old ones: records of both may be there.
    pub(super) fn learn_outputs(&mut self, rule: &RuleView) {
        self.outputs.extend(rule.outputs.iter().map(|output| (output.slot, output.output.to_string())));
    }

    /// Whether inputs, and outputs, are among these that have no name yet.
    pub(super) fn lacks(&self, datagrams: &[Datagram]) -> (bool, bool) {
        let inputs = datagrams.iter().any(|one| !self.inputs.contains_key(&one.record.input));
        let mut copies = datagrams.iter().flat_map(|one| &one.copies);
        (inputs, copies.any(|copy| !self.outputs.contains_key(&copy.output)))
    }

    pub(super) fn record(&self, datagram: &Datagram) -> TraceRecord {
        let Datagram { number, worker, record, frame, .. } = datagram;
        let (interface, datapath) =
            self.inputs.get(&record.input).cloned().unwrap_or_else(|| ("?".into(), Datapath::Packet));
        let read = record.addresses;
        TraceRecord {
            number: *number,
            time_ns: record.time_ns,
            clock: if record.is_kernel_time { TraceClock::Kernel } else { TraceClock::Worker },
            worker: *worker,
            interface,
            datapath,
            source: read.map(|(source, _)| source),
            destination: read.map(|(_, destination)| destination),
            ttl: read.map(|_| record.hop_limit),
            dscp: read.map(|_| record.traffic_class >> 2),
            bytes: record.bytes,
            superframe: (record.datagrams > 1)
                .then_some(TraceSuperframe { index: record.index, datagrams: record.datagrams }),
            rule: record.rule.and(self.rule.clone()),
            drop: record.drop.map(|drop| drop.name().to_owned()),
            outputs: self.copies(datagram),
            link: match record.frame {
                FrameKind::Ethernet => TraceLink::Ethernet,
                FrameKind::Ip => TraceLink::Ip,
            },
            frame_bytes: record.frame_bytes,
            frame: hex(frame),
        }
    }

    /// In the order of the rule, as far as it is known; those of which nothing is known last.
    fn copies(&self, datagram: &Datagram) -> Vec<TraceOutput> {
        let mut known: Vec<_> = datagram.copies.iter().collect();
        known.sort_by_key(|copy| copy.output);
        let mut outputs: Vec<_> = known.iter().map(|copy| self.copy(copy)).collect();
        let lacking = (datagram.record.outputs as usize).saturating_sub(outputs.len());
        let is_known = |slot: &OutputSlot| known.iter().any(|copy| copy.output == *slot);
        let outcome = if datagram.is_lost { "worker_lost" } else { "unknown" };
        let unknown = self.outputs.iter().filter(|(slot, _)| !is_known(slot)).take(lacking);
        outputs.extend(unknown.map(|(_, name)| TraceOutput {
            output: name.clone(),
            outcome: outcome.into(),
            errno: None,
            time_ns: None,
        }));
        outputs
    }

    fn copy(&self, copy: &TracedCopy) -> TraceOutput {
        TraceOutput {
            output: self.outputs.get(&copy.output).cloned().unwrap_or_else(|| "?".into()),
            outcome: copy.drop.map_or("sent", |drop| drop.name()).to_owned(),
            errno: (copy.errno != 0).then(|| errno_name(copy.errno)),
            time_ns: Some(copy.time_ns),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
