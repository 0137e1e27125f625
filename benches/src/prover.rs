//! A run of the whole prover for some seconds.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use poet_backends::Selection;
use poet_engine::Work;
use poet_host::sensors::{CpuTimes, Energy};

use crate::calibration::time;
use crate::measure::chosen;
use crate::pinning::on_core;
use crate::progress::Progress;
use crate::report::{Prover, Sustained};
use crate::sample::{LEAST_SAMPLES, WrongAnswer};
use crate::stat::Stat;
use crate::synthetic::{self, MAINNET_LEAVES};
use crate::windows::Window;
use crate::{kernels, work};

/// Leaves per sample: half a millisecond, in which few samples are interrupted.
const LEAVES: u64 = 32;

/// The number of windows of a run, for the range of rates with interruptions.
const WINDOWS: u32 = 40;

/// A shorter window would be mostly one sample.
const LEAST_WINDOW_S: f64 = 0.01;

/// Returns the hashes per leaf in a tree as high as that of a mainnet round.
///
/// # Errors
/// Never fails: the depth is that of the network.
pub fn hashes_per_leaf(selection: &Selection) -> Result<f64> {
    let tree = synthetic::tree(&chosen(selection)?, MAINNET_LEAVES);
    Ok(work::compressions(&tree, LEAVES) as f64 / LEAVES as f64)
}

/// Measures the whole prover on `core`.
///
/// # Errors
/// Fails if the thread cannot be pinned, or the prover computes something wrong.
pub fn prover(
    selection: &Selection,
    core: usize,
    hashes_per_leaf: f64,
    seconds: f64,
) -> Result<Prover> {
    let name = selection.latency().name;
    let segment = Segment::new(&chosen(selection)?, name, LEAVES);
    let progress = Progress::new("the whole prover", seconds);
    let window_s = (seconds / f64::from(WINDOWS)).max(LEAST_WINDOW_S);
    let mut windows_begun = usize::MAX;
    let (mut rates, mut cycles, mut clocks) = (Vec::new(), Vec::new(), Vec::new());
    let mut windows: Vec<Window> = Vec::new();
    let times = || CpuTimes::read(Path::new("/"), Some(core));
    let (before, energy) = (times(), Energy::read(Path::new("/")));
    let start = Instant::now();
    on_core(core, || -> Result<(), WrongAnswer> {
        while progress.goes_on() || rates.len() < LEAST_SAMPLES {
            let number = (start.elapsed().as_secs_f64() / window_s) as usize;
            let mut tree = segment.start.clone();
            let timing = time(|| work::add(&mut tree, LEAVES));
            segment.check(&tree)?;
            rates.push(LEAVES as f64 / timing.seconds);
            if let Some(hz) = timing.hz {
                cycles.push(timing.seconds * hz / LEAVES as f64);
                clocks.push(hz);
            }
            let sample = Window {
                seconds: timing.seconds,
                leaves: LEAVES,
                ..Window::default()
            };
            match windows.last_mut().filter(|_| number == windows_begun) {
                Some(window) => window.merge(&sample),
                None => {
                    windows.push(sample);
                    windows_begun = number;
                }
            }
        }
        Ok(())
    })??;
    let seconds = start.elapsed().as_secs_f64();
    let passed = times()
        .zip(before)
        .map(|(after, before)| after.since(before));
    let joules = Energy::read(Path::new("/"))
        .zip(energy)
        .map(|(after, before)| after.since(&before));
    Ok(Prover {
        core,
        backend: name.to_owned(),
        hashes_per_leaf,
        leaves_per_s: Stat::of(&rates).context("there are always samples")?,
        with_interruptions: Sustained::of(&windows, window_s)
            .context("there are always samples")?,
        seconds,
        cycles_per_leaf: Stat::of(&cycles),
        clock_hz: Stat::of(&clocks),
        steal: passed.and_then(CpuTimes::steal_share),
        watts: joules
            .map(|joules| joules / seconds)
            .filter(|watts| *watts > 0.0),
    })
}

/// A piece of a mainnet round with a known result.
pub(crate) struct Segment {
    name: &'static str,
    /// The tree before it.
    pub(crate) start: poet_engine::Tree,
    end: poet_engine::Tree,
}

impl Segment {
    pub(crate) fn new(work: &Work, name: &'static str, leaves: u64) -> Self {
        let start = synthetic::tree(work, MAINNET_LEAVES);
        let mut end = work::on(&kernels::portable(work.function()), &start);
        work::add(&mut end, leaves);
        Self { name, start, end }
    }

    pub(crate) fn check(&self, tree: &poet_engine::Tree) -> Result<(), WrongAnswer> {
        if tree.leaves() == self.end.leaves() && tree.parked() == self.end.parked() {
            Ok(())
        } else {
            Err(WrongAnswer(format!("the prover on {}", self.name)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use poet_engine::WorkFunction;

    #[test]
    fn a_wrong_tree_is_noticed() {
        let segment = Segment::new(&kernels::portable(WorkFunction::Sha256), "generic", 2);
        let mut tree = segment.start.clone();
        assert!(segment.check(&tree).is_err());
        work::add(&mut tree, 2);
        assert!(segment.check(&tree).is_ok());
    }
}
