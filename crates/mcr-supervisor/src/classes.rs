//! Rules and the classes of the settings: which there are, and what becomes of rules when they are others.

use mcr_netmon::Snapshot;
use mcr_proto::{
    config::Class,
    message::{Fault, FaultKind, Settings},
    rule::{RuleId, RuleSpec},
};
use mcr_relay::{
    classes::{Classes, Lane},
    compile::ReceiverKey,
};

use crate::{acquire::leave, state::State};

impl State {
    /// Makes these the settings; rules follow where classes are others than before, but for those that are `changing` anyway.
    pub(crate) fn set_settings(&mut self, settings: Settings, changing: &[RuleId], network: &Snapshot) {
        self.settings = settings;
        if self.classes.define(&self.settings.classes) {
            let rules: Vec<_> = self.rules.all().map(|rule| rule.id).collect();
            // All of them before the first new one: several rules can share one.
            rules.iter().for_each(|id| self.free_address(*id));
            let staying = rules.into_iter().filter(|id| !changing.contains(id));
            staying.collect::<Vec<_>>().into_iter().for_each(|id| self.refresh(id, network));
        }
    }

    /// The kernel gives a unicast datagram to one UDP socket only, so that a rule's own goes before it gets one of another class.
    fn free_address(&mut self, id: RuleId) {
        let Some(rule) = self.rules.get(id) else { return };
        if !has_outdated(&rule.acquired.receivers, &rule.spec, &self.classes) {
            return;
        }
        self.end_move(id);
        let Self { rules, workers, holds, kernel, .. } = self;
        let Some(mut rule) = rules.get_mut(id) else { return };
        rule.compiled = None;
        let acquired = std::mem::take(&mut rule.acquired);
        leave(rule.slot, acquired, &mut workers[usize::from(rule.worker.0)], holds, kernel);
    }
}

/// Whether a rule has a UDP socket at a unicast address that is of another class than the rule is now.
pub(crate) fn has_outdated(receivers: &[ReceiverKey], spec: &RuleSpec, classes: &Classes) -> bool {
    let wanted = spec.class.as_deref().map_or(Lane::NONE, |class| classes.of_rule(class));
    receivers.iter().any(|key| {
        matches!(key, ReceiverKey::Udp { bound, lane, .. } if !bound.ip().is_multicast() && *lane != wanted)
    })
}

/// Whether a rule's class is one of these.
pub(crate) fn check(spec: &RuleSpec, classes: &[Class]) -> Result<(), Fault> {
    let Some(class) = &spec.class else { return Ok(()) };
    if classes.iter().any(|known| known.name == *class) {
        return Ok(());
    }
    let known: Vec<_> = classes.iter().map(|class| class.name.as_str()).collect();
    let message = match &known[..] {
        [] => {
            format!("class {class} is not defined; load a configuration with a [[class]] of this name first")
        }
        known => format!("class {class} is not defined; there are {}", known.join(", ")),
    };
    Err(Fault::new(FaultKind::Invalid, message).at("class"))
}
