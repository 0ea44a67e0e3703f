//! The `trace` methods: what workers show of single datagrams in shared memory, put together for whoever asked.
//!
//! A trace belongs to the connection that started it and ends with it; also when it is complete, when its time is over, and when
//! nobody has asked for its records for a while. What has been recorded can be had for that while, then it is forgotten.
//!
//! A datagram is told when its worker has settled it (the outcomes of its copies are known), or cannot any more because it died.
//! What was overwritten before it was read is counted as missed. The memory for what waits is bounded: nothing more is read while
//! much of it does.

mod gather;
mod record;

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    time::Duration,
};

use mcr_proto::{
    message::{Fault, FaultKind, InputView, Reply, Request, RuleRef, RuleView, Sampling, Tracing},
    plan::WorkerIndex,
    rpc::{TraceRecords, TraceStart, TraceStarted},
};
use tokio::time::{Instant, sleep, sleep_until};

use crate::{
    client::Service,
    supervisor::misunderstood,
    trace::{
        gather::{End, Gathering},
        record::Names,
    },
    view,
};

/// How long workers may take to begin. Those that take longer are traced as soon as they do.
const BEGIN_WITHIN: Duration = Duration::from_secs(1);
/// How often they are looked at meanwhile.
const BEGIN_LOOK: Duration = Duration::from_millis(1);
/// How long workers may take to end. What those that take longer have not settled by then is not waited for.
const END_WITHIN: Duration = Duration::from_secs(1);
/// What the records of one answer may take, about.
const ANSWER_BYTES: usize = 8 << 20;

/// The traces of all clients.
#[derive(Debug, Default)]
pub(crate) struct Traces {
    all: RefCell<HashMap<u64, Rc<Trace>>>,
}

#[derive(Debug)]
struct Trace {
    id: u64,
    sampling: Sampling,
    /// Ends then.
    until: Instant,
    /// When somebody has last wanted to know.
    asked: Cell<Instant>,
    /// Why it has ended, and when.
    ended: Cell<Option<(&'static str, Instant)>>,
    gathering: RefCell<Gathering>,
    names: RefCell<Names>,
    rule: Option<RuleRef>,
}

impl Traces {
    fn find(&self, id: u64) -> Option<Rc<Trace>> {
        self.all.borrow().get(&id).cloned()
    }

    fn known(&self, id: u64) -> Result<Rc<Trace>, Fault> {
        self.find(id).ok_or_else(|| {
            let message = format!(
                "no trace {id}; it ends with the connection that started it, and is forgotten when nobody asks for its records"
            );
            Fault::new(FaultKind::NotFound, message).at("id")
        })
    }
}

/// Starts a trace; when this returns, it is on in every worker that answers. The caller has to see to [`look_after`] and [`end`].
pub(crate) async fn start(service: &Service, start: TraceStart) -> Result<TraceStarted, Fault> {
    let TraceStart { trace: wanted, seconds } = start;
    let sampling = wanted.sampling;
    // Before the first record can come.
    let cursors: Vec<_> = service.segments.iter().map(|segment| segment.trace().end()).collect();
    let reply = service.supervisor.ask(Request::TraceStart(wanted)).await?;
    let Reply::Tracing(Tracing { id, place, workers, rule }) = reply else {
        return Err(misunderstood("TraceStart"));
    };
    let gathering = Gathering::new(id, place, cursors).ok_or_else(|| misunderstood("TraceStart"))?;
    wait_for(service, &gathering, &workers).await;
    let now = Instant::now();
    let name = rule.as_ref().map(|rule| view::name(rule.id, rule.spec.name.clone()));
    let trace = Trace {
        id,
        sampling,
        until: now + Duration::from_secs(seconds.into()),
        asked: Cell::new(now),
        ended: Cell::new(None),
        gathering: RefCell::new(gathering),
        rule: rule.as_ref().map(|rule| RuleRef::Id(rule.id)),
        names: RefCell::new(Names::of(rule.as_deref())),
    };
    service.traces.all.borrow_mut().insert(id, Rc::new(trace));
    Ok(TraceStarted { id, rule: name, seconds })
}

async fn wait_for(service: &Service, gathering: &Gathering, workers: &[WorkerIndex]) {
    let until = Instant::now() + BEGIN_WITHIN;
    for worker in workers {
        let Some(segment) = service.segments.get(usize::from(worker.0)) else { continue };
        while !gathering.is_on_in(segment) && Instant::now() < until {
            sleep(BEGIN_LOOK).await;
        }
    }
}

/// What a trace has shown since the last time.
pub(crate) async fn get(service: &Service, id: u64) -> Result<TraceRecords, Fault> {
    let trace = service.traces.known(id)?;
    trace.asked.set(Instant::now());
    let count = trace.sampling.count;
    let end = match trace.ended.get() {
        None => End::NotYet,
        Some((_, at)) if at.elapsed() < END_WITHIN => End::Told,
        Some(_) => End::Overdue,
    };
    let gathered = trace.gathering.borrow_mut().take(&service.segments, count, end, ANSWER_BYTES);
    if let (Some(reason), true) = (gathered.ended, trace.ended.get().is_none()) {
        finish(service, &trace, reason).await;
    }
    complete_names(service, &trace, &gathered.datagrams).await?;
    let names = trace.names.borrow();
    let records = gathered.datagrams.iter().map(|datagram| names.record(datagram)).collect();
    let reason = trace.ended.get().filter(|_| gathered.done).map(|(reason, _)| reason.to_owned());
    Ok(TraceRecords { records, seen: gathered.seen, missed: gathered.missed, done: gathered.done, reason })
}

/// Asks for names of what datagrams refer to, where they are not known yet.
async fn complete_names(
    service: &Service,
    trace: &Trace,
    datagrams: &[gather::Datagram],
) -> Result<(), Fault> {
    let (inputs, outputs) = trace.names.borrow().lacks(datagrams);
    if inputs {
        let views: Vec<InputView> = service.supervisor.inputs().await?;
        trace.names.borrow_mut().learn_inputs(&views);
    }
    if let (true, Some(rule)) = (outputs, &trace.rule) {
        // A rule that is gone has taken the names of its outputs along.
        let views: Vec<RuleView> = service.supervisor.rules(Some(rule)).await.unwrap_or_default();
        views.iter().for_each(|view| trace.names.borrow_mut().learn_outputs(view));
    }
    Ok(())
}

/// Ends a trace; what it has recorded can still be had.
pub(crate) async fn stop(service: &Service, id: u64) -> Result<(), Fault> {
    let trace = service.traces.known(id)?;
    finish(service, &trace, "stopped").await;
    Ok(())
}

async fn finish(service: &Service, trace: &Trace, reason: &'static str) {
    if trace.ended.get().is_none() {
        trace.ended.set(Some((reason, Instant::now())));
        // A supervisor that does not answer has ended it, or ends all of them with this process.
        let _ = service.supervisor.ask(Request::TraceStop { id: trace.id }).await;
    }
}

/// Ends and forgets traces whose client is gone.
pub(crate) async fn end(service: &Service, ids: &[u64]) {
    for id in ids {
        let trace = service.traces.all.borrow_mut().remove(id);
        if let Some(trace) = trace {
            finish(service, &trace, "its client is gone").await;
        }
    }
}

/// Ends a trace in time, and forgets it when nobody asks for it any more.
pub(crate) async fn look_after(service: Rc<Service>, id: u64) {
    let idle = service.limits.trace_idle;
    while let Some(trace) = service.traces.find(id) {
        let unasked = trace.asked.get() + idle;
        let (is_on, now) = (trace.ended.get().is_none(), Instant::now());
        let due = if is_on { unasked.min(trace.until) } else { unasked };
        if now < due {
            // Not kept: it may be forgotten meanwhile.
            drop(trace);
            sleep_until(due).await;
        } else if is_on {
            let reason = if now >= trace.until { "its time is over" } else { "nobody asked for its records" };
            finish(&service, &trace, reason).await;
            trace.asked.set(Instant::now());
        } else {
            service.traces.all.borrow_mut().remove(&id);
        }
    }
}
