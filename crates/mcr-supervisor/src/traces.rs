//! Which traces are on, and what workers, and the kernel data path, are told of them. What workers show goes past the supervisor, in
//! shared memory.
//!
//! A trace ends with the process that asked for it (control), with its rule, or when it is stopped; control sees to it that it is. A
//! worker that was started again is told of all that are on.

use mcr_metrics::trace::TRACES_MAX;
use mcr_proto::{
    endpoint::IfName,
    message::{Fault, FaultKind, Reply, ToWorker, TraceOf, TraceOrder, TraceWanted, Traced, Tracing},
    plan::{InputSlot, RuleSlot, WorkerIndex},
};
use tracing::info;

use crate::{
    kernel::Kernel,
    state::{State, not_found},
    worker::Worker,
};

/// The traces that are on.
#[derive(Debug, Default)]
pub(crate) struct Traces {
    orders: Vec<TraceOrder>,
    last_id: u64,
}

impl Traces {
    /// An order for a trace, if there is a place for it.
    fn add(&mut self, wanted: &TraceWanted, what: TraceOf) -> Result<TraceOrder, Fault> {
        let is_free = |place: &u8| self.orders.iter().all(|order| order.place != *place);
        let Some(place) = (0..TRACES_MAX as u8).find(is_free) else {
            let message =
                format!("{TRACES_MAX} traces are on, which is the limit; end one, or try again later");
            return Err(Fault::new(FaultKind::Limit, message));
        };
        self.last_id += 1;
        let order = TraceOrder { place, id: self.last_id, what, sampling: wanted.sampling };
        self.orders.push(order.clone());
        Ok(order)
    }

    /// Forgets those that are meant, and has them ended.
    fn end(&mut self, workers: &[Worker], kernel: &mut Kernel, is_meant: impl Fn(&TraceOrder) -> bool) {
        kernel.end_traces(&is_meant);
        for order in self.orders.extract_if(.., |order| is_meant(order)) {
            tell(workers, &ToWorker::EndTrace { place: order.place, id: order.id });
        }
    }
}

impl State {
    /// Has workers show what becomes of datagrams.
    pub(crate) fn start_trace(&mut self, wanted: &TraceWanted) -> Result<Reply, Fault> {
        let (what, rule) = match &wanted.what {
            Traced::Rule(reference) => {
                let rule = self.rules.find(reference).ok_or_else(|| not_found(reference))?;
                (TraceOf::Rule(rule.slot), Some(Box::new(self.view(rule))))
            }
            Traced::Drops(interface) => (TraceOf::Drops(self.inputs_at(interface)?), None),
        };
        let order = self.traces.add(wanted, what)?;
        let TraceOrder { id, place, .. } = order;
        info!(trace = id, rule = rule.as_ref().map(|rule| rule.id.0), "trace started");
        self.kernel.begin_trace(order.clone());
        let workers = tell(&self.workers, &ToWorker::Trace(order));
        Ok(Reply::Tracing(Tracing { id, place, workers, rule }))
    }

    /// Ends a trace, if it is on.
    pub(crate) fn stop_trace(&mut self, id: u64) {
        self.traces.end(&self.workers, &mut self.kernel, |order| order.id == id);
    }

    /// Whoever asked for traces is gone.
    pub(crate) fn forget_traces(&mut self) {
        self.traces.end(&self.workers, &mut self.kernel, |_| true);
    }

    /// A rule's slot is about to be another's.
    pub(crate) fn end_traces_of(&mut self, rule: RuleSlot) {
        self.traces.end(&self.workers, &mut self.kernel, |order| order.what == TraceOf::Rule(rule));
    }

    /// A worker begins and knows nothing.
    pub(crate) fn resume_traces(&self, worker: WorkerIndex) {
        let worker = &self.workers[usize::from(worker.0)];
        for order in &self.traces.orders {
            tell(std::slice::from_ref(worker), &ToWorker::Trace(order.clone()));
        }
    }

    fn inputs_at(&self, interface: &IfName) -> Result<Vec<InputSlot>, Fault> {
        let views = self.inputs.views(None, &self.classes, |_, _| false);
        let slots: Vec<_> =
            views.iter().filter(|view| view.interface == *interface).map(|view| view.slot).collect();
        if slots.is_empty() {
            let message = format!(
                "no rule takes anything in at {interface}; `mcrctl stats` shows the inputs there are"
            );
            return Err(Fault::new(FaultKind::NotFound, message).at("drops"));
        }
        Ok(slots)
    }
}

/// Tells the workers that run; which those are.
fn tell(workers: &[Worker], message: &ToWorker) -> Vec<WorkerIndex> {
    let running = workers.iter().filter(|worker| worker.is_running());
    let told = running.filter_map(|worker| {
        let sent = worker.running.as_ref()?.send(message, Vec::new());
        sent.is_ok().then_some(worker.index)
    });
    told.collect()
}
