//! The supervisor's views as clients see them.

use mcr_proto::{
    message::{InterfaceView, OutputView, RuleView, WorkerView},
    rpc::{InterfaceInfo, RuleInfo, StateInfo, WorkerInfo},
    rule::{RuleId, RuleName},
};

pub(crate) fn rule(view: RuleView) -> RuleInfo {
    let RuleView { id, spec, state, reason, worker, datapath, datapath_reason, swallowed, slot: _, outputs } =
        view;
    RuleInfo {
        id,
        name: name(id, spec.name),
        input: spec.input.to_string(),
        outputs: spec.outputs.iter().map(ToString::to_string).collect(),
        output_states: outputs.into_iter().map(output_state).collect(),
        class: spec.class,
        enabled: spec.enabled,
        state,
        reason,
        worker: worker.0,
        datapath,
        datapath_wanted: spec.datapath,
        datapath_reason,
        swallowed,
    }
}

fn output_state(view: OutputView) -> StateInfo {
    StateInfo { state: view.state, reason: view.reason }
}

/// The rule's name. The supervisor gives one to a rule that came without.
pub(crate) fn name(id: RuleId, name: Option<RuleName>) -> RuleName {
    name.unwrap_or_else(|| format!("rule-{id}").parse().expect("letters and a number make a name"))
}

pub(crate) fn worker(view: WorkerView) -> WorkerInfo {
    let WorkerView { index, pid, state, core, io, restarts, rules, sockets, desired, applied } = view;
    WorkerInfo {
        index: index.0,
        pid,
        state,
        core,
        io,
        restarts,
        rules,
        sockets,
        desired_generation: desired.0,
        applied_generation: applied.0,
    }
}

pub(crate) fn interface(view: InterfaceView) -> InterfaceInfo {
    let InterfaceView { index, name, up, running, multicast, mtu, mac, addresses, kind, rules } = view;
    let mac = mac.map(|mac| mac.map(|byte| format!("{byte:02x}")).join(":"));
    InterfaceInfo { index, name, up, running, multicast, mtu, mac, addresses, kind, rules }
}
