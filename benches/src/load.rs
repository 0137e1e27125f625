//! The effect of load on other cores on the best one.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use poet_backends::Selection;
use poet_engine::{Chain, WorkFunction};
use poet_host::Machine;

use crate::measure::chosen;
use crate::pinning::on_core;
use crate::progress::Progress;
use crate::report::Load;
use crate::sample::{HASHES, Subject, visit};
use crate::stat::Stat;

/// The memory that a thread moves to make traffic: more than the caches of a core hold.
const TRAFFIC_WORDS: usize = 4 << 20;

/// The most threads that make traffic: few saturate a memory controller.
const TRAFFIC_THREADS: usize = 8;

/// The name of the load of a sibling.
pub const SIBLING_BUSY: &str = "SMT sibling busy";

/// What other cores do during a measurement.
#[derive(Clone, Copy, PartialEq)]
enum Activity {
    Hash,
    MoveMemory,
}

/// Measures the effect of load on other cores on `core`, in turns with none.
///
/// # Errors
/// Fails if a thread cannot be pinned, or a kernel computes something wrong.
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
        "no other core shares its execution units, as far as the machine shows"
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

/// Runs `measured` while `cores` are busy.
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
