//! A sample: some tenths of a millisecond of work on a pinned thread, with a calibration of the
//! clock on either side (see [`crate::calibration`]). Its result is compared with that of an
//! implementation that shares no code with what is timed.

use std::time::{Duration, Instant};

use anyhow::Result;
use poet_engine::{Chain, T, WorkFunction};

use crate::calibration::{Timing, time};
use crate::kernels;
use crate::pinning::on_core;
use crate::report::Speed;
use crate::stat::Stat;

/// Hashes per sample on one chain, and about as many on many chains together.
pub(crate) const HASHES: u32 = 2_000;

/// The least number of samples of each subject, whatever the budget.
pub(crate) const LEAST_SAMPLES: usize = 5;

/// Unmeasured work at the start of a visit to a core, in which its clock rises.
pub(crate) const WARM_UP: Duration = Duration::from_millis(30);

/// A timed run that computed something wrong.
#[derive(Debug)]
pub struct WrongAnswer(pub(crate) String);

impl std::fmt::Display for WrongAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self(what) = self;
        write!(
            f,
            "{what} computed something wrong in a timed run: do not use this machine, or not this backend"
        )
    }
}

impl std::error::Error for WrongAnswer {}

/// Something to measure, and its samples.
pub(crate) struct Subject {
    hashes: f64,
    sample: Box<dyn FnMut() -> Result<Timing, WrongAnswer> + Send>,
    /// From samples with a steady clock.
    pub(crate) rates: Vec<f64>,
    pub(crate) clocks: Vec<f64>,
    /// Cycles per hash of all samples; `None` where the clock was unsteady.
    pub(crate) cycles: Vec<Option<f64>>,
}

impl Subject {
    /// `count` chains of `n` hashes each.
    fn chains(
        name: String,
        function: WorkFunction,
        chain: &'static dyn Chain,
        count: usize,
        n: u32,
    ) -> Self {
        let (start, end) = kernels::chains(function, count, n);
        Self {
            hashes: count as f64 * f64::from(n),
            sample: Box::new(move || {
                let mut digests = start.clone();
                let timing = time(|| match digests.as_mut_slice() {
                    [digest] => chain.one(digest, n),
                    digests => chain.many(digests, n),
                });
                if digests == end {
                    Ok(timing)
                } else {
                    Err(WrongAnswer(name.clone()))
                }
            }),
            rates: Vec::new(),
            clocks: Vec::new(),
            cycles: Vec::new(),
        }
    }

    pub(crate) fn one(name: &str, function: WorkFunction, chain: &'static dyn Chain) -> Self {
        Self::chains(name.to_owned(), function, chain, 1, HASHES)
    }

    pub(crate) fn many(name: &str, function: WorkFunction, chain: &'static dyn Chain) -> Self {
        Self::chains(name.to_owned(), function, chain, T, HASHES / T as u32)
    }

    pub(crate) fn take(&mut self) -> Result<(), WrongAnswer> {
        let timing = (self.sample)()?;
        let cycles = timing.hz.map(|hz| timing.seconds * hz / self.hashes);
        self.cycles.push(cycles);
        if let Some(hz) = timing.hz {
            self.rates.push(self.hashes / timing.seconds);
            self.clocks.push(hz);
        }
        Ok(())
    }

    /// Discards all samples.
    fn forget(&mut self) {
        self.rates.clear();
        self.clocks.clear();
        self.cycles.clear();
    }

    pub(crate) fn speed(&self) -> Option<Speed> {
        let steady: Vec<f64> = self.cycles.iter().copied().flatten().collect();
        Some(Speed {
            hashes_per_s: Stat::of(&self.rates)?,
            cycles_per_hash: Stat::of(&steady)?,
            dropped: self.cycles.len() - steady.len(),
        })
    }
}

/// Returns the median rate and clock of a visit to a core; `None` if its clock was never steady.
pub(crate) fn visit(
    core: usize,
    subject: &mut Subject,
    length: Duration,
) -> Result<Option<(f64, f64)>> {
    on_core(core, || {
        let start = Instant::now();
        while start.elapsed() < WARM_UP {
            subject.take()?;
        }
        subject.forget();
        let start = Instant::now();
        let mut taken = 0;
        while start.elapsed() < length || taken < LEAST_SAMPLES {
            subject.take()?;
            taken += 1;
        }
        let rate = Stat::of(&subject.rates);
        let clock = Stat::of(&subject.clocks);
        Ok(rate
            .zip(clock)
            .map(|(rate, clock)| (rate.median, clock.median)))
    })?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::Sha2Compress;

    #[test]
    fn a_wrong_answer_is_noticed() {
        struct Broken;
        impl Chain for Broken {
            fn one(&self, digest: &mut poet_engine::Node, n: u32) {
                Sha2Compress.one(digest, n);
                digest[31] ^= 1;
            }
            fn many(&self, _: &mut [poet_engine::Node], _: u32) {}
        }
        let sha256 = WorkFunction::Sha256;
        let error = Subject::one("broken", sha256, &Broken).take().unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("broken computed something wrong")
        );
        assert!(Subject::many("broken", sha256, &Broken).take().is_err());
        assert!(Subject::one("sha2", sha256, &Sha2Compress).take().is_ok());
    }
}
