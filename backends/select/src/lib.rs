//! Detects, tests and chooses backends.

use poet_backend_generic::Generic;
use poet_engine::{DepthError, Kernels, Work, WorkFunction};

/// The kernels chosen for a work function.
#[derive(Clone, Copy, Debug)]
pub struct Selection {
    function: WorkFunction,
}

/// Why no kernel could be chosen.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct SelectError(String);

/// Chooses the kernels for `function`; `forced` names a backend (`--backend`), otherwise the
/// environment variable `POET_BACKEND` does, otherwise the fastest one is taken.
///
/// # Errors
/// When the named backend is unknown, not supported by this CPU, or failed its self-test.
pub fn select(function: WorkFunction, forced: Option<&str>) -> Result<Selection, SelectError> {
    match forced {
        None | Some(Generic::NAME) => Ok(Selection { function }),
        Some(name) => Err(SelectError(format!(
            "unknown backend {name:?}: there is generic"
        ))),
    }
}

impl Selection {
    /// The work function at `depth`, on the chosen kernels.
    ///
    /// # Errors
    /// When `depth` is out of range.
    pub fn work(&self, depth: u32) -> Result<Work, DepthError> {
        let g = Generic::get();
        let kernels = Kernels { sha256: g, chain: g, wide_sha256: g, wide_chain: g };
        Work::new(self.function, depth, kernels)
    }
}
