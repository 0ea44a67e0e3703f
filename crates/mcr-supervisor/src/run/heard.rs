//! What the loop does about events: what children say changes the state, and so does that they ended.

use std::time::Instant;

use mcr_proto::message::{EventWhat, FromControl, FromWorker, WorkerState};
use tracing::{debug, error, info, warn};

use super::{Event, Supervisor};
use crate::{
    child::{ChildEvent, Happened},
    logs, moves,
};

impl Supervisor<'_> {
    /// Takes an event for what it changes; one of a child's life that is over changes nothing.
    pub(super) fn note(&mut self, event: Event) {
        match event {
            Event::Worker(index, ChildEvent { start, what }) => {
                if self.state.workers[index].starts == start {
                    self.note_worker(index, what);
                }
            }
            Event::Control(ChildEvent { start, what }) => {
                if self.control.starts == start {
                    self.note_control(what);
                }
            }
            Event::Reflector(id, process, event) => self.reflectors.note(id, process, event),
            Event::Saved { start, seq, reply } => self.note_saved(start, seq, reply),
            Event::Looked { start, seqs, doctor, looked } => self.note_looked(start, seqs, doctor, looked),
        }
    }

    fn note_worker(&mut self, index: usize, what: Happened<FromWorker>) {
        let worker = &mut self.state.workers[index];
        match what {
            Happened::Said(FromWorker::Ready { io, fallback }) => {
                worker.enter(WorkerState::Running, Instant::now());
                worker.io = Some(io);
                info!(worker = index, ?io, fallback, "worker ready");
                // Of one host, hence of all workers, and of each time one is started: once is enough.
                if let Some(why) = fallback
                    && !std::mem::replace(&mut self.fallback_said, true)
                {
                    warn!("workers use recvmmsg and sendmmsg, because io_uring cannot be used: {why}");
                }
                self.state.events.worker(worker.index, EventWhat::Ready, None);
                worker.begin_anew();
                self.state
                    .guards
                    .iter()
                    .for_each(|(destination, own)| worker.guard(*destination, own.clone()));
                let index = worker.index;
                self.state.resume_traces(index);
            }
            Happened::Said(FromWorker::Applied { generation }) => {
                let index = worker.index;
                let free = self.state.workers[usize::from(index.0)].note_applied(generation);
                self.state.kernel.hand_over(index, generation);
                self.state.recycle(free);
                self.state.finish_moves(index);
                // Before anybody is told that the rules relay.
                self.state.refresh_filters(index);
                self.state.set_moves(index);
            }
            Happened::Said(FromWorker::Refused { problem }) => {
                error!(worker = index, "worker refused: {problem}")
            }
            Happened::Said(FromWorker::Stopped { socket }) => {
                let index = worker.index;
                self.state.note_stopped(index, socket);
            }
            Happened::Said(FromWorker::SocketFailed { socket, errno }) => {
                let reason = std::io::Error::from_raw_os_error(errno);
                warn!(worker = index, socket = socket.0, "receiving failed: {reason}");
            }
            Happened::Said(FromWorker::Log { level, text }) => logs::of_worker(index, level, &text),
            Happened::Ended { clean, how } => {
                let pause = worker.backoff.ended(Instant::now(), clean);
                warn!(worker = index, "worker ended ({how}); starting it again in {} ms", pause.as_millis());
                worker.running = None;
                worker.enter(WorkerState::Backoff, Instant::now());
                worker.start_at = Some(Instant::now() + pause);
                // Nobody writes there any more, and the next one begins with an empty table.
                worker.counters.end_flows();
                let index = worker.index;
                self.state.events.worker(index, EventWhat::Died, Some(how));
                self.state.note_ended(index);
                self.state.count_lost(index);
            }
        }
    }

    fn note_control(&mut self, what: Happened<FromControl>) {
        self.control.heard = Instant::now();
        match what {
            Happened::Said(FromControl::Pong) => {}
            Happened::Said(FromControl::Reloaded) => self.reload_wanted = None,
            Happened::Said(FromControl::Ready) => {
                self.control.ready = true;
                debug!("control ready");
                self.reload_if_wanted();
            }
            Happened::Said(FromControl::Request { seq, request }) => {
                let Some(request) = self.handle_here(seq, request) else { return };
                let waits = !self.held_up.is_empty() || self.state.moves.hold_up(Instant::now());
                match moves::disturbs(&request) && waits {
                    true => self.held_up.push_back((seq, request)),
                    false => self.handle(seq, request),
                }
            }
            Happened::Said(FromControl::Log { level, text }) => logs::of_control(level, &text),
            Happened::Ended { clean, how } => {
                let control = &mut self.control;
                let pause = control.backoff.ended(Instant::now(), clean);
                warn!("control ended ({how}); starting it again in {} ms", pause.as_millis());
                (control.running, control.ready) = (None, false);
                control.start_at = Some(Instant::now() + pause);
                // Their clients are gone with it.
                self.waiting.clear();
                self.held_up.clear();
                self.reflect_waiting.clear();
                self.state.loads.forget();
                self.state.forget_traces();
                self.state.events.forget();
            }
        }
    }
}
