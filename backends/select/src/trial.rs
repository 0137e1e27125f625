//! The timing trial: which kernel is the fastest on this machine.
//!
//! The kernels take turns for some rounds, and the best time of each counts: whatever else the
//! machine does can only make a sample slower, and what lasts longer than a sample (another clock
//! frequency) meets all kernels in the same rounds. All samples come from one core: a thread of
//! its own is pinned for the trial, so that there is no affinity of the caller's to restore.

use std::hint::black_box;
use std::thread;
use std::time::{Duration, Instant};

use poet_engine::{Chain, Node};

use crate::table::Roles;

/// Turns of each kernel in each role.
const ROUNDS: usize = 10;

/// No round starts after this, so that a slow or busy machine does not wait for ten.
const BUDGET: Duration = Duration::from_millis(25);

/// Steps of the single chain: about 45 us on the SHA extensions, long against the clock's
/// resolution and short against a time slice.
const ONE_STEPS: u32 = 1000;

/// Chains of the throughput role, so many that vectors of 16 lanes are full, ...
const MANY_CHAINS: usize = 48;

/// ... and their steps.
const MANY_STEPS: u32 = 40;

/// Invocations per second of a kernel, by role, if measured.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rates {
    pub(crate) one: Option<f64>,
    pub(crate) many: Option<f64>,
}

/// A kernel of the trial.
type Contestant<'a> = (&'static dyn Chain, Roles, &'a mut Rates);

/// Times all kernels against each other, in each of their roles.
pub(crate) fn run(kernels: &mut [Contestant<'_>]) {
    thread::scope(|scope| {
        let pinned = thread::Builder::new().spawn_scoped(scope, || {
            // Where pinning is not permitted, the trial is only noisier.
            let cores = core_affinity::get_core_ids().unwrap_or_default();
            cores
                .first()
                .map(|core| core_affinity::set_for_current(*core));
            measure(kernels);
        });
        // A thread that the system refuses leaves the kernels without rates: the order of the
        // table decides then, as without a trial.
        drop(pinned);
    });
}

fn measure(kernels: &mut [Contestant<'_>]) {
    let mut digest = Node::default();
    let mut digests = vec![Node::default(); MANY_CHAINS];
    let trial = Instant::now();
    for round in 0..ROUNDS {
        if round > 0 && trial.elapsed() > BUDGET {
            break;
        }
        for (chain, _, rates) in kernels
            .iter_mut()
            .filter(|(_, roles, _)| *roles == Roles::Both)
        {
            let start = Instant::now();
            chain.one(black_box(&mut digest), ONE_STEPS);
            improve(&mut rates.one, f64::from(ONE_STEPS), start);
        }
        for (chain, _, rates) in kernels.iter_mut() {
            let start = Instant::now();
            chain.many(black_box(&mut digests), MANY_STEPS);
            improve(
                &mut rates.many,
                MANY_CHAINS as f64 * f64::from(MANY_STEPS),
                start,
            );
        }
    }
}

fn improve(best: &mut Option<f64>, hashes: f64, start: Instant) {
    // A clock that has not moved must not make a rate infinite.
    let seconds = start.elapsed().as_secs_f64().max(1e-9);
    let rate = hashes / seconds;
    *best = Some(best.map_or(rate, |best| best.max(rate)));
}
