//! Looking at the host for those who ask what is wrong with it. Asking the kernel takes its time, so that is done in a thread of
//! its own; what the daemon knows is taken along as a survey.

use std::{collections::BTreeSet, time::Duration};

use mcr_doctor::{Facts, Survey, diagnose, obstacles};
use mcr_metrics::Segment;
use mcr_proto::{
    counters::{InputDrop, OutputDrop},
    message::{Explanation, Fault, FaultKind, IoChoice, Reply, WorkerState},
    plan::{InputSlot, OutputSlot},
    probe::Probe,
    rule::Datapath,
};

use super::{Event, Supervisor};

/// For how long drops are watched, to tell those of now from those of long ago.
const WATCH: Duration = Duration::from_millis(400);
/// Where clients look for the daemon by themselves.
const USUAL_SOCKET: &str = "/run/mcr/mcrd.sock";

/// Who waits for a diagnosis.
#[derive(Debug, Default)]
pub(super) struct Patients {
    /// One is under way.
    busy: bool,
    /// Asked since it began: what it saw may be older than what they want to know.
    next: Vec<u64>,
}

/// A step that a thread has done.
#[derive(Debug)]
pub(super) enum Looked {
    /// The host has been asked; drops are counted once more now.
    Gathered(Box<(Survey, Facts)>),
    /// The answer.
    Done(Result<Reply, Fault>),
}

impl Supervisor<'_> {
    pub(super) fn begin_doctor(&mut self, seq: u64) {
        self.patients.next.push(seq);
        self.next_patients();
    }

    fn next_patients(&mut self) {
        if self.patients.busy || self.patients.next.is_empty() {
            return;
        }
        self.patients.busy = true;
        let seqs = std::mem::take(&mut self.patients.next);
        let survey = self.survey();
        self.in_thread(seqs, true, move || {
            let facts = Facts::gather(&survey, WATCH);
            Looked::Gathered(Box::new((survey, facts)))
        });
    }

    pub(super) fn begin_why(&mut self, seq: u64, probe: Probe) {
        self.state.count_drops();
        let snapshot = self.monitor.snapshot();
        let explanation = self.state.explain(&probe, snapshot);
        let by_udp = explanation.rules.iter().any(|rule| rule.datapath == Some(Datapath::Udp));
        if !by_udp {
            self.reply(seq, Ok(Reply::Explanation(Box::new(explanation))));
            return;
        }
        let mut survey = Survey::default();
        survey.links.extend(snapshot.link_by_name(probe.interface.as_str()).cloned());
        let back = snapshot.route_to(probe.source.ip()).map(|hit| hit.index);
        self.in_thread(vec![seq], false, move || {
            let facts = Facts::gather(&survey, Duration::ZERO);
            let obstacles = obstacles(&survey, &facts, &probe, back);
            let explanation = Explanation { obstacles, ..explanation };
            Looked::Done(Ok(Reply::Explanation(Box::new(explanation))))
        });
    }

    pub(super) fn note_looked(&mut self, start: u32, seqs: Vec<u64>, doctor: bool, looked: Looked) {
        match looked {
            Looked::Gathered(gathered) => {
                let (mut survey, facts) = *gathered;
                // What sockets dropped meanwhile is counted only when somebody asks.
                self.state.count_drops();
                self.count(&mut survey);
                self.in_thread(seqs, doctor, move || {
                    Looked::Done(Ok(Reply::Diagnosis(Box::new(diagnose(&survey, &facts)))))
                });
            }
            Looked::Done(reply) => {
                if self.control.starts == start {
                    seqs.into_iter().for_each(|seq| self.reply(seq, reply.clone()));
                }
                if doctor {
                    self.patients.busy = false;
                    self.next_patients();
                }
            }
        }
    }

    /// Does something that takes its time; what comes of it is an event.
    fn in_thread(&self, seqs: Vec<u64>, doctor: bool, work: impl FnOnce() -> Looked + Send + 'static) {
        let (start, sender) = (self.control.starts, self.sender.clone());
        tokio::task::spawn_local(async move {
            let looked = tokio::task::spawn_blocking(work).await.unwrap_or_else(|problem| {
                Looked::Done(Err(Fault::new(
                    FaultKind::Internal,
                    format!("looking at the host failed: {problem}"),
                )))
            });
            let _ = sender.send(Event::Looked { start, seqs, doctor, looked }).await;
        });
    }

    fn survey(&mut self) -> Survey {
        self.state.count_drops();
        let network = self.monitor.snapshot();
        let mut survey = Survey::of_host(network);
        if self.options.socket.as_os_str() != USUAL_SOCKET {
            survey.mcrctl = format!("mcrctl --socket {}", self.options.socket.display());
        }
        let workers = &self.state.workers;
        survey.no_packet_sockets = !self.state.abilities.raw_sockets;
        let without = workers
            .iter()
            .filter(|worker| worker.state == WorkerState::Running && worker.io == Some(IoChoice::Syscalls));
        if self.options.io == IoChoice::Auto {
            survey.workers_without_uring = u32::try_from(without.count()).unwrap_or(u32::MAX);
        }
        survey.no_bpf = self.state.kernel.refusal.clone();
        for rule in self.state.rules.all() {
            survey.add_rule(self.state.view(rule), network);
        }
        let used: BTreeSet<_> = self.state.rules.all().map(|rule| rule.spec.input.interface).collect();
        for input in self.state.inputs.views(None, &self.state.classes, |_, _| true) {
            if used.contains(&input.interface) {
                survey.add_input(&input);
            }
        }
        self.count(&mut survey);
        survey
    }

    fn count(&self, survey: &mut Survey) {
        let segments = || self.state.segments();
        let input = |worker: u16, slot: InputSlot| {
            let of = |segment: &Segment| {
                std::array::from_fn(|index| segment.input(slot).dropped(InputDrop::ALL[index]))
            };
            segments().nth(usize::from(worker)).map_or([0; InputDrop::COUNT], of)
        };
        let output = |slot: OutputSlot| {
            std::array::from_fn::<_, { OutputDrop::COUNT }, _>(|index| {
                segments().map(|segment| segment.output(slot).drops[index].get()).sum()
            })
        };
        survey.count(input, output);
    }
}
