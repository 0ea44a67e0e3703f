//! From what a rule is now to what it has: compiled anew, and what is new taken before what is old is given back.

use mcr_netmon::Snapshot;
use mcr_proto::{
    message::RuleState,
    plan::{RuleSlot, Span, WorkerIndex},
    rule::{Datapath, RuleId, RuleSpec},
};
use mcr_relay::compile::{Abilities, Compiled, Hold, KernelLack, ReceiverKey, compile};

use crate::{
    acquire::{acquire, acquire_in_kernel, leave, release, taken_in},
    events::state_event,
    moves::{Change, Way},
    network::Interfaces,
    rules::Acquired,
    state::{State, log_state},
    worker::Retired,
};

/// What a rule had as the one that it was before a change, at the same worker and for the same datagrams.
#[derive(Debug)]
pub(crate) struct Before {
    pub(crate) slot: RuleSlot,
    pub(crate) acquired: Acquired,
    pub(crate) retired: Retired,
}

impl State {
    /// Compiles a rule and carries out what has changed.
    pub(crate) fn refresh(&mut self, id: RuleId, network: &Snapshot) {
        if self.moves.has(id) {
            if self.goes_on(id, network) {
                self.moves.look_again(id);
                return;
            }
            self.end_move(id);
        }
        self.refresh_from(id, None, network);
    }

    /// Whether a rule that is changing its way can first come to the end of that: it is active, and no circle makes haste.
    fn goes_on(&self, id: RuleId, network: &Snapshot) -> bool {
        let Some(rule) = self.rules.get(id) else { return false };
        let compiled = compile(&rule.spec, &Interfaces(network), self.abilities, &self.classes);
        let ifindex = ifindex_of(&rule.spec, network);
        let is_same = |index: u32| Some(index) == ifindex;
        compiled.state == RuleState::Active
            && !self.guards.contains_key(&rule.spec.input.socket_addr())
            && rule.acquired.receivers.iter().all(|key| is_same(key.ifindex()))
            && self.kernel.ifindex_of(rule.slot).is_none_or(is_same)
    }

    /// As [`State::refresh`], for a rule that was another one `before`.
    pub(crate) fn refresh_from(&mut self, id: RuleId, before: Option<Before>, network: &Snapshot) {
        if let Some((slot, worker)) = self.rules.get(id).map(|rule| (rule.slot, rule.worker)) {
            self.end_drains_at(slot, worker);
        }
        let lanes = WorkerIndex(self.workers.len() as u16);
        let Self {
            rules,
            workers,
            inputs,
            holds,
            abilities,
            classes,
            guards,
            kernel,
            events,
            recompile,
            moves,
            ..
        } = self;
        let Some(mut rule) = rules.get_mut(id) else { return };
        let rule = &mut *rule;
        let is_circle = guards.contains_key(&rule.spec.input.socket_addr());
        let able = match is_circle {
            true => Abilities { kernel: abilities.kernel.and(Err(KernelLack::Circle)), ..*abilities },
            false => *abilities,
        };
        let mut compiled = compile(&rule.spec, &Interfaces(network), able, classes);
        if rule.compiled.as_ref() == Some(&compiled) && !rule.status.refused() {
            return;
        }
        if compiled.datapath != Some(Datapath::Packet) {
            kernel.swallowing.let_go(rule.spec.input.socket_addr());
        }
        let worker = &mut workers[usize::from(rule.worker.0)];
        // First the new, then the old: a socket or membership that both need stays.
        let (old_slot, mut old, retired) = match before {
            Some(Before { slot, acquired, retired }) => {
                worker.go_on_from(rule.slot, Some(slot));
                (slot, acquired, Some(retired))
            }
            None => (rule.slot, std::mem::take(&mut rule.acquired), None),
        };
        // An interface that was made again is another one: nothing comes by the old one that could come by the new one as well.
        let ifindex = ifindex_of(&rule.spec, network);
        let is_relayed = worker.is_running()
            && !worker.inputs_of(old_slot).is_empty()
            && old.receivers.iter().all(|key| Some(key.ifindex()) == ifindex);
        let (mut carried, mut way) = (None, None);
        if compiled.datapath == Some(Datapath::Kernel) && compiled.state == RuleState::Active {
            // A packet socket sees frames before the program does: where nobody relays what it lets in, it lets nothing in any more.
            let is_packet = |key: &&ReceiverKey| matches!(key, ReceiverKey::Packet { .. });
            let packet: Vec<_> = old.receivers.iter().filter(is_packet).copied().collect();
            let close = || {
                let shut = packet.iter().filter(|_| !is_relayed);
                shut.for_each(|key| worker.sockets.exclude(key, old_slot));
            };
            let input = inputs.slot(lanes, rule.spec.input.interface, Datapath::Kernel, None);
            let span = if is_relayed { Span::NEVER } else { Span::ALWAYS };
            let now = without_guard(&compiled, &old);
            match acquire_in_kernel(rule, &now, (input, span), holds, kernel, network, close) {
                Ok(status) => {
                    way = (is_relayed && rule.acquired.kernel).then_some(Way::ToKernel);
                    if !rule.acquired.kernel {
                        // It failed, and its sockets go.
                        worker.set_route(rule.slot, None);
                    }
                    rule.generation = worker.desired;
                    carried = Some(status);
                }
                Err(lack) => {
                    let shut = packet.iter().filter(|_| !is_relayed);
                    shut.for_each(|key| worker.sockets.include(key, old_slot));
                    if matches!(lack, KernelLack::NotPermitted | KernelLack::Kernel) {
                        // No rule will be carried there, so each goes elsewhere.
                        abilities.kernel = Err(lack);
                        *recompile = true;
                    }
                    let without = Abilities { kernel: Err(lack), ..*abilities };
                    compiled = compile(&rule.spec, &Interfaces(network), without, classes);
                }
            }
        }
        let status = carried.unwrap_or_else(|| {
            holds.lend(&compiled.receivers, true);
            let status = acquire(rule, &without_guard(&compiled, &old), worker, inputs, holds);
            holds.lend(&compiled.receivers, false);
            status
        });
        let from = old.receivers.clone();
        if status.state == RuleState::Active && !rule.acquired.kernel {
            let is_other = |one: &Acquired, other: &Acquired| {
                one.receivers.iter().any(|key| !other.receivers.contains(key))
            };
            way = match old.kernel {
                // A circle must not go round until a move is done.
                true => (!is_circle && kernel.ifindex_of(old_slot) == ifindex).then_some(Way::FromKernel),
                false => (is_relayed && is_other(&old, &rule.acquired) && is_other(&rule.acquired, &old))
                    .then_some(Way::Within),
            };
        }
        if old.kernel && !rule.acquired.kernel && way.is_none() {
            let taken_over = status.state == RuleState::Active && worker.is_running();
            kernel.release(old_slot, taken_over.then_some((worker.index, rule.generation)));
            old.kernel = false;
        }
        let mut partial = match status.state {
            RuleState::Failed => std::mem::take(&mut rule.acquired),
            _ => Acquired::default(),
        };
        // A receiver knows its rules, once each; the other things count how often they were acquired.
        if old_slot == rule.slot {
            partial.receivers.retain(|key| !old.receivers.contains(key));
            old.receivers.retain(|key| way == Some(Way::ToKernel) || !rule.acquired.receivers.contains(key));
        }
        release(partial, rule.slot, worker, holds, kernel);
        let hold_later = compiled.hold.filter(|hold| rule.acquired.hold != Some(*hold));
        match way {
            Some(way) => {
                moves.begin(Change { way, old_slot, old, from, hold_later, retired }, rule, worker);
            }
            None => {
                if let Some(hold) = hold_later.filter(|_| status.state != RuleState::Failed) {
                    rule.acquired.hold = holds.acquire_beside(hold, workers).is_ok().then_some(hold);
                }
                let worker = &mut workers[usize::from(rule.worker.0)];
                old.kernel &= rule.acquired.kernel && old_slot != rule.slot;
                match rule.acquired.kernel || old_slot != rule.slot {
                    true => leave(old_slot, old, worker, holds, kernel),
                    false => release(old, old_slot, worker, holds, kernel),
                }
                retired.into_iter().for_each(|retired| worker.retire(retired));
            }
        }
        if status != rule.status || rule.compiled.is_none() {
            log_state(rule, &status);
        }
        if status != rule.status {
            events.rule(rule, state_event(status.state), status.why(&rule.spec));
        }
        kernel.swallowing.note(id, taken_in(rule, &compiled, status.state));
        rule.status = status;
        rule.compiled = Some(compiled);
    }
}

/// The interface that a rule takes datagrams in by, as it is now.
fn ifindex_of(spec: &RuleSpec, network: &Snapshot) -> Option<u32> {
    network.link_by_name(spec.input.interface.as_str()).map(|link| link.index)
}

/// What is compiled, less a guard at an address that a UDP socket still takes datagrams at: the kernel would give them to the guard.
fn without_guard(compiled: &Compiled, old: &Acquired) -> Compiled {
    let is_udp = old.receivers.iter().any(|key| matches!(key, ReceiverKey::Udp { .. }));
    let hold = compiled.hold.filter(|hold| !(is_udp && matches!(hold, Hold::Guard { .. })));
    Compiled { hold, ..compiled.clone() }
}
