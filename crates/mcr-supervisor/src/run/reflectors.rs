//! What the loop does about reflectors: they follow the configuration, like rules.

use std::time::Instant;

use mcr_proto::{
    message::{Fault, FaultKind, Reply},
    reflect::Reflect,
};

use super::{Event, Supervisor};
use crate::{
    options::SupervisorError,
    reflect::set,
    requests::{ANSWER_WITHIN, page},
};

impl Supervisor<'_> {
    /// Brings the reflectors in line with the configuration, and answers clients that wait for one.
    pub(super) fn reconcile_reflectors(&mut self) -> Result<(), SupervisorError> {
        let wanted = &self.state.settings.reflects;
        self.reflectors.reconcile(wanted, self.options.ids, self.monitor.snapshot());
        let started = self.reflectors.start_due(&self.sender, Event::Reflector);
        started.map_err(SupervisorError::system("start a reflector"))?;
        let now = Instant::now();
        for (seq, name, created, until) in std::mem::take(&mut self.reflect_waiting) {
            if !self.reflectors.is_settled(&name) && now < until {
                self.reflect_waiting.push((seq, name, created, until));
                continue;
            }
            let reply = match self.reflectors.views(Some(&name)).pop() {
                Some(reflector) => Ok(Reply::ReflectAdded { reflector: Box::new(reflector), created }),
                // Its predecessor has yet to end, or it was removed meanwhile.
                None => {
                    Err(Fault::new(FaultKind::Busy, format!("reflector {name} has not begun yet; it will")))
                }
            };
            self.reply(seq, reply);
        }
        Ok(())
    }

    /// Adds a reflector; the client hears of it when it reflects, or when it is known why not.
    pub(super) fn add_reflector(&mut self, seq: u64, reflect: Reflect) {
        let name = set::name(&reflect);
        match set::add(&mut self.state.settings.reflects, reflect) {
            Ok(created) => self.reflect_waiting.push((seq, name, created, Instant::now() + ANSWER_WITHIN)),
            Err(fault) => self.reply(seq, Err(fault)),
        }
    }

    pub(super) fn list_reflectors(&self, name: Option<&str>, skip: u32) -> Result<Reply, Fault> {
        let views = self.reflectors.views(name);
        match name {
            Some(name) if views.is_empty() => Err(set::not_found(name)),
            _ => {
                let (reflectors, more) = page(views.into_iter().skip(skip as usize));
                Ok(Reply::Reflectors { reflectors, more })
            }
        }
    }
}
