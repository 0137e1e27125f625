//! The timing trial: which kernel is the fastest on this machine.
//!
//! The kernels take turns for some rounds, and the best time of each counts: whatever else the
//! machine does can only make a sample slower, and what lasts longer than a sample (another clock
//! frequency, another core) meets all kernels in the same rounds. That is why the thread is not
//! pinned: it would need the former affinity to be restored on every way out, and a moved thread
//! costs no more than a round.

use std::hint::black_box;
use std::time::Instant;

use poet_engine::{Chain, Node};

use crate::table::Roles;

/// Turns of each kernel in each role.
const ROUNDS: usize = 10;

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

/// Times all kernels against each other, in each of their roles.
pub(crate) fn run(kernels: &mut [(&'static dyn Chain, Roles, &mut Rates)]) {
    let mut digest = Node::default();
    let mut digests = vec![Node::default(); MANY_CHAINS];
    for _ in 0..ROUNDS {
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
