//! Rules and the classes of the settings: which there are, and what becomes of rules when they are others.

use std::collections::HashMap;

use mcr_netmon::Snapshot;
use mcr_proto::{
    config::Class,
    message::{Fault, FaultKind, Settings},
    rule::{DatapathChoice, RuleId, RuleSpec},
};
use mcr_relay::{classes::Lane, compile::ReceiverKey};

use crate::{rules::Rule, state::State};

impl State {
    /// Makes these the settings; rules follow where classes are others than before, but for those that are `changing` anyway, each to this,
    /// or to nothing.
    pub(crate) fn set_settings(
        &mut self,
        settings: Settings,
        changing: &HashMap<RuleId, Option<&RuleSpec>>,
        network: &Snapshot,
    ) {
        self.settings = settings;
        let are_others = self.classes.define(&self.settings.classes);
        self.mark_outdated(changing);
        if are_others {
            let staying = self.rules.all().map(|rule| rule.id).filter(|id| !changing.contains_key(id));
            staying.collect::<Vec<_>>().into_iter().for_each(|id| self.refresh(id, network));
        }
    }

    /// Notes which UDP sockets at addresses of this host will be others: several rules can share one, and the first of them gets the new one
    /// while the others have the old one.
    fn mark_outdated(&mut self, changing: &HashMap<RuleId, Option<&RuleSpec>>) {
        let Self { rules, workers, classes, .. } = self;
        for rule in rules.all() {
            let spec = changing.get(&rule.id).copied().unwrap_or(Some(&rule.spec));
            let class = spec.and_then(|spec| spec.class.as_deref());
            let wanted = class.map_or(Lane::NONE, |class| classes.of_rule(class));
            for key in &rule.acquired.receivers {
                if matches!(key, ReceiverKey::Udp { bound, .. } if !bound.ip().is_multicast()) {
                    let outdated = spec.is_none_or(|spec| leaves(rule, spec)) || key.lane() != wanted;
                    workers[usize::from(rule.worker.0)].sockets.outdate(key, rule.slot, outdated);
                }
            }
        }
    }
}

/// Whether a rule lets go of its UDP sockets when it becomes this, whatever its class.
fn leaves(rule: &Rule, spec: &RuleSpec) -> bool {
    let elsewhere = matches!(spec.datapath, DatapathChoice::Kernel | DatapathChoice::Packet);
    !spec.enabled || elsewhere || spec.input != rule.spec.input
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
