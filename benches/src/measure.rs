//! Measures kernels, cores and the prover.
//!
//! A *sample* is some tenths of a millisecond to some milliseconds of work on a pinned thread, with
//! a calibration of the clock on either side (see [`crate::calibration`]). Its answer is compared
//! with that of an implementation that shares no code with what is timed. What is to be compared
//! takes turns, so that whatever the machine does meets all of it, and what counts is the median.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use poet_backends::Selection;
use poet_engine::{Chain, LABEL_DEPTH, T, Work, WorkFunction};

use crate::calibration::{Timing, time};
use crate::peers::Sha2Compress;
use crate::pinning::on_core;
use crate::progress::Progress;
use crate::report::{
    Backend, CoreResult, Cores, Load, Prover, SkippedCore, Speed, Stat, Yardstick,
};
use crate::synthetic::{self, MAINNET_LEAVES};
use crate::{kernels, work};
use poet_host::Machine;
use poet_host::sensors::CpuTimes;

/// Hashes of a sample on one chain, and about as many on many together.
const HASHES: u32 = 2_000;

/// Leaves of a sample of the prover: half a millisecond, in which few samples are interrupted.
const LEAVES: u64 = 32;

/// Whatever the budget: the least number of samples of each thing.
const LEAST_SAMPLES: usize = 5;

/// The work before a visit to a core counts, in which its clock rises.
const WARM_UP: Duration = Duration::from_millis(30);

/// Memory that a thread moves to make traffic: more than fits into the caches of a core.
const TRAFFIC_WORDS: usize = 4 << 20;

/// Threads that make traffic at most: it takes few to saturate a memory controller.
const TRAFFIC_THREADS: usize = 8;

/// The name of the load of a sibling.
pub const SIBLING_BUSY: &str = "SMT sibling busy";

/// How long everything is measured.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// For all cores together.
    pub cores_s: f64,
    /// Times that each core is visited.
    pub visits: usize,
    /// For each load, if loads are measured.
    pub load_s: Option<f64>,
    /// For all kernels together.
    pub backends_s: f64,
    /// For the prover.
    pub prover_s: f64,
}

/// A timed run that computed something wrong.
#[derive(Debug)]
pub struct WrongAnswer(String);

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

/// Something that is measured, and its samples.
struct Subject {
    hashes: f64,
    sample: Box<dyn FnMut() -> Result<Timing, WrongAnswer> + Send>,
    rates: Vec<f64>,
    cycles: Vec<f64>,
    clocks: Vec<f64>,
    dropped: usize,
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
            cycles: Vec::new(),
            clocks: Vec::new(),
            dropped: 0,
        }
    }

    fn one(name: &str, function: WorkFunction, chain: &'static dyn Chain) -> Self {
        Self::chains(name.to_owned(), function, chain, 1, HASHES)
    }

    fn many(name: &str, function: WorkFunction, chain: &'static dyn Chain) -> Self {
        Self::chains(name.to_owned(), function, chain, T, HASHES / T as u32)
    }

    fn take(&mut self) -> Result<(), WrongAnswer> {
        let timing = (self.sample)()?;
        match timing.hz {
            Some(hz) => {
                self.rates.push(self.hashes / timing.seconds);
                self.cycles.push(timing.seconds * hz / self.hashes);
                self.clocks.push(hz);
            }
            None => self.dropped += 1,
        }
        Ok(())
    }

    fn speed(&self) -> Option<Speed> {
        Some(Speed {
            hashes_per_s: Stat::of(&self.rates)?,
            cycles_per_hash: Stat::of(&self.cycles)?,
            dropped: self.dropped,
        })
    }
}

/// Which cores are measured, and why the others are not.
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

/// Measures the kernel of `selection` on `cores`, which are visited in turns.
///
/// # Errors
/// When a thread cannot be pinned, or a kernel computes something wrong.
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
    ranking(measured.collect(), skipped).context("no core of this machine could be measured")
}

/// Sorts the cores; nothing if there are none.
fn ranking(mut measured: Vec<CoreResult>, skipped: Vec<SkippedCore>) -> Option<Cores> {
    let median = |core: &CoreResult| core.hashes_per_s.map_or(0.0, |stat| stat.median);
    measured.sort_by(|a, b| median(b).total_cmp(&median(a)));
    let first = measured.first()?;
    let tied = measured.iter().filter(|core| {
        match (core.hashes_per_s, first.hashes_per_s) {
            (Some(rate), Some(best)) => rate.overlaps(&best),
            // Nothing is known of one of them.
            _ => true,
        }
    });
    Some(Cores {
        best: first.id,
        tied: tied.map(|core| core.id).collect(),
        measured,
        skipped,
    })
}

/// The median rate and clock of a stay on a core; nothing if its clock was never steady.
fn visit(core: usize, subject: &mut Subject, length: Duration) -> Result<Option<(f64, f64)>> {
    on_core(core, || {
        let start = Instant::now();
        while start.elapsed() < WARM_UP {
            subject.take()?;
        }
        (subject.rates, subject.clocks) = (Vec::new(), Vec::new());
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

/// What other cores may do meanwhile.
#[derive(Clone, Copy, PartialEq)]
enum Activity {
    Hash,
    MoveMemory,
}

/// Measures what the load of other cores does to `core`. The loads take turns with none.
///
/// # Errors
/// When a thread cannot be pinned, or a kernel computes something wrong.
pub fn loads(
    selection: &Selection,
    function: WorkFunction,
    machine: &Machine,
    allowed: &[usize],
    core: usize,
    load_s: f64,
    turns: usize,
) -> Result<Vec<Load>> {
    let chain = chosen(selection)?.kernels().chain;
    let mut subject = Subject::one(selection.latency().name, function, chain);
    let others: Vec<usize> = allowed.iter().copied().filter(|id| *id != core).collect();
    let siblings = machine.core(core).map(|core| core.siblings.as_slice());
    let siblings = siblings.unwrap_or_default();
    let sibling: Vec<usize> = others
        .iter()
        .copied()
        .filter(|id| siblings.contains(id))
        .collect();
    let no_sibling = if siblings.is_empty() {
        "no other core shares its execution units"
    } else {
        "this process may not run on the core that shares its execution units"
    };
    let no_others = "this process may run on one core only";
    let traffic = others[..others.len().min(TRAFFIC_THREADS)].to_vec();
    let conditions = [
        ("no load", Activity::Hash, Vec::new(), None),
        (SIBLING_BUSY, Activity::Hash, sibling, Some(no_sibling)),
        ("all others busy", Activity::Hash, others, Some(no_others)),
        (
            "others move memory",
            Activity::MoveMemory,
            traffic,
            Some(no_others),
        ),
    ];
    let measured = |cores: &[usize], skip: Option<&str>| skip.is_none() || !cores.is_empty();
    let count = conditions
        .iter()
        .filter(|(_, _, cores, skip)| measured(cores, *skip))
        .count();
    let progress = Progress::new("the effect of load", load_s * count as f64);
    let length = Duration::from_secs_f64(load_s / turns as f64);
    let mut rates = vec![Vec::new(); conditions.len()];
    for _ in 0..turns {
        for ((_, activity, cores, skip), rates) in conditions.iter().zip(&mut rates) {
            let _ = progress.goes_on();
            if measured(cores, *skip) {
                let visited = beside(*activity, chain, cores, || {
                    visit(core, &mut subject, length)
                })?;
                rates.extend(visited.map(|(rate, _)| rate));
            }
        }
    }
    let alone = Stat::of(&rates[0]);
    let results = conditions.into_iter().zip(&rates);
    let results = results.map(|((name, _, cores, skip), rates)| {
        let rate = Stat::of(rates);
        let both = rate.zip(alone);
        Load {
            name: name.to_owned(),
            skipped: if measured(&cores, skip) {
                None
            } else {
                skip.map(str::to_owned)
            },
            cores,
            hashes_per_s: rate,
            ratio: both.map(|(rate, alone)| rate.median / alone.median),
            within_noise: both.is_none_or(|(rate, alone)| rate.overlaps(&alone)),
        }
    });
    Ok(results.collect())
}

/// Does `measured` while `cores` are busy.
fn beside<T>(
    activity: Activity,
    chain: &'static dyn Chain,
    cores: &[usize],
    measured: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let start = |&core| {
            let stop = &stop;
            scope.spawn(move || on_core(core, || keep_busy(activity, chain, stop)))
        };
        let threads: Vec<_> = cores.iter().map(start).collect();
        let result = measured();
        stop.store(true, Relaxed);
        for thread in threads {
            if let Ok(pinned) = thread.join() {
                pinned?;
            }
        }
        result
    })
}

fn keep_busy(activity: Activity, chain: &dyn Chain, stop: &AtomicBool) {
    match activity {
        Activity::Hash => {
            let mut digest = [0; 32];
            while !stop.load(Relaxed) {
                chain.one(&mut digest, HASHES);
            }
        }
        Activity::MoveMemory => {
            let (mut from, mut to) = (vec![1_u64; TRAFFIC_WORDS], vec![2_u64; TRAFFIC_WORDS]);
            while !stop.load(Relaxed) {
                to.copy_from_slice(&from);
                std::mem::swap(&mut from, &mut to);
            }
        }
    }
}

fn chosen(selection: &Selection) -> Result<Work> {
    Ok(selection.work(LABEL_DEPTH)?)
}

/// Measures every kernel on `core`, and the independent loop in turns with them.
///
/// # Errors
/// When the thread cannot be pinned, or something is computed wrong.
pub fn backends(
    selection: &Selection,
    function: WorkFunction,
    core: usize,
    hashes_per_leaf: f64,
    seconds: f64,
) -> Result<(Vec<Backend>, Yardstick)> {
    let mut subjects = vec![Subject::one("sha2", WorkFunction::Sha256, &Sha2Compress)];
    // For each report the places of its subjects.
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
    let results = selection.reports().iter().zip(places);
    let backends: Vec<Backend> = results
        .map(|(report, (one, many))| Backend {
            name: report.name.to_owned(),
            excluded: report.excluded.as_ref().map(ToString::to_string),
            one: speed(one),
            many: speed(many),
            leaves_per_s: rate(speed(one)).map(|rate| rate / hashes_per_leaf),
            chosen: report.chosen_latency,
        })
        .collect();
    let best = backends.iter().find(|backend| backend.chosen);
    let best = rate(best.and_then(|best| best.one));
    let speed = speed(Some(0));
    let yardstick = Yardstick {
        name: "sha2 compress256".to_owned(),
        speed,
        ratio: best.zip(rate(speed)).map(|(best, sha2)| best / sha2),
    };
    Ok((backends, yardstick))
}

/// Hashes of a leaf in a tree as high as that of a mainnet round.
///
/// # Errors
/// Never: the depth is that of the network.
pub fn hashes_per_leaf(selection: &Selection) -> Result<f64> {
    let tree = synthetic::tree(&chosen(selection)?, MAINNET_LEAVES);
    Ok(work::compressions(&tree, LEAVES) as f64 / LEAVES as f64)
}

/// Measures the whole prover on `core`.
///
/// # Errors
/// When the thread cannot be pinned, or the prover computes something wrong.
pub fn prover(
    selection: &Selection,
    core: usize,
    hashes_per_leaf: f64,
    seconds: f64,
) -> Result<Prover> {
    let name = selection.latency().name;
    let segment = Segment::new(&chosen(selection)?, name, LEAVES);
    let progress = Progress::new("the whole prover", seconds);
    let (mut rates, mut cycles, mut total_s) = (Vec::new(), Vec::new(), 0.0);
    let times = || CpuTimes::read(Path::new("/"), Some(core));
    let before = times();
    on_core(core, || -> Result<(), WrongAnswer> {
        while progress.goes_on() || rates.len() < LEAST_SAMPLES {
            let mut tree = segment.start.clone();
            let timing = time(|| work::add(&mut tree, LEAVES));
            segment.check(&tree)?;
            rates.push(LEAVES as f64 / timing.seconds);
            total_s += timing.seconds;
            cycles.extend(timing.hz.map(|hz| timing.seconds * hz / LEAVES as f64));
        }
        Ok(())
    })??;
    let passed = times()
        .zip(before)
        .map(|(after, before)| after.since(before));
    Ok(Prover {
        core,
        backend: name.to_owned(),
        hashes_per_leaf,
        leaves_per_s: Stat::of(&rates).context("there are always samples")?,
        mean_leaves_per_s: LEAVES as f64 * rates.len() as f64 / total_s,
        cycles_per_leaf: Stat::of(&cycles),
        steal: passed.and_then(CpuTimes::steal_share),
    })
}

/// A piece of a mainnet round whose result is known.
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
    use poet_host::Core;

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

        let segment = Segment::new(&kernels::portable(sha256), "generic", 2);
        let mut tree = segment.start.clone();
        assert!(segment.check(&tree).is_err());
        work::add(&mut tree, 2);
        assert!(segment.check(&tree).is_ok());
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
        let ranked = ranking(cores, Vec::new()).unwrap();
        let order: Vec<usize> = ranked.measured.iter().map(|core| core.id).collect();
        assert_eq!(order, [2, 1, 0]);
        assert_eq!((ranked.best, ranked.tied), (2, vec![2, 1]));
        assert!(ranking(Vec::new(), Vec::new()).is_none());
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
