//! The kernels that the engine's tests run on.

#![allow(clippy::unwrap_used)]

use poet_backend_generic::Generic;
use poet_engine::{Kernels, Work, WorkFunction};

/// The work function on every kernel of this CPU.
pub(crate) fn works(function: WorkFunction, depth: u32) -> Vec<(&'static str, Work)> {
    let g = Generic::get();
    let kernels = Kernels {
        sha256: g,
        chain: g,
        wide_sha256: g,
        wide_chain: g,
    };
    vec![("generic", Work::new(function, depth, kernels).unwrap())]
}

/// The work function on the kernels that are chosen by default.
pub(crate) fn fast_work(function: WorkFunction, depth: u32) -> Work {
    works(function, depth)[0].1
}
