//! Measures cores and kernels.
//!
//! Things to compare are measured in turns, so that whatever the machine does affects all of them,
//! and the median counts (see [`crate::sample`]).

use std::cmp::Reverse;
use std::time::Duration;

use anyhow::{Context, Result};
use poet_backends::Selection;
use poet_engine::{LABEL_DEPTH, Work, WorkFunction};
use poet_host::Machine;

use crate::kernels;
use crate::peers::Sha2Compress;
use crate::pinning::on_core;
use crate::progress::Progress;
use crate::report::{BackendResult, CoreResult, Cores, SkippedCore, Speed, Yardstick};
use crate::sample::{LEAST_SAMPLES, Subject, WARM_UP, WrongAnswer, visit};
use crate::stat::Stat;

/// How long each thing is measured.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// For all cores together.
    pub cores_s: f64,
    /// How often each core is visited.
    pub visits: usize,
    /// For each load, if loads are measured.
    pub load_s: Option<f64>,
    /// For all kernels together.
    pub backends_s: f64,
    /// For the prover.
    pub prover_s: f64,
}

/// Returns which cores are measured, and why the others are not.
#[must_use]
pub fn candidates(
    machine: &Machine,
    allowed: &[usize],
    only: Option<usize>,
) -> (Vec<usize>, Vec<SkippedCore>) {
    let wanted = |core: &usize| only.is_none_or(|only| only == *core);
    let cores = allowed.iter().copied().filter(wanted).collect();
    let existing = machine.cores.iter().map(|core| core.id);
    let skipped = existing.filter_map(|id| {
        let online = machine.core(id).is_some_and(|core| core.online);
        let reason = if !online {
            "it is switched off"
        } else if !allowed.contains(&id) {
            "this process may not run on it (affinity or control group)"
        } else if !wanted(&id) {
            "--core asks for another"
        } else {
            return None;
        };
        let reason = reason.to_owned();
        Some(SkippedCore { id, reason })
    });
    (cores, skipped.collect())
}

/// Measures the chain kernel of `selection` on `cores`, which are visited in turns.
///
/// # Errors
/// Fails if a thread cannot be pinned, or a kernel computes something wrong.
pub fn cores(
    selection: &Selection,
    function: WorkFunction,
    machine: &Machine,
    cores: &[usize],
    skipped: Vec<SkippedCore>,
    plan: &Plan,
) -> Result<Cores> {
    let chain = chosen(selection)?.kernels().chain;
    let mut subject = Subject::one(selection.latency().name, function, chain);
    let visits = plan.visits * cores.len();
    let length = Duration::from_secs_f64(plan.cores_s / visits as f64).saturating_sub(WARM_UP);
    let total_s = (length + WARM_UP).as_secs_f64() * visits as f64;
    let progress = Progress::new("cores, one after another", total_s);
    let mut samples = vec![(Vec::new(), Vec::new()); cores.len()];
    for _ in 0..plan.visits {
        for (core, (rates, clocks)) in cores.iter().zip(&mut samples) {
            let _ = progress.goes_on();
            if let Some((rate, clock)) = visit(*core, &mut subject, length)? {
                rates.push(rate);
                clocks.push(clock);
            }
        }
    }
    let measured = cores.iter().zip(&samples);
    let measured = measured.map(|(&id, (rates, clocks))| CoreResult {
        id,
        hashes_per_s: Stat::of(rates),
        clock_hz: Stat::of(clocks),
        favoured: machine.is_favoured(id),
    });
    ranking(machine, measured.collect(), skipped)
        .context("no core of this machine could be measured")
}

/// Sorts the cores; `None` if there are none. Of those that cannot be distinguished, the best is
/// the one with the fewest device interrupts, and the last one if that decides nothing: the
/// server's own rule.
fn ranking(
    machine: &Machine,
    mut measured: Vec<CoreResult>,
    skipped: Vec<SkippedCore>,
) -> Option<Cores> {
    let median = |core: &CoreResult| core.hashes_per_s.map_or(0.0, |stat| stat.median);
    measured.sort_by(|a, b| median(b).total_cmp(&median(a)));
    let first = measured.first()?;
    let tied = measured.iter().filter(|core| {
        match (core.hashes_per_s, first.hashes_per_s) {
            (Some(rate), Some(best)) => rate.overlaps(&best),
            // One of them was never measured.
            _ => true,
        }
    });
    let tied: Vec<usize> = tied.map(|core| core.id).collect();
    // Not the one that happened to be ahead, which another run would not confirm.
    let best = tied.iter().copied().max_by_key(|id| {
        (
            Reverse(machine.core(*id).and_then(|core| core.device_interrupts)),
            *id,
        )
    });
    Some(Cores {
        best: best.unwrap_or(first.id),
        tied,
        measured,
        skipped,
    })
}

pub(crate) fn chosen(selection: &Selection) -> Result<Work> {
    Ok(selection.work(LABEL_DEPTH)?)
}

/// Measures every backend on `core`, in turns with the independent loop.
///
/// # Errors
/// Fails if the thread cannot be pinned, or something is computed wrong.
pub fn backends(
    selection: &Selection,
    function: WorkFunction,
    core: usize,
    hashes_per_leaf: f64,
    seconds: f64,
) -> Result<(Vec<BackendResult>, Yardstick)> {
    let mut subjects = vec![Subject::one("sha2", WorkFunction::Sha256, &Sha2Compress)];
    // The places of each report's subjects.
    let mut places = Vec::new();
    for report in selection.reports() {
        let mut place = (None, None);
        if report.excluded.is_none() {
            let kernel = kernels::usable(function, report);
            if report.latency {
                place.0 = Some(subjects.len());
                subjects.push(Subject::one(report.name, function, kernel.chain));
            }
            place.1 = Some(subjects.len());
            subjects.push(Subject::many(report.name, function, kernel.chain));
        }
        places.push(place);
    }
    let progress = Progress::new("backends, in turns", seconds);
    on_core(core, || -> Result<(), WrongAnswer> {
        let mut turns = 0;
        while progress.goes_on() || turns < LEAST_SAMPLES {
            for subject in &mut subjects {
                subject.take()?;
            }
            turns += 1;
        }
        Ok(())
    })??;
    let speed = |place: Option<usize>| subjects[place?].speed();
    let rate = |speed: Option<Speed>| speed.map(|speed| speed.hashes_per_s.median);
    let results = selection.reports().iter().zip(places.iter().copied());
    let backends: Vec<BackendResult> = results
        .map(|(report, (one, many))| BackendResult {
            name: report.name.to_owned(),
            excluded: report.excluded.as_ref().map(ToString::to_string),
            one: speed(one),
            many: speed(many),
            leaves_per_s: rate(speed(one)).map(|rate| rate / hashes_per_leaf),
            chosen: report.chosen_latency,
        })
        .collect();
    let speed = speed(Some(0));
    let chosen = selection.reports().iter().zip(&places);
    let mut chosen = chosen.filter(|(report, _)| report.chosen_latency);
    let chosen = chosen.find_map(|(_, (one, _))| *one);
    let yardstick = Yardstick {
        name: "sha2 compress256".to_owned(),
        speed,
        ratio: chosen.and_then(|place| ratio(&subjects[0].cycles, &subjects[place].cycles)),
    };
    Ok((backends, yardstick))
}

/// Returns how many times as many cycles a hash took in `slow` as in `fast`, compared turn by turn,
/// so that what the machine did meanwhile affected both. Skips turns with an unsteady clock.
fn ratio(slow: &[Option<f64>], fast: &[Option<f64>]) -> Option<Stat> {
    let turns = slow.iter().zip(fast);
    let ratios: Vec<f64> = turns
        .filter_map(|(slow, fast)| Some((*slow)? / (*fast)?))
        .collect();
    Stat::of(&ratios)
}

#[cfg(test)]
mod tests {
    use super::*;
    use poet_host::Core;

    #[test]
    fn the_ratio_is_taken_turn_by_turn() {
        // The clock halves in the middle: rates would be 30 % off; one turn is dropped.
        let slow = [Some(164.0), Some(164.2), None, Some(900.0), Some(163.8)];
        let fast = [
            Some(131.0),
            Some(131.2),
            Some(131.0),
            Some(131.0),
            Some(131.0),
        ];
        let stat = ratio(&slow, &fast).unwrap();
        assert_eq!(stat.samples, 4);
        assert!((stat.median - 1.2519).abs() < 0.001, "{stat:?}");
        assert_eq!(ratio(&[None], &[Some(1.0)]), None);
    }

    #[test]
    fn cores_that_cannot_be_told_apart() {
        let core = |id, rates: &[f64]| CoreResult {
            id,
            hashes_per_s: Stat::of(rates),
            clock_hz: None,
            favoured: false,
        };
        let cores = vec![
            core(0, &[10.0, 11.0, 12.0]),
            core(1, &[20.0, 21.0, 22.0]),
            core(2, &[19.0, 21.5, 24.0]),
        ];
        let ranked = ranking(&Machine::default(), cores.clone(), Vec::new()).unwrap();
        let order: Vec<usize> = ranked.measured.iter().map(|core| core.id).collect();
        assert_eq!(order, [2, 1, 0]);
        assert_eq!((ranked.best, ranked.tied), (2, vec![2, 1]));
        let mut machine = Machine::default();
        for (id, interrupts) in [(1, 5), (2, 90)] {
            machine.cores.push(Core {
                id,
                device_interrupts: Some(interrupts),
                ..Core::default()
            });
        }
        // Whatever the visits measured, the same core is recommended.
        let ranked = ranking(&machine, cores, Vec::new()).unwrap();
        assert_eq!((ranked.best, ranked.tied), (1, vec![2, 1]));
        assert!(ranking(&machine, Vec::new(), Vec::new()).is_none());
    }

    #[test]
    fn every_core_is_measured_or_named() {
        let core = |id, online| Core {
            id,
            online,
            ..Core::default()
        };
        let machine = Machine {
            cores: vec![core(0, true), core(1, true), core(2, true), core(3, false)],
            ..Machine::default()
        };
        let (cores, skipped) = candidates(&machine, &[0, 1], None);
        assert_eq!(cores, [0, 1]);
        let skipped: Vec<_> = skipped.iter().map(|core| core.id).collect();
        assert_eq!(skipped, [2, 3]);
        let (cores, skipped) = candidates(&machine, &[0, 1], Some(1));
        assert_eq!(cores, [1]);
        assert_eq!(skipped[0].reason, "--core asks for another");
    }
}
