//! The timing trial: which backend is the fastest on this machine.
//!
//! The backends take turns for some rounds, and the best time of each counts: whatever else the
//! machine does can only make a sample slower, and what lasts longer than a sample (another clock
//! frequency) affects all backends in the same rounds. All samples come from one core: a separate
//! thread is pinned for the trial, so that the caller's affinity need not be restored.

use std::hint::black_box;
use std::thread;
use std::time::{Duration, Instant};

use poet_engine::{Chain, Node};

use crate::table::Roles;

/// Turns of each backend in each role.
const ROUNDS: usize = 10;

/// No round starts after this time, so that a slow or busy machine does not run all ten.
const BUDGET: Duration = Duration::from_millis(25);

/// Steps of the single chain: about 45 us on the SHA extensions, long against the clock's
/// resolution and short against a time slice.
const ONE_STEPS: u32 = 1000;

/// Chains in the throughput role, enough to fill vectors of 16 lanes, ...
const MANY_CHAINS: usize = 48;

/// ... and their steps.
const MANY_STEPS: u32 = 40;

/// Invocations per second of a backend, by role, if measured.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rates {
    pub(crate) one: Option<f64>,
    pub(crate) many: Option<f64>,
}

/// A backend in the trial.
type Contestant<'a> = (&'static dyn Chain, Roles, &'a mut Rates);

/// Times all backends against each other, in each of their roles.
pub(crate) fn run(contestants: &mut [Contestant<'_>]) {
    thread::scope(|scope| {
        let pinned = thread::Builder::new().spawn_scoped(scope, || {
            // If pinning is not permitted, the trial is only noisier.
            // Not from poet-host, which a published crate cannot use: any one core will do here.
            let cores = core_affinity::get_core_ids().unwrap_or_default();
            cores
                .first()
                .map(|core| core_affinity::set_for_current(*core));
            measure(contestants);
        });
        // If the system refuses the thread, the backends have no rates: the order of the table
        // decides, as without a trial.
        drop(pinned);
    });
}

fn measure(contestants: &mut [Contestant<'_>]) {
    let mut digest = Node::default();
    let mut digests = vec![Node::default(); MANY_CHAINS];
    let trial = Instant::now();
    for round in 0..ROUNDS {
        if round > 0 && trial.elapsed() > BUDGET {
            break;
        }
        for (chain, _, rates) in contestants
            .iter_mut()
            .filter(|(_, roles, _)| *roles == Roles::Both)
        {
            let start = Instant::now();
            chain.one(black_box(&mut digest), ONE_STEPS);
            improve(&mut rates.one, f64::from(ONE_STEPS), start);
        }
        for (chain, _, rates) in contestants.iter_mut() {
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
    // A clock that has not advanced must not make a rate infinite.
    let seconds = start.elapsed().as_secs_f64().max(1e-9);
    let rate = hashes / seconds;
    *best = Some(best.map_or(rate, |best| best.max(rate)));
}
