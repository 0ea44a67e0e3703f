//! What the program has counted, on its way into the segment that all counters of the kernel data path are in.

use std::collections::HashMap;

use mcr_ebpf::Delta;
use mcr_metrics::Segment;
use mcr_proto::{counters::OutputDrop, plan::InputSlot};

use super::flows;

/// Adds a difference. `inputs` says where an interface is counted, `offset_ns` what is to be added to the program's time for that since 1970.
pub(super) fn note_delta(
    counters: &Segment,
    inputs: &HashMap<u32, InputSlot>,
    flows: &mut flows::Rows,
    offset_ns: u64,
    delta: Delta,
) {
    match delta {
        Delta::Flow { slot, source, datagrams, bytes, first_seen_ns, last_seen_ns } => {
            let [first_ns, last_ns] = [first_seen_ns, last_seen_ns].map(|time_ns| time_ns + offset_ns);
            flows.count(counters, slot, source, [datagrams, bytes], [first_ns, last_ns]);
        }
        Delta::Input { ifindex, frames, datagrams, bytes, matched, drops } => {
            let Some(slot) = inputs.get(&ifindex) else { return };
            let input = counters.input(*slot);
            input.frames.add(frames);
            input.datagrams.add(datagrams);
            input.bytes.add(bytes);
            input.matched.add(matched);
            drops.iter().for_each(|(reason, count)| input.drops[*reason as usize].add(*count));
        }
        Delta::Rule { slot, datagrams, bytes, first_seen_ns, last_seen_ns, flows, flow_overflow, times } => {
            let rule = counters.rule(slot);
            rule.told(datagrams, bytes, first_seen_ns + offset_ns, last_seen_ns + offset_ns);
            rule.told_times(times.gap_max_ns, times.jitter_ns);
            rule.flows.add(flows);
            if flow_overflow > 0 {
                counters.flow_overflowed(slot, flow_overflow);
            }
        }
        Delta::Output { slot, copies, bytes, drops, errno } => {
            let output = counters.output(slot);
            output.copies.add(copies);
            output.bytes.add(bytes);
            drops.iter().for_each(|(reason, count)| output.drops[*reason as usize].add(*count));
            let errors =
                drops.iter().find(|(reason, _)| *reason == OutputDrop::SendError).map_or(0, |drop| drop.1);
            let (errno, known) = errno.unwrap_or((0, 0));
            if known > 0 {
                output.send_errors.add(errno, known.min(errors));
            }
            if errors > known {
                output.send_errors.add(0, errors - known);
            }
        }
    }
}
