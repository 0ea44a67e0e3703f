//! What the loop does about configuration, log and events; the rest of requests is in `requests`.

use std::{fs::OpenOptions, os::unix::fs::OpenOptionsExt};

use mcr_proto::message::{Facility, Fault, FaultKind, LogLevel, Reply, Request, ToControl, ToWorker, tag};
use nix::libc::O_NONBLOCK;
use tracing::{error, info, warn};

use super::{Event, Supervisor};
use crate::{reflect::set, save::write_whole};

/// Messages of events that may wait for control to read them; what happens meanwhile is gathered.
const EVENT_MESSAGES_MAX: usize = 4;

/// How often control is given a configuration file that it does not survive.
const RELOAD_TRIES_MAX: u32 = 2;

impl Supervisor<'_> {
    /// Carries out what is about the daemon itself; gives back what is about its state.
    pub(super) fn handle_here(&mut self, seq: u64, request: Request) -> Option<Request> {
        let reply = match request {
            Request::ConfigSave => {
                if let Some(fault) = self.begin_save(seq) {
                    self.reply(seq, Err(fault));
                }
                return None;
            }
            Request::Doctor => {
                self.begin_doctor(seq);
                return None;
            }
            Request::Why(probe) => {
                self.begin_why(seq, probe);
                return None;
            }
            Request::SettingsGet => Reply::Settings {
                settings: self.state.settings.clone(),
                path: self.options.config.as_ref().map(|path| path.display().to_string()),
            },
            Request::LogGet => Reply::Log(self.options.log.levels),
            Request::LogSet { level, facility } => {
                self.set_log(facility, level);
                Reply::Log(self.options.log.levels)
            }
            Request::ReflectAdd(reflect) => {
                self.add_reflector(seq, *reflect);
                return None;
            }
            Request::ReflectRemove(name) => {
                let removed = set::remove(&mut self.state.settings.reflects, &name);
                self.reply(seq, removed.map(|()| Reply::Done));
                return None;
            }
            Request::ReflectList { name, skip } => {
                let reply = self.list_reflectors(name.as_deref(), skip);
                self.reply(seq, reply);
                return None;
            }
            other => return Some(other),
        };
        self.reply(seq, Ok(reply));
        None
    }

    /// Writes the running configuration in a thread of its own, because a disk may take its time; the answer comes as an event.
    fn begin_save(&mut self, seq: u64) -> Option<Fault> {
        let Some(path) = self.options.config.clone() else {
            let message = "mcrd was started without --config, so there is no file to save to; start it with one, or \
                           write what `mcrctl save --stdout` prints to a file";
            return Some(Fault::new(FaultKind::Unsupported, message));
        };
        if self.saving {
            return Some(Fault::new(FaultKind::Busy, "the configuration is being saved; try again"));
        }
        let (text, rules) = match self.state.to_toml() {
            Ok(made) => made,
            Err(fault) => return Some(fault),
        };
        self.saving = true;
        let (start, sender) = (self.control.starts, self.sender.clone());
        tokio::task::spawn_local(async move {
            let shown = path.display().to_string();
            let written = tokio::task::spawn_blocking(move || write_whole(&path, &text)).await;
            let reply = match written.map_err(std::io::Error::other).and_then(|written| written) {
                Ok(()) => {
                    let rules = u32::try_from(rules).unwrap_or(u32::MAX);
                    info!(rules, "configuration saved to {shown}");
                    Ok(Reply::Saved { path: shown, rules })
                }
                Err(problem) => {
                    let message = format!("{shown}: cannot be written, and is as it was: {problem}");
                    error!("{message}");
                    let denied = problem.kind() == std::io::ErrorKind::PermissionDenied;
                    let kind = if denied { FaultKind::NotPermitted } else { FaultKind::Internal };
                    Err(Fault::new(kind, message))
                }
            };
            let _ = sender.send(Event::Saved { start, seq, reply }).await;
        });
        None
    }

    /// Sets levels, and tells those who need not say what nobody would print.
    fn set_log(&mut self, facility: Option<Facility>, level: LogLevel) {
        self.options.log.set(facility, level);
        let shown = facility.map_or("everything", Facility::name);
        info!("log level of {shown} is {level} now");
        let levels = self.options.log.levels;
        for running in self.state.workers.iter().filter_map(|worker| worker.running.as_ref()) {
            let _ = running.send(&ToWorker::LogLevel(levels.of(Facility::Worker)), Vec::new());
        }
        if let Some(running) = &self.control.running {
            let _ = running.send(&ToControl::LogLevel(levels.of(Facility::Control)), Vec::new());
        }
    }

    /// Has control read the startup configuration again; it comes back as a load. Nothing of it is looked at here.
    pub(super) fn reload(&mut self) {
        if self.options.config.is_none() {
            warn!("SIGHUP: nothing to load again, mcrd was started without --config");
            return;
        }
        self.reload_wanted = Some(0);
        if self.control.ready {
            self.reload_if_wanted();
        } else {
            info!("SIGHUP: the configuration is loaded again when control is there");
        }
    }

    /// As asked for, or once more if control ended before it had done it.
    pub(super) fn reload_if_wanted(&mut self) {
        let Some((tries, path)) = self.reload_wanted.zip(self.options.config.as_ref()) else { return };
        let Some(running) = &self.control.running else { return };
        let file = path.display().to_string();
        if tries >= RELOAD_TRIES_MAX {
            error!("{file}: control ended {tries} times while it loaded it; the running configuration stays");
            self.reload_wanted = None;
            return;
        }
        self.reload_wanted = Some(tries + 1);
        // Not to be kept waiting by a pipe without a writer.
        match OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(path) {
            Ok(opened) => {
                let message = ToControl::Reload { file };
                if let Err(problem) = running.send(&message, vec![(tag::CONFIG, opened.into())]) {
                    error!("the configuration cannot be handed to control: {problem}");
                }
            }
            Err(problem) => {
                error!("{file}: cannot read it: {problem}; the running configuration stays");
                self.reload_wanted = None;
            }
        }
    }

    /// Tells control what happened, as far as it keeps up.
    pub(super) fn tell_events(&mut self) {
        let Some(running) = self.control.running.as_ref().filter(|_| self.control.ready) else { return };
        while running.waiting() < EVENT_MESSAGES_MAX
            && let Some(events) = self.state.events.take()
        {
            let _ = running.send(&ToControl::Events { events }, Vec::new());
        }
    }

    pub(super) fn note_saved(&mut self, start: u32, seq: u64, reply: Result<Reply, Fault>) {
        self.saving = false;
        if self.control.starts == start {
            self.reply(seq, reply);
        }
    }
}
