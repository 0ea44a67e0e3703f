//! The supervisor as seen from here: ask, and get the whole answer or a fault within the deadline.
//!
//! Invariant: a request that is waited for is in `waiting`; one that nobody waits for any more is not, and its late reply
//! is dropped.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
};

use mcr_fdpass::{AsyncChannel, Received, RecvError, SendError};
use mcr_metrics::{INPUT_SLOTS, RULE_SLOTS};
use mcr_proto::{
    codec,
    config::Config,
    message::{
        Fault, FaultKind, FromControl, InputView, InterfaceView, LoadId, LoadReport, LoadStep, ReflectView,
        Reply, Request, RuleRef, RuleView, Settings, ToControl, WorkerView,
    },
};
use tokio::{
    sync::{Semaphore, oneshot},
    time::timeout,
};

use crate::{ControlError, limits::Limits, logs::Lines};

/// How much of a configuration one message carries; a rule of 1,024 outputs fits.
const PART_BYTES_MAX: usize = 64 * 1024;

type Answer = Result<Reply, Fault>;

#[derive(Debug)]
pub(crate) struct Supervisor {
    channel: AsyncChannel,
    waiting: RefCell<HashMap<u64, oneshot::Sender<Answer>>>,
    last_seq: Cell<u64>,
    last_load: Cell<u64>,
    places: Semaphore,
    limits: Limits,
}

/// A request's place in `waiting`, given up however waiting ends.
struct Waiting<'a> {
    supervisor: &'a Supervisor,
    seq: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.supervisor.waiting.borrow_mut().remove(&self.seq);
    }
}

impl Supervisor {
    pub(crate) fn new(channel: AsyncChannel, limits: Limits) -> Self {
        let places = Semaphore::new(limits.requests_max);
        Self {
            channel,
            waiting: RefCell::default(),
            last_seq: Cell::new(0),
            last_load: Cell::new(0),
            places,
            limits,
        }
    }

    /// The next message; none when the supervisor is gone. Dropping the future loses nothing.
    pub(crate) async fn message(
        &self,
        body: &mut Vec<u8>,
    ) -> Result<Option<(ToControl, Received)>, ControlError> {
        match self.channel.recv(body).await {
            Ok(received) => {
                let message = codec::decode(body).map_err(ControlError::Message)?;
                Ok(Some((message, received)))
            }
            Err(RecvError::Closed) => Ok(None),
            Err(error) => Err(ControlError::Receive(error)),
        }
    }

    /// Hands a reply to whoever waits for it.
    pub(crate) fn deliver(&self, seq: u64, reply: Answer) {
        if let Some(waiter) = self.waiting.borrow_mut().remove(&seq) {
            // A waiter that has just given up needs no reply.
            let _ = waiter.send(reply);
        }
    }

    pub(crate) async fn ready(&self) -> Result<(), ControlError> {
        let body = codec::encode(&FromControl::Ready).map_err(ControlError::Message)?;
        self.channel.send(&body, &[]).await.map_err(ControlError::Send)
    }

    /// Says something that nobody waits to see sent. Lost if there is no room for it now: a supervisor that does not read
    /// has other worries.
    pub(crate) fn tell(&self, message: &FromControl) {
        if let Ok(body) = codec::encode(message) {
            let _ = self.channel.try_send(&body, &[]);
        }
    }

    /// Sends lines for the log as the supervisor takes them, one after the other, for ever.
    pub(crate) async fn send_logs(&self, lines: &Lines) -> ! {
        loop {
            let (level, text) = lines.next().await;
            if let Ok(body) = codec::encode(&FromControl::Log { level, text }) {
                // A supervisor that is gone ends this process by its channel.
                let _ = self.channel.send(&body, &[]).await;
            }
        }
    }

    /// Sends what is left of the log, as far as there is room.
    pub(crate) fn flush_logs(&self, lines: &Lines) {
        while let Some((level, text)) = lines.pop() {
            self.tell(&FromControl::Log { level, text });
        }
    }

    pub(crate) async fn ask(&self, request: Request) -> Answer {
        let seq = self.last_seq.get() + 1;
        self.last_seq.set(seq);
        let body =
            codec::encode(&FromControl::Request { seq, request }).map_err(|error| too_large(&error))?;
        let exchange = async {
            let _place = self.places.acquire().await.map_err(|_| gone())?;
            let (sender, receiver) = oneshot::channel();
            self.waiting.borrow_mut().insert(seq, sender);
            let _waiting = Waiting { supervisor: self, seq };
            self.channel.send(&body, &[]).await.map_err(|error| match error {
                SendError::TooLarge { .. } => too_large(&error),
                _ => gone(),
            })?;
            receiver.await.map_err(|_| gone())?
        };
        timeout(self.limits.reply, exchange).await.unwrap_or_else(|_| Err(self.busy()))
    }

    /// Makes a configuration the running one, or a part of it: all of it, or nothing.
    pub(crate) async fn load(&self, config: Config, replace: bool) -> Result<LoadReport, Fault> {
        let load = LoadId(self.last_load.get() + 1);
        self.last_load.set(load.0);
        let (settings, rules) = Settings::split(config);
        let steps = std::iter::once(LoadStep::Begin { replace, settings });
        let steps = steps
            .chain(codec::chunks(rules, PART_BYTES_MAX).into_iter().map(|rules| LoadStep::Part { rules }));
        for step in steps {
            let begins = matches!(step, LoadStep::Begin { .. });
            if let Err(fault) = self.ask(Request::Load { load, step }).await {
                if !begins {
                    // Whether this arrives does not matter: an idle load is forgotten.
                    let _ = self.ask(Request::Load { load, step: LoadStep::Abort }).await;
                }
                return Err(fault);
            }
        }
        match self.ask(Request::Load { load, step: LoadStep::Commit }).await? {
            Reply::Loaded(report) => Ok(report),
            _ => Err(misunderstood("Load")),
        }
    }

    /// One rule, or all in order of id.
    pub(crate) async fn rules(&self, rule: Option<&RuleRef>) -> Result<Vec<RuleView>, Fault> {
        if let Some(rule) = rule {
            return match self.ask(Request::RuleShow(rule.clone())).await? {
                Reply::Rule(view) => Ok(vec![*view]),
                _ => Err(misunderstood("RuleShow")),
            };
        }
        let mut all = Vec::new();
        loop {
            let after = all.last().map(|rule: &RuleView| rule.id);
            let Reply::Rules { rules, more } = self.ask(Request::RuleList { after }).await? else {
                return Err(misunderstood("RuleList"));
            };
            if !append(&mut all, rules, |rule| rule.id, more, RULE_SLOTS)? {
                return Ok(all);
            }
        }
    }

    /// All inputs in order of slot.
    pub(crate) async fn inputs(&self) -> Result<Vec<InputView>, Fault> {
        let mut all = Vec::new();
        loop {
            let after = all.last().map(|input: &InputView| input.slot);
            let Reply::Inputs { inputs, more } = self.ask(Request::InputList { after }).await? else {
                return Err(misunderstood("InputList"));
            };
            if !append(&mut all, inputs, |input| input.slot, more, INPUT_SLOTS)? {
                return Ok(all);
            }
        }
    }

    /// All interfaces in order of index.
    pub(crate) async fn interfaces(&self) -> Result<Vec<InterfaceView>, Fault> {
        const INTERFACES_MAX: usize = 65_536;
        let mut all = Vec::new();
        loop {
            let after = all.last().map(|interface: &InterfaceView| interface.index);
            let Reply::Interfaces { interfaces, more } = self.ask(Request::InterfaceList { after }).await?
            else {
                return Err(misunderstood("InterfaceList"));
            };
            if !append(&mut all, interfaces, |interface| interface.index, more, INTERFACES_MAX)? {
                return Ok(all);
            }
        }
    }

    /// All reflectors, or the one of this name.
    pub(crate) async fn reflectors(&self, name: Option<String>) -> Result<Vec<ReflectView>, Fault> {
        const REFLECTORS_MAX: usize = 4096;
        let mut all = Vec::new();
        loop {
            let skip = u32::try_from(all.len()).unwrap_or(u32::MAX);
            let request = Request::ReflectList { name: name.clone(), skip };
            let Reply::Reflectors { reflectors, more } = self.ask(request).await? else {
                return Err(misunderstood("ReflectList"));
            };
            if (more && reflectors.is_empty()) || all.len() + reflectors.len() > REFLECTORS_MAX {
                return Err(misunderstood("a paged list"));
            }
            all.extend(reflectors);
            if !more {
                return Ok(all);
            }
        }
    }

    pub(crate) async fn workers(&self) -> Result<Vec<WorkerView>, Fault> {
        match self.ask(Request::WorkerList).await? {
            Reply::Workers(workers) => Ok(workers),
            _ => Err(misunderstood("WorkerList")),
        }
    }

    fn busy(&self) -> Fault {
        let message = format!(
            "the supervisor did not answer within {:?}; try again, what was asked may still be carried out",
            self.limits.reply
        );
        Fault::new(FaultKind::Busy, message)
    }
}

/// Appends a page and says whether to ask for another. Pages must get ahead and end, or asking would not.
fn append<T, K: Ord>(
    all: &mut Vec<T>,
    page: Vec<T>,
    key: impl Fn(&T) -> K,
    more: bool,
    count_max: usize,
) -> Result<bool, Fault> {
    let last = all.last().map(&key);
    let ahead = page.first().map(&key).is_none_or(|first| last.is_none_or(|last| first > last));
    let ordered = page.is_sorted_by(|one, next| key(one) < key(next));
    if !ahead || !ordered || (more && page.is_empty()) || all.len() + page.len() > count_max {
        return Err(misunderstood("a paged list"));
    }
    all.extend(page);
    Ok(more)
}

pub(crate) fn misunderstood(request: &str) -> Fault {
    let message = format!(
        "the supervisor's reply to {request} does not fit it; this is a fault of the daemon, restart it"
    );
    Fault::new(FaultKind::Internal, message)
}

fn too_large(error: &dyn std::error::Error) -> Fault {
    Fault::new(
        FaultKind::Limit,
        format!("the request is too large for one rule, split it over several: {error}"),
    )
}

fn gone() -> Fault {
    Fault::new(FaultKind::Internal, "the supervisor is gone; the daemon is stopping")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_that_do_not_get_ahead_are_refused() {
        let page = |all: &mut Vec<u32>, page: &[u32], more| append(all, page.to_vec(), |n| *n, more, 5);
        let mut all = Vec::new();
        assert_eq!(page(&mut all, &[1, 2], true), Ok(true));
        assert!(page(&mut all, &[2], true).is_err(), "again");
        assert!(page(&mut all, &[4, 3], true).is_err(), "out of order");
        assert!(page(&mut all, &[], true).is_err(), "empty, yet more");
        assert!(page(&mut all, &[3, 4, 5, 6], false).is_err(), "too many");
        assert_eq!(page(&mut all, &[], false), Ok(false));
        assert_eq!(page(&mut all, &[7], false), Ok(false));
        assert_eq!(all, [1, 2, 7]);
    }
}
