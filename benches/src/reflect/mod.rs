//! `reflect`: reflectors against each other, a tester at the other end of a cable, in rounds like those of `peers`.
//!
//! [`frame`] makes frames and knows what must come back for each; [`tester`] sends them and compares; [`peer`] starts what is
//! compared; [`table`] makes tables of the [`record`]s.

mod case;
mod frame;
mod lab;
mod peer;
pub(crate) mod record;
mod ring;
pub(crate) mod table;
mod tester;

use std::{
    collections::HashMap,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};

pub(crate) use self::{case::Case, peer::Peer};
use self::{
    lab::Cable,
    record::{Bursts, Idle, Rate, Trial, TurnRound, Whose},
    tester::{Load, Outcome, Tester},
};
use crate::{
    args::{Reflect, ReflectMeasure},
    cores, interrupt,
    peer::Process,
    record::{Record, Records},
    rounds, run,
    search::{self, RESOLUTION, RESOLUTION_QUICK, Search},
    table as tables,
};

const QUICK: Duration = Duration::from_millis(200);
const TRIALS_MAX: u32 = 14;
const TRIALS_MAX_QUICK: u32 = 5;
/// Of 100,000 frames at most one may be lost in a trial that passes, of whatever length ...
const LOSS_MAX: f64 = 1e-5;
/// ... and of 1,000 at most one may be late: it was in a queue, where a longer trial would have lost it.
const LATE_MAX: f64 = 1e-3;
/// From this share of the offered rate on it counts as reached.
const REACHED: f64 = 0.99;
/// A reflector that was started reflects within this time.
const READY_WITHIN: Duration = Duration::from_secs(10);
const PROBE: Load = Load { bytes: 128, foreign: false, rate_pps: 5000.0, frames: 50, timed: false };
const BURST_FRAMES: u64 = 2000;
const BURSTS: u32 = 20;
const TURN_ROUND_PPS: f64 = 10_000.0;
/// With foreign frames an idle reflector sees as many of those as it would beside test frames of [`TURN_ROUND_PPS`].
const IDLE_FOREIGN_PPS: f64 = 30_000.0;
const IDLE: Duration = Duration::from_millis(1500);

/// Measures, writes lines, prints tables.
pub(crate) fn run(args: &Reflect) -> anyhow::Result<()> {
    interrupt::arm()?;
    let _cores = cores::take()?;
    let mut bench = Bench::new(args)?;
    let result = bench.rounds();
    // What was measured before a failure is shown all the same.
    print!("{}", tables::of(bench.records.all()));
    result
}

struct Bench<'a> {
    args: &'a Reflect,
    duration: Duration,
    bin_dir: PathBuf,
    records: Records,
    /// Rates found in the round before, where the next search begins.
    known: HashMap<(&'static str, &'static str), f64>,
}

/// Whose turn it is.
struct Turn<'a> {
    case: Case,
    peer: Peer,
    round: u32,
    tester: &'a mut Tester,
    process: &'a mut Process,
}

impl Turn<'_> {
    fn whose(&self) -> Whose {
        let (case, peer) = (self.case.name().into(), self.peer.name().into());
        Whose { case, peer, round: self.round }
    }

    fn load(&self, rate_pps: f64, frames: u64) -> Load {
        let (bytes, foreign) = (self.case.bytes(), self.case.foreign());
        Load { bytes, foreign, rate_pps, frames, timed: false }
    }
}

impl<'a> Bench<'a> {
    fn new(args: &'a Reflect) -> anyhow::Result<Self> {
        let bin_dir = args.common.bin_dir()?;
        let duration = if args.quick { QUICK } else { Duration::from_millis(args.trial_ms) };
        let mut records = Records::new(args.common.json.as_deref())?;
        records.push(Record::Setup(run::setup(duration, args.quick)))?;
        Ok(Self { args, duration, bin_dir, records, known: HashMap::new() })
    }

    fn rounds(&mut self) -> anyhow::Result<()> {
        let args = self.args;
        args.common.each(|round| self.round(round))
    }

    fn round(&mut self, round: u32) -> anyhow::Result<()> {
        self.records.push(rounds::foreign_load(round)?)?;
        for &peer in &self.args.peers {
            // The program is attached to, and leaves, an interface that nobody else has had.
            let cable = Cable::new()?;
            let mut tester = Tester::open(&cable, PROBE.bytes, 0)?;
            let mut process = peer.start(&cable, &self.bin_dir)?;
            cores::pin(cores::SENDER)?;
            warm_up(&mut tester, &mut process).with_context(|| peer.title())?;
            Peer::confine(&process)?;
            for &case in &self.args.cases {
                tester = Tester::open(&cable, case.bytes(), tester.number)?;
                let mut turn = Turn { case, peer, round, tester: &mut tester, process: &mut process };
                self.turn(&mut turn).with_context(|| format!("{}, {}", peer.title(), case.title()))?;
            }
        }
        Ok(())
    }

    fn turn(&mut self, turn: &mut Turn<'_>) -> anyhow::Result<()> {
        for &what in &self.args.measure {
            match what {
                ReflectMeasure::Rate => self.rate(turn)?,
                ReflectMeasure::Bursts => self.bursts(turn)?,
                ReflectMeasure::TurnRound => self.turn_round(turn)?,
                ReflectMeasure::Idle => self.idle(turn)?,
            }
        }
        turn.process.check()
    }

    fn push(&mut self, result: record::Result) -> anyhow::Result<()> {
        self.records.push(Record::Reflect(result))
    }

    fn rate(&mut self, turn: &mut Turn<'_>) -> anyhow::Result<()> {
        let (resolution, trials_max) = match self.args.quick {
            true => (RESOLUTION_QUICK, TRIALS_MAX_QUICK),
            false => (RESOLUTION, TRIALS_MAX),
        };
        let key = (turn.case.name(), turn.peer.name());
        let mut search = Search::new(self.known.get(&key).copied(), resolution, trials_max);
        let mut trials = 0;
        while let Some(rate_pps) = search.next() {
            let load = turn.load(rate_pps, (rate_pps * self.duration.as_secs_f64()) as u64);
            let trial = judge(turn.whose(), rate_pps, &turn.tester.run(&load)?);
            search.record(seen(&trial));
            trials += 1;
            self.push(record::Result::Trial(trial))?;
        }
        let found = search.found();
        if found.rate_pps > 0.0 {
            self.known.insert(key, found.rate_pps);
        }
        eprintln!(
            "round {} {} {}: {:.0} frames/s in {trials} trials{}",
            turn.round + 1,
            turn.case.name(),
            turn.peer.name(),
            found.rate_pps,
            if found.sender_bound { ", sender-bound" } else { "" }
        );
        let (loss_free_pps, sender_bound) = (found.rate_pps, found.sender_bound);
        self.push(record::Result::Rate(Rate { whose: turn.whose(), loss_free_pps, sender_bound, trials }))
    }

    fn bursts(&mut self, turn: &mut Turn<'_>) -> anyhow::Result<()> {
        let mut all = Bursts { whose: turn.whose(), bursts: 0, whole: 0, sent: 0, back: 0 };
        for _ in 0..BURSTS {
            let outcome = turn.tester.run(&turn.load(f64::INFINITY, BURST_FRAMES))?;
            sound(&outcome)?;
            all.bursts += 1;
            all.whole += u32::from(outcome.back == outcome.sent);
            all.sent += outcome.sent;
            all.back += outcome.back;
        }
        self.push(record::Result::Bursts(all))
    }

    fn turn_round(&mut self, turn: &mut Turn<'_>) -> anyhow::Result<()> {
        let frames = (TURN_ROUND_PPS * self.duration.as_secs_f64()) as u64;
        let load = Load { timed: true, ..turn.load(TURN_ROUND_PPS, frames) };
        let mut outcome = turn.tester.run(&load)?;
        sound(&outcome)?;
        ensure!(outcome.back > 0, "nothing came back while turn-round was measured");
        let times = &mut outcome.turn_round_ns;
        times.sort_unstable();
        let quantile = |share: f64| {
            let at = (times.len() as f64 * share).ceil() as usize;
            times[at.clamp(1, times.len()) - 1] as f64 / 1000.0
        };
        self.push(record::Result::TurnRound(TurnRound {
            whose: turn.whose(),
            offered_pps: TURN_ROUND_PPS,
            sent: outcome.sent,
            back: outcome.back,
            p50_us: quantile(0.5),
            p99_us: quantile(0.99),
            p99_9_us: quantile(0.999),
            max_us: quantile(1.0),
        }))
    }

    /// Length makes no difference to who is not asked, so it is measured for one.
    fn idle(&mut self, turn: &mut Turn<'_>) -> anyhow::Result<()> {
        if turn.case.bytes() != 128 {
            return Ok(());
        }
        let foreign_pps = if turn.case.foreign() { IDLE_FOREIGN_PPS } else { 0.0 };
        let before = cores::process_time(turn.process.id())?;
        let began = Instant::now();
        if turn.case.foreign() {
            turn.tester.send_foreign(turn.case.bytes(), foreign_pps, IDLE)?;
        } else {
            interrupt::sleep(IDLE)?;
        }
        let took = cores::process_time(turn.process.id())?.saturating_sub(before);
        let percent = took.as_secs_f64() / began.elapsed().as_secs_f64() * 100.0;
        self.push(record::Result::Idle(Idle { whose: turn.whose(), foreign_pps, percent }))
    }
}

/// Waits until a reflector reflects.
fn warm_up(tester: &mut Tester, process: &mut Process) -> anyhow::Result<()> {
    let started = Instant::now();
    loop {
        interrupt::check()?;
        process.check()?;
        let outcome = tester.run(&PROBE)?;
        sound(&outcome)?;
        if outcome.back == outcome.sent {
            return Ok(());
        }
        ensure!(
            started.elapsed() < READY_WITHIN,
            "it does not reflect within {READY_WITHIN:?}: {} of {} frames came back",
            outcome.back,
            outcome.sent
        );
    }
}

/// A frame that came back wrong is no matter of speed.
fn sound(outcome: &Outcome) -> anyhow::Result<()> {
    ensure!(
        (outcome.wrong, outcome.out_of_turn) == (0, 0),
        "{} frames came back damaged, misaddressed or unasked, {} twice or out of turn",
        outcome.wrong,
        outcome.out_of_turn
    );
    Ok(())
}

fn judge(whose: Whose, offered_pps: f64, outcome: &Outcome) -> Trial {
    let Outcome { sent, seconds, back, late, wrong, out_of_turn, tester_lost, cut_short, .. } = *outcome;
    let lost = sent - back;
    let whole = wrong == 0 && out_of_turn == 0 && !cut_short && sent > 0;
    let passed =
        whole && lost as f64 <= (sent as f64 * LOSS_MAX).max(1.0) && late as f64 <= sent as f64 * LATE_MAX;
    let reached = sent as f64 / seconds >= offered_pps * REACHED;
    Trial {
        whose,
        offered_pps,
        sent,
        seconds,
        back,
        late,
        wrong,
        out_of_turn,
        tester_lost,
        reached,
        cut_short,
        passed,
    }
}

/// What a trial tells the search.
fn seen(trial: &Trial) -> search::Outcome {
    let sent_pps = trial.sent as f64 / trial.seconds;
    let in_time = trial.back - trial.late;
    let received_pps = sent_pps * in_time as f64 / trial.sent.max(1) as f64;
    // What the tester itself lost says nothing of the reflector.
    search::Outcome { passed: trial.passed, sent_pps, reached: trial.reached, received_pps }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome() -> Outcome {
        Outcome { sent: 200_000, seconds: 1.0, back: 200_000, ..Outcome::default() }
    }

    fn passed(outcome: &Outcome) -> bool {
        let whose = Whose { case: "128".into(), peer: "swapper".into(), round: 0 };
        judge(whose, 200_000.0, outcome).passed
    }

    #[test]
    fn one_frame_in_a_hundred_thousand_may_be_lost_and_none_may_be_wrong() {
        assert!(passed(&Outcome { back: 199_998, ..outcome() }));
        assert!(!passed(&Outcome { back: 199_997, ..outcome() }));
        assert!(!passed(&Outcome { wrong: 1, ..outcome() }));
        assert!(!passed(&Outcome { out_of_turn: 1, ..outcome() }));
        assert!(!passed(&Outcome { cut_short: true, ..outcome() }));
        assert!(passed(&Outcome { late: 200, ..outcome() }));
        assert!(!passed(&Outcome { late: 201, ..outcome() }));
    }
}
