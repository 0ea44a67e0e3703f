//! What the loop does about children: starts them when they are due, ends those that are stuck, and all of them at the end.

use std::{
    os::fd::AsFd,
    time::{Duration, Instant},
};

use mcr_proto::message::{EventWhat, Facility, ToControl, ToWorker, WorkerState, tag};
use nix::unistd::getuid;
use tracing::{error, warn};

use super::{Event, Supervisor};
use crate::{
    child::{Happened, Role, Running},
    health::{self, LOOK_EVERY, READY_WITHIN, SILENT_MAX},
    options::{Options, SupervisorError},
    state::State,
};

/// How long children may take to stop.
const STOP_WITHIN: Duration = Duration::from_millis(900);
/// How long the kernel may take to end a child that was killed.
const KILLED_WITHIN: Duration = Duration::from_millis(500);

impl Supervisor<'_> {
    /// Ends children that are stuck; their end is noted like any other.
    pub(super) fn look_after_children(&mut self) {
        let now = Instant::now();
        // While this loop was away it heard nobody: the host may have been suspended, or a request to the kernel long.
        let away = now.duration_since(std::mem::replace(&mut self.looked, now));
        if away > 2 * LOOK_EVERY {
            self.control.heard = now.min(self.control.heard + away);
        }
        self.state.go_on_searching();
        self.reflectors.look_after(self.monitor.snapshot());
        let State { workers, events, .. } = &mut self.state;
        for worker in workers {
            if let (Some(running), Some(problem)) = (&worker.running, health::problem(worker, now)) {
                error!(worker = worker.index.0, "{problem}; ending it");
                running.kill();
                events.worker(worker.index, EventWhat::Stuck, Some(problem));
            }
        }
        let control = &self.control;
        let Some(running) = &control.running else { return };
        let patience = if control.ready { SILENT_MAX } else { READY_WITHIN };
        if now.duration_since(control.heard) >= patience {
            error!("control is stuck; ending it");
            running.kill();
        } else if control.ready {
            let _ = running.send(&ToControl::Ping, Vec::new());
        }
    }

    pub(super) fn start_due_children(&mut self) -> Result<(), SupervisorError> {
        let now = Instant::now();
        for index in 0..self.state.workers.len() {
            if self.state.workers[index].start_at.is_some_and(|at| at <= now) {
                self.start_worker(index).map_err(SupervisorError::system("start a worker"))?;
            }
        }
        if self.control.start_at.is_some_and(|at| at <= now) {
            self.start_control().map_err(SupervisorError::system("start the control process"))?;
        }
        Ok(())
    }

    fn start_worker(&mut self, index: usize) -> std::io::Result<()> {
        let worker = &mut self.state.workers[index];
        worker.starts += 1;
        worker.start_at = None;
        worker.enter(WorkerState::Starting, Instant::now());
        worker.backoff.started(Instant::now());
        let wrap = move |event| Event::Worker(index, event);
        let running = Running::start(Role::Worker, worker.starts, self.sender.clone(), wrap)?;
        let Options { io, ids, .. } = self.options;
        let start = ToWorker::Start { index: worker.index, core: worker.core, io, ids };
        let counters = worker.counters.as_fd().try_clone_to_owned()?;
        running.send(&start, vec![(tag::COUNTERS, counters)]).map_err(std::io::Error::other)?;
        let level = self.options.log.levels.of(Facility::Worker);
        running.send(&ToWorker::LogLevel(level), Vec::new()).map_err(std::io::Error::other)?;
        let pid = running.pid;
        worker.running = Some(running);
        let index = worker.index;
        self.state.events.worker(index, EventWhat::Started, Some(format!("pid {pid}")));
        Ok(())
    }

    fn start_control(&mut self) -> std::io::Result<()> {
        let control = &mut self.control;
        control.starts += 1;
        control.start_at = None;
        control.heard = Instant::now();
        control.backoff.started(Instant::now());
        let running = Running::start(Role::Control, control.starts, self.sender.clone(), Event::Control)?;
        let mut fds = vec![(tag::LISTENER, self.listener.duplicate()?)];
        if let Some(http) = &self.http {
            fds.push((tag::HTTP, http.try_clone()?.into()));
        }
        for worker in &self.state.workers {
            fds.push((tag::COUNTERS, worker.counters.read_only()?));
        }
        // Counted as that of a worker after the last.
        fds.push((tag::COUNTERS, self.state.kernel.counters.read_only()?));
        let start = ToControl::Start {
            segments: self.state.workers.len() as u16 + 1,
            owner_uid: getuid().as_raw(),
            group_gid: self.options.group,
            others_may_read: self.options.others_may_read,
            http: self.options.http.as_ref().map(|(_, http)| http.clone()),
            ids: self.options.ids,
        };
        running.send(&start, fds).map_err(std::io::Error::other)?;
        let level = self.options.log.levels.of(Facility::Control);
        running.send(&ToControl::LogLevel(level), Vec::new()).map_err(std::io::Error::other)?;
        control.running = Some(running);
        Ok(())
    }

    /// Lets the children finish, and ends those that do not.
    pub(super) async fn stop(&mut self) {
        let mut left = self.reflectors.stop();
        for running in self.state.workers.iter().filter_map(|worker| worker.running.as_ref()) {
            let _ = running.send(&ToWorker::Stop, Vec::new());
            left += 1;
        }
        if let Some(running) = &self.control.running {
            let _ = running.send(&ToControl::Stop, Vec::new());
            left += 1;
        }
        let mut deadline = tokio::time::Instant::now() + STOP_WITHIN;
        let mut killed = false;
        while left > 0 {
            match tokio::time::timeout_at(deadline, self.events.recv()).await {
                Ok(Some(Event::Worker(_, event))) => {
                    left -= usize::from(matches!(event.what, Happened::Ended { .. }))
                }
                Ok(Some(Event::Reflector(_, _, event))) => {
                    left -= usize::from(matches!(event.what, Happened::Ended { .. }))
                }
                Ok(Some(Event::Control(event))) => {
                    left -= usize::from(matches!(event.what, Happened::Ended { .. }))
                }
                Ok(Some(Event::Saved { .. } | Event::Looked { .. })) => {}
                Ok(None) => return,
                Err(_) if killed => return,
                Err(_) => {
                    warn!("{left} children did not stop in time; killing them");
                    let workers = self.state.workers.iter().filter_map(|worker| worker.running.as_ref());
                    workers.chain(&self.control.running).for_each(Running::kill);
                    self.reflectors.kill();
                    killed = true;
                    deadline += KILLED_WITHIN;
                }
            }
        }
    }
}
