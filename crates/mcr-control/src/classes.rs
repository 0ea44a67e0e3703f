//! Counters of classes: sums over the inputs of each.

use std::collections::BTreeMap;

use mcr_proto::{
    config::{Class, PRIORITY_MAX},
    message::{Fault, Reply, Request},
    rpc::{ClassStats, InputStats},
};

use crate::supervisor::{Supervisor, misunderstood};

/// The classes that are configured.
pub(crate) async fn configured(supervisor: &Supervisor) -> Result<Vec<Class>, Fault> {
    match supervisor.ask(Request::SettingsGet).await? {
        Reply::Settings { settings, .. } => Ok(settings.classes),
        _ => Err(misunderstood("SettingsGet")),
    }
}

/// What these inputs took in, by class. Nothing where there are no classes.
pub(crate) fn sums(classes: &[Class], inputs: &[InputStats]) -> Vec<ClassStats> {
    if classes.is_empty() {
        return Vec::new();
    }
    let named = classes.iter().map(|class| (Some(class.name.as_str()), class.priority));
    named.chain([(None, PRIORITY_MAX)]).map(|(name, priority)| sum(name, priority, inputs)).collect()
}

fn sum(name: Option<&str>, priority: u8, inputs: &[InputStats]) -> ClassStats {
    let mut sum = ClassStats {
        name: name.map(Into::into),
        priority,
        datagrams: 0,
        bytes: 0,
        matched: 0,
        drops: BTreeMap::new(),
        rate_pps: 0.0,
        rate_bps: 0.0,
    };
    for input in inputs.iter().filter(|input| input.class.as_deref() == name) {
        sum.datagrams += input.datagrams;
        sum.bytes += input.bytes;
        sum.matched += input.matched;
        sum.rate_pps += input.rate_pps;
        sum.rate_bps += input.rate_bps;
        for (reason, count) in &input.drops {
            *sum.drops.entry(reason.clone()).or_default() += count;
        }
    }
    sum
}
