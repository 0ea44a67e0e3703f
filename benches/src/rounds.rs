//! What all comparisons in rounds have in common: their options, how long they go on, and a look at who else uses the machine.

use std::{
    env,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use clap::Args;

use crate::{cores, record::Record};

/// Percent of a core that others may use before it is remarked on.
pub(crate) const LOAD_MAX: f64 = 5.0;

/// Options of every comparison.
#[derive(Debug, Clone, Args)]
pub(crate) struct Rounds {
    /// How often each peer takes its turn in each case
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rounds: u32,
    /// Begin no round that this would not leave time for, judged by the round before
    #[arg(long, value_name = "N")]
    pub(crate) minutes: Option<f64>,
    /// Write each trial here as a line of JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Where mcrd is [default: beside this program]
    #[arg(long, value_name = "DIR")]
    pub(crate) bin_dir: Option<PathBuf>,
}

impl Rounds {
    /// Where mcrd is.
    pub(crate) fn bin_dir(&self) -> anyhow::Result<PathBuf> {
        match &self.bin_dir {
            Some(directory) => Ok(directory.clone()),
            None => Ok(env::current_exe()?.parent().context("this program is in no directory")?.to_owned()),
        }
    }

    /// Calls `round` with the number of each round that there is time for.
    pub(crate) fn each(&self, mut round: impl FnMut(u32) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let started = Instant::now();
        let mut longest = Duration::ZERO;
        for number in 0..self.rounds {
            if !self.leaves_time_for(started.elapsed() + longest) {
                eprintln!("no time for round {} of {}", number + 1, self.rounds);
                break;
            }
            let began = Instant::now();
            round(number)?;
            // The first takes longest: it knows no rates to begin with.
            longest = began.elapsed();
        }
        Ok(())
    }

    fn leaves_time_for(&self, all: Duration) -> bool {
        self.minutes.is_none_or(|minutes| all <= Duration::from_secs_f64(minutes.max(0.0) * 60.0))
    }
}

/// How much others use the machine at the beginning of a round; a remark if it is much.
pub(crate) fn foreign_load(round: u32) -> anyhow::Result<Record> {
    let percent = cores::foreign_load()?;
    if percent > LOAD_MAX {
        eprintln!(
            "round {}: other programs use {percent:.0} % of a core; numbers will mean little",
            round + 1
        );
    }
    Ok(Record::Load { round, percent })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounds(minutes: Option<f64>) -> Rounds {
        Rounds { rounds: 3, minutes, json: None, bin_dir: Some("/there".into()) }
    }

    #[test]
    fn no_round_is_begun_that_would_end_too_late() {
        let minute = Duration::from_secs(60);
        assert!(rounds(Some(2.0)).leaves_time_for(2 * minute));
        assert!(!rounds(Some(2.0)).leaves_time_for(2 * minute + Duration::from_millis(1)));
        assert!(!rounds(Some(-1.0)).leaves_time_for(Duration::from_nanos(1)));
        assert!(rounds(None).leaves_time_for(Duration::MAX));
    }

    #[test]
    fn each_round_has_its_turn_until_one_fails() {
        let mut numbers = Vec::new();
        let mut until = |last| {
            numbers.clear();
            let result = rounds(None).each(|number| {
                numbers.push(number);
                anyhow::ensure!(number < last);
                Ok(())
            });
            (result.is_ok(), numbers.clone())
        };
        assert_eq!(until(9), (true, vec![0, 1, 2]));
        assert_eq!(until(1), (false, vec![0, 1]));
    }
}
