//! What a rule holds while it is relayed: sockets and memberships at its worker, or its place in the kernel. Taken and given back here;
//! which, and when, says [`State`](crate::state::State).

use std::collections::HashMap;

use mcr_netmon::Snapshot;
use mcr_proto::{
    message::RuleState,
    plan::{InputSlot, RuleSlot, SocketId, Span},
};
use mcr_relay::compile::{Compiled, KernelLack, ReceiverKey};
use mcr_socket::filter::Wanted;

use crate::{
    holds::Holds,
    inputs::Inputs,
    kernel::{Kernel, swallowing::Taken},
    rules::{Acquired, Rule, Status},
    worker::Worker,
};

/// Opens and joins what a compiled rule needs and gives its worker the route; the rule's status, as it turned out.
pub(crate) fn acquire(
    rule: &mut Rule,
    compiled: &Compiled,
    worker: &mut Worker,
    inputs: &mut Inputs,
    holds: &mut Holds,
) -> Status {
    let mut status = status_of(compiled);
    if let Some(hold) = compiled.hold {
        match holds.acquire(hold) {
            Ok(()) => rule.acquired.hold = Some(hold),
            Err(error) => return fail(rule, worker, status, error.to_string()),
        }
    }
    if compiled.receivers.is_empty() {
        rule.generation = worker.set_route(rule.slot, None);
        return status;
    }
    let mut receivers = Vec::new();
    for key in &compiled.receivers {
        match acquire_receiver(rule, *key, compiled, worker, inputs) {
            Ok(socket) => receivers.push(socket),
            Err(reason) => return fail(rule, worker, status, reason),
        }
    }
    let mut sockets = HashMap::new();
    for (output, (state, reason)) in compiled.outputs.iter().zip(&mut status.outputs) {
        let Some(key) = output.sender else { continue };
        match worker.sockets.acquire_sender(key) {
            Ok(socket) => {
                rule.acquired.senders.push(key);
                sockets.insert(key, socket);
            }
            Err(error) => (*state, *reason) = (RuleState::Failed, Some(error)),
        }
    }
    if sockets.is_empty() {
        let reason = status.outputs.iter().find_map(|(_, reason)| reason.clone()).unwrap_or_default();
        return fail(rule, worker, status, reason);
    }
    let route =
        compiled.route(&rule.spec, rule.slot, receivers, &rule.output_slots, |key| sockets.get(key).copied());
    rule.generation = worker.set_route(rule.slot, route);
    status
}

/// Joins what a compiled rule needs and gives the kernel data path what comes of it in `span`; the rule's status, as it turned out. `close`
/// shuts the way it went so far, at the last moment.
pub(crate) fn acquire_in_kernel(
    rule: &mut Rule,
    compiled: &Compiled,
    (input, span): (Option<InputSlot>, Span),
    holds: &mut Holds,
    kernel: &mut Kernel,
    network: &Snapshot,
    close: impl FnOnce(),
) -> Result<Status, KernelLack> {
    let mut status = status_of(compiled);
    let input = input.ok_or(KernelLack::Full)?;
    if let Some(hold) = compiled.hold {
        match holds.acquire(hold) {
            Ok(()) => rule.acquired.hold = Some(hold),
            Err(error) => {
                (status.state, status.reason) = (RuleState::Failed, Some(error.to_string()));
                return Ok(status);
            }
        }
    }
    kernel.follow_guards(holds);
    let carried = kernel.prepare(&rule.spec, network).and_then(|()| {
        close();
        kernel.carry(rule.slot, &rule.spec, &rule.output_slots, input, span, network)
    });
    match carried {
        Ok(()) => {
            rule.acquired.kernel = true;
            Ok(status)
        }
        Err(lack) => {
            if let Some(hold) = rule.acquired.hold.take() {
                holds.release(&hold);
            }
            Err(lack)
        }
    }
}

/// What a rule takes by a packet socket, if it does.
pub(crate) fn taken_in(rule: &Rule, compiled: &Compiled, state: RuleState) -> Option<Taken> {
    let ifindex = compiled.receivers.iter().find_map(|key| match key {
        ReceiverKey::Packet { ifindex, .. } => Some(*ifindex),
        ReceiverKey::Udp { .. } => None,
    });
    let (group, source) = (rule.spec.input.socket_addr(), rule.spec.input.source);
    ifindex.filter(|_| state == RuleState::Active).map(|ifindex| Taken { ifindex, group, source })
}

fn status_of(compiled: &Compiled) -> Status {
    Status {
        state: compiled.state,
        reason: compiled.reason.clone(),
        outputs: compiled.outputs.iter().map(|output| (output.state, output.reason.clone())).collect(),
    }
}

fn acquire_receiver(
    rule: &mut Rule,
    key: ReceiverKey,
    compiled: &Compiled,
    worker: &mut Worker,
    inputs: &mut Inputs,
) -> Result<SocketId, String> {
    let input = &rule.spec.input;
    let wanted = Wanted { destination: input.address, port: input.port, source: input.source };
    let index = worker.index;
    let class = key.lane().classed();
    let slot = || -> Option<InputSlot> { inputs.slot(index, input.interface, compiled.datapath?, class) };
    let socket = worker.sockets.acquire_receiver(
        key,
        rule.slot,
        wanted,
        input.interface.as_str(),
        &worker.counters,
        slot,
    )?;
    rule.acquired.receivers.push(key);
    Ok(socket)
}

fn fail(rule: &mut Rule, worker: &mut Worker, mut status: Status, reason: String) -> Status {
    rule.generation = worker.set_route(rule.slot, None);
    status.state = RuleState::Failed;
    status.reason = Some(reason);
    status
}

/// Takes a rule from a worker that carried it.
pub(crate) fn leave(
    rule: RuleSlot,
    acquired: Acquired,
    worker: &mut Worker,
    holds: &mut Holds,
    kernel: &mut Kernel,
) {
    worker.set_route(rule, None);
    release(acquired, rule, worker, holds, kernel);
}

/// Gives back what a rule held at a worker, or in the kernel.
pub(crate) fn release(
    acquired: Acquired,
    rule: RuleSlot,
    worker: &mut Worker,
    holds: &mut Holds,
    kernel: &mut Kernel,
) {
    if acquired.kernel {
        kernel.release(rule, None);
    }
    for key in &acquired.receivers {
        let alive = worker.is_running();
        worker.sockets.release_receiver(key, rule, &worker.counters, alive);
    }
    acquired.senders.iter().for_each(|key| worker.sockets.release_sender(key));
    if let Some(hold) = acquired.hold {
        holds.release(&hold);
    }
}
