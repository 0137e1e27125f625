//! Time in CPU cycles, without performance counters.
//!
//! The clock of a shared machine drifts, and its counters are often inaccessible. But each step of
//! a chain of dependent 64-bit multiplications takes 3 cycles on x86-64 CPUs of the last decade
//! (Intel since Nehalem, AMD since Zen 2; elsewhere the figures are off by a constant factor, and
//! only ratios count). Such a chain right before and right after a sample gives the length of a
//! cycle; if the two disagree, the clock changed or something interrupted, and the sample is
//! dropped.

use std::hint::black_box;
use std::time::{Duration, Instant};

/// Multiplications per calibration, about 0.1 ms in all.
const MULTIPLICATIONS: u32 = 100_000;

/// The latency of one.
const CYCLES_PER_MULTIPLICATION: u32 = 3;

/// The greatest relative difference between the calibrations before and after a sample.
const MAX_DRIFT: f64 = 0.003;

/// The timing of a sample.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// The duration.
    pub seconds: f64,
    /// The clock rate, if it was steady.
    pub hz: Option<f64>,
}

/// Times `sample`, and measures the clock before and after it.
pub fn time(sample: impl FnOnce()) -> Timing {
    let before = multiply();
    let start = Instant::now();
    sample();
    let seconds = start.elapsed().as_secs_f64();
    let after = multiply();
    let drift = (after - before).abs() / before.min(after);
    let hz = 2.0 * f64::from(MULTIPLICATIONS * CYCLES_PER_MULTIPLICATION) / (before + after);
    Timing {
        seconds,
        hz: (drift <= MAX_DRIFT).then_some(hz),
    }
}

/// Returns the cycles that `sample` took, and the clock rate in Hz; `None` if the clock was
/// unsteady.
pub fn cycles(sample: impl FnOnce()) -> Option<(f64, f64)> {
    let timing = time(sample);
    timing.hz.map(|hz| (timing.seconds * hz, hz))
}

/// Returns the clock rate now, in Hz.
#[must_use]
pub fn clock_hz() -> f64 {
    let mut samples = Samples::default();
    for _ in 0..100 {
        samples.push(f64::from(MULTIPLICATIONS * CYCLES_PER_MULTIPLICATION) / multiply());
    }
    samples.median()
}

/// Returns the seconds that the multiplications take. A chain of squares cannot be shortened, so
/// the compiler leaves it alone.
#[inline(never)]
fn multiply() -> f64 {
    let mut x = black_box(3_u64);
    let start = Instant::now();
    let mut left = MULTIPLICATIONS;
    // Not an iterator, which a build without optimisation would call.
    while left > 0 {
        x = x.wrapping_mul(x);
        left -= 1;
    }
    black_box(x);
    // A clock that has not advanced must not make a rate infinite.
    start.elapsed().max(Duration::from_nanos(1)).as_secs_f64()
}

/// Samples of the same thing.
#[derive(Clone, Debug, Default)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// Adds a sample.
    pub fn push(&mut self, sample: f64) {
        self.0.push(sample);
    }

    /// Returns the number of samples.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Returns the median; NaN without samples.
    #[must_use]
    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// Returns the distance between the quartiles, relative to the median; NaN without samples.
    #[must_use]
    pub fn spread(&self) -> f64 {
        (self.quantile(0.75) - self.quantile(0.25)) / self.median()
    }

    fn quantile(&self, q: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().saturating_sub(1);
        let at = (q * last as f64).round() as usize;
        sorted.get(at).copied().unwrap_or(f64::NAN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles() {
        let samples = Samples(vec![4.0, 1.0, 3.0, 2.0, 5.0]);
        assert_eq!(samples.count(), 5);
        assert_eq!(samples.median(), 3.0);
        assert_eq!(samples.spread(), 2.0 / 3.0);
        assert!(Samples::default().median().is_nan());
    }
}
