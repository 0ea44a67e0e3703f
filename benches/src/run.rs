//! `peers`: rounds, in each of which every peer takes its turn in every case, so that what disturbs one disturbs all.

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::PathBuf,
    time::Duration,
};

use crate::{
    args::{Measure, Peers, SenderKind},
    burden,
    case::Case,
    cores, cost, interrupt,
    lab::Lab,
    latency::{self, Listen},
    peer::{Peer, Relay},
    record::{Record, Records, Setup},
    rounds,
    search::{RESOLUTION, RESOLUTION_QUICK, Search},
    table, trial,
};

const QUICK: Duration = Duration::from_millis(500);
/// A search that takes more has met noise it cannot get out of; what it has found by then counts.
const TRIALS_MAX: u32 = 16;
const TRIALS_MAX_QUICK: u32 = 6;

/// Measures, writes lines, prints tables.
pub(crate) fn run(args: &Peers) -> anyhow::Result<()> {
    interrupt::arm()?;
    let _cores = cores::take()?;
    cores::pin(cores::watcher())?;
    let mut bench = Bench::new(args)?;
    let result = bench.rounds();
    // What was measured before a failure is shown all the same.
    print!("{}", table::of(bench.records.all()));
    result
}

pub(crate) struct Bench<'a> {
    args: &'a Peers,
    duration: Duration,
    bin_dir: PathBuf,
    lab: Lab,
    records: Records,
    /// Rates found in the round before, where the next search begins.
    known: HashMap<(&'static str, &'static str), f64>,
    absent: HashSet<(&'static str, &'static str)>,
}

/// Whose turn it is.
#[derive(Clone, Copy)]
pub(crate) struct Turn {
    pub(crate) case: Case,
    pub(crate) peer: Peer,
    pub(crate) round: u32,
}

impl Turn {
    fn key(self) -> (&'static str, &'static str) {
        (self.case.name(), self.peer.name())
    }
}

impl<'a> Bench<'a> {
    pub(crate) fn new(args: &'a Peers) -> anyhow::Result<Self> {
        let bin_dir = args.common.bin_dir()?;
        let duration = if args.quick { QUICK } else { Duration::from_millis(args.trial_ms) };
        let mut records = Records::new(args.common.json.as_deref())?;
        let live = args.sender == SenderKind::Live;
        records.push(Record::Setup(Setup {
            steered: !args.no_steering,
            live,
            offload: args.offload,
            ..setup(duration, args.quick)
        }))?;
        let (known, absent) = (HashMap::new(), HashSet::new());
        Ok(Self {
            args,
            duration,
            bin_dir,
            lab: Lab::new(args.sender, !args.no_steering, args.offload)?,
            records,
            known,
            absent,
        })
    }

    /// What was measured so far.
    pub(crate) fn records(&self) -> &[Record] {
        self.records.all()
    }

    fn rounds(&mut self) -> anyhow::Result<()> {
        let args = self.args;
        args.common.each(|round| self.round(round))
    }

    fn round(&mut self, round: u32) -> anyhow::Result<()> {
        self.records.push(rounds::foreign_load(round)?)?;
        for &case in &self.args.cases {
            if self.measures(Measure::Latency, round) && case.has_latency() {
                self.delay_without_relay(case, round)?;
            }
            if self.measures(Measure::Foreign, round) && case.has_latency() {
                let foreign = burden::foreign(&self.lab, None, (burden::NO_RELAY, round))?;
                self.records.push(Record::Foreign(foreign))?;
            }
            for &peer in &self.args.peers {
                let turn = Turn { case, peer, round };
                if self.absent.contains(&turn.key()) {
                    continue;
                }
                if let Err(error) = self.turn(turn) {
                    interrupt::check()?;
                    let reason = format!("{error:#}");
                    eprintln!("round {} {} {}: {reason}", round + 1, case.name(), peer.name());
                    self.absent.insert(turn.key());
                    let (case, peer) = (case.name().into(), peer.name().into());
                    self.records.push(Record::Absent { case, peer, reason })?;
                }
            }
        }
        Ok(())
    }

    /// Cost and delay vary less than rates, and may be measured in fewer rounds.
    fn measures(&self, what: Measure, round: u32) -> bool {
        let in_this_round =
            what == Measure::Rate || self.args.fixed_rounds.is_none_or(|rounds| round < rounds);
        in_this_round && self.args.measure.contains(&what)
    }

    /// Starts a peer, takes all measurements of it, ends it.
    pub(crate) fn turn(&mut self, turn: Turn) -> anyhow::Result<()> {
        let dropping = self.lab.drop_all(turn.case.outputs())?;
        let mut relay = turn.peer.start(&self.lab, turn.case, &self.bin_dir)?;
        trial::warm_up(&self.lab, turn.case, &mut relay)?;
        if self.measures(Measure::Rate, turn.round) {
            self.rate(turn)?;
        }
        if self.measures(Measure::Cost, turn.round) {
            let who = (turn.peer.name(), turn.round);
            let cost = cost::run(&self.lab, turn.case, &relay, self.duration, who)?;
            self.records.push(Record::Cost(cost))?;
        }
        if self.measures(Measure::Foreign, turn.round) && turn.case.has_latency() {
            let foreign = burden::foreign(&self.lab, Some(&relay), (turn.peer.name(), turn.round))?;
            self.records.push(Record::Foreign(foreign))?;
        }
        if self.measures(Measure::Overload, turn.round)
            && let Some(&rate) = self.known.get(&turn.key())
        {
            let overload = burden::overload(&self.lab, turn.case, rate, (turn.peer.name(), turn.round))?;
            self.records.push(Record::Overload(overload))?;
        }
        drop(dropping);
        if self.measures(Measure::Latency, turn.round) && turn.case.has_latency() {
            self.delay(turn, &relay)?;
        }
        relay.check()
    }

    fn rate(&mut self, turn: Turn) -> anyhow::Result<()> {
        let (resolution, trials_max) = match self.args.quick {
            true => (RESOLUTION_QUICK, TRIALS_MAX_QUICK),
            false => (RESOLUTION, TRIALS_MAX),
        };
        let mut search = Search::new(self.known.get(&turn.key()).copied(), resolution, trials_max);
        let mut trials = 0;
        while let Some(rate_pps) = search.next() {
            let trial = trial::run(&self.lab, turn.case, rate_pps, self.duration)?;
            search.record(trial.outcome());
            trials += 1;
            self.records.push(Record::Trial(trial.record(turn.case, turn.peer.name(), turn.round)))?;
        }
        let found = search.found();
        if found.rate_pps > 0.0 {
            self.known.insert(turn.key(), found.rate_pps);
        }
        let rate = crate::record::Rate {
            case: turn.case.name().into(),
            peer: turn.peer.name().into(),
            round: turn.round,
            loss_free_pps: found.rate_pps,
            loss_free_copies: found.rate_pps * f64::from(turn.case.outputs()),
            sender_bound: found.sender_bound,
            trials,
        };
        eprintln!(
            "round {} {} {}: {:.0} copies/s in {trials} trials{}",
            turn.round + 1,
            turn.case.name(),
            turn.peer.name(),
            rate.loss_free_copies,
            if found.sender_bound { ", sender-bound" } else { "" }
        );
        self.records.push(Record::Rate(rate))
    }

    fn delay(&mut self, turn: Turn, relay: &Relay) -> anyhow::Result<()> {
        let half = self.known.get(&turn.key()).map(|rate| (latency::HALF.to_owned(), (rate / 2.0) as u64));
        let loads = latency::RATES.iter().map(|&rate| (rate.to_string(), rate)).chain(half);
        for (load, rate) in loads {
            let listen = Listen::sink(&self.lab, relay.first_output());
            let who = (turn.peer.name(), turn.round);
            let delay = latency::run(&self.lab, turn.case, listen, (&load, rate), self.duration, who)?;
            self.records.push(Record::Latency(delay))?;
        }
        Ok(())
    }

    fn delay_without_relay(&mut self, case: Case, round: u32) -> anyhow::Result<()> {
        for rate in latency::RATES {
            let listen = Listen::without_relay(&self.lab);
            let who = (latency::NO_RELAY, round);
            let delay = latency::run(&self.lab, case, listen, (&rate.to_string(), rate), self.duration, who)?;
            self.records.push(Record::Latency(delay))?;
        }
        Ok(())
    }
}

/// The machine and the options that all have, as results have them.
pub(crate) fn setup(duration: Duration, quick: bool) -> Setup {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = |name: &str| {
        cpuinfo.lines().find(|line| line.starts_with(name)).and_then(|line| line.split_once(": "))
    };
    Setup {
        version: env!("CARGO_PKG_VERSION").into(),
        kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().into(),
        processor: line("model name").map_or("unknown processor", |(_, name)| name.trim()).into(),
        cores: cpuinfo.lines().filter(|line| line.starts_with("processor")).count(),
        trial_ms: duration.as_millis() as u64,
        quick,
        steered: false,
        live: false,
        offload: false,
    }
}
