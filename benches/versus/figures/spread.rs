//! The middle of some rounds, and how far they lie apart.

use serde::Serialize;

/// The least, the middle and the greatest of the rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) min: f64,
    pub(crate) median: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// Of at least one value; the median of an even number is the mean of the middle two.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let upper = *sorted.get(sorted.len() / 2)?;
        let lower = *sorted.get((sorted.len() - 1) / 2)?;
        Some(Self {
            min: *sorted.first()?,
            median: f64::midpoint(lower, upper),
            max: *sorted.last()?,
        })
    }

    /// Of what each of `values` is of the one of `of` in the same round. Neighbours in time are
    /// divided, so that a machine that changes its mood meanwhile changes both.
    pub(crate) fn of_ratios(
        values: impl IntoIterator<Item = f64>,
        of: impl IntoIterator<Item = f64>,
    ) -> Option<Self> {
        Self::of(
            values
                .into_iter()
                .zip(of)
                .map(|(value, whole)| value / whole),
        )
    }
}
