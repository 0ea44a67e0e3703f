//! Best, median and spread of a few rounds. Pure.

/// Of a row of values, one for each round.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Summary {
    pub(crate) rounds: usize,
    pub(crate) min: f64,
    /// The middle one; of an even number the mean of the two in the middle.
    pub(crate) median: f64,
    pub(crate) max: f64,
}

impl Summary {
    /// None of no values.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let rounds = sorted.len();
        let median = (sorted[(rounds - 1) / 2] + sorted[rounds / 2]) / 2.0;
        Some(Self { rounds, min, median, max })
    }
}

/// Ratios of two peers round by round, where both have a value: what disturbed a round has disturbed both.
pub(crate) fn ratios(of: &[(u32, f64)], to: &[(u32, f64)]) -> Option<Summary> {
    let ratio = |&(round, value): &(u32, f64)| {
        let (_, other) = to.iter().find(|(other, value)| *other == round && *value > 0.0)?;
        Some(value / other)
    };
    Summary::of(of.iter().filter_map(ratio))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_lies_between_the_two_in_the_middle() {
        let summary = Summary::of([4.0, 1.0, 3.0, 2.0]);
        assert_eq!(summary, Some(Summary { rounds: 4, min: 1.0, median: 2.5, max: 4.0 }));
        assert_eq!(Summary::of([7.0, 5.0, 6.0]).map(|summary| summary.median), Some(6.0));
        assert_eq!(Summary::of([]), None);
    }

    #[test]
    fn ratios_pair_values_of_the_same_round_only() {
        let of = [(0, 200.0), (1, 300.0), (3, 1000.0)];
        let to = [(0, 100.0), (1, 100.0), (2, 1.0)];
        assert_eq!(ratios(&of, &to), Some(Summary { rounds: 2, min: 2.0, median: 2.5, max: 3.0 }));
        assert_eq!(ratios(&of, &[(0, 0.0)]), None, "no ratio to nothing");
    }
}
