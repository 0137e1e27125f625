//! Statistics of the samples of one thing.

use serde::{Deserialize, Serialize};

/// Smaller differences count as none: a run repeated at once differs by as much.
const RESOLUTION: f64 = 0.002;

/// Samples of one thing: the median, and the quartiles around it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stat {
    /// Half of the samples are smaller.
    pub median: f64,
    /// A quarter of the samples is smaller.
    pub q1: f64,
    /// A quarter of the samples is greater.
    pub q3: f64,
    /// The number of samples.
    pub samples: usize,
}

impl Stat {
    /// Computes the statistics of `samples`; `None` if there are none.
    #[must_use]
    pub fn of(samples: &[f64]) -> Option<Self> {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().checked_sub(1)?;
        let at = |q: f64| sorted[(q * last as f64).round() as usize];
        Some(Self {
            median: at(0.5),
            q1: at(0.25),
            q3: at(0.75),
            samples: sorted.len(),
        })
    }

    /// Returns the distance between the quartiles, relative to the median.
    #[must_use]
    pub fn spread(&self) -> f64 {
        (self.q3 - self.q1) / self.median
    }

    /// Returns whether the middle halves of the samples overlap, or nearly so: then the difference
    /// of the medians means nothing.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let margin = RESOLUTION * self.median.abs();
        self.q1 <= other.q3 + margin && other.q1 <= self.q3 + margin
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics() {
        assert_eq!(Stat::of(&[]), None);
        let stat = Stat::of(&[4.0, 1.0, 3.0, 2.0, 5.0]).unwrap();
        assert_eq!(
            (stat.median, stat.q1, stat.q3, stat.samples),
            (3.0, 2.0, 4.0, 5)
        );
        assert_eq!(stat.spread(), 2.0 / 3.0);
        let above = Stat::of(&[5.0, 6.0, 7.0]).unwrap();
        assert!(stat.overlaps(&stat));
        assert!(!stat.overlaps(&above) && !above.overlaps(&stat));
        let exact = |value| Stat::of(&[value]).unwrap();
        assert!(exact(100.0).overlaps(&exact(100.1)));
        assert!(!exact(100.0).overlaps(&exact(101.0)));
    }
}
